"""What the tests of the rate limiter share: levels, instants, and asking for what must be refused."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from gateway.admit import shards
from gateway.admit.limiter import Level, Limiter
from gateway.admit.limits import Limits
from gateway.errors import RateLimited

NOON = datetime(2026, 5, 20, 12, tzinfo=ZoneInfo("UTC")).timestamp()
FREE = Limits()


def limiter(zone: str = "UTC", keys_max: int = 1000) -> Limiter:
    return Limiter(day_zone=zone, keys_max=keys_max)


def key(name: str = "k", **limits: int) -> Level:
    return Level(f"key:{name}", Limits(**limits))


def account(**limits: int) -> Level:
    return Level("account:a", Limits(**limits))


def refused(limits: Limiter, levels: list[Level], tokens: int, now: float, wall: float = NOON) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        limits.admit(levels, tokens, now, wall)
    return caught.value


def at(zone: str, *when: int, fold: int = 0) -> float:
    year, month, day, *clock = when
    hour, minute = clock or (0, 0)
    return datetime(year, month, day, hour, minute, tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def sweep(made: Limiter, now: float, wall: float) -> None:
    """Move the hand all round without inserting."""
    for _ in range(2 * len(made) + 2 * shards.SHARDS):
        made._shards._look(int(now * 1e9), made._days.at(wall))
