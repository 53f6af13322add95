"""What start-up does before it serves: replay the journal, resolve the holds of a crash, read the books.

Blocks; runs before the loop. Everything here may be cut by another crash and is then simply done again: a journal
segment goes after its calls are committed, the hold slots are cleared after their records are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.store import batch, calls, journal
from gateway.store.calls import CallRecord
from gateway.store.holds import Holds

_BATCH = 256
_DAY_S = 86_400
_USED_MAX = 200_000

Say = Callable[..., None]  # (event, level, **details): one line about the store


@dataclass(frozen=True, slots=True)
class KeySpending:
    """What a key has spent, pico-USD: ever, and in the present day, week (from Monday) and month of UTC."""

    key_id: str
    total: int
    daily: int
    weekly: int
    monthly: int


@dataclass(frozen=True, slots=True)
class OpeningBooks:
    """The state that a process begins with. `last_entry_id`: the ledger was read up to there."""

    read_at: float  # Unix seconds
    balances: dict[str, int]
    spending: list[KeySpending]
    last_entry_id: int
    used_idempotency: list[tuple[str, float, str]]  # digest, Unix seconds, gen id


def recover(conn: sqlite3.Connection, folder: Path, holds: Holds, say: Say) -> None:
    """Bring the database to where the last process was when it ended. Raises sqlite3.Error, OSError."""
    replayed = 0
    for path in journal.segments(folder):
        pending, damaged = journal.read(path)
        for start in range(0, len(pending), _BATCH):
            fresh = batch.missing(conn, pending[start : start + _BATCH])
            _write(conn, fresh)
            replayed += len(fresh)
        if damaged:  # somebody's disk: what is left of it may tell whose charges are missing
            kept = path.rename(path.with_suffix(".damaged"))
            say("journal_damaged", "error", lines=damaged, kept=str(kept))
        else:
            path.unlink()
    if replayed:
        say("journal_replayed", "warning", calls=replayed)
    for hold in holds.found:
        if batch.missing(conn, [hold]):
            details = {"account_id": hold.account_id, "key_id": hold.key_id, "hold_pico_usd": hold.hold_pico_usd}
            say("hold_voided", "warning", gen_id=hold.gen_id, **details)
            _write(conn, [hold])
    holds.forget_found()


def _write(conn: sqlite3.Connection, records: list[CallRecord]) -> None:
    batch.write(conn, records, [calls.row(record) for record in records], again=False)


def read_books(conn: sqlite3.Connection, now_unix_s: float) -> OpeningBooks:
    """Read balances, spending and used idempotency keys, as of one moment."""
    conn.execute("BEGIN")
    try:
        found = conn.execute("SELECT owner, balance_pico_usd FROM balances WHERE book = 'customer'")
        balances: dict[str, int] = dict(found.fetchall())
        last: int = conn.execute("SELECT COALESCE(MAX(id), 0) FROM entries").fetchone()[0]
        used = conn.execute(
            "SELECT idempotency, started_at, gen_id FROM calls WHERE idempotency IS NOT NULL AND started_at > ? "
            "ORDER BY started_at DESC LIMIT ?",
            (now_unix_s - _DAY_S, _USED_MAX),
        ).fetchall()
        spending = [KeySpending(*row) for row in conn.execute(_SPENDING, {"now": now_unix_s})]
        return OpeningBooks(now_unix_s, balances, spending, last, used)
    finally:
        conn.execute("ROLLBACK")


_SPENDING = """
    SELECT key_id, SUM(cost_pico_usd),
           SUM(CASE WHEN day >= date(:now, 'unixepoch') THEN cost_pico_usd ELSE 0 END),
           SUM(CASE WHEN day >= date(:now, 'unixepoch', '-6 days', 'weekday 1') THEN cost_pico_usd ELSE 0 END),
           SUM(CASE WHEN day >= date(:now, 'unixepoch', 'start of month') THEN cost_pico_usd ELSE 0 END)
    FROM usage_daily WHERE cost_pico_usd <> 0 GROUP BY key_id
"""
