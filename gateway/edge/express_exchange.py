"""One request on the express lane and the answer to it, in HTTP/1.1 framing. See `gateway.exchange.Exchange`.

The body is read when asked for, up to its exact end; what follows it stays with the connection. Once a write was cut
short nothing more is written: the client could not tell what it belongs to.
"""

from __future__ import annotations

from typing import Final, Protocol

import trio

from gateway.edge.chunked import ChunkDecoder
from gateway.edge.head import Head
from gateway.edge.lanes import Edge
from gateway.edge.wire import Wire
from gateway.errors import GatewayError, PayloadTooLarge, RequestTimeout
from gateway.exchange import ClientGone, ClientStalled, Headers


class Connection(Protocol):
    """What a request needs of the connection it came on."""

    edge: Edge
    wire: Wire
    buffer: bytes
    half_closed: bool

    def watch(self) -> None:
        """Have the poll set report EOF to the request under way."""


_REASONS: Final = {
    200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 402: b"Payment Required", 403: b"Forbidden",
    404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout", 409: b"Conflict",
    413: b"Content Too Large", 422: b"Unprocessable Content", 429: b"Too Many Requests",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 502: b"Bad Gateway",
    503: b"Service Unavailable", 504: b"Gateway Timeout",
}  # fmt: skip


