"""The books of a serving process as the account API sees them: SQL through the store, live sums from the gate."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeVar

import trio

from gateway.admit.credit import Spent
from gateway.admit.gate import Gate, limits_of
from gateway.admit.limiter import Level, Limiter
from gateway.admit.limits import Limits, tightest
from gateway.config import Config, Plan
from gateway.core.principal import Principal
from gateway.store.opening import OpeningBooks

CHANGES: Final = Limits(rpm=120)  # of one account's keys: people and scripts, not a loop

T = TypeVar("T")


class Database(Protocol):
    """The store's two ways in; see `gateway.store.db.Store`."""

    async def change(self, work: Callable[[sqlite3.Connection, bytes], T]) -> T:
        """Run a change of keys or accounts in the writer thread."""

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query in the reader's thread."""


class LiveBooks:
    """See `gateway.api.books.Books`. `plans` gives the present configuration's."""

    def __init__(
        self, database: Database, gate: Gate, plans: Callable[[], Mapping[str, Plan]], wall_clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._gate = gate
        self._plans = plans
        self._wall_clock = wall_clock

    async def change(self, work: Callable[[sqlite3.Connection, bytes], T]) -> T:
        """See Books."""
        return await self._database.change(work)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """See Books."""
        return await self._database.read(work)

    def admit_change(self, account_id: str) -> None:
        """See Books. Raises RateLimited."""
        now = trio.current_time()
        level = Level(f"changes:{account_id}", CHANGES)
        self._gate.limiter.admit([level], 0, now, self._wall_clock()).release(0, now)

    def balance(self, account_id: str) -> tuple[int, int]:
        """See Books."""
        return self._gate.balance(account_id)

    def spent(self, key_id: str) -> Spent:
        """See Books."""
        return self._gate.spent(key_id, self._wall_clock())

    def plan_limits(self, principal: Principal) -> Plan:
        """See Books. Raises Overloaded for a plan that is not configured."""
        limits = tightest(*limits_of(principal, self._plans()))
        return Plan(limits.rpm, limits.rpd, limits.tpm, limits.concurrency)


def open_gate(config: Config, books: OpeningBooks) -> Gate:
    """The gate with what the books say."""
    gate = Gate(Limiter(day_zone=config.limits.day_zone, keys_max=config.limits.keys_in_memory_max), wall=books.read_at)
    spending = ((key.key_id, Spent(key.total, key.daily, key.weekly, key.monthly)) for key in books.spending)
    gate.load(books.balances, spending)
    return gate
