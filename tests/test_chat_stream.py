"""The same-dialect relay of a chat stream against a slow reference: every fault, every shape, every split."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.usage import Usage
from gateway.dialects.chat_stream import DONE_FRAME
from tests.streams import MODEL, data_of, frames_of, pieces, reference, run
from tests.upstream import DONE, FINISH, ROLE, USAGE, WORD, frame, usage_frame

QUOTING = frame(
    {"content": 'say {"model":"up-model"} "model": "x" \n\ndata: [DONE]\n\n,"choices":[{ "finish_reason":"stop"'}
)
SPACED = WORD.replace(b'"model":"up-model"', b'"model": "up-model"')
ALL_SPACED = b"data: " + json.dumps(json.loads(WORD[6:])).encode() + b"\n\n"
DATED = WORD.replace(b"up-model", b"up-model-2026-08-06")
MODEL_LAST = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"w"},"finish_reason":null}],"model":"up-model"}\n\n'
)
NO_MODEL = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"w"},"finish_reason":null}]}\n\n'
NULL_MODEL = WORD.replace(b'"up-model"', b"null")
NUMBER_MODEL = WORD.replace(b'"up-model"', b"7")
NESTED = WORD.replace(b'"created":7', b'"x":{"model":"inner"},"created":7').replace(
    b'"finish_reason":null', b'"finish_reason":null,"y":{"model":"inner"}'
)
UTF8 = frame({"content": "é漢😀\u2028"})
FINISH_WITH_USAGE = frame({}, "stop", usage={"prompt_tokens": 4, "completion_tokens": 9})
TOOL = frame({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": '{"model":"a"}'}}]})
COMMENT = b": OPENROUTER PROCESSING\n\n"
INNER_COMMENT = WORD.replace(b"data: ", b": c\ndata: ")
EVENT = b"event: chunk\nid: 4\n" + WORD
TIGHT = WORD.replace(b"data: ", b"data:")

STREAMS: dict[str, bytes] = {
    "plain": ROLE + WORD * 3 + FINISH + USAGE + DONE,
    "quoting content": ROLE + WORD + QUOTING + WORD + FINISH + DONE,
    "model with a space": ROLE + SPACED * 3 + FINISH + DONE,
    "all spaced": ALL_SPACED * 3 + FINISH + DONE,
    "dated id": ROLE + DATED * 3 + FINISH + DONE,
    "model last": MODEL_LAST * 3 + FINISH + DONE,
    "no model": NO_MODEL * 3 + FINISH + DONE,
    "null model": NULL_MODEL * 3 + FINISH + DONE,
    "nested models": NESTED * 3 + FINISH + DONE,
    "utf8": ROLE + UTF8 * 3 + FINISH + DONE,
    "tools": ROLE + TOOL * 2 + FINISH + DONE,
    "comments": COMMENT + WORD + COMMENT + INNER_COMMENT + WORD + FINISH + COMMENT + DONE,
    "event names": EVENT + WORD + EVENT + FINISH + DONE,
    "no space after data": TIGHT * 2 + WORD + FINISH + DONE,
    "usage in the finish": ROLE + WORD * 2 + FINISH_WITH_USAGE + DONE,
    "model changes midway": WORD * 2 + DATED * 2 + WORD + FINISH + DONE,
    "bom": b"\xef\xbb\xbf" + WORD * 2 + FINISH + DONE,
}


def with_eol(stream: bytes, eol: bytes) -> bytes:
    return stream.replace(b"\n", eol)


def both_ends(stream: bytes, eol: bytes) -> list[list[int]]:
    """Every single cut, and every pair around each line end."""
    near = sorted({at + d for at in range(len(stream)) if stream[at : at + 1] in b"\r\n" for d in (0, 1, 2)})
    return [[at] for at in range(1, len(stream))] + [[a, b] for a, b in combinations(near[:24], 2)]


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("name", STREAMS)
def test_every_split_equals_the_reference(name: str, eol: bytes) -> None:
    stream = with_eol(STREAMS[name], eol)
    for keep_usage in (True, False):
        expected = reference(stream, keep_usage=keep_usage)
        at_once = run([stream], keep_usage=keep_usage)
        assert at_once.fault is None
        assert at_once.out == expected
        assert at_once.chat.done
        assert run([bytes([byte]) for byte in stream], keep_usage=keep_usage).out == expected
        for cuts in both_ends(stream, eol):
            heard = run(pieces(stream, cuts), keep_usage=keep_usage)
            assert heard.out == expected, cuts


@pytest.mark.parametrize("name", STREAMS)
def test_each_frame_leaves_whole(name: str) -> None:
    """Whatever was returned so far ends with a blank line: an error frame of ours may follow at any time."""
    stream = STREAMS[name]
    for at in range(1, len(stream)):
        for out in run(pieces(stream, [at])).outs:
            assert out == b"" or out.endswith(b"\n\n"), at


def test_clients_see_our_model_and_nothing_else_changed() -> None:
    for payload in map(data_of, frames_of(run([STREAMS["nested models"]]).out)):
        assert payload is not None
        if payload != b"[DONE]":
            assert json.loads(payload)["model"] == MODEL
    out = run([STREAMS["nested models"]]).out
    assert out.replace(json.dumps(MODEL).encode(), b'"up-model"') == STREAMS["nested models"]


def test_usage_kept_or_hidden_as_asked() -> None:
    stream = STREAMS["plain"]
    kept, hidden = run([stream], keep_usage=True), run([stream], keep_usage=False)
    assert b'"usage"' in kept.out
    assert b'"usage"' not in hidden.out
    assert kept.chat.usage == hidden.chat.usage == Usage(3, 2)


def test_usage_of_a_finish_frame_stays_for_it_has_content_of_its_own() -> None:
    heard = run([STREAMS["usage in the finish"]], keep_usage=False)
    assert heard.chat.usage == Usage(4, 9)
    assert FINISH_WITH_USAGE.replace(b"up-model", MODEL.encode()) in heard.out


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (b"", None),
        (usage_frame(0, 0), Usage(0, 0)),
        (USAGE, Usage(3, 2)),
        (usage_frame(0, 0) + USAGE, Usage(3, 2)),
        (b'data: {"choices":[],"usage":null}\n\n', None),
        (b'data: {"choices":[],"usage":{"prompt_tokens":-1,"completion_tokens":1}}\n\n', None),
        (b'data: {"choices":[],"x_groq":{"usage":{"prompt_tokens":5,"completion_tokens":1}}}\n\n', Usage(5, 1)),
    ],
)
def test_usage_absent_zero_last(last: bytes, expected: Usage | None) -> None:
    stream = ROLE + WORD * 3 + FINISH + last + DONE
    assert run([stream]).chat.usage == expected
    assert run(pieces(stream, range(0, len(stream), 7))).chat.usage == expected


def test_usage_in_content_frames_is_read_from_the_last() -> None:
    """vLLM's continuous_usage_stats: every content frame has a running count."""
    running = [frame({"content": "w"}, usage={"prompt_tokens": 3, "completion_tokens": n}) for n in range(1, 9)]
    stream = WORD + b"".join(running) + FINISH + DONE
    for parts in ([stream], pieces(stream, range(0, len(stream), 50)), pieces(stream, range(len(stream)))):
        assert run(parts).chat.usage == Usage(3, 8)


