"""Byte-exact edits of JSON text: set the top-level `model` and leave every other byte as it came. Pure.

`"model"` followed by a colon cannot occur inside a JSON string (its quotes would be escaped), so a match is a
key, at the top level or nested. When several keys match, the top-level one is the one whose change shows in a
top-level decode.
"""

from __future__ import annotations

import re

import msgspec

TOP_LEVEL = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MARK = b'"\\u0000probe'  # one decode tells which match is the top-level one, however many there are
_NULL = msgspec.Raw(b"null")
SMALL_BYTES_MAX = 256 * 1024
KEYS_MAX = 100_000
_KEY = b'"model"'
_MODEL = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.)*"|null)')


class _Big(msgspec.Struct):
    """The members that may be large. The others are skipped at the speed of C."""

    messages: msgspec.Raw = _NULL
    tools: msgspec.Raw = _NULL
    input: msgspec.Raw = _NULL
    choices: msgspec.Raw = _NULL
    functions: msgspec.Raw = _NULL
    response_format: msgspec.Raw = _NULL
    prediction: msgspec.Raw = _NULL


_BIG = msgspec.json.Decoder(_Big)


def has_too_many_members(text: bytes) -> bool:
    """Whether decoding the top level would hold the loop: a million tiny members take a second.

    Told without making them: over 100,000 keys in all, and over 256 KiB outside of the members that may be large.
    False for what is no JSON object: decoding will say so.
    """
    if len(text) <= SMALL_BYTES_MAX or text.count(b'":') <= KEYS_MAX:
        return False
    try:
        large = msgspec.structs.astuple(_BIG.decode(text))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return len(text) - sum(len(memoryview(value)) for value in large) > SMALL_BYTES_MAX


def top_level(text: bytes) -> dict[str, msgspec.Raw]:
    """Decode the members of a JSON object, values kept as raw bytes; of a duplicate key the last counts.

    Raises ValueError for anything that is no JSON object: bad syntax, absurd nesting, invalid UTF-8.
    """
    try:
        fields = TOP_LEVEL.decode(text)
        text.decode("utf-8")  # msgspec.Raw does not look inside values
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise ValueError(str(exc)) from None
    return fields


def model_span(text: bytes, *, has_model: bool = False) -> tuple[int, int] | None:
    """Find the value of the top-level `model` key of one valid JSON object: (start, end) of its bytes, or None.

    `has_model` says that a decode has shown the key to be there with a string value, which saves another. None too
    when that value is neither a string nor null, or the key is written with escapes.
    """
    if has_model and (span := _only_span(text)) is not None:
        return span
    spans = [match.span(1) for match in _MODEL.finditer(text)]
    parts: list[bytes] = []
    at = 0
    for index, (start, end) in enumerate(spans):
        parts += (text[at:start], b'"\\u0000probe%d"' % index)
        at = end
    if not spans:
        return None
    try:
        found = bytes(TOP_LEVEL.decode(b"".join((*parts, text[at:]))).get("model", b""))
    except (msgspec.DecodeError, RecursionError):
        return None
    return spans[int(found[len(_MARK) : -1])] if found.startswith(_MARK) else None


def _only_span(text: bytes) -> tuple[int, int] | None:
    """The value of the one `model` key of a text that has a top-level one: written without escapes, found but once."""
    at = text.find(_KEY)
    if at < 0 or text.find(_KEY, at + 1) >= 0 or (b"\\" in text and b"\\u" in text):
        return None
    found = _MODEL.match(text, at)
    return found.span(1) if found else None
