"""The wish for costs in a request, and costs in whole answers and error frames: exact, and nothing else is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import CostReport, PicoUsd
from gateway.core.usage import Usage, estimate_prompt_tokens
from gateway.dialects.costs import cost_members, with_cost
from gateway.dialects.openai_chat import error_frame, parse_request, read_answer
from gateway.errors import BadRequest, StreamBroken
from tests.upstream import answer_body

COSTS = CostReport(PicoUsd(1_234_567), PicoUsd(1_000_000), PicoUsd(234_560))
MEMBERS = (
    b'"cost":0.000001234567,"is_byok":false,"cost_details":{"upstream_inference_cost":null,'
    b'"upstream_inference_prompt_cost":0.000001,"upstream_inference_completions_cost":0.00000023456}'
)
SEEN = Usage(3, 2)
GUESSED = Usage(10, 4, estimated=True)
OURS = b'{"prompt_tokens":10,"completion_tokens":4,"total_tokens":14,"estimated":true,' + MEMBERS + b"}"


def request(**more: Any) -> bytes:
    return json.dumps({"model": "a/m", "messages": [{"role": "user", "content": "hi"}], **more}).encode()


@pytest.mark.parametrize(
    ("wish", "include"),
    [
        ({}, False),
        ({"usage": None}, False),
        ({"usage": {}}, False),
        ({"usage": {"include": None}}, False),
        ({"usage": {"include": False}}, False),
        ({"usage": {"include": True}}, True),
        ({"usage": {"include": True, "more": 1}}, True),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
def test_the_wish_for_costs(wish: dict[str, Any], include: bool, stream: bool, options: dict[str, Any]) -> None:
    """It asks for usage too where usage has to be asked for, and no provider sees it."""
    parsed = parse_request(request(**wish, **options, stream=stream))
    assert parsed.include_cost is include
    assert parsed.include_usage is (stream and (include or bool(options)))
    assert set(parsed.fields) == {"model", "messages", "stream", *options}


@pytest.mark.parametrize("wish", [True, 1, "yes", [], {"include": "yes"}, {"include": 1}, {"include": {}}])
def test_a_wish_that_is_none_is_named(wish: object) -> None:
    with pytest.raises(BadRequest, match=r"`usage` must be an object such as \{\"include\": true\}") as caught:
        parse_request(request(usage=wish))
    assert caught.value.param == "usage"


@pytest.mark.parametrize(
    ("body", "usage", "expected"),
    [
        (b'{"a":1,"usage":{"prompt_tokens":3}}', SEEN, b'{"a":1,"usage":{"prompt_tokens":3,%b}}' % MEMBERS),
        (
            b' { "usage" : { "prompt_tokens" : 3 } , "b" : [ 1 ] }\n',
            SEEN,
            b' { "usage" : { "prompt_tokens" : 3,%b} , "b" : [ 1 ] }\n' % MEMBERS,
        ),
        (b'{"usage":{}}', SEEN, b'{"usage":{%b}}' % MEMBERS),
        (b'{"a":1}', GUESSED, b'{"a":1,"usage":%b}' % OURS),
        (b'{"a":1 }\n', GUESSED, b'{"a":1 ,"usage":%b}\n' % OURS),
        (b"{}", GUESSED, b'{"usage":%b}' % OURS),
        (b'{"usage":null,"b":null}', GUESSED, b'{"usage":%b,"b":null}' % OURS),
        (b'{"usage":{"prompt_tokens":-1},"b":1}', GUESSED, b'{"usage":%b,"b":1}' % OURS),
        (b'{"usage":7,"x":{"usage":7}}', GUESSED, b'{"usage":%b,"x":{"usage":7}}' % OURS),
        (b'{"x":{"usage":7},"usage":7}', GUESSED, b'{"x":{"usage":7},"usage":%b}' % OURS),
        (b'{"x":{"usage":77},"usage":7}', GUESSED, b'{"x":{"usage":77},"usage":%b}' % OURS),
        (b'{"usage":1,"usage":{"a":1}}', SEEN, b'{"usage":1,"usage":{"a":1,%b}}' % MEMBERS),
        (b'{"t":"\\"usage\\":{\\"a\\":1}","usage":{"a":1}}', SEEN, b'{"t":"\\"usage\\":{\\"a\\":1}","usage":{"a":1,%b}}' % MEMBERS),
        (b'{"x":{"usage":{"a":1}},"us\\u0061ge":{"a":1}}', SEEN, b'{"x":{"usage":{"a":1}},"usage":{"a":1,%b}}' % MEMBERS),
        (b'{"usage":{"a":1,"cost":9.5,"is_byok":true},"b":1}', SEEN, b'{"usage":{"a":1,%b},"b":1}' % MEMBERS),
    ],
)  # fmt: skip
def test_costs_go_into_the_usage_and_nowhere_else(body: bytes, usage: Usage, expected: bytes) -> None:
    assert with_cost(body, usage, COSTS) == expected


@pytest.mark.parametrize("amount", [0, 1, 10**12, 123_456_789_012_345, 2**63 - 1])
def test_a_cost_is_told_to_the_last_pico_usd(amount: int) -> None:
    costs = CostReport(PicoUsd(amount), PicoUsd(amount), PicoUsd(0))
    told = json.loads(b"{%b}" % cost_members(costs), parse_float=str, parse_int=str)
    whole, _, part = told["cost"].partition(".")
    assert int(whole) * 10**12 + int(part.ljust(12, "0")) == amount
    assert told["cost_details"]["upstream_inference_completions_cost"] == "0"


_KEYS = st.sampled_from(["usage", "a", "cost", "us\\u0061ge", "model", "prompt_tokens"])
_VALUES = st.recursive(
    st.sampled_from(["1", "null", '"usage"', '"\\"usage\\":1"', '{"prompt_tokens":3,"completion_tokens":2}', "{}"]),
    lambda inner: st.lists(st.tuples(_KEYS, inner), max_size=4).map(
        lambda members: "{" + " , ".join(f'"{key}": {value}' for key, value in members) + "}"
    ),
    max_leaves=8,
)


@given(st.lists(st.tuples(_KEYS, _VALUES), max_size=5), st.booleans())
def test_any_object_keeps_its_other_members(members: list[tuple[str, str]], guessed: bool) -> None:
    body = "{" + ", ".join(f'"{key}" : {value}' for key, value in members) + " }"
    before, after = json.loads(body), json.loads(with_cost(body.encode(), GUESSED if guessed else SEEN, COSTS))
    was, now = before.pop("usage", None), after.pop("usage")
    assert after == before
    assert now.pop("cost") == 1.234567e-06
    assert now.pop("is_byok") is False
    assert len(now.pop("cost_details")) == 3
    if guessed:
        assert now == {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14, "estimated": True}
    elif isinstance(was, dict):
        assert now == {key: value for key, value in was.items() if key != "cost"}
    else:
        assert now == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@pytest.mark.parametrize("model_text", [b'"up-model"', b"7", b'"up\\u002dmodel"'])
def test_a_providers_costs_are_taken_out_of_its_answer(model_text: bytes) -> None:
    usage = b'{"prompt_tokens":3,"completion_tokens":2%b}'
    body = b'{"model":%b,"choices":[{"finish_reason":"stop","message":{"content":"the cost"}}],"usage":%b,"z":1.50}'
    dear = usage % b',"cost":0.1,"cost_details":{"upstream_inference_cost":0.1},"estimated_cost":1e-5,"is_byok":false'
    answer = read_answer(body % (model_text, dear), "a/m")
    assert answer.body == body % (b'"a/m"', usage % b"")
    assert answer.usage == SEEN
    untouched = body % (model_text, usage % b' , "prompt_tokens_details" : {"cost":1} ')
    assert read_answer(untouched, "a/m").body == untouched.replace(model_text, b'"a/m"', 1)


def test_an_answer_read_and_priced_is_the_providers_but_for_model_and_costs() -> None:
    body = answer_body("up-model", "text")
    priced = with_cost(read_answer(body, "a/m").body, SEEN, COSTS)
    assert priced.replace(b"," + MEMBERS, b"").replace(b'"a/m"', b'"up-model"') == body
    assert b"," + MEMBERS + b"}" in priced


def test_an_error_frame_tells_costs_when_asked() -> None:
    def usage_in(costs: CostReport | None) -> bytes:
        return error_frame(
            StreamBroken("broken"), "r", chunk_id="c", created=7, model="a/m", usage=GUESSED, costs=costs
        )

    plain = b'"usage":{"prompt_tokens":10,"completion_tokens":4,"total_tokens":14,"estimated":true}'
    assert plain in usage_in(None)
    assert usage_in(COSTS) == usage_in(None).replace(plain, plain[:-1] + b"," + MEMBERS + b"}")


MESSAGE = b'{"role":"assistant","content":"a text of some words"}'
CALLS = b'{"content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\\"city\\":\\"Taipei\\"}"}}]}'


@pytest.mark.parametrize("messages", [[MESSAGE], [MESSAGE, CALLS], [CALLS], [MESSAGE] * 5])
@pytest.mark.parametrize(
    "usage", [b"", b',"usage":null', b',"usage":7', b',"usage":{"prompt_tokens":-1}', b',"usage":1e999']
)
def test_without_usage_the_completion_is_estimated_from_the_messages_alone(messages: list[bytes], usage: bytes) -> None:
    more = b',"logprobs":{"content":"%b"}' % (b"y" * 5000)
    choices = b",".join(b'{"finish_reason":"stop","message":%b%b}' % (message, more) for message in messages)
    answer = read_answer(b'{"choices":[%b],"x":"%b"%b}' % (choices, b"y" * 5000, usage), "a/m")
    assert answer.usage is None
    assert answer.estimate_completion() == sum(map(estimate_prompt_tokens, messages)) < 200


@pytest.mark.parametrize(("choice", "estimate"), [(b"{}", 2), (b'{"message":null}', 2), (b'{"message":{}}', 1)])
def test_a_choice_without_a_message_says_next_to_nothing(choice: bytes, estimate: int) -> None:
    assert read_answer(b'{"choices":[%b]}' % choice, "a/m").estimate_completion() == estimate
