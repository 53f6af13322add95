"""The pipeline behind ASGI: HTTP/2, and HTTP/1.1 as Hypercorn serves it. Dispatched before Quart builds a Request.

The client's leaving arrives as `http.disconnect`; a task of the call's own waits for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from gateway.edge.lanes import Edge
from gateway.errors import BadRequest, PayloadTooLarge, RequestTimeout
from gateway.exchange import INFERENCE_PATHS, ClientGone, Headers

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_CHUNK_BYTES: Final = 65536


def is_inference(scope: Mapping[str, Any]) -> bool:
    """Whether the pipeline serves this request. The raw path counts: an escaped one is another path."""
    return scope["type"] == "http" and scope["raw_path"].decode("latin-1") in INFERENCE_PATHS


async def serve_asgi(edge: Edge, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """Serve one inference request."""
    exchange = AsgiExchange(edge, scope, receive, send)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.wait_for_disconnect)
            await edge.handle(exchange)
            nursery.cancel_scope.cancel()
    finally:
        exchange.close()


class AsgiExchange:
    """One ASGI request. See Exchange."""

    def __init__(self, edge: Edge, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        self._edge = edge
        self._receive = receive
        self._send = send
        self._body_held = 0
        self._watching = trio.Event()
        self._over = False
        self._scope: trio.CancelScope | None = None
        self.gone = False
        self.bounds_sends = False
        self.headers: Headers = [(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]]
        self.lane = "h2" if scope["http_version"] == "2" else "h1"
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("latin-1")
        self.request_id = edge.ids.request_id()

    def watch(self, scope: trio.CancelScope) -> None:
        """See Exchange."""
        self._scope = scope
        self._watching.set()

    async def wait_for_disconnect(self) -> None:
        """Wait until the body was read, then for the client to leave."""
        await self._watching.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._over:
            return  # Hypercorn says it too when the answer is complete, from inside the last send
        self.gone = True
        if self._scope is not None:
            self._scope.cancel()

    def close(self) -> None:
        """Let go of the body."""
        self._edge.bodies.give_back(self._body_held)
        self._body_held = 0

    async def read_body(self) -> bytes:
        """See Exchange."""
        limit = self._edge.limits.inference_body_bytes_max
        length = self._content_length()
        if length > limit:
            raise PayloadTooLarge(f"the body has {length} bytes; at most {limit} are taken")
        try:
            with trio.fail_after(self._edge.limits.body_s):
                return await self._receive_body(limit)
        except trio.TooSlowError:
            raise RequestTimeout("the request body did not arrive in time (server.body_s)") from None

    async def _receive_body(self, limit: int) -> bytes:
        parts, size = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise ClientGone
            part = message.get("body", b"")
            self._edge.bodies.take(len(part))
            self._body_held += len(part)
            parts.append(part)
            size += len(part)
            if size > limit:
                raise PayloadTooLarge(f"the body is over {limit} bytes")
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _content_length(self) -> int:
        for name, value in self.headers:
            if name == b"content-length":
                if not value.isdigit():
                    raise BadRequest("content-length must be a decimal number")
                return int(value)
        return 0

    async def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """See Exchange."""
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        await self._start(status, headers)
        await self.finish(body)

    async def start(self, status: int, headers: Headers, first: bytes, *, last: bool = False) -> None:
        """See Exchange."""
        await self._start(status, headers)
        if last:
            await self.finish(first)
        elif first:
            await self.send(first)

    async def _start(self, status: int, headers: Headers) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes) -> None:
        """See Exchange."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, last: bytes = b"") -> None:
        """See Exchange. The last bytes have gone before the end is said."""
        if last:
            await self.send(last)
        self._over = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def pump_fd(self) -> int | None:
        """See Exchange."""
        return None

    def wire(self, data: bytes, *, last: bool) -> bytes:
        """See Exchange. ASGI frames by itself."""
        del last
        return data

    def owe(self, wire: bytes) -> None:
        """See Exchange. Nothing is ever owed."""
        raise AssertionError(f"{len(wire)} bytes owed to an ASGI client")
