"""The debug frame that shows a caller what went upstream, for `debug: {"echo_upstream_body": true}` on streams. Pure.

OpenRouter's shape: the first chunk of the stream, without choices, has `debug.echo_upstream_body`, an object (its SDK's
`DebugEventDebug`; openrouter.ai/docs/api/reference/errors-and-debugging). Clients of OpenAI's API skip a chunk without
choices, as they do the one with the usage.

Keys are struck out of every string, however its characters are escaped. A body of over 64 KiB is not shown as it is:
the object then has the members `truncated_body`, text, `body_bytes` and `shown_bytes`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

import orjson

from gateway.dialects.refusal import masked

BODY_BYTES_MAX: Final = 64 * 1024
SHOWN_BYTES: Final = 31 * 1024  # of a longer body: as a string of JSON in JSON it takes up to twice that
_MARGIN_BYTES: Final = 4096  # a key whose end is not seen is not known for one; a key is no longer than this
_STRING: Final = re.compile(  # the last one of a truncated text ends with it, maybe within an escape
    r'"((?:[^"\\]|\\(?:u[0-9a-fA-F]{4}|[^u]))*+)("|\\?(?:u[0-9a-fA-F]{0,3})?\Z)', re.DOTALL
)
_CONTROLS: Final = dict.fromkeys(range(0x20), " ")  # JSON has them between its values only, where any space will do


def echo_frame(body: bytes, *, chunk_id: str, created: int, model: str, secrets: Sequence[str]) -> bytes:
    """The SSE frame that shows `body`, the JSON object that went upstream, without `secrets` and what looks like a key.

    `created` is in Unix seconds. But for id and model the frame is at most 1 KiB longer than 64 KiB. What is no JSON
    object is shown as a truncated body is; never raises. Every byte stays but those of keys, and line ends.
    Cost: 90 us for a body of 2 KB, 3 ms for 64 KiB or more of prose, 20 ms for the worst, tiny strings with escapes.
    """
    frame = {
        "id": chunk_id,
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [],
        "debug": {"echo_upstream_body": _shown(body, secrets)},
    }
    return b"data: %b\n\n" % orjson.dumps(frame)


def _shown(body: bytes, secrets: Sequence[str]) -> orjson.Fragment | dict[str, str | int]:
    secrets = sorted(filter(None, secrets), key=len, reverse=True)
    if len(body) <= BODY_BYTES_MAX:
        text = _redacted(body.decode("utf-8", "replace").translate(_CONTROLS), secrets).encode()
        if len(text) <= BODY_BYTES_MAX and _is_object(text):
            return orjson.Fragment(text)
    read = body[: SHOWN_BYTES + _MARGIN_BYTES].decode("utf-8", "replace").translate(_CONTROLS)
    struck = _masked_all(_redacted(read, secrets), secrets)
    if len(body) > SHOWN_BYTES + _MARGIN_BYTES:
        struck = struck[:-_MARGIN_BYTES]
    shown = struck.encode()[:SHOWN_BYTES].decode("utf-8", "ignore")
    return {"truncated_body": shown, "shown_bytes": len(shown.encode()), "body_bytes": len(body)}


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _redacted(text: str, secrets: Sequence[str]) -> str:
    """JSON, whole or only its beginning, with what is secret struck out of its strings; every other byte stays."""

    def redacted(match: re.Match[str]) -> str:
        inner, end = match.groups()
        said = _unescaped(inner) if "\\" in inner else inner
        struck = _masked_all(said, secrets)
        return match[0] if struck == said else json.dumps(struck)[:-1] + end

    return _STRING.sub(redacted, text)


def _unescaped(inner: str) -> str:
    try:
        return str(json.loads(f'"{inner}"'))
    except ValueError:  # an escape that JSON does not have
        return inner


def _masked_all(text: str, secrets: Sequence[str]) -> str:
    """All the secrets go before what merely looks like one, of which they may be a part."""
    for secret in secrets[:-1]:
        text = text.replace(secret, "***")
    return masked(text, secrets[-1] if secrets else "")
