"""The proof of the books: silent about what the gateway writes, and loud about every way to change it afterwards."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.store.calls import CallRecord
from gateway.store.schema import connect
from gateway.store.verify import MISMATCHES_MAX, verify
from tests.books import fill, open_books, paid, record, settle


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(open_books(tmp_path_factory.mktemp("books"))) as conn:
        fill(conn)
        yield conn


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(open_books(tmp_path_factory.mktemp("empty"))) as conn:
        yield conn


def copy_of(template: sqlite3.Connection) -> sqlite3.Connection:
    """The same database in memory, with nothing to keep anybody from changing its ledger."""
    conn = sqlite3.connect(":memory:", isolation_level=None)
    template.backup(conn)
    for trigger in ("entries_no_update", "entries_no_delete"):
        conn.execute(f"DROP TRIGGER {trigger}")
    return conn


def test_what_the_gateway_writes_adds_up(template: sqlite3.Connection, empty: sqlite3.Connection) -> None:
    assert verify(empty) == []
    assert verify(template) == []
    assert not template.in_transaction


ENTRY = "entry_set = 'gen-01-000001'"  # a call of acme's: lines customer, revenue, provider cost and payable, hedge


def to_operator(book: str, amount: int) -> tuple[str, ...]:
    """Statements that make one line of that call the operator's, in the balances too."""
    change = f"UPDATE balances SET balance_pico_usd = balance_pico_usd + {amount}"
    return (
        f"UPDATE entries SET owner = 'operator' WHERE {ENTRY} AND book = '{book}' AND amount_pico_usd = {amount}",
        f"{change} WHERE book = '{book}' AND owner = 'operator'",
        f"{change} * -1 WHERE book = '{book}' AND owner LIKE 'acct%'",
    )


