"""Attempts that follow one that failed: their budget, and the breakers that keep calls from a provider that fails."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import pytest
import trio

from gateway.config import Model, Offer, Race
from gateway.core.money import PicoUsd
from gateway.route.budgets import WINDOW_S
from gateway.route.health import FAILURES_TO_OPEN, OPEN_S
from tests.exchanges import KEY, MODEL
from tests.test_race_money import OTHER, PRICED, call_as, good, hedging, says, with_another, world_of
from tests.upstream import REFUSE, Script


def retrying(share: float, per_s: float) -> Race:
    return Race(retry_share_max=share, retries_per_s_min=per_s)


REFUSED_RETRIES: dict[str, tuple[Script, int, str | None]] = {
    "500": (says(500), 502, None),
    "429": (says(429, "retry-after: 7"), 503, "7"),
    "unreachable": (REFUSE, 503, "1"),
}


@pytest.mark.parametrize("name", REFUSED_RETRIES)
async def test_without_a_budget_the_first_failure_is_told(
    name: str, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Neither another key nor another provider nor another model is tried."""
    first, status, retry_after = REFUSED_RETRIES[name]
    models = [Model(each, PRICED[:2], 1000, balance="order") for each in (MODEL, "test/two")]
    world = await world_of(nursery, {"a": [first], "b": [good(0)]}, retrying(0, 0), keys={"a": 2}, models=models)
    exchange = await world.call(models=["test/two"])
    assert (exchange.status, world.upstream.times()) == (status, [("a", 0.0)])
    assert exchange.answer_headers.get(b"retry-after") == (retry_after.encode() if retry_after else None)
    assert "b: retry_budget" in exchange.json()["error"]["message"]
    world.assert_clean()


async def test_a_refusal_is_told_without_a_budget(nursery: trio.Nursery, autojump_clock: object) -> None:
    models = [Model(MODEL, PRICED[:1], 1000), Model("test/two", PRICED[1:2], 1000)]
    world = await world_of(nursery, {"a": [says(400)], "b": [good(0)]}, retrying(0, 0), models=models)
    exchange = await world.call(models=["test/two"])
    assert (exchange.status, exchange.json()["error"]["code"]) == (400, "bad_thing")


LACKS: Final = says(404)  # a model it does not have: nothing that a breaker would open for


async def test_a_retry_that_brings_content_is_given_back(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [LACKS], "b": [good(0, 99)]}, retrying(0, 0.1))
    for _ in range(50):
        assert (await world.call()).status == 200
    assert trio.current_time() == 0.0


async def test_a_retry_that_fails_is_spent_for_its_window(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [LACKS], "b": [LACKS]}, retrying(0, 0.2))
    for _ in range(9):
        assert (await world.call()).status == 502
    assert len(world.upstream.of("b")) == 2
    await trio.sleep(WINDOW_S)
    await world.call()
    assert len(world.upstream.of("b")) == 3


async def test_retries_are_a_share_of_the_calls(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [LACKS], "b": [LACKS]}, retrying(0.2, 0))
    for count in range(1, 101):
        await world.call()
        assert len(world.upstream.of("b")) == count // 5


async def test_a_refused_call_earns_no_retry(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [LACKS], "b": [LACKS]}, retrying(0.2, 0))
    with_another(world, rpm=1)
    statuses = [await call_as(world, OTHER) for _ in range(50)]
    assert (statuses[0], set(statuses[1:])) == (502, {429})
    for _ in range(3):
        await world.call()
    assert world.upstream.of("b") == []


TWO: Final = [
    Model(MODEL, (Offer("a", "up-1", PicoUsd(1), PicoUsd(1)),), 1000),
    Model("test/two", (Offer("a", "up-2", PicoUsd(1), PicoUsd(1)),), 1000),
]


async def test_each_endpoint_has_a_breaker_of_its_own(nursery: trio.Nursery, autojump_clock: object) -> None:
    scripts = [*[says(500)] * FAILURES_TO_OPEN, good(0, 99)]
    world = await world_of(nursery, {"a": scripts}, Race(), models=TWO)
    for _ in range(FAILURES_TO_OPEN):
        await world.call()
    assert (await world.call()).status == 503
    assert (await world.call(model="test/two")).status == 200
    assert world.health.states(0.0) == {("a", "up-1", 0): "open"}
    await trio.sleep(OPEN_S)
    assert (await world.call()).status == 200
    assert world.health.all_closed()


@pytest.mark.parametrize("mode", ["off", "hedge", "all"])
async def test_one_probe_at_a_time(mode: str, nursery: trio.Nursery, autojump_clock: object) -> None:
    """Of many calls that come at one moment, and whatever they race."""
    failing = [says(500)] * FAILURES_TO_OPEN
    world = await world_of(nursery, {"a": [*failing, good(3)], "b": [good(0, 99)] * 99}, hedging())
    for _ in failing:
        await world.call(race={"mode": "off"})
    await trio.sleep(OPEN_S)
    async with trio.open_nursery() as calls:
        for _ in range(8):
            calls.start_soon(partial(call_as, world, KEY, race={"mode": mode}))
    assert world.upstream.times().count(("a", OPEN_S)) == 1


@pytest.mark.parametrize("waits_s", [(33, 5), (5, 33)])
async def test_the_later_deadline_counts(waits_s: Any, nursery: trio.Nursery, autojump_clock: object) -> None:
    busy = [says(429, f"retry-after: {seconds}", after_s=1) for seconds in waits_s]
    world = await world_of(nursery, {"a": [*busy, good(0)]}, Race())
    async with trio.open_nursery() as calls:
        for _ in range(2):
            calls.start_soon(call_as, world, KEY)
    exchange = await world.call()
    assert (exchange.status, exchange.answer_headers[b"retry-after"]) == (503, b"33")
    await trio.sleep_until(33.999)
    assert (await world.call()).status == 503
    await trio.sleep_until(34)
    assert (await world.call()).status == 200
    assert len(world.upstream.times()) == 3
