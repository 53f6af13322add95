"""Ids we mint: request ids (UUID 4, RFC 9562 section 5.4) and generation ids (`gen-` and 128 random bits)."""

from __future__ import annotations

from os import urandom


def request_id() -> str:
    """A fresh UUID 4 as text. A third of the cost of `str(uuid.uuid4())`."""
    raw = bytearray(urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def generation_id() -> str:
    """A fresh `gen-…` id of a call."""
    return "gen-" + urandom(16).hex()
