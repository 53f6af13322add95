"""Comments before the first content: a stream whose provider thinks for long must not look dead to a proxy between.

The trade, said once: for `keepalive_s` a streaming call stays silent, and an error still gets its own HTTP status;
then it answers 200 with a comment, fallback between providers goes on behind it, and an error is told in the stream.
One service task looks at the waiting calls on a coarse tick, so a call that is answered in time pays two set
operations. A comment is never cut in the middle: `leave` waits for the one under way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from gateway.dialects.sse import KEEPALIVE
from gateway.exchange import ClientGone, ClientStalled, Exchange

TICK_S: Final = 0.25


class Waiting:
    """One streaming call before its first content. `begun` once its answer has been started here."""

    __slots__ = ("begun", "due", "exchange", "sent", "silence_s", "start")

    def __init__(self, exchange: Exchange, start: Callable[[bytes], Awaitable[None]], silence_s: float) -> None:
        self.exchange = exchange
        self.start = start
        self.silence_s = silence_s
        self.due = trio.current_time() + silence_s
        self.begun = False
        self.sent: trio.Event | None = None

    async def beat(self) -> None:
        """Send one comment, with the head of the answer before the first."""
        begun, self.begun = self.begun, True
        try:
            if begun:
                await self.exchange.send(KEEPALIVE)
            else:
                await self.start(KEEPALIVE)
        except (ClientGone, ClientStalled):
            self.exchange.gone = True  # the call's own watch may have seen it; nothing more can be said
        finally:
            self.due = trio.current_time() + self.silence_s
            if self.sent is not None:
                self.sent.set()
            self.sent = None


class Heartbeat:
    """The waiting calls. `run` is the service task."""

    def __init__(self) -> None:
        self._waiting: set[Waiting] = set()

    async def run(self) -> None:
        """Send comments until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(TICK_S)
                now = trio.current_time()
                for waiting in self._waiting:
                    if now >= waiting.due and waiting.sent is None:
                        waiting.sent = trio.Event()
                        nursery.start_soon(waiting.beat)

    def join(self, waiting: Waiting) -> None:
        """A call begins to wait."""
        self._waiting.add(waiting)

    async def leave(self, waiting: Waiting, stall_s: float) -> bool:
        """The wait is over; whether the answer has begun. Raises ClientStalled when a comment cannot be sent."""
        self._waiting.discard(waiting)
        if waiting.sent is not None:
            with trio.move_on_after(stall_s):
                await waiting.sent.wait()
                return waiting.begun
            raise ClientStalled
        return waiting.begun