NOT_WHOLE = (
    "entry set gen-01-000001: an amount is not a whole number",
    "call gen-01-000001: its entries are not those of its costs",
    "balance provider_payable: is $0.000012, its entries sum to $0.000011",
)
TAMPERINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "one line of a grant": (
        ("UPDATE entries SET amount_pico_usd = amount_pico_usd + 1 WHERE entry_set = 'grant:invoice-17' AND line = 1",),
        ("entry set grant:invoice-17: sums to $0.000000000001, not to zero", "balance customer acct_"),
    ),
    "a grant, on both sides": (
        ("UPDATE entries SET amount_pico_usd = amount_pico_usd * 2 WHERE entry_set = 'grant:invoice-17'",),
        ("balance customer acct_", "balance grants acct_: is -$3, its entries sum to -$4"),
    ),
    "a grant is gone": (
        ("DELETE FROM entries WHERE entry_set = 'grant:invoice-17'",),
        ("balance customer acct_", "balance grants acct_: is -$3, its entries sum to -$2"),
    ),
    "a call's entries are gone": (
        (f"DELETE FROM entries WHERE {ENTRY}",),
        (
            "call gen-01-000001: costs $0.006400000001 and is not in the ledger",
            *("balance customer acct_", "balance hedge_cost: ", "balance provider_cost openai: "),
            *("balance provider_payable: ", "balance provider_payable openai: "),
            "balance revenue acct_: is $0.038400000009, its entries sum to $0.032000000008",
        ),
    ),
    "a call's entries are smaller, and the balances with them": (
        (
            f"UPDATE entries SET amount_pico_usd = amount_pico_usd / 2 WHERE {ENTRY} AND line IN (2, 3)",
            "UPDATE balances SET balance_pico_usd = balance_pico_usd + 2500000000 WHERE book = 'provider_cost'",
            ("UPDATE balances SET balance_pico_usd = balance_pico_usd - 2500000000 WHERE book = 'provider_payable' "
            "AND owner = 'openai'"),
        ),
        ("call gen-01-000001: its entries are not those of its costs ($0.006400000001 to the customer)",),
    ),
    "a call is another account's": (
        to_operator("customer", -6_400_000_001),
        ("call gen-01-000001: its entries are not those of its costs",),
    ),
    "its revenue is another account's": (
        to_operator("revenue", 6_400_000_001),
        ("call gen-01-000001: its entries are not those of its costs",),
    ),
    "entries of a call that never was": (
        (
            ("INSERT INTO entries (entry_set, line, kind, book, owner, amount_pico_usd, at) VALUES "
            "('gen-zz', 0, 'call', 'customer', 'operator', -5, 1767400000), "
            "('gen-zz', 1, 'call', 'revenue', 'operator', 5, 1767400000)"),
            "UPDATE balances SET balance_pico_usd = balance_pico_usd - 5 WHERE book = 'customer' AND owner = 'operator'",
            "UPDATE balances SET balance_pico_usd = balance_pico_usd + 5 WHERE book = 'revenue' AND owner = 'operator'",
        ),
        ("entry set gen-zz: no call with these costs is on record",),
    ),
    "entries of a free call": (
        (
            ("INSERT INTO entries (entry_set, line, kind, book, owner, amount_pico_usd, at) SELECT gen_id, 0, 'call', "
            "'customer', account_id, 0, started_at FROM calls WHERE gen_id = 'gen-01-000004'"),
        ),
        ("entry set gen-01-000004: no call with these costs is on record",),
    ),
    "the kind of a call's entries": (
        (f"UPDATE entries SET kind = 'grant' WHERE {ENTRY}",),
        ("call gen-01-000001: its entries are not those of its costs",),
    ),
    "the kind of one line": (
        (f"UPDATE entries SET kind = 'grant' WHERE {ENTRY} AND line = 1",),
        ("entry set gen-01-000001: its lines are of more than one kind or time",),
    ),
    "the time of a call's entries": (
        (f"UPDATE entries SET at = at + 1 WHERE {ENTRY}",),
        ("call gen-01-000001: its entries are not those of its costs",),
    ),
    "the number of a line": (
        (f"UPDATE entries SET line = 99 WHERE {ENTRY} AND line = 5",),
        ("entry set gen-01-000001: its lines are not numbered from 0",),
    ),
    "an amount that is no integer": (
        (f"UPDATE entries SET amount_pico_usd = 0.5 WHERE {ENTRY} AND line = 5",),
        NOT_WHOLE,
    ),
    "an amount that is no number": (
        (f"UPDATE entries SET amount_pico_usd = 'much' WHERE {ENTRY} AND line = 5",),
        NOT_WHOLE,
    ),
    "a balance": (
        ("UPDATE balances SET balance_pico_usd = balance_pico_usd + 1 WHERE book = 'revenue' AND owner = 'operator'",),
        ("balance revenue operator: is ", "balances: together they are $0.000000000001, not zero"),
    ),
    "two balances that make up for each other": (
        (
            "UPDATE balances SET balance_pico_usd = balance_pico_usd + 1 WHERE book = 'revenue' AND owner = 'operator'",
            "UPDATE balances SET balance_pico_usd = balance_pico_usd - 1 WHERE book = 'grants'",
        ),
        ("balance grants acct_: is -$3.000000000001, its entries sum to -$3", "balance revenue operator: is "),
    ),
    "a balance is gone": (
        ("DELETE FROM balances WHERE book = 'revenue' AND owner = 'operator'",),
        ("balance revenue operator: is missing, its entries sum to $0.0192", "balances: together they are -$0.0192"),
    ),
    "a balance of nobody": (
        ("INSERT INTO balances VALUES ('customer', 'acct_new', 7)",),
        (
            "balance customer acct_new: is $0.000000000007, its entries sum to $0",
            "balances: together they are $0.000000000007, not zero",
        ),
    ),
    "a balance that went into floating point": (
        ("UPDATE balances SET balance_pico_usd = 9.3e18 WHERE book = 'revenue' AND owner = 'operator'",),
        ("balance revenue operator: is 9.3e+18, its entries sum to $0.0192", "balances: together they are -$0.0192"),
    ),
    "a balance that is text": (
        ("UPDATE balances SET balance_pico_usd = '3 USD' WHERE book = 'grants'",),
        ("balance grants acct_: is '3 USD', its entries sum to -$3", "balances: together they are $3, not zero"),
    ),
    "the cost of a call": (
        ("UPDATE calls SET cost_pico_usd = 1 WHERE gen_id = 'gen-01-000001'",),
        ("call gen-01-000001: its entries are not", "usage of 2026-01-02, account acct_"),
    ),
    "a call is free now": (
        (
            ("UPDATE calls SET cost_pico_usd = 0, provider_cost_pico_usd = 0, hedge_cost_pico_usd = 0 "
            "WHERE gen_id = 'gen-01-000001'"),
        ),
        ("entry set gen-01-000001: no call with these costs is on record", "usage of 2026-01-02"),
    ),
    "what was held for a call": (
        ("UPDATE calls SET hold_pico_usd = 5 WHERE gen_id = 'gen-01-000001'",),
        ("call gen-01-000001: its entries are not those of its costs",),
    ),
    "the provider of a call": (
        ("UPDATE calls SET provider = 'groq' WHERE gen_id = 'gen-01-000001'",),
        ("call gen-01-000001: its entries are not those of its costs",),
    ),
    "a cost that is no number": (
        ("UPDATE calls SET cost_pico_usd = 'much' WHERE gen_id = 'gen-01-000001'",),
        ("call gen-01-000001: its entries are not those of its costs", "usage of 2026-01-02"),
    ),
    "the tokens of a call": (
        ("UPDATE calls SET prompt_tokens = 1 WHERE gen_id = 'gen-01-000004'",),
        (": prompt_tokens is 1008, its calls sum to 1004",),
    ),
    "a paid call is gone": (
        ("DELETE FROM calls WHERE gen_id = 'gen-01-000001'",),
        ("entry set gen-01-000001: no call with these costs is on record", "key key_1, model openai/gpt-4o: says 1 calls"),
    ),
    "the last call is gone": (
        ("DELETE FROM calls WHERE gen_id = 'gen-02-000005'",),
        ("usage of 2026-01-03, account operator, key -, model xxx",),
    ),
    "a call of another day": (
        ("UPDATE calls SET started_at = started_at + 86400 WHERE gen_id = 'gen-01-000005'",),
        ("usage of 2026-01-02, account operator, key -", "usage of 2026-01-03, account operator, key -"),
    ),
    "a sum of usage": (
        ("UPDATE usage_daily SET calls = 9 WHERE day = '2026-01-03' AND key_id = 'key_1' AND account_id = 'operator'",),
        (
            "usage of 2026-01-03, account operator, key key_1, model openai/gpt-4o: calls is 9, its calls sum to 1",
        ),
    ),
    "usage is gone": (
        ("DELETE FROM usage_daily WHERE day = '2026-01-03' AND account_id = 'operator' AND key_id = 'key_1'",),
        ("usage of 2026-01-03, account operator, key key_1, model openai/gpt-4o: is missing, and there are 1 calls",),
    ),
    "usage of nobody": (
        ("INSERT INTO usage_daily VALUES ('2026-01-03', 'zed', 'k', 'm', 2, 0, 0, 0, 0, 0, 0, 0, 0)",),
        ("usage of 2026-01-03, account zed, key k, model m: says 2 calls, and there are none",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), TAMPERINGS.values(), ids=TAMPERINGS)
