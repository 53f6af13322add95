"""The steps from an empty file to the present schema, made with sqlite-utils. A step is history: it is never edited,
later tables and columns are later steps.

Version 1  meta, accounts, keys, calls
Version 2  limits of keys and accounts; the ledger and what is summed up of it: balances, usage by day
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

OPERATOR = "operator"  # the account of whoever runs the box; exists from the first version


def _first_tables(db: Database) -> None:
    """Version 1."""
    db.table("meta").create(
        {"id": int, "schema_version": int, "keys_version": int, "pepper_proof": bytes},
        pk="id",
        not_null={"schema_version", "keys_version"},
    )
    db.execute("INSERT INTO meta (id, schema_version, keys_version) VALUES (1, 0, 0)")
    db.table("accounts").create({"id": str, "name": str, "created_at": float}, pk="id", not_null={"name", "created_at"})
    db.execute("INSERT INTO accounts (id, name, created_at) VALUES (?, 'Operator', ?)", (OPERATOR, time.time()))
    _keys_table(db)
    _calls_table(db)


def _keys_table(db: Database) -> None:
    columns = {"id": str, "account_id": str, "name": str, "digest": bytes, "prefix_hint": str}
    db.table("keys").create(
        {**columns, "created_at": float, "revoked_at": float},
        pk="id",
        not_null={*columns, "created_at"} - {"id"},
        defaults={"account_id": OPERATOR},
        foreign_keys=[("account_id", "accounts", "id")],
    )
    db.table("keys").create_index(["digest"], unique=True)


def _calls_table(db: Database) -> None:
    """One row a call; the order of columns is that of `calls.CallRecord`. No foreign keys: a record outlives all."""
    db.table("calls").create(
        {
            "gen_id": str,
            "request_id": str,
            "started_at": float,
            "account_id": str,
            "key_id": str,
            "key_name": str,
            "route": str,
            "lane": str,
            "stream": int,
            "model": str,
            "provider": str,
            "upstream_model": str,
            "attempts": str,
            "status": int,
            "code": str,
            "ended": str,
            "prompt_tokens": int,
            "cached_tokens": int,
            "completion_tokens": int,
            "reasoning_tokens": int,
            "usage_estimated": int,
            "cost_pico_usd": int,
            "provider_cost_pico_usd": int,
            "first_content_ms": float,
            "total_ms": float,
            "bytes_in": int,
            "bytes_out": int,
        },
        pk="gen_id",
        not_null={"started_at", "account_id"},
    )
    db.table("calls").create_index(["started_at"])
    db.table("calls").create_index(["account_id", "started_at"])


def _money(db: Database) -> None:
    """Version 2."""
    _account_columns(db)
    _key_columns(db)
    _call_columns(db)
    _ledger_tables(db)
    _rollup_tables(db)
    _books_of_before(db)


def _account_columns(db: Database) -> None:
    accounts = db.table("accounts")
    accounts.add_column("plan", str)  # of [plans] in the configuration; NULL for none
    accounts.add_column("prepaid", int, not_null_default=0)
    accounts.add_column("suspended_at", float)


def _key_columns(db: Database) -> None:
    keys = db.table("keys")
    keys.add_column("kind", str, not_null_default="standard")  # or "management"
    keys.add_column("plan", str)
    keys.add_column("spend_limit_pico_usd", int)  # NULL: no cap
    keys.add_column("limit_reset", str)  # daily, weekly, monthly; NULL: never
    keys.add_column("disabled_at", float)
    keys.add_column("expires_at", float)
    keys.add_column("models", str)  # JSON list of ids; NULL: all
    keys.add_column("rpm", int)
    keys.add_column("rpd", int)
    keys.add_column("tpm", int)
    keys.add_column("concurrency", int)
    keys.add_column("updated_at", float)
    keys.create_index(["account_id", "created_at"])


def _call_columns(db: Database) -> None:
    calls = db.table("calls")
    calls.add_column("cache_write_tokens", int, not_null_default=0)
    calls.add_column("hedge_cost_pico_usd", int, not_null_default=0)
    calls.add_column("hold_pico_usd", int, not_null_default=0)
    calls.add_column("finish_reason", str)
    calls.add_column("upstream_id", str, not_null_default="")
    calls.add_column("idempotency", str)  # hex digest of the account's key; NULL without one
    db.execute("CREATE INDEX calls_idempotency ON calls (started_at) WHERE idempotency IS NOT NULL")


def _ledger_tables(db: Database) -> None:
    """Double entry: the rows of one `entry_set` sum to zero. Append-only, which the triggers hold.

    `book`: customer, revenue, provider_cost, provider_payable, hedge_cost, grants, topups. A customer's balance is the
    sum of his rows: what he is given is positive, what he uses negative. `balances` is that sum, kept in the same
    transaction. Every book but the losers' is kept by owner, an account or a provider: a sum holds $9.2M.
    """
    db.execute(
        """
        CREATE TABLE entries (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            entry_set TEXT NOT NULL,
            line INTEGER NOT NULL,
            kind TEXT NOT NULL,
            book TEXT NOT NULL,
            owner TEXT NOT NULL,
            amount_pico_usd INTEGER NOT NULL,
            at REAL NOT NULL,
            memo TEXT NOT NULL DEFAULT ''
        )
        """
    )
    db.execute("CREATE UNIQUE INDEX entries_set ON entries (entry_set, line)")
    db.execute("CREATE INDEX entries_moves ON entries (id) WHERE kind <> 'call'")
    for verb in ("UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER entries_no_{verb.lower()} BEFORE {verb} ON entries "
            "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        )
    db.execute(
        """
        CREATE TABLE balances (
            book TEXT NOT NULL,
            owner TEXT NOT NULL,
            balance_pico_usd INTEGER NOT NULL CHECK (typeof(balance_pico_usd) = 'integer'),
            PRIMARY KEY (book, owner)
        )
        """  # past 2^63 SQLite goes on in floating point, and says nothing
    )


def _rollup_tables(db: Database) -> None:
    """Usage by day (UTC, of the call's start), account, key and model; written with the calls it sums up."""
    columns = {"day": str, "account_id": str, "key_id": str, "model": str}
    sums = {
        "calls": int,
        "prompt_tokens": int,
        "cached_tokens": int,
        "cache_write_tokens": int,
        "completion_tokens": int,
        "reasoning_tokens": int,
        "cost_pico_usd": int,
        "provider_cost_pico_usd": int,
        "hedge_cost_pico_usd": int,
    }
    db.table("usage_daily").create(
        {**columns, **sums}, pk=("account_id", "day", "key_id", "model"), not_null={*columns, *sums}
    )
    db.table("usage_daily").create_index(["key_id", "day"])


def _books_of_before(db: Database) -> None:
    """Calls that version 1 recorded get the entries, balances and sums that version 2 writes with each call."""
    lines = (
        ("0", "'customer', account_id, -cost_pico_usd", "cost_pico_usd"),
        ("1", "'revenue', account_id, cost_pico_usd", "cost_pico_usd"),
        ("2 * (cost_pico_usd <> 0)", "'provider_cost', provider, -provider_cost_pico_usd", "provider_cost_pico_usd"),
        (
            "2 * (cost_pico_usd <> 0) + 1",
            "'provider_payable', provider, provider_cost_pico_usd",
            "provider_cost_pico_usd",
        ),
    )
    selects = [
        f"SELECT gen_id, {line}, 'call', {amount}, started_at FROM calls WHERE {moved} <> 0"
        for line, amount, moved in lines
    ]
    db.execute(
        "INSERT INTO entries (entry_set, line, kind, book, owner, amount_pico_usd, at) "
        + " UNION ALL ".join(selects)
        + " ORDER BY 1, 2"
    )
    db.execute("INSERT INTO balances SELECT book, owner, SUM(amount_pico_usd) FROM entries GROUP BY book, owner")
    db.execute(
        """
        INSERT INTO usage_daily (day, account_id, key_id, model, calls, prompt_tokens, cached_tokens,
            cache_write_tokens, completion_tokens, reasoning_tokens, cost_pico_usd, provider_cost_pico_usd,
            hedge_cost_pico_usd)
        SELECT date(CAST(started_at AS INTEGER), 'unixepoch'), account_id, key_id, model, COUNT(*), SUM(prompt_tokens),
            SUM(cached_tokens), 0, SUM(completion_tokens), SUM(reasoning_tokens), SUM(cost_pico_usd),
            SUM(provider_cost_pico_usd), 0 FROM calls GROUP BY 1, 2, 3, 4
        """
    )


def _auto_router(db: Database) -> None:
    db.table("calls").add_column("auto", str)  # classes and scores, best first; NULL where the model was named


STEPS: tuple[Callable[[Database], None], ...] = (_first_tables, _money, _auto_router)
