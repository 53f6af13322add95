"""API keys and their accounts in the database: made, listed, revoked, and read into the index that serves.

Every change bumps `meta.keys_version` in its own transaction, which is how a serving process notices.
All functions block; each takes a connection of `schema.open_database` that no other thread is using.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from dataclasses import dataclass, field
from types import MappingProxyType

from gateway.auth.keys import KeyIndex, digest
from gateway.auth.principal import Principal
from gateway.store.schema import OPERATOR, immediate

PREFIX = "sk-gw-"
NAME_CHARS_MAX = 100

_HINT_CHARS = 4  # shown of each end; 215 of the 256 random bits stay unknown


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. The only place its secret ever is."""

    id: str
    name: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it may be shown. Times are Unix seconds; `revoked_at` is None while the key is live."""

    id: str
    account_id: str
    name: str
    prefix_hint: str
    created_at: float
    revoked_at: float | None


def mint(prefix: str = PREFIX) -> str:
    """Return a new secret: the prefix and 256 random bits, URL-safe."""
    return prefix + secrets.token_urlsafe(32)


def create(conn: sqlite3.Connection, pepper: bytes, name: str, *, account_id: str = OPERATOR) -> NewKey:
    """Make a key and store its digest.

    Raises:
        ValueError: the name is empty, too long or holds control characters; or there is no such account.
        sqlite3.OperationalError: the database stayed locked, or the disk is full. Nothing was stored.
    """
    _check_name(name)
    with immediate(conn):
        return _insert(conn, pepper, name, account_id)


def create_first(conn: sqlite3.Connection, pepper: bytes, name: str = "first key") -> NewKey | None:
    """Make a key when the database never had one (revoked ones count); else return None."""
    with immediate(conn):
        if conn.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is not None:
            return None
        return _insert(conn, pepper, name, OPERATOR)


def list_all(conn: sqlite3.Connection) -> list[KeyRow]:
    """Return every key, revoked ones too, oldest first."""
    columns = "id, account_id, name, prefix_hint, created_at, revoked_at"
    return [KeyRow(*row) for row in conn.execute(f"SELECT {columns} FROM keys ORDER BY created_at, rowid")]


def revoke(conn: sqlite3.Connection, key_id: str) -> bool:
    """Revoke a key for good. Returns False when it was revoked before. Raises KeyError when there is no such key."""
    with immediate(conn):
        row = conn.execute("SELECT revoked_at FROM keys WHERE id = ?", (key_id,)).fetchone()
        if row is None:
            raise KeyError(key_id)
        if row[0] is not None:
            return False
        conn.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (time.time(), key_id))
        _bump(conn)
    return True


def version(conn: sqlite3.Connection) -> int:
    """Return the number that changes whenever a key does. One cheap read."""
    number: int = conn.execute("SELECT keys_version FROM meta").fetchone()[0]
    return number


def load_index(conn: sqlite3.Connection, pepper: bytes) -> KeyIndex:
    """Read every live key. The version is read first, so a change in between causes one more load, never a miss."""
    at = version(conn)
    rows = conn.execute("SELECT digest, id, account_id, name FROM keys WHERE revoked_at IS NULL")
    principals = {key_digest: Principal(key_id, account_id, name) for key_digest, key_id, account_id, name in rows}
    return KeyIndex(pepper, MappingProxyType(principals), at)


def _insert(conn: sqlite3.Connection, pepper: bytes, name: str, account_id: str) -> NewKey:
    if conn.execute("SELECT 1 FROM accounts WHERE id = ?", (account_id,)).fetchone() is None:
        raise ValueError(f"there is no account {account_id!r}")
    key = NewKey(f"key_{secrets.token_hex(8)}", name, mint())
    hint = f"{key.secret[: len(PREFIX) + _HINT_CHARS]}...{key.secret[-_HINT_CHARS:]}"
    conn.execute(
        "INSERT INTO keys (id, account_id, name, digest, prefix_hint, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        (key.id, account_id, name, digest(pepper, key.secret.encode()), hint, time.time()),
    )
    _bump(conn)
    return key


def _bump(conn: sqlite3.Connection) -> None:
    conn.execute("UPDATE meta SET keys_version = keys_version + 1")


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise ValueError(
            f"a key's name needs 1 to {NAME_CHARS_MAX} printable characters, and {name[:120]!r} is not that"
        )
