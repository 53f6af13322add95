"""A database of version 1 becomes one of version 2 with the books that version 2 would have kept."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from sqlite_utils import Database

from gateway.store import migrations
from gateway.store.opening import read_books
from gateway.store.schema import open_database
from gateway.store.verify import verify

PEPPER = bytes(range(32))


def test_calls_of_version_1_are_in_the_ledger_of_version_2(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    with contextlib.closing(sqlite3.connect(path)) as conn:
        migrations._first_tables(Database(conn, execute_plugins=False))
        conn.execute("UPDATE meta SET schema_version = 1")
        row = (
            "INSERT INTO calls (gen_id, started_at, account_id, key_id, model, provider, prompt_tokens, cached_tokens,"
        )
        row += " completion_tokens, reasoning_tokens, cost_pico_usd, provider_cost_pico_usd)"
        for number in range(40):
            cost = 0 if number % 4 == 0 else 100 + number
            values = (f"gen-{number:03}", 86_400.0 * number, "operator", "key_1", "a/b", "up", 3, 1, 2, 0, cost, cost)
            conn.execute(f"{row} VALUES ({', '.join('?' * len(values))})", values)
        conn.commit()
    with contextlib.closing(open_database(path, PEPPER)) as conn:
        assert verify(conn) == []
        spent = sum(100 + number for number in range(40) if number % 4)
        books = read_books(conn, 86_400.0 * 39)
        assert books.balances == {"operator": -spent}
        assert books.spending[0].total == spent
        assert books.spending[0].daily == 139
        assert conn.execute("SELECT COUNT(*) FROM usage_daily").fetchone() == (40,)
