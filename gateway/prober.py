"""Active probing: endpoints whose breaker is open are asked for their models, so that one that is well again comes back
before its rest is over. Off unless `routing.probe_every_s` is set: it costs the providers requests.

A probe that succeeds only ends the rest: the next call is still the breaker's single probe, since a provider can list
its models and yet not answer. A rest that the provider asked for (`Retry-After`) is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from gateway.core.call import Attempt
from gateway.providers.openai import models_request
from gateway.route.health import Health
from gateway.snapshot import Snapshot
from gateway.upstream.http1 import BadResponse, ResponseReader
from gateway.upstream.pool import Pool
from gateway.upstream.transport import TransportBroken

PROBE_S: Final = 5.0
_OFF_LOOK_S: Final = 30.0  # how often a process that does not probe looks whether it should


class Prober:
    """One service task: one probe at a time."""

    def __init__(self, health: Health, pool: Pool, snapshot: Callable[[], Snapshot]) -> None:
        self._health = health
        self._pool = pool
        self._snapshot = snapshot

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            every_s = self._snapshot().config.routing.probe_every_s
            await trio.sleep(every_s or _OFF_LOOK_S)
            if every_s:
                await self._round()

    async def _round(self) -> None:
        snapshot = self._snapshot()
        states = self._health.states(trio.current_time())
        resting = {target for target, state in states.items() if state == "open"}
        for entry in snapshot.catalog.listed():
            for attempt in entry.attempts:
                if attempt.target in resting:
                    resting.discard(attempt.target)
                    if await self._is_well(attempt):
                        self._health.rest_over(attempt.target, trio.current_time())

    async def _is_well(self, attempt: Attempt) -> bool:
        """Whether the provider lists its models, to this key, in time."""
        with trio.move_on_after(PROBE_S):
            try:
                lease = await self._pool.acquire(attempt.origin)
            except TransportBroken:
                return False
            reader = ResponseReader()
            try:
                await lease.transport.send((models_request(attempt.head, attempt.quirks),))
                while not reader.headers_done:
                    reader.feed(await lease.transport.receive())
                return 200 <= reader.status < 300
            except (BadResponse, TransportBroken):
                return False
            finally:
                lease.close()
                reader.close()
        return False
