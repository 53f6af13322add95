"""Who may ask the account API for what: every route of the map, by every kind of caller, over two accounts.

The routes are read from the app. One that has no row in `ROUTES` fails here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import pytest

from gateway.api import PREFIXES
from gateway.edge.lanes import Edge
from gateway.edge.web import Control, build_web
from gateway.store import keys
from tests.api_desk import MODEL, Desk, Holder, stop_clock

GEN = "gen-0123456789abcdef"
NOT_OURS = ("/models", "/models/<path:name>", "/models/<path:name>/endpoints")  # of gateway.edge.web, tested with it


class Route(NamedTuple):
    """How a route is asked: for whom it is, the status it has for them, its query and body."""

    manager: bool
    status: int = 200
    query: str = ""
    body: dict[str, Any] | None = None


ROUTES = {
    ("GET", "/keys"): Route(manager=True),
    ("POST", "/keys"): Route(manager=True, status=201, body={"name": "new"}),
    ("GET", "/keys/<key_id>"): Route(manager=True),
    ("PATCH", "/keys/<key_id>"): Route(manager=True, body={"enabled": False}),
    ("DELETE", "/keys/<key_id>"): Route(manager=True),
    ("GET", "/key"): Route(manager=False),
    ("GET", "/auth/key"): Route(manager=False),
    ("GET", "/credits"): Route(manager=False),
    ("GET", "/usage"): Route(manager=False),
    ("GET", "/generation"): Route(manager=False, query=f"?id={GEN}"),
}


def served() -> Iterator[tuple[str, str, str]]:
    """The method, prefix and path of every route below the prefixes, from the app's own map."""
    for rule in build_web(cast("Edge", None), cast("Control", None)).url_map.iter_rules():
        prefix = next((prefix for prefix in PREFIXES if rule.rule.startswith(f"{prefix}/")), None)
        if prefix is not None and (path := rule.rule.removeprefix(prefix)) not in NOT_OURS:
            yield from ((method, prefix, path) for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}))


SERVED = sorted(served())


