"""Sends with a deadline, for `TCPServer` subclasses, and the kernel's own deadline for listening sockets.

Hypercorn shields its sends from cancellation, because a frame cut in the middle breaks every stream of a connection,
but gives them no deadline: one client that stops reading holds the server's stop for ever. Here a send is shielded
for at most `config.send_stall_s` (seconds per 64 KiB, 30 when unset), then the socket is closed without a farewell.
"""

from __future__ import annotations

import socket

import trio
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer

from gateway.edge.h2_connection import stall_s_of

# The piece that has to be sent within the deadline: large enough to cost nothing, small enough to prove progress.
SLICE_BYTES = 65_536

# A TLS farewell to a client that does not read would wait for ever too.
CLOSE_S = 1.0


class BoundedSendMixin(TCPServer):
    """Mix in before `TCPServer`: `class EdgeServer(BoundedSendMixin, TCPServer)`."""

    _send_scope: trio.CancelScope | None = None
    _read_over = False

    async def protocol_send(self, event: Event) -> None:
        """Send bytes, in order, each slice within `config.send_stall_s`; other events as Hypercorn does."""
        if isinstance(event, Updated) and self._read_over:
            return
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            if not await self._send_slices(event.data):
                try:
                    await self.protocol.handle(Closed())
                finally:
                    await trio.aclose_forcefully(self.stream)

    def abandon_send(self) -> None:
        """Give up the send under way, if any, and so the connection. For the end of a stop's grace."""
        if self._send_scope is not None:
            self._send_scope.cancel()

    async def _send_slices(self, data: bytes) -> bool:
        """True when all was sent; False when the client has gone or does not read."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), SLICE_BYTES):
                with trio.move_on_after(stall_s_of(self.config), shield=True) as self._send_scope:
                    await self.stream.send_all(view[start : start + SLICE_BYTES])
                if self._send_scope.cancelled_caught:
                    return False
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            return False  # busy: the app is closing the connection meanwhile
        finally:
            self._send_scope = None
        return True

    async def _read_data(self) -> None:
        """Read to the end, then stop the idle clock, which would hold the connection for its whole timeout."""
        await super()._read_data()
        self._read_over = True
        await self.idle_task.stop()

    async def _close(self) -> None:
        """Say farewell within `CLOSE_S`, cancelled or not, and leave no socket open."""
        with trio.move_on_after(CLOSE_S, shield=True):
            await super()._close()
            return
        await trio.aclose_forcefully(self.stream)

    async def _initiate_server_close(self) -> None:
        await self.protocol.handle(Closed())
        await self._close()


def listen_options(sock: socket.socket, user_timeout_ms: int) -> bool:
    """Let the kernel end connections whose client acknowledges nothing, or keeps a zero window, for so long.

    Sets TCP_USER_TIMEOUT (RFC 5482), which accepted sockets inherit. False where there is none (not Linux, not TCP).

    Raises:
        ValueError: `user_timeout_ms` is not positive; zero would mean the kernel's default of minutes.
    """
    if user_timeout_ms <= 0:
        msg = f"user_timeout_ms is {user_timeout_ms}; give a positive number of milliseconds"
        raise ValueError(msg)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    sock.setsockopt(socket.IPPROTO_TCP, option, user_timeout_ms)
    return True
