"""Byte transports to a provider: a TCP socket, with or without TLS, read and written without a task switch when ready.

`receive` and `send` wait only when the kernel has nothing for them: no checkpoint otherwise, so a loop over a fast
socket must checkpoint by itself. `receive_now` never waits: the pump uses it. Closing the socket is the cancel.
TLS is `ssl.SSLObject` over memory buffers, so that the pump can drive it too (trio.SSLStream keeps its own private).
"""

from __future__ import annotations

import os
import select
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

READ_BYTES = 65536


class TransportBroken(Exception):
    """The peer or the network broke the connection."""


class Transport(Protocol):
    """What the HTTP client needs of a connection. `fileno` is None where no kernel socket can be polled."""

    def fileno(self) -> int | None:
        """The pollable descriptor."""

    async def receive(self) -> bytes:
        """Some bytes; b"" at the end of the stream. Raises TransportBroken."""

    def receive_now(self) -> bytes | None:
        """Like `receive` but None when nothing is there yet."""

    async def send(self, parts: Sequence[bytes]) -> None:
        """Send all parts. Raises TransportBroken."""

    def is_quiet(self) -> bool:
        """Whether an idle connection is still open with nothing to read: fit for another request."""

    def close(self) -> None:
        """Close at once; the peer sees it. Never raises, may be called twice."""


class SocketTransport:
    """Cleartext TCP."""

    __slots__ = ("_fd", "_idle", "_more", "_stream")

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._more = False  # whether the last read was a full one; after a short one the socket is empty
        self._fd = stream.socket.fileno()
        self._idle = select.poll()
        self._idle.register(self._fd, select.POLLIN)

    def fileno(self) -> int | None:
        """The socket."""
        return self._fd

    async def receive(self) -> bytes:
        """See Transport."""
        if not self._more:
            await self._wait(trio.lowlevel.wait_readable)
        while True:
            data = self.receive_now()
            if data is not None:
                return data
            await self._wait(trio.lowlevel.wait_readable)

    def receive_now(self) -> bytes | None:
        """See Transport."""
        return self._read_socket()

    def _read_socket(self) -> bytes | None:
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            self._more = False
            return None
        except OSError as exc:
            raise TransportBroken(exc.strerror or "read failed") from exc
        self._more = len(data) == READ_BYTES
        return data

    async def send(self, parts: Sequence[bytes]) -> None:
        """See Transport. One `writev`; the rare remainder is joined and sent as the socket drains."""
        try:
            sent = os.writev(self._fd, parts)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise TransportBroken(exc.strerror or "write failed") from exc
        if sent == sum(map(len, parts)):
            return
        rest = memoryview(b"".join(parts))[sent:]
        while rest:
            await self._wait(trio.lowlevel.wait_writable)
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise TransportBroken(exc.strerror or "write failed") from exc

    def is_quiet(self) -> bool:
        """See Transport. An end of stream, an error and stray bytes all disqualify. Asked once a call: 0.3 us."""
        return self._fd >= 0 and not self._idle.poll(0)

    def close(self) -> None:
        """See Transport."""
        self._fd = -1
        self._stream.socket.close()

    async def _wait(self, ready: Callable[[int], Awaitable[None]]) -> None:
        try:
            await ready(self._fd)
        except (trio.ClosedResourceError, OSError, ValueError) as exc:
            raise TransportBroken("closed") from exc


class TlsTransport(SocketTransport):
    """TLS over TCP. `handshake` comes first; a peer that ends without close_notify looks like any end of stream
    (HTTP framing tells a cut from an end).
    """

    __slots__ = ("_incoming", "_outgoing", "_tls")

    def __init__(self, stream: trio.SocketStream, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__(stream)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    def is_quiet(self) -> bool:
        """See Transport. Records without data do not disqualify, so they have to be read."""
        if super().is_quiet():
            return True
        try:
            return self.receive_now() is None
        except TransportBroken:
            return False

    async def handshake(self) -> None:
        """Run the TLS handshake and check the certificate. Raises TransportBroken."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                while (data := self._read_socket()) is None:
                    await self._wait(trio.lowlevel.wait_readable)
                if not data:
                    raise TransportBroken("closed in the TLS handshake") from None
                self._incoming.write(data)
            except ssl.SSLError as exc:
                raise TransportBroken(f"TLS handshake failed: {exc.reason}") from exc
            else:
                return await self._flush()

    def receive_now(self) -> bytes | None:
        """See Transport. Records that hold no data (session tickets, key updates) count as nothing there."""
        data = self._read_socket()
        if data is None:
            return self._decrypt() or None
        if data == b"":
            self._incoming.write_eof()
        else:
            self._incoming.write(data)
        plain = self._decrypt()
        return plain or (b"" if data == b"" else None)

    def _decrypt(self) -> bytes:
        plain = []
        try:
            while piece := self._tls.read(READ_BYTES):
                plain.append(piece)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        except ssl.SSLError as exc:
            raise TransportBroken(f"TLS failed: {exc.reason}") from exc
        return plain[0] if len(plain) == 1 else b"".join(plain)

    async def send(self, parts: Sequence[bytes]) -> None:
        """See Transport."""
        try:
            for part in parts:
                if part:
                    self._tls.write(part)
        except ssl.SSLError as exc:
            raise TransportBroken(f"TLS failed: {exc.reason}") from exc
        await self._flush()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await super().send((self._outgoing.read(),))
