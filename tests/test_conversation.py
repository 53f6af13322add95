"""Which conversation a request continues: what its key goes by, what it must not go by, and how little it reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.jsontext import top_level
from gateway.dialects.conversation import KEY_BYTES, OPENING_BYTES_MAX, conversation_key

Turn = dict[str, object]
SYSTEM: Turn = {"role": "system", "content": "You are terse."}
USER: Turn = {"role": "user", "content": "What is a race?"}
ANSWER: Turn = {"role": "assistant", "content": "A contest."}
OPENING = [SYSTEM, USER]
NO_HEADERS: list[tuple[bytes, bytes]] = []


def key(
    messages: object = OPENING,
    *,
    account: str = "acct_1",
    session: str | None = None,
    headers: list[tuple[bytes, bytes]] = NO_HEADERS,
    **members: object,
) -> bytes | None:
    body = {"model": "openai/gpt-4o", "messages": messages} | members
    return conversation_key(account, session, headers, top_level(json.dumps(body).encode()))


def parts(*texts: str, **more: object) -> list[Turn]:
    return [{"type": "text", "text": text} | more for text in texts]


def header(value: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"accept", b"*/*"), (b"x-session-id", value)]


WAYS: dict[str, dict[str, Any]] = {
    "session": {"session": "s"},
    "header": {"headers": header(b"s")},
    "cache key": {"prompt_cache_key": "s"},
    "opening": {},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_key_is_the_same_each_time_and_belongs_to_an_account_and_a_model(way: str) -> None:
    found = key(**WAYS[way])
    assert found is not None and len(found) == KEY_BYTES
    assert key(**WAYS[way]) == found
    assert key(**WAYS[way], account="acct_2") != found
    assert key(**WAYS[way], model="openai/gpt-4o-mini") != found


@pytest.mark.parametrize(
    ("members", "same_as"),
    [
        ({"session": "s", "headers": header(b"t"), "prompt_cache_key": "u"}, {"session": "s"}),
        ({"headers": header(b"s")}, {"session": "s"}),  # either way of naming a session names the same one
        ({"headers": header(b"t"), "prompt_cache_key": "u"}, {"session": "t"}),
        ({"session": "", "headers": header(b"t")}, {"session": "t"}),
        ({"session": "", "headers": header(b""), "prompt_cache_key": ""}, {}),
        ({"session": "é"}, {"headers": header("é".encode())}),
        ({"prompt_cache_key": 7}, {}),
        ({"prompt_cache_key": None}, {}),
        ({"prompt_cache_key": "u", "messages": [USER]}, {"prompt_cache_key": "u"}),
        ({"session": "s", "messages": []}, {"session": "s"}),
    ],
)
def test_names_go_before_the_opening(members: dict[str, Any], same_as: dict[str, Any]) -> None:
    assert key(**members) == key(**same_as)


def test_names_that_are_no_text_are_none() -> None:
    half_a_pair = {"prompt_cache_key": msgspec.Raw(b'"\\ud800"')}
    assert conversation_key("a", None, NO_HEADERS, half_a_pair) is None
    assert conversation_key("a", "\ud800", NO_HEADERS, {}) is not None


def test_kinds_of_names_are_apart() -> None:
    found = [key(session="s"), key(session="t"), key(prompt_cache_key="s"), key(), key([USER])]
    assert len(set(found)) == len(found)


def test_no_account_can_spell_anothers_key() -> None:
    assert key(account="a", session="b session c") != key(account="a session b", session="c")
    model = {"model": msgspec.Raw(b'"m"')}
    assert conversation_key('a"m"', "s", NO_HEADERS, {}) != conversation_key("a", "s", NO_HEADERS, model)


@pytest.mark.parametrize(
    "messages",
    [
        [SYSTEM, USER, ANSWER, {"role": "user", "content": "And a hedge?"}],
        [SYSTEM, USER, {"role": "system", "content": "Be verbose."}, {"role": "user", "content": "x"}],
        [SYSTEM, {"role": "system", "content": "It is 9:41."}, USER],  # the first one only
        [SYSTEM, ANSWER, USER],
        [{"role": "developer", "content": "You are terse."}, USER],
        [{"content": "You are terse.", "role": "system", "name": "boss"}, USER | {"name": "role"}],
        [SYSTEM, {"role": "user", "content": parts("What is a race?")}],
        [
            {"role": "system", "content": parts("You are terse.", cache_control={"type": "ephemeral"})},
            {"role": "user", "content": parts("What is a race?", cache_control={"type": "ephemeral", "ttl": "1h"})},
        ],
        [SYSTEM, USER, *[ANSWER, USER] * 2000],
        [SYSTEM, USER, {"role": "user", "content": "A" * 500_000}],
    ],
)
def test_later_turns_have_the_key_of_the_first(messages: list[object]) -> None:
    assert key(messages) == key()


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [SYSTEM],
        [SYSTEM, {"role": "user", "content": "What is a hedge?"}],
        [{"role": "system", "content": "You are verbose."}, USER],
        [SYSTEM, {"role": "user", "content": parts("What is", " a race?")}],
        [SYSTEM, {"role": "user", "content": [*parts("What is a race?"), {"type": "image_url", "image_url": "data:"}]}],
        [{"role": "user", "content": "You are terse."}, {"role": "system", "content": "What is a race?"}],
        [{"role": "user", "content": "You are terse."}, USER],
    ],
)
def test_other_openings_have_other_keys(messages: list[object]) -> None:
    found = key(messages)
    assert found is not None
    assert found != key()


def test_an_image_tells_conversations_apart() -> None:
    def asked_of(data: str) -> bytes | None:
        return key([{"role": "user", "content": [*parts("What is this?"), {"type": "image_url", "image_url": data}]}])

    assert asked_of("data:one") == asked_of("data:one") != asked_of("data:two")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [ANSWER],
        [{}],
        [{"content": "x"}],
        [{"role": 7, "content": "x"}],
        ["user"],
        [[USER]],
        [[USER] * 2000],
        "user" * 20_000,
        {"role": "user"},
        "user",
        None,
        [ANSWER] * 9 + [USER],
    ],
)
def test_what_opens_no_conversation_has_no_key(messages: object) -> None:
    assert key(messages) is None


def test_a_body_without_messages_has_no_key() -> None:
    assert conversation_key("a", None, NO_HEADERS, top_level(b"{}")) is None


TEXT = st.text(st.sampled_from('aé中😀"\\{}[],:\n\x00 '), max_size=12)
CONTENT = st.one_of(
    TEXT,
    st.none(),
    st.lists(
        st.one_of(TEXT.map(lambda text: {"type": "text", "text": text}), TEXT.map(lambda url: {"url": url})), max_size=3
    ),
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]), "content": CONTENT},
    optional={"name": TEXT, "tool_calls": st.lists(st.fixed_dictionaries({"function": TEXT}), max_size=2)},
)


@given(st.lists(MESSAGE, min_size=1, max_size=8), st.booleans(), st.sampled_from([None, 1]))
def test_a_conversation_keeps_its_key_when_it_outgrows_what_is_read(
    messages: list[Turn], ascii_only: bool, indent: int | None
) -> None:
    """Short bodies are read in one way, long ones in another."""

    def of(turns: Sequence[Turn]) -> bytes | None:
        text = json.dumps({"model": "m", "messages": turns}, ensure_ascii=ascii_only, indent=indent)
        return conversation_key("a", None, NO_HEADERS, top_level(text.encode()))

    opening: list[Turn] = [*messages, USER]
    grown: list[Turn] = [*opening, {"role": "assistant", "content": "x" * OPENING_BYTES_MAX}]
    assert of(opening) == of(grown)


@pytest.mark.parametrize("filler", ["x", '"', "\\", "中", "😀", "{[", "\n"])
@pytest.mark.parametrize("role", ["system", "user"])
def test_no_more_is_read_than_the_first_64_kib(filler: str, role: str) -> None:
    """A message that is longer goes by that much of it, wherever the cut falls."""
    for shift in range(4):
        long = {"role": role, "content": "s" * shift + filler * OPENING_BYTES_MAX}
        found = key([long, USER])
        assert found is not None
        assert found == key([long | {"content": str(long["content"]) + "more"}, ANSWER, USER])
        assert found != key([long | {"content": "other" + str(long["content"])}, USER])


def test_a_long_content_goes_by_its_ends_and_its_length() -> None:
    def of(content: str) -> bytes | None:
        return key([{"role": "system", "content": content}, USER])

    found = of("a" * 20_000)
    assert found == of("a" * 9000 + "b" * 2000 + "a" * 9000)
    assert found not in {of("a" * 20_001), of("b" + "a" * 19_999), of("a" * 19_999 + "b"), of("a" * 8000)}
    assert of("a" * 4000 + "b" + "a" * 4000) != of("a" * 8001), "a content of 8 KiB counts whole"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["role", "content", "text", "x"]), inner | st.sampled_from(["user"]), max_size=3
        ),
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from(["", "[" * 70_000, " " * 70_000, "9" * 70_000]))
def test_whatever_the_messages_are_nothing_is_raised(messages: object, rest: str) -> None:
    """Also where what follows is no JSON, which the bounded reader does not look at."""
    fields = {"messages": msgspec.Raw((json.dumps(messages) + rest).encode())}
    found = conversation_key("a", None, NO_HEADERS, fields)
    assert found is None or len(found) == KEY_BYTES


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        (b'[{"role":"\xff","content":"x"}]', False),
        (b'[{"role":"user","content":' + b"[" * 20_000 + b"]" * 20_000 + b"}]", False),
        (b'[{"role":"user","content":' + b"[" * 90_000, True),  # beyond what is read, so it goes by its bytes
    ],
)
def test_what_no_json_reader_takes_is_no_error(messages: bytes, found: bool) -> None:
    fields = {"messages": msgspec.Raw(messages)}
    assert (conversation_key("a", None, NO_HEADERS, fields) is not None) == found


def test_deep_nesting_is_no_error() -> None:
    deep: object = "x"
    for _ in range(900):
        deep = [deep]
    assert key([{"role": "user", "content": deep}]) is not None
    nested = b'{"messages":[{"role":"user","content":' + b"[" * 900 + b"]" * 900 + b"}," + b'"' + b"x" * 70_000 + b'"]}'
    assert conversation_key("a", None, NO_HEADERS, top_level(nested)) is not None