def render_head(edge: Edge, status: int, headers: Headers, *, length: int | None, close: bool) -> bytes:
    """The head of an answer; `length` None for one that is chunked (or, with HTTP/1.0, ends by closing)."""
    parts = [b"HTTP/1.1 %d %b\r\ndate: %b\r\n" % (status, _REASONS.get(status, b"Unknown"), edge.date())]
    parts.extend(b"%b: %b\r\n" % header for header in headers)
    if length is not None:
        parts.append(b"content-length: %d\r\n" % length)
    if close:
        parts.append(b"connection: close\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


class ExpressExchange:
    """One request on an express connection. See Exchange."""

    __slots__ = (
        "_body_held", "_chunked", "_complete", "_connection", "_cut", "_edge", "_head", "_owed", "_wire", "body_read",
        "bounds_sends", "gone",
        "headers", "keep_alive", "lane", "linger", "method", "path", "reading_on", "request_id", "scope",
    )  # fmt: skip

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._edge = connection.edge
        self._wire = connection.wire
        self._head = head
        self._body_held = 0
        self._owed = b""
        self._complete = False
        self._cut = False
        self._chunked = not head.http10
        self.body_read = False
        self.reading_on: trio.Event | None = None
        self.gone = False
        self.bounds_sends = self._wire.fileno() is not None
        self.headers = head.headers
        self.keep_alive = head.keep_alive
        self.lane = "express"
        self.linger = False
        self.method = head.method
        self.path = head.path
        self.request_id = self._edge.ids.request_id()
        self.scope: trio.CancelScope | None = None

    def watch(self, scope: trio.CancelScope) -> None:
        """See Exchange."""
        self.scope = scope
        self.body_read = True
        if self.reading_on is not None:
            self.reading_on.set()
        self._connection.watch()
        if self._connection.half_closed:
            self.client_left()

    def client_left(self) -> None:
        """EOF on read, or a broken connection."""
        if self.scope is not None:
            self.gone = True
            self.scope.cancel()

    def close(self) -> None:
        """The call is over: let go of what was held for it."""
        self._edge.bodies.give_back(self._body_held)
        self._body_held = 0

    async def read_body(self) -> bytes:
        """See Exchange. Raises RequestTimeout, PayloadTooLarge, Overloaded, BadRequest, ClientGone."""
        head, limit = self._head, self._edge.limits.inference_body_bytes_max
        length = head.content_length
        if length is not None and length > limit:
            self._broken_off()
            raise PayloadTooLarge(f"the body has {length} bytes; at most {limit} are taken")
        buffer = self._connection.buffer
        if length is not None and len(buffer) >= length:
            body, self._connection.buffer = buffer[:length], buffer[length:]
            self._take(length)
            return body
        return await self._receive_body(length, limit)

    async def _receive_body(self, length: int | None, limit: int) -> bytes:
        try:
            with trio.fail_after(self._edge.limits.body_s):
                if self._head.expect_continue:
                    await self._wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                if length is not None:
                    return await self._receive_sized(length)
                return await self._receive_chunked(limit)
        except trio.TooSlowError:
            self._broken_off()
            raise RequestTimeout("the request body did not arrive in time (server.body_s)") from None
        except GatewayError:
            self._broken_off()
            raise
        except ClientGone:
            self.gone = True
            raise

    async def _receive_sized(self, length: int) -> bytes:
        parts, size = [], 0
        data, self._connection.buffer = self._connection.buffer, b""
        while True:
            if size + len(data) > length:
                self._connection.buffer = data[length - size :]
                data = data[: length - size]
            self._take(len(data))
            parts.append(data)
            size += len(data)
            if size == length:
                return b"".join(parts)
            data = await self._receive_some()

    async def _receive_chunked(self, limit: int) -> bytes:
        parts, size, decoder = [], 0, ChunkDecoder()
        data, self._connection.buffer = self._connection.buffer, b""
        while True:
            piece = decoder.feed(data)
            self._take(len(piece))
            parts.append(piece)
            size += len(piece)
            if size > limit:
                raise PayloadTooLarge(f"the body is over {limit} bytes")
            if decoder.done:
                self._connection.buffer = decoder.rest
                return b"".join(parts)
            await trio.lowlevel.checkpoint()  # decoding chunks is slow enough to let others in
            data = await self._receive_some()

    async def _receive_some(self) -> bytes:
        data = await self._wire.receive()
        if not data:
            self.keep_alive = False
            raise ClientGone
        return data

    def _take(self, size_bytes: int) -> None:
        try:
            self._edge.bodies.take(size_bytes)
        except GatewayError:
            self._broken_off()
            raise
        self._body_held += size_bytes

    def _broken_off(self) -> None:
        """The body is not read to its end: the connection cannot carry another request."""
        self.keep_alive = False
        self.linger = True

    async def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """See Exchange."""
        if not self.body_read:
            self._unread_body()
        head = render_head(self._edge, status, headers, length=len(body), close=self._closing())
        self._complete = True
        await self._send(head, body)

    def _unread_body(self) -> None:
        """An answer before the body was read: skip what is here of it, or close."""
        length = self._head.content_length
        buffer = self._connection.buffer
        if self.linger or self._body_held or length == 0:
            return
        if length is not None and len(buffer) >= length and not self._head.expect_continue:
            self._connection.buffer = buffer[length:]
        else:
            self._broken_off()

    async def start(self, status: int, headers: Headers, first: bytes, *, last: bool = False) -> None:
        """See Exchange."""
        if self._chunked:
            headers = [*headers, (b"transfer-encoding", b"chunked")]
        else:
            self.keep_alive = False
        head = render_head(self._edge, status, headers, length=None, close=self._closing())
        await self._send(head, *self._framed(first, last=last))

    async def send(self, data: bytes) -> None:
        """See Exchange."""
        await self._send(*self._framed(data, last=False))

    async def finish(self, last: bytes = b"") -> None:
        """See Exchange. After an answer that is complete, or was cut, only what is owed can still go."""
        if self._complete or self._cut:
            await self._send()
        else:
            await self._send(*self._framed(last, last=True))

    async def _send(self, *parts: bytes) -> None:
        if self._cut:
            return
        owed, self._owed = self._owed, b""
        try:
            await self._wire.send(owed, *parts)
        except ClientGone:
            self.gone = True
            raise
        except ClientStalled:
            self._cut, self.keep_alive = True, False
            raise
        except trio.Cancelled:  # somewhere inside: nothing that follows would be understood
            self._cut, self.keep_alive = True, False
            raise

    def _closing(self) -> bool:
        self.keep_alive = self.keep_alive and not self._edge.draining
        return not self.keep_alive

    def pump_fd(self) -> int | None:
        """See Exchange."""
        return self._wire.fileno()

    def wire(self, data: bytes, *, last: bool) -> bytes:
        """See Exchange. Joined: for a frame or two a copy costs less than a longer `writev`."""
        return b"".join(self._framed(data, last=last))

    def _framed(self, data: bytes, *, last: bool) -> tuple[bytes, ...]:
        """`data` in chunk framing (RFC 9112 section 7.1), not copied."""
        self._complete = last
        if not self._chunked:
            return (data,)
        if not data:
            return (b"0\r\n\r\n",) if last else ()
        return b"%x\r\n" % len(data), data, (b"\r\n0\r\n\r\n" if last else b"\r\n")

    def owe(self, wire: bytes) -> None:
        """See Exchange."""
        self._owed += wire
