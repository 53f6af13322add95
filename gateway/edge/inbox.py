"""The request body on its way from a connection's reader to the ASGI app that may or may not want it.

Hypercorn's own is a channel of ten messages whose sender is the connection's reader: an app that does not read its
body, or has gone, blocks the reader for ever, and over HTTP/2 every sibling stream with it. Here the bytes are
joined (one-byte frames cost one byte), a disconnect is never blocked and never waits behind a body, and whether the
reader waits is the caller's choice: over HTTP/1.1 it does (`pause_bytes`), over HTTP/2 it does not, because there
the stream's flow-control window is only given back as the app takes the bytes (`taken`), which bounds them.

Invariant: one reader task puts, one app task receives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from hypercorn.typing import ASGIReceiveEvent

Taken = Callable[[int], Awaitable[None]]
"""Told how many bytes the app took. It must not checkpoint, or a cancelled receive would lose those bytes."""


async def nothing_taken(_count_bytes: int) -> None:
    """The `taken` of a connection without flow control."""


async def nothing_wanted() -> None:
    """The `wanted` of a connection that has nothing to do before a body comes."""


class Inbox:
    """A request body in transit; `receive` is the app's ASGI receive."""

    def __init__(
        self,
        *,
        pause_bytes: int | None,
        taken: Taken = nothing_taken,
        wanted: Callable[[], Awaitable[None]] = nothing_wanted,
    ) -> None:
        self._pause_bytes = pause_bytes
        self._taken = taken
        self._wanted = wanted
        self._body = bytearray()
        self._ended = False
        self._end_taken = False
        self._gone = False
        self._news = trio.Event()
        self._room = trio.Event()

    async def put(self, message: ASGIReceiveEvent) -> None:
        """Hand over one ASGI message; waits for room only with `pause_bytes`, and never past a disconnect."""
        if message["type"] == "http.request":
            self._body += message["body"]
            self._ended = self._ended or not message["more_body"]
        elif message["type"] == "http.disconnect":
            self._gone = True
            self._room.set()
        self._news.set()
        while self._pause_bytes is not None and len(self._body) >= self._pause_bytes and not self._gone:
            self._room = trio.Event()
            await self._room.wait()

    async def receive(self) -> ASGIReceiveEvent:
        """What is there now, else the next news. A disconnect overtakes a body that nobody took."""
        if not self._body and not self._ended and not self._gone:
            await self._wanted()
        while not (self._gone or self._body or (self._ended and not self._end_taken)):
            self._news = trio.Event()
            await self._news.wait()
        if self._gone:
            return {"type": "http.disconnect"}
        body = bytes(self._body)
        self._body.clear()
        self._end_taken = self._ended
        self._room.set()
        await self._taken(len(body))
        return {"type": "http.request", "body": body, "more_body": not self._ended}

    def discard(self) -> int:
        """Drop what nobody took and say how many bytes it was."""
        count_bytes = len(self._body)
        self._body.clear()
        return count_bytes
