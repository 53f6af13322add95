"""A database with accounts, grants and calls of three days, written as the gateway writes them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.core.money import PICO_PER_USD, PicoUsd
from gateway.datadir import open_data_dir
from gateway.store import accounts, batch, calls, credit
from gateway.store.calls import CallRecord
from gateway.store.schema import open_database

DAY_S = 86_400
FIRST_DAY_S = 1_767_225_600  # 2026-01-01, UTC
USD = PICO_PER_USD


def record(number: int, *, day: int = 0, account_id: str = "operator", **more: Any) -> CallRecord:
    """The `number`th call of a day, a second after the one before it. Without `more` nothing was used."""
    gen_id = f"gen-{day:02}-{number:06}"
    return CallRecord(gen_id, f"req-{number}", FIRST_DAY_S + day * DAY_S + number + 0.25, account_id, **more)


def paid(number: int, *, day: int = 0, account_id: str = "operator", **more: Any) -> CallRecord:
    """A call with tokens and every kind of money."""
    values: dict[str, Any] = {
        "key_id": "key_1",
        "model": "openai/gpt-4o",
        "provider": "openai",
        "prompt_tokens": 1000 + number,
        "cached_tokens": 100,
        "cache_write_tokens": 7,
        "completion_tokens": 300,
        "reasoning_tokens": 30,
        "cost_pico_usd": 6_400_000_000 + number,
        "provider_cost_pico_usd": 5_000_000_000,
        "hedge_cost_pico_usd": 1_000_000,
        "hold_pico_usd": 7_000_000_000,
    }
    return record(number, day=day, account_id=account_id, **(values | more))


def settle(conn: sqlite3.Connection, records: Sequence[CallRecord]) -> None:
    """Write calls down as the serving process does."""
    assert batch.write(conn, records, [calls.row(record) for record in records], again=False) == []


def open_books(folder: Path) -> sqlite3.Connection:
    """Open the database of a data folder, which is made."""
    data = open_data_dir(folder)
    return open_database(data.db_path, data.pepper)


def fill(conn: sqlite3.Connection) -> str:
    """Write three days: an account `acme` (whose id is returned) with $3 granted, and calls of every sort."""
    acme = accounts.create(conn, "acme", prepaid=True).id
    credit.grant(conn, acme, PicoUsd(1 * USD), reference="invoice-17", note="welcome")
    credit.grant(conn, acme, PicoUsd(2 * USD))
    for day in range(3):
        settle(
            conn,
            [
                paid(0, day=day),
                paid(1, day=day, account_id=acme),
                paid(2, day=day, account_id=acme, key_id="key_2", hold_pico_usd=6_000_000_000),  # beyond its hold
                paid(3, day=day, account_id=acme, key_id="key_2", model="sim/words", cost_pico_usd=0),
                record(4, day=day, account_id=acme, key_id="key_2", model="sim/words", prompt_tokens=5),
                record(5, day=day, model="x" * 300, status=404),
            ],
        )
    return acme
