"""`gateway usage`, `ledger verify` and `ledger export`: what they print, in tables, CSV and JSON, and exit codes."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import subprocess
import sys
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gateway.store import keys
from tests.books import fill, open_books, paid, settle
from tests.command import run


@pytest.fixture
def folder(tmp_path: Path) -> str:
    with contextlib.closing(open_books(tmp_path / "data")) as conn:
        fill(conn)
    return str(tmp_path / "data")


def change(folder: str, statement: str) -> None:
    with contextlib.closing(open_books(Path(folder))) as conn:
        conn.execute(statement)


def answer(folder: str, *arguments: str) -> Any:
    result = run(*arguments, "--data-dir", folder, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def lines(folder: str, *arguments: str) -> list[list[str]]:
    result = run(*arguments, "--data-dir", folder)
    assert result.exit_code == 0, result.stderr
    return [line.split() for line in result.stdout.splitlines()]


def test_usage_by_model_in_a_table(folder: str) -> None:
    assert lines(folder, "usage", "--until", "2026-01-01")[0][0] == "MODEL"
    assert lines(folder, "usage", "--until", "2026-01-01")[1:] == [
        "openai/gpt-4o 3 3003 300 21 900 90 0.019201 0.015000 0.000003".split(),
        "sim/words 2 1008 100 7 300 30 0.000000 0.005000 0.000001".split(),
        ["x" * 256, *"1 0 0 0 0 0 0.000000 0.000000 0.000000".split()],
        "total 6 4011 400 28 1200 120 0.019201 0.020000 0.000004".split(),
    ]


def test_usage_by_key_names_the_key(folder: str) -> None:
    with contextlib.closing(open_books(Path(folder))) as conn:
        key = keys.create(conn, bytes(32), "laptop")
        settle(conn, [paid(9, day=5, key_id=key.id), paid(10, day=5, key_id="")])
    head, first, second, total = lines(folder, "usage", "--by", "key", "--since", "2026-01-06")
    assert head[:3] == ["KEY", "NAME", "CALLS"]
    assert first[:2] == ["-", "1"]
    assert second[:3] == [key.id, "laptop", "1"]
    assert total[:2] == ["total", "2"]
    rows = answer(folder, "usage", "--by", "key", "--since", "2026-01-06")
    assert [(row["name"], row["key_name"]) for row in rows] == [("", ""), (key.id, "laptop")]


def test_usage_by_day_in_json_is_exact(folder: str) -> None:
    rows = answer(folder, "usage", "--by", "day", "--account", "acme", "--since", "2026-01-02", "--until", "2026-01-02")
    assert rows == [
        {
            "name": "2026-01-02",
            "calls": 4,
            "prompt_tokens": 3011,
            "cached_tokens": 300,
            "cache_write_tokens": 21,
            "completion_tokens": 900,
            "reasoning_tokens": 90,
            "cost_usd": "0.012800000003",
            "provider_cost_usd": "0.015",
            "hedge_cost_usd": "0.000003",
        }
    ]
    assert [row["name"] for row in answer(folder, "usage", "--by", "day")] == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert answer(folder, "usage", "--since", "2030-01-01") == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("usage --by hour", 2, "'hour' is not one of"),
        ("usage --since 2026-02-30", 2, "'2026-02-30' is not a day; write it like 2026-01-31"),
        ("usage --until today", 2, "'today' is not a day"),
        ("usage --since 2026-02-02 --until 2026-02-01", 2, "--since 2026-02-02 is after --until 2026-02-01"),
        ("usage --account nobody", 1, "there is no account 'nobody'"),
        ("ledger export --since 2026-02-02 --until 2026-02-01", 2, "is after --until"),
        ("ledger export --account nobody", 1, "there is no account 'nobody'"),
        ("ledger export --format xml", 2, "'xml' is not one of"),
        ("ledger export --format csv --json", 2, "--json and --format csv exclude each other"),
        ("ledger verify --data-dir none", 2, "none: there is no data folder here"),
    ],
)
def test_what_is_refused_is_said(
    folder: str, monkeypatch: pytest.MonkeyPatch, arguments: str, code: int, message: str
) -> None:
    monkeypatch.chdir(Path(folder).parent)
    where = [] if "--data-dir" in arguments else ["--data-dir", folder]
    result = run(*arguments.split(), *where)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_verify_says_that_it_adds_up(folder: str) -> None:
    assert lines(folder, "ledger", "verify") == ["the ledger adds up".split()]
    assert answer(folder, "ledger", "verify") == {"ok": True, "mismatches": []}


def test_verify_says_which_and_exits_1(folder: str) -> None:
    change(folder, "UPDATE balances SET balance_pico_usd = 0 WHERE book = 'grants'")
    result = run("ledger", "verify", "--data-dir", folder)
    assert result.exit_code == 1
    acme = answer(folder, "credits", "show", "--account", "acme")["account_id"]
    assert result.stdout.splitlines() == [
        f"balance grants {acme}: is $0, its entries sum to -$3",
        "balances: together they are $3, not zero",
    ]
    assert result.stderr == "Error: the ledger does not add up (2 mismatches)\n"
    as_json = run("ledger", "verify", "--data-dir", folder, "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout) == {"ok": False, "mismatches": result.stdout.splitlines()}


def exported(folder: str, *arguments: str) -> list[dict[str, str]]:
    result = run("ledger", "export", *arguments, "--data-dir", folder)
    assert result.exit_code == 0, result.stderr
    return list(csv.DictReader(io.StringIO(result.stdout, newline="")))


def sums(rows: list[dict[str, str]], *columns: str) -> dict[tuple[str, ...], Decimal]:
    found: dict[tuple[str, ...], Decimal] = defaultdict(Decimal)
    for row in rows:
        found[tuple(row[column] for column in columns)] += Decimal(row["amount_usd"])
    return found


def test_an_export_has_the_sums_of_the_ledger(folder: str) -> None:
    with contextlib.closing(open_books(Path(folder))) as conn:
        settle(conn, [paid(number, day=4) for number in range(300)])
        balances = {
            row[:2]: Decimal(row[2]) / 10**12
            for row in conn.execute("SELECT book, owner, balance_pico_usd FROM balances")
        }
    rows = exported(folder)
    assert len(rows) > 1800
    assert set(sums(rows, "entry_set").values()) == {Decimal(0)}
    assert sums(rows, "book", "owner") == balances
    as_json = answer(folder, "ledger", "export")
    assert [{name: str(value) for name, value in row.items()} for row in as_json] == rows
    assert json.loads(run("ledger", "export", "--format", "json", "--data-dir", folder).stdout) == as_json


def test_a_line_of_an_export(folder: str) -> None:
    first, second = exported(folder, "--account", "acme")[:2]
    assert first["at"].endswith("Z")
    assert {name: first[name] for name in first if name != "at"} == {
        "id": "2",
        "entry_set": "grant:invoice-17",
        "line": "1",
        "kind": "grant",
        "book": "customer",
        "owner": first["owner"],
        "amount_usd": "1",
        "memo": "welcome",
    }
    assert second["amount_usd"] == "2"


def test_the_days_of_an_export_are_utc_and_included(folder: str) -> None:
    calls = [row for row in exported(folder) if row["kind"] == "call"]
    second = exported(folder, "--since", "2026-01-02", "--until", "2026-01-02")
    assert {row["at"][:10] for row in second} == {"2026-01-02"}
    assert second == [row for row in calls if row["at"].startswith("2026-01-02")]
    assert exported(folder, "--until", "2025-12-31") == []
    assert answer(folder, "ledger", "export", "--until", "2025-12-31") == []


def test_an_export_whose_reader_leaves_ends(folder: str) -> None:
    with contextlib.closing(open_books(Path(folder))) as conn:
        settle(conn, [paid(number, day=4) for number in range(3000)])
    command = [sys.executable, "-m", "gateway", "ledger", "export", "--data-dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"id,entry_set,")
    process.stdout.close()
    assert process.wait(30) == 1
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b""
