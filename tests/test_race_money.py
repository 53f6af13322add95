"""What races cost, who pays, and what bounds it: the share of an account's calls, its dollars of a day, a call's own bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest
import trio

from gateway.auth.keys import KeyIndex, digest
from gateway.config import Model, ModelRace, Offer, Race
from gateway.core.money import PICO_PER_USD, PicoUsd
from gateway.core.principal import Account, Principal
from gateway.core.usage import estimate_prompt_tokens
from gateway.route.budgets import BURST
from gateway.store import ledger
from tests.exchanges import KEY, MODEL, PEPPER, WALL, FakeExchange, World, build_pipeline, request_body, retimed
from tests.upstream import (
    GOOD_STREAM,
    HANG,
    Close,
    Request,
    Script,
    Send,
    Wait,
    answer_body,
    script,
    whole,
)

TIMES: Final = retimed(connect_s=50, first_content_s=60, answer_s=60, total_s=600, keepalive_s=1000)
ERROR: Final = b'{"error":{"message":"no","code":"bad_thing"}}'
ANSWER: Final = whole(answer_body())
SILENT: Final = script(HANG)
PROMPT: Final = estimate_prompt_tokens(request_body(stream=True))
INPUT: Final = 2_000_000  # pico-USD per token, as tests.exchanges prices its offers
LOSER: Final = PROMPT * INPUT  # what a loser costs us there, of a call without any wishes
OTHER: Final = b"gw-2"


def good(after_s: float, times: int = 1) -> Script:
    """A provider that keeps its connection, and answers so many calls so slowly."""
    return Script((Request(), Wait(after_s), Send(GOOD_STREAM)) * times)


def says(status: int, *headers: str, after_s: float = 0.0) -> Script:
    return script(Wait(after_s), Send(whole(ERROR, status, *headers)), Close())


def hedging(share: float = 1.0, usd_per_day: int = PICO_PER_USD, delay_s: float = 2.0) -> Race:
    return Race("delay", delay_s, share, hedge_usd_per_day=PicoUsd(usd_per_day))


async def world_of(nursery: trio.Nursery, scripts: Mapping[str, Sequence[Script]], race: Race, **more: Any) -> World:
    return await build_pipeline(nursery, scripts, timeouts=TIMES, race=race, **more)


def cost_of(members: Mapping[str, Any]) -> int:
    """What a loser costs us of a call with these members."""
    return estimate_prompt_tokens(request_body(stream=True, **members)) * INPUT


def hedges(world: World) -> list[int]:
    """How many attempts beside the first each call so far had. For races in which none fails."""
    return [len(record.attempts) - 1 for record in world.records.taken if record.attempts]


PRICED: Final = (
    Offer("a", "up-a", PicoUsd(3_000_000), PicoUsd(9_000_000)),
    Offer("b", "up-b", PicoUsd(5_000_000), PicoUsd(11_000_000)),
    Offer("c", "up-c", PicoUsd(2_000_000), PicoUsd(4_000_000), request=PicoUsd(7)),
)
LOSERS: dict[str, tuple[list[Script], str, list[str]]] = {
    "the second wins": ([SILENT, good(1)], "b", ["a"]),
    "the first wins": ([good(3), SILENT], "a", ["b"]),
    "two lose": ([SILENT, SILENT, good(1)], "c", ["a", "b"]),
    "one that was never reached costs nothing": ([good(3), script(HANG, connect_s=40)], "a", []),
    "one that failed costs nothing": ([SILENT, says(500), good(1)], "c", ["a"]),
    "nobody loses": ([good(1), SILENT], "a", []),
}


@pytest.mark.parametrize("name", LOSERS)
async def test_the_customer_pays_the_winner_alone(name: str, nursery: trio.Nursery, autojump_clock: object) -> None:
    scripts, winner, losers = LOSERS[name]
    offers = PRICED[: len(scripts)]
    model = Model(MODEL, offers, 1000, balance="order", markup=(1, 4))
    lanes = {offer.provider: [each] for offer, each in zip(offers, scripts, strict=True)}
    world = await world_of(nursery, lanes, hedging(), models=[model])
    assert (await world.call()).status == 200
    record = world.record
    offer = next(each for each in offers if each.provider == winner)
    theirs = 3 * offer.input + 2 * offer.output + offer.request
    ours = PROMPT * sum(each.input for each in offers if each.provider in losers)
    assert (record.provider, record.provider_cost_pico_usd, record.hedge_cost_pico_usd) == (winner, theirs, ours)
    assert record.cost_pico_usd == -(-theirs * 5 // 4)
    entries = ledger.of_call(record)
    assert entries is not None
    assert sum(line.amount for line in entries.lines) == 0
    booked = {(line.book, line.owner): line.amount for line in entries.lines}
    assert booked["customer", "account-1"] == -record.cost_pico_usd
    assert booked.get(("hedge_cost", ""), 0) == -ours
    assert world.till.costs_pico_usd == {"customer": record.cost_pico_usd, "provider": theirs, "hedge": ours}
    assert world.gate.balance("account-1") == (-record.cost_pico_usd, 0)


async def test_a_free_model_is_hedged_at_our_cost(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [SILENT], "b": [good(0)]}, hedging(), model={"price": "free"})
    await world.call()
    assert (world.record.cost_pico_usd, world.record.hedge_cost_pico_usd) == (0, LOSER)


@pytest.mark.parametrize("share", [0.05, 0.25])
@pytest.mark.parametrize("mode", ["hedge", "all"])
async def test_a_primary_that_is_always_slow_is_hedged_by_share_and_burst(
    mode: str, share: float, nursery: trio.Nursery, autojump_clock: object
) -> None:
    calls = 300
    lanes = {"a": [good(3, calls)] * calls, "b": [SILENT]}
    world = await world_of(nursery, lanes, hedging(share))
    for _ in range(calls):
        assert (await world.call(race={"mode": mode})).status == 200
    started = hedges(world)
    for count in range(1, calls + 1):
        assert sum(started[:count]) <= BURST + share * count
    assert sum(started) >= BURST + int(share * calls) - 1
    assert started[:BURST] == [1] * BURST
    spent = sum(record.hedge_cost_pico_usd for record in world.records.taken)
    assert spent == sum(started) * cost_of({"race": {"mode": mode}})
    assert world.upstream.dialled.count(("a", 0.0)) == 1
    assert len(world.upstream.of("b")) == sum(started)


def with_another(world: World, **limits: Any) -> None:
    """A second account comes to the gateway; `limits` are its key's."""
    first = Principal("key-1", Account("account-1"), "tester")
    other = Principal("key-2", Account("account-2"), "other", **limits)
    world.pipeline.keys = KeyIndex(PEPPER, {digest(PEPPER, KEY): first, digest(PEPPER, OTHER): other})