def test_a_later_usage_chunk_wins_over_running_counts() -> None:
    running = [frame({"content": "w"}, usage={"prompt_tokens": 3, "completion_tokens": n}) for n in range(1, 4)]
    stream = WORD + b"".join(running) + FINISH + usage_frame(3, 40) + DONE
    for parts in ([stream], pieces(stream, range(0, len(stream), 50)), pieces(stream, range(len(stream)))):
        assert run(parts).chat.usage == Usage(3, 40)


@pytest.mark.parametrize("words", [1, 2, 3, 10])
def test_deltas_are_counted_the_same_whatever_the_reads(words: int) -> None:
    """They are the bill when a provider reports no usage."""
    stream = ROLE + WORD * words + FINISH + DONE
    for parts in ([stream], pieces(stream, range(0, len(stream), 50)), pieces(stream, range(len(stream)))):
        assert run(parts).chat.deltas == words


def test_metadata_is_noted() -> None:
    chat = run([STREAMS["plain"]]).chat
    assert (chat.chunk_id, chat.created, chat.finish_reason, chat.content_seen) == ("chatcmpl-7", 7, "stop", True)


@pytest.mark.parametrize("quiet", [ROLE, COMMENT, b"retry: 3000\n\n", b'data: {"choices":[]}\n\n', NO_MODEL[:0], USAGE])
def test_what_is_no_content(quiet: bytes) -> None:
    heard = run([quiet * 3])
    assert not heard.chat.content_seen
    assert heard.fault is not None
    assert heard.fault.outcome == "empty"


@pytest.mark.parametrize(
    "delta", [{"content": "a"}, {"reasoning_content": "a"}, {"refusal": "no"}, {"tool_calls": [{}]}]
)
def test_what_is_content(delta: dict[str, Any]) -> None:
    assert run([frame(delta)]).chat.content_seen


