"""What the server does on a connection, as data, and the HTTP/1.1 bytes it writes.

`gateway.sim.script` decides with these and performs nothing; `gateway.sim.server` performs them and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Send:
    """Write these bytes in one call."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so long, but notice the client leaving."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Hang:
    """Do nothing until the client leaves."""


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection here: with FIN, or with RST when `reset`."""

    reset: bool = False


Step: TypeAlias = Send | Wait | Hang | Close
Headers: TypeAlias = tuple[tuple[str, str], ...]


def head(status: int, headers: Headers) -> bytes:
    """The status line and header block. `status` may be one that Python has no name for (529)."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Overloaded"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def whole(status: int, content_type: str, body: bytes, headers: Headers = ()) -> bytes:
    """A complete answer with its length."""
    own = (("content-type", content_type), ("content-length", str(len(body))))
    return head(status, own + headers) + body


def chunked(steps: Iterable[Step]) -> Iterator[Step]:
    """The same steps in chunked transfer coding, one chunk a write; the last only if the steps run to their end."""
    for step in steps:
        if not isinstance(step, Send):
            yield step
            if not isinstance(step, Wait):
                return
        elif step.data:
            yield Send(b"%x\r\n%b\r\n" % (len(step.data), step.data))
    yield Send(LAST_CHUNK)
