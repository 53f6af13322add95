"""`/keys`: what a key can be made with and changed to, what cannot be said of it, and what is never shown."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from gateway.api.shapes import limit_of, usd
from gateway.core.money import PicoUsd, format_usd
from gateway.errors import BadRequest
from gateway.store import keys
from tests.api_desk import MODEL, NOON, OTHER_MODEL, USD, Desk, Holder, stop_clock

FUTURE, LATER = "2999-01-01T00:00:00Z", "2999-06-01T12:30:00.500+02:00"
K_FIELDS = {
    "hash", "name", "label", "disabled", "limit", "limit_remaining", "limit_reset", "include_byok_in_limit",
    "usage", "usage_daily", "usage_weekly", "usage_monthly", "byok_usage", "byok_usage_daily", "byok_usage_weekly",
    "byok_usage_monthly", "created_at", "updated_at", "expires_at", "last_used_at", "creator_user_id",
    "external_user", "workspace_id", "id", "keyType", "enabled", "allowed_models", "rpm", "rpd", "tpm", "concurrency",
}  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    stop_clock(monkeypatch)
    opened = Desk.open(tmp_path)
    yield opened
    opened.books.close()


@pytest.fixture
def manager(desk: Desk) -> Holder:
    return desk.manager(desk.account("ours"))


async def send(
    desk: Desk, holder: Holder, method: str, path: str, body: bytes | dict[str, Any] = b"", **headers: str
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with desk.client(holder) as client:
        return await client.request(method, f"/api/v1{path}", content=content, headers=named)


async def create(desk: Desk, holder: Holder, **fields: Any) -> httpx.Response:
    return await send(desk, holder, "POST", "/keys", {"name": "new"} | fields)


async def shown(desk: Desk, holder: Holder, key_id: str) -> dict[str, Any]:
    answer = await send(desk, holder, "GET", f"/keys/{key_id}")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()["data"]
    return found


async def test_a_new_key_works_and_its_secret_is_shown_once(desk: Desk, manager: Holder) -> None:
    answer = await send(desk, manager, "POST", "/keys", b'{"name": "Production Key"}')
    assert answer.status_code == 201
    made, secret = answer.json()["data"], answer.json()["key"]
    assert set(answer.json()) == {"data", "key"}
    assert set(made) == K_FIELDS
    assert (made["name"], made["keyType"], made["enabled"], made["disabled"]) == (
        "Production Key",
        "standard",
        True,
        False,
    )
    assert made["hash"] == made["id"]
    assert made["workspace_id"] == manager.account_id
    assert made["limit"] is made["limit_remaining"] is made["limit_reset"] is made["expires_at"] is None
    assert made["label"].startswith(secret[:10])
    assert made["label"].endswith(secret[-4:])
    principal = desk.keys.find(secret.encode())
    assert principal is not None
    assert (principal.account_id, principal.management, principal.plan) == (manager.account_id, False, None)
    for path in ("/keys", f"/keys/{made['id']}"):
        assert secret not in (await send(desk, manager, "GET", path)).text
    assert await shown(desk, manager, made["id"]) == made
    assert desk.keys.pepper.hex() not in answer.text


# What is sent, what is shown for it.
TERMS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"limit": 50, "limit_reset": "monthly"}, {"limit": 50, "limit_remaining": 50, "limit_reset": "monthly"}),
    ({"limit": "0.000000000001"}, {"limit": 1e-12}),
    ({"limit": 0}, {"limit": 0, "limit_remaining": 0}),
    ({"limit": 0.00001}, {"limit": 0.00001}),
    ({"limit": "2.5E+1"}, {"limit": 25}),
    ({"limit": "1.00000000000000000"}, {"limit": 1}),
    ({"limit": None, "limit_reset": None}, {"limit": None, "limit_remaining": None, "limit_reset": None}),
    ({"limit_reset": "none"}, {"limit_reset": None}),
    ({"limit_reset": "daily"}, {"limit_reset": "daily"}),
    ({"limit_reset": "weekly"}, {"limit_reset": "weekly"}),
    ({"enabled": False}, {"enabled": False, "disabled": True}),
    ({"disabled": True}, {"enabled": False, "disabled": True}),
    ({"disabled": False, "enabled": True}, {"enabled": True, "disabled": False}),
    ({"expires_at": FUTURE}, {"expires_at": "2999-01-01T00:00:00.000Z"}),
    ({"expires_at": LATER}, {"expires_at": "2999-06-01T10:30:00.500Z"}),
    ({"expires_at": None}, {"expires_at": None}),
    ({"allowed_models": [MODEL]}, {"allowed_models": [MODEL]}),
    ({"allowed_models": ["big", OTHER_MODEL, MODEL]}, {"allowed_models": [MODEL, OTHER_MODEL]}),
    ({"allowed_models": None}, {"allowed_models": None}),
    ({"rpm": 1, "rpd": 2, "tpm": 3, "concurrency": 4}, {"rpm": 1, "rpd": 2, "tpm": 3, "concurrency": 4}),
    ({"rpm": None, "rpd": None, "tpm": None, "concurrency": None}, {"rpm": None, "concurrency": None}),
    ({"rpm": 2**53 - 1}, {"rpm": 2**53 - 1}),
    ({"include_byok_in_limit": True}, {"include_byok_in_limit": False}),
    ({"creator_user_id": "user_1", "workspace_id": "elsewhere"}, {"creator_user_id": None}),
    ({"creator_user_id": None, "workspace_id": None}, {"creator_user_id": None}),
]


@pytest.mark.parametrize(("fields", "expected"), TERMS)
async def test_terms_of_a_new_key(
    desk: Desk, manager: Holder, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    answer = await create(desk, manager, **fields)
    assert answer.status_code == 201, answer.text
    made = answer.json()["data"]
    assert {name: made[name] for name in expected} == expected
    assert made["workspace_id"] == manager.account_id
    assert await shown(desk, manager, made["id"]) == made


@pytest.mark.parametrize(("fields", "expected"), [*TERMS, ({"name": "renamed"}, {"name": "renamed"})])
async def test_terms_of_a_changed_key(
    desk: Desk, manager: Holder, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    """What is named changes, all else stays."""
    key = desk.key(manager.account_id, "target", rpm=77, spend_limit=PicoUsd(5 * USD), plan="paid")
    before = await shown(desk, manager, key.id)
    answer = await send(desk, manager, "PATCH", f"/keys/{key.id}", fields)
    assert answer.status_code == 200, answer.text
    after = answer.json()["data"]
    assert {name: after[name] for name in expected} == expected
    told = set(fields) | {"updated_at"}
    told |= {"enabled", "disabled"} & told and {"enabled", "disabled"}
    told |= {"limit", "limit_remaining"} if "limit" in told else set()
    assert {name: after[name] for name in K_FIELDS - told} == {name: before[name] for name in K_FIELDS - told}
    assert after["updated_at"] > after["created_at"]
    assert keys.get(desk.books.conn, key.id).terms.plan == "paid"
    assert await shown(desk, manager, key.id) == after


async def test_a_disabled_key_stops_at_once_and_starts_again(desk: Desk, manager: Holder) -> None:
    key = desk.key(manager.account_id)
    for enabled, status in ((False, 401), (True, 200)):
        await send(desk, manager, "PATCH", f"/keys/{key.id}", {"enabled": enabled})
        assert (await send(desk, key, "GET", "/key")).status_code == status


# What is refused, on POST and PATCH alike: the fields, and the one that the answer blames.
REFUSED: list[tuple[dict[str, Any], str | None]] = [
    ({"limit": -1}, "limit"), ({"limit": "-0.01"}, "limit"), ({"limit": "five"}, "limit"), ({"limit": ""}, "limit"),
    ({"limit": "NaN"}, "limit"), ({"limit": "Infinity"}, "limit"), ({"limit": " 5"}, "limit"),
    ({"limit": "1_000"}, "limit"), ({"limit": "\uff15"}, "limit"), ({"limit": True}, "limit"),
    ({"limit": [5]}, "limit"), ({"limit": {"usd": 5}}, "limit"), ({"limit": "0.0000000000001"}, "limit"),
    ({"limit": "1e999999999"}, "limit"), ({"limit": 9_300_000}, None), ({"limit": 1e99}, "limit"),
    ({"limit_reset": "yearly"}, "limit_reset"), ({"limit_reset": 5}, "limit_reset"),
    ({"enabled": True, "disabled": True}, "enabled"), ({"enabled": False, "disabled": False}, "enabled"),
    ({"enabled": "yes"}, "enabled"), ({"enabled": None}, "enabled"), ({"disabled": 1}, "disabled"),
    ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"), ({"expires_at": "2999-01-01T00:00:00"}, "expires_at"),
    ({"expires_at": "tomorrow"}, "expires_at"), ({"expires_at": 32503680000}, "expires_at"),
    ({"allowed_models": ["test/unknown"]}, "allowed_models"), ({"allowed_models": ["none"]}, "allowed_models"),
    ({"allowed_models": []}, "allowed_models"), ({"allowed_models": MODEL}, "allowed_models"),
    ({"allowed_models": [5]}, "allowed_models"),
    ({"rpm": 0}, "rpm"), ({"rpd": -1}, "rpd"), ({"tpm": 1.5}, "tpm"), ({"concurrency": "4"}, "concurrency"),
    ({"rpm": 2**53}, "rpm"), ({"rpm": True}, "rpm"),
    ({"name": ""}, None), ({"name": " "}, None), ({"name": "x" * 101}, None), ({"name": "a\nb"}, None),
    ({"name": 5}, "name"), ({"name": None}, "name"),
    ({"include_byok_in_limit": "yes"}, "include_byok_in_limit"),
]  # fmt: skip
# What a caller could wish for: rights, money, another's account, the fields of the store and of the answer.
FORBIDDEN = (
    "account_id", "account", "plan", "kind", "type", "key_type", "role", "is_management_key", "management", "hash",
    "id", "key", "secret", "digest", "label", "prefix_hint", "usage", "usage_daily", "limit_remaining", "balance",
    "credits", "total_credits", "created_at", "updated_at", "revoked_at", "disabled_at", "spend_limit",
    "spend_limit_pico_usd", "models", "allowed_routes", "user_id", "creator", "external", "prepaid", "suspended",
    "__class__", "terms",
)  # fmt: skip


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_what_is_refused_changes_nothing(desk: Desk, manager: Holder, method: str) -> None:
    key = desk.key(manager.account_id, "target", rpm=77)
    path = "/keys" if method == "POST" else f"/keys/{key.id}"
    before = desk.all_keys()
    for fields, blamed in REFUSED:
        answer = await send(desk, manager, method, path, {"name": "new"} | fields)
        assert answer.status_code == 400, (fields, answer.text)
        assert answer.json()["error"]["param"] == blamed, (fields, answer.text)
    for name in FORBIDDEN:
        for wish in ("management", 5, True, None):
            answer = await send(desk, manager, method, path, {"name": "new", name: wish})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, name), answer.text
            assert f"`{name}`" in answer.json()["error"]["message"]
    assert desk.all_keys() == before


async def test_a_kind_is_settled_when_the_key_is_made(desk: Desk, manager: Holder) -> None:
    made = (await create(desk, manager, keyType="management")).json()["data"]
    assert made["keyType"] == "management"
    for kind in ("standard", "management"):
        answer = await send(desk, manager, "PATCH", f"/keys/{made['id']}", {"keyType": kind})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "keyType")
    for wrong in ("admin", "", None, 1):
        assert (await create(desk, manager, keyType=wrong)).status_code == 400
    assert (await send(desk, manager, "POST", "/keys", {"limit": 5})).json()["error"]["param"] == "name"


MALFORMED = [
    b"", b"{", b"[]", b"null", b'"name"', b"{}trailing", b'{"name": "a",}', b"\xff\xfe", b'{"name": "\xff"}',
    b'{"name": "a", "limit": "\xff"}', b'{"name": "\\ud800"}', b'{"name": "a", "limit": ' + b"[" * 50_000,
    b'{"name": "a", "rpm": ' + b"9" * 50_000 + b"}", b'{"name": "a", "limit": ' + b"9" * 50_000 + b"}",
    b'{"name": "a", "' + b"x" * 50_000 + b'": 1}', b'{"name": "a", "limit": 1e}', b"name=a&limit=5",
]  # fmt: skip


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_malformed_bodies_are_400(desk: Desk, manager: Holder, method: str) -> None:
    path = "/keys" if method == "POST" else f"/keys/{desk.key(manager.account_id).id}"
    before = desk.all_keys()
    for body in MALFORMED:
        answer = await send(desk, manager, method, path, body)
        assert answer.status_code == 400, (body[:40], answer.text)
        assert len(answer.json()["error"]["message"]) < 500
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert desk.all_keys() == before


async def test_a_body_over_the_limit_is_413(desk: Desk, manager: Holder) -> None:
    answer = await send(desk, manager, "POST", "/keys", b'{"name": "' + b"a" * 64 * 1024 + b'"}')
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")


async def test_an_expiring_manager_makes_and_prolongs_no_other_beyond_its_end(desk: Desk) -> None:
    account = desk.account("ours")
    end = time.time() + 3600
    manager, lasting, standard = desk.manager(account, expires_at=end), desk.manager(account), desk.key(account)
    soon, late = (datetime.fromtimestamp(end + change, UTC).isoformat() for change in (-60, 60))
    for fields, status in (
        ({"keyType": "management"}, 403),
        ({"keyType": "management", "expires_at": None}, 403),
        ({"keyType": "management", "expires_at": late}, 403),
        ({"keyType": "management", "expires_at": soon}, 201),
        ({"keyType": "standard"}, 201),
    ):
        assert (await create(desk, manager, **fields)).status_code == status, fields
    for target in (manager, lasting):
        for then, status in ((None, 403), (late, 403), (soon, 200)):
            answer = await send(desk, manager, "PATCH", f"/keys/{target.id}", {"expires_at": then})
            assert answer.status_code == status
    assert (await send(desk, manager, "PATCH", f"/keys/{standard.id}", {"expires_at": late})).status_code == 200
    assert (await send(desk, manager, "PATCH", f"/keys/{lasting.id}", {"name": "x"})).status_code == 200


async def test_a_deleted_key_is_gone(desk: Desk, manager: Holder) -> None:
    key = desk.key(manager.account_id)
    answer = await send(desk, manager, "DELETE", f"/keys/{key.id}")
    assert (answer.status_code, answer.json()) == (200, {"deleted": True})
    for method, body in (("GET", b""), ("PATCH", b'{"enabled": true}'), ("DELETE", b"")):
        assert (await send(desk, manager, method, f"/keys/{key.id}", body)).status_code == 404
    everything = "/keys?include_disabled=true&include_expired=true"
    assert [row["id"] for row in (await send(desk, manager, "GET", everything)).json()["data"]] == [manager.id]
    assert (await send(desk, key, "GET", "/key")).status_code == 401


async def test_pages_of_keys(desk: Desk, manager: Holder) -> None:
    account = manager.account_id
    live = [manager.id, *(desk.key(account).id for _ in range(4))]
    disabled, expired = desk.key(account, disabled=True).id, desk.key(account, expires_at=5.0).id
    desk.key(desk.account("theirs"))

    async def page(query: str) -> list[str]:
        answer = await send(desk, manager, "GET", f"/keys{query}")
        assert answer.status_code == 200, answer.text
        return [row["id"] for row in answer.json()["data"]]

    assert await page("") == live
    assert await page("?include_disabled=true") == [*live, disabled]
    assert await page("?include_expired=1") == [*live, expired]
    assert await page("?include_disabled=true&include_expired=true") == [*live, disabled, expired]
    assert await page("?include_disabled=false&workspace_id=any") == live
    assert [*await page("?limit=2"), *await page("?offset=2&limit=2"), *await page("?offset=4")] == live
    assert await page("?offset=5") == []


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=-1", "limit=x", "limit=1.5", "limit=\u0662", "offset=-1", "offset=10001",
     "include_disabled=maybe", "include_disabled=", "offset=1&offset=2", "all=true", "account_id=operator"],
)  # fmt: skip
async def test_a_query_that_is_not_understood_is_400(desk: Desk, manager: Holder, query: str) -> None:
    answer = await send(desk, manager, "GET", f"/keys?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


async def test_when_a_key_was_last_used(desk: Desk, manager: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    today, old, never = (desk.key(manager.account_id, name) for name in ("today", "old", "never"))
    day_s = 86_400
    for number, at in enumerate((now - 5, now - 1, now - 3)):
        desk.call(today, f"gen-today{number}", started_at=at)
    desk.call(old, "gen-old", started_at=now - 3 * day_s)
    desk.books.conn.execute("UPDATE keys SET created_at = ? WHERE id = ?", (now - 9 * day_s, old.id))
    assert abs(_unix((await shown(desk, manager, today.id))["last_used_at"]) - (now - 1)) < 0.001
    assert abs(_unix((await shown(desk, manager, old.id))["last_used_at"]) - (now - 3 * day_s)) < 0.001
    assert (await shown(desk, manager, never.id))["last_used_at"] is None
    # Not among the newest calls that are looked through: known to the day.
    monkeypatch.setattr("gateway.store.account_reads._RECENT_CALLS", 3)
    began = (now - 3 * day_s) // day_s * day_s
    assert _unix((await shown(desk, manager, old.id))["last_used_at"]) == began


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def test_a_cap_counts_what_its_period_counts(desk: Desk, manager: Holder) -> None:
    key = desk.key(manager.account_id, spend_limit=PicoUsd(10 * USD))
    for number, days in enumerate((0, 2, 19, 400)):  # today, this week, this month, once
        desk.call(key, f"gen-{number}", started_at=NOON - days * 86_400, cost_pico_usd=USD)
    desk.books.unwritten[key.id] = 1
    for reset, left in (
        ("daily", "8.999999999999"),
        ("weekly", "7.999999999999"),
        ("monthly", "6.999999999999"),
        (None, "5.999999999999"),
    ):
        answer = await send(desk, manager, "PATCH", f"/keys/{key.id}", {"limit_reset": reset})
        assert f'"limit_remaining":{left},' in answer.text
    assert '"usage":4.000000000001,"usage_daily":1.000000000001,' in answer.text
    spent = await send(desk, manager, "PATCH", f"/keys/{key.id}", {"limit": 2})
    assert spent.json()["data"]["limit_remaining"] == 0


async def test_an_idempotency_key_makes_one_key(desk: Desk, manager: Holder) -> None:
    body = b'{"name": "once"}'
    first = await send(desk, manager, "POST", "/keys", body, idempotency_key="abc")
    again = await send(desk, manager, "POST", "/keys", body, idempotency_key="abc")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["cache-control"] == "no-store"
    assert again.headers["content-type"] == "application/json"
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    assert len(desk.keys.principals) == 2
    other = await send(desk, manager, "POST", "/keys", b'{"name": "other"}', idempotency_key="abc")
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    stranger = desk.manager(desk.account("theirs"))
    theirs = await send(desk, stranger, "POST", "/keys", body, idempotency_key="abc")
    assert theirs.json()["key"] != first.json()["key"]


async def test_duplicates_at_once_make_one_key(desk: Desk, manager: Holder) -> None:
    answers: list[httpx.Response] = []

    async def one() -> None:
        answers.append(await send(desk, manager, "POST", "/keys", b'{"name": "once"}', idempotency_key="abc"))

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(one)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert len(desk.keys.principals) == 2


async def test_a_client_that_leaves_while_its_key_is_made_finds_it(desk: Desk, manager: Holder) -> None:
    begun, released = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert released.wait(10)

    desk.books.before_change = wait
    async with trio.open_nursery() as leaving:
        leaving.start_soon(partial(send, desk, manager, "POST", "/keys", b'{"name": "once"}', idempotency_key="abc"))
        await trio.to_thread.run_sync(begun.wait)
        leaving.cancel_scope.cancel()
        released.set()
    desk.books.before_change = lambda: None
    again = await send(desk, manager, "POST", "/keys", b'{"name": "once"}', idempotency_key="abc")
    assert again.headers["idempotent-replayed"] == "true"
    assert desk.keys.find(again.json()["key"].encode()) is not None
    assert len(desk.keys.principals) == 2


async def test_a_failed_request_leaves_its_idempotency_key_free(desk: Desk, manager: Holder) -> None:
    for body, status in ((b'{"name": ""}', 400), (b'{"name": "a"}', 201)):
        answer = await send(desk, manager, "POST", "/keys", body, idempotency_key="abc")
        assert answer.status_code == status
    bad = await send(desk, manager, "POST", "/keys", b'{"name": "a"}', idempotency_key="a" * 256)
    assert bad.status_code == 400


@given(st.integers(0, 2**63 - 1))
def test_an_amount_is_shown_and_read_to_the_last_digit(pico_usd: int) -> None:
    text = format_usd(pico_usd)
    assert limit_of(Raw(text.encode())) == pico_usd
    assert limit_of(Raw(f'"{text}"'.encode())) == pico_usd
    assert orjson.dumps({"limit": usd(pico_usd)}) == b'{"limit":' + text.encode() + b"}"
    assert Decimal(text) * USD == pico_usd


@given(st.binary(max_size=40))
def test_a_limit_of_any_bytes_is_read_or_refused(text: bytes) -> None:
    try:
        limit = limit_of(Raw(text))
    except BadRequest as refused:
        assert refused.param == "limit"
    else:
        assert not text.strip() or limit is None or isinstance(limit, int)


async def test_changes_are_counted_and_reads_are_not(desk: Desk, manager: Holder) -> None:
    desk.books.changes_left = 1
    assert (await create(desk, manager)).status_code == 201
    refused = await create(desk, manager)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert len((await send(desk, manager, "GET", "/keys")).json()["data"]) == 2
