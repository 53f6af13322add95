"""API keys in the database: made, changed, listed, revoked, and read into the index that serves.

Every change bumps `meta.keys_version` in its own transaction, which is how a serving process notices.
All functions block; each takes a connection of `schema.open_database` that no other thread is using.
With an `account_id` a function sees that account's keys only: another's do not exist for it (KeyError).
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from gateway.auth.keys import KeyIndex, digest
from gateway.core.money import PicoUsd
from gateway.core.principal import Account, LimitReset, Principal
from gateway.store.schema import OPERATOR, immediate

PREFIX = "sk-gw-"
NAME_CHARS_MAX = 100
KEYS_PER_ACCOUNT_MAX = 10_000

_HINT_CHARS = 4  # shown of each end; 215 of the 256 random bits stay unknown
_MODELS_MAX = 1000


@dataclass(frozen=True, slots=True)
class KeyTerms:
    """What a key may do. None of a limit: none of its own. `expires_at` is Unix seconds; `models` are ids."""

    kind: Literal["standard", "management"] = "standard"
    plan: str | None = None
    spend_limit: PicoUsd | None = None
    limit_reset: LimitReset | None = None
    disabled: bool = False
    expires_at: float | None = None
    models: tuple[str, ...] | None = None
    rpm: int | None = None
    rpd: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


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
    updated_at: float | None
    terms: KeyTerms


_TERM_COLUMNS = (
    "kind, plan, spend_limit_pico_usd, limit_reset, disabled_at, expires_at, models, rpm, rpd, tpm, concurrency"
)
_ROW_COLUMNS = f"id, account_id, name, prefix_hint, created_at, revoked_at, updated_at, {_TERM_COLUMNS}"


def mint(prefix: str = PREFIX) -> str:
    """Return a new secret: the prefix and 256 random bits, URL-safe."""
    return prefix + secrets.token_urlsafe(32)


def create(
    conn: sqlite3.Connection, pepper: bytes, name: str, *, account_id: str = OPERATOR, terms: KeyTerms = KeyTerms()
) -> NewKey:
    """Make a key and store its digest.

    Raises:
        ValueError: a bad name or term, or there is no such account, or it has too many keys.
        sqlite3.OperationalError: the database stayed locked, or the disk is full. Nothing was stored.
    """
    _check(name, terms)
    with immediate(conn):
        return _insert(conn, pepper, name, account_id, terms)


def create_first(conn: sqlite3.Connection, pepper: bytes, name: str = "first key") -> NewKey | None:
    """Make a key when the database never had one (revoked ones count); else return None."""
    with immediate(conn):
        if conn.execute("SELECT 1 FROM keys LIMIT 1").fetchone() is not None:
            return None
        return _insert(conn, pepper, name, OPERATOR, KeyTerms())


def update(
    conn: sqlite3.Connection,
    key_id: str,
    change: Callable[[str, KeyTerms], tuple[str, KeyTerms]],
    *,
    account_id: str | None = None,
) -> KeyRow:
    """Change a live key: `change` gets its name and terms and returns the new ones, inside the transaction.

    Raises KeyError when there is no such live key, ValueError for a bad name or term; nothing is changed then.
    """
    with immediate(conn):
        row = get(conn, key_id, account_id=account_id)
        if row.revoked_at is not None:
            raise KeyError(key_id)
        name, terms = change(row.name, row.terms)
        _check(name, terms)
        names = ["name", *_TERM_COLUMNS.split(", "), "updated_at"]
        values = (name, *_term_values(terms), time.time(), key_id)
        conn.execute(f"UPDATE keys SET {', '.join(f'{column} = ?' for column in names)} WHERE id = ?", values)
        bump(conn)
        return get(conn, key_id, account_id=account_id)


def get(conn: sqlite3.Connection, key_id: str, *, account_id: str | None = None) -> KeyRow:
    """Return one key, revoked or not. Raises KeyError."""
    row = conn.execute(f"SELECT {_ROW_COLUMNS} FROM keys WHERE id = ?", (key_id,)).fetchone()
    if row is None or (account_id is not None and row[1] != account_id):
        raise KeyError(key_id)
    return _row(row)


def list_all(conn: sqlite3.Connection, *, account_id: str | None = None) -> list[KeyRow]:
    """Return every key (of the account), revoked ones too, oldest first."""
    where, values = ("", ()) if account_id is None else ("WHERE account_id = ?", (account_id,))
    return [
        _row(row) for row in conn.execute(f"SELECT {_ROW_COLUMNS} FROM keys {where} ORDER BY created_at, id", values)
    ]


def revoke(conn: sqlite3.Connection, key_id: str, *, account_id: str | None = None) -> bool:
    """Revoke a key for good. Returns False when it was revoked before. Raises KeyError when there is no such key."""
    with immediate(conn):
        if get(conn, key_id, account_id=account_id).revoked_at is not None:
            return False
        conn.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (time.time(), key_id))
        bump(conn)
    return True


def version(conn: sqlite3.Connection) -> int:
    """Return the number that changes whenever a key does. One cheap read."""
    number: int = conn.execute("SELECT keys_version FROM meta").fetchone()[0]
    return number


def load_index(conn: sqlite3.Connection, pepper: bytes) -> KeyIndex:
    """Read every key that is not revoked, and its account.

    The version is read first, so a change in between causes one more load, never a miss.
    """
    at = version(conn)
    found = conn.execute("SELECT id, name, plan, prepaid, suspended_at FROM accounts")
    accounts = {row[0]: Account(row[0], row[1], row[2], bool(row[3]), row[4] is not None) for row in found}
    rows = conn.execute(f"SELECT digest, id, account_id, name, {_TERM_COLUMNS} FROM keys WHERE revoked_at IS NULL")
    principals = {row[0]: _principal(row[1], accounts[row[2]], row[3], _terms(row[4:])) for row in rows}
    return KeyIndex(pepper, MappingProxyType(principals), at)


def _principal(key_id: str, account: Account, name: str, terms: KeyTerms) -> Principal:
    return Principal(
        key_id=key_id,
        account=account,
        name=name,
        management=terms.kind == "management",
        plan=terms.plan,
        rpm=terms.rpm,
        rpd=terms.rpd,
        tpm=terms.tpm,
        concurrency=terms.concurrency,
        spend_limit=terms.spend_limit,
        limit_reset=terms.limit_reset,
        models=None if terms.models is None else frozenset(terms.models),
        disabled=terms.disabled,
        expires_at=terms.expires_at,
    )


def _row(row: tuple[Any, ...]) -> KeyRow:
    key_id, account_id, name, hint, created_at, revoked_at, updated_at, *terms = row
    return KeyRow(key_id, account_id, name, hint, created_at, revoked_at, updated_at, _terms(tuple(terms)))


def _terms(row: tuple[Any, ...]) -> KeyTerms:
    kind, plan, limit, reset, disabled_at, expires_at, models, *rates = row
    allowed = None if models is None else tuple(json.loads(models))
    return KeyTerms(kind, plan, limit, reset, disabled_at is not None, expires_at, allowed, *rates)


def _term_values(terms: KeyTerms) -> tuple[object, ...]:
    """In the order of _TERM_COLUMNS."""
    return (
        terms.kind,
        terms.plan,
        terms.spend_limit,
        terms.limit_reset,
        time.time() if terms.disabled else None,
        terms.expires_at,
        None if terms.models is None else json.dumps(terms.models),
        terms.rpm,
        terms.rpd,
        terms.tpm,
        terms.concurrency,
    )


def _insert(conn: sqlite3.Connection, pepper: bytes, name: str, account_id: str, terms: KeyTerms) -> NewKey:
    if conn.execute("SELECT 1 FROM accounts WHERE id = ?", (account_id,)).fetchone() is None:
        raise ValueError(f"there is no account {account_id!r}")
    live = conn.execute("SELECT COUNT(*) FROM keys WHERE account_id = ? AND revoked_at IS NULL", (account_id,))
    if live.fetchone()[0] >= KEYS_PER_ACCOUNT_MAX:
        raise ValueError(f"the account has {KEYS_PER_ACCOUNT_MAX} live keys; revoke one first")
    key = NewKey(f"key_{secrets.token_hex(8)}", name, mint())
    hint = f"{key.secret[: len(PREFIX) + _HINT_CHARS]}...{key.secret[-_HINT_CHARS:]}"
    columns = f"id, account_id, name, digest, prefix_hint, created_at, {_TERM_COLUMNS}"
    values = (key.id, account_id, name, digest(pepper, key.secret.encode()), hint, time.time(), *_term_values(terms))
    conn.execute(f"INSERT INTO keys ({columns}) VALUES ({', '.join('?' * len(values))})", values)
    bump(conn)
    return key


def bump(conn: sqlite3.Connection) -> None:
    """Have serving processes read keys and accounts again. Inside the caller's transaction."""
    conn.execute("UPDATE meta SET keys_version = keys_version + 1")


def _check(name: str, terms: KeyTerms) -> None:
    if not name.strip() or len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise ValueError(
            f"a key's name needs 1 to {NAME_CHARS_MAX} printable characters, and {name[:120]!r} is not that"
        )
    for what in ("rpm", "rpd", "tpm", "concurrency"):
        limit = getattr(terms, what)
        if limit is not None and not 0 < limit < 2**53:
            raise ValueError(f"{what} must be a whole number of at least 1, and {limit} is not that")
    if terms.spend_limit is not None and not 0 <= terms.spend_limit < 2**63:
        raise ValueError("limit must be at least 0 and below $9,000,000")
    if terms.limit_reset is not None and terms.limit_reset not in get_args(LimitReset):
        raise ValueError(f"limit_reset must be daily, weekly, monthly or none, and {terms.limit_reset!r} is not that")
    if terms.models is not None and len(terms.models) > _MODELS_MAX:
        raise ValueError(f"a key can be limited to at most {_MODELS_MAX} models")
