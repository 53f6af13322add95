"""What the account API asks of the process: its keys and catalogue, and the books of account behind them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Protocol, TypeVar

from gateway.admit.credit import Spent
from gateway.auth.keys import KeyIndex
from gateway.config import Plan
from gateway.core.principal import Principal
from gateway.idempotency import Idempotency
from gateway.route.catalog import Catalog

T = TypeVar("T")


class Books(Protocol):
    """Keys and money of a serving process. What is `async` may wait for SQLite; the rest answers from memory."""

    async def change(self, work: Callable[[sqlite3.Connection, bytes], T]) -> T:
        """Run `work` with the connection that writes and the pepper, in the store's writer thread.

        The live key index holds the change before this returns. Raises what `work` raises, and Overloaded when the
        database is locked or full.
        """

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` with a connection that only reads, in a reader thread. Raises what it raises, and Overloaded."""

    def admit_change(self, account_id: str) -> None:
        """Count one change of the account's keys: each has the server read all keys anew. Raises RateLimited."""

    def balance(self, account_id: str) -> tuple[int, int]:
        """The account's credit and the part of it that calls now hold, pico-USD, live."""

    def spent(self, key_id: str) -> Spent:
        """What a key has spent, pico-USD, with calls that are settled but not yet committed.

        `daily`, `weekly` and `monthly` are the present UTC day, week (from Monday) and month.
        """

    def plan_limits(self, principal: Principal) -> Plan:
        """The limits that hold for a key: the tightest of plan, key and account."""


class ApiControl(Protocol):
    """What the routes need of the process, asked anew at each request."""

    @property
    def catalog(self) -> Catalog:
        """The present snapshot's."""

    @property
    def keys(self) -> KeyIndex:
        """The present keys."""

    @property
    def books(self) -> Books:
        """Keys and money."""

    @property
    def idempotency(self) -> Idempotency:
        """The idempotency keys of all accounts."""
