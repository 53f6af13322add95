"""What every lane of the edge shares: limits, the way to the pipeline, the body budget, and who is connected."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Protocol, Self

import trio

from gateway.config import Server
from gateway.core.ids import IdMint
from gateway.edge.wire import Wire
from gateway.exchange import BodyBudget, Exchange
from gateway.pollset import PollSet

REAP_S = 0.5


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """Limits of a connection and a request: seconds and bytes. `linger_*` bound the reading on after a refusal."""

    header_s: float
    body_s: float
    keep_alive_s: float
    inference_body_bytes_max: int
    connections_max: int
    linger_s: float = 2.0
    linger_bytes_max: int = 16 * 1024 * 1024

    @classmethod
    def of(cls, server: Server) -> Self:
        """Those that the configuration sets."""
        return cls(
            header_s=server.header_s,
            body_s=server.body_s,
            keep_alive_s=server.keep_alive_s,
            inference_body_bytes_max=server.inference_body_bytes_max,
            connections_max=server.connections_max,
        )


class Reapable(Protocol):
    """A connection between two calls."""

    busy: bool
    deadline: float
    scope: trio.CancelScope


class Edge:
    """One per process. `run` is its service task."""

    def __init__(
        self,
        limits: EdgeLimits,
        handle: Callable[[Exchange], Awaitable[None]],
        bodies: BodyBudget,
        pollset: PollSet,
        *,
        express: bool,
    ) -> None:
        self.limits = limits
        self.handle = handle
        self.bodies = bodies
        self.pollset = pollset
        self.express = express
        self.ids = IdMint()
        self.draining = False
        self.connections: set[Reapable] = set()
        self.hang_ups: set[Callable[[], None]] = set()
        self.open_connections = 0
        self._date = b""
        self._date_at = 0

    def date(self) -> bytes:
        """The `Date` header's value, rendered once a second."""
        now = int(time.time())
        if now != self._date_at:
            self._date, self._date_at = formatdate(now, usegmt=True).encode(), now
        return self._date

    def shut_writing(self, wire: Wire) -> None:
        """Send FIN but go on reading."""
        fd = wire.fileno()
        if fd is None:
            return
        duplicate = socket.socket(fileno=fd)
        try:
            duplicate.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # already gone
        finally:
            duplicate.detach()

    async def run(self) -> None:
        """End connections that are past their deadline, until cancelled."""
        while True:
            await trio.sleep(REAP_S)
            now = trio.current_time()
            for connection in tuple(self.connections):
                if now > connection.deadline:
                    connection.scope.cancel()

    def abandon_sends(self) -> None:
        """The end of a stop's grace: give up what is being sent to clients that do not read."""
        for hang_up in tuple(self.hang_ups):
            hang_up()

    def begin_draining(self) -> None:
        """Close connections that wait for a request; the others close after their answer."""
        self.draining = True
        for connection in tuple(self.connections):
            if not connection.busy:
                connection.scope.cancel()
