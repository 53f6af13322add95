"""Whole calls with routing wishes: who is asked in the end, whose the answer is, and what the caller is told of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest
import trio

from gateway.api.generation import generation_object
from gateway.config import Drain, Model, Offer
from gateway.core.money import PicoUsd
from gateway.core.principal import Account, Principal
from gateway.core.usage import estimate_prompt_tokens
from gateway.heartbeat import Heartbeat
from gateway.route.health import FAILURES_TO_OPEN, OPEN_S
from gateway.settle.charge import ceiling
from tests.exchanges import FakeExchange, World, build_pipeline, request_body, retimed
from tests.upstream import (
    GOOD_STREAM,
    HANG,
    REFUSE,
    Close,
    Script,
    Send,
    Wait,
    answer_body,
    script,
    whole,
)

TIMES: Final = retimed(connect_s=50, first_content_s=60, answer_s=60, total_s=600, keepalive_s=1000)
ERROR: Final = b'{"error":{"message":"too long","code":"context_length_exceeded"}}'
ANSWER: Final = whole(answer_body())
SILENT: Final = script(HANG)
WINDOW: Final = 1000


def good(stream: bool = True) -> Script:
    return script(Send(GOOD_STREAM if stream else ANSWER), Close())


def says(status: int, *headers: str, after_s: float = 0.0) -> Script:
    return script(Wait(after_s), Send(whole(ERROR, status, *headers)), Close())


def offer(provider: str, price: int, **more: Any) -> Offer:
    return Offer(provider, f"up-{provider}", PicoUsd(price), PicoUsd(10 * price), **more)


def model(name: str, *offers: Offer) -> Model:
    return Model(name, offers, WINDOW, balance="order")


ONE: Final = model("test/one", offer("a", 100))
TWO: Final = model("test/two", offer("b", 700))
THREE: Final = model("test/three", offer("c", 300))


async def world_of(
    nursery: trio.Nursery, scripts: Mapping[str, Sequence[Script]], *models: Model, **more: Any
) -> World:
    settings: dict[str, Any] = {"timeouts": TIMES, "models": models} | more
    return await build_pipeline(nursery, scripts, **settings)


async def call(world: World, *headers: str, stream: bool = True, **members: Any) -> FakeExchange:
    """A call of `test/one`, unless `members` name another."""
    exchange = FakeExchange(request_body(stream=stream, **{"model": "test/one"} | members))
    exchange.headers += [(name.encode(), b"1") for name in headers]
    await world.pipeline.handle(exchange)
    return exchange


def models_told(exchange: FakeExchange) -> set[str]:
    """Every model that the answer's body names."""
    if exchange.calls == ["reply"]:
        return {exchange.json()["model"]}
    frames = [frame[6:] for frame in exchange.frames() if frame.startswith(b"data: {")]
    return {json.loads(frame)["model"] for frame in frames}


FALLS_OVER: Final = {
    "500": says(500), "429": says(429, "retry-after: 9"), "400": says(400), "404": says(404), "413": says(413),
    "401": says(401), "unreachable": REFUSE, "an error in a 200": script(Send(whole(ERROR))),
}  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", FALLS_OVER)
async def test_a_fallback_model_answers_in_its_own_name(
    name: str, stream: bool, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, {"a": [FALLS_OVER[name]], "b": [good(stream)]}, ONE, TWO)
    exchange = await call(world, stream=stream, models=["test/one", "test/two"], route="fallback")
    record = world.record
    assert (exchange.status, models_told(exchange)) == (200, {"test/two"})
    assert (record.model, record.provider, record.upstream_model) == ("test/two", "b", "up-b")
    assert record.cost_pico_usd == record.provider_cost_pico_usd == 3 * 700 + 2 * 7000
    assert exchange.answer_headers[b"x-generation-id"] == record.gen_id.encode()
    assert [each["model"] for each in told(world)] == ["test/one", "test/two"]
    world.assert_clean()


