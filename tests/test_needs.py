"""What a request needs: told from its raw values, and the same as a slow walk through its objects tells."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.jsontext import top_level
from gateway.dialects.needs import Needs, needs_of

TEXT = '[{"role":"user","content":"hi"}]'
IMAGE = '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]'


def needs(body: str, *, stream: bool = False) -> Needs:
    return needs_of(top_level(body.encode()), stream=stream)


FEATURES: list[tuple[str, set[str]]] = [
    (f'{{"messages":{TEXT}}}', set()),
    ("{}", set()),
    # tools
    ('{"tools":[{"type":"function"}]}', {"tools"}),
    ('{"tools": [\n {"type":"function"} ] }', {"tools"}),
    ('{"functions":[{"name":"f"}]}', {"tools"}),
    ('{"tools":[],"functions":[{"name":"f"}]}', {"tools"}),
    ('{"tools":[]}', set()),
    ('{"tools":[ \\n ]}'.replace("\\n", "\n"), set()),
    ('{"tools":[%s]}' % (" " * 500), set()),
    ('{"tools":null,"functions":null}', set()),
    ('{"tools":{"a":[1]}}', set()),
    ('{"tools":"[1]"}', set()),
    ('{"tool_choice":"auto"}', set()),
    # images
    (f'{{"messages":{IMAGE}}}', {"images"}),
    (f'{{"messages":{IMAGE.replace("image_url", "input_image")}}}', {"images"}),
    ('{"messages":[{"content":[{"image_url":{"url":"x"}, "type" :\n "image_url"}]}]}', {"images"}),
    ('{"messages":[{"content":[{"type":"text","text":"a"},{"type":"image_url"}]}]}', {"images"}),
    ('{"messages":[{"content":"image_url"}]}', set()),
    ('{"messages":[{"content":"\\"type\\":\\"image_url\\""}]}', set()),
    ('{"messages":[{"content":[{"type":"text","text":"image_url"}]}]}', set()),
    ('{"messages":[{"content":[{"type":"text","text":"\\"type\\": \\"image_url"}]}]}', set()),
    ('{"messages":[{"content":[{"a \\"type":"image_url"}]}]}', set()),
    ('{"messages":[{"content":[{"a\\\\":"type","b":"image_url"}]}]}', set()),
    ('{"messages":[{"content":[{"mime_type":"image_url"}]}]}', set()),
    ('{"messages":[{"content":[{"type":"image_urls"}]}]}', set()),
    ('{"messages":[{"tool_calls":[{"function":{"arguments":"{\\"type\\":\\"image_url\\"}"}}]}]}', set()),
    ('{"tools":[{"type":"image_url"}],"metadata":{"type":"image_url"}}', {"tools"}),
    # json_schema
    ('{"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{}}}}', {"json_schema"}),
    ('{"response_format":{"json_schema":{"type":"object"} , "type" : "json_schema"}}', {"json_schema"}),
    ('{"response_format":{"type":"json\\u005fschema"}}', {"json_schema"}),
    ('{"response_format":{"type":"json_object"}}', set()),
    ('{"response_format":{"schema":{"type":"json_schema"}}}', set()),
    ('{"response_format":{"type":["json_schema"]}}', set()),
    ('{"response_format":"json_schema"}', set()),
    ('{"response_format":null}', set()),
]


@pytest.mark.parametrize(("body", "features"), FEATURES)
def test_features(body: str, features: set[str]) -> None:
    assert needs(body).features == features
    assert needs(body, stream=True).features == features | {"stream"}


PARAMETERS: list[tuple[str, set[str]]] = [
    (f'{{"model":"a/b","messages":{TEXT},"stream":true,"stream_options":{{"include_usage":true}}}}', set()),
    ('{"temperature":0,"max_tokens":null,"seed":5}', {"temperature", "seed"}),
    ('{"logprobs":false,"stop":"","tools":[],"logit_bias":{}}', {"logprobs", "stop", "tools", "logit_bias"}),
    ('{"temperature": null ,"top_p" : 1 }', {"top_p"}),
    ('{"user":"null","nobody_knows_it":1}', {"user", "nobody_knows_it"}),
]


@pytest.mark.parametrize(("body", "parameters"), PARAMETERS)
def test_parameters(body: str, parameters: set[str]) -> None:
    assert needs(body).parameters == parameters


def test_a_large_text_full_of_marks_is_text() -> None:
    text = json.dumps('{"type":"image_url"}' * 50_000)
    assert needs(f'{{"messages":[{{"content":{text}}}]}}').features == set()


def test_deep_nesting_is_no_error() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    fields = dict.fromkeys(("messages", "tools"), msgspec.Raw(deep))
    fields["response_format"] = msgspec.Raw(b'{"schema":%b,"type":"json_schema"}' % deep)
    assert needs_of(fields, stream=False).features == {"tools"}


_NAMES = ["type", "image_url", "text", "tools", "response_format", 'a"type', "type\\", "\\", "é"]
_TEXTS = ["image_url", "input_image", "json_schema", "text", '"type":"image_url"', '"type', "\\", '\\"', "image"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from(_TEXTS) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4),
    max_leaves=12,
)


def _has_image(value: Any) -> bool:
    if isinstance(value, dict):
        own = value.get("type")
        return own in ("image_url", "input_image") or any(map(_has_image, value.values()))
    return isinstance(value, list) and any(map(_has_image, value))


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("messages", "tools", "functions", "response_format", "seed", "model"), _JSON)
    ),
    st.booleans(),
    st.sampled_from([None, 1, "\t"]),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")]),
    st.booleans(),
)
def test_it_says_what_a_slow_walk_says(
    body: dict[str, Any], stream: bool, indent: int | str | None, separators: tuple[str, str], ascii_only: bool
) -> None:
    response_format = body.get("response_format")
    expected = {
        "stream": stream,
        "tools": any(isinstance(body.get(name), list) and body[name] for name in ("tools", "functions")),
        "images": _has_image(body.get("messages")),
        "json_schema": isinstance(response_format, dict) and response_format.get("type") == "json_schema",
    }
    text = json.dumps(body, indent=indent, separators=separators, ensure_ascii=ascii_only)
    found = needs(text, stream=stream)
    assert found.features == {name for name, wanted in expected.items() if wanted}
    assert found.parameters == {name for name, value in body.items() if value is not None} - {"messages", "model"}
