"""What an account's manager reads of its keys: pages of them, their names, and when they were last used.

Reads only; all functions block, and each takes a connection no other thread is using. None of them grows with the
number of calls: they serve people who look, on the one thread that all such readers share.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from gateway.store import keys
from gateway.store.keys import KeyRow

# The newest calls of an account that are looked through for each key's last: 5,000 index rows are about 5 ms.
_RECENT_CALLS: Final = 5000


def page(
    conn: sqlite3.Connection, account_id: str, *, disabled: bool, expired: bool, now: float, offset: int, limit: int
) -> list[KeyRow]:
    """Return live keys, oldest first; disabled and expired ones only if asked for. `now` is Unix seconds."""
    where = "account_id = ? AND revoked_at IS NULL"
    if not disabled:
        where += " AND disabled_at IS NULL"
    if not expired:
        where += " AND (expires_at IS NULL OR expires_at > ?)"
    values = (account_id, *(() if expired else (now,)), limit, offset)
    found = conn.execute(f"SELECT id FROM keys WHERE {where} ORDER BY created_at, id LIMIT ? OFFSET ?", values)
    return [keys.get(conn, row[0], account_id=account_id) for row in found.fetchall()]


def names(conn: sqlite3.Connection, account_id: str) -> dict[str, str]:
    """Return the names of all keys of the account by id, of revoked ones too."""
    return dict(conn.execute("SELECT id, name FROM keys WHERE account_id = ?", (account_id,)).fetchall())


def last_used(conn: sqlite3.Connection, account_id: str, rows: Sequence[KeyRow]) -> dict[str, float]:
    """Return when each of the account's keys began its last call, Unix seconds; keys never used are left out.

    Exact for a key that is among the account's newest 5,000 calls. Of another only the day is known: its beginning is
    returned, or the key's own if that is later.
    """
    if not rows:
        return {}
    marks, ids = ", ".join("?" * len(rows)), [row.id for row in rows]
    days = conn.execute(f"SELECT key_id, MAX(day) FROM usage_daily WHERE key_id IN ({marks}) GROUP BY key_id", ids)
    created = {row.id: row.created_at for row in rows}
    used = {key_id: max(_start(day), created[key_id]) for key_id, day in days}
    recent = conn.execute(
        "SELECT key_id, MAX(started_at) FROM (SELECT key_id, started_at FROM calls WHERE account_id = ? "
        f"ORDER BY started_at DESC LIMIT {_RECENT_CALLS}) WHERE key_id IN ({marks}) GROUP BY key_id",
        [account_id, *ids],
    )
    return used | dict(recent.fetchall())


def _start(day: str) -> float:
    return datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()
