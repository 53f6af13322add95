"""The account API in one piece without a gateway around it: real keys, ledger and usage in a SQLite file of the test's.

`Desk` is what `gateway.edge.web` asks of the process. Its `books` are those of `gateway.api.books`, over the store's own
functions; what a serving process has in memory beside the file (holds, calls not yet committed) a test says outright.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
import pytest
import trio

from gateway.admit.credit import Spent
from gateway.api.periods import began, today
from gateway.auth.keys import KeyIndex
from gateway.config import Config, Model, Plan, Price
from gateway.core.money import PicoUsd
from gateway.core.principal import Principal
from gateway.edge.lanes import Edge
from gateway.edge.web import WebApp, build_web
from gateway.errors import Overloaded, RateLimited
from gateway.idempotency import Idempotency
from gateway.route.catalog import Catalog
from gateway.router import Router
from gateway.store import accounts, batch, calls, keys, ledger
from gateway.store.calls import CallRecord
from gateway.store.keys import KeyTerms
from gateway.store.schema import OPERATOR, immediate, open_database

T = TypeVar("T")
PEPPER = b"p" * 32
MODEL, OTHER_MODEL, FREE_MODEL = "test/big", "test/small", "test/free"
USD = 10**12
NOON = datetime(2026, 5, 20, 12, tzinfo=UTC).timestamp()  # a Wednesday


def stop_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it noon of that Wednesday, a millisecond later at each look."""
    looks = itertools.count()
    monkeypatch.setattr(time, "time", lambda: NOON + next(looks) / 1000)


def catalog() -> Catalog:
    """Three models that nobody serves, one of them with an alias, one free."""
    models = (
        Model(MODEL, (), 8192, aliases=("big",)),
        Model(OTHER_MODEL, (), 8192, price=Price(PicoUsd(1), PicoUsd(2))),
        Model(FREE_MODEL, (), 8192, price="free"),
    )
    return Catalog(Config("test", models={model.id: model for model in models}))


def router() -> Router:
    """A router that remembers nothing yet, and classifies nothing."""
    return Router(Config("test"), cast("Any", None), lambda: 0.0)


class FileBooks:
    """gateway.api.books.Books over one file. Say what is only in memory in `holds`, `unwritten` and `limits`."""

    def __init__(self, path: Path) -> None:
        self.conn = open_database(path, PEPPER)
        self.index = keys.load_index(self.conn, PEPPER)
        self.holds: dict[str, int] = {}
        self.unwritten: dict[str, int] = {}
        self.limits = Plan()
        self.locked = False
        self.changes_left: int | None = None
        self.before_change: Callable[[], None] = lambda: None
        uri = f"{path.as_uri()}?mode=ro"
        self._reader = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        self._thread = trio.CapacityLimiter(1)

    def close(self) -> None:
        self._reader.close()
        self.conn.close()

    async def change(self, work: Callable[[sqlite3.Connection, bytes], T]) -> T:
        def run() -> T:
            self.before_change()
            try:
                return work(self.conn, PEPPER)
            finally:
                self.index = keys.load_index(self.conn, PEPPER)

        changed = await self._run(run)
        await trio.lowlevel.checkpoint()  # a serving process looks at the keys again here
        return changed

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(lambda: work(self._reader))

    async def _run(self, work: Callable[[], T]) -> T:
        if self.locked:
            raise Overloaded("the database is locked; retry shortly", retry_after_s=1.0)
        return await trio.to_thread.run_sync(work, limiter=self._thread)

    def admit_change(self, account_id: str) -> None:
        if self.changes_left is not None:
            if not self.changes_left:
                raise RateLimited("Rate limit exceeded: 120 RPM", retry_after_s=0.5)
            self.changes_left -= 1

    def balance(self, account_id: str) -> tuple[int, int]:
        row = self.conn.execute(
            "SELECT balance_pico_usd FROM balances WHERE book = 'customer' AND owner = ?", (account_id,)
        ).fetchone()
        return (row[0] if row else 0), self.holds.get(account_id, 0)

    def spent(self, key_id: str) -> Spent:
        day = today(time.time())
        sums = []
        for first in (None, day, began("week", day), began("month", day)):
            found = self.conn.execute(
                "SELECT COALESCE(SUM(cost_pico_usd), 0) FROM usage_daily WHERE key_id = ? AND day >= ?",
                (key_id, "" if first is None else first.isoformat()),
            )
            sums.append(found.fetchone()[0] + self.unwritten.get(key_id, 0))
        return Spent(*sums)

    def plan_limits(self, principal: Principal) -> Plan:
        return self.limits


@dataclass(frozen=True, slots=True)
class Holder:
    """A key of a test."""

    id: str
    secret: str
    account_id: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}


@dataclass
class Desk:
    """gateway.edge.web.Control, and ways to fill the books."""

    books: FileBooks
    catalog: Catalog = field(default_factory=catalog)
    router: Router = field(default_factory=router)
    idempotency: Idempotency = field(default_factory=lambda: Idempotency(bytes_max=1_000_000, answer_bytes_max=100_000))
    metrics_token: str | None = None

    @classmethod
    def open(cls, folder: Path) -> Desk:
        return cls(FileBooks(folder / "gateway.db"))

    @property
    def keys(self) -> KeyIndex:
        return self.books.index

    def ready(self) -> str | None:
        return None

    def metrics(self) -> bytes:
        return b""

    @cached_property
    def app(self) -> WebApp:
        return build_web(cast("Edge", None), self)  # the edge serves inference, which no test here asks for

    def client(self, holder: Holder | None = None) -> httpx.AsyncClient:
        """A client of the app, with that key."""
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(cast("Any", self.app)),  # one type of ASGI, by two names
            base_url="http://gateway",
            headers=holder.headers if holder else {},
        )

    def account(self, name: str, *, prepaid: bool = True, plan: str | None = None) -> str:
        return accounts.create(self.books.conn, name, prepaid=prepaid, plan=plan).id

    def key(self, account_id: str = OPERATOR, name: str = "a key", **terms: Any) -> Holder:
        made = keys.create(self.books.conn, PEPPER, name, account_id=account_id, terms=KeyTerms(**terms))
        self.reload()
        return Holder(made.id, made.secret, account_id)

    def manager(self, account_id: str = OPERATOR, **terms: Any) -> Holder:
        return self.key(account_id, "a manager", kind="management", **terms)

    def suspend(self, account_id: str) -> None:
        accounts.set_suspended(self.books.conn, account_id, suspended=True)
        self.reload()

    def reload(self) -> None:
        self.books.index = keys.load_index(self.books.conn, PEPPER)

    def grant(self, account_id: str, pico_usd: int) -> None:
        entry_set = ledger.grant(f"grant-{time.time()}", account_id, PicoUsd(pico_usd), time.time())
        with immediate(self.books.conn):
            ledger.write(self.books.conn, [entry_set])

    def call(self, holder: Holder, gen_id: str, **values: Any) -> CallRecord:
        """An ended call of this key, in the record, the ledger and the usage."""
        given: dict[str, Any] = {"started_at": time.time(), "model": MODEL, "status": 200, "ended": "complete"} | values
        record = CallRecord(
            gen_id=gen_id, request_id=f"req-{gen_id}", account_id=holder.account_id, key_id=holder.id, **given
        )
        assert batch.write(self.books.conn, [record], [calls.row(record)], again=False) == []
        return record

    def all_keys(self) -> list[tuple[Any, ...]]:
        """Every key as it is stored."""
        return self.books.conn.execute("SELECT * FROM keys ORDER BY id").fetchall()
