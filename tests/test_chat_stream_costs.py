"""Costs in a stream: each report of usage tells the customer's cost and none of the provider's, and one is always told."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.money import CostReport, PicoUsd
from gateway.core.usage import Usage, parse_usage
from gateway.dialects.chat_stream import ChatStream, StreamFault
from gateway.dialects.costs import cost_members
from tests.streams import FRAME_BYTES_MAX, MODEL, data_of, frames_of, pieces, reference, run
from tests.upstream import DONE, FINISH, ROLE, USAGE, WORD, frame, usage_frame

PROMPT_ESTIMATE = 1000


def billed(reported: Usage | None, deltas: int, *, finished: bool) -> tuple[Usage, CostReport]:
    """A price per call beside those of the tokens; nothing is paid for nothing."""
    usage = reported or Usage(PROMPT_ESTIMATE, deltas, estimated=True)
    paid = bool(usage.completion or finished)
    prompt, completion = paid * usage.prompt, paid * 10**6 * usage.completion
    return usage, CostReport(PicoUsd(paid * 10**12 + prompt + completion), PicoUsd(prompt), PicoUsd(completion))


def priced(parts: Iterable[bytes]) -> tuple[bytes, ChatStream]:
    chat = ChatStream(MODEL, keep_usage=False, frame_bytes_max=FRAME_BYTES_MAX, price=billed)
    out = [chat.feed(part) for part in parts]
    return b"".join([*out, chat.end()]), chat


def payloads(out: bytes) -> list[Any]:
    texts = [data_of(part) for part in frames_of(out)]
    return [json.loads(text) for text in texts if text not in {None, b"[DONE]"} and text is not None]


def costs_in(usage: dict[str, Any]) -> tuple[float, float, float]:
    details = usage["cost_details"]
    assert usage["is_byok"] is False
    assert details["upstream_inference_cost"] is None
    return (
        usage["cost"],
        details["upstream_inference_prompt_cost"],
        details["upstream_inference_completions_cost"],
    )


NULLED = frame({"content": "word"}, usage=None)
RUNNING = [frame({"content": "w"}, usage={"prompt_tokens": 3, "completion_tokens": n}) for n in range(1, 9)]
OPENROUTER = {
    "prompt_tokens": 818,
    "completion_tokens": 260,
    "total_tokens": 1078,
    "cost": 0.004756,
    "is_byok": True,
    "prompt_tokens_details": {"cached_tokens": 0},
    "cost_details": {"upstream_inference_cost": 0.004756},
}
SPLIT_USAGE = b'id: 4\ndata: {"id":"c","model":"up-model","choices":[],\ndata: "usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
NO_MODEL_SPLIT = b'data: {"choices":[],\ndata: "usage" : {"prompt_tokens":3,\ndata: "completion_tokens":2} }\n\n'
QUOTING = frame({"content": 'say "usage":{"prompt_tokens":9,"completion_tokens":9}, "usage": null'})
GROQ = frame({}, "stop", x_groq={"usage": {"prompt_tokens": 5, "completion_tokens": 1}})
ABSURD = usage_frame(-1, 2)
STREAMS: dict[str, bytes] = {
    "usage": ROLE + WORD * 3 + FINISH + USAGE + DONE,
    "usage null all along": ROLE + NULLED * 4 + frame({}, "stop", usage=None) + USAGE + DONE,
    "usage before the finish": ROLE + WORD * 3 + USAGE + FINISH + DONE,
    "no completion yet": ROLE + WORD + usage_frame(3, 0) + FINISH + DONE,
    "groq after another": ROLE + WORD + USAGE + GROQ + DONE,
    "running counts": ROLE + WORD * 2 + b"".join(RUNNING) + FINISH + DONE,
    "running counts between others": WORD * 3 + RUNNING[0] + WORD * 3 + RUNNING[1] + WORD + FINISH + DONE,
    "usage in the finish": ROLE + WORD + frame({}, "stop", usage=OPENROUTER) + DONE,
    "several data lines": ROLE + WORD + FINISH + SPLIT_USAGE + DONE,
    "several data lines without a model": ROLE + WORD + FINISH + NO_MODEL_SPLIT + DONE,
    "text about usage": ROLE + WORD + QUOTING * 3 + FINISH + USAGE + DONE,
    "none": ROLE + WORD * 3 + FINISH + DONE,
    "none, and no done": ROLE + WORD * 3 + FINISH,
    "none, no finish": ROLE + WORD * 3 + DONE,
    "null": ROLE + WORD * 3 + FINISH + b'data: {"choices":[],"usage":null}\n\n' + DONE,
    "absurd": ROLE + WORD + FINISH + ABSURD + DONE,
    "absurd after sound": ROLE + WORD + FINISH + USAGE + ABSURD + DONE,
    "groq": ROLE + WORD + GROQ + DONE,
}


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("name", STREAMS)
def test_every_split_tells_the_same_costs(name: str, eol: bytes) -> None:
    stream = STREAMS[name].replace(b"\n", eol)
    expected, chat = priced([stream])
    assert chat.done
    assert [chunk["usage"] for chunk in payloads(expected) if chunk.get("usage")][-1]["cost"] > 0
    assert priced([bytes([byte]) for byte in stream])[0] == expected
    for at in range(1, len(stream)):
        assert priced(pieces(stream, [at]))[0] == expected, at


@pytest.mark.parametrize("name", STREAMS)
def test_all_but_the_costs_is_as_it_came(name: str) -> None:
    """The last word on usage has the cost of what the stream ended with."""
    stream = STREAMS[name]
    out, chat = priced([stream])
    told = [chunk for chunk in payloads(out) if chunk.get("usage")]
    final = told[-1]["usage"]
    usage, costs = billed(chat.usage, chat.deltas, finished=chat.finish_reason is not None)
    assert costs_in(final) == tuple(amount / 10**12 for amount in costs)
    assert (final["prompt_tokens"], final["completion_tokens"]) == (usage.prompt, usage.completion)
    assert final.get("estimated", False) is usage.estimated
    for chunk in told:
        usage_in = chunk["usage"]
        if parse_usage(usage_in) is not None:
            costs_in(usage_in)
            for member in ("cost", "is_byok", "cost_details"):
                del usage_in[member]
    before = payloads(reference(stream, keep_usage=True))
    for chunk in before:
        if "model" in chunk:
            chunk["model"] = MODEL  # the reference leaves it where an object is split over lines
        if isinstance(chunk.get("usage"), dict):
            chunk["usage"] = {
                key: value for key, value in chunk["usage"].items() if "cost" not in key and key != "is_byok"
            }
    assert payloads_without_ours(out, told, before) == before


def payloads_without_ours(out: bytes, told: list[Any], before: list[Any]) -> list[Any]:
    """The chunks of `out` with their costs taken off, less the one the gateway added, if it did."""
    chunks = payloads(out)
    index = [at for at, chunk in enumerate(chunks) if chunk.get("usage")]
    for at, chunk in zip(index, told, strict=True):
        chunks[at] = chunk
    return chunks if len(chunks) == len(before) else [c for c in chunks if c is not told[-1]]


def test_the_costs_are_exact_text_at_the_end_of_the_report() -> None:
    out, _ = priced([STREAMS["usage"]])
    costs = billed(Usage(3, 2), 3, finished=True)[1]
    assert b'"usage":{"prompt_tokens":3,"completion_tokens":2,' in out
    assert b"," + cost_members(costs) + b"}" in out
    assert b'"cost":1.000002000003,' in out
    assert out.replace(b"," + cost_members(costs), b"") == reference(STREAMS["usage"], keep_usage=True)


@pytest.mark.parametrize(
    ("name", "usage", "estimated"),
    [
        ("none", (1000, 3), True),
        ("none, and no done", (1000, 3), True),
        ("groq", (5, 1), False),
        ("absurd", (1000, 1), True),
    ],
)
def test_a_report_that_nobody_sent_is_ours(name: str, usage: tuple[int, int], estimated: bool) -> None:
    out, _ = priced([STREAMS[name]])
    frames = [part for part in frames_of(out) if part != DONE]
    last = json.loads(data_of(frames[-1]) or b"")
    assert out.endswith(frames[-1] + DONE)
    assert (last["id"], last["object"], last["created"], last["model"], last["choices"]) == (
        "chatcmpl-7", "chat.completion.chunk", 7, MODEL, [],
    )  # fmt: skip
    report = last["usage"]
    assert (report["prompt_tokens"], report["completion_tokens"], report["total_tokens"]) == (*usage, sum(usage))
    assert report.get("estimated", False) is estimated


def test_a_broken_stream_is_told_no_usage_by_the_way() -> None:
    """The error frame that follows has it."""
    chat = ChatStream(MODEL, keep_usage=False, frame_bytes_max=FRAME_BYTES_MAX, price=billed)
    out = chat.feed(ROLE + WORD * 2)
    with pytest.raises(StreamFault) as caught:
        chat.end()
    assert b'"usage"' not in out + caught.value.before


@pytest.mark.parametrize("name", ["usage", "none", "running counts", "text about usage"])
def test_without_the_wish_nothing_changes(name: str) -> None:
    for keep in (True, False):
        heard = run([STREAMS[name]], keep_usage=keep)
        assert b'"cost"' not in heard.out
        assert heard.out == reference(STREAMS[name], keep_usage=keep)


@pytest.mark.parametrize("keep", [True, False])
def test_the_providers_costs_stay_with_us_whoever_asks(keep: bool) -> None:
    xai = frame({}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 2, "cost_in_usd_ticks": 318319000})
    for last in (frame({}, "stop", usage=OPENROUTER), xai):
        for parts in ([ROLE + WORD + last + DONE], pieces(ROLE + WORD + last + DONE, range(0, 2000, 7))):
            heard = run(parts, keep_usage=keep)
            assert heard.fault is None
            assert b"cost" not in heard.out
            assert b"is_byok" not in heard.out
            assert heard.chat.usage == parse_usage(json.loads(data_of(last) or b"")["usage"])
            assert heard.out.count(b'"prompt_tokens"') == 1
    alone = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"estimated_cost":1e-5}}\n\n'
    assert (b'"prompt_tokens":3' in run([ROLE + WORD + FINISH + alone + DONE], keep_usage=keep).out) is keep


def test_long_blocks_go_unparsed_and_are_priced_at_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    parse = orjson.loads

    def loads(text: bytes) -> object:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr("gateway.dialects.chat_stream.orjson.loads", loads)
    out, chat = priced([ROLE + NULLED, NULLED * 500, FINISH + USAGE + DONE])
    assert chat.deltas == 501
    assert len(parsed) == 4
    assert out.count(b'"cost":') == 1


_FRAME = st.sampled_from(
    [
        WORD, WORD, WORD, NULLED, QUOTING, FINISH, USAGE, ABSURD, GROQ, SPLIT_USAGE, NO_MODEL_SPLIT, *RUNNING[:2],
        frame({"content": "x"}, usage=OPENROUTER), b": comment\n\n", b'data: {"choices":[],"usage":{}}\n\n',
        b'data: {"choices":[],"usage":[1]}\n\n', b'data: {"x":{"usage":{"prompt_tokens":3,"completion_tokens":2}},"usage":{"prompt_tokens":3,"completion_tokens":2},"choices":[]}\n\n',
        b'data: {"choices":[],"us\\u0061ge":{"prompt_tokens":3,"completion_tokens":2}}\n\n',
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(_FRAME, max_size=12), st.lists(st.integers(0, 5000), max_size=8), st.booleans())
def test_the_last_report_is_the_bill_whatever_the_stream(frames: list[bytes], cuts: list[int], done: bool) -> None:
    stream = b"".join([ROLE, *frames, WORD, FINISH, DONE if done else b""])  # a role in mid-stream may count as a delta
    out, chat = priced(pieces(stream, cuts))
    assert out == priced([stream])[0]
    assert b"0.004756" not in out
    told = [chunk["usage"] for chunk in payloads(out) if chunk.get("usage") and isinstance(chunk["usage"], dict)]
    usage, _ = billed(chat.usage, chat.deltas, finished=True)
    assert (told[-1]["prompt_tokens"], told[-1]["completion_tokens"]) == (usage.prompt, usage.completion)
    assert told[-1]["cost"] > 0


@settings(max_examples=200, deadline=None)
@given(st.lists(_FRAME | st.binary(max_size=20), max_size=8), st.lists(st.integers(0, 3000), max_size=5))
def test_anything_either_passes_or_is_a_fault(frames: list[bytes], cuts: list[int]) -> None:
    try:
        _, chat = priced(pieces(b"".join(frames), cuts))
    except StreamFault:
        return
    assert chat.done


@pytest.mark.parametrize("depth", [500, 1000, 20_000])
def test_a_report_nested_deep_is_no_crash(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    stream = WORD + b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"x":%b}}\n\n' % deep
    try:
        out, _ = priced([stream + FINISH + DONE])
    except StreamFault as fault:
        assert fault.outcome == "bad_frame"
    else:
        assert out.count(b'"cost":') == 1
