"""What is tried again when everybody failed, after which pause, and what is not. Times are of Trio's MockClock."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio

from gateway.config import Race
from tests.exchanges import World, build_pipeline
from tests.test_race import OK, status
from tests.upstream import GOOD_STREAM, REFUSE, Close, Script, Send, script


async def world_of(nursery: trio.Nursery, scripts: dict[str, list[Any]], retries: int = 1, **race: Any) -> World:
    return await build_pipeline(nursery, scripts, race=Race(**{"retry_delay_s": 0.5} | race), retries=retries)


def told(world: World) -> list[tuple[str, str, str]]:
    return [(note.provider, note.outcome, note.reason) for note in world.record.attempts]


@pytest.mark.parametrize(
    ("first", "outcome"),
    [
        (REFUSE, "connect_error"),
        (status(500), "status_500"),
        (status(503), "status_503"),
        (status(529), "status_529"),
        (script(Close()), "no_answer"),
    ],
    ids=["refused", "500", "503", "529", "closed"],
)
async def test_one_provider_gets_another_try_after_a_random_pause(
    first: Script, outcome: str, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, {"a": [first, OK]})
    exchange = await world.call()
    assert exchange.status == 200
    assert told(world) == [("a", outcome, "only"), ("a", "won", "retry")]
    (_, began), (_, again) = world.upstream.times()
    assert began == 0.0
    assert 0.0 < again < 0.5
    assert world.record.cost_pico_usd > 0


@pytest.mark.parametrize(
    "failure",
    [status(429), status(503, "retry-after: 1"), status(401), status(404), status(400), script(Send(b"junk\r\n\r\n"))],
    ids=["429", "says-when", "401", "404", "400", "junk"],
)
async def test_what_will_not_be_over_in_a_moment_is_not_tried_again(
    failure: Script, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, {"a": [failure, OK]})
    exchange = await world.call()
    assert exchange.status >= 400
    assert len(world.upstream.times()) == 1


async def test_the_best_is_tried_again_once_all_have_failed(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [status(500), OK], "b": [status(502)], "c": [status(429)]})
    assert (await world.call()).status == 200
    assert told(world) == [
        ("a", "status_500", "listed"),
        ("b", "status_502", "listed"),
        ("c", "status_429", "listed"),
        ("a", "won", "retry"),
    ]


async def test_pauses_double_and_tries_end(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [status(500)] * 9}, retries=3)
    assert (await world.call()).status == 502
    times = [at for _, at in world.upstream.times()]
    assert len(times) == 4
    for index, pause_s in enumerate(later - earlier for earlier, later in itertools.pairwise(times)):
        assert 0 <= pause_s < 0.5 * 2**index


@pytest.mark.parametrize(
    ("retries", "race"), [(0, {}), (1, {"retry_share_max": 0.0, "retries_per_s_min": 0.0})], ids=["off", "no-budget"]
)
async def test_the_operator_bounds_it(
    retries: int, race: dict[str, Any], nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, {"a": [status(500), OK]}, retries, **race)
    assert (await world.call()).status == 502
    assert len(world.upstream.times()) == 1


async def test_an_endpoint_whose_breaker_opened_meanwhile_is_left_alone(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, {"a": [status(500)] * 20})
    for _ in range(4):
        await world.call()
    assert len(world.upstream.times()) == 5
    assert world.health.state(("a", "up-model", 0), trio.current_time()) == "open"


async def test_a_client_who_leaves_in_the_pause_ends_it(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [status(500), script(Send(GOOD_STREAM))]}, retry_delay_s=100.0)
    began = trio.current_time()
    with trio.move_on_after(0.01):
        await world.call()
    assert trio.current_time() - began == pytest.approx(0.01)
    assert len(world.upstream.times()) == 1
    assert world.gate.held() == 0
