"""Why a call went where it went, for a caller who asks: the header `x-route`. Pure.

Asked for with `x-route-explain: 1`, or OpenRouter's `X-OpenRouter-Metadata: enabled`. It holds every attempt up to the
answer's first byte; what came after, and what each cost, is in the call's record and in `GET /generation`.
"""

from __future__ import annotations

from typing import Final

import orjson

from gateway.core.call import AttemptNote, Call
from gateway.exchange import Headers

ROUTE_BYTES_MAX: Final = 4096  # half of what common clients and proxies take as a whole head
_ASKING: Final = frozenset({b"x-route-explain", b"x-openrouter-metadata"})
_YES: Final = frozenset({b"1", b"true", b"enabled"})


def how_routed(call: Call, asking: Headers, asked_class: str | None) -> Headers:
    """What an answer says of its routing: the model the auto router chose, and `x-route` when the request's headers
    ask for it. Of a stream that begins silent: as far as it is known then.
    """
    headers: Headers = []
    if asked_class is not None:
        headers.append((b"x-auto-resolved-model", call.model.encode()))
    if is_asked_for(asking):
        headers.append(route_header(call, asked_class))
    return headers


def is_asked_for(headers: Headers) -> bool:
    """Whether a request, of lower-case header names, asks for the header."""
    for name, value in headers:  # noqa: SIM110 - each call comes by here, and a generator costs twice as much
        if name in _ASKING and value.lower() in _YES:
            return True
    return False


def route_header(call: Call, asked_class: str | None) -> tuple[bytes, bytes]:
    """The header: compact JSON of at most 4 KB; of very many attempts the last ones. `asked_class` is of the auto
    router.
    """
    notes = [_shown(note, call.model) for note in call.attempts]
    while True:
        route: dict[str, object] = {"model": call.model, "attempts": notes}
        if asked_class is not None:
            route["class"] = asked_class
        text = _ascii(orjson.dumps(route))
        if len(text) <= ROUTE_BYTES_MAX or not notes:
            return b"x-route", text if len(text) <= ROUTE_BYTES_MAX else b"{}"
        notes = notes[1 + len(notes) // 2 :] if len(notes) > 1 else []


def _shown(note: AttemptNote, model: str) -> dict[str, object]:
    """`delay_ms` is from the call's beginning to the attempt's; `ms` how long the attempt took."""
    return {
        "provider": note.provider,
        "model": note.model or model,
        "reason": note.reason,
        "delay_ms": round(note.at_ms, 1),
        "outcome": note.outcome,
        "status": note.status or None,
        "ms": round(note.ms, 1),
    }


def _ascii(text: bytes) -> bytes:
    """JSON with what a header cannot carry written as escapes."""
    if text.isascii():
        return text
    return "".join(char if char.isascii() else _escaped(char) for char in text.decode()).encode()


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
