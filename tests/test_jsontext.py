"""Byte-exact edits of JSON text: the span found is the top-level model's, whatever surrounds it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.jsontext import model_span, top_level
from gateway.dialects.chat_stream import StreamFault
from gateway.dialects.openai_chat import read_answer
from tests.streams import MODEL, model_spans
from tests.upstream import answer_body

CASES: list[tuple[bytes, bytes | None]] = [
    (b'{"model":"x"}', b'"x"'),
    (b'{"model": "x"}', b'"x"'),
    (b'{ "a":1 ,\n\t"model"\r\n :\t"x" }', b'"x"'),
    (b'{"model":null}', b"null"),
    (b'{"model":"a\\"b\\\\"}', b'"a\\"b\\\\"'),
    ('{"model":"é漢"}'.encode(), '"é漢"'.encode()),
    (b'{"a":{"model":"in"},"model":"x"}', b'"x"'),
    (b'{"model":"x","a":{"model":"in"}}', b'"x"'),
    (b'{"a":[{"model":"in"}],"model":"x","b":[{"model":"in"}]}', b'"x"'),
    (b'{"model":"one","model":"two"}', b'"two"'),
    (b'{"a":"\\"model\\":\\"no\\"","model":"x"}', b'"x"'),
    (b'{"model":"x","a":"{\\"model\\":\\"no\\"}"}', b'"x"'),
    (b'{"a":"model","model":"x"}', b'"x"'),
    (b'{"a":{"model":"in"}}', None),
    (b'{"model":7}', None),
    (b'{"model":{"model":"in"}}', None),
    (b'{"model":["x"]}', None),
    (b'{"models":"x","amodel":"y"}', None),
    (b"{}", None),
]


@pytest.mark.parametrize(("text", "value"), CASES)
def test_model_span(text: bytes, value: bytes | None) -> None:
    span = model_span(text)
    assert (None if span is None else text[slice(*span)]) == value


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6) | st.sampled_from(['"model":"x"', "model"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "a", "b"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "id"]), _JSON, max_size=3),
    st.dictionaries(st.sampled_from(["c", "d"]), _JSON, max_size=2),
    st.text(max_size=8),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]),
    st.booleans(),
)
def test_generated_objects_agree_with_a_walk(
    before: dict[str, Any], after: dict[str, Any], model: str, separators: tuple[str, str], ascii_only: bool
) -> None:
    text = json.dumps({**before, "model": model, **after}, separators=separators, ensure_ascii=ascii_only)
    start, end = model_spans(text)[-1]
    span = model_span(text.encode())
    assert span is not None
    assert text.encode()[slice(*span)] == text[start:end].encode()
    changed = json.loads(text.encode()[: span[0]] + b'"ours"' + text.encode()[span[1] :])
    assert changed == {**before, "model": "ours", **after}


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"7", b"{", b'{"a":1', b'{"a":"\xff"}', b'{"a":' + b"[" * 100_000, b'{"a":1} x', b"\xef\xbb\xbf{}"],
)
def test_top_level_refuses(text: bytes) -> None:
    with pytest.raises(ValueError):
        top_level(text)


def test_top_level_keeps_values_as_they_came() -> None:
    fields = top_level(b'{"a": 1.0e5 , "b":{"x" : [ ] }, "a":"last"}')
    assert {name: bytes(value) for name, value in fields.items()} == {"a": b'"last"', "b": b'{"x" : [ ] }'}


@pytest.mark.parametrize("text", ["hi", 'quote "model": "up-model"', "é漢😀", "a\nb\\"])
def test_a_whole_answer_changes_in_its_model_only(text: str) -> None:
    body = answer_body("up-model-2026-08-06", text)
    answer = read_answer(body, MODEL)
    assert answer.body.replace(MODEL.encode(), b"up-model-2026-08-06", 1) == body
    assert json.loads(answer.body)["model"] == MODEL
    assert answer.finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt, answer.usage.completion) == (3, 2)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b"", "bad_json"),
        (b"<html>", "bad_json"),
        (b"[]", "bad_json"),
        (b"{}", "bad_json"),
        (b'{"choices":7}', "bad_json"),
        (b'{"choices":[]}', "empty"),
        (b'{"error":{"message":"m"}}', "error_in_200"),
        (b'{"error":"m","choices":[{}]}', "error_in_200"),
        (b'{"choices":[{}],"a":"\xff"}', "bad_json"),
        (b'{"choices":' + b"[" * 100_000, "bad_json"),
        (b'{"choices":[{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", "bad_json"),
        (b'{"choices":[{}],"usage":{"prompt_tokens":"nope"', "bad_json"),
    ],
)
def test_answers_that_are_none(body: bytes, outcome: str) -> None:
    with pytest.raises(StreamFault) as caught:
        read_answer(body, MODEL)
    assert caught.value.outcome == outcome


@pytest.mark.parametrize(
    "usage", [b"7", b"null", b"[1]", b'{"prompt_tokens":1e999}', b'{"prompt_tokens":1' + b"0" * 400 + b"}"]
)
def test_an_odd_usage_is_no_fault(usage: bytes) -> None:
    answer = read_answer(b'{"choices":[{}],"usage":' + usage + b"}", MODEL)
    assert answer.usage is None


def test_many_nested_models_cost_no_more_than_their_bytes() -> None:
    """A provider may not hold the loop: 800 KB with 40,000 nested `model` keys after the real one."""
    body = b'{"model":"x","choices":[{}],"z":[' + b",".join([b'{"model":"inner"}'] * 40_000) + b"]}"
    began = time.perf_counter()
    answer = read_answer(body, MODEL)
    assert time.perf_counter() - began < 2.0
    assert answer.body.startswith(b'{"model":"' + MODEL.encode() + b'",')
