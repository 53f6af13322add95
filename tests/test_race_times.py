"""Races as tables in virtual time: when each lane starts, who wins, and when exactly each loser's connection is closed.

A race reads as one line, a lane after the other: `a 0 cut 3.5 | b 2 won 3.5` is a first attempt that was cut off after
3.5 seconds, as one that began at 2 had won then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import pytest
import trio
from trio._core import _run as trio_run

from gateway.config import Drain, ModelRace, Race, Routing
from gateway.core.money import PicoUsd
from tests.exchanges import FakeExchange, World, build_pipeline, request_body, retimed
from tests.upstream import (
    GOOD_STREAM,
    HANG,
    REFUSE,
    ROLE,
    SSE_HEAD,
    WORD,
    Request,
    Script,
    Send,
    Wait,
    answer_body,
    chunk,
    script,
    whole,
)

TIMES: Final = retimed(connect_s=50, first_content_s=60, answer_s=60, idle_s=70, total_s=600, keepalive_s=1000)
HEDGE: Final = Race(hedge="delay", hedge_delay_s=2.0, hedge_share_max=1.0)
ERROR: Final = b'{"error":{"message":"no","code":"bad_thing"}}'
ANSWER: Final = whole(answer_body())
CONTENT: Final = len(SSE_HEAD + chunk(ROLE) + chunk(WORD))  # of GOOD_STREAM: where the first ends

Lane = Callable[[bool], Script]
"""What a provider does, to a stream and to a call that is none."""


def good(after_s: float) -> Lane:
    return lambda stream: script(Wait(after_s), Send(GOOD_STREAM if stream else ANSWER))


def says(status: int, after_s: float) -> Lane:
    return lambda stream: script(Wait(after_s), Send(whole(ERROR, status)))


def dials(connect_s: float) -> Lane:
    return lambda stream: script(Send(GOOD_STREAM if stream else ANSWER), connect_s=connect_s)


def no_port(stream: bool) -> Script:
    return REFUSE


def silent(stream: bool) -> Script:
    return script(HANG)


def in_headers(stream: bool) -> Script:
    return script(Wait(0.5), Send(SSE_HEAD[:20]), HANG)


def in_answer(stream: bool) -> Script:
    return script(Send(SSE_HEAD + chunk(ROLE) if stream else ANSWER[:-1]), Wait(1), HANG)


async def world_of(nursery: trio.Nursery, lanes: Sequence[Lane], *, stream: bool, **more: Any) -> World:
    scripts = {name: [lane(stream)] for name, lane in zip("abcd", lanes, strict=False)}
    return await build_pipeline(nursery, scripts, **{"timeouts": TIMES, "race": HEDGE} | more)


async def answered(world: World, *, stream: bool, **members: Any) -> FakeExchange:
    """One call. By the time its client hears of it nobody dials and only the winner's connection is in use."""
    exchange = FakeExchange(request_body(stream=stream, **members))
    async with trio.open_nursery() as calls:
        calls.start_soon(world.pipeline.handle, exchange)
        await exchange.heard(1)
        assert world.upstream.dialling == 0
        assert sum(used for used, _ in world.pool.counts().values()) <= 1
    return exchange


def told(world: World) -> str:
    """The race of the one call, in the order in which its lanes began."""
    notes = sorted(world.record.attempts, key=lambda note: (note.at_ms, note.provider))
    dialled = sorted(world.upstream.times(), key=lambda dial: dial[::-1])
    assert [(note.provider, note.at_ms / 1000) for note in notes] == dialled
    lanes = []
    for note in notes:
        began, ended = note.at_ms / 1000, (note.at_ms + note.ms) / 1000
        lane = f"{note.provider} {began:g} {'cut' if note.outcome == 'cancelled' else note.outcome} {ended:g}"
        transports = world.upstream.of(note.provider)
        if note.outcome == "cancelled" and transports:
            assert [transport.closed_at for transport in transports] == [ended]
        lanes.append(lane if transports else f"{lane} unconnected")
    return " | ".join(lanes)