class Town:
    """Two accounts, each with keys, a call and credit; and callers of every kind."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.ours, self.theirs, gone = desk.account("ours"), desk.account("theirs"), desk.account("gone")
        for account in (self.ours, self.theirs):
            desk.grant(account, 7 * 10**12)
        self.standard, self.manager = desk.key(self.ours, "standard"), desk.manager(self.ours)
        self.stranger = desk.manager(self.theirs)
        self.target = desk.key(self.ours, "target")
        desk.call(self.target, GEN, cost_pico_usd=123)
        disabled, expired = desk.manager(self.ours, disabled=True), desk.manager(self.ours, expires_at=1.0)
        suspended = desk.manager(gone)
        desk.suspend(gone)
        revoked = desk.manager(self.ours)
        keys.revoke(desk.books.conn, revoked.id)
        desk.reload()
        # By their names: the key, the status, and the error's code.
        self.refused: dict[str, tuple[Holder | None, int, str]] = {
            "no key": (None, 401, "invalid_api_key"),
            "wrong key": (Holder("", "sk-gw-wrong", ""), 401, "invalid_api_key"),
            "key id": (Holder("", self.manager.id, ""), 401, "invalid_api_key"),
            "disabled": (disabled, 401, "invalid_api_key"),
            "expired": (expired, 401, "invalid_api_key"),
            "revoked": (revoked, 401, "invalid_api_key"),
            "suspended": (suspended, 403, "account_suspended"),
        }


@pytest.fixture
def town(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Town]:
    stop_clock(monkeypatch)
    desk = Desk.open(tmp_path)
    yield Town(desk)
    desk.books.close()


async def ask(
    town: Town, holder: Holder | None, method: str, url: str, body: dict[str, Any] | None = None
) -> httpx.Response:
    async with town.desk.client(holder) as client:
        return await client.request(method, url, json=body)


def url_of(prefix: str, path: str, query: str, key_id: str) -> str:
    return prefix + path.replace("<key_id>", key_id) + query


def test_every_route_has_its_row() -> None:
    assert {(method, path) for method, _, path in SERVED} == set(ROUTES)
    assert len(SERVED) == len(PREFIXES) * len(ROUTES), "each route is under each prefix"


@pytest.mark.parametrize(("method", "prefix", "path"), SERVED)
async def test_callers_without_a_right_change_nothing(town: Town, method: str, prefix: str, path: str) -> None:
    row = ROUTES[method, path]
    url = url_of(prefix, path, row.query, town.target.id)
    refused = dict(town.refused)
    if row.manager:
        refused["standard"] = (town.standard, 403, "permission_denied")
    before = town.desk.all_keys()
    for name, (holder, status, code) in refused.items():
        answer = await ask(town, holder, method, url, row.body)
        assert (name, answer.status_code, answer.json()["error"]["code"]) == (name, status, code)
        assert town.target.id not in answer.text
        assert answer.headers["x-request-id"] == answer.json()["error"]["request_id"]
    assert town.desk.all_keys() == before


@pytest.mark.parametrize(("method", "prefix", "path"), SERVED)
async def test_callers_with_the_right_are_served(town: Town, method: str, prefix: str, path: str) -> None:
    row = ROUTES[method, path]
    url = url_of(prefix, path, row.query, town.target.id)
    for holder in (town.manager,) if row.manager else (town.standard, town.manager):
        answer = await ask(town, holder, method, url, row.body)
        assert answer.status_code == row.status, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("method", "prefix", "path"), SERVED)
async def test_another_accounts_objects_do_not_exist(town: Town, method: str, prefix: str, path: str) -> None:
    """What names an object is 404, word for word as for an id that nobody has; the rest shows nothing of it."""
    row = ROUTES[method, path]
    before = {entry for entry in town.desk.all_keys() if town.ours in entry}
    answer = await ask(town, town.stranger, method, url_of(prefix, path, row.query, town.target.id), row.body)
    if "<" in path or row.query:
        nobody = "gen-ffffffffffffffff" if row.query else "key_ffffffffffffffff"
        query = row.query.replace(GEN, nobody)
        other = await ask(town, town.stranger, method, url_of(prefix, path, query, nobody), row.body)
        assert (answer.status_code, other.status_code) == (404, 404)
        asked = GEN if row.query else town.target.id
        assert answer.json()["message"].replace(asked, nobody) == other.json()["message"]
    else:
        assert answer.status_code == row.status
        for hidden in (town.ours, town.target.id, town.standard.id, town.manager.id, GEN, MODEL):
            assert hidden not in answer.text
    assert {entry for entry in town.desk.all_keys() if town.ours in entry} == before


@pytest.mark.parametrize("filters", ["by=key&key_id={id}", "by=day&key_id={id}"])
async def test_usage_of_another_accounts_key_is_404(town: Town, filters: str) -> None:
    answer = await ask(town, town.stranger, "GET", f"/v1/usage?{filters.format(id=town.target.id)}")
    assert answer.status_code == 404
    own = await ask(town, town.standard, "GET", f"/v1/usage?{filters.format(id=town.target.id)}")
    assert (own.status_code, own.json()["total"]["requests"]) == (200, 1)


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/key", "/auth/key", "/credits", "/usage", "/generation"])
async def test_what_is_only_read_takes_no_other_method(town: Town, method: str, path: str) -> None:
    answer = await ask(town, town.manager, method, f"/api/v1{path}")
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


async def test_whoever_calls_is_known_before_the_body_is_read(town: Town) -> None:
    async with town.desk.client() as client:
        answer = await client.post("/v1/keys", content=b"{" * 200_000)
    assert answer.status_code == 401


@pytest.mark.parametrize("header", ["x-api-key", "api-key"])
async def test_the_key_may_come_in_any_of_its_headers(town: Town, header: str) -> None:
    async with town.desk.client() as client:
        assert (await client.get("/v1/keys", headers={header: town.manager.secret})).status_code == 200
        both = {header: town.manager.secret, "authorization": f"Bearer {town.stranger.secret}"}
        assert (await client.get("/v1/keys", headers=both)).status_code == 401


@pytest.mark.parametrize(("method", "path"), [("POST", "/keys"), ("PATCH", "/keys/<id>"), ("DELETE", "/keys/<id>")])
@pytest.mark.parametrize("loss", ["revoked", "disabled", "expired", "suspended"])
async def test_a_right_lost_a_moment_ago_changes_nothing(town: Town, method: str, path: str, loss: str) -> None:
    """The index that admits a caller follows the database; a change asks the database itself."""
    conn, books = town.desk.books.conn, town.desk.books
    column = {"revoked": "revoked_at", "disabled": "disabled_at", "expired": "expires_at"}.get(loss)

    def lose() -> None:
        if column is None:
            conn.execute("UPDATE accounts SET suspended_at = 1 WHERE id = ?", (town.ours,))
        else:
            conn.execute(f"UPDATE keys SET {column} = 1 WHERE id = ?", (town.manager.id,))

    books.before_change = lose
    answer = await ask(town, town.manager, method, f"/v1{path.replace('<id>', town.target.id)}", {"name": "x"})
    assert answer.status_code == (403 if loss == "suspended" else 401)
    [target] = [entry for entry in town.desk.all_keys() if town.target.id in entry]
    assert "target" in target
    assert keys.get(conn, town.target.id).revoked_at is None
    assert not [row for row in keys.list_all(conn) if row.name in {"x", "new"}]


async def test_a_locked_database_is_503_and_never_401(town: Town) -> None:
    town.desk.books.locked = True
    for (method, path), row in ROUTES.items():
        answer = await ask(town, town.manager, method, url_of("/v1", path, row.query, town.target.id), row.body)
        assert (path, answer.status_code, answer.headers["retry-after"]) == (path, 503, "1")


@pytest.mark.parametrize("path", ["/v1/models", f"/v1/models/{MODEL}"])
async def test_the_keyed_catalogue_is_for_usable_keys(town: Town, path: str) -> None:
    for holder, status, code in town.refused.values():
        answer = await ask(town, holder, "GET", path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    public, keyed = await ask(town, None, "GET", f"/api{path}"), await ask(town, town.standard, "GET", path)
    assert keyed.status_code == public.status_code not in {401, 403}