ERRORS = {
    "openai": b'data: {"error":{"message":"m","code":"server_error"}}\n\n',
    "openrouter": b'data: {"id":"c","model":"up-model","error":{"code":502,"message":"m"},"choices":[]}\n\n',
    "openrouter, like content": WORD.replace(b'"choices"', b'"error":{"code":502,"message":"m"},"choices"'),
    "like content, error last": WORD[:-3] + b',"error":{"code":502,"message":"m"}}\n\n',
    "vllm": b'data: {"object":"error","message":"m","code":400}\n\n',
    "event": b'event: error\ndata: {"message":"m"}\n\n',
}
GARBAGE = {
    "garbage": b"data: {nope\n\n",
    "no object": b"data: [1]\n\n",
    "bad utf8": b'data: {"a":"\xff"}\n\n',
    "choice is a number": b'data: {"choices":[7]}\n\n',
    "deep": b"data: " + b"[" * 50_000 + b"\n\n",
}


@pytest.mark.parametrize(
    ("name", "outcome"), [*((n, "error_frame") for n in ERRORS), *((n, "bad_frame") for n in GARBAGE)]
)
def test_faults_are_told_and_what_came_before_is_not_lost(name: str, outcome: str) -> None:
    """The bytes the client gets before the fault do not hang on how the upstream's bytes were read."""
    before = ROLE + WORD * 3
    stream = before + {**ERRORS, **GARBAGE}[name] + WORD + DONE
    expected = reference(before, keep_usage=True)
    cuts = [[], [len(before)], *([at] for at in range(1, min(len(stream), 1200)))]
    for cut in cuts:
        heard = run(pieces(stream, cut))
        assert heard.fault is not None
        assert heard.fault.outcome == outcome
        assert DONE not in heard.out
        assert heard.out == expected, cut


def test_an_error_frame_names_its_status() -> None:
    fault = run([ERRORS["openrouter"]]).fault
    assert fault is not None
    assert fault.status == 502


def test_no_done_but_a_finish_is_completed_for_the_client() -> None:
    stream = ROLE + WORD + FINISH
    expected = reference(stream, keep_usage=True) + DONE_FRAME
    for at in range(1, len(stream)):
        heard = run(pieces(stream, [at]))
        assert heard.fault is None
        assert heard.out == expected


def test_no_done_and_no_finish_is_a_cut() -> None:
    """The frames that came go to the client, whatever the reads; no `[DONE]`."""
    stream = ROLE + WORD * 2
    for at in range(len(stream)):
        heard = run(pieces(stream, [at]))
        assert heard.fault is not None
        assert heard.fault.outcome == "cut"
        assert heard.out == reference(stream, keep_usage=True)


def test_an_end_inside_a_frame_is_no_whole_answer() -> None:
    stream = ROLE + WORD + FINISH
    for end in range(len(ROLE) + len(WORD) + 1, len(stream) - 2):
        heard = run([stream[:end]])
        assert heard.fault is not None, end
        assert DONE not in heard.out


def test_a_last_frame_without_its_blank_line_counts() -> None:
    for short in (1, 2):
        heard = run([(ROLE + WORD + FINISH)[:-short]])
        assert heard.fault is None
        assert [data_of(f) for f in frames_of(heard.out)] == [
            data_of(f) for f in frames_of(reference(ROLE + WORD + FINISH, keep_usage=True) + DONE)
        ]


@pytest.mark.parametrize("blank", [b"\n", b"\n\n", b"\n\n\n", b"\r\n", b"\r\n\r\n"])
def test_extra_blank_lines_between_frames(blank: bytes) -> None:
    """SSE ignores them; some servers send them."""
    stream = ROLE + blank + WORD + blank + WORD + blank + FINISH + blank + DONE
    expected = list(frames_of(reference(stream.replace(blank, b"", 0), keep_usage=True)))
    for at in range(1, len(stream)):
        heard = run(pieces(stream, [at]))
        assert heard.fault is None
        assert list(frames_of(heard.out)) == expected, at


def test_after_done_nothing_counts() -> None:
    stream = ROLE + WORD + FINISH + DONE + GARBAGE["garbage"] + WORD
    for at in range(1, len(stream)):
        heard = run(pieces(stream, [at]))
        assert heard.fault is None
        assert heard.out.endswith(DONE)


def test_a_5_mb_line_passes_in_small_reads() -> None:
    long = frame({"content": 'say "model": "up-model" ' * 220_000})
    assert len(long) > 5_000_000
    stream = ROLE + WORD + long + WORD + FINISH + DONE
    heard = run((stream[at : at + 4096] for at in range(0, len(stream), 4096)), frame_bytes_max=16 << 20)
    assert heard.out == reference(stream, keep_usage=True)


def test_a_frame_over_the_limit_is_told() -> None:
    heard = run((b"data: " + b"x" * 5000 for _ in range(100)), frame_bytes_max=100_000)
    assert heard.fault is not None
    assert heard.fault.outcome == "frame_too_large"


