"""The pump: moves the frames of every stream whose two ends are sockets, in one task, without a wake-up per frame.

A call lends its upstream connection and its client socket and waits for the end, so ownership and cancellation stay
with the call: cancel `carry` and both sockets have left the pump. Reading pauses while the client is behind, so one
slow client holds one read of memory. Time limits are checked on a coarse tick, not by a timer per frame.
"""

from __future__ import annotations

import os
from typing import Final

import trio

from gateway.config import Timeouts
from gateway.dialects.chat_stream import StreamFault
from gateway.dialects.sse import KEEPALIVE
from gateway.exchange import ClientGone, ClientStalled, Exchange
from gateway.pollset import READABLE, WRITABLE, PollSet
from gateway.relay.errors import UpstreamIdle
from gateway.upstream.answer import Answer

READS_AT_ONCE: Final = 16  # of a burst, before the call parks in the poll set


class _Lane:
    """One stream in the pump."""

    __slots__ = (
        "_answer", "_backlog", "_client_fd", "_exchange", "_pollset", "_timeouts", "_upstream_fd", "bytes_out", "error",
        "last_in", "last_out", "over",
    )  # fmt: skip

    def __init__(
        self, pollset: PollSet, answer: Answer, exchange: Exchange, fds: tuple[int, int], times: Timeouts
    ) -> None:
        self._pollset = pollset
        self._answer = answer
        self._exchange = exchange
        self._upstream_fd, self._client_fd = fds
        self._timeouts = times
        self._backlog: bytes | memoryview = b""
        self.bytes_out = 0
        self.error: Exception | None = None
        self.over = trio.Event()
        self.last_in = self.last_out = trio.current_time()

    def readable(self) -> None:
        """The upstream has bytes, or ended."""
        if self._backlog:
            return
        try:
            raw = self._answer.receive_now()
            if raw is None:
                return
            out = self._answer.advance(raw)
            if self._answer.ended:
                self._answer.pending = out
                self._end(None)
            elif out:
                self.last_in = self._pollset.now  # a provider's comments are no progress
                self.bytes_out += len(out)
                self._write(self._exchange.wire(out, last=False))
        except StreamFault as fault:
            self._break(fault)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is this stream's: the pump carries on
            self._end(exc)

    def _break(self, fault: StreamFault) -> None:
        """End with what came before the fault sent, or owed."""
        try:
            if fault.before:
                self.bytes_out += len(fault.before)
                self._write(self._exchange.wire(fault.before, last=False))
        except ClientGone as gone:
            self._end(gone)
        else:
            self._end(fault)

    def writable(self) -> None:
        """The client takes bytes again."""
        rest, self._backlog = self._backlog, b""
        try:
            self._write(rest)
        except ClientGone as gone:
            self._end(gone)
            return
        if self._backlog:
            return
        self._pollset.remove(self._client_fd, WRITABLE)
        self.last_in = self._pollset.now  # the provider was not read meanwhile: it was not idle
        self._pollset.add(self._upstream_fd, READABLE, self.readable)

    def _write(self, wire: bytes | memoryview) -> None:
        self.last_out = self._pollset.now
        try:
            sent = os.write(self._client_fd, wire)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise ClientGone from exc
        if sent < len(wire):
            if self._backlog == b"" and not isinstance(wire, memoryview):
                self._pollset.remove(self._upstream_fd, READABLE)
                self._pollset.add(self._client_fd, WRITABLE, self.writable)
            self._backlog = memoryview(wire)[sent:]

    def tick(self, now: float) -> None:
        """Check the time limits; send a keepalive comment after a silence."""
        times = self._timeouts
        if self._backlog:
            if now - self.last_out > times.client_stall_s:
                self._end(ClientStalled())
        elif now - self.last_in > times.idle_s:
            self._end(UpstreamIdle())
        elif times.keepalive_s and now - self.last_out >= times.keepalive_s:
            try:
                self._write(self._exchange.wire(KEEPALIVE, last=False))
            except ClientGone as gone:
                self._end(gone)

    def _end(self, error: Exception | None) -> None:
        self.error = error
        self.leave()
        self.over.set()

    def leave(self) -> None:
        """Take both sockets out of the poll set; what could not be sent is owed by the exchange."""
        self._pollset.remove(self._upstream_fd, READABLE)
        self._pollset.remove(self._client_fd, WRITABLE)
        if self._backlog:
            self._exchange.owe(bytes(self._backlog))
            self._backlog = b""


class Pump:
    """All lanes. `run` is its service task; the poll set has its own."""

    def __init__(self, pollset: PollSet) -> None:
        self._pollset = pollset
        self._lanes: set[_Lane] = set()

    async def run(self, tick_s: float) -> None:
        """Check every lane's time limits each `tick_s` until cancelled."""
        while True:
            await trio.sleep(tick_s)
            now = trio.current_time()
            self._pollset.now = now
            for lane in tuple(self._lanes):
                if not lane.over.is_set():
                    lane.tick(now)

    async def carry(self, answer: Answer, exchange: Exchange, fds: tuple[int, int], timeouts: Timeouts) -> None:
        """Carry a stream from `fds[0]` (upstream) to `fds[1]` (client) up to its end.

        The last bytes stay in `answer.pending`: the call is settled before they go.
        Raises StreamFault, ClientGone, ClientStalled, UpstreamIdle; the exchange then still owes what was not sent.
        """
        lane = _Lane(self._pollset, answer, exchange, fds, timeouts)
        self._pollset.now = lane.last_in
        self._lanes.add(lane)
        try:
            self._pollset.add(fds[0], READABLE, lane.readable)
            for _ in range(READS_AT_ONCE):
                before = lane.bytes_out
                lane.readable()
                if lane.over.is_set() or lane.bytes_out == before:
                    break
            await lane.over.wait()
        finally:
            lane.leave()
            self._lanes.discard(lane)
            answer.bytes_out += lane.bytes_out
        if lane.error is not None:
            raise lane.error

    def __len__(self) -> int:
        return len(self._lanes)
