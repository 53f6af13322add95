"""After the client left: who is cut at once, who is read on, within which bounds, and what is written down."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from gateway.config import Drain, OnDisconnect
from gateway.core.money import PicoUsd
from gateway.drain import DRAINS_MAX
from tests.exchanges import FakeExchange, World, build_pipeline, request_body, retimed
from tests.upstream import (
    DONE,
    FINISH,
    HANG,
    LAST_CHUNK,
    ROLE,
    SSE_HEAD,
    USAGE,
    WORD,
    Close,
    Reset,
    Send,
    Step,
    Wait,
    answer_body,
    chunk,
    script,
    whole,
)

INPUT, OUTPUT = 2_000_000, 10_000_000  # pico-USD per token, as tests.exchanges prices them
RICH = PicoUsd(10**12)
BEGIN = Send(SSE_HEAD + chunk(ROLE) + chunk(WORD))
END = Send(chunk(FINISH) + chunk(USAGE) + chunk(DONE) + LAST_CHUNK)
WORDS: list[Step] = [step for _ in range(100) for step in (Wait(1), Send(chunk(WORD)))]


async def left(
    nursery: trio.Nursery, policy: OnDisconnect, *steps: Step, at: float = 2.5, stream: bool = True, **more: Any
) -> tuple[World, float]:
    """A call whose client leaves at `at`; the world and when the call was over for its connection."""
    world = await build_pipeline(
        nursery,
        {"a": [script(*steps)]},
        on_disconnect={"a": policy},
        timeouts=retimed(idle_s=1000, first_content_s=500),
    )
    exchange = FakeExchange(request_body(stream=stream, **more))
    nursery.start_soon(exchange.leave_at, at)
    await world.pipeline.handle(exchange)
    return world, trio.current_time()


async def settled(world: World) -> float:
    """Wait for the record; when it came."""
    await world.records.arrived.wait()
    return trio.current_time()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("at", [0.5, 2.5])
async def test_cancel_closes_at_once(at: float, stream: bool, nursery: trio.Nursery, autojump_clock: object) -> None:
    steps: list[Step] = [Wait(1), BEGIN, HANG] if stream else [Wait(1), Send(whole(answer_body())[:-5]), HANG]
    world, over = await left(nursery, "cancel", *steps, at=at, stream=stream)
    assert over == at
    assert world.upstream.transports[0].closed_at == at
    assert world.record.ended == "client_gone"
    assert world.record.completion_tokens == (1 if stream and at > 1 else 0)
    world.assert_clean()


async def test_a_drain_reads_to_the_usage(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, over = await left(nursery, Drain(60, RICH), BEGIN, *WORDS[:20], END)
    assert over == 2.5
    assert world.records.taken == []
    assert await settled(world) == 10
    assert (world.record.prompt_tokens, world.record.completion_tokens, world.record.usage_estimated) == (3, 2, False)
    assert world.record.cost_pico_usd == 3 * INPUT + 2 * OUTPUT
    assert world.record.ended == "client_gone"
    await trio.sleep(100)
    assert len(world.records.taken) == 1
    world.assert_clean()


async def test_drain_s_bounds_the_time(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, _ = await left(nursery, Drain(6, RICH), BEGIN, *WORDS)
    await settled(world)
    assert world.upstream.transports[0].closed_at == 8.5
    assert world.record.usage_estimated
    assert world.record.completion_tokens == 1 + 8
    world.assert_clean()


async def test_drain_usd_bounds_the_money(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, _ = await left(nursery, Drain(60, PicoUsd(OUTPUT * 7)), BEGIN, *WORDS)
    await settled(world)
    assert world.upstream.transports[0].closed_at == 6
    assert world.record.completion_tokens == 7
    world.assert_clean()


@pytest.mark.parametrize("end", [Close(), Reset(), Send(b"zz\r\n"), Send(chunk(b"data: {nope\n\n"))])
async def test_a_drain_that_breaks_settles_what_was_seen(
    end: Step, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world, _ = await left(nursery, Drain(60, RICH), BEGIN, *WORDS[:10], end)
    assert await settled(world) == 5
    assert world.record.completion_tokens == 6
    assert world.record.ended == "client_gone"
    world.assert_clean()


async def test_a_drain_from_before_the_first_content(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, over = await left(nursery, Drain(60, RICH), Wait(4), BEGIN, END)
    assert over == 2.5
    assert await settled(world) == 4
    assert world.record.provider == "a"
    assert world.record.cost_pico_usd == 3 * INPUT + 2 * OUTPUT
    world.assert_clean()


@pytest.mark.parametrize("sent_bytes", [0, 30, 100, 150])
async def test_a_drain_of_a_whole_answer(sent_bytes: int, nursery: trio.Nursery, autojump_clock: object) -> None:
    """However much of it had come when the client left: usage and cost are the provider's report."""
    raw = whole(answer_body())
    steps = [Send(raw[:sent_bytes])] if sent_bytes else []
    world, over = await left(nursery, Drain(60, RICH), *steps, Wait(4), Send(raw[sent_bytes:]), stream=False)
    assert over == 2.5
    assert await settled(world) == 4
    assert (world.record.prompt_tokens, world.record.completion_tokens, world.record.usage_estimated) == (3, 2, False)
    assert world.record.cost_pico_usd == 3 * INPUT + 2 * OUTPUT
    assert world.record.provider == "a"
    world.assert_clean()


