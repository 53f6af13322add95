"""What a chat request needs of the provider that serves it: features, and the fields it must know. Pure.

Read from the raw values of the top level, without making objects of them: what is malformed here counts as not asked
for, and the provider says what is wrong with it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec


class Needs(NamedTuple):
    """`features` are of "stream", "tools", "images", "json_schema"; `parameters` the optional fields the request has.

    `parameters` are for `provider.require_parameters`. Not among them: `model`, `messages`, `stream` (a feature) and
    `stream_options` (which the gateway sets itself).
    """

    features: frozenset[str]
    parameters: frozenset[str]


class _Format(msgspec.Struct):
    type: str = ""


_FORMAT: Final = msgspec.json.Decoder(_Format)
_NULL: Final = msgspec.Raw(b"null")
_NOT_OPTIONAL: Final = frozenset({"model", "messages", "stream", "stream_options"})
_NOT_EMPTY: Final = re.compile(rb"\[[ \t\r\n]*+[^\] \t\r\n]")
# A member `type` of an object. Inside a string each quote has a backslash, so text cannot match; a name that ends with
# `"type` is told by its own.
_IMAGE: Final = re.compile(rb'"type"(?<!\\"type")[ \t\r\n]*+:[ \t\r\n]*+"(?:image_url|input_image)"')
_NONE: Final[frozenset[str]] = frozenset()
_STREAM: Final = frozenset({"stream"})


def needs_of(fields: dict[str, msgspec.Raw], *, stream: bool) -> Needs:
    """The needs of a request of top level `fields`, from which our own members were taken out. Never raises.

    "images": an object in `messages`, at any depth, is of type `image_url` or `input_image`, written without escapes.
    Cost: 1.2 us for a text request of 0.8 KB. `messages` is scanned once without a copy, in time linear in its size: 8
    ms for 30 MB of text, 60 ms for the worst found (30 MB of `"type",`), about what decoding the top level costs.
    """
    features = _STREAM if stream else _NONE
    if "tools" in fields or "functions" in fields:
        features = features.union(_tools(fields))
    messages = fields.get("messages")
    if messages is not None and _IMAGE.search(messages):
        features = features.union(("images",))
    if "response_format" in fields and _is_json_schema(fields["response_format"]):
        features = features.union(("json_schema",))
    return Needs(features, frozenset([name for name, raw in fields.items() if raw != _NULL]) - _NOT_OPTIONAL)


def _tools(fields: dict[str, msgspec.Raw]) -> tuple[str, ...]:
    """`functions` is the older name (platform.openai.com/docs/api-reference/chat/create)."""
    found = any(_NOT_EMPTY.match(fields[name]) for name in ("tools", "functions") if name in fields)
    return ("tools",) if found else ()


def _is_json_schema(response_format: msgspec.Raw) -> bool:
    try:
        return _FORMAT.decode(response_format).type == "json_schema"
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
