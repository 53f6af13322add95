"""`python -m bench.limiter`: what one admission decision costs, and what a million keys do to memory and pauses.

Every call passes two levels, its key's and its account's (ten keys each), with all four limits set and none reached,
and is released with other tokens than were estimated. Figures are CPU of this thread; a table is grown one key at a
time with the collector on, as while serving. Back of the envelope: two lookups, four buckets, two days and two counts
at 0.1 us an operation are about 2 us, and a million entries of 250 bytes 250 MB.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import resource
import time
from array import array
from collections.abc import Callable
from pathlib import Path

from bench.measure import machine
from gateway.admit.limiter import Level, Limiter
from gateway.admit.limits import Limits
from gateway.errors import RateLimited

KEYS = (1, 10_000, 1_000_000)
CALLS = 300_000
ROUNDS = 5
KEYS_PER_ACCOUNT = 10
WALL = 1_768_435_200.0
LIMITS = Limits(rpm=10**6, rpd=10**9, tpm=10**9, concurrency=10**6)
REFUSING = Limits(rpm=1, rpd=1, tpm=1000, concurrency=10**6)
UNLIMITED = Limits()
Levels = tuple[Level, Level]


def levels_of(index: int, limits: Limits) -> Levels:
    """The two levels of key `index`. Names as long as real ones."""
    account = index // KEYS_PER_ACCOUNT
    return Level(f"key:key_{index:022d}", limits), Level(f"account:acc_{account:022d}", limits)


def grow(keys: int) -> tuple[Limiter, array[float]]:
    """A limiter that has just seen a first call of each key, all of them live; seconds of each of those admissions."""
    limiter = Limiter(day_zone="UTC", keys_max=2 * keys)
    admit, clock = limiter.admit, time.thread_time
    pauses = array("d")  # not a list: the collector would walk it too
    for index in range(keys):
        levels = levels_of(index, LIMITS)
        start = clock()
        ticket = admit(levels, 1000, 1.0, WALL)
        pauses.append(clock() - start)
        ticket.release(900, 1.0)
    return limiter, pauses


def resident_bytes() -> int:
    """The resident set of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def collection_ms() -> float:
    """How long the garbage collector stops the process for a full walk, least of three."""
    least = float("inf")
    for _ in range(3):
        start = time.thread_time()
        gc.collect()
        least = min(least, time.thread_time() - start)
    return least * 1e3


def timed(call: Callable[[Levels, float], None], order: list[Levels]) -> float:
    """Microseconds of CPU a call, best of the rounds."""
    best = float("inf")
    now = 1.0
    for _ in range(ROUNDS):
        start = time.thread_time()
        for levels in order:
            now += 0.000_05
            call(levels, now)
        best = min(best, time.thread_time() - start)
    return best / len(order) * 1e6


def decisions(keys: int, limiter: Limiter) -> None:
    """Print what admission and release cost over so many keys, taken at random."""

    def call(levels: Levels, now: float) -> None:
        limiter.admit(levels, 1000, now, WALL).release(900, now)

    chosen = random.Random(1)
    known = [levels_of(chosen.randrange(keys), LIMITS) for _ in range(min(CALLS, keys * CALLS))]
    us = timed(call, known)
    print(f"{keys:>9,} keys: {us:5.2f} us admit + release, {1e6 / us:>9,.0f} calls/s")


def others() -> None:
    """Print what a refusal, an unlimited call and a call's header fields cost."""
    from gateway.admit.headers import ratelimit_headers

    limiter = Limiter(day_zone="UTC", keys_max=1000)

    def refused(levels: Levels, now: float) -> None:
        with contextlib.suppress(RateLimited):
            limiter.admit(levels, 1000, now, WALL)

    ticket = limiter.admit(levels_of(1, LIMITS), 1000, 1.0, WALL)

    def headers(_levels: Levels, now: float) -> None:
        ratelimit_headers(ticket.standing(now))

    def unlimited(levels: Levels, now: float) -> None:
        limiter.admit(levels, 1000, now, WALL).release(900, now)

    for what, call, limits in (
        ("a refusal", refused, REFUSING),
        ("a call without limits, admit + release", unlimited, UNLIMITED),
        ("standing and header fields", headers, LIMITS),
    ):
        print(f"{timed(call, [levels_of(0, limits)] * (CALLS // 10)):5.2f} us {what}")


def table(keys: int) -> Limiter:
    """Print what a table of so many keys weighs, how long its growth stopped the loop, and the collector's walk."""
    alone_ms = collection_ms()
    before = resident_bytes()
    limiter, pauses = grow(keys)
    grown = resident_bytes() - before - pauses.itemsize * keys
    entries = len(limiter)
    print(
        f"table of {entries:,} entries: {limiter.memory_bytes() / 1e6:.0f} MB by its own count, "
        f"{limiter.memory_bytes() / entries:.0f} bytes an entry; resident +{grown / 1e6:.0f} MB"
    )
    ranked = sorted(pauses)
    print(
        f"first call of a key: median {ranked[keys // 2] * 1e6:.1f} us, p99.99 {ranked[-keys // 10_000] * 1e6:.0f} us, "
        f"worst {ranked[-1] * 1e3:.2f} ms"
    )
    del ranked
    print(f"a full collection: {alone_ms:.1f} ms before the table, {collection_ms():.1f} ms with it")
    return limiter


def main() -> None:
    """Run and print all of it: about half a minute."""
    print(machine())
    for keys in itertools.takewhile(lambda n: n < KEYS[-1], KEYS):
        decisions(keys, grow(keys)[0])
    decisions(KEYS[-1], table(KEYS[-1]))
    others()


if __name__ == "__main__":
    main()
