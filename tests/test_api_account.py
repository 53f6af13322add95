"""`/key`, `/auth/key`, `/credits`, `/usage`: exact figures of one account, and what is the operator's alone to see."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.api.periods import PERIODS, began, resets_at, today
from gateway.config import Plan
from gateway.core.money import PicoUsd
from gateway.store import keys
from gateway.store.schema import OPERATOR
from tests.api_desk import FREE_MODEL, MODEL, NOON, OTHER_MODEL, USD, Desk, Holder, stop_clock

DAY_S = 86_400


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    stop_clock(monkeypatch)
    opened = Desk.open(tmp_path)
    yield opened
    opened.books.close()


async def get_text(desk: Desk, holder: Holder, path: str) -> str:
    async with desk.client(holder) as client:
        answer = await client.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    return answer.text


async def get(desk: Desk, holder: Holder, path: str) -> dict[str, Any]:
    async with desk.client(holder) as client:
        answer = await client.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_plain_key_is_told_all_of_itself(desk: Desk) -> None:
    account = desk.account("ours", prepaid=False)
    key = desk.key(account, "laptop")
    data = (await get(desk, key, "/key"))["data"]
    row = keys.get(desk.books.conn, key.id)
    assert data == {
        "label": row.prefix_hint,
        "limit": None, "limit_remaining": None, "limit_reset": None, "include_byok_in_limit": False,
        "usage": 0, "usage_daily": 0, "usage_weekly": 0, "usage_monthly": 0,
        "byok_usage": 0, "byok_usage_daily": 0, "byok_usage_weekly": 0, "byok_usage_monthly": 0,
        "is_free_tier": False, "is_management_key": False, "is_provisioning_key": False,
        "creator_user_id": None, "organization_id": None, "workspace_id": account,
        "allowed_data_regions": ["global"], "budgets": [], "effective_budget": None,
        "free_model_daily_requests": {"limit": -1, "remaining": -1, "used": 0},
        "expires_at": None,
        "rate_limit": {
            "requests": -1, "interval": "60s", "note": "requests a minute; -1: no limit; rate_limits has the others",
        },
        "id": key.id, "name": "laptop", "keyType": "standard", "enabled": True, "status": "active",
        "rate_limit_tier": None, "rate_limits": {"rpm": None, "rpd": None, "tpm": None, "concurrency": None},
        "allowed_models": None, "balance": None,
    }  # fmt: skip
    assert (await get(desk, key, "/auth/key"))["data"] == data


async def test_a_capped_key_is_told_its_limits(desk: Desk) -> None:
    account = desk.account("ours", plan="free")
    key = desk.key(
        account, spend_limit=PicoUsd(5 * USD), limit_reset="weekly", expires_at=NOON + 60, models=(OTHER_MODEL, MODEL)
    )
    desk.grant(account, 20 * USD)
    desk.call(key, "gen-1", cost_pico_usd=6 * USD + 1, started_at=NOON - DAY_S)
    desk.call(key, "gen-2", model=FREE_MODEL)
    desk.call(key, "gen-3", model=FREE_MODEL, started_at=NOON - DAY_S)
    desk.books.holds[account] = 3 * USD
    desk.books.limits = Plan(rpm=20, rpd=200, tpm=None, concurrency=4)
    text = await get_text(desk, key, "/key")
    data = (await get(desk, key, "/key"))["data"]
    assert '"limit":5,"limit_remaining":0,"limit_reset":"weekly"' in text
    assert '"usage":6.000000000001,"usage_daily":0,"usage_weekly":6.000000000001,' in text
    assert '"limit_usd":5,"spend_usd":6.000000000001,"remaining_usd":-1.000000000001,' in text
    assert '"balance":10.999999999999' in text
    assert data["effective_budget"] == data["budgets"][0]
    assert data["budgets"][0]["resets_at"] == "2026-05-25T00:00:00.000Z"
    assert data["expires_at"] == "2026-05-20T12:01:00.000Z"
    assert (data["is_free_tier"], data["rate_limit_tier"]) == (True, "free")
    assert data["rate_limits"] == {"rpm": 20, "rpd": 200, "tpm": None, "concurrency": 4}
    assert data["rate_limit"]["requests"] == 20
    assert data["free_model_daily_requests"]["used"] == 1
    assert data["allowed_models"] == [MODEL, OTHER_MODEL]


async def test_a_management_key_is_told_that_it_is_one(desk: Desk) -> None:
    data = (await get(desk, desk.manager(plan="paid"), "/auth/key"))["data"]
    assert (data["is_management_key"], data["is_provisioning_key"], data["keyType"]) == (True, True, "management")
    assert data["rate_limit_tier"] == "paid"


@pytest.mark.parametrize("prepaid", [True, False])
async def test_credits_are_exact(desk: Desk, prepaid: bool) -> None:
    account = desk.account("ours", prepaid=prepaid)
    key = desk.key(account)
    desk.grant(account, 9_000_000 * USD + 1)
    desk.grant(account, 2)
    desk.call(key, "gen-1", cost_pico_usd=4, hold_pico_usd=3, provider_cost_pico_usd=77)
    desk.call(desk.key(desk.account("theirs")), "gen-2", cost_pico_usd=1000)
    desk.books.holds[account] = 10
    data = await get_text(desk, key, "/credits")
    available = "8999999.999999999989" if prepaid else "null"
    assert data == (
        '{"data":{"total_credits":9000000.000000000003,"total_usage":0.000000000004,'
        f'"balance":8999999.999999999999,"held":0.00000000001,"available":{available},"prepaid":{str(prepaid).lower()}}}}}'
    )


async def test_credits_of_an_account_without_any(desk: Desk) -> None:
    key = desk.key(desk.account("ours", prepaid=False))
    assert (await get(desk, key, "/credits"))["data"]["total_credits"] == 0
    desk.call(key, "gen-1", cost_pico_usd=USD // 2)
    data = (await get(desk, key, "/credits"))["data"]
    assert (data["total_credits"], data["total_usage"], data["balance"]) == (0, 0.5, -0.5)


def fill(desk: Desk, account: str) -> tuple[Holder, Holder]:
    """Calls of two keys: today, on Monday, on the first of the month, in January, and two years ago."""
    one, two = desk.key(account, "one"), desk.key(account, "two")
    for number, (holder, days, model) in enumerate(
        (
            (one, 0, MODEL),
            (two, 0, OTHER_MODEL),
            (one, 2, MODEL),
            (two, 19, MODEL),
            (one, 130, MODEL),
            (one, 800, MODEL),
        )
    ):
        desk.call(
            holder, f"gen-{account}-{number}", model=model, started_at=NOON - days * DAY_S,
            prompt_tokens=100, cached_tokens=10, cache_write_tokens=5, completion_tokens=20, reasoning_tokens=2,
            cost_pico_usd=10**number, provider_cost_pico_usd=USD + 7, hedge_cost_pico_usd=USD + 9,
        )  # fmt: skip
    return one, two


@pytest.mark.parametrize(
    ("period", "since", "requests", "usage"),
    [
        ("day", "2026-05-20", 2, "0.000000000011"),
        ("week", "2026-05-18", 3, "0.000000000111"),
        ("month", "2026-05-01", 4, "0.000000001111"),
        ("year", "2026-01-01", 5, "0.000000011111"),
        ("all", None, 6, "0.000000111111"),
    ],
)
async def test_usage_of_a_period(desk: Desk, period: str, since: str | None, requests: int, usage: str) -> None:
    one, _ = fill(desk, desk.account("ours"))
    fill(desk, desk.account("theirs"))
    for by in ("model", "key", "day"):
        text = await get_text(desk, one, f"/usage?period={period}&by={by}")
        answer = await get(desk, one, f"/usage?period={period}&by={by}")
        assert {name: answer[name] for name in ("period", "since", "until", "by")} == {
            "period": period, "since": since, "until": "2026-05-20", "by": by,
        }  # fmt: skip
        assert f'"total":{{"requests":{requests},"usage":{usage},' in text
        assert answer["total"]["prompt_tokens"] == 100 * requests
        assert sum(line["requests"] for line in answer["data"]) == requests
        assert sum(line["reasoning_tokens"] for line in answer["data"]) == 2 * requests


async def test_usage_by_model_key_and_day(desk: Desk) -> None:
    one, two = fill(desk, desk.account("ours"))
    month = await get(desk, one, "/usage")
    assert month == await get(desk, one, "/usage?period=month&by=model")
    tokens = {
        "prompt_tokens": 300, "cached_tokens": 30, "cache_write_tokens": 15, "completion_tokens": 60,
        "reasoning_tokens": 6,
    }  # fmt: skip
    assert month["data"][0] == {"model": MODEL, "requests": 3, "usage": 1.101e-09} | tokens
    assert [line["model"] for line in month["data"]] == [MODEL, OTHER_MODEL]
    by_key = (await get(desk, one, "/usage?by=key"))["data"]
    assert [(line["key_id"], line["name"], line["requests"]) for line in by_key] == [
        (two.id, "two", 2),
        (one.id, "one", 2),
    ]
    by_day = (await get(desk, one, "/usage?by=day"))["data"]
    assert [line["date"] for line in by_day] == ["2026-05-01", "2026-05-18", "2026-05-20"]
    of_two = (await get(desk, one, f"/usage?by=day&key_id={two.id}"))["data"]
    assert [line["date"] for line in of_two] == ["2026-05-01", "2026-05-20"]


async def test_usage_without_calls(desk: Desk) -> None:
    answer = await get(desk, desk.key(desk.account("ours")), "/usage?period=all")
    assert (answer["data"], answer["total"]["requests"], answer["total"]["usage"]) == ([], 0, 0)


async def test_what_providers_charge_is_the_operators_to_see(desk: Desk) -> None:
    customer, _ = fill(desk, desk.account("ours"))
    operator, _ = fill(desk, OPERATOR)
    for path in ("/usage", "/usage?by=key", "/usage?by=day&period=all", "/key", "/credits"):
        text = await get_text(desk, customer, path)
        assert not re.search(r"provider_cost|hedge|\d\.000000000007|000000000009", text)
    text = await get_text(desk, operator, "/usage?period=day")
    assert '"provider_cost":2.000000000014,"hedge_cost":2.000000000018' in text


@pytest.mark.parametrize("query", ["period=hour", "period=", "by=account", "by=", "perod=day", "by=day&by=key"])
async def test_usage_that_is_not_understood_is_400(desk: Desk, query: str) -> None:
    async with desk.client(desk.key()) as client:
        answer = await client.get(f"/v1/usage?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize(
    ("day", "begins"),
    [
        (date(2026, 5, 20), {"day": "2026-05-20", "week": "2026-05-18", "month": "2026-05-01", "year": "2026-01-01"}),
        (date(2026, 3, 1), {"day": "2026-03-01", "week": "2026-02-23", "month": "2026-03-01", "year": "2026-01-01"}),
        (date(2027, 1, 1), {"day": "2027-01-01", "week": "2026-12-28", "month": "2027-01-01", "year": "2027-01-01"}),
        (date(2028, 2, 29), {"day": "2028-02-29", "week": "2028-02-28", "month": "2028-02-01", "year": "2028-01-01"}),
    ],
)
def test_when_periods_began(day: date, begins: dict[str, str]) -> None:
    found = {period: began(period, day) for period in PERIODS}
    assert {name: first and first.isoformat() for name, first in found.items()} == begins | {"all": None}


@pytest.mark.parametrize(
    ("now", "daily", "weekly", "monthly"),
    [
        ("2026-05-20T12:00:00", "2026-05-21", "2026-05-25", "2026-06-01"),
        ("2026-12-31T23:59:59", "2027-01-01", "2027-01-04", "2027-01-01"),
        ("2028-02-28T00:00:00", "2028-02-29", "2028-03-06", "2028-03-01"),
        ("2026-01-31T00:00:00", "2026-02-01", "2026-02-02", "2026-02-01"),
    ],
)
def test_when_caps_begin_anew(now: str, daily: str, weekly: str, monthly: str) -> None:
    at = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp()
    for reset, day in (("daily", daily), ("weekly", weekly), ("monthly", monthly)):
        then = resets_at(reset, at)
        assert then is not None
        assert then % DAY_S == 0
        assert (today(then).isoformat(), then > at) == (day, True)
    assert resets_at(None, at) is None
