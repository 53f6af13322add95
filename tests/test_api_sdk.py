"""OpenRouter's official Python SDK, which validates every answer strictly, against the account API on a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from openrouter import OpenRouter
from openrouter.errors import OpenRouterError

from tests.api_desk import NOON, USD, Desk, Holder, stop_clock
from tests.test_api_generation import FULL, GEN

T = TypeVar("T")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    stop_clock(monkeypatch)
    opened = Desk.open(tmp_path)
    yield opened
    opened.books.close()


@pytest.fixture
async def url(desk: Desk, nursery: trio.Nursery) -> str:
    config = Config()
    config.bind, config.accesslog, config.errorlog = ["127.0.0.1:0"], None, None
    bound = await nursery.start(partial(serve, desk.app, config))
    return f"{bound[0]}/api/v1"


async def use(url: str, holder: Holder, work: Callable[[OpenRouter], T]) -> T:
    """What `work` does with a client of that key, in a thread: the SDK blocks."""

    def run() -> T:
        with (
            httpx.Client(trust_env=False) as client,
            OpenRouter(api_key=holder.secret, server_url=url, client=client) as sdk,
        ):
            return work(sdk)

    with trio.fail_after(20):
        return await trio.to_thread.run_sync(run)


async def test_keys(desk: Desk, url: str) -> None:
    manager = desk.manager(desk.account("ours"))

    def work(sdk: OpenRouter) -> None:
        made = sdk.api_keys.create(
            name="ci", limit=12.5, limit_reset="monthly", expires_at=datetime(2999, 1, 1, tzinfo=UTC),
            include_byok_in_limit=False,
        )  # fmt: skip
        assert made.key.startswith("sk-")
        key = made.data
        assert (key.name, key.limit, key.limit_remaining, key.limit_reset) == ("ci", 12.5, 12.5, "monthly")
        assert key.expires_at == datetime(2999, 1, 1, tzinfo=UTC)
        assert [row.hash for row in sdk.api_keys.list().data] == [manager.id, key.hash]
        changed = sdk.api_keys.update(hash=key.hash, disabled=True, limit=None, limit_reset=None, name="old")
        assert (changed.data.disabled, changed.data.limit, changed.data.name) == (True, None, "old")
        assert sdk.api_keys.get(hash=key.hash).data.hash == key.hash
        assert [row.hash for row in sdk.api_keys.list(include_disabled=False, offset=0).data] == [manager.id]
        assert len(sdk.api_keys.list(include_disabled=True, include_expired=True).data) == 2
        assert sdk.api_keys.delete(hash=key.hash).DELETED is True
        assert len(sdk.api_keys.list(include_disabled=True).data) == 1

    await use(url, manager, work)


async def test_errors_carry_their_status(desk: Desk, url: str) -> None:
    """The envelope is OpenAI's, so the SDK raises its base error, with the status and the body."""
    standard, manager = desk.key(desk.account("ours")), desk.manager(desk.account("theirs"))
    for holder, status, ask in (
        (standard, 403, lambda sdk: sdk.api_keys.list()),
        (manager, 404, lambda sdk: sdk.api_keys.get(hash=standard.id)),
        (manager, 400, lambda sdk: sdk.api_keys.create(name="")),
        (Holder("", "sk-wrong", ""), 401, lambda sdk: sdk.api_keys.get_current_key_metadata()),
    ):
        with pytest.raises(OpenRouterError) as caught:
            await use(url, holder, ask)
        assert caught.value.status_code == status


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK marks two fields of its own /key as deprecated
async def test_key_credits_and_generation(desk: Desk, url: str) -> None:
    account = desk.account("ours")
    key = desk.key(account, spend_limit=5 * USD, limit_reset="weekly", expires_at=NOON + 3600)
    desk.grant(account, 10 * USD)
    desk.call(key, GEN, **FULL)

    def work(sdk: OpenRouter) -> None:
        own = sdk.api_keys.get_current_key_metadata().data
        assert (own.usage_weekly, own.limit, own.limit_reset) == (3.000000000001, 5, "weekly")
        assert own.effective_budget is not None
        assert own.effective_budget.resets_at == datetime(2026, 5, 25, tzinfo=UTC)
        assert own.is_management_key is False
        credit = sdk.credits.get_credits().data
        assert (credit.total_credits, credit.total_usage) == (10, 3.000000000001)
        call = sdk.generations.get_generation(id=GEN).data
        assert (call.id, call.total_cost, call.provider_name) == (GEN, 3.000000000001, "acme")
        assert call.provider_responses is not None
        assert [attempt.status for attempt in call.provider_responses] == [None, 429, 200]

    await use(url, key, work)
    await use(url, desk.key(account), lambda sdk: sdk.api_keys.get_current_key_metadata())
    await use(url, desk.manager(account), lambda sdk: sdk.api_keys.get_current_key_metadata())
