"""`/generation`: a call from its record, complete, and only its own account's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.core.call import AttemptNote
from gateway.store.schema import OPERATOR
from tests.api_desk import MODEL, NOON, USD, Desk, Holder, stop_clock

GEN = "gen-0190aabbccddeeff00112233445566"
FULL: dict[str, Any] = {
    "key_name": "secret project", "route": "chat", "lane": "express", "stream": True, "provider": "acme",
    "upstream_model": "acme-internal-7b", "upstream_id": "chatcmpl-9",
    "attempts": (AttemptNote("slow", "timeout", 0, 250.5), AttemptNote("full", "http_429", 429, 3.25), AttemptNote("acme", "won", 200, 40.0)),
    "ended": "complete", "prompt_tokens": 120, "cached_tokens": 100, "cache_write_tokens": 8, "completion_tokens": 30,
    "reasoning_tokens": 12, "usage_estimated": True, "cost_pico_usd": 3 * USD + 1, "provider_cost_pico_usd": 2 * USD,
    "hedge_cost_pico_usd": 777, "hold_pico_usd": 999, "first_content_ms": 40.5, "total_ms": 140.75, "bytes_in": 5,
    "bytes_out": 6, "finish_reason": "stop", "started_at": NOON, "idempotency": "ab" * 16,
}  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    stop_clock(monkeypatch)
    opened = Desk.open(tmp_path)
    yield opened
    opened.books.close()


async def ask(desk: Desk, holder: Holder, query: str) -> httpx.Response:
    async with desk.client(holder) as client:
        return await client.get(f"/api/v1/generation{query}")


async def found(desk: Desk, holder: Holder, gen_id: str) -> dict[str, Any]:
    answer = await ask(desk, holder, f"?id={gen_id}")
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


PLACE = {"reason": None, "delay_ms": 0.0}  # of attempts that were noted without either


async def test_a_call_is_shown_whole(desk: Desk) -> None:
    key = desk.key(desk.account("ours"))
    desk.call(key, GEN, **FULL)
    answer = await ask(desk, key, f"?id={GEN}")
    assert '"total_cost":3.000000000001,"usage":3.000000000001,' in answer.text
    data = answer.json()["data"]
    attempts: list[dict[str, Any]] = [
        {"provider_name": "slow", "status": None, "latency": 250.5, "outcome": "timeout"},
        {"provider_name": "full", "status": 429, "latency": 3.25, "outcome": "http_429"},
        {"provider_name": "acme", "status": 200, "latency": 40.0, "outcome": "won"},
    ]
    assert {name: value for name, value in data.items() if value is not None} == {
        "id": GEN, "upstream_id": "chatcmpl-9", "request_id": f"req-{GEN}", "created_at": "2026-05-20T12:00:00.000Z",
        "model": MODEL, "provider_name": "acme", "api_type": "completions", "origin": "", "data_region": "global",
        "provider_responses": [one | {"is_byok": False, "model_permaslug": MODEL} | PLACE for one in attempts],
        "workspace_id": key.account_id, "streamed": True, "cancelled": False,
        "finish_reason": "stop", "native_finish_reason": "stop", "latency": 140.75, "generation_time": 100.25,
        "tokens_prompt": 120, "tokens_completion": 30, "native_tokens_prompt": 120, "native_tokens_completion": 30,
        "native_tokens_reasoning": 12, "native_tokens_cached": 100, "total_cost": 3.000000000001,
        "usage": 3.000000000001, "is_byok": False, "key_id": key.id, "status": 200, "ended": "complete",
        "first_content_ms": 40.5, "tokens_cache_write": 8, "usage_estimated": True,
    }  # fmt: skip
    for hidden in ("acme-internal-7b", "777", "999", "ab" * 16, key.secret):
        assert hidden not in answer.text


async def test_what_the_provider_charged_is_the_operators_to_see(desk: Desk) -> None:
    customer, operator = desk.key(desk.account("ours")), desk.key(OPERATOR)
    desk.call(customer, GEN, **FULL)
    desk.call(operator, "gen-00", **FULL)
    assert (await found(desk, customer, GEN))["upstream_inference_cost"] is None
    assert "hedge_cost" not in await found(desk, customer, GEN)
    data = await found(desk, operator, "gen-00")
    assert (data["upstream_inference_cost"], data["hedge_cost"]) == (2, 7.77e-10)


async def test_a_call_that_failed_is_shown_as_such(desk: Desk) -> None:
    key = desk.key(desk.account("ours"))
    desk.call(key, "gen-gone", ended="client_gone", stream=True, total_ms=20.0)
    desk.call(key, "gen-none", ended="no_route", status=503, code="no_route", model="test/unknown")
    gone, none = await found(desk, key, "gen-gone"), await found(desk, key, "gen-none")
    assert (gone["cancelled"], gone["generation_time"], gone["total_cost"]) == (True, 20.0, 0)
    assert (none["cancelled"], none["status"], none["error_code"], none["generation_time"]) == (
        False, 503, "no_route", None,
    )  # fmt: skip
    assert none["provider_responses"] == []
    assert none["provider_name"] is none["upstream_id"] is None


async def test_a_call_that_is_no_stream_generates_all_its_time(desk: Desk) -> None:
    key = desk.key(desk.account("ours"))
    desk.call(key, GEN, **FULL | {"stream": False})
    data = await found(desk, key, GEN)
    assert (data["streamed"], data["latency"], data["generation_time"]) == (False, 140.75, 140.75)


async def test_it_is_404_until_its_record_is_written(desk: Desk) -> None:
    key = desk.key(desk.account("ours"))
    early = await ask(desk, key, f"?id={GEN}")
    assert (early.status_code, early.json()["error"]["code"]) == (404, "not_found")
    desk.call(key, GEN, **FULL)
    for spelling in (GEN, GEN.replace("gen-", "gen_")):
        assert (await found(desk, key, spelling))["id"] == GEN


async def test_any_key_of_the_account_sees_it(desk: Desk) -> None:
    account = desk.account("ours")
    desk.call(desk.key(account), GEN, **FULL)
    for holder in (desk.key(account), desk.manager(account)):
        assert (await found(desk, holder, GEN))["id"] == GEN


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("?id=", 400), (f"?id={GEN}&id={GEN}", 400), (f"?id={GEN}&account_id=operator", 400),
     ("?id=gen-%00", 404), ("?id=%25", 404), (f"?id={GEN[4:]}", 404), ("?id=gen-' OR 1=1 --", 404),
     ("?id=" + "x" * 5000, 404)],
)  # fmt: skip
async def test_ids_that_are_none(desk: Desk, query: str, status: int) -> None:
    key = desk.key(desk.account("ours"))
    desk.call(key, GEN, **FULL)
    answer = await ask(desk, key, query)
    assert answer.status_code == status
    assert len(json.dumps(answer.json())) < 1000
