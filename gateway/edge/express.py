"""The express lane: HTTP/1.1 inference requests, parsed by llhttp and served in place, on the connection's own task.

One connection is one loop: wait for a head, check it, serve it when it names an inference route, else hand the bytes
back unread for Hypercorn. At most one read of pipelined input is kept; while a call is served a socket is not read
at all, the poll set reports its EOF. Answers leave in one write each.
"""

from __future__ import annotations

from typing import Final

import trio

from gateway.edge.express_exchange import ExpressExchange, render_head
from gateway.edge.head import Head, find_head_end, parse_head
from gateway.edge.lanes import Edge
from gateway.edge.replies import error_reply
from gateway.edge.wire import Wire
from gateway.errors import GatewayError, RequestTimeout
from gateway.exchange import INFERENCE_PATHS, ClientGone
from gateway.pollset import PEER_CLOSED

H2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PIPELINED_BYTES_MAX: Final = 65536
CALLS_PER_CHECKPOINT: Final = 8  # of pipelined calls that were answered without a wait


class ExpressConnection:
    """One client connection. `deadline` and `scope` let the edge's reaper end one that idles or dawdles."""

    __slots__ = ("_exchange", "_watching", "buffer", "busy", "deadline", "edge", "half_closed", "scope", "wire")

    def __init__(self, edge: Edge, wire: Wire) -> None:
        self.edge = edge
        self.wire = wire
        self.buffer = b""
        self.busy = False
        self.half_closed = False
        self._exchange: ExpressExchange | None = None
        self._watching = False
        self.deadline = trio.current_time() + edge.limits.header_s
        self.scope = trio.CancelScope()

    async def run(self) -> bytes | None:
        """Serve until the connection is over (None), or return the bytes that Hypercorn is to have.

        Raises ClientGone.
        """
        try:
            return await self._run()
        finally:
            self._unwatch()

    async def _run(self) -> bytes | None:
        calls = 0
        with self.scope:
            while True:
                calls += 1
                if self.buffer and calls % CALLS_PER_CHECKPOINT == 0:
                    await trio.lowlevel.checkpoint()
                try:
                    head, size = await self._next_head()
                except GatewayError as error:
                    await self._refuse(error)
                    return None
                if head is None:
                    return self.buffer or None
                raw, self.buffer = self.buffer, self.buffer[size:]
                if not self.edge.express or head.method != "POST" or head.path not in INFERENCE_PATHS:
                    return raw
                if not await self._serve(head):
                    return None
                self.deadline = trio.current_time() + self.edge.limits.keep_alive_s
                if self.edge.draining:
                    return None
        if self.buffer and not self.busy:
            await self._refuse(RequestTimeout("the request head did not arrive in time (server.header_s)"))
        return None

    def watch(self) -> None:
        """Have the poll set report EOF, from the first call to the end of the connection: one system call for all."""
        fd = self.wire.fileno()
        if fd is not None and not self._watching and not self.half_closed:
            self._watching = True
            self.edge.pollset.add(fd, PEER_CLOSED, self._peer_closed)

    def _unwatch(self) -> None:
        fd = self.wire.fileno()
        if fd is not None and self._watching:
            self._watching = False
            self.edge.pollset.remove(fd, PEER_CLOSED)

    def _peer_closed(self) -> None:
        """EOF on read, or a broken connection. Between calls the next read sees it too."""
        self._unwatch()
        self.half_closed = True
        if self._exchange is not None:
            self._exchange.client_left()

    async def _next_head(self) -> tuple[Head | None, int]:
        """Read until a head is complete. (None, 0) at EOF, and for HTTP/2, whose bytes are then in `buffer`."""
        begun = False
        while True:
            buffer = self.buffer
            if buffer:
                if buffer[:3] == b"PRI" and H2_PREFACE.startswith(buffer[: len(H2_PREFACE)]):
                    if len(buffer) >= len(H2_PREFACE):
                        return None, 0
                else:
                    size = find_head_end(buffer)
                    if size >= 0:
                        return parse_head(buffer[:size]), size
                if not begun:  # not all of it came at once: from here on the client has so long
                    begun = True
                    self.deadline = trio.current_time() + self.edge.limits.header_s
            data = await self.wire.receive()
            if not data:
                self.buffer = b""
                return None, 0
            # RFC 9112 section 2.2: skip blank lines before a request
            self.buffer = buffer + data if buffer else data.lstrip(b"\r\n")

    async def _serve(self, head: Head) -> bool:
        """Serve one call; whether the connection may carry another."""
        self._exchange = exchange = ExpressExchange(self, head)
        self.busy, self.deadline = True, float("inf")
        try:
            if self.wire.fileno() is not None:
                await self.edge.handle(exchange)
            else:
                await self._serve_watched(exchange)
        finally:
            self._exchange = None
            exchange.close()
            self.busy = False
        if exchange.linger:
            await self._linger()
        return exchange.keep_alive and not exchange.gone

    async def _serve_watched(self, exchange: ExpressExchange) -> None:
        """Over a stream that cannot be polled, EOF has to be read for."""
        exchange.reading_on = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_for_eof, exchange)
            await self.edge.handle(exchange)
            nursery.cancel_scope.cancel()

    async def _read_for_eof(self, exchange: ExpressExchange) -> None:
        assert exchange.reading_on is not None
        await exchange.reading_on.wait()
        while len(self.buffer) < PIPELINED_BYTES_MAX:
            try:
                data = await self.wire.receive()
            except ClientGone:
                data = b""
            if not data:
                exchange.client_left()
                return
            self.buffer += data
        exchange.keep_alive = False  # more pipelined than we keep: served, then closed

    async def _refuse(self, error: GatewayError) -> None:
        """Answer a head that cannot be served; the connection closes, as its framing is no longer known."""
        self.buffer, self.deadline = b"", float("inf")  # this answer is the last one
        status, headers, body = error_reply(error, self.edge.ids.request_id())
        with trio.move_on_after(self.edge.limits.linger_s):
            await self.wire.send(render_head(self.edge, status, headers, length=len(body), close=True), body)
            await self._linger()

    async def _linger(self) -> None:
        """Read on for a moment, so that the kernel does not reset the connection before the answer was read."""
        with trio.move_on_after(self.edge.limits.linger_s):
            self.edge.shut_writing(self.wire)
            left = self.edge.limits.linger_bytes_max
            while left > 0 and (data := await self.wire.receive()):
                left -= len(data)