async def test_a_drain_while_dialling_has_nothing_to_drain(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [script(HANG, connect_s=4)]}, on_disconnect={"a": Drain(60, RICH)})
    exchange = FakeExchange(request_body(stream=True))
    nursery.start_soon(exchange.leave_at, 1.0)
    await world.pipeline.handle(exchange)
    assert trio.current_time() == 1
    assert (world.record.ended, world.record.cost_pico_usd) == ("client_gone", 0)
    world.assert_clean()


async def test_an_error_answer_is_no_usage(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, _ = await left(nursery, Drain(60, RICH), Wait(4), Send(whole(b'{"error":{}}', 500)))
    await settled(world)
    assert world.record.cost_pico_usd == 0
    world.assert_clean()


async def test_a_drain_is_not_started_for_an_answer_that_ended(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, over = await left(nursery, Drain(60, RICH), BEGIN, END)
    assert over == 0
    assert world.record.ended == "complete"


@pytest.mark.parametrize(("max_tokens", "billed"), [(500, 500), (1, 3), (None, 3)])
async def test_cap_books_the_cap_of_the_request(
    max_tokens: int | None, billed: int, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """The provider bills on: its cost is the most the request allowed. The customer pays what was seen."""
    more: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
    world, over = await left(nursery, "cap", BEGIN, *WORDS, **more)
    assert over == 2.5
    assert world.upstream.transports[0].closed_at == 2.5
    record = world.record
    assert record.completion_tokens == 3
    assert record.cost_pico_usd == record.prompt_tokens * INPUT + 3 * OUTPUT
    assert record.provider_cost_pico_usd == record.prompt_tokens * INPUT + billed * OUTPUT
    world.assert_clean()


async def test_too_many_drains_are_cut(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(
        nursery, {"a": [script(BEGIN, HANG)]}, on_disconnect={"a": Drain(60, RICH)}, timeouts=retimed(idle_s=1000)
    )
    async with trio.open_nursery() as calls:
        for _ in range(DRAINS_MAX + 5):
            exchange = FakeExchange(request_body(stream=True))
            calls.start_soon(world.pipeline.handle, exchange)
            calls.start_soon(exchange.leave_at, 1.0)
    assert len(world.drainer) == DRAINS_MAX
    assert len(world.records.taken) == 5
    assert len(world.upstream.open()) == DRAINS_MAX
    await trio.sleep(61)
    assert len({record.gen_id for record in world.records.taken}) == len(world.records.taken) == DRAINS_MAX + 5
    world.assert_clean()


async def test_a_drain_holds_a_bounded_amount(nursery: trio.Nursery, autojump_clock: object) -> None:
    """A whole answer without end is cut at upstream.answer_bytes_max, though the client is gone."""
    from gateway.config import Upstream

    piece = b"x" * 100_000
    raw = [
        Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"),
        *[s for _ in range(100) for s in (Wait(1), Send(piece))],
    ]
    world = await build_pipeline(
        nursery,
        {"a": [script(*raw)]},
        on_disconnect={"a": Drain(60, RICH)},
        limits=Upstream(answer_bytes_max=1_000_000),
    )
    exchange = FakeExchange(request_body(stream=False))
    nursery.start_soon(exchange.leave_at, 2.5)
    await world.pipeline.handle(exchange)
    assert await settled(world) <= 15


async def test_shutdown_cuts_the_drains_and_settles_them(autojump_clock: object) -> None:
    async with trio.open_nursery() as services:
        world, _ = await left(services, Drain(60, RICH), BEGIN, *WORDS)
        await trio.sleep(1)
        services.cancel_scope.cancel()
    assert world.record.ended == "client_gone"
    assert world.record.completion_tokens == 4
    world.assert_clean()
