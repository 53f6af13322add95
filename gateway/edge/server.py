"""Our place inside Hypercorn: every client connection starts here, is guarded, and takes the express lane when it can.

`worker_serve` looks `TCPServer` up as a module global; `install` puts `EdgeServer` there. No exception of a
connection may reach the server nursery, where it would end every other connection of the process.
"""

from __future__ import annotations

import contextlib
import copy
import socket
from typing import Any, Final

import hypercorn.trio.run
import structlog
import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio.tcp_server import TCPServer

from gateway.edge import hypercorn_fixes
from gateway.edge.bounded_send import CLOSE_S, BoundedSendMixin, listen_options
from gateway.edge.express import H2_PREFACE, ExpressConnection
from gateway.edge.lanes import Edge
from gateway.edge.own_answers import RenderError
from gateway.edge.wire import SocketWire, StreamWire, Wire
from gateway.exchange import ClientGone

BACKLOG: Final = 2048
_NEVER: Final = 2**31


class EdgeConfig(Config):
    """Hypercorn's configuration with the edge on it, every default that matters set."""

    edge: Edge
    send_stall_s: float

    def __init__(
        self, edge: Edge, *, binds: list[str], client_stall_s: float, graceful_s: float, streams_max: int
    ) -> None:
        super().__init__()
        self.edge = edge
        self.send_stall_s = client_stall_s
        self.bind = binds
        self.accesslog = None
        self.errorlog = None
        self.include_server_header = False
        self.graceful_timeout = graceful_s
        self.keep_alive_timeout = int(edge.limits.keep_alive_s)
        self.keep_alive_max_requests = _NEVER  # HARDENING of HTTP/2: a GOAWAY here would silence streams under way
        self.h2_max_concurrent_streams = streams_max
        self.h2_max_header_list_size = 65536
        self.h11_max_incomplete_size = 65536
        self.max_app_queue_size = 10
        self.ssl_handshake_timeout = int(edge.limits.header_s)
        self.backlog = BACKLOG

    def for_h1(self) -> EdgeConfig:
        """The same for one HTTP/1.1 request: the connection closes after its answer, the next begins on ours."""
        config = copy.copy(self)
        config.keep_alive_max_requests = 1
        return config

    def open_sockets(self) -> Sockets:
        """Bind and listen. Raises OSError naming the address."""
        sockets = self.create_sockets()
        for sock in (*sockets.secure_sockets, *sockets.insecure_sockets):
            listen_options(sock, int(self.send_stall_s * 1000))
            sock.listen(BACKLOG)
        return sockets


def install(render_error: RenderError) -> None:
    """Put our classes where Hypercorn looks its own up."""
    hypercorn_fixes.install(render_error=render_error)
    setattr(hypercorn.trio.run, "TCPServer", EdgeServer)  # noqa: B010 - a name Hypercorn imports, not exports


class EdgeServer(BoundedSendMixin, TCPServer):
    """One client connection, from accept to close."""

    config: EdgeConfig
    stream: Any  # a SocketStream or an SSLStream, or one of ours round it

    async def run(self) -> None:
        """Serve the connection; ends normally whatever happens on it."""
        edge = self.config.edge
        if edge.open_connections >= edge.limits.connections_max:
            await trio.aclose_forcefully(self.stream)
            return
        edge.open_connections += 1
        edge.hang_ups.add(self.abandon_send)
        try:
            await self._serve()
        except ClientGone:
            pass
        except trio.Cancelled:
            raise
        except (Exception, BaseExceptionGroup) as exc:
            if isinstance(exc, BaseExceptionGroup) and exc.split(trio.Cancelled)[1] is None:
                raise
            structlog.get_logger().error("connection_failed", exc_info=exc)
        finally:
            edge.open_connections -= 1
            edge.hang_ups.discard(self.abandon_send)
            await self._hang_up()

    async def _hang_up(self) -> None:
        """Close; over TLS with a farewell, when there is somebody to take it."""
        with trio.move_on_after(CLOSE_S, shield=True):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.stream.aclose()
            return
        await trio.aclose_forcefully(self.stream)

    async def _serve(self) -> None:
        tls = isinstance(self.stream, trio.SSLStream)
        if tls and not await self._handshake():
            return
        if tls and self.stream.selected_alpn_protocol() == "h2":
            self.stream = _Handed(self.stream, b"")
            await super().run()
            return
        wire: Wire = StreamWire(self.stream) if tls else SocketWire(self.stream, self.config.send_stall_s)
        rest = await self._express(wire)
        if rest:
            if not rest.startswith(H2_PREFACE):
                self.config = self.config.for_h1()
            self.stream = (_Handed if tls else _HandedSocket)(self.stream, rest)
            await super().run()

    async def _handshake(self) -> bool:
        with trio.move_on_after(self.config.edge.limits.header_s):
            try:
                await self.stream.do_handshake()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return False
            return True
        return False

    async def _express(self, wire: Wire) -> bytes | None:
        edge = self.config.edge
        connection = ExpressConnection(edge, wire)
        edge.connections.add(connection)
        try:
            return await connection.run()
        finally:
            edge.connections.discard(connection)


class _HandedSocket:
    """A socket stream whose first bytes were read already."""

    def __init__(self, stream: Any, first: bytes) -> None:
        self._stream = stream
        self._first = first

    @property
    def socket(self) -> trio.socket.SocketType:
        """For the addresses."""
        found: trio.socket.SocketType = self._stream.socket
        return found

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The first bytes, then the stream's."""
        first, self._first = self._first, b""
        return first or bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes) -> None:
        """As the stream."""
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        """As the stream; TLS has none, and says so by AttributeError, which Hypercorn expects."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """As the stream."""
        await self._stream.aclose()


class _Handed(_HandedSocket):
    """The same for TLS, its handshake done."""

    @property
    def transport_stream(self) -> trio.SocketStream:
        """For the addresses."""
        found: trio.SocketStream = self._stream.transport_stream
        return found

    async def do_handshake(self) -> None:
        """Done."""

    def selected_alpn_protocol(self) -> str | None:
        """What was agreed; Hypercorn takes None for HTTP/1.1 with upgrade to HTTP/2 by its preface."""
        chosen: str | None = self._stream.selected_alpn_protocol()
        return chosen


def address_of(sock: socket.socket) -> str:
    """HOST:PORT of a listening socket, IPv6 in brackets."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
