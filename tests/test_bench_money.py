"""The benchmark's money: the key that is measured has all that a tenant's can have, wrong charges are seen, lags are
read from our own metrics, and the probes run.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from bench import admission, books, frames, lag, probes, processes, tables, tenant
from bench.cases import QUICK, Reading, build, over_operator
from bench.contenders import Contender
from bench.job import Result, Spread
from bench.summary import summarise
from gateway.auth.keys import KeyIndex
from gateway.config import Plan
from gateway.configfile import parse
from gateway.core.money import format_price_per_million, parse_usd
from gateway.datadir import open_data_dir
from gateway.observe.metrics import Metrics
from gateway.store import accounts, keys
from gateway.store.schema import open_database
from tests.books import open_books, paid, settle


def test_the_tenants_key_has_all_that_can_be_checked(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    text = tenant.tables({"bench": ("http://127.0.0.1:9/v1", None)})
    config.write_text(text)
    data = tmp_path / "data"
    made = tenant.create([sys.executable, "-m", "gateway"], ["--config", str(config), "--data-dir", str(data)])
    folder = open_data_dir(data)
    with closing(open_database(folder.db_path, folder.pepper)) as conn:
        index: KeyIndex = keys.load_index(conn, folder.pepper)
        owner = accounts.find(conn, tenant.ACCOUNT)
    mine, operators = index.find(made.tenant.encode()), index.find(made.operator.encode())
    assert mine is not None
    assert operators is not None
    assert (owner.prepaid, owner.plan, owner.balance_pico_usd) == (True, "bench", parse_usd(tenant.CREDIT_USD))
    assert (mine.account.id, mine.account.prepaid, mine.account.plan) == (owner.id, True, "bench")
    assert {name: getattr(mine, name) for name in tenant.KEY_LIMITS} == tenant.KEY_LIMITS
    assert (mine.spend_limit, mine.limit_reset) == (parse_usd(tenant.KEY_LIMIT_USD), "monthly")
    assert (operators.account.id, operators.account.prepaid, operators.spend_limit, operators.rpm) == (
        "operator", False, None, None,
    )  # fmt: skip
    read = parse(text, path="config.toml", environ={})
    assert read.plans["bench"] == Plan(**tenant.PLAN_LIMITS)
    for kind in frames.COMPLETION_TOKENS:
        (offer,) = read.models[f"bench/{kind}"].offers
        prices = (format_price_per_million(offer.input), format_price_per_million(offer.output))
        assert prices == ("2.5", "10")


_PRICE = tenant.price_pico_usd(frames.CHAT)


def test_a_call_costs_its_tokens_at_the_configured_price() -> None:
    assert _PRICE == 143 * 2_500_000 + 40 * 10_000_000


@pytest.mark.parametrize(
    ("costs", "ended", "sabotage", "held_usd", "problem"),
    [
        ([_PRICE, _PRICE], "complete", "", 0.0, ""),
        ([_PRICE, 1], "client_gone", "", 0.0, ""),
        ([_PRICE, _PRICE - 1], "complete", "", 0.0, "1 complete calls do not cost their price"),
        ([_PRICE, 0], "complete", "", 0.0, "1 complete calls do not cost their price"),
        (
            [_PRICE, _PRICE], "complete", "UPDATE calls SET cost_pico_usd = 1 WHERE gen_id LIKE '%1'", 0.0,
            "calls cost $0.000757500001 but $0.001515 is in the ledger",
        ),
        (
            [_PRICE, _PRICE], "complete", "UPDATE balances SET balance_pico_usd = 1 WHERE book = 'revenue'", 0.0,
            "2 mismatches in the ledger, such as: balance revenue",
        ),
        ([_PRICE, _PRICE], "complete", "", 0.005, "$0.005000000000 is still held"),
    ],
)  # fmt: skip
def test_every_charge_must_be_right(
    tmp_path: Path, costs: list[int], ended: str, sabotage: str, held_usd: float, problem: str
) -> None:
    with closing(open_books(tmp_path)) as conn:
        whole = [paid(0, model=f"bench/{frames.CHAT}", ended="complete", cost_pico_usd=costs[0])]
        settle(conn, [*whole, paid(1, model=f"bench-tls/{frames.CHAT}", ended=ended, cost_pico_usd=costs[1])])
        conn.execute(sabotage)
        conn.commit()
    found = books.audit(open_data_dir(tmp_path).db_path, held_usd)
    assert problem in found.problem
    assert bool(found.problem) == bool(problem)
    assert (found.calls, found.cut_short) == (2, int(ended != "complete"))
    assert problem or f"{found.calls} calls" in found.told()


def test_books_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    assert "cannot read" in books.audit(tmp_path / "none.db", 0.0).problem


def test_lags_are_those_between_two_scrapes_of_our_own_metrics() -> None:
    metrics = Metrics()
    metrics.expose_levels(lambda: [("gateway_credit_held_usd", (), 0.25)])
    metrics.loop_lag.observe(4.0)  # before the case
    before = lag.parse(metrics.render().decode())
    for _ in range(98):
        metrics.loop_lag.observe(0.0007)
    metrics.loop_lag.observe(0.03)
    metrics.loop_lag.observe(60.0)
    assert before.held_usd == 0.25
    assert lag.figures(before, lag.parse(metrics.render().decode())) == {
        "loop_lag_count": 100, "loop_lag_p50_ms": 1.0, "loop_lag_p99_ms": 50.0, "commit_lag_count": 0,
    }  # fmt: skip
    metrics.commit_lag.observe(60.0)
    assert lag.figures(before, lag.parse(metrics.render().decode()))["commit_lag_p99_ms"] == 5000.0


def test_metrics_without_our_lags_are_a_problem() -> None:
    with pytest.raises(processes.StartError, match="lacks gateway_loop_lag_seconds, gateway_commit_lag_seconds, gatew"):
        lag.parse("# HELP up\nup 1\n")


def test_the_till_is_timed_and_charges_each_call() -> None:
    found = admission.figures(batches=1, rounds=2)
    assert set(found) == {"bare_us", "files_us", "open_us", "book_us", "close_us"}
    assert found["files_us"] == pytest.approx(found["open_us"] + found["book_us"] + found["close_us"])
    assert 1 < found["bare_us"] < 5000


def test_the_limiter_is_timed_in_a_process_of_its_own() -> None:
    found = probes.run("limiter", min(os.sched_getaffinity(0)), quick=True)
    assert list(found) == ["keys_1_us", "keys_10000_us"]
    assert all(0.1 < us < 1000 for us in found.values())


def _reading(calls: int, cpu_s: float) -> Reading:
    result = Result(calls, calls, {}, "", 0, 1.0, 0.1, Spread(), Spread(), Spread(), 0, 0)
    return Reading(result, cpu_s, 0.0, 0, 1.0, 1.0)


def test_the_prepaid_key_is_held_against_the_operators() -> None:
    found = over_operator([_reading(1000, 0.3), _reading(3000, 0.5)], _reading(2000, 0.36))
    assert found == pytest.approx({"tenant_us": 20.0, "tenant_ratio": 0.2 / 0.18})
    assert over_operator([_reading(0, 0.3)], _reading(2000, 0.36)) == {}


def test_the_pair_differs_by_the_key_alone() -> None:
    who = Contender("gateway", 1, headers={"Authorization": "a"}, operator_headers={"Authorization": "b"})
    (pair,) = [case for case in build(QUICK) if case.name == "operator-answers"]
    assert pair.beside is not None
    tenants, operators = pair.beside(who), pair.job(who)
    assert (tenants.headers["Authorization"], operators.headers["Authorization"]) == ("a", "b")
    assert msgspec.structs.replace(tenants, headers={}, duration_s=2 * tenants.duration_s) == msgspec.structs.replace(
        operators, headers={}
    )
    assert pair.applies(who)
    assert not pair.applies(Contender("nginx", 1))


def test_own_line_and_lags_have_rows() -> None:
    lags = {"loop_lag_count": 30.0, "loop_lag_p50_ms": 1.0, "loop_lag_p99_ms": 2.5, "commit_lag_count": 0.0}
    summary = {"gateway": {"answers": lags, "operator-answers": {"tenant_us": 12.34, "tenant_ratio": 1.0821}}}
    found = tables.Report(
        "c", "now", {}, "pins", 1, summary, {}, {}, {}, {}, [], {}, None,
        probes={"admission": {"files_us": 25.0}, "limiter": {"keys_1_us": 2.0, "keys_10000_us": 4.0}},
    )  # fmt: skip
    assert tables.money_table(found)[1:] == [
        ["admission + hold + settle", "25.00", "40,000"],
        ["limiter, 1 key", "2.00", "500,000"],
        ["limiter, 10,000 keys", "4.00", "250,000"],
        ["a call on the prepaid key over the operator's (x 1.082)", "12.34", "-"],
    ]
    assert tables.lag_table(found)[1:] == [["answers", "<= 1", "<= 2.5", "30", "-", "-", "0"]]
    assert {t.name: t.met for t in found.targets()}["admission + hold + settle"] is True


def test_the_lag_of_the_worst_round_counts() -> None:
    rounds = [{"loop_lag_p99_ms": 25.0, "loop_lag_count": 30.0}, {"loop_lag_p99_ms": 5.0, "loop_lag_count": 31.0}]
    assert summarise({"gateway": {"answers": rounds}})["gateway"]["answers"] == {
        "loop_lag_p99_ms": 25.0, "loop_lag_count": 61.0,
    }  # fmt: skip
