"""The client's connection as the express lane uses it: a bare socket (fast), or any Trio stream (TLS, memory)."""

from __future__ import annotations

import os
from typing import Protocol

import trio

from gateway.exchange import ClientGone, ClientStalled

READ_BYTES = 65536
READS_PER_CHECKPOINT = 8  # full reads in a row; after a short one the socket is empty, and waiting is a checkpoint


class Wire(Protocol):
    """Bytes from and to the client."""

    def fileno(self) -> int | None:
        """The socket, when it may be written to directly and watched for EOF without reading."""

    async def receive(self) -> bytes:
        """Some bytes; b"" at EOF. Raises ClientGone."""

    async def send(self, *parts: bytes) -> None:
        """Send all parts. Raises ClientGone. Waits while the client does not read; a socket then ClientStalled."""


class SocketWire:
    """A cleartext socket, read without a wait only while it keeps filling whole reads."""

    __slots__ = ("_fd", "_reads", "_stall_s")

    def __init__(self, stream: trio.SocketStream, stall_s: float) -> None:
        self._fd = stream.socket.fileno()
        self._stall_s = stall_s
        self._reads = 0

    def fileno(self) -> int | None:
        """The socket."""
        return self._fd

    async def receive(self) -> bytes:
        """See Wire."""
        if not 0 < self._reads < READS_PER_CHECKPOINT:
            await trio.lowlevel.wait_readable(self._fd)
            self._reads = 0
        while True:
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._fd)
            except OSError as exc:
                raise ClientGone from exc
            else:
                self._reads = self._reads + 1 if len(data) == READ_BYTES else 0
                return data

    async def send(self, *parts: bytes) -> None:
        """See Wire. One `writev` and no join, but for what a slow client leaves over."""
        try:
            sent = os.writev(self._fd, parts)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise ClientGone from exc
        if sent == sum(map(len, parts)):
            return
        rest = memoryview(b"".join(parts))[sent:]
        while rest:
            with trio.move_on_after(self._stall_s) as scope:
                await trio.lowlevel.wait_writable(self._fd)
            if scope.cancelled_caught:
                raise ClientStalled
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                continue
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

    async def send(self, *parts: bytes) -> None:
        """See Wire."""
        try:
            await self._stream.send_all(b"".join(parts))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone from exc
