"""A batch: records, ledger and rollups together or not at all, and each call once, however often it is tried."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.money import PicoUsd
from gateway.store import batch, calls, credit, ledger, usage, verify
from gateway.store.calls import CallRecord
from tests.books import open_books, paid, record

INT64_MAX = 2**63 - 1


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_books(tmp_path / "data")
    yield opened
    opened.close()


def write(conn: sqlite3.Connection, records: list[CallRecord], *, again: bool = False) -> list[str]:
    return batch.write(conn, records, [calls.row(call) for call in records], again=again)


def counts(conn: sqlite3.Connection) -> tuple[int, int, int]:
    """Calls, entries, and calls summed up by day."""
    sql = "SELECT (SELECT COUNT(*) FROM calls), (SELECT COUNT(*) FROM entries), (SELECT TOTAL(calls) FROM usage_daily)"
    found = conn.execute(sql).fetchone()
    return found[0], found[1], int(found[2])


@pytest.mark.parametrize("number", [1, 15, 16, 17, 33])
def test_records_ledger_and_rollups_are_written_together(conn: sqlite3.Connection, number: int) -> None:
    assert write(conn, [paid(at) for at in range(number)]) == []
    assert counts(conn) == (number, 6 * number, number)
    assert verify.verify(conn) == []


def test_an_empty_batch_writes_nothing(conn: sqlite3.Connection) -> None:
    assert write(conn, []) == []
    assert write(conn, [], again=True) == []
    assert counts(conn) == (0, 0, 0)


def test_a_call_without_money_has_no_entries(conn: sqlite3.Connection) -> None:
    write(conn, [record(0)])
    assert counts(conn) == (1, 0, 1)


@pytest.mark.parametrize("there", [0, 1, 16, 20])
def test_a_batch_in_doubt_is_written_once(conn: sqlite3.Connection, there: int) -> None:
    records = [paid(number) for number in range(20)]
    write(conn, records[:there])
    for _ in range(3):
        assert write(conn, records, again=True) == []
    assert counts(conn) == (20, 120, 20)
    assert verify.verify(conn) == []


def test_what_is_there_already_is_left_alone_even_when_nobody_said_so(conn: sqlite3.Connection) -> None:
    write(conn, [paid(1)])
    assert write(conn, [paid(0), paid(1, cost_pico_usd=7), paid(2)]) == []
    assert counts(conn) == (3, 18, 3)
    assert verify.verify(conn) == []


@pytest.mark.parametrize("where", [(ledger, "write"), (usage, "add")])
def test_what_fails_half_way_leaves_nothing(
    conn: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, where: tuple[Any, str]
) -> None:
    def fail(*_args: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(*where, fail)
        with pytest.raises(sqlite3.OperationalError, match="disk is full"):
            write(conn, [paid(0)])
    assert (counts(conn), conn.in_transaction) == ((0, 0, 0), False)
    write(conn, [paid(0)], again=True)
    assert counts(conn) == (1, 6, 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt_tokens": 2**64},
        {"account_id": "acct_9", "cost_pico_usd": 2**63},
        {"account_id": "acct_9", "cost_pico_usd": 2**63, "hold_pico_usd": 2**64},
        {"account_id": "acct_9", "cost_pico_usd": 2**64, "hold_pico_usd": 7},
        {"provider": "another", "provider_cost_pico_usd": 2**63},
        {"model": "a\0b", "upstream_id": "\0"},
        {"key_name": "half a pair \ud800"},
        {"model": "\udfff"},
        {"total_ms": float("inf")},
        {"finish_reason": "\ud800"},
    ],
)
@pytest.mark.parametrize(("count", "place"), [(3, 1), (40, 0), (40, 17), (40, 39)])
def test_a_value_that_no_column_holds_is_repaired_and_holds_nobody_up(
    conn: sqlite3.Connection, bad: dict[str, Any], count: int, place: int
) -> None:
    """Wherever it stands, also among so many that their rows go in several statements."""
    records = [paid(number) for number in range(count)]
    records[place] = record(place, **bad)
    assert write(conn, records) == []
    assert counts(conn)[::2] == (count, count)
    assert verify.verify(conn) == []


def test_what_no_balance_can_hold_is_refused_and_named(conn: sqlite3.Connection) -> None:
    """Each could be stored by itself; both together are more than a column adds up to."""
    dear = [record(number, account_id="acct_9", cost_pico_usd=2**63 - 1) for number in (1, 2)]
    assert write(conn, [paid(0), *dear, paid(3)]) == [dear[1].gen_id]
    assert counts(conn)[::2] == (3, 3)
    found = conn.execute("SELECT balance_pico_usd FROM balances WHERE book = 'customer' AND owner = 'acct_9'")
    assert found.fetchone() == (-INT64_MAX,)
    assert verify.verify(conn) == []
    assert write(conn, dear, again=True) == [dear[1].gen_id]


def test_a_repaired_call_costs_what_a_column_can_hold(conn: sqlite3.Connection) -> None:
    write(conn, [record(0, cost_pico_usd=2**64)])
    assert conn.execute("SELECT cost_pico_usd FROM calls").fetchone() == (INT64_MAX,)
    assert conn.execute("SELECT balance_pico_usd FROM balances WHERE book = 'customer'").fetchone() == (-INT64_MAX,)


def test_which_records_are_there(conn: sqlite3.Connection) -> None:
    write(conn, [paid(0), paid(2)])
    wanted = [paid(number).gen_id for number in range(4)]
    assert batch.existing(conn, wanted) == {wanted[0], wanted[2]}
    assert batch.existing(conn, []) == set()


def test_balances_are_the_sums_of_calls_and_credit(conn: sqlite3.Connection) -> None:
    credit.grant(conn, "acct_1", PicoUsd(10**10))
    write(conn, [paid(0, account_id="acct_1"), paid(1, account_id="acct_1", hold_pico_usd=1)])
    cost = paid(0).cost_pico_usd + paid(1).cost_pico_usd
    assert ledger.moves_after(conn, 0) == [ledger.Move(2, "acct_1", PicoUsd(10**10))]
    found = conn.execute("SELECT balance_pico_usd FROM balances WHERE book = 'customer' AND owner = 'acct_1'")
    assert found.fetchone() == (10**10 - cost,)
    assert verify.verify(conn) == []
