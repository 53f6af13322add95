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

    async def carry(self, answer: Answer, exchange: Exchange, headers: Headers, *, begun: bool = False) -> int:
        """Start the client's answer with what the race held back, then carry the rest; bytes of frames sent.

        `begun` when its head has gone already.

        Raises StreamFault, ClientGone, ClientStalled, UpstreamIdle. The answer stays the caller's to close.
        """
        pending, answer.pending = answer.pending, b""
        if begun:
            await self._send(exchange, pending, last=answer.ended)
        elif exchange.bounds_sends:
            await exchange.start(200, headers, pending, last=answer.ended)
        else:
            with trio.move_on_after(self._timeouts.client_stall_s) as scope:
                await exchange.start(200, headers, pending, last=answer.ended)
            if scope.cancelled_caught:
                raise ClientStalled
        if answer.ended:
            return len(pending)
        upstream_fd, client_fd = answer.lease.transport.fileno(), exchange.pump_fd()
        if upstream_fd is not None and client_fd is not None:
            return len(pending) + await self._pump.carry(answer, exchange, (upstream_fd, client_fd), self._timeouts)
        return len(pending) + await self._carry_here(answer, exchange)

    async def _carry_here(self, answer: Answer, exchange: Exchange) -> int:
        sent, reads = 0, 0
        said_at = frame_at = trio.current_time()
        while not answer.ended:
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
                raise
            sent += len(out)
            if answer.ended:
                await self._send(exchange, out, last=True)
            elif out:
                await self._send(exchange, out)
                said_at = frame_at = trio.current_time()
        return sent

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
        with trio.move_on_after(self._timeouts.client_stall_s) as scope:
            await (exchange.finish(data) if last else exchange.send(data))
        if scope.cancelled_caught:
            raise ClientStalled
