"""What the router reads of a request: which message asks, what the talk and the tools are, and that work is bounded."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import prompt as module
from gateway.dialects.prompt import Prompt, clip, read_prompt

USER = {"role": "user", "content": "hello"}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city"}}


def read(messages: Any, **others: Any) -> Prompt | None:
    members = {"messages": messages, **others}
    return read_prompt({name: msgspec.Raw(json.dumps(value).encode()) for name, value in members.items()})


@pytest.mark.parametrize(
    ("messages", "wanted"),
    [
        ([USER], Prompt("hello")),
        ([{"role": "user", "content": "  hello\n"}], Prompt("hello")),
        ([{"role": "system", "content": "Be brief."}, USER], Prompt("hello", "Be brief.", turns=2)),
        ([{"role": "developer", "content": "Be brief."}, USER], Prompt("hello", "Be brief.", turns=2)),
        (
            [{"role": "system", "content": "One."}, {"role": "system", "content": "Two."}, USER],
            Prompt("hello", "One.\nTwo.", turns=3),
        ),
        (
            [USER, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "bye"}],
            Prompt("bye", previous_user_texts=1, turns=3),
        ),
        # What a tool answered is not what the user asks.
        (
            [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
                {"role": "tool", "content": "{}"},
            ],
            Prompt("hello", turns=3),
        ),
        # Somebody has to ask.
        ([{"role": "system", "content": "Be brief."}], Prompt("Be brief.", "Be brief.")),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], Prompt("a\nb")),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "a"}],
                }
            ],
            Prompt("a", has_images=True),
        ),
        ([{"role": "user", "content": [{"type": "input_image"}]}], Prompt("", has_images=True)),
        ([{"role": "user", "content": None}], Prompt("")),
        ([{"role": "user"}], Prompt("")),
        ([{"role": "user", "content": []}], Prompt("")),
        ([], None),
        (None, None),
        ("hello", None),
        ({"role": "user"}, None),
        (["hello"], None),
        ([{"role": 1, "content": "hello"}], None),
        ([{"role": "user", "content": 1}], None),
        ([{"role": "user", "content": {"text": "hello"}}], None),
        ([{"role": "user", "content": ["hello"]}], None),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], None),
    ],
)
def test_the_last_user_message_asks(messages: Any, wanted: Prompt | None) -> None:
    assert read(messages) == wanted


def test_a_request_without_messages_has_no_prompt() -> None:
    assert read_prompt({}) is None


@pytest.mark.parametrize(
    ("members", "text"),
    [  # None: no tools
        ({"tools": [WEATHER]}, "get_weather Weather of a city"),
        (
            {"tools": [WEATHER, {"name": "send", "description": "Send mail"}]},
            "get_weather Weather of a city\nsend Send mail",
        ),
        ({"functions": [{"name": "send", "description": "Send mail"}]}, "send Send mail"),
        ({"tools": [WEATHER], "tool_choice": "auto"}, "get_weather Weather of a city"),
        ({"tools": [WEATHER], "tool_choice": "none"}, None),
        ({"tools": [{"type": "function", "function": {"name": "send"}}]}, "send"),
        ({"tools": [{"type": "web_search", "description": None}]}, ""),
        ({"tools": [{}]}, ""),
        ({"tools": []}, None),
        ({"tools": None}, None),
        ({"tools": "all"}, None),
        ({"tools": [1]}, None),
        ({"tools": [{"function": {"name": ["send"]}}]}, None),
    ],
)
def test_tools_are_their_names_and_descriptions(members: dict[str, Any], text: str | None) -> None:
    assert read([USER], **members) == Prompt("hello", tools=text or "", has_tools=text is not None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["role", "content", "text", "type", "name"]), inner)
    ),
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
        optional={"content": st.text() | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}))},
    ),
    min_size=1,
)


@given(JSON, JSON)
def test_any_json_is_read_or_refused(messages: Any, tools: Any) -> None:
    found = read(messages, tools=tools)
    assert found is None or isinstance(found.text, str)


@given(MESSAGES)
def test_well_formed_messages_are_read(messages: list[dict[str, Any]]) -> None:
    found = read(messages)
    assert found is not None
    users = sum(message["role"] == "user" for message in messages)
    assert (found.previous_user_texts, found.turns) == (max(0, users - 1), len(messages))


@given(st.text(), st.integers(1, 20), st.integers(1, 20))
def test_a_text_is_cut_in_the_middle(text: str, head: int, tail: int) -> None:
    found, whole = clip(text, head, tail), text.strip()
    assert len(found) <= head + tail + 1
    assert found == whole or len(whole) > head + tail
    assert (found[:1], found[-1:]) == (whole[:1], whole[-1:])


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    found = read([{"role": "user", "content": "summarise:" + "x" * 10**6 + "thanks"}])
    assert found is not None
    assert found.text.startswith("summarise:xxx")
    assert found.text.endswith("xxxthanks")
    assert len(found.text) == module.HEAD_CHARS + 1 + module.TAIL_CHARS


@pytest.mark.parametrize(
    ("messages", "members"),
    [
        ([{"role": "user", "content": "x " * 10**6}], {}),
        ([{"role": "user", "content": [{"type": "text", "text": "x " * 1000}] * 1000}], {}),
        ([{"role": "system", "content": "x " * 10**6}, USER], {}),
        ([USER] * module.LIST_MAX, {}),
        ([USER], {"tools": [WEATHER] * 1000}),
        ([USER], {"tools": [{"name": "x" * 10**5, "description": "y" * 10**5}]}),
        ([USER], {"tools": [WEATHER] * 10_000}),
    ],
    ids=["text", "parts", "system", "messages", "tools", "names", "too many tools"],
)
def test_what_is_kept_of_a_large_request_is_small(messages: Any, members: dict[str, Any]) -> None:
    found = read(messages, **members)
    assert found is not None
    assert len(found.text) <= module.HEAD_CHARS + module.TAIL_CHARS + 1
    assert len(found.system) <= module.SYSTEM_HEAD_CHARS + module.SYSTEM_TAIL_CHARS + 1
    assert len(found.tools) <= module.TOOLS_CHARS
    assert found.has_tools == bool(members)


@pytest.mark.parametrize(
    "messages",
    [
        [USER] * (module.LIST_MAX + 1),
        [USER, {"role": "user", "content": [{"type": "text"}] * (module.LIST_MAX + 1)}],
        [0] * 10**6,
        [{}] * 10**6,
        [USER, {"role": "user", "content": [0] * 10**6}],
    ],
    ids=["messages", "parts", "numbers", "objects", "contents"],
)
def test_a_crowd_is_refused_before_an_object_is_made_for_each(messages: Any) -> None:
    fields = {"messages": msgspec.Raw(json.dumps(messages).encode())}
    tracemalloc.start()
    assert read_prompt(fields) is None
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2 * len(memoryview(fields["messages"])) + 10**5


def test_deep_nesting_is_refused() -> None:
    assert read_prompt({"messages": msgspec.Raw(b"[" * 100_000 + b"]" * 100_000)}) is None
    deep = b'[{"role":"user","content":' + b"[" * 100_000 + b"]" * 100_000 + b"}]"
    assert read_prompt({"messages": msgspec.Raw(deep)}) is None
