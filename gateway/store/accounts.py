"""Accounts in the database: who owns keys, on which plan, and whether he pays before or after.

Every change bumps `meta.keys_version`, as a key's does: an account is part of each of its keys' principals.
All functions block; see `gateway.store.keys`.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from dataclasses import dataclass

from gateway.store.keys import NAME_CHARS_MAX, bump
from gateway.store.schema import OPERATOR, immediate


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as it may be shown. `balance_pico_usd` is that of the committed ledger."""

    id: str
    name: str
    plan: str | None
    prepaid: bool
    created_at: float
    suspended_at: float | None
    balance_pico_usd: int


def create(conn: sqlite3.Connection, name: str, *, plan: str | None = None, prepaid: bool = False) -> AccountRow:
    """Make an account.

    Raises:
        ValueError: the name is empty, too long, holds control characters, or is another account's.
        sqlite3.OperationalError: the database stayed locked, or the disk is full. Nothing was stored.
    """
    if not name.strip() or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise ValueError(f"an account's name needs 1 to {NAME_CHARS_MAX} printable characters")
    account_id = f"acct_{secrets.token_hex(8)}"
    with immediate(conn):
        if conn.execute("SELECT 1 FROM accounts WHERE name = ? COLLATE NOCASE", (name,)).fetchone() is not None:
            raise ValueError(f"there is an account {name!r} already; `gateway accounts list` shows it")
        conn.execute(
            "INSERT INTO accounts (id, name, created_at, plan, prepaid) VALUES (?, ?, ?, ?, ?)",
            (account_id, name, time.time(), plan, int(prepaid)),
        )
        bump(conn)
    return find(conn, account_id)


def list_all(conn: sqlite3.Connection) -> list[AccountRow]:
    """Return every account, oldest first."""
    return [_row(row) for row in conn.execute(f"{_SELECT} ORDER BY a.created_at, a.id")]


def find(conn: sqlite3.Connection, id_or_name: str) -> AccountRow:
    """Return the account of that id or, failing that, of that name. Raises KeyError."""
    for column in ("id", "name"):
        row = conn.execute(f"{_SELECT} WHERE a.{column} = ?", (id_or_name,)).fetchone()
        if row is not None:
            return _row(row)
    raise KeyError(id_or_name)


def set_suspended(conn: sqlite3.Connection, account_id: str, *, suspended: bool) -> bool:
    """Suspend or resume; False when it was so before. Raises KeyError, and ValueError for the operator's own."""
    if account_id == OPERATOR:
        raise ValueError("the operator's own account cannot be suspended; revoke its keys instead")
    with immediate(conn):
        row = conn.execute("SELECT suspended_at FROM accounts WHERE id = ?", (account_id,)).fetchone()
        if row is None:
            raise KeyError(account_id)
        if (row[0] is not None) == suspended:
            return False
        at = time.time() if suspended else None
        conn.execute("UPDATE accounts SET suspended_at = ? WHERE id = ?", (at, account_id))
        bump(conn)
    return True


_SELECT = (
    "SELECT a.id, a.name, a.plan, a.prepaid, a.created_at, a.suspended_at, COALESCE(b.balance_pico_usd, 0) "
    "FROM accounts a LEFT JOIN balances b ON b.book = 'customer' AND b.owner = a.id"
)


def _row(row: tuple[str, str, str | None, int, float, float | None, int]) -> AccountRow:
    return AccountRow(*row[:3], bool(row[3]), *row[4:])
