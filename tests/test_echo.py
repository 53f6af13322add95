"""The debug frame: clients that do not know it skip it, and no key is in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from openrouter.components.chatstreamchunk import ChatStreamChunk
from openrouter.components.debugevent import DebugEventDebug

from gateway.dialects.echo import BODY_BYTES_MAX, SHOWN_BYTES, echo_frame

SECRET = "acme7secret-0123456789abcdef"
OTHER = "acme7secret-0123456789abcdef.more"
BODY = b'{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}],"stream":true}'


def frame(body: bytes, *secrets: str) -> bytes:
    return echo_frame(body, chunk_id="gen-1", created=1700000000, model="acme/m", secrets=secrets or (SECRET,))


def chunk(body: bytes, *secrets: str) -> dict[str, Any]:
    text = frame(body, *secrets)
    assert text.startswith(b"data: ")
    assert text.endswith(b"\n\n")
    assert b"\n" not in text[:-2]
    assert b"\r" not in text
    found: dict[str, Any] = json.loads(text[6:])
    return found


def echoed(body: bytes, *secrets: str) -> dict[str, Any]:
    found: dict[str, Any] = chunk(body, *secrets)["debug"]["echo_upstream_body"]
    return found


def test_the_frame() -> None:
    assert chunk(BODY) == {
        "id": "gen-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "acme/m",
        "choices": [],
        "debug": {"echo_upstream_body": json.loads(BODY)},
    }


@pytest.mark.parametrize("body", [BODY, b'{"model":"m","messages":"' + b"x" * 100_000 + b'"}'])
def test_the_sdks_read_it(body: bytes) -> None:
    found = chunk(body)
    first = ChatCompletionChunk.model_validate(found)
    second = ChatCompletionChunk.model_validate(
        {
            **found,
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
        }
    )
    state = ChatCompletionStreamState()
    assert list(state.handle_chunk(first))
    assert list(state.handle_chunk(second))
    assert state.get_final_completion().choices[0].message.content == "hello"
    assert ChatStreamChunk.model_validate(found).choices == []
    assert DebugEventDebug.model_validate(found["debug"]).echo_upstream_body == found["debug"]["echo_upstream_body"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"temperature":0.10,"seed":123456789012345678901234567890,"top_p":1E-2}',
        b'{ "a" : [ ] , "a": "\\u4e2d\\/\\ud83d\\ude00" }',
        '{"a":"中文 😀 \u2028"}'.encode(),
        b'{"a":"\\\\ud83d"}',
    ],
)
def test_every_byte_stays(body: bytes) -> None:
    assert body in frame(body)


def test_lines_are_joined() -> None:
    body = json.dumps(json.loads(BODY), indent=1).replace("\n", "\r\n").encode()
    assert echoed(body) == json.loads(BODY)


def spelled(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


@pytest.mark.parametrize("key", [SECRET, "sk-proj-abcdefghijklmnop", "gsk_abcdefghijklmnopqrst"])
@pytest.mark.parametrize(
    "around",
    [
        '{"a":"%s"}',
        '{"a":"\\n%s\\n"}',
        '{"a":"\\"%s\\""}',
        '{"a":"key:\\t%s."}',
        '{"%s":[1,{"b":{"%s":"Bearer %s"}}]}',
        '{"a":"\\\\%s","b":"\\\\\\"%s"}',
    ],
)
def test_no_key_is_shown(key: str, around: str) -> None:
    for spelling in (key, spelled(key), key[:5] + spelled(key[5]) + key[6:]):
        for filling in ("", "x" * BODY_BYTES_MAX):  # whole, and truncated
            body = around.replace("%s", spelling)[:-1] + f',"end":"{filling}"}}'
            text = frame(body.encode()).decode()
            assert spelling not in text
            assert key not in json.dumps(json.loads(text[6:]))
            assert "***" in text


def test_of_several_secrets_none_leaves_its_end() -> None:
    body = json.dumps({"a": f"{OTHER} {SECRET}", "b": "sk-abcdefghijklmnop.rest"}).encode()
    assert echoed(body, SECRET, OTHER, "sk-abcdefghijklmnop.rest", "") == {"a": "*** ***", "b": "***"}


def test_an_empty_secret_is_none() -> None:
    assert echoed(BODY, "", "") == json.loads(BODY)


def test_a_secret_of_one_character_bursts_no_bound() -> None:
    body = b'{"a":"' + b"x" * (BODY_BYTES_MAX - 8) + b'"}'
    assert len(frame(body, "x")) <= BODY_BYTES_MAX + 1024
    assert "truncated_body" in echoed(body, "x")


def test_no_secret_of_our_own() -> None:
    text = echo_frame(BODY, chunk_id="", created=0, model="", secrets=[])
    assert json.loads(text[6:])["debug"]["echo_upstream_body"] == json.loads(BODY)


def test_a_key_is_not_shown_by_halves_where_the_body_is_cut() -> None:
    key = "KEY-" + "0123456789" * 10
    for before in range(SHOWN_BYTES - 120, SHOWN_BYTES + 20, 7):
        for repeats in (1, 400):  # many keys before the cut move it
            keys = f"{key} " * repeats if repeats > 1 else ""
            body = '{"a":"' + keys + "x " * ((before - len(keys)) // 2) + key + "y" * BODY_BYTES_MAX + '"}'
            shown = echoed(body.encode(), key)["truncated_body"]
            assert "KEY-" not in shown


@pytest.mark.parametrize("limit", [SHOWN_BYTES, SHOWN_BYTES + 4096])
def test_keys_without_end_are_not_shown_either(limit: int) -> None:
    key = "KEY-" + "0123456789" * 10
    for lead in range(len(key) + 2):
        body = ('{"a":"' + "z" * lead + f"{key} " * 2000 + '"}').encode()
        assert len(body) > limit
        shown = echoed(body, key)["truncated_body"]
        assert "KEY-0" not in shown


def test_a_long_body_says_so() -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": 'a "b"\n' * 200_000}]}).encode()
    shown = echoed(body)
    assert set(shown) == {"truncated_body", "shown_bytes", "body_bytes"}
    assert shown["body_bytes"] == len(body)
    assert shown["shown_bytes"] == len(shown["truncated_body"].encode()) == SHOWN_BYTES
    assert body.decode().startswith(shown["truncated_body"])


def test_a_cut_within_a_character_or_an_escape() -> None:
    for lead in range(7):
        for filling in ("漢", "\\u6f22", '\\"', "\\ud83d\\ude00"):
            body = ('{"a":"' + "z" * lead + f"\\n{SECRET}\\n{spelled(SECRET)}" + filling * 40_000 + '"}').encode()
            shown = echoed(body)
            assert shown["truncated_body"].startswith('{"a":"' + "z" * lead + "\\n***\\n***")
            assert 15_000 < shown["shown_bytes"] == len(shown["truncated_body"].encode()) <= SHOWN_BYTES


def test_up_to_64_kib_are_shown_whole() -> None:
    body = b'{"a":"' + b"x" * (BODY_BYTES_MAX - 8) + b'"}'
    assert len(body) == BODY_BYTES_MAX
    assert echoed(body) == json.loads(body)
    assert "truncated_body" in echoed(body[:-2] + b'x"}')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{",
        b'{"a":"',
        b'{"a":"\\q"}',
        b'{"a":"\\u12',
        b"\xff\xfe",
        b"\0" * 99_000,
        b'"\\' * 99_000,
    ],
)
def test_what_is_no_object_is_shown_as_text(body: bytes) -> None:
    shown = echoed(body)
    assert shown["body_bytes"] == len(body)
    assert len(frame(body)) <= BODY_BYTES_MAX + 1024


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=9)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=9), VALUES, max_size=5), st.sampled_from([None, 2]), st.booleans())
def test_a_body_without_keys_is_shown_as_it_is(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert echoed(body) == value


@given(
    st.lists(st.sampled_from(["\\", '"', "\\u00", "4b", "sk-", "a" * 12, SECRET, "{", "}", ":", "é", "\n", "😀"])).map(
        "".join
    ),
    st.integers(0, 4),
)
def test_any_text_is_answered_within_bounds(text: str, size: int) -> None:
    body = text.encode() * 10**size
    assert len(frame(body)) <= BODY_BYTES_MAX + 1024
    assert SECRET.encode() not in frame(body)
