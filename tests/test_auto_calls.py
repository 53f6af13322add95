"""Calls of `auto` and `auto:free`: the model that answers is the one that is told, charged and tried next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest
import trio

from gateway.config import Auto, Model, Offer, Plan, Race
from gateway.core.money import PicoUsd
from gateway.core.principal import Account, Principal
from gateway.heartbeat import Heartbeat
from tests.exchanges import FakeExchange, World, build_pipeline, request_body, retimed
from tests.upstream import GOOD_STREAM, REFUSE, Close, Request, Script, Send, Wait, answer_body, script, whole

ANSWER: Final = whole(answer_body())
ERROR: Final = b'{"error":{"message":"no","code":"bad_thing"}}'
TIMES: Final = retimed(keepalive_s=1000)

PROMPTS: Final = {
    "coding": "Write a Python function that parses a CSV file, and fix the bug in this code: `def f(x): return x+`",
    "math_reasoning": "Prove that the square root of 2 is irrational, and solve the integral of x^2 dx.",
    "trivial": "hi",
}
"""The classifier's own tests hold that these are of their class; here it only matters that they differ."""


def model(name: str, input_price: int, **more: Any) -> Model:
    offer = Offer(name, f"up-{name}", PicoUsd(input_price), PicoUsd(10 * input_price))
    return Model(f"test/{name}", (offer,), 100_000, **more)


CODE, MATH, TALK = model("code", 700), model("math", 500), model("talk", 100)
GIFT, SPARE = model("gift", 30, price="free"), model("spare", 20, price="free")
MODELS: Final = (CODE, MATH, TALK, GIFT, SPARE)
POOLS: Final = Auto(
    pools={"coding": (CODE.id, MATH.id), "math_reasoning": (MATH.id,), "general": (TALK.id, CODE.id)},
    free_pools={"general": (GIFT.id, SPARE.id)},
)


def good(stream: bool, times: int = 9) -> Script:
    """A provider that keeps its connection."""
    return Script((Request(), Send(GOOD_STREAM if stream else ANSWER)) * times)


def says(status: int, after_s: float = 0.0) -> Script:
    return script(Wait(after_s), Send(whole(ERROR, status)), Close())


async def world_of(
    nursery: trio.Nursery, scripts: Mapping[str, Script] | None = None, *, stream: bool = True, **more: Any
) -> World:
    """Every provider answers, but for those that have a script."""
    lanes: dict[str, Sequence[Script]] = {}
    for each in MODELS:
        name = each.offers[0].provider
        lanes[name] = [(scripts or {}).get(name, good(stream))]
    settings: dict[str, Any] = {"timeouts": TIMES, "models": MODELS, "auto": POOLS} | more
    return await build_pipeline(nursery, lanes, **settings)


async def call(world: World, text: str, *, model: str = "auto", stream: bool = True, **members: Any) -> FakeExchange:
    messages = [{"role": "user", "content": text}]
    exchange = FakeExchange(request_body(stream=stream, model=model, messages=messages, **members))
    exchange.headers.append((b"x-route-explain", b"1"))
    await world.pipeline.handle(exchange)
    return exchange


def models_told(exchange: FakeExchange) -> set[str]:
    """Every model that the header and the body name."""
    told = {exchange.answer_headers[b"x-auto-resolved-model"].decode()}
    if exchange.calls == ["reply"]:
        return told | {exchange.json()["model"]}
    frames = [frame[6:] for frame in exchange.frames() if frame.startswith(b"data: {")]
    return told | {json.loads(frame)["model"] for frame in frames}


def cost_of(model: Model) -> int:
    """Of the three prompt and two completion tokens that every provider here reports."""
    return 0 if model.price == "free" else 3 * model.offers[0].input + 2 * model.offers[0].output


