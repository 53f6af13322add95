"""A database that others hold: keys go on working, no call waits for it, and the records arrive when it is let go."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from gateway.store.trouble import LOCKED_S_MAX
from tests.crash.caller import Told, call
from tests.crash.site import SOON_S, Site, open_site
from tests.crash.upstream import Script
from tests.serving import get

LOCKED_S = LOCKED_S_MAX + 2  # it counts as trouble, and goes on
SLOW_S = 2.0
PING_S = 0.05  # the loop would be blocked for 0.25 s at a time, most of the time, if it waited for the lock
PAUSE_S = 0.01


class Traffic:
    """Calls and pings, each kind one after the other, and how long each took."""

    def __init__(self, site: Site, secret: str) -> None:
        self._site, self._secret = site, secret
        self.told: list[Told] = []
        self.call_s: list[float] = []
        self.ping_s: list[float] = []

    async def calls(self) -> None:
        async with await self._site.connect() as stream:
            while True:
                began = time.monotonic()
                script = Script(len(self.told), stream=len(self.told) % 2 == 1, frames=3)
                with trio.CancelScope(shield=True):
                    self.told.append(await call(stream, self._secret, script))
                self.call_s.append(time.monotonic() - began)
                await trio.sleep(PAUSE_S)

    async def pings(self) -> None:
        while True:
            began = time.monotonic()
            with trio.CancelScope(shield=True):
                assert (await self._site.ask(get("/health"))).status == 200
            self.ping_s.append(time.monotonic() - began)
            await trio.sleep(PAUSE_S)


@asynccontextmanager
async def under_way(traffic: Traffic) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(traffic.calls)
        nursery.start_soon(traffic.pings)
        yield
        nursery.cancel_scope.cancel()


def _p95(times_s: list[float]) -> float:
    return sorted(times_s)[int(len(times_s) * 0.95)]


async def _held_once(lock: sqlite3.Connection) -> None:
    lock.execute("BEGIN IMMEDIATE")
    await trio.sleep(LOCKED_S)
    lock.execute("ROLLBACK")


async def _held_again_and_again(lock: sqlite3.Connection) -> None:
    """A slow database: each commit waits for somebody else's, which takes 0.2 s."""
    over = time.monotonic() + SLOW_S
    while time.monotonic() < over:
        lock.execute("BEGIN IMMEDIATE")
        await trio.sleep(0.2)
        lock.execute("ROLLBACK")
        await trio.sleep(0.01)


@pytest.mark.parametrize("hold", [_held_once, _held_again_and_again], ids=["locked", "slow"])
async def test_service_goes_on(tmp_path: Path, hold: Callable[[sqlite3.Connection], Awaitable[None]]) -> None:
    async with open_site(tmp_path) as site:
        key = site.key(site.account("acme", usd=100))
        await site.start()
        traffic = Traffic(site, key.secret)
        with contextlib.closing(sqlite3.connect(site.data.db_path, isolation_level=None, timeout=SOON_S)) as lock:
            async with under_way(traffic):
                await hold(lock)
        statuses = Counter(one.status for one in traffic.told)
        assert set(statuses) == {200}
        assert len(traffic.told) > 50
        await site.at_rest()
        charges = site.charges()
        assert charges == {one.gen_id: one.price for one in traffic.told}
        site.check_books()
        levels = await site.levels()
        lag_s = levels["gateway_loop_lag_seconds_sum"] / levels["gateway_loop_lag_seconds_count"]
        print(
            f"{len(traffic.told)} calls, p95 {_p95(traffic.call_s) * 1000:.1f} ms, max {max(traffic.call_s) * 1000:.1f};"
            f" {len(traffic.ping_s)} pings, p95 {_p95(traffic.ping_s) * 1000:.1f} ms, max {max(traffic.ping_s) * 1000:.1f};"
            f" mean loop lag {lag_s * 1000:.2f} ms"
        )
        assert _p95(traffic.ping_s) < PING_S
        assert _p95(traffic.call_s) < 2 * PING_S
        assert lag_s < PING_S / 5
