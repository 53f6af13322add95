"""Credit and spending in memory, while a process serves: balances, holds, and what each key has spent. Pure.

Amounts are pico-USD. A balance changes only by applying what is, or is about to be, a row of the ledger. A hold is
part of no balance: it is credit promised to a call under way.
"""

from __future__ import annotations

import datetime as dt
from typing import Final, NamedTuple

from gateway.core.principal import LimitReset

_DAY_S: Final = 86_400
_EPOCH_ORDINAL: Final = dt.date(1970, 1, 1).toordinal()


class Periods(NamedTuple):
    """Where a moment lies in UTC: its day, its week (from Monday) and its month, as numbers that only grow."""

    day: int
    week: int
    month: int


def periods(wall: float) -> Periods:
    """The periods of a Unix time in seconds."""
    day = int(wall // _DAY_S)
    return Periods(day, (day + 3) // 7, _month(day))


def _month(day: int) -> int:
    date = dt.date.fromordinal(_EPOCH_ORDINAL + day)
    return date.year * 12 + date.month


class Purse:
    """An account's credit. `balance` may be below zero: a postpaid account's is what it owes."""

    __slots__ = ("balance", "held")

    def __init__(self, balance: int = 0) -> None:
        self.balance = balance
        self.held = 0

    @property
    def available(self) -> int:
        """What can still be held."""
        return self.balance - self.held


class Spent(NamedTuple):
    """What a key has spent: ever, and in the present day, week and month."""

    total: int
    daily: int
    weekly: int
    monthly: int

    def counted(self, reset: LimitReset | None) -> int:
        """What counts against a limit that starts anew each `reset`."""
        match reset:
            case None:
                return self.total
            case "daily":
                return self.daily
            case "weekly":
                return self.weekly
            case "monthly":
                return self.monthly


NOTHING: Final = Spent(0, 0, 0, 0)


class Meter:
    """A key's spending. Calls count in the period in which they began, as in the rollups on disk."""

    __slots__ = ("_at", "_daily", "_monthly", "_weekly", "held", "total")

    def __init__(self, at: Periods, spent: Spent = NOTHING) -> None:
        self._at = at
        self.total, self._daily, self._weekly, self._monthly = spent
        self.held = 0

    def add(self, amount: int, began: Periods) -> None:
        """Count one call. One that began in a period that is over counts in the total only."""
        at = self._at
        self.total += amount
        if began.day >= at.day:
            self._daily += amount
        if began.week >= at.week:
            self._weekly += amount
        if began.month >= at.month:
            self._monthly += amount

    def observe(self, now: Periods) -> None:
        """A call begins: its periods are the present ones."""
        if now != self._at:
            self._roll(now)

    def spent(self, now: Periods) -> Spent:
        """What was spent as of `now`."""
        self.observe(now)
        return Spent(self.total, self._daily, self._weekly, self._monthly)

    def against(self, reset: LimitReset | None, now: Periods) -> int:
        """What counts against a spend limit that starts anew each `reset`: spent and held."""
        return self.spent(now).counted(reset) + self.held

    def _roll(self, now: Periods) -> None:
        """Begin the periods that are new. A clock that steps back takes its periods with it, and what was spent."""
        at = self._at
        if now.day > at.day:
            self._daily = 0
        if now.week > at.week:
            self._weekly = 0
        if now.month > at.month:
            self._monthly = 0
        self._at = now
