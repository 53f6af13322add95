"""A call is cut at every single task step, in both ways it can be, and leaves nothing behind.

The steps of all tasks are counted with a Trio instrument; run n is cut just before step n, until a run ends by itself.
`leave`: the client goes (the edge cancels the call's scope). `cancel`: the connection's own task is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing

from gateway.config import Drain, OnDisconnect, Race
from gateway.core.money import PicoUsd
from tests.exchanges import FakeExchange, World, build_pipeline, request_body, retimed
from tests.upstream import (
    DONE,
    FINISH,
    GOOD_STREAM,
    HANG,
    LAST_CHUNK,
    REFUSE,
    ROLE,
    SSE_HEAD,
    USAGE,
    WORD,
    Close,
    Script,
    Send,
    Wait,
    answer_body,
    chunk,
    head,
    script,
    whole,
)

DRAIN = Drain(30.0, PicoUsd(10**12))
HEDGE = Race(hedge="delay", hedge_delay_s=1.0)
BODY = answer_body()
SLOW_STREAM = script(
    Send(SSE_HEAD), Wait(1), Send(chunk(ROLE)), Wait(1), Send(chunk(WORD)), Wait(1), Send(chunk(WORD)), Wait(1),
    Send(chunk(FINISH)), Wait(1), Send(chunk(USAGE) + chunk(DONE)), Send(LAST_CHUNK),
)  # fmt: skip
SLOW_WHOLE = script(Send(whole(BODY)[:40]), Wait(1), Send(whole(BODY)[40:-9]), Wait(1), Send(whole(BODY)[-9:]))
SLOW_NO = script(Wait(1), Send(head(500, "content-length: 4")), Wait(1), Send(b"no"), Wait(0.5), Send(b"no"), Close())


@dataclass(frozen=True)
class Case:
    """One kind of call."""

    scripts: Mapping[str, Sequence[Script]]
    stream: bool = True
    race: Race | None = None
    on_disconnect: Mapping[str, OnDisconnect] | None = None


CASES = {
    "whole": Case({"a": [SLOW_WHOLE]}, stream=False),
    "stream": Case({"a": [SLOW_STREAM]}),
    "burst": Case({"a": [script(Send(GOOD_STREAM))]}),
    "second provider": Case({"a": [REFUSE], "b": [SLOW_NO], "c": [SLOW_STREAM]}),
    "all fail": Case({"a": [SLOW_NO], "b": [Script(refused=True, connect_s=1)]}),
    "broken off": Case({"a": [script(Send(SSE_HEAD + chunk(ROLE) + chunk(WORD)), Wait(1), Close())]}),
    "hedged": Case({"a": [script(HANG)], "b": [script(HANG, connect_s=2)], "c": [SLOW_STREAM]}, race=HEDGE),
    "hedged, first wins": Case({"a": [SLOW_STREAM], "b": [SLOW_STREAM], "c": [script(HANG)]}, race=HEDGE),
    "hedged, a tie": Case(
        {"a": [script(Wait(2), Send(GOOD_STREAM))], "b": [script(Wait(1), Send(GOOD_STREAM))]}, race=HEDGE
    ),
    "hedged, whole": Case({"a": [SLOW_WHOLE], "b": [SLOW_WHOLE]}, stream=False, race=HEDGE),
    "drained stream": Case({"a": [SLOW_STREAM]}, on_disconnect={"a": DRAIN}),
    "drained whole": Case({"a": [SLOW_WHOLE]}, stream=False, on_disconnect={"a": DRAIN}),
    "drained second": Case({"a": [SLOW_NO], "b": [SLOW_STREAM]}, on_disconnect={"a": DRAIN, "b": DRAIN}),
}


class CutAt(trio.abc.Instrument):
    """Calls `cut` just before the n-th task step."""

    def __init__(self, step: int, cut: Callable[[], None]) -> None:
        self.left = step
        self._cut = cut

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self._cut()


async def one_run(case: Case, step: int, how: str) -> bool:
    """Whether the cut came before the end."""
    async with trio.open_nursery() as services:
        world = await build_pipeline(
            services, case.scripts, race=case.race, on_disconnect=case.on_disconnect, timeouts=retimed(connect_s=5)
        )
        exchange = FakeExchange(request_body(stream=case.stream))
        outer = trio.CancelScope()
        cut = CutAt(step, exchange.leave if how == "leave" else outer.cancel)
        with outer:
            trio.lowlevel.add_instrument(cut)
            try:
                await world.pipeline.handle(exchange)
            finally:
                trio.lowlevel.remove_instrument(cut)
        fired = cut.left <= 0
        assert_over(world, exchange, case, how, fired=fired)
        await trio.sleep(100)
        assert_nothing_left(world, services)
        services.cancel_scope.cancel()
    return fired


def assert_over(world: World, exchange: FakeExchange, case: Case, how: str, *, fired: bool) -> None:
    """At the very moment the call is over."""
    assert world.pipeline.live == 0
    assert world.upstream.dialling == 0
    drains = case.on_disconnect is not None and how == "leave"
    if not drains:
        world.assert_clean()
        assert len(world.records.taken) == 1
        outcomes = {"complete", "upstream_error", "upstream_cut"}
        assert world.record.ended in outcomes | ({"client_gone" if how == "leave" else "cancelled"} if fired else set())
    if not fired:
        assert exchange.ended_at is not None


def assert_nothing_left(world: World, services: trio.Nursery) -> None:
    world.assert_clean()
    assert len(world.records.taken) == 1
    assert len(services.child_tasks) <= 1 + len(world.upstream.open()), "the drainer, and scripts of idle connections"
    record = world.record
    assert record.gen_id.startswith("gen-")
    assert [note.outcome for note in record.attempts].count("won") <= 1
    if record.completion_tokens:
        assert record.provider


@pytest.mark.parametrize("how", ["leave", "cancel"])
@pytest.mark.parametrize("name", CASES)
def test_cut_at_every_step(name: str, how: str) -> None:
    case, step = CASES[name], 1
    while trio.run(one_run, case, step, how, clock=trio.testing.MockClock(autojump_threshold=0)):
        step += 1
        assert step < 2000
    assert step > 5


def test_calls_without_a_key_leave_no_record() -> None:
    async def main() -> None:
        async with trio.open_nursery() as services:
            world = await build_pipeline(services, {"a": [SLOW_STREAM]})
            exchange = FakeExchange(request_body(stream=True), key=b"wrong")
            await world.pipeline.handle(exchange)
            assert (exchange.status, world.records.taken, world.upstream.times()) == (401, [], [])
            services.cancel_scope.cancel()

    trio.run(main)


def test_five_thousand_cut_races_leave_no_orphan() -> None:
    """Hedged races cut at every phase in turn; nothing accumulates."""

    async def call(world: World, number: int) -> None:
        exchange = FakeExchange(request_body(stream=True))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.leave_at, trio.current_time() + number % 50 / 10)
            await world.pipeline.handle(exchange)
            nursery.cancel_scope.cancel()

    async def main() -> None:
        async with trio.open_nursery() as services:
            scripts: dict[str, Any] = {"a": [script(HANG)], "b": [script(Wait(1.5), Send(GOOD_STREAM))]}
            world = await build_pipeline(
                services, scripts, race=Race(hedge="delay", hedge_delay_s=1.0, hedge_share_max=1.0)
            )
            for _ in range(10):
                async with trio.open_nursery() as calls:
                    for number in range(500):
                        calls.start_soon(call, world, number)
            world.assert_clean()
            assert len(world.records.taken) == len({record.gen_id for record in world.records.taken}) == 5000
            assert len(services.child_tasks) <= 1 + len(world.upstream.open())
            assert {record.ended for record in world.records.taken} == {"client_gone", "complete"}
            services.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
