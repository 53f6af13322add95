"""The ledger: append-only, double entry. What a call or a grant is as entries, and how they are written.

An `EntrySet` is lines that sum to zero, written together with the balances they change. Its id makes it happen once:
a set that is already there is left as it is. Signs are those of the book's own balance: what a customer is given and
what a provider is owed are positive.

    call         customer -c   revenue +c           provider_cost -p   provider_payable +p
    its losers   hedge_cost -h   provider_payable +h
    grant        grants -g   customer +g            top-up   topups -t   customer +t

Pure but for `write` and `moves_after`, which block; each takes a connection no other thread is using.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from gateway.core.money import PicoUsd
from gateway.store import bulk
from gateway.store.calls import CallRecord

CALL = "call"  # the kind that only the serving process writes, and has applied before it writes


class Line(msgspec.Struct, frozen=True, gc=False):
    """One row: a book, whose it is (an account, a provider or ""), and pico-USD."""

    book: str
    owner: str
    amount: int
    memo: str = ""


class EntrySet(msgspec.Struct, frozen=True, gc=False):
    """Lines that sum to zero. `at` is Unix seconds."""

    id: str
    kind: str
    at: float
    lines: tuple[Line, ...]


class Move(NamedTuple):
    """A customer's entry that is not of a call: the server applies it when it finds it."""

    entry_id: int
    account_id: str
    amount: PicoUsd


def of_call(record: CallRecord) -> EntrySet | None:
    """The entries of an ended call; None when no money moved."""
    cost, provider_cost, hedge = record.cost_pico_usd, record.provider_cost_pico_usd, record.hedge_cost_pico_usd
    lines: list[Line] = []
    if cost:
        lines += _debit(record, cost)
        lines.append(Line("revenue", record.account_id, cost))
    if provider_cost:
        lines += (
            Line("provider_cost", record.provider, -provider_cost),
            Line("provider_payable", record.provider, provider_cost),
        )
    if hedge:
        lines += (Line("hedge_cost", "", -hedge), Line("provider_payable", "", hedge, "losers"))
    return EntrySet(record.gen_id, CALL, record.started_at, tuple(lines)) if lines else None


def _debit(record: CallRecord, cost: int) -> Iterable[Line]:
    """The customer's side: what was held for the call, and on a line of its own what it used beyond that."""
    held = record.hold_pico_usd
    if 0 < held < cost:
        return (
            Line("customer", record.account_id, -held),
            Line("customer", record.account_id, held - cost, "beyond the hold"),
        )
    return (Line("customer", record.account_id, -cost),)


def grant(set_id: str, account_id: str, amount: PicoUsd, at: float, memo: str = "") -> EntrySet:
    """Credit given by the operator. `set_id` is unique: the same one twice is one grant."""
    return EntrySet(
        set_id, "grant", at, (Line("grants", account_id, -amount, memo), Line("customer", account_id, amount, memo))
    )


def write(conn: sqlite3.Connection, sets: Sequence[EntrySet]) -> None:
    """Append sets and change the balances, inside the caller's transaction.

    Raises ValueError for a set that is unbalanced, sqlite3.IntegrityError for one that is there already (ask `has`).
    """
    rows: list[tuple[object, ...]] = []
    changed: dict[tuple[str, str], int] = {}
    for entries in sets:
        set_id, kind, at, total = entries.id, entries.kind, entries.at, 0
        for number, line in enumerate(entries.lines):
            book, owner, amount = line.book, line.owner, line.amount
            total += amount
            rows.append((set_id, number, kind, book, owner, amount, at, line.memo))
            changed[book, owner] = changed.get((book, owner), 0) + amount
        if total:
            raise ValueError(f"entry set {set_id} does not sum to zero")
    bulk.insert(conn, "entries", _COLUMNS, rows)
    conn.executemany(_BALANCE, [(book, owner, amount) for (book, owner), amount in changed.items()])


def has(conn: sqlite3.Connection, set_id: str) -> bool:
    """Whether this set is in the ledger."""
    return conn.execute("SELECT 1 FROM entries WHERE entry_set = ? LIMIT 1", (set_id,)).fetchone() is not None


def moves_after(conn: sqlite3.Connection, entry_id: int) -> list[Move]:
    """Customers' entries with a larger id that no call made, in order. Cheap: they have an index of their own."""
    found = conn.execute(
        "SELECT id, owner, amount_pico_usd FROM entries "
        "WHERE kind <> 'call' AND id > ? AND book = 'customer' ORDER BY id",
        (entry_id,),
    )
    return [Move(*row) for row in found]


_COLUMNS = ("entry_set", "line", "kind", "book", "owner", "amount_pico_usd", "at", "memo")
_BALANCE = (
    "INSERT INTO balances (book, owner, balance_pico_usd) VALUES (?, ?, ?) "
    "ON CONFLICT (book, owner) DO UPDATE SET balance_pico_usd = balance_pico_usd + excluded.balance_pico_usd"
)
