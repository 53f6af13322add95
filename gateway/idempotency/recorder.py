"""An exchange that records the answer going through it. Everything else is the client's exchange, untouched.

Bytes are recorded before they are sent: an answer whose last bytes the client did not wait for is whole all the same,
and a retry gets it. The pump writes to sockets past its exchange, so there is no `pump_fd`: the call's own task relays.
"""

from __future__ import annotations

import trio

from gateway.exchange import Exchange, Headers
from gateway.idempotency.answers import Recording


class Recorder:
    """See Exchange."""

    __slots__ = (
        "_exchange", "_recording", "bounds_sends", "headers", "lane", "method", "path", "request_id",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, recording: Recording) -> None:
        self._exchange = exchange
        self._recording = recording
        self.bounds_sends = exchange.bounds_sends
        self.headers = exchange.headers
        self.lane = exchange.lane
        self.method = exchange.method
        self.path = exchange.path
        self.request_id = exchange.request_id

    @property
    def gone(self) -> bool:
        """See Exchange. One truth: the client's exchange and its connection read and set it too."""
        return self._exchange.gone

    @gone.setter
    def gone(self, gone: bool) -> None:
        self._exchange.gone = gone

    def watch(self, scope: trio.CancelScope) -> None:
        """See Exchange."""
        self._exchange.watch(scope)

    async def read_body(self) -> bytes:
        """See Exchange."""
        return await self._exchange.read_body()

    async def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """See Exchange."""
        self._recording.record(status, headers, body)
        await self._exchange.reply(status, headers, body)

    async def start(self, status: int, headers: Headers, first: bytes, *, last: bool = False) -> None:
        """See Exchange."""
        self._recording.begin(status, headers, stream=True)
        self._recording.add(first)
        if last:
            self._recording.end()
        await self._exchange.start(status, headers, first, last=last)

    async def send(self, data: bytes) -> None:
        """See Exchange."""
        self._recording.add(data)
        await self._exchange.send(data)

    async def finish(self, last: bytes = b"") -> None:
        """See Exchange."""
        self._recording.add(last)
        self._recording.end()
        await self._exchange.finish(last)

    def pump_fd(self) -> int | None:
        """See Exchange. None: the pump would write past the recording."""
        return None

    def wire(self, data: bytes, *, last: bool) -> bytes:
        """See Exchange."""
        return self._exchange.wire(data, last=last)

    def owe(self, wire: bytes) -> None:
        """See Exchange."""
        self._exchange.owe(wire)
