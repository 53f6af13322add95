"""What tests put on a wire and get from it, whatever the protocol. Nothing here normalises: bytes go as they are given.

`Cut` is the end of a connection in the middle of an answer; an end before any byte of one is `Closed`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

HOST = b"gateway.test"
READ_BYTES = 65_536

Headers = list[tuple[bytes, bytes]]


class Closed(Exception):
    """The server closed the connection where an answer could have begun."""


class Cut(Exception):
    """The server closed or broke the connection in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `body` is sent with its length; `pieces` as chunks (HTTP/1.1) or DATA frames without a length."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes | None = None
    pieces: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Answer:
    """One whole answer. `end` is "whole", or how it broke off; `interim` are the 1xx statuses before it."""

    status: int
    headers: Headers
    body: bytes = b""
    end: str = "whole"
    interim: list[int] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """The value of a header, several joined by a comma; None without it."""
        values = [value.decode("latin-1") for key, value in self.headers if key == name.encode()]
        return ", ".join(values) if values else None


async def read(stream: trio.abc.Stream) -> bytes:
    """The next bytes; b"" when the server has closed or broken the connection."""
    try:
        return bytes(await stream.receive_some(READ_BYTES))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return b""


async def write(stream: trio.abc.Stream, data: bytes) -> None:
    """Send what the server still takes: one that has answered may stop reading."""
    try:
        await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