RACES: dict[str, tuple[str, list[Lane], str]] = {
    # a name: mode, what each provider does, what comes of it
    "off: the first has all its time": ("off", [good(50), good(0)], "a 0 won 50"),
    "off: the next after a failure": ("off", [says(500, 1), good(3)], "a 0 status_500 1 | b 1 won 4"),
    "off: one after the other": ("off", [says(500, 1), silent, good(0)], "a 0 status_500 1 | b 1 late 61 | c 61 won 61"),
    "hedge: a quick first is alone": ("hedge", [good(1.999), good(0)], "a 0 won 1.999"),
    "hedge: the second wins": ("hedge", [silent, good(1.5)], "a 0 cut 3.5 | b 2 won 3.5"),
    "hedge: the first wins": ("hedge", [good(2.5), silent], "a 0 won 2.5 | b 2 cut 2.5"),
    "hedge: three abreast": ("hedge", [silent, silent, good(1)], "a 0 cut 5 | b 2 cut 5 | c 4 won 5"),
    "hedge: four abreast, the second wins": (
        "hedge", [silent, good(4.25), silent, in_headers], "a 0 cut 6.25 | b 2 won 6.25 | c 4 cut 6.25 | d 6 cut 6.25"),
    "hedge: a loser that dials": ("hedge", [good(3), dials(40)], "a 0 won 3 | b 2 cut 3 unconnected"),
    "hedge: a first that dials": ("hedge", [dials(40), good(1)], "a 0 cut 3 unconnected | b 2 won 3"),
    "hedge: a first that dialled and wins": ("hedge", [dials(2.5), good(1)], "a 0 won 2.5 | b 2 cut 2.5"),
    "hedge: a loser in its headers": ("hedge", [in_headers, good(1)], "a 0 cut 3 | b 2 won 3"),
    "hedge: a loser in its answer": ("hedge", [in_answer, good(1)], "a 0 cut 3 | b 2 won 3"),
    "hedge: all losers at once": (
        "hedge", [in_answer, in_headers, dials(40), good(1)],
        "a 0 cut 7 | b 2 cut 7 | c 4 cut 7 unconnected | d 6 won 7"),
    "hedge: the next at once after a failure": (
        "hedge", [says(500, 1), silent, good(0.5)], "a 0 status_500 1 | b 1 cut 3.5 | c 3 won 3.5"),
    "hedge: a first that cannot be reached": ("hedge", [no_port, good(1)], "a 0 connect_error 0 unconnected | b 0 won 1"),
    "hedge: one more as the hedge failed": (
        "hedge", [silent, says(500, 1), good(1)], "a 0 cut 4 | b 2 status_500 3 | c 3 won 4"),
    "hedge: the first fails, the hedge keeps its delay": (
        "hedge", [says(500, 3), good(3), silent], "a 0 status_500 3 | b 2 won 5 | c 4 cut 5"),
    "hedge: the winner after all others failed": (
        "hedge", [says(500, 2.5), says(503, 1), good(4)], "a 0 status_500 2.5 | b 2 status_503 3 | c 3 won 7"),
    "all: the quickest wins": ("all", [good(3), good(1), good(2)], "a 0 cut 1 | b 0 won 1 | c 0 cut 1"),
    "all: the first may win": ("all", [good(0.5), silent, in_answer], "a 0 won 0.5 | b 0 cut 0.5 | c 0 cut 0.5"),
    "all: a winner after failures": (
        "all", [says(500, 1), no_port, good(2)], "a 0 status_500 1 | b 0 connect_error 0 unconnected | c 0 won 2"),
    "all: losers in every state": (
        "all", [dials(40), in_headers, in_answer, good(1)], "a 0 cut 1 unconnected | b 0 cut 1 | c 0 cut 1 | d 0 won 1"),
    "all: of one provider it is a plain call": ("all", [good(3)], "a 0 won 3"),
    "hedge: all fail": ("hedge", [says(500, 3), says(500, 2)], "502: a 0 status_500 3 | b 2 status_500 4"),
    "hedge: a refusal ends it": ("hedge", [silent, says(400, 1), good(0)], "400: a 0 cut 3 | b 2 status_400 3"),
    "all: all fail": ("all", [says(429, 1), says(503, 2)], "503: a 0 status_429 1 | b 0 status_503 2"),
    "all: a refusal ends it": (
        "all", [dials(9), says(400, 1), in_answer], "400: a 0 cut 1 unconnected | b 0 status_400 1 | c 0 cut 1"),
}  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", RACES)
async def test_a_race(name: str, stream: bool, nursery: trio.Nursery, autojump_clock: object) -> None:
    mode, lanes, expected = RACES[name]
    status, _, expected = expected.rpartition(": ")
    world = await world_of(nursery, lanes, stream=stream)
    exchange = await answered(world, stream=stream, race={"mode": mode})
    assert exchange.status == int(status or 200), exchange.body
    assert told(world).replace("first_content_timeout" if stream else "answer_timeout", "late") == expected
    winner = [lane.split() for lane in expected.split(" | ") if " won " in lane]
    assert [[world.record.provider, exchange.sent[0][0]]] == [[lane[0], float(lane[3])] for lane in winner] or status
    world.assert_clean()