ANSWERED: list[tuple[str, str, dict[str, Script], Model, list[str]]] = [
    # router, prompt, who does not answer, the model that does, the providers asked
    ("auto", "coding", {}, CODE, ["code"]),
    ("auto", "math_reasoning", {}, MATH, ["math"]),
    ("auto", "trivial", {}, TALK, ["talk"]),
    ("auto", "coding", {"code": says(500)}, MATH, ["code", "math"]),
    ("auto", "coding", {"code": says(400), "math": says(429)}, TALK, ["code", "math", "talk"]),
    ("auto", "math_reasoning", {"math": REFUSE, "talk": says(503)}, CODE, ["math", "talk", "code"]),
    ("auto:free", "coding", {}, GIFT, ["gift"]),
    ("auto:free", "trivial", {"gift": says(500)}, SPARE, ["gift", "spare"]),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("router", "prompt", "scripts", "answers", "asked"), ANSWERED)
async def test_the_model_that_answers_is_told_and_charged(
    router: str, prompt: str, scripts: dict[str, Script], answers: Model, asked: list[str], stream: bool,
    nursery: trio.Nursery, autojump_clock: object,
) -> None:  # fmt: skip
    world = await world_of(nursery, scripts, stream=stream)
    exchange = await call(world, PROMPTS[prompt], model=router, stream=stream)
    assert (exchange.status, models_told(exchange)) == (200, {answers.id})
    assert [name for name, _ in world.upstream.times()] == asked
    record = world.record
    assert (record.model, record.provider) == (answers.id, asked[-1])
    assert record.cost_pico_usd == cost_of(answers)
    assert record.provider_cost_pico_usd == 3 * answers.offers[0].input + 2 * answers.offers[0].output
    assert exchange.answer_headers[b"x-generation-id"] == record.gen_id.encode()
    route = json.loads(exchange.answer_headers[b"x-route"])
    assert (route["model"], route["class"]) == (answers.id, prompt)
    assert [attempt["model"] for attempt in route["attempts"]] == [f"test/{name}" for name in asked]
    world.assert_clean()


async def test_the_same_prompt_has_the_same_model(nursery: trio.Nursery, autojump_clock: object) -> None:
    """Whatever was asked in between."""
    world = await world_of(nursery)
    for _ in range(3):
        for prompt, answers in (("coding", CODE), ("math_reasoning", MATH), ("trivial", TALK)):
            assert models_told(await call(world, PROMPTS[prompt])) == {answers.id}


async def test_a_hedge_is_of_the_same_model(nursery: trio.Nursery, autojump_clock: object) -> None:
    """A model that is slow has not failed: the prompt still has the model it always has."""
    race = Race(hedge="delay", hedge_delay_s=2.0, hedge_share_max=1.0)
    slow = script(Wait(3), Send(GOOD_STREAM))
    world = await world_of(nursery, {"code": slow}, race=race)
    assert models_told(await call(world, PROMPTS["coding"])) == {CODE.id}


