"""The official `openai` SDK against llama.cpp, straight and through the gateway.

Every test takes `via` and runs on both ways. Most ask the same thing of `direct` and want the same answer: the model is
real and repeats itself exactly for equal requests, so every word that differs was changed on the way.
"""

from __future__ import annotations

import asyncio
import json

import openai
import pydantic
import pytest
from openai.types import chat

from tests.process import wait_until
from tests.real import SLOTS
from tests.real.path import Llama, Route, Target
from tests.real.sdk import (
    ENDLESS,
    GREEDY,
    NOTICED_S,
    SEEDED,
    Chunk,
    Request,
    async_client,
    call_of,
    client,
    create,
    finishes_of,
    say,
    stream,
    telling,
    text_of,
)

pytest_plugins = ["tests.real.fixtures"]

FORECAST: Request = {
    "type": "function",
    "function": {
        "name": "forecast",
        "description": "The weather of the coming days.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 60},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
FORCED: Request = {
    "temperature": 0,
    "max_tokens": 400,
    "tools": [FORECAST],
    "tool_choice": "required",
    "parallel_tool_calls": False,
}


class Place(pydantic.BaseModel):
    """A structured answer: strings, a number and a list, bounded so that the model comes to an end."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: str = pydantic.Field(max_length=40)
    people: int
    tags: list[str] = pydantic.Field(max_length=3)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_an_answer_is_the_upstreams(via: Route, direct: Route, sampling: Request) -> None:
    answer = create(via.text, **sampling)
    assert telling(answer) == telling(create(direct.text, **sampling))
    assert answer.model == via.text.model
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= sampling["max_tokens"]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_fields_nobody_declared_survive(via: Route, direct: Route) -> None:
    request: Request = {**GREEDY, "logprobs": True, "top_logprobs": 2, "extra_body": {"return_tokens": True}}
    answer = create(via.text, **request)
    assert telling(answer) == telling(create(direct.text, **request))
    assert answer.to_dict()["timings"], "llama.cpp's own field of the answer is lost"
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert all(len(token.top_logprobs) == 2 for token in logprobs.content)


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_a_stream_says_what_the_whole_answer_says(via: Route, direct: Route, sampling: Request) -> None:
    whole = create(direct.text, **sampling)
    chunks = stream(via.text, **sampling)
    assert text_of(chunks) == whole.choices[0].message.content
    assert finishes_of(chunks) == [whole.choices[0].finish_reason]
    assert whole.usage is not None
    assert len(chunks) >= whole.usage.completion_tokens, "words arrive one by one"
    assert {chunk.model for chunk in chunks} == {via.text.model}
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_ends_a_stream_that_asked_for_it(via: Route, direct: Route) -> None:
    whole = create(direct.text, **GREEDY)
    *words, last = stream(via.text, **GREEDY, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == whole.usage
    assert last.model == via.text.model
    assert all(chunk.usage is None and chunk.choices for chunk in words)
    assert text_of(words) == whole.choices[0].message.content


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}], ids=["absent", "declined"])
def test_a_stream_that_did_not_ask_shows_no_usage(via: Route, options: Request) -> None:
    chunks = stream(via.text, **GREEDY, **options)
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


def test_async_calls_in_parallel_each_get_their_own_answer(via: Route) -> None:
    lengths = list(range(5, 5 + 3 * SLOTS))

    async def main() -> list[chat.ChatCompletion]:
        async with async_client(via.text) as sdk:
            calls = [
                sdk.chat.completions.create(
                    model=via.text.model, messages=say(), max_tokens=length, extra_body={"ignore_eos": True}
                )
                for length in lengths
            ]
            return await asyncio.gather(*calls)

    answers = asyncio.run(main())
    assert [answer.usage.completion_tokens for answer in answers if answer.usage] == lengths
    assert len({answer.id for answer in answers}) == len(lengths)


def test_async_stream(via: Route, direct: Route) -> None:
    async def main() -> list[Chunk]:
        async with (
            async_client(via.text) as sdk,
            await sdk.chat.completions.create(model=via.text.model, messages=say(), stream=True, **SEEDED) as chunks,
        ):
            return [chunk async for chunk in chunks]

    assert text_of(asyncio.run(main())) == create(direct.text, **SEEDED).choices[0].message.content


def test_a_forced_tool_call(via: Route, direct: Route) -> None:
    answer = create(via.tools, **FORCED)
    assert telling(answer) == telling(create(direct.tools, **FORCED))
    assert answer.choices[0].finish_reason == "tool_calls"
    name, arguments = call_of(answer)
    assert name == "forecast"
    forecast = json.loads(arguments)
    assert set(forecast) == {"city", "days"}
    assert 1 <= forecast["days"] <= 14


def test_streamed_tool_arguments_reassemble(via: Route, direct: Route) -> None:
    chunks = stream(via.tools, **FORCED)
    deltas = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []]
    functions = [delta.function for delta in deltas if delta.function]
    assert {delta.index for delta in deltas} == {0}
    assert len([delta.id for delta in deltas if delta.id]) == 1
    assert len(functions) > 2, "the arguments arrive in pieces"
    name = "".join(function.name or "" for function in functions)
    arguments = "".join(function.arguments or "" for function in functions)
    assert (name, arguments) == call_of(create(direct.tools, **FORCED))
    assert finishes_of(chunks) == ["tool_calls"]
    assert {chunk.model for chunk in chunks} == {via.tools.model}


def test_a_tool_result_is_answered(via: Route, direct: Route) -> None:
    call = create(direct.tools, **FORCED).choices[0].message
    result = {"role": "tool", "tool_call_id": (call.tool_calls or [])[0].id, "content": '{"sky": "clear, 21 °C, 晴"}'}
    history = [*say(), call.to_dict(), result]
    answer = create(via.text, messages=history, **GREEDY)
    assert telling(answer) == telling(create(direct.text, messages=history, **GREEDY))


def test_a_parsed_answer_fits_its_model(via: Route, direct: Route) -> None:
    def parse(target: Target) -> chat.ParsedChatCompletion[Place]:
        with client(target) as sdk:
            return sdk.chat.completions.parse(
                model=target.model, messages=say(), response_format=Place, temperature=0, max_tokens=600
            )

    answer = parse(via.text)
    place = answer.choices[0].message.parsed
    assert isinstance(place, Place)
    assert place == Place.model_validate_json(answer.choices[0].message.content or "")
    assert place == parse(direct.text).choices[0].message.parsed


def test_a_streamed_structured_answer(via: Route, direct: Route) -> None:
    def parse(target: Target) -> chat.ParsedChatCompletion[Place]:
        with (
            client(target) as sdk,
            sdk.chat.completions.stream(
                model=target.model, messages=say(), response_format=Place, temperature=0, max_tokens=600
            ) as events,
        ):
            assert sum(event.type == "content.delta" for event in events) > 2
            return events.get_final_completion()

    place = parse(via.text).choices[0].message.parsed
    assert isinstance(place, Place)
    assert place == parse(direct.text).choices[0].message.parsed


def test_a_schema_without_the_sdk_models(via: Route, direct: Route) -> None:
    schema = {"name": "place", "strict": True, "schema": Place.model_json_schema()}
    request: Request = {
        "response_format": {"type": "json_schema", "json_schema": schema},
        "temperature": 1,
        "seed": 5,
        "max_tokens": 600,
    }
    answer = create(via.text, **request)
    Place.model_validate_json(answer.choices[0].message.content or "")
    assert telling(answer) == telling(create(direct.text, **request))


def test_a_prompt_of_100_kb(via: Route) -> None:
    prompt = "sentence " * 11_400
    assert len(prompt) > 100 * 1024
    *_, last = stream(via.text, messages=say(prompt), **GREEDY, stream_options={"include_usage": True})
    assert last.usage is not None
    assert last.usage.prompt_tokens > 11_400


def test_a_prompt_past_the_context_is_the_callers_error(via: Route) -> None:
    with pytest.raises(openai.BadRequestError):
        create(via.text, messages=say("sentence " * 20_000))


def test_a_left_stream_frees_its_slot(via: Route, llama: Llama) -> None:
    for _ in range(SLOTS + 1):
        with (
            client(via.text) as sdk,
            sdk.chat.completions.create(model=via.text.model, messages=say(), stream=True, **ENDLESS) as chunks,
        ):
            assert text_of([next(chunks) for _ in range(5)])
            assert llama.text.slots_busy() >= 1
    wait_until(lambda: llama.text.slots_busy() == 0, within_s=NOTICED_S, what="every slot is free again")
    assert create(via.text, **GREEDY).choices[0].message.content
