"""The ledger in the database: what a call and a grant are as entries, append-only, once; credit, usage and export."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import PicoUsd
from gateway.store import credit, ledger, usage
from gateway.store.calls import CallRecord
from gateway.store.export import export
from gateway.store.ledger import EntrySet, Line
from gateway.store.schema import connect, immediate
from gateway.store.usage import UsageRow
from gateway.store.verify import verify
from tests.books import FIRST_DAY_S, USD, fill, open_books, paid, record, settle

INT64_MAX = 2**63 - 1


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(open_books(tmp_path)) as opened:
        yield opened


def balances(conn: sqlite3.Connection) -> dict[tuple[str, str], int]:
    return {row[:2]: row[2] for row in conn.execute("SELECT book, owner, balance_pico_usd FROM balances")}


@pytest.mark.parametrize(
    ("money", "expected"),
    [
        ({}, None),
        ({"hold_pico_usd": 9}, None),  # a call that held and used nothing
        ({"cost_pico_usd": 5}, (Line("customer", "acct", -5), Line("revenue", "acct", 5))),
        ({"cost_pico_usd": 5, "hold_pico_usd": 5}, (Line("customer", "acct", -5), Line("revenue", "acct", 5))),
        (
            {"cost_pico_usd": 5, "hold_pico_usd": 3},
            (Line("customer", "acct", -3), Line("customer", "acct", -2, "beyond the hold"), Line("revenue", "acct", 5)),
        ),
        (
            {"provider_cost_pico_usd": 4},  # a free model
            (Line("provider_cost", "openai", -4), Line("provider_payable", "openai", 4)),
        ),
        (
            {"hedge_cost_pico_usd": 1},
            (Line("hedge_cost", "", -1), Line("provider_payable", "", 1, "losers")),
        ),
    ],
)
def test_a_call_as_entries(money: dict[str, int], expected: tuple[Line, ...] | None) -> None:
    found = ledger.of_call(CallRecord("gen-1", "req", 2.5, "acct", provider="openai", **money))  # type: ignore[arg-type]
    assert found == (None if expected is None else EntrySet("gen-1", "call", 2.5, expected))


@given(
    cost=st.integers(0, 2**63), provider=st.integers(0, 2**63), hedge=st.integers(0, 2**63), hold=st.integers(0, 2**63)
)
def test_every_call_balances(cost: int, provider: int, hedge: int, hold: int) -> None:
    call = CallRecord("gen-1", "req", 1.0, "acct", cost_pico_usd=cost, provider_cost_pico_usd=provider)
    call.hedge_cost_pico_usd, call.hold_pico_usd = hedge, hold
    entries = ledger.of_call(call)
    lines = () if entries is None else entries.lines
    assert sum(line.amount for line in lines) == 0
    assert sum(line.amount for line in lines if line.book == "customer") == -cost


def test_an_unbalanced_set_is_not_written(conn: sqlite3.Connection) -> None:
    wrong = EntrySet("x", "grant", 1.0, (Line("grants", "operator", -2), Line("customer", "operator", 1)))
    with pytest.raises(ValueError, match="entry set x does not sum to zero"), immediate(conn):
        ledger.write(conn, [ledger.grant("y", "operator", PicoUsd(1), 1.0), wrong])
    assert not ledger.has(conn, "x")
    assert not ledger.has(conn, "y")
    assert balances(conn) == {}


def test_a_set_is_written_once(conn: sqlite3.Connection) -> None:
    one = ledger.grant("x", "operator", PicoUsd(7), 1.0)
    with immediate(conn):
        ledger.write(conn, [one])
    with pytest.raises(sqlite3.IntegrityError), immediate(conn):
        ledger.write(conn, [one])
    assert ledger.has(conn, "x")
    assert balances(conn) == {("grants", "operator"): -7, ("customer", "operator"): 7}


@pytest.mark.parametrize("change", ["UPDATE entries SET amount_pico_usd = 1", "DELETE FROM entries"])
def test_what_is_written_stays(conn: sqlite3.Connection, change: str) -> None:
    fill(conn)
    with pytest.raises(sqlite3.IntegrityError, match="the ledger is append-only"):
        conn.execute(change)
    assert verify(conn) == []


def test_moves_are_what_no_call_made(conn: sqlite3.Connection) -> None:
    acme = fill(conn)
    moves = ledger.moves_after(conn, 0)
    assert [(move.account_id, move.amount) for move in moves] == [(acme, USD), (acme, 2 * USD)]
    assert ledger.moves_after(conn, moves[0].entry_id) == moves[1:]
    assert ledger.moves_after(conn, moves[1].entry_id) == []


def test_a_reference_grants_once(conn: sqlite3.Connection) -> None:
    first = credit.grant(conn, "operator", PicoUsd(5), reference="r")
    assert (first.set_id, first.made, first.balance_pico_usd) == ("grant:r", True, 5)
    again = credit.grant(conn, "operator", PicoUsd(5), reference="r")
    assert (again.set_id, again.made, again.balance_pico_usd) == ("grant:r", False, 5)
    for account, amount in (("operator", 6), ("acct_2", 5)):
        with pytest.raises(credit.ReferenceUsed, match=r"used before, for \$0.000000000005 to account operator"):
            credit.grant(conn, account, PicoUsd(amount), reference="r")
    assert credit.grant(conn, "operator", PicoUsd(5)).balance_pico_usd == 10
    assert credit.grant(conn, "operator", PicoUsd(5)).balance_pico_usd == 15
    assert verify(conn) == []


@pytest.mark.parametrize(
    ("amount", "reference", "note", "message"),
    [
        (0, None, "", "must be more than"),
        (-1, None, "", "must be more than"),
        (credit.GRANT_MAX + 1, None, "", "at most \\$1000000"),
        (1, "", "", "a reference needs at least one character"),
        (1, "  ", "", "a reference needs at least one character"),
        (1, "x" * 201, "", "a reference may have at most 200"),
        (1, "a\nb", "", "printable"),
        (1, None, "\x1b[2J", "a note may have"),
    ],
)
def test_a_grant_that_is_refused(
    conn: sqlite3.Connection, amount: int, reference: str | None, note: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        credit.grant(conn, "operator", PicoUsd(amount), reference=reference, note=note)
    assert balances(conn) == {}


def test_no_balance_leaves_64_bits(conn: sqlite3.Connection) -> None:
    for _ in range(9):
        credit.grant(conn, "operator", credit.GRANT_MAX)
    with pytest.raises(ValueError, match=r"balance in book customer would pass \$9223372.036854775807"):
        credit.grant(conn, "operator", credit.GRANT_MAX)
    settle(conn, [paid(1, cost_pico_usd=credit.GRANT_MAX)])
    with pytest.raises(ValueError, match="balance in book grants would pass"):
        credit.grant(conn, "operator", credit.GRANT_MAX)
    assert credit.grant(conn, "acct_2", credit.GRANT_MAX).balance_pico_usd == credit.GRANT_MAX
    room = INT64_MAX - 9 * credit.GRANT_MAX
    assert credit.grant(conn, "operator", PicoUsd(room)).made
    with pytest.raises(ValueError, match="balance in book grants would pass"):
        credit.grant(conn, "operator", PicoUsd(1))
    assert balances(conn)["customer", "operator"] == INT64_MAX - credit.GRANT_MAX
    assert balances(conn)["grants", "operator"] == -INT64_MAX
    assert verify(conn) == []


def test_a_set_that_takes_a_balance_past_64_bits_is_not_written(conn: sqlite3.Connection) -> None:
    with immediate(conn):
        ledger.write(conn, [ledger.grant("x", "operator", PicoUsd(INT64_MAX), 1.0)])
    with pytest.raises(sqlite3.IntegrityError, match="typeof"), immediate(conn):
        ledger.write(conn, [ledger.grant("y", "operator", PicoUsd(2), 1.0)])
    assert not ledger.has(conn, "y")
    assert verify(conn) == []


def test_a_balance_that_went_into_floating_point_is_found_although_it_is_equal(conn: sqlite3.Connection) -> None:
    conn.execute("PRAGMA ignore_check_constraints = ON")
    with immediate(conn):
        for name in ("x", "y"):
            ledger.write(conn, [ledger.grant(name, "operator", PicoUsd(2**62), 1.0)])
    assert balances(conn)["customer", "operator"] == 2**63
    assert verify(conn) == [
        "balance customer operator: is 9.223372036854776e+18, its entries sum to $9223372.036854775808",
        "balances: together they are -$9223372.036854775808, not zero",
    ]


def test_credit_is_granted_less_used(conn: sqlite3.Connection) -> None:
    acme = fill(conn)
    found = credit.show(conn, acme)
    used = 3 * (6_400_000_001 + 6_400_000_002)
    assert (found.granted_pico_usd, found.topped_up_pico_usd) == (3 * USD, 0)
    assert (found.used_pico_usd, found.balance_pico_usd) == (used, 3 * USD - used)
    assert credit.show(conn, "operator").balance_pico_usd == -3 * 6_400_000_000
    assert credit.show(conn, "acct_none") == credit.Credit(0, 0, 0, 0)


NO_MODEL = ("x" * 256, 3, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        (
            {"by": "model"},
            [
                ("openai/gpt-4o", 9, 9009, 900, 63, 2700, 270, 57_600_000_009, 45_000_000_000, 9_000_000),
                ("sim/words", 6, 3024, 300, 21, 900, 90, 0, 15_000_000_000, 3_000_000),
                NO_MODEL,
            ],
        ),
        (
            {"by": "key", "since_day": "2026-01-02", "until_day": "2026-01-02"},
            [
                ("key_1", 2, 2001, 200, 14, 600, 60, 12_800_000_001, 10_000_000_000, 2_000_000),
                ("key_2", 3, 2010, 200, 14, 600, 60, 6_400_000_002, 10_000_000_000, 2_000_000),
                ("", 1, 0, 0, 0, 0, 0, 0, 0, 0),
            ],
        ),
        (
            {"by": "day", "since_day": "2026-01-02", "account_id": "operator", "key_id": "key_1"},
            [
                ("2026-01-02", 1, 1000, 100, 7, 300, 30, 6_400_000_000, 5_000_000_000, 1_000_000),
                ("2026-01-03", 1, 1000, 100, 7, 300, 30, 6_400_000_000, 5_000_000_000, 1_000_000),
            ],
        ),
        ({"by": "model", "until_day": "2026-01-01", "key_id": ""}, [("x" * 256, 1, *[0] * 8)]),
        ({"by": "model", "until_day": "2025-12-31"}, []),
        ({"by": "day", "account_id": "nobody"}, []),
    ],
)
def test_usage(conn: sqlite3.Connection, ask: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    fill(conn)
    found = usage.usage(conn, **({"since_day": None, "until_day": None} | ask))
    assert found == [UsageRow(*row) for row in expected]


@pytest.mark.parametrize(
    ("started_at", "day"),
    [
        (0.0, "1970-01-01"),
        (FIRST_DAY_S - 0.001, "2025-12-31"),
        (FIRST_DAY_S, "2026-01-01"),
        (FIRST_DAY_S + 86_399.999, "2026-01-01"),
        (1_709_164_800.0, "2024-02-29"),
    ],
)
def test_a_call_is_of_the_utc_day_it_began_in(conn: sqlite3.Connection, started_at: float, day: str) -> None:
    assert usage.day_of(started_at) == day
    with immediate(conn):
        usage.add(conn, [CallRecord("gen-1", "req", started_at, "operator")])
    assert [row.name for row in usage.usage(conn, by="day", since_day=day, until_day=day)] == [day]


def test_usage_is_added_in_the_callers_transaction(conn: sqlite3.Connection) -> None:
    conn.execute("BEGIN IMMEDIATE")
    usage.add(conn, [record(1, prompt_tokens=2), record(2, prompt_tokens=3)])
    usage.add(conn, [])
    conn.execute("ROLLBACK")
    assert usage.usage(conn, by="day", since_day=None, until_day=None) == []


def test_a_sum_of_usage_past_64_bits_is_found(conn: sqlite3.Connection) -> None:
    for number in range(2):
        settle(conn, [record(number, prompt_tokens=2**62)])
    said = "prompt_tokens is 9.223372036854776e+18, its calls sum to 9223372036854775808"  # equal, but no integer
    assert verify(conn) == [f"usage of 2026-01-01, account operator, key -, model -: {said}"]


def sums(entries: Iterator[Any]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = defaultdict(int)
    for entry in entries:
        found[entry.book, entry.owner] += entry.amount_pico_usd
    return found


def test_an_export_has_every_entry_once_over_many_pages(conn: sqlite3.Connection) -> None:
    acme = fill(conn)
    settle(conn, [paid(number, day=1) for number in range(100, 500)])
    entries = list(export(conn))
    assert [entry.id for entry in entries] == [row[0] for row in conn.execute("SELECT id FROM entries ORDER BY id")]
    assert len(entries) > 2000
    assert sums(iter(entries)) == balances(conn)
    assert sums(export(conn, account_id=acme)) == {("customer", acme): balances(conn)["customer", acme]}
    noon = FIRST_DAY_S + 1.5 * 86_400
    parts = [*export(conn, until_unix_s=noon), *export(conn, since_unix_s=noon)]
    assert sorted(parts) == entries


def test_an_export_is_of_the_moment_it_began_and_holds_no_lock(conn: sqlite3.Connection, tmp_path: Path) -> None:
    settle(conn, [paid(number) for number in range(300)])
    count = len(list(export(conn)))
    assert count > 1000
    with contextlib.closing(connect(tmp_path / "gateway.db")) as writer:
        entries = export(conn)
        taken = len(list(islice(entries, 10)))
        settle(writer, [paid(number, day=1) for number in range(300)])
        assert writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        assert taken + len(list(entries)) == count