async def call_as(world: World, key: bytes, **members: Any) -> int:
    exchange = FakeExchange(request_body(stream=True, **members), key=key)
    await world.pipeline.handle(exchange)
    return exchange.status


async def test_the_share_is_of_each_account(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [good(3, 99)] * 99, "b": [SILENT]}, hedging(1e-6))
    with_another(world)
    for key in [KEY, OTHER] * 20:
        await call_as(world, key)
    assert hedges(world) == [1] * 2 * BURST + [0] * 2 * (20 - BURST)


async def test_a_refused_call_earns_no_hedge(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [good(0.5, 99)] * 99, "b": [SILENT]}, hedging(0.1, delay_s=0.25))
    with_another(world, rpm=BURST)
    statuses = [await call_as(world, OTHER) for _ in range(BURST + 40)]
    await trio.sleep(60)
    statuses += [await call_as(world, OTHER) for _ in range(5)]
    assert BURST < statuses.count(200) < BURST + 15
    assert sum(hedges(world)) <= BURST + 0.1 * statuses.count(200)


@pytest.mark.parametrize("mode", ["hedge", "all"])
async def test_each_account_has_its_dollars(mode: str, nursery: trio.Nursery, autojump_clock: object) -> None:
    wish = {"race": {"mode": mode}}
    most = 4 * cost_of(wish) - 1
    world = await world_of(nursery, {"a": [good(3, 99)] * 99, "b": [SILENT]}, hedging(1.0, most))
    with_another(world)
    for key in [KEY, OTHER] * 6:
        await call_as(world, key, **wish)
    assert hedges(world) == [1] * 6 + [0] * 6
    for account in ("account-1", "account-2"):
        spent = [record.hedge_cost_pico_usd for record in world.records.taken if record.account_id == account]
        assert sum(spent) == 3 * cost_of(wish) <= most
    await trio.sleep(86_400 - WALL % 86_400)  # past midnight, UTC
    await call_as(world, KEY, **wish)
    assert hedges(world)[-1:] == [1]