async def test_a_stream_that_begins_silent_tells_the_model_it_was_routed_to(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Its head is gone when another takes over; the body's `model` is the one that answered."""
    heartbeat = Heartbeat()
    nursery.start_soon(heartbeat.run)
    world = await world_of(
        nursery, {"code": says(500, after_s=8)}, timeouts=retimed(keepalive_s=3), heartbeat=heartbeat
    )
    exchange = await call(world, PROMPTS["coding"])
    assert exchange.answer_headers[b"x-auto-resolved-model"] == CODE.id.encode()
    assert models_told(exchange) == {CODE.id, MATH.id}
    assert world.record.cost_pico_usd == cost_of(MATH)


@pytest.mark.parametrize("model", ["auto", "auto:free"])
async def test_when_all_of_a_pool_fail(model: str, nursery: trio.Nursery, autojump_clock: object) -> None:
    failing = {each.offers[0].provider: says(500) for each in MODELS}
    world = await world_of(nursery, failing)
    exchange = await call(world, PROMPTS["coding"], model=model)
    assert exchange.status == 502
    assert world.record.cost_pico_usd == 0
    asked = {name for name, _ in world.upstream.times()}
    assert asked == ({"code", "math", "talk"} if model == "auto" else {"gift", "spare"})
    world.assert_clean()


async def test_models_of_the_request_come_after_the_pools(nursery: trio.Nursery, autojump_clock: object) -> None:
    failing = {name: says(500) for name in ("code", "math", "talk")}
    world = await world_of(nursery, failing)
    exchange = await call(world, PROMPTS["coding"], models=["test/none", SPARE.id])
    assert models_told(exchange) == {SPARE.id}


@pytest.mark.parametrize(
    ("configured", "model"),
    [(Auto(), "auto"), (Auto(), "auto:free"), (Auto(pools=POOLS.pools), "auto:free"),
     (Auto(free_pools=POOLS.free_pools), "auto")],
)  # fmt: skip
async def test_without_pools_there_is_no_router(
    configured: Auto, model: str, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, auto=configured)
    exchange = await call(world, "hi", model=model)
    assert (exchange.status, exchange.json()["error"]["code"]) == (404, "model_not_found")
    assert (world.upstream.times(), world.record.cost_pico_usd) == ([], 0)


@pytest.mark.parametrize("messages", [[7], ["hi"], [{"role": "user", "content": 7}]])
async def test_messages_that_cannot_be_read_cannot_be_routed(
    messages: list[Any], nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery)
    exchange = await world.call(model="auto", messages=messages)
    assert (exchange.status, exchange.json()["error"]["param"]) == (400, "messages")


# what it costs


def poor(**limits: Any) -> Principal:
    return Principal("key-1", Account("account-1", prepaid=True), "tester", **limits)


@pytest.mark.parametrize("stream", [True, False])
async def test_the_free_router_works_without_credit(
    stream: bool, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, stream=stream, principal=poor(), balance_pico_usd=0)
    exchange = await call(world, PROMPTS["coding"], model="auto:free", stream=stream, max_tokens=1000)
    assert (exchange.status, models_told(exchange)) == (200, {GIFT.id})
    assert (world.record.cost_pico_usd, world.record.hold_pico_usd) == (0, 0)
    assert world.gate.balance("account-1") == (0, 0)
    assert world.record.provider_cost_pico_usd == 3 * 30 + 2 * 300


async def test_the_paid_router_does_not(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, principal=poor(), balance_pico_usd=1)
    exchange = await call(world, PROMPTS["coding"])
    assert (exchange.status, exchange.json()["error"]["code"]) == (402, "insufficient_balance")
    assert (world.upstream.times(), world.gate.balance("account-1")) == ([], (1, 0))


CAPS: dict[str, tuple[dict[str, Any], dict[str, Plan]]] = {
    "a minute, of the key": ({"rpm": 3}, {}),
    "a day, of the key": ({"rpd": 3}, {}),
    "a minute, of the plan": ({"plan": "free"}, {"free": Plan(rpm=3)}),
    "a day, of the plan": ({"plan": "free"}, {"free": Plan(rpm=20, rpd=3)}),
}


@pytest.mark.parametrize("name", CAPS)
async def test_the_free_routers_caps_still_hold(name: str, nursery: trio.Nursery, autojump_clock: object) -> None:
    limits, plans = CAPS[name]
    world = await world_of(nursery, principal=poor(**limits), plans=plans)
    statuses = [(await call(world, "hi", model="auto:free")).status for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert len(world.upstream.of("gift")[0].requests) == 3
    await trio.sleep(60)
    assert (await call(world, "hi", model="auto:free")).status == (200 if "minute" in name else 429)


async def test_a_key_with_a_list_of_models_has_those_of_the_pool(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, principal=poor(models=frozenset({SPARE.id, TALK.id})))
    assert models_told(await call(world, "hi", model="auto:free")) == {SPARE.id}


async def test_a_key_that_may_use_none_of_the_pool_is_refused(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, principal=poor(models=frozenset({TALK.id})))
    exchange = await call(world, "hi", model="auto:free")
    assert (exchange.status, exchange.json()["error"]["code"]) == (403, "model_denied")
