"""The ledger as rows to take elsewhere, read in pages.

Invariant: the entries of one export are those that were there when it began. The ledger is append-only and its ids
grow in the order of commits, so pages up to the last id of that moment are one snapshot although each page is a read
of its own: a reader that takes its time holds no lock and keeps no WAL from being checkpointed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

_PAGE_ROWS = 1000


class Entry(NamedTuple):
    """One line of the ledger. `at` is Unix seconds; the lines of an `entry_set` sum to zero."""

    id: int
    entry_set: str
    line: int
    kind: str
    book: str
    owner: str
    amount_pico_usd: int
    at: float
    memo: str


def export(
    conn: sqlite3.Connection,
    *,
    since_unix_s: float | None = None,
    until_unix_s: float | None = None,
    account_id: str | None = None,
) -> Iterator[Entry]:
    """Yield entries in the order they were written, in constant memory; with an account, only the lines of its balance.

    `since_unix_s` is included, `until_unix_s` is not. Blocks; `conn` is one no other thread is using.
    Raises sqlite3.Error.
    """
    last: int = conn.execute("SELECT COALESCE(MAX(id), 0) FROM entries").fetchone()[0]
    bounds = {"at >= ?": since_unix_s, "at < ?": until_unix_s, "book = 'customer' AND owner = ?": account_id}
    wanted = {test: value for test, value in bounds.items() if value is not None}
    page = (
        f"SELECT {', '.join(Entry._fields)} FROM entries "
        f"WHERE {' AND '.join(('id > ? AND id <= ?', *wanted))} ORDER BY id LIMIT {_PAGE_ROWS}"
    )
    after = 0
    while True:
        rows = conn.execute(page, (after, last, *wanted.values())).fetchall()
        yield from map(Entry._make, rows)
        if len(rows) < _PAGE_ROWS:
            return
        after = rows[-1][0]