async def test_what_a_hedge_did_not_cost_is_there_again(nursery: trio.Nursery, autojump_clock: object) -> None:
    """A loser that was never reached costs nothing: a day's dollars for one loser are enough for many."""
    lanes = {"a": [good(3, 99)], "b": [script(connect_s=40)]}
    world = await world_of(nursery, lanes, hedging(1.0, LOSER))
    for _ in range(5):
        await world.call()
    assert hedges(world) == [1] * 5
    assert sum(record.hedge_cost_pico_usd for record in world.records.taken) == 0


async def test_a_day_has_its_dollars_whatever_becomes_of_the_calls(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Both providers were sent the prompt when the client left: his next calls may not cost us the same again."""
    world = await world_of(nursery, {"a": [SILENT], "b": [SILENT]}, hedging(1.0, LOSER))
    for _ in range(3):
        exchange = FakeExchange(request_body(stream=True))
        nursery.start_soon(exchange.leave_at, trio.current_time() + 5)
        await world.pipeline.handle(exchange)
    assert [len(record.attempts) for record in world.records.taken] == [2, 1, 1]


async def test_a_hedge_that_is_refused_is_not_started(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [good(50)], "b": [good(0)]}, hedging(1.0, LOSER - 1))
    exchange = await world.call()
    assert (exchange.status, exchange.sent[0][0]) == (200, 50.0)
    assert (world.upstream.times(), world.outcomes()) == ([("a", 0.0)], [("a", "won")])
    assert world.record.hedge_cost_pico_usd == 0
    world.assert_clean()


def enough_for(losers: int, wish: dict[str, Any]) -> dict[str, Any]:
    """The wish with a bound of one pico-USD under what one more loser would cost."""
    cost = cost_of({"race": wish | {"max_extra_cost": "0.000000000000"}})
    return {"race": wish | {"max_extra_cost": f"0.{(losers + 1) * cost - 1:012}"}}


@pytest.mark.parametrize("mode", ["hedge", "all"])
@pytest.mark.parametrize("losers", [0, 1, 2, 3])
async def test_max_extra_cost(losers: int, mode: str, nursery: trio.Nursery, autojump_clock: object) -> None:
    wish = enough_for(losers, {"mode": mode})
    world = await world_of(nursery, {"a": [good(9)], **{name: [SILENT] for name in "bcd"}}, hedging())
    assert (await world.call(**wish)).status == 200
    assert hedges(world) == [losers]
    assert world.record.hedge_cost_pico_usd == losers * cost_of(wish)
    world.assert_clean()


@pytest.mark.parametrize(("of_model", "of_request", "losers"), [(1, None, 1), (0, 2, 2), (2, 0, 0), (None, 1, 1)])
async def test_a_models_max_extra_cost(
    of_model: int | None, of_request: int | None, losers: int, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """It holds where the request has none."""
    wish = {} if of_request is None else enough_for(of_request, {})
    bound = None if of_model is None else PicoUsd((of_model + 1) * cost_of(wish) - 1)
    model = {"race": ModelRace("all", bound)}
    world = await world_of(nursery, {"a": [good(9)], "b": [SILENT], "c": [SILENT]}, hedging(), model=model)
    await world.call(**wish)
    assert hedges(world) == [losers]
