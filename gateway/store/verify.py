"""The proof of the books: the ledger is replayed and held against the calls, the balances and the usage by day.

    entries   every set sums to zero, and all lines of a set are of one kind and time
    calls     a call has exactly the entries that `ledger.of_call` makes of it; no such entries without their call
    balances  each is the sum of its entries; together they are zero
    usage     each row of `usage_daily` is the sum over its calls, and no call is left out

Calls may be pruned by whole UTC days, oldest first: what is of a day before that of the oldest call is not held
against calls. Tables are read side by side in the order of an index, in one read transaction, so memory grows with
the number of balances, not with the number of entries or calls; a writer is not held up. Sums are Python's, which
do not overflow. About 20 us a call with its entries.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from gateway.core.money import format_usd
from gateway.store import ledger, usage
from gateway.store.calls import CallRecord

MISMATCHES_MAX = 1000  # told one by one; a file damaged all over needs no more to be said

UsageKey = tuple[str, str, str, str]  # account, day, key, model: the order of the table's index


class _Entry(NamedTuple):
    entry_set: str
    line: int
    kind: str
    book: str
    owner: str
    amount: int
    at: float
    memo: str


class _Found(list[str]):
    """The mismatches, up to the most that are told."""

    def add(self, text: str) -> None:
        if len(self) < MISMATCHES_MAX:
            self.append(text)
        elif len(self) == MISMATCHES_MAX:
            self.append("and more; these are the first")


def verify(conn: sqlite3.Connection) -> list[str]:
    """Return what does not add up, one sentence each; nothing when all is well.

    Blocks; `conn` is one no other thread is using. Raises sqlite3.Error when the file cannot be read.
    """
    found = _Found()
    conn.execute("BEGIN")
    try:
        oldest = conn.execute("SELECT MIN(started_at) FROM calls").fetchone()[0]
        first_day = None if oldest is None else int(oldest // usage.DAY_S)
        replayed = _check_entries(conn, first_day, found)
        _check_balances(conn, replayed, found)
        if first_day is not None:
            _check_usage(conn, usage.day_text(first_day), found)
    finally:
        conn.execute("ROLLBACK")
    return list(found)


def _check_entries(conn: sqlite3.Connection, first_day: int | None, found: _Found) -> dict[tuple[str, str], int]:
    """Check every set, by itself and against its call; return the replayed balances."""
    balances: dict[tuple[str, str], int] = {}
    for set_id, entries, record in _joined(_sets(conn), _paid_calls(conn)):
        for entry in entries:
            key = (entry.book, entry.owner)
            balances[key] = balances.get(key, 0) + _whole(entry.amount)
        for fault in (_set_fault(set_id, entries), _call_fault(set_id, entries, record, first_day)):
            if fault:
                found.add(fault)
    return balances


def _sets(conn: sqlite3.Connection) -> Iterator[tuple[str, list[_Entry]]]:
    rows = conn.execute(
        "SELECT entry_set, line, kind, book, owner, amount_pico_usd, at, memo FROM entries ORDER BY entry_set, line"
    )
    for set_id, entries in groupby(map(_Entry._make, rows), key=itemgetter(0)):
        yield set_id, list(entries)


def _paid_calls(conn: sqlite3.Connection) -> Iterator[tuple[str, CallRecord]]:
    rows = conn.execute(
        "SELECT gen_id, started_at, account_id, provider, cost_pico_usd, provider_cost_pico_usd, "
        "hedge_cost_pico_usd, hold_pico_usd FROM calls WHERE cost_pico_usd <> 0 OR provider_cost_pico_usd <> 0 "
        "OR hedge_cost_pico_usd <> 0 ORDER BY gen_id"
    )
    for gen_id, started_at, account_id, provider, cost, provider_cost, hedge, hold in rows:
        record = CallRecord(gen_id, "", started_at, account_id, provider=provider, hold_pico_usd=_whole(hold))
        record.cost_pico_usd, record.provider_cost_pico_usd = _whole(cost), _whole(provider_cost)
        record.hedge_cost_pico_usd = _whole(hedge)
        yield gen_id, record


def _joined(
    sets: Iterator[tuple[str, list[_Entry]]], calls: Iterator[tuple[str, CallRecord]]
) -> Iterator[tuple[str, list[_Entry], CallRecord | None]]:
    """Merge two sequences in the order of their ids. Python compares text as SQLite does, by code point."""
    entries, call = next(sets, None), next(calls, None)
    while entries or call:
        if call is None or (entries is not None and entries[0] < call[0]):
            assert entries is not None
            yield *entries, None
            entries = next(sets, None)
        elif entries is None or call[0] < entries[0]:
            yield call[0], [], call[1]
            call = next(calls, None)
        else:
            yield *entries, call[1]
            entries, call = next(sets, None), next(calls, None)


def _set_fault(set_id: str, entries: list[_Entry]) -> str | None:
    total = sum(_whole(entry.amount) for entry in entries)
    if not all(isinstance(entry.amount, int) for entry in entries):
        return f"entry set {set_id}: an amount is not a whole number"
    if total:
        return f"entry set {set_id}: sums to {_usd(total)}, not to zero"
    if [entry.line for entry in entries] != list(range(len(entries))):
        return f"entry set {set_id}: its lines are not numbered from 0"
    if len({(entry.kind, entry.at) for entry in entries}) > 1:
        return f"entry set {set_id}: its lines are of more than one kind or time"
    return None


def _call_fault(set_id: str, entries: list[_Entry], record: CallRecord | None, first_day: int | None) -> str | None:
    if record is None:
        if first_day is None or entries[0].kind != ledger.CALL or entries[0].at < first_day * usage.DAY_S:
            return None
        return f"entry set {set_id}: no call with these costs is on record"
    cost = _usd(record.cost_pico_usd)
    if not entries:
        return f"call {set_id}: costs {cost} and is not in the ledger"
    expected = ledger.of_call(record)
    lines = tuple(ledger.Line(entry.book, entry.owner, entry.amount, entry.memo) for entry in entries)
    if expected is None or (lines, entries[0].kind, entries[0].at) != (expected.lines, expected.kind, expected.at):
        return f"call {set_id}: its entries are not those of its costs ({cost} to the customer)"
    return None


def _check_balances(conn: sqlite3.Connection, replayed: dict[tuple[str, str], int], found: _Found) -> None:
    total = 0
    for book, owner, balance in conn.execute("SELECT book, owner, balance_pico_usd FROM balances ORDER BY book, owner"):
        total += _whole(balance)
        expected = replayed.pop((book, owner), 0)
        if balance != expected or not isinstance(balance, int):
            found.add(f"balance {_book(book, owner)}: is {_usd(balance)}, its entries sum to {_usd(expected)}")
    for (book, owner), expected in replayed.items():
        if expected:
            found.add(f"balance {_book(book, owner)}: is missing, its entries sum to {_usd(expected)}")
    if total:
        found.add(f"balances: together they are {_usd(total)}, not zero")


def _check_usage(conn: sqlite3.Connection, first_day: str, found: _Found) -> None:
    summed, stored = _usage_of_calls(conn), _usage_stored(conn, first_day)
    calls, row = next(summed, None), next(stored, None)
    while calls or row:
        if row is None or (calls is not None and calls[0] < row[0]):
            assert calls is not None
            found.add(f"usage of {_usage_name(calls[0])}: is missing, and there are {calls[1][0]} calls")
            calls = next(summed, None)
        elif calls is None or row[0] < calls[0]:
            found.add(f"usage of {_usage_name(row[0])}: says {row[1][0]} calls, and there are none")
            row = next(stored, None)
        else:
            if difference := _first_difference(row[1], calls[1]):
                found.add(f"usage of {_usage_name(row[0])}: {difference}")
            calls, row = next(summed, None), next(stored, None)


def _usage_of_calls(conn: sqlite3.Connection) -> Iterator[tuple[UsageKey, tuple[int, ...]]]:
    """Sum up the calls of an account and a day at a time, in the order of the table's index."""
    rows = conn.execute(
        f"SELECT account_id, started_at, key_id, model, {', '.join(usage.SUMS)} FROM calls "
        "ORDER BY account_id, started_at"
    )
    for (account, day), calls in groupby(rows, key=lambda row: (row[0], row[1] // usage.DAY_S)):
        sums: dict[tuple[str, str], list[int]] = {}
        for call in calls:
            total = sums.setdefault((call[2], call[3]), [0] * (1 + len(usage.SUMS)))
            total[0] += 1
            for at, value in enumerate(call[4:], 1):
                total[at] += _whole(value)
        for (key, model), total in sorted(sums.items()):
            yield (account, usage.day_text(int(day)), key, model), tuple(total)


def _usage_stored(conn: sqlite3.Connection, first_day: str) -> Iterator[tuple[UsageKey, tuple[int, ...]]]:
    rows = conn.execute(
        f"SELECT account_id, day, key_id, model, calls, {', '.join(usage.SUMS)} FROM usage_daily WHERE day >= ? "
        "ORDER BY account_id, day, key_id, model",
        (first_day,),
    )
    return ((row[:4], row[4:]) for row in rows)


def _first_difference(said: Iterable[int], summed: Iterable[int]) -> str | None:
    for name, one, other in zip(("calls", *usage.SUMS), said, summed, strict=True):
        if one != other or not isinstance(one, int):  # past 64 bits it went on in floating point
            return f"{name} is {one}, its calls sum to {other}"
    return None


def _usage_name(key: UsageKey) -> str:
    account, day, key_id, model = key
    return f"{day}, account {account}, key {key_id or '-'}, model {model or '-'}"


def _book(book: str, owner: str) -> str:
    return f"{book} {owner}" if owner else book


def _usd(amount: object) -> str:
    if not isinstance(amount, int):
        return repr(amount)
    return f"{'-' if amount < 0 else ''}${format_usd(abs(amount))}"


def _whole(value: object) -> int:
    """Return the integer; 0 for what is none, which then does not add up."""
    return value if isinstance(value, int) else 0
