"""What the pipeline sees of a request, whichever way it came: the express lane, Hypercorn's HTTP/1.1 or HTTP/2."""

from __future__ import annotations

from typing import Final, Protocol

import trio

from gateway.errors import Overloaded

Headers = list[tuple[bytes, bytes]]

INFERENCE_PATHS: Final = frozenset({"/v1/chat/completions", "/api/v1/chat/completions"})


class ClientGone(Exception):
    """The client closed or broke its connection."""


class ClientStalled(Exception):
    """The client read nothing for `client_stall_s`."""


class Exchange(Protocol):
    """One request and the answer to it. Exactly one of `reply` or `start … finish` is called, once.

    `bounds_sends` says that its sends raise ClientStalled by themselves: a socket needs a deadline only once it is
    full, and a cancel scope a send is 7 us of a call. Header names are lower case. `read_body` and the senders raise
    ClientGone; `read_body` also 408, 413 and 503.
    """

    lane: str
    request_id: str
    method: str
    path: str
    headers: Headers
    gone: bool
    bounds_sends: bool

    def watch(self, scope: trio.CancelScope) -> None:
        """From now until the end of the answer: when the client leaves, set `gone` and cancel `scope`."""

    async def read_body(self) -> bytes:
        """The whole request body, within the limits of its route."""

    async def reply(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""

    async def start(self, status: int, headers: Headers, first: bytes, *, last: bool = False) -> None:
        """Begin a streamed answer with its first bytes; `last` when they are all, and `finish` is not called."""

    async def send(self, data: bytes) -> None:
        """Send more; waits while the client does not take it."""

    async def finish(self, last: bytes = b"") -> None:
        """Send the last bytes and end the answer."""

    def pump_fd(self) -> int | None:
        """The client's socket, when the pump may write to it directly."""

    def wire(self, data: bytes, *, last: bool) -> bytes:
        """`data` as it goes on the wire of `pump_fd` (chunk framing)."""

    def owe(self, wire: bytes) -> None:
        """Bytes of `wire` that the pump could not send: they go out before anything else."""


class BodyBudget:
    """All request bodies together may hold so many bytes; past it a call gets 503 and nothing is held for it."""

    __slots__ = ("bytes_max", "held_bytes")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Account for bytes that arrived. Raises Overloaded; then they are not accounted."""
        if self.held_bytes + size_bytes > self.bytes_max:
            raise Overloaded("the gateway holds too many request bodies at once; retry shortly", retry_after_s=1.0)
        self.held_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """The body is no longer held."""
        self.held_bytes -= size_bytes