ENDED: dict[str, tuple[list[Lane], str]] = {
    "hedge": ([in_answer, dials(40), in_headers, silent], "a 0 cut 5 | b 2 cut 5 unconnected | c 4 cut 5"),
    "all": ([in_answer, dials(40), in_headers, silent], "a 0 cut 5 | b 0 cut 5 unconnected | c 0 cut 5 | d 0 cut 5"),
    "off": ([in_answer, silent], "a 0 cut 5"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", ENDED)
@pytest.mark.parametrize("how", ["the client leaves", "total_s is over"])
async def test_a_call_that_ends_in_mid_race_closes_every_lane_at_that_instant(
    how: str, mode: str, stream: bool, nursery: trio.Nursery, autojump_clock: object
) -> None:
    lanes, expected = ENDED[mode]
    left = how == "the client leaves"
    timeouts = msgspec.structs.replace(TIMES, total_s=9.0 if left else 5.0)
    world = await world_of(nursery, lanes, stream=stream, timeouts=timeouts)
    exchange = FakeExchange(request_body(stream=stream, race={"mode": mode}))
    nursery.start_soon(exchange.leave_at, 5.0 if left else 6.0)
    await world.pipeline.handle(exchange)
    assert (told(world), trio.current_time()) == (expected, 5.0)
    assert (world.record.ended, exchange.status) == (("client_gone", 0) if left else ("timeout", 504))
    world.assert_clean()


@pytest.fixture(params=range(8))
def dice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trio draws the order of tasks that are ready at one moment: here by a seed, so that both orders are seen."""
    monkeypatch.setattr(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
    trio_run._r.seed(request.param)


def begins(after_s: float) -> Lane:
    """The first content of a stream, and the rest of it later; or a whole answer."""
    first, rest = Send(GOOD_STREAM[:CONTENT]), Send(GOOD_STREAM[CONTENT:])
    return lambda stream: script(Wait(after_s), *([first, Wait(1), rest] if stream else [Send(ANSWER)]))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("mode", "lanes", "at"), [("hedge", [4, 2], 4.0), ("all", [3, 3, 3], 3.0)])
async def test_several_that_finish_in_one_tick(
    mode: str, lanes: list[int], at: float, stream: bool, dice: None, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, [begins(after_s) for after_s in lanes], stream=stream)
    exchange = await answered(world, stream=stream, race={"mode": mode})
    assert (exchange.status, exchange.sent[0][0]) == (200, at)
    outcomes = dict(world.outcomes())
    assert sorted(outcomes.values()) == ["cancelled"] * (len(lanes) - 1) + ["won"]
    assert outcomes[world.record.provider] == "won"
    closed = {each.closed_at for each in world.upstream.transports if outcomes[each.name] == "cancelled"}
    assert closed == {at if stream else None}  # one whose whole answer was read may carry another call
    world.assert_clean()


async def test_of_lanes_at_once_one_is_first(dice: None, nursery: trio.Nursery, autojump_clock: object) -> None:
    """Whichever task runs first: one attempt stands there by the plan, the others are hedges."""
    world = await world_of(nursery, [good(3), good(1), silent], stream=True)
    await answered(world, stream=True, race={"mode": "all"})
    reasons = {note.provider: note.reason for note in world.record.attempts}
    assert reasons == {"a": "listed", "b": "hedge", "c": "hedge"}


DRAIN: Final = Drain(5.0, PicoUsd(10**12))


BILLS_ON: Final = [
    ("a", [good(9), good(0)], "a 0 won 9"),
    ("b", [good(9), good(0)], "a 0 won 9"),
    ("b", [says(500, 4), good(9), good(0)], "a 0 status_500 4 | b 4 won 13"),
]


@pytest.mark.parametrize("policy", ["cap", DRAIN])
@pytest.mark.parametrize("mode", ["hedge", "all"])
@pytest.mark.parametrize(("who", "lanes", "expected"), BILLS_ON)
async def test_who_bills_on_after_a_cancel_is_never_raced(
    who: str, lanes: list[Lane], expected: str, mode: str, policy: Any, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, lanes, stream=True, on_disconnect={who: policy})
    await answered(world, stream=True, race={"mode": mode})
    assert told(world) == expected


async def test_who_bills_on_is_still_drained_when_hedging_is_on(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, [good(4), good(0)], stream=False, on_disconnect={"a": DRAIN})
    exchange = FakeExchange(request_body(stream=False))
    nursery.start_soon(exchange.leave_at, 3.0)
    await world.pipeline.handle(exchange)
    assert trio.current_time() == 3.0
    await world.records.arrived.wait()
    assert (trio.current_time(), world.record.ended) == (4.0, "client_gone")
    assert (world.record.completion_tokens, world.record.provider) == (2, "a")
    world.assert_clean()


def serving(*times_s: float) -> Lane:
    """A provider that keeps its connection, and takes so long for its answers, one after the other."""

    def lane(stream: bool) -> Script:
        answer = Send(GOOD_STREAM if stream else ANSWER)
        return Script((*[step for seconds in times_s for step in (Request(), Wait(seconds), answer)], Request(), HANG))

    return lane


async def hedged_after(world: World, *, stream: bool, **members: Any) -> float:
    """One more call: how long its first attempt was alone."""
    began = trio.current_time()
    assert (await world.call(stream=stream, **members)).status == 200
    beside = [note for note in world.records.taken[-1].attempts if note.reason == "hedge"]
    assert began + beside[0].at_ms / 1000 == world.upstream.times()[-1][1]
    return beside[0].at_ms / 1000


ADAPTIVE: Final = Race(hedge="adaptive", hedge_delay_s=7.0, hedge_delay_min_s=1 / 16, hedge_share_max=1.0)
P90: dict[str, tuple[list[float], float]] = {
    "the p90 of what was seen": ([(n * 7 % 16 + 1) / 8 for n in range(16)], 15 / 8),
    "never under its floor": ([1 / 64] * 16, 1 / 16),
    "with too few samples the fixed delay": ([1 / 64] * 15, 7.0),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", P90)
async def test_the_adaptive_delay(name: str, stream: bool, nursery: trio.Nursery, autojump_clock: object) -> None:
    seen, delay_s = P90[name]
    world = await world_of(nursery, [serving(*seen), good(0)], stream=stream, race=ADAPTIVE)
    for _ in seen:
        await world.call(stream=stream)
    assert world.outcomes() == [("a", "won")] * len(seen)
    await trio.sleep(1)  # what was read of the measurements holds so long
    assert await hedged_after(world, stream=stream) == delay_s


@pytest.mark.parametrize(("stream", "delay_s"), [(True, 0.25), (False, 1.0)])
async def test_a_request_may_ask_for_a_hedge_where_none_is_configured(
    stream: bool, delay_s: float, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """After the p90 of streams, which says nothing of whole answers: of those nothing is known."""
    lanes = {"a": [serving(*[0.25] * 16)(True)], "b": [good(0)(stream)]}
    world = await build_pipeline(nursery, lanes, timeouts=TIMES, race=Race(hedge_share_max=1.0))
    for _ in range(16):
        await world.call(stream=True)
    await trio.sleep(1)
    assert await hedged_after(world, stream=stream, race={"mode": "hedge"}) == delay_s


WISHES: list[tuple[Any, Any, Any, str]] = [  # [race].hedge, the model's mode, the request's mode, the race
    ("off", None, None, "a 0 won 9"),
    ("off", "all", None, "a 0 cut 0.5 | b 0 won 0.5"),
    ("off", "hedge", None, "a 0 cut 2.5 | b 2 won 2.5"),
    ("delay", "off", None, "a 0 won 9"),
    ("delay", "off", "hedge", "a 0 cut 2.5 | b 2 won 2.5"),
    ("delay", "all", "off", "a 0 won 9"),
    ("delay", None, "all", "a 0 cut 0.5 | b 0 won 0.5"),
]


@pytest.mark.parametrize(("config", "model", "request_mode", "expected"), WISHES)
async def test_whose_mode_counts(
    config: Any, model: Any, request_mode: Any, expected: str, nursery: trio.Nursery, autojump_clock: object
) -> None:
    race = Race(hedge=config, hedge_delay_s=2.0, hedge_share_max=1.0)
    settings = {} if model is None else {"model": {"race": ModelRace(model)}}
    world = await world_of(nursery, [good(9), good(0.5)], stream=True, race=race, **settings)
    await answered(world, stream=True, **({} if request_mode is None else {"race": {"mode": request_mode}}))
    assert told(world) == expected


async def test_no_hedge_where_the_prompt_is_in_a_cache(nursery: trio.Nursery, autojump_clock: object) -> None:
    """Beside a warm provider a second would pay for the whole prompt; another conversation is none of its business."""
    lanes = {"a": [serving(1, 9, 9)(True), serving(9)(True)], "b": [serving(0, 0)(True)]}
    world = await build_pipeline(nursery, lanes, timeouts=TIMES, race=HEDGE, routing=Routing(affinity_s=100.0))

    async def outcomes(session: str) -> list[tuple[str, str]]:
        before = len(world.records.taken)
        await world.call(session_id=session)
        return sorted((note.provider, note.outcome) for note in world.records.taken[before].attempts)

    assert await outcomes("one") == [("a", "won")]
    assert await outcomes("one") == [("a", "won")]
    assert await outcomes("two") == [("a", "cancelled"), ("b", "won")]
    await trio.sleep(100)
    assert await outcomes("one") == [("a", "cancelled"), ("b", "won")]