def test_json_over_several_data_lines_keeps_its_meaning() -> None:
    stream = (
        b'id: 1\ndata: {"id":"c","model":"up-model",\ndata:  "choices":[{"delta":{"content":"w"}}]}\n\n' + FINISH + DONE
    )
    for at in range(1, len(stream)):
        first = next(frames_of(run(pieces(stream, [at])).out))
        payload = data_of(first)
        assert payload is not None
        assert json.loads(payload) == {"id": "c", "model": MODEL, "choices": [{"delta": {"content": "w"}}]}
        assert first.startswith(b"id: 1\n")


def test_a_model_that_is_no_string_is_ours_all_the_same() -> None:
    stream = NUMBER_MODEL * 3 + FINISH + DONE
    for payload in map(data_of, frames_of(run([stream]).out)):
        assert payload is not None
        assert payload == b"[DONE]" or json.loads(payload)["model"] == MODEL


_TEXT = st.text(max_size=12) | st.sampled_from(
    ['"model":"up-model"', "data: [DONE]\n\n", '"choices":[{', '\\"', "\u2028"]
)
_CONTENT = st.builds(lambda text: frame({"content": text or "x"}), _TEXT)
_FRAME = st.one_of(
    _CONTENT,
    _CONTENT,
    st.sampled_from(
        [
            WORD, ROLE, SPACED, ALL_SPACED, DATED, MODEL_LAST, NO_MODEL, NULL_MODEL, NESTED, UTF8, TOOL, COMMENT,
            INNER_COMMENT, EVENT, TIGHT, QUOTING, USAGE, FINISH_WITH_USAGE, FINISH, b"retry: 10\n\n",
            b'data: {"choices":[]}\n\n',
        ]
    ),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(_FRAME, min_size=1, max_size=12),
    st.lists(st.integers(0, 4000), max_size=8),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.booleans(),
    st.booleans(),
)
def test_generated_streams_equal_the_reference(
    frames: list[bytes], cuts: list[int], eol: bytes, keep_usage: bool, bom: bool
) -> None:
    stream = (b"\xef\xbb\xbf" if bom else b"") + with_eol(b"".join([*frames, FINISH, DONE]), eol)
    heard = run(pieces(stream, cuts), keep_usage=keep_usage)
    assert heard.fault is None
    assert heard.out == reference(stream, keep_usage=keep_usage)
    at_once = run([stream], keep_usage=keep_usage).chat
    assert (heard.chat.usage, heard.chat.finish_reason) == (at_once.usage, at_once.finish_reason)


@settings(max_examples=200, deadline=None)
@given(st.lists(_FRAME | st.binary(max_size=20), max_size=10), st.lists(st.integers(0, 3000), max_size=5))
def test_anything_either_passes_or_is_a_fault(frames: list[bytes], cuts: list[int]) -> None:
    """No other exception, ever: the pump's one task runs this for every stream of the process."""
    heard = run(pieces(b"".join(frames), cuts))
    assert heard.fault is not None or heard.chat.done


NULLED = frame({"content": "word"}, usage=None)
PROVIDER_ASKED = [frame({"role": "assistant", "content": ""}, usage=None), NULLED, NULLED, NULLED]


@pytest.mark.parametrize("size", [1, 2, 3, 40])
@pytest.mark.parametrize("keep", [True, False])
def test_the_null_usage_we_asked_for_is_hidden_from_clients_who_did_not(size: int, keep: bool) -> None:
    sent = b"".join([*PROVIDER_ASKED, NULLED * size, frame({}, "stop", usage=None), DONE])
    splits: list[list[int]] = [[], list(range(0, len(sent), 97)), list(range(0, len(sent), 4096))]
    for cuts in splits:
        heard = run(pieces(sent, cuts), keep_usage=keep)
        assert (b'"usage"' in heard.out) is keep
        assert heard.out.count(b'"content":"word"') == size + 3
        assert heard.chat.deltas == size + 3


def test_a_usage_that_is_null_inside_the_text_or_nested_stays() -> None:
    quoted = frame({"content": ',"usage":null}'}, usage=None)
    nested = frame({"content": "x", "extra": {"a": 1, "usage": None}}, usage=None)
    heard = run([NULLED, NULLED, quoted, quoted, nested, frame({}, "stop"), DONE], keep_usage=False)
    texts = [json.loads(data_of(part) or b"")["choices"][0]["delta"] for part in list(frames_of(heard.out))[:-1]]
    assert texts[2]["content"] == ',"usage":null}'
    assert texts[4]["extra"] == {"a": 1, "usage": None}