def test_every_change_behind_the_ledgers_back_is_found(
    template: sqlite3.Connection, changes: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    with contextlib.closing(copy_of(template)) as conn:
        conn.execute("PRAGMA ignore_check_constraints = ON")
        for change in changes:
            assert conn.execute(change).rowcount > 0
        found = [re.sub("acct_[0-9a-f]+", "acct_", line) for line in verify(conn)]
    assert len(found) == len(expected), found
    assert all(part in line for part, line in zip(expected, found, strict=True)), found


@pytest.mark.parametrize("days", [1, 2, 3])
def test_calls_pruned_by_whole_days_are_not_missed(template: sqlite3.Connection, days: int) -> None:
    with contextlib.closing(copy_of(template)) as conn:
        conn.execute("DELETE FROM calls WHERE started_at < ?", (1_767_225_600 + days * 86_400,))
        assert verify(conn) == []


def test_gaps_in_the_numbering_are_fine(template: sqlite3.Connection) -> None:
    with contextlib.closing(copy_of(template)) as conn:
        conn.execute("UPDATE sqlite_sequence SET seq = seq + 1000 WHERE name = 'entries'")
        settle(conn, [paid(9, day=2)])
        assert verify(conn) == []


def test_a_file_damaged_all_over_is_told_of_in_part(empty: sqlite3.Connection) -> None:
    with contextlib.closing(copy_of(empty)) as conn:
        settle(conn, [paid(number) for number in range(MISMATCHES_MAX + 50)])
        conn.execute("UPDATE calls SET cost_pico_usd = cost_pico_usd + 1")
        found = verify(conn)
        assert len(found) == MISMATCHES_MAX + 1
        assert found[-1] == "and more; these are the first"


def test_writes_meanwhile_do_not_disturb_it(tmp_path: Path) -> None:
    with (
        contextlib.closing(open_books(tmp_path)) as conn,
        contextlib.closing(connect(tmp_path / "gateway.db")) as writer,
    ):
        fill(conn)
        written = 0

        def write_more() -> None:
            nonlocal written
            if conn.in_transaction and written < 20:
                settle(writer, [paid(100 + written, day=1)])
                written += 1

        conn.set_progress_handler(write_more, 50)
        assert verify(conn) == []
        assert written == 20
        conn.set_progress_handler(None, 0)
        assert verify(conn) == []


def test_memory_does_not_grow_with_the_ledger(empty: sqlite3.Connection) -> None:
    with contextlib.closing(copy_of(empty)) as conn:
        settle(conn, [paid(number) for number in range(4000)])
        tracemalloc.start()
        try:
            assert verify(conn) == []
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak_bytes < 500_000  # 24,000 entries at once would be 10 MB


TOKENS = st.integers(0, 10**6)
RECORDS = st.lists(
    st.builds(
        lambda **values: values,
        started_at=st.floats(0, 2_000_000),
        account_id=st.sampled_from(["operator", "acct_1", "acct_2"]),
        key_id=st.sampled_from(["", "key_1", "key_2"]),
        model=st.sampled_from(["", "a/b", "\U0001f600/\uffff", "m" * 256, "m" * 400]),
        provider=st.sampled_from(["", "openai", "groq"]),
        prompt_tokens=TOKENS,
        cached_tokens=TOKENS,
        cache_write_tokens=TOKENS,
        completion_tokens=TOKENS,
        reasoning_tokens=TOKENS,
        cost_pico_usd=st.integers(0, 10**13),
        provider_cost_pico_usd=st.integers(0, 10**13),
        hedge_cost_pico_usd=st.integers(0, 10**13),
        hold_pico_usd=st.integers(0, 10**13),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(batches=st.lists(RECORDS, max_size=3))
def test_whatever_calls_there_were_it_adds_up(
    empty: sqlite3.Connection, batches: list[list[dict[str, object]]]
) -> None:
    with contextlib.closing(copy_of(empty)) as conn:
        for at, values in enumerate(batches):
            settle(conn, [CallRecord(f"gen-{at}-{n}", "req", **each) for n, each in enumerate(values)])  # type: ignore[arg-type]
        assert verify(conn) == []
        assert conn.execute("SELECT COALESCE(SUM(calls), 0) FROM usage_daily").fetchone()[0] == sum(map(len, batches))


def test_values_that_no_column_holds_still_add_up(empty: sqlite3.Connection) -> None:
    with contextlib.closing(copy_of(empty)) as conn:
        settle(
            conn,
            [
                record(1, model="half a pair \ud800", prompt_tokens=1),
                record(2, key_id="key_1", prompt_tokens=2**70),
                paid(3, provider="\udfff"),
            ],
        )
        assert conn.execute("SELECT COUNT(*) FROM calls").fetchone() == (3,)
        assert verify(conn) == []
