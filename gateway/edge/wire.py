"""The client's connection as the express lane uses it: a bare socket (fast), or any Trio stream (TLS, memory)."""

from __future__ import annotations

import os
from typing import Protocol

import trio

from gateway.exchange import ClientGone

READ_BYTES = 65536


class Wire(Protocol):
    """Bytes from and to the client."""

    def fileno(self) -> int | None:
        """The socket, when it may be written to directly and watched for EOF without reading."""

    async def receive(self) -> bytes:
        """Some bytes; b"" at EOF. Raises ClientGone."""

    async def send(self, data: bytes) -> None:
        """Send all. Raises ClientGone. Waits while the client does not read: the caller's deadline bounds it."""

    def send_now(self, data: bytes) -> int:
        """Send what goes without waiting; how many bytes went. Raises ClientGone."""


class SocketWire:
    """A cleartext socket. No checkpoint when the kernel is ready."""

    __slots__ = ("_fd",)

    def __init__(self, stream: trio.SocketStream) -> None:
        self._fd = stream.socket.fileno()

    def fileno(self) -> int | None:
        """The socket."""
        return self._fd

    async def receive(self) -> bytes:
        """See Wire."""
        while True:
            try:
                return os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                pass
            except OSError as exc:
                raise ClientGone from exc
            await trio.lowlevel.wait_readable(self._fd)

    async def send(self, data: bytes) -> None:
        """See Wire."""
        sent = self.send_now(data)
        if sent == len(data):
            return
        rest = memoryview(data)[sent:]
        while rest:
            await trio.lowlevel.wait_writable(self._fd)
            rest = rest[self.send_now(rest) :]

    def send_now(self, data: bytes | memoryview) -> int:
        """See Wire."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise ClientGone from exc


class StreamWire:
    """Any Trio stream: TLS in production, memory streams in tests."""

    __slots__ = ("_stream",)

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    def fileno(self) -> int | None:
        """None: nothing to poll."""
        return None

    async def receive(self) -> bytes:
        """See Wire."""
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone from exc

    async def send(self, data: bytes) -> None:
        """See Wire."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone from exc

    def send_now(self, data: bytes) -> int:
        """See Wire. A stream cannot tell: nothing goes."""
        return 0
