"""Running a shape: closed phases hold users, open phases start calls on a schedule. One nursery owns them all.

A guard looks at the figures each second and stops the phase when a threshold is past saving (`stop_when`), as in
Locust's examples/stop_on_threshold.py. A phase ends when its calls have ended; nothing is cut off but by the guard.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from loadtest.client import Client
from loadtest.shapes import LoadShape, arrival_times
from loadtest.stats import Sample, Stats
from loadtest.traffic import Site, SiteUser
from loadtest.users import spread

TICK_S = 0.1
_GUARD_S = 1.0
IN_FLIGHT_MAX = 1024  # open calls at once; an arrival past it counts as wrong, for it would hide the queue
SHED = "not sent: the generator has too many calls under way"

Halt = Callable[[Stats], str]


class ConnectionPool:
    """Keep-alive connections to one target. Every one is closed by `close`."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._idle: deque[Client] = deque()
        self._all: set[Client] = set()

    def take(self) -> Client:
        """See users.Connections. The most recently used first, so that the rest may go idle."""
        if self._idle:
            return self._idle.pop()
        client = Client(*self._address)
        self._all.add(client)
        return client

    def give(self, client: Client) -> None:
        """See users.Connections."""
        self._idle.append(client)

    def close(self) -> None:
        """Close them all."""
        for client in self._all:
            client.close()
        self._all.clear()
        self._idle.clear()

    def __len__(self) -> int:
        return len(self._all)


@dataclass(slots=True)
class Phase:
    """A shape with who lives under it, and what came of it."""

    shape: LoadShape
    classes: Sequence[type[SiteUser]]
    stats: Stats = field(default_factory=Stats)
    took_s: float = 0.0
    stopped: str = ""  # why the guard stopped it
    in_flight_max: int = 0


async def run_phase(phase: Phase, site: Site, seed: int, stop_when: Halt = lambda _stats: "") -> None:
    """Run one phase to its end; the outcome is in `phase`."""
    pool = ConnectionPool(site.target.host, site.target.port)
    began = trio.current_time()
    drive = _closed if phase.shape.arrivals == "closed" else _open
    try:
        async with trio.open_nursery() as guards:
            guards.start_soon(_guard, phase, stop_when, guards.cancel_scope)
            await drive(phase, site, pool, random.Random(seed))
            guards.cancel_scope.cancel()
    finally:
        pool.close()
        phase.took_s = trio.current_time() - began


async def _guard(phase: Phase, stop_when: Halt, scope: trio.CancelScope) -> None:
    while not phase.stopped:
        await trio.sleep(_GUARD_S)
        phase.stopped = stop_when(phase.stats)
    scope.cancel()


async def _closed(phase: Phase, site: Site, pool: ConnectionPool, dice: random.Random) -> None:
    began, users = trio.current_time(), list[SiteUser]()

    async def live(user: SiteUser) -> None:
        # Neighbours start out of step with each other, or every wave of frames would come at once.
        await trio.sleep(user.dice.uniform(0, TICK_S))
        await user.run(phase.stats.add)

    async with trio.open_nursery() as nursery:
        while (tick := phase.shape.tick(trio.current_time() - began)) is not None:
            wanted = int(tick.level)
            room = max(1, int(min(tick.change_per_s * TICK_S, wanted)))
            fresh = _missing(phase.classes, users, wanted)[:room] if wanted > len(users) else []
            for each in fresh:
                users.append(each(pool, random.Random(dice.random()), site))
                nursery.start_soon(live, users[-1])
            while len(users) > wanted:
                users.pop().stopping = True
            phase.in_flight_max = max(phase.in_flight_max, len(users))
            await trio.sleep(TICK_S)
        for user in users:
            user.stopping = True


def _missing(classes: Sequence[type[SiteUser]], users: Sequence[SiteUser], wanted: int) -> list[type[SiteUser]]:
    """Which users to add so that `wanted` users have the classes' proportions."""
    names = {each.__name__: each for each in classes}
    lacking = [each.__name__ for each in spread(classes, wanted)]
    for user in users:
        if type(user).__name__ in lacking:
            lacking.remove(type(user).__name__)
    return [names[name] for name in lacking]


async def _open(phase: Phase, site: Site, pool: ConnectionPool, dice: random.Random) -> None:
    began, under_way = trio.current_time(), 0
    weights = [each.weight for each in phase.classes]

    async def arrive(user: SiteUser, due: float) -> None:
        nonlocal under_way
        phase.stats.add(await user.one(due))
        under_way -= 1

    async with trio.open_nursery() as nursery:
        for offset_s in arrival_times(phase.shape):
            due = began + offset_s
            await trio.sleep_until(due)
            if under_way >= IN_FLIGHT_MAX:
                phase.stats.add(Sample("arrival", SHED, recorded=False))
                continue
            under_way += 1
            phase.in_flight_max = max(phase.in_flight_max, under_way)
            chosen = dice.choices(list(phase.classes), weights)[0]
            nursery.start_soon(arrive, chosen(pool, random.Random(dice.random()), site), due)
