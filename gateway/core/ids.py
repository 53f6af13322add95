"""Ids we mint: request ids (UUID 4, RFC 9562 section 5.4) and generation ids (`gen-`, milliseconds, 80 random bits).

Generation ids begin with the time because they are a primary key: random ones dirty an index page a row, which costs
the writer three times as much. The kernel's randomness is taken in blocks: a system call an id is 4 us of a call.
"""

from __future__ import annotations

from os import urandom
from typing import Final

_BLOCK_BYTES: Final = 4096
_VARIANT: Final = "89ab"


class IdMint:
    """A source of ids. Not for threads, not for secrets: a block of randomness waits in memory."""

    __slots__ = ("_at", "_block")

    def __init__(self) -> None:
        self._block = ""
        self._at = 0

    def request_id(self) -> str:
        """A fresh UUID 4 as text."""
        text = self._take(32)
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"

    def generation_id(self, now_unix_s: float) -> str:
        """A fresh `gen-…` id of a call that begins now."""
        return f"gen-{int(now_unix_s * 1000):012x}{self._take(20)}"

    def _take(self, digits: int) -> str:
        at = self._at
        if at + digits > len(self._block):
            self._block, at = urandom(_BLOCK_BYTES).hex(), 0
        self._at = at + digits
        return self._block[at : at + digits]


def request_id() -> str:
    """A fresh request id where none is minted often."""
    return IdMint().request_id()