async def test_a_fallback_model_that_is_drained_is_the_one_charged(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    lanes = {"a": [says(500)], "b": [script(Wait(3), Send(GOOD_STREAM))]}
    drain = Drain(9.0, PicoUsd(10**12))
    world = await world_of(nursery, lanes, ONE, TWO, on_disconnect={"b": drain})
    exchange = FakeExchange(request_body(stream=True, model="test/one", models=["test/two"]))
    nursery.start_soon(exchange.leave_at, 2.0)
    await world.pipeline.handle(exchange)
    await world.records.arrived.wait()
    assert (world.record.ended, world.record.cost_pico_usd) == ("client_gone", 3 * 700 + 2 * 7000)
    assert (world.record.provider, world.record.model) == ("b", "test/two")


async def test_a_won_race_whose_client_stalled_names_the_model_that_won(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """A comment is stuck when the fallback model answers: nobody gets the answer, but the attempt was its."""
    heartbeat = Heartbeat()
    nursery.start_soon(heartbeat.run)
    lanes = {"a": [says(500, after_s=1)], "b": [script(Wait(8), Send(GOOD_STREAM))]}
    timeouts = retimed(keepalive_s=3, client_stall_s=5)
    world = await world_of(nursery, lanes, ONE, TWO, heartbeat=heartbeat, timeouts=timeouts)
    exchange = FakeExchange(request_body(stream=True, model="test/one", models=["test/two"]), stall_at=0)
    await world.pipeline.handle(exchange)
    assert world.record.ended == "client_stalled"
    assert [(each["provider"], each["model"]) for each in told(world)] == [("a", "test/one"), ("b", "test/two")]


async def test_when_every_model_refuses_the_first_refusal_is_told(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, {"a": [says(400)], "b": [says(422)]}, ONE, TWO)
    exchange = await call(world, models=["test/two"])
    assert (exchange.status, exchange.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert world.record.model == "test/one"


async def test_models_nobody_knows_are_left_out(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [good()], "b": [good()]}, ONE, TWO)
    assert models_told(await call(world, model="test/none", models=["x/y", "test/two", "test/one"])) == {"test/two"}
    none = await call(world, model="test/none", models=["x/y"])
    assert (none.status, none.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("missing", [0, 1])
async def test_the_hold_covers_the_dearest_model(missing: int, nursery: trio.Nursery, autojump_clock: object) -> None:
    members: dict[str, Any] = {"models": ["test/two", "test/three"], "max_tokens": 50}
    prompt = estimate_prompt_tokens(request_body(stream=True, **members, model="test/one"))
    hold = ceiling([(TWO, TWO.offers[0])], prompt, 50)
    principal = Principal("key-1", Account("account-1", prepaid=True), "tester")
    scripts = {"a": [says(500)], "b": [says(500)], "c": [good()]}
    world = await world_of(
        nursery, scripts, ONE, TWO, THREE, principal=principal, balance_pico_usd=hold - missing
    )  # fmt: skip
    exchange = await call(world, **members)
    if missing:
        assert (exchange.status, world.upstream.times()) == (402, [])
        return
    assert (exchange.status, world.record.hold_pico_usd) == (200, hold)
    assert world.gate.balance("account-1") == (hold - world.record.cost_pico_usd, 0)
    assert world.record.cost_pico_usd == 3 * 300 + 2 * 3000


async def test_keys_of_the_first_model_leave_room_for_the_second(nursery: trio.Nursery, autojump_clock: object) -> None:
    """One failure rules all keys of an unreachable provider out: five of six attempts are left."""
    world = await world_of(nursery, {"a": [REFUSE], "b": [good()]}, ONE, TWO, keys={"a": 6})
    assert (await call(world, models=["test/two"])).status == 200


async def test_a_probe_does_not_take_a_call_from_the_model_it_asks_for(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    scripts = {"a": [good()], "b": [*[says(500)] * FAILURES_TO_OPEN, good()]}
    world = await world_of(nursery, scripts, ONE, TWO)
    for _ in range(FAILURES_TO_OPEN):
        await call(world, model="test/two")
    await trio.sleep(OPEN_S)
    assert models_told(await call(world, models=["test/two"])) == {"test/one"}


# the request's `provider`

SEED: Final = {"order": ["openai", "anthropic"], "allow_fallbacks": True, "sort": "latency"}
WISHES: list[tuple[dict[str, Any], str]] = [
    ({}, "a b c"),
    (SEED, "a b c"),
    ({"order": ["openai", "c", "b"]}, "c b a"),
    ({"order": ["B"]}, "b a c"),
    ({"order": ["b", "anthropic"], "allow_fallbacks": False}, "b"),
    ({"allow_fallbacks": False}, "a"),
    ({"only": ["c", "openai"]}, "c"),
    ({"only": ["openai"]}, "404 constraint_filtered"),
    ({"order": ["openai"], "allow_fallbacks": False}, "404 constraint_filtered"),
    ({"ignore": ["a", "openai"]}, "b c"),
    ({"sort": "price"}, "b c a"),
    ({"max_price": {"prompt": "0.0002"}}, "b c"),
    ({"max_price": {"prompt": 0.00005}}, "404 constraint_filtered"),
    ({"data_collection": "deny"}, "404 constraint_filtered"),
    ({"quantizations": ["fp8"]}, "c"),
    ({"ordre": ["a"]}, "400 invalid_request"),
]  # fmt: skip


@pytest.mark.parametrize(("wish", "expected"), WISHES, ids=[json.dumps(wish) for wish, _ in WISHES])
async def test_a_requests_providers(
    wish: dict[str, Any], expected: str, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """All of them fail, so that each shows that it was asked, and when."""
    offers = (offer("a", 300), offer("b", 100), offer("c", 200, quantization="fp8"))
    world = await world_of(nursery, {name: [says(500)] for name in "abc"}, model("test/one", *offers))
    exchange = await call(world, provider=wish)
    code = exchange.json()["error"]["code"]
    asked = " ".join(name for name, _ in world.upstream.times())
    assert (asked or f"{exchange.status} {code}") == expected
    assert exchange.status == (502 if asked else int(expected[:3]))


# x-route


def route_of(exchange: FakeExchange) -> dict[str, Any]:
    header = exchange.answer_headers[b"x-route"]
    for secret in (b"up-", b"sk-", b".test", b"http"):
        assert secret not in header
    route: dict[str, Any] = json.loads(header)
    return route


def told(world: World) -> list[dict[str, Any]]:
    """The attempts of the one call as /generation tells its customer of them, in the names of x-route."""
    names = {"provider_name": "provider", "model_permaslug": "model", "latency": "ms"}
    shown: Any = generation_object(world.record, operator=False)["provider_responses"]
    assert "up-" not in json.dumps(shown)
    return [{names.get(name, name): value for name, value in each.items() if name != "is_byok"} for each in shown]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("asking", [("x-route-explain",), ("x-openrouter-metadata",), ()])
async def test_the_route_is_told_to_who_asks(
    asking: tuple[str, ...], stream: bool, nursery: trio.Nursery, autojump_clock: object
) -> None:
    ok = script(Wait(1.5), Send(GOOD_STREAM if stream else ANSWER))
    world = await world_of(nursery, {"a": [says(429, after_s=2)], "b": [ok]}, ONE, TWO)
    exchange = await call(world, *asking, stream=stream, models=["test/two"])
    assert exchange.status == 200
    assert (b"x-route" in exchange.answer_headers) == bool(asking)
    if asking:
        assert route_of(exchange) == {"model": "test/two", "attempts": told(world)}
    assert told(world) == [
        {"provider": "a", "model": "test/one", "reason": "only", "delay_ms": 0.0, "outcome": "status_429",
         "status": 429, "ms": 2000.0},
        {"provider": "b", "model": "test/two", "reason": "only", "delay_ms": 2000.0, "outcome": "won",
         "status": 200, "ms": 1500.0},
    ]  # fmt: skip


async def test_the_route_of_a_call_that_failed(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [says(500, after_s=2)], "b": [REFUSE]}, ONE, TWO)
    exchange = await call(world, "x-route-explain", models=["test/two"])
    assert exchange.status == 502
    assert route_of(exchange) == {"model": "test/one", "attempts": told(world)}
    assert [(each["outcome"], each["status"]) for each in told(world)] == [("status_500", 500), ("connect_error", None)]


async def test_the_route_of_a_race(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [SILENT], "b": [good()]}, model("test/one", offer("a", 1), offer("b", 1)))
    exchange = await call(world, "x-route-explain", race={"mode": "hedge"})
    assert route_of(exchange)["attempts"] == told(world)
    assert {each["provider"]: (each["reason"], each["delay_ms"], each["outcome"]) for each in told(world)} == {
        "a": ("listed", 0.0, "cancelled"), "b": ("hedge", 1000.0, "won"),
    }  # fmt: skip


async def test_the_route_of_a_stream_that_begins_silent_is_what_is_known_then(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    heartbeat = Heartbeat()
    nursery.start_soon(heartbeat.run)
    scripts = {"a": [says(500, after_s=1)], "b": [says(500, after_s=5)], "c": [good()]}
    timeouts = retimed(keepalive_s=3)
    world = await world_of(nursery, scripts, ONE, TWO, THREE, heartbeat=heartbeat, timeouts=timeouts)
    exchange = await call(world, "x-route-explain", models=["test/two", "test/three"])
    assert [each["provider"] for each in route_of(exchange)["attempts"]] == ["a"]
    assert route_of(exchange)["attempts"] == told(world)[:1]
    assert models_told(exchange) == {"test/three"}
    assert [each["provider"] for each in told(world)] == ["a", "b", "c"]
