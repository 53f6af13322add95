"""`gateway accounts`, `credits` and the options of `keys create`: what they do, print, refuse, and leave alone."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import cli_show
from gateway.auth.keys import KeyIndex
from gateway.core.money import PICO_PER_USD
from gateway.core.principal import Principal
from gateway.datadir import open_data_dir
from gateway.store import keys, schema
from gateway.store.verify import verify
from tests.books import fill, open_books
from tests.command import run

# The catalogue part is wrong: none of these commands may look at it.
CONFIG = """\
[server]
data_dir = "records"
[plans.free]
rpm = 20
[plans.paid]
rpm = 200
[[models]]
id = 7
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "config.toml").write_text(CONFIG)
    return str(tmp_path / "config.toml")


def answer(config: str, *arguments: str) -> Any:
    result = run(*arguments, "--config", config, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def index(folder: Path) -> KeyIndex:
    data = open_data_dir(folder, create=False)
    with contextlib.closing(schema.open_database(data.db_path, data.pepper)) as conn:
        return keys.load_index(conn, data.pepper)


def principal(folder: Path, secret: str) -> Principal:
    found = index(folder).find(secret.encode())
    assert found is not None
    return found


def test_an_account_is_made_listed_suspended_and_resumed(config: str, tmp_path: Path) -> None:
    made = run("accounts", "create", "--name", "acme", "--plan", "free", "--prepaid", "--config", config)
    account_id = made.stdout.strip()
    assert made.stdout == f"{account_id}\n"
    assert "acme is made (prepaid, plan free)" in made.stderr

    listed = run("accounts", "list", "--config", config).stdout.splitlines()
    assert listed[0].split() == ["ID", "NAME", "PAYS", "PLAN", "CREATED", "STATE", "BALANCE"]
    assert [line.split()[:4] for line in listed[1:]] == [
        ["operator", "Operator", "postpaid", "-"],
        [account_id, "acme", "prepaid", "free"],
    ]
    secret = answer(config, "keys", "create", "--name", "k", "--account", "acme")["key"]
    for word, arguments, suspended in (
        ("acme is suspended", ("suspend", "acme"), True),
        ("acme was suspended before", ("suspend", "--account", account_id), True),
        ("acme is live", ("resume", account_id), False),
        ("acme was live before", ("resume", "--account", "acme"), False),
    ):
        assert run("accounts", *arguments, "--config", config).stdout == f"{word}\n"
        assert principal(tmp_path / "records", secret).account.suspended is suspended


def test_the_json_of_accounts(config: str) -> None:
    made = answer(config, "accounts", "create", "--name", "acme")
    assert list(made) == ["id", "name", "plan", "prepaid", "created_at", "suspended_at", "balance_usd"]
    assert (made["name"], made["plan"], made["prepaid"], made["balance_usd"]) == ("acme", None, False, "0")
    assert answer(config, "accounts", "list")[1] == made
    suspended = answer(config, "accounts", "suspend", "acme")
    assert suspended["suspended_at"].startswith("20")
    assert answer(config, "accounts", "resume", "acme") == made


def test_a_grant_with_a_reference_happens_once_and_says_so(config: str) -> None:
    run("accounts", "create", "--name", "acme", "--config", config)
    grant = ("credits", "grant", "--account", "acme", "--usd", "0.000000000001", "--reference", "invoice-17")
    first = answer(config, *grant)
    assert list(first) == ["account_id", "entry_set", "granted", "usd", "balance_usd"]
    assert (first["granted"], first["usd"], first["balance_usd"]) == (True, "0.000000000001", "0.000000000001")
    assert answer(config, *grant) == first | {"granted": False}
    again = run(*grant, "--config", config)
    assert again.stdout == (
        "nothing granted: invoice-17 was granted to acme before; its balance is $0.000000\n"  # rounded down
    )
    other = run("credits", "grant", "--account", "operator", *grant[4:], "--config", config)
    assert (other.exit_code, other.stdout) == (1, "")
    assert "the reference was used before, for $0.000000000001 to account acct_" in other.stderr
    assert run("credits", "grant", "--account", "acme", "--usd", "1", "--config", config).stdout == (
        "$1 granted to acme; its balance is $1.000000\n"
    )


def test_credit_is_shown_rounded_in_the_table_and_exactly_in_json(config: str, tmp_path: Path) -> None:
    with contextlib.closing(open_books(tmp_path / "records")) as conn:
        acme = fill(conn)
    assert run("credits", "show", "--account", "acme", "--config", config).stdout.splitlines()[1].split() == [
        *(acme, "acme", "prepaid"),
        *("3.000000", "0.000000", "0.038401", "2.961599"),
    ]
    assert answer(config, "credits", "show", "--account", acme) == {
        "account_id": acme,
        "name": "acme",
        "prepaid": True,
        "granted_usd": "3",
        "topped_up_usd": "0",
        "used_usd": "0.038400000009",
        "balance_usd": "2.961599999991",
    }
    assert answer(config, "credits", "show", "--account", "Operator")["balance_usd"] == "-0.0192"


def test_concurrent_grants_of_one_reference_are_one_grant(config: str) -> None:
    run("accounts", "create", "--name", "acme", "--config", config)
    command = [sys.executable, "-m", "gateway", "credits", "grant", "--account", "acme", "--usd", "1.5"]
    started = [
        subprocess.Popen(
            [*command, "--reference", "r", "--json", "--config", config], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in started]
    assert sorted(each["granted"] for each in answers) == [False, False, False, True]
    assert {each["balance_usd"] for each in answers} == {"1.5"}


@pytest.mark.parametrize(
    "text", ["1e3", "-1", "+1", "NaN", "Infinity", "1_000", "1,000", " 1", "\u0661", "", ".", "1.", ".5", "0x1", "$1"]
)
def test_an_amount_is_digits_and_a_point(config: str, text: str) -> None:
    result = run("credits", "grant", "--account", "operator", "--usd", text, "--config", config)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--usd: {text!r} is not a decimal number of at least 0" in result.stderr


def test_a_key_carries_its_terms(config: str, tmp_path: Path) -> None:
    account = answer(config, "accounts", "create", "--name", "acme")["id"]
    made = answer(
        config,
        *("keys", "create", "--name", "ci", "--account", "acme", "--plan", "paid", "--management"),
        *("--limit", "0.5", "--limit-reset", "monthly", "--rpm", "1", "--rpd", "2", "--tpm", "3"),
        *("--concurrency", "4", "--expires-at", "2999-01-01T08:00:00+08:00", "--model", "a/b", "--model", "c/d"),
    )
    found = principal(tmp_path / "records", made["key"])
    assert (found.account_id, found.plan, found.management) == (account, "paid", True)
    assert (found.spend_limit, found.limit_reset) == (PICO_PER_USD // 2, "monthly")
    assert (found.rpm, found.rpd, found.tpm, found.concurrency) == (1, 2, 3, 4)
    assert (found.expires_at, found.models) == (32472144000.0, frozenset({"a/b", "c/d"}))
    plain = answer(config, "keys", "create", "--name", "plain", "--limit", "1", "--limit-reset", "none")["key"]
    operators = principal(tmp_path / "records", plain)
    assert (operators.account_id, operators.account.prepaid, operators.plan) == ("operator", False, None)
    assert (operators.spend_limit, operators.limit_reset) == (PICO_PER_USD, None)
    assert (operators.rpm, operators.models, operators.expires_at) == (None, None, None)

    (listed,) = answer(config, "keys", "list", "--account", "acme")
    assert listed == {
        "id": made["id"],
        "name": "ci",
        "hint": listed["hint"],
        "account_id": account,
        "created_at": listed["created_at"],
        "revoked_at": None,
        "kind": "management",
        "plan": "paid",
        "limit_usd": "0.5",
        "limit_reset": "monthly",
        "disabled": False,
        "expires_at": "2999-01-01T00:00:00Z",
        "models": ["a/b", "c/d"],
        "rpm": 1,
        "rpd": 2,
        "tpm": 3,
        "concurrency": 4,
    }
    assert [row["name"] for row in answer(config, "keys", "list")] == ["ci", "plain"]


def test_the_state_of_a_key_is_shown(config: str, tmp_path: Path) -> None:
    ids = [answer(config, "keys", "create", "--name", name)["id"] for name in ("live", "off", "old", "gone")]
    run("keys", "revoke", ids[3], "--config", config)
    with contextlib.closing(open_books(tmp_path / "records")) as conn:
        conn.execute("UPDATE keys SET disabled_at = 1 WHERE name = 'off'")
        conn.execute("UPDATE keys SET expires_at = 1 WHERE name = 'old'")
    lines = run("keys", "list", "--config", config).stdout.splitlines()[1:]
    assert [line.split("  ")[-1].split(" ")[0] for line in lines] == ["live", "disabled", "expired", "revoked"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("accounts create --name acme", 2, "there is an account 'acme' already"),
        ("accounts create --name ACME", 2, "there is an account 'ACME' already"),
        ("accounts create --name x --plan fre", 2, "config.toml: there is no plan 'fre'; did you mean free?"),
        ("accounts create --name x --plan zzz", 2, "config.toml: there is no plan 'zzz'; add [plans.zzz]"),
        ("accounts create", 2, "--name"),
        ("accounts suspend nobody", 1, "there is no account 'nobody'; `gateway accounts list` shows them"),
        ("accounts resume --account nobody", 1, "there is no account 'nobody'"),
        ("accounts suspend", 2, "name one account"),
        ("accounts suspend acme --account acme", 2, "name one account"),
        ("accounts suspend operator", 1, "the operator's own account cannot be suspended"),
        ("credits grant --account nobody --usd 1", 1, "there is no account 'nobody'"),
        ("credits grant --account acme --usd 0", 2, "a grant must be more than $0"),
        ("credits grant --account acme --usd 0.0000000000001", 2, "finer than one pico-USD"),
        ("credits grant --account acme --usd 1.0000000000000000000000000000001", 2, "at most 13 digits"),
        ("credits grant --account acme --usd 1000000.000000000001", 2, "at most $1000000"),
        ("credits grant --account acme --usd 9999999999999", 2, "at most $1000000"),
        ("credits grant --account acme --usd 1 --reference=", 2, "a reference needs at least one character"),
        ("credits grant --account acme", 2, "--usd"),
        ("credits show --account nobody", 1, "there is no account 'nobody'"),
        ("keys create --name x --account nobody", 1, "there is no account 'nobody'"),
        ("keys create --name x --plan piad", 2, "there is no plan 'piad'; did you mean paid?"),
        ("keys create --name x --limit 1e3", 2, "--limit: '1e3' is not a decimal number"),
        ("keys create --name x --limit 9999999", 2, "limit must be"),
        ("keys create --name x --limit 5 --limit-reset yearly", 2, "'yearly' is not one of"),
        ("keys create --name x --limit-reset monthly", 2, "there is no --limit"),
        ("keys create --name x --rpm 0", 2, "0 is not in the range"),
        ("keys create --name x --tpm many", 2, "'many' is not a valid integer"),
        ("keys create --name x --tpm 99999999999999999999", 2, "tpm must be a whole number"),
        ("keys create --name x --expires-at tomorrow", 2, "'tomorrow' is not a time"),
        ("keys create --name x --expires-at 2020-02-03", 2, "2020-02-03T00:00:00Z has passed"),
        ("keys create --name x --model gpt-4o", 2, "'gpt-4o' is not a model id"),
        ("keys list --account nobody", 1, "there is no account 'nobody'"),
        ("credits show --account acme --config none.toml", 2, "none.toml: No such file"),
        ("credits show --account acme --data-dir none", 2, "none: there is no data folder here"),
    ],
)
def test_what_is_refused_is_said_and_changes_nothing(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, code: int, message: str
) -> None:
    run("accounts", "create", "--name", "acme", "--config", config)
    before = dump(tmp_path / "records")
    monkeypatch.chdir(tmp_path)
    result = run(*arguments.split())
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert dump(tmp_path / "records") == before


def dump(folder: Path) -> list[str]:
    with contextlib.closing(schema.connect(folder / "gateway.db")) as conn:
        return list(conn.iterdump())


def test_a_plan_needs_the_configuration_even_with_a_data_folder(config: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "elsewhere")
    made = run("keys", "create", "--name", "x", "--plan", "free", "--config", config, "--data-dir", folder)
    assert made.exit_code == 0
    refused = run("keys", "create", "--name", "x", "--plan", "free", "--config", "none.toml", "--data-dir", folder)
    assert refused.exit_code == 2
    assert "none.toml: No such file or directory; name the file with --config: a plan is one of its" in refused.stderr


WRITES = (
    "accounts create --name other",
    "accounts suspend acme",
    "accounts resume acme",
    "keys create --name x --account acme",
    "keys revoke {key}",
    "credits grant --account acme --usd 1",
)
READS = (
    "accounts list",
    "keys list",
    "credits show --account acme",
    "usage",
    "ledger verify",
    "ledger export",
    "backup {tmp}/backup.db",
)


@pytest.mark.parametrize("arguments", WRITES + READS)
def test_beside_a_writer_that_does_not_let_go(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    """What writes ends with exit code 1 and changes nothing; what reads is served."""
    run("accounts", "create", "--name", "acme", "--config", config)
    key = answer(config, "keys", "create", "--name", "k")["id"]
    before = dump(tmp_path / "records")
    monkeypatch.setattr(schema.open_database, "__kwdefaults__", {"busy_s": 0.02})
    with contextlib.closing(schema.connect(tmp_path / "records" / "gateway.db")) as holder:
        holder.execute("BEGIN IMMEDIATE")
        result = run(*(part.format(key=key, tmp=tmp_path) for part in arguments.split()), "--config", config)
    if arguments in WRITES:
        assert (result.exit_code, result.stdout) == (1, "")
        assert "gateway.db: database is locked; nothing was changed, try again" in result.stderr
    else:
        assert result.exit_code == 0, result.stderr
    assert dump(tmp_path / "records") == before


def test_what_the_commands_did_adds_up(config: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run("accounts", "create", "--name", name, "--config", config)
        run("credits", "grant", "--account", name, "--usd", "0.1", "--config", config)
    with contextlib.closing(open_books(tmp_path / "records")) as conn:
        assert verify(conn) == []
        granted = conn.execute("SELECT balance_pico_usd FROM balances WHERE book = 'grants'").fetchall()
    assert granted == [(-(10**11),)] * 2  # each account's own


@pytest.mark.parametrize(
    ("amount", "balance", "cost"),
    [
        (0, "0.000000", "0.000000"),
        (1, "0.000000", "0.000001"),
        (999_999, "0.000000", "0.000001"),
        (1_000_000, "0.000001", "0.000001"),
        (-1, "-0.000001", "0.000000"),
        (12_345_678_900_000, "12.345678", "12.345679"),
        (-12_345_678_900_000, "-12.345679", "-12.345678"),
    ],
)
def test_money_in_tables(amount: int, balance: str, cost: str) -> None:
    assert (cli_show.balance_usd(amount), cli_show.cost_usd(amount)) == (balance, cost)


@given(st.integers(-(2**63), 2**63))
def test_tables_never_show_more_credit_nor_less_cost_than_there_is(amount: int) -> None:
    def pico(text: str) -> int:
        return int(text.replace(".", "")) * 10**6

    assert 0 <= amount - pico(cli_show.balance_usd(amount)) < 10**6
    assert 0 <= pico(cli_show.cost_usd(amount)) - amount < 10**6
