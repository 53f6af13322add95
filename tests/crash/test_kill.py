"""`kill -9` under load: no settled charge whose last byte a client has is lost, none is doubled, every hold is resolved."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import trio

from gateway.store.keys import NewKey
from tests.crash import KILLS
from tests.crash.caller import Told, call, call_h2, leave
from tests.crash.site import SOON_S, Site, holds_true, open_site
from tests.crash.upstream import Script
from tests.wire import Closed

CALLERS = 12
SEED = 20_260_101
PAUSE_S = 0.002
LOOPS = (KILLS + 1) // 2  # of three kills each


def script_of(number: int, rng: random.Random) -> Script:
    """One of the ways a call can go."""
    kind = rng.randrange(10)
    prompt, completion = rng.randrange(1, 400), rng.randrange(1, 64)
    frames = rng.randrange(1, 24)
    if kind < 3:
        return Script(number, prompt=prompt, completion=completion)
    if kind < 5:
        return Script(number, stream=True, frames=frames, prompt=prompt, completion=completion)
    if kind < 7:
        return Script(number, stream=True, frames=frames, gap_s=PAUSE_S, prompt=prompt, completion=completion)
    if kind == 7:
        return Script(number, stream=True, frames=frames, usage=False)
    if kind == 8:
        return Script(number, stream=True, frames=frames + 2, gap_s=PAUSE_S, cut_after=frames)
    return Script(number, status=rng.choice([400, 500]))


@dataclass
class Load:
    """Clients that call one after the other, each with a key of its own, until the gateway is gone."""

    site: Site
    keys: list[NewKey]
    rng: random.Random
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    told: list[Told] = field(default_factory=list)
    asked: dict[int, str] = field(default_factory=dict)  # the key of each call
    voided: set[str] = field(default_factory=set)  # generations whose open hold a start has logged

    def note_voided(self) -> None:
        """Read the log of the present start: which open holds it found."""
        self.voided |= set(self.site.voided())

    async def until_killed(self, calls: int) -> None:
        """Call until so many answers have come, and a moment longer; then kill the gateway."""
        enough = len(self.told) + calls
        async with trio.open_nursery() as nursery:
            for number, key in enumerate(self.keys):
                nursery.start_soon(self._one_client, key, number % 4 == 0)
            await holds_true(lambda: len(self.told) >= enough, within_s=6 * SOON_S)
            await trio.sleep(self.rng.uniform(0, 5 * PAUSE_S))
            await self.site.kill()

    async def _one_client(self, key: NewKey, h2: bool) -> None:
        while True:
            try:
                stream = await self.site.connect()
            except (OSError, AssertionError):
                return
            async with stream:
                while True:
                    script = script_of(next(self.numbers), self.rng)
                    self.asked[script.number] = key.id
                    leaves = not h2 and script.stream and script.gap_s and self.rng.random() < 0.3
                    try:
                        if leaves:
                            with trio.fail_after(SOON_S):
                                await leave(stream, key.secret, script, after_frames=self.rng.randrange(script.frames))
                            break
                        with trio.fail_after(SOON_S):
                            if h2:
                                self.told.append(await call_h2(stream, key.secret, script))
                                break
                            self.told.append(await call(stream, key.secret, script))
                    except (Closed, trio.BrokenResourceError, trio.ClosedResourceError):
                        return


def check_told(site: Site, told: list[Told]) -> int:
    """Each answer that was whole is charged its price, once; how many were."""
    charges, whole = site.charges(), 0
    for one in told:
        assert one.gen_id or one.price is None
        if one.price is not None:
            assert charges.get(one.gen_id, 0) == one.price, one
            whole += 1
    return whole


def check_seen(site: Site, load: Load, kills: int) -> None:
    """Every call that the provider saw is on record, failed ones too: as it ended, or as one that a crash cut off.

    Whoever was told of his call finds that one. Of the others the client has no id, but each key has one at a time.
    """
    records = site.records()
    told = {one.gen_id for one in load.told if one.script.number in site.upstream.seen}
    assert told <= {record["gen_id"] for record in records}
    seen = Counter(load.asked[number] for number in site.upstream.seen)
    recorded = Counter(
        record["key_id"] for record in records if record["attempts"] != "[]" or record["ended"] == "crashed"
    )
    for key_id, calls in seen.items():
        assert calls <= recorded[key_id] <= calls + kills, key_id


async def check_after_start(site: Site, load: Load, kills: int) -> int:
    """All that must hold of a gateway that has just started after a crash; how many charges were checked."""
    assert (await site.levels())["gateway_credit_held_usd"] == 0
    site.check_books()
    whole = check_told(site, load.told)
    check_seen(site, load, kills)
    assert len(site.segments()) <= 2
    crashed = [record for record in site.records() if record["ended"] == "crashed"]
    load.note_voided()
    assert {record["gen_id"] for record in crashed} == load.voided
    assert all(record["cost_pico_usd"] == 0 and record["hold_pico_usd"] > 0 for record in crashed)
    return whole


def make_load(site: Site, seed: int) -> Load:
    accounts = [site.account(f"account {number}", usd=1000) for number in range(3)]
    keys = [site.key(accounts[number % 3], f"key {number}") for number in range(CALLERS)]
    return Load(site, keys, random.Random(seed))


LEDGERS = {"roomy": "", "rotating": "journal_segment_bytes = 65_536", "power_loss": 'durability = "power_loss"'}


@pytest.mark.parametrize("ledger", LEDGERS.values(), ids=LEDGERS.keys())
async def test_no_charge_is_lost_or_doubled(tmp_path: Path, ledger: str) -> None:
    async with open_site(tmp_path, ledger=ledger) as site:
        load, whole = make_load(site, SEED), 0
        await site.start()
        for kills in range(1, KILLS + 1):
            await load.until_killed(load.rng.randrange(20, 300))
            await site.start()
            whole = await check_after_start(site, load, kills)
        assert whole > 20 * KILLS
        assert load.voided
        await site.stop()
        site.check_books()
        print(f"{KILLS} kills, {len(load.asked)} calls, {whole} whole answers checked, {len(load.voided)} holds voided")


async def test_a_start_that_is_killed_too(tmp_path: Path) -> None:
    """Recovery is cut by further kills, at moments spread over its length, and is done again."""
    async with open_site(tmp_path, ledger="journal_segment_bytes = 65_536") as site:
        load = make_load(site, SEED + 1)
        await site.start()
        for kills in range(1, LOOPS + 1):
            await load.until_killed(load.rng.randrange(20, 200))
            for _ in range(2):
                site.process.start()
                await trio.sleep(load.rng.uniform(0.1, 0.8))
                await site.kill()
                load.note_voided()
            await site.start()
            await check_after_start(site, load, kills)
        print(f"{LOOPS} x 3 kills, {len(load.asked)} calls, {check_told(site, load.told)} whole answers checked")
