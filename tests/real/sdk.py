"""Calls with the official `openai` SDK, and what to compare of their answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import openai
from openai.types import chat

from tests.real.path import Target

Chunk = chat.ChatCompletionChunk
Request = dict[str, Any]

CALL_S = 30.0
NOTICED_S = 5.0  # From the client's leaving to a free slot and a written record.
GREEDY: Request = {"temperature": 0, "max_tokens": 40}
SEEDED: Request = {"temperature": 1, "seed": 11, "max_tokens": 40}
LONG: Request = {"temperature": 0, "max_tokens": 2000, "extra_body": {"ignore_eos": True}}  # Above 1 s of work.
ENDLESS: Request = {"temperature": 0, "max_tokens": 10_000_000, "extra_body": {"ignore_eos": True}}

# New in every answer, or said by the way it came: not a part of what the model said.
PASSING = {
    "id": True,
    "created": True,
    "model": True,
    "timings": True,
    "choices": {"__all__": {"message": {"tool_calls": {"__all__": {"id"}}}}},
}


def say(text: str = "say the house of water") -> list[Any]:
    """The messages of a conversation of one turn."""
    return [{"role": "user", "content": text}]


@contextlib.contextmanager
def client(target: Target, *, read_s: float = CALL_S) -> Iterator[openai.OpenAI]:
    """A client that never retries, so that what the server did is what the test sees."""
    http = openai.DefaultHttpxClient(trust_env=False)
    timeout = openai.Timeout(CALL_S, read=read_s)
    with openai.OpenAI(
        base_url=target.base_url, api_key=target.api_key, max_retries=0, timeout=timeout, http_client=http
    ) as sdk:
        yield sdk


def async_client(target: Target) -> openai.AsyncOpenAI:
    """The same for asyncio; the caller closes it."""
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(
        base_url=target.base_url, api_key=target.api_key, max_retries=0, timeout=CALL_S, http_client=http
    )


def create(target: Target, **request: Any) -> chat.ChatCompletion:
    """One call, answered whole."""
    request = {"messages": say(), **request}
    with client(target) as sdk:
        answer: chat.ChatCompletion = sdk.chat.completions.create(model=target.model, **request)
    return answer


def stream(target: Target, **request: Any) -> list[Chunk]:
    """One call, streamed to its end."""
    request = {"messages": say(), **request}
    with client(target) as sdk, sdk.chat.completions.create(model=target.model, stream=True, **request) as chunks:
        return list(chunks)


def text_of(chunks: Iterable[Chunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def finishes_of(chunks: Iterable[Chunk]) -> list[str]:
    return [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]


def call_of(answer: chat.ChatCompletion) -> tuple[str, str]:
    """Name and arguments of the one tool call of an answer."""
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.id
    return call.function.name, call.function.arguments


def telling(answer: chat.ChatCompletion) -> Request:
    """What two answers to equal requests have in common, fields unknown to the SDK included."""
    return answer.model_dump(exclude_unset=True, exclude=PASSING)  # type: ignore[arg-type]
