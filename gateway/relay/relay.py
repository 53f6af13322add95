"""The relay: after the commit, carry the winner's stream to the client, frame by frame, until one of them ends.

Two sockets go through the pump. Any other transport (HTTP/2, TLS clients, memory streams) is carried by the call's
own task below; both advance the same `Answer`, so the bytes are the same.
"""

from __future__ import annotations

from math import inf
from typing import Final

import trio

from gateway.config import Timeouts
from gateway.dialects.chat_stream import StreamFault
from gateway.dialects.sse import KEEPALIVE
from gateway.exchange import ClientStalled, Exchange, Headers
from gateway.relay.errors import UpstreamIdle
from gateway.relay.pump import Pump
from gateway.upstream.answer import Answer

READS_PER_CHECKPOINT: Final = 32


class Relay:
    """Carries streams under one snapshot's time limits."""

    __slots__ = ("_pump", "_timeouts")

    def __init__(self, pump: Pump, timeouts: Timeouts) -> None:
        self._pump = pump
        self._timeouts = timeouts

    async def carry(self, answer: Answer, exchange: Exchange, headers: Headers, *, begun: bool = False) -> None:
        """Start the client's answer with what the race held back, carry the rest up to its end.

        The last bytes stay in `answer.pending` for `finish`. `begun` when the head has gone already. Nothing is sent
        of an answer that has ended.

        Raises StreamFault, ClientGone, ClientStalled, UpstreamIdle. The answer stays the caller's to close.
        """
        if answer.ended:
            return
        pending, answer.pending = answer.pending, b""
        if begun:
            await self._send(exchange, pending)
        else:
            await self._start(exchange, headers, pending, last=False)
        answer.bytes_out += len(pending)
        upstream_fd, client_fd = answer.lease.transport.fileno(), exchange.pump_fd()
        if upstream_fd is not None and client_fd is not None:
            await self._pump.carry(answer, exchange, (upstream_fd, client_fd), self._timeouts)
        else:
            await self._carry_here(answer, exchange)

    async def finish(self, answer: Answer, exchange: Exchange, headers: Headers, *, begun: bool) -> None:
        """Send the last bytes and end the client's answer. Raises ClientGone, ClientStalled."""
        last, answer.pending = answer.pending, b""
        if begun:
            await self._send(exchange, last, last=True)
        else:
            await self._start(exchange, headers, last, last=True)
        answer.bytes_out += len(last)

    async def _start(self, exchange: Exchange, headers: Headers, first: bytes, *, last: bool) -> None:
        if exchange.bounds_sends:
            return await exchange.start(200, headers, first, last=last)
        with trio.move_on_after(self._timeouts.client_stall_s):
            return await exchange.start(200, headers, first, last=last)
        raise ClientStalled

    async def _carry_here(self, answer: Answer, exchange: Exchange) -> None:
        reads = 0
        said_at = frame_at = trio.current_time()
        while True:
            raw = answer.receive_now()
            if raw is None:
                raw, said_at = await self._wait(answer, exchange, said_at, frame_at + self._timeouts.idle_s)
            elif (reads := reads + 1) % READS_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
                self._check_idle(frame_at)
            try:
                out = answer.advance(raw)
            except StreamFault as fault:
                if fault.before:
                    await self._send(exchange, fault.before)
                    answer.bytes_out += len(fault.before)
                raise
            if answer.ended:
                answer.pending = out
                return
            if out:
                await self._send(exchange, out)
                answer.bytes_out += len(out)
                said_at = frame_at = trio.current_time()

    def _check_idle(self, frame_at: float) -> None:
        """A provider that floods us with comments is idle too."""
        if trio.current_time() >= frame_at + self._timeouts.idle_s:
            raise UpstreamIdle

    async def _wait(self, answer: Answer, exchange: Exchange, said_at: float, idle_at: float) -> tuple[bytes, float]:
        """Wait for bytes; fill the client's silence with comments until the provider counts as idle."""
        silence_s = self._timeouts.keepalive_s or inf
        while True:
            with trio.CancelScope(deadline=min(idle_at, said_at + silence_s)):
                return await answer.receive(), said_at
            if trio.current_time() >= idle_at:
                raise UpstreamIdle
            await self._send(exchange, KEEPALIVE)
            said_at = trio.current_time()

    async def _send(self, exchange: Exchange, data: bytes, *, last: bool = False) -> None:
        if exchange.bounds_sends:
            return await (exchange.finish(data) if last else exchange.send(data))
        with trio.move_on_after(self._timeouts.client_stall_s):
            return await (exchange.finish(data) if last else exchange.send(data))
        raise ClientStalled
