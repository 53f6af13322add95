"""The race in virtual time: who is started when, who wins, when the losers are cut, and what the client is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from gateway.config import Drain, Race, Upstream
from gateway.core.money import PicoUsd
from gateway.route.health import OPEN_S
from tests.exchanges import WALL, FakeExchange, World, build_pipeline, request_body, retimed
from tests.upstream import (
    DONE,
    FINISH,
    GOOD_STREAM,
    HANG,
    LAST_CHUNK,
    REFUSE,
    ROLE,
    SSE_HEAD,
    SSE_HEAD_TO_END,
    USAGE,
    WORD,
    Close,
    Reset,
    Script,
    Send,
    Step,
    Wait,
    answer_body,
    chunk,
    head,
    script,
    streamed,
    whole,
)

TIMES = retimed(connect_s=5, first_content_s=60, answer_s=90, idle_s=70, total_s=600, keepalive_s=1000)
OK = script(Send(GOOD_STREAM), Close())
OK_WHOLE = script(Send(whole(answer_body())), Close())
ERROR = b'{"error":{"message":"no","code":"bad_thing","param":"messages"}}'
COMMENT = chunk(b": still here\n\n")


def after(seconds: float, *steps: Step) -> Script:
    return script(Wait(seconds), *steps)


def status(code: int, *headers: str, after_s: float = 0.0) -> Script:
    return script(Wait(after_s), Send(whole(ERROR, code, *headers)), Close())


def ok(stream: bool) -> Script:
    return OK if stream else OK_WHOLE


# first provider's script, its outcome, when the second starts
FAULTS: dict[str, tuple[Script, str, float]] = {
    "refused": (REFUSE, "connect_error", 0),
    "refused late": (Script(refused=True, connect_s=3), "connect_error", 3),
    "dialling hangs": (script(connect_s=1e9), "connect_timeout", 5),
    "silent": (script(HANG), "first_content_timeout", 60),
    "slow to say no": (status(500, after_s=7), "status_500", 7),
    "closed at once": (script(Close()), "no_answer", 0),
    "reset at once": (script(Wait(2), Reset()), "no_answer", 2),
    "head cut": (script(Send(SSE_HEAD[:20]), Wait(1), Close()), "bad_response", 1),
    "head reset": (script(Send(SSE_HEAD[:20]), Wait(1), Reset()), "bad_response", 1),
    "no http": (script(Send(b"SSH-2.0-x\r\n")), "bad_response", 0),
    "head trickles": (script(Send(b"HTTP/1.1 200 OK\r\n"), HANG), "first_content_timeout", 60),
    "redirect": (script(Send(whole(b"", 302, "location: http://169.254.169.254/"))), "status_302", 0),
    "gzip": (script(Send(head(200, "content-encoding: gzip", "content-length: 1", kind="text/event-stream") + b"x")),
             "content_encoding", 0),
    "error body hangs": (script(Send(head(500, "content-length: 99")), HANG), "status_500", 2),
    "error body without end": (
        script(Send(head(503, "content-length: 999999")), Send(b"x" * 70_000), Send(b"x")), "status_503", 0,
    ),
}  # fmt: skip
STREAM_FAULTS: dict[str, tuple[Script, str, float]] = {
    "error in 200": (script(Send(whole(ERROR))), "error_in_200", 0),
    "not a stream": (OK_WHOLE, "not_a_stream", 0),
    "html": (script(Send(head(200, "content-length: 6", kind="text/html") + b"<html>")), "bad_json", 0),
    "first frame is an error": (script(Send(streamed(b'data: {"error":{"code":503}}\n\n'))), "error_frame", 0),
    "event: error": (
        script(Send(SSE_HEAD + chunk(ROLE) + chunk(b'event: error\ndata: {"a":1}\n\n'))),
        "error_frame",
        0,
    ),
    "garbage frame": (script(Send(SSE_HEAD + chunk(b"data: {nope\n\n"))), "bad_frame", 0),
    "empty stream": (script(Send(streamed())), "empty", 0),
    "only done": (script(Send(streamed(DONE))), "empty", 0),
    "only role and done": (script(Send(streamed(ROLE, DONE))), "empty", 0),
    "only usage": (script(Send(streamed(ROLE, USAGE, DONE))), "empty", 0),
    "cut before content": (script(Send(SSE_HEAD + chunk(ROLE)), Wait(4), Close()), "cut", 4),
    "reset before content": (script(Send(SSE_HEAD + chunk(ROLE)), Wait(4), Reset()), "cut", 4),
    "to the end, before content": (script(Send(SSE_HEAD_TO_END + ROLE), Wait(4), Close()), "empty", 4),
    "role, then silence": (script(Send(SSE_HEAD + chunk(ROLE)), HANG), "first_content_timeout", 60),
    "comments for ever": (
        script(Send(SSE_HEAD), *[step for _ in range(99) for step in (Send(COMMENT), Wait(1))]),
        "first_content_timeout",
        60,
    ),
    "half a frame": (script(Send(SSE_HEAD + chunk(WORD[:-1])), HANG), "first_content_timeout", 60),
}
WHOLE_FAULTS: dict[str, tuple[Script, str, float]] = {
    "error in 200": (script(Send(whole(ERROR))), "error_in_200", 0),
    "html": (script(Send(whole(b"<html>"))), "bad_json", 0),
    "empty body": (script(Send(whole(b""))), "bad_json", 0),
    "no choices": (script(Send(whole(b'{"choices":[]}'))), "empty", 0),
    "body cut": (script(Send(whole(answer_body())[:-1]), Wait(4), Close()), "cut", 4),
    "body reset": (script(Send(whole(answer_body())[:-1]), Wait(4), Reset()), "cut", 4),
    "body hangs": (script(Send(whole(answer_body())[:-1]), HANG), "answer_timeout", 90),
    "number of no machine": (script(Send(whole(b'{"choices":[7],"usage":{"prompt_tokens":1e999}}'))), "bad_json", 0),
}
TABLE = [
    *((True, name, *row) for name, row in {**FAULTS, **STREAM_FAULTS}.items()),
    *((False, name, *row) for name, row in {**FAULTS, **WHOLE_FAULTS}.items()),
]


@pytest.mark.parametrize(("stream", "name", "first", "outcome", "at"), TABLE, ids=[f"{r[1]}-{r[0]}" for r in TABLE])
async def test_the_second_starts_when_the_first_fails(
    stream: bool, name: str, first: Script, outcome: str, at: float, nursery: trio.Nursery, autojump_clock: object
) -> None:
    if not stream and outcome == "first_content_timeout":
        outcome, at = "answer_timeout", 90
    world = await build_pipeline(nursery, {"a": [first], "b": [ok(stream)]}, timeouts=TIMES)
    exchange = await world.call(stream=stream)
    assert exchange.status == 200, exchange.body
    assert world.outcomes() == [("a", outcome), ("b", "won")]
    assert world.upstream.times() == [("a", 0.0), ("b", at)]
    world.assert_clean()
    record = world.record
    assert (record.provider, record.ended, record.status) == ("b", "complete", 200)
    assert record.first_content_ms == at * 1000
    assert (record.prompt_tokens, record.completion_tokens) == (3, 2)


LEFT_OPEN = {
    "slow to say no",
    "redirect",
    "error in 200",
    "not a stream",
    "html",
    "empty stream",
    "empty body",
    "no choices",
}


@pytest.mark.parametrize("stream", [True, False])
async def test_a_failed_attempt_has_closed_its_socket(
    stream: bool, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Exactly when it failed: cut answers at once, whole ones go back to the pool."""
    for name, (first, _outcome, at) in {**FAULTS, **(STREAM_FAULTS if stream else WHOLE_FAULTS)}.items():
        world = await build_pipeline(nursery, {"a": [first], "b": [ok(stream)]}, timeouts=TIMES)
        began = trio.current_time()
        await world.call(stream=stream)
        for loser in world.upstream.of("a"):
            if loser.closed_at is None:
                assert world.pool.counts()[loser.origin] == (0, 1), name
            elif name not in LEFT_OPEN and world.outcomes()[0][1] != "answer_timeout":
                assert loser.closed_at - began == at, name
        world.assert_clean()


@pytest.mark.parametrize("code", [401, 402, 403, 429])
async def test_a_key_failure_goes_to_the_next_key(code: int, nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [status(code), OK], "b": [OK]}, keys={"a": 2})
    exchange = await world.call()
    assert exchange.status == 200
    assert world.outcomes() == [("a", f"status_{code}"), ("a", "won")]
    requests = [request for transport in world.upstream.of("a") for request in transport.requests]
    assert [b"sk-a-0" in requests[0], b"sk-a-1" in requests[1]] == [True, True]


@pytest.mark.parametrize("code", [404, 408, 500, 502, 503, 529])
async def test_a_provider_failure_skips_its_other_keys(
    code: int, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await build_pipeline(nursery, {"a": [status(code)], "b": [OK]}, keys={"a": 3})
    assert (await world.call()).status == 200
    assert world.outcomes() == [("a", f"status_{code}"), ("b", "won")]


async def test_a_connect_error_skips_its_other_keys(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [REFUSE], "b": [OK]}, keys={"a": 3})
    await world.call()
    assert world.outcomes() == [("a", "connect_error"), ("b", "won")]


@pytest.mark.parametrize("code", [400, 409, 413, 422])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_of_the_request_ends_the_call(
    code: int, stream: bool, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await build_pipeline(nursery, {"a": [status(code, "retry-after: 9")], "b": [ok(stream)]}, keys={"a": 2})
    exchange = await world.call(stream=stream)
    assert exchange.status == code
    assert exchange.json()["error"]["code"] == "bad_thing"
    assert exchange.json()["error"]["param"] == "messages"
    assert b"sk-a-0" not in exchange.body
    assert world.upstream.times() == [("a", 0.0)]
    assert world.record.status == code
    world.assert_clean()


ALL_FAILED: list[tuple[list[Script], int, str | None]] = [
    ([status(429, "retry-after: 7"), status(429, "retry-after: 3")], 503, "3"),
    ([status(429, "retry-after: 7"), status(503, "retry-after: 30")], 503, "7"),
    ([status(429), status(503)], 503, "1"),
    ([REFUSE, status(429, "retry-after: 0.2")], 503, "1"),
    ([REFUSE, REFUSE], 503, "1"),
    ([status(429, "retry-after: 7"), status(500)], 502, None),
    ([status(500), status(500)], 502, None),
    ([status(401), status(403)], 502, None),
    ([script(Send(whole(ERROR))), status(429)], 502, None),
    ([script(Close()), script(HANG)], 502, None),
    ([script(HANG), script(connect_s=1e9)], 503, "1"),
]


@pytest.mark.parametrize(("scripts", "code", "retry_after"), ALL_FAILED)
async def test_when_all_fail(
    scripts: list[Script], code: int, retry_after: str | None, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await build_pipeline(nursery, {"a": [scripts[0]], "b": [scripts[1]]}, timeouts=TIMES)
    exchange = await world.call()
    assert exchange.status == code
    assert exchange.answer_headers.get(b"retry-after") == (retry_after.encode() if retry_after else None)
    message = exchange.json()["error"]["message"]
    assert "a: " in message and "b: " in message
    assert b"sk-" not in exchange.body
    assert b"no" not in exchange.json()["error"]["code"].encode()
    record = world.record
    assert (record.status, record.cost_pico_usd, len(record.attempts)) == (code, 0, 2)
    world.assert_clean()


async def test_retry_after_as_a_date(nursery: trio.Nursery, autojump_clock: object) -> None:
    from email.utils import formatdate

    world = await build_pipeline(nursery, {"a": [status(429, f"retry-after: {formatdate(WALL + 12, usegmt=True)}")]})
    exchange = await world.call()
    assert (exchange.status, exchange.answer_headers[b"retry-after"]) == (503, b"12")


async def test_what_was_held_back_is_sent_in_order_with_the_commit(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    parts: list[Step] = [Send(SSE_HEAD + COMMENT), Wait(1), Send(chunk(ROLE)), Wait(1), Send(chunk(WORD)), Wait(1)]
    world = await build_pipeline(nursery, {"a": [script(*parts, Send(chunk(FINISH) + chunk(DONE) + LAST_CHUNK))]})
    exchange = await world.call()
    assert [when for when, _ in exchange.sent] == [2.0, 3.0]
    ours = b"".join((ROLE, WORD, FINISH, DONE)).replace(b"up-model", b"test/model")
    assert exchange.body == ours


async def test_frames_held_back_have_a_bound(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(
        nursery,
        {"a": [script(Send(SSE_HEAD + chunk(ROLE) * 100))], "b": [OK]},
        limits=Upstream(stream_frame_bytes_max=1000),
    )
    assert (await world.call()).status == 200
    assert world.outcomes()[0] == ("a", "frame_too_large")


async def test_a_stale_warm_connection_is_replaced_once_and_the_call_goes_on(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """The provider closed it just as we wrote: no attempt failed."""
    from tests.upstream import Request

    dies = script(Send(GOOD_STREAM), Request(), Close())
    world = await build_pipeline(nursery, {"a": [dies, OK]})
    assert (await world.call()).status == 200
    assert (await world.call()).status == 200
    assert world.outcomes() == [("a", "won"), ("a", "won")]
    assert len(world.upstream.of("a")) == 2
    world.assert_clean()


async def test_at_most_attempts_max(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [status(429)]}, keys={"a": 9}, race=Race(attempts_max=4))
    assert (await world.call()).status == 503
    assert len(world.upstream.times()) == 4


# hedging

HEDGE = Race(hedge="delay", hedge_delay_s=2.0, hedge_share_max=0.5)


async def hedged(nursery: trio.Nursery, first: Script, *others: Script, **more: Any) -> tuple[World, FakeExchange]:
    scripts = {"a": [first], **{name: [other] for name, other in zip("bcd", others, strict=False)}}
    world = await build_pipeline(nursery, scripts, timeouts=TIMES, race=HEDGE, **more)
    return world, await world.call()


async def test_the_hedge_starts_after_the_delay_and_the_loser_is_cut_when_it_loses(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    world, exchange = await hedged(nursery, script(HANG), after(1.5, Send(GOOD_STREAM)))
    assert exchange.status == 200
    assert world.upstream.times() == [("a", 0.0), ("b", 2.0)]
    (loser,) = world.upstream.of("a")
    assert loser.closed_at == 3.5
    assert sorted(world.outcomes()) == [("a", "cancelled"), ("b", "won")]
    assert world.record.provider == "b"
    world.assert_clean()


async def test_the_first_may_still_win(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await hedged(nursery, after(2.5, Send(GOOD_STREAM)), script(HANG))
    assert exchange.status == 200
    (loser,) = world.upstream.of("b")
    assert (loser.opened_at, loser.closed_at) == (2.0, 2.5)
    assert world.record.provider == "a"
    world.assert_clean()


async def test_a_quick_first_is_never_hedged(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, _ = await hedged(nursery, after(1.999, Send(GOOD_STREAM)), OK)
    assert world.upstream.times() == [("a", 0.0)]


async def test_a_failing_first_starts_the_second_at_once(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await hedged(nursery, status(500, after_s=1), OK)
    assert exchange.status == 200
    assert world.upstream.times() == [("a", 0.0), ("b", 1.0)]


async def test_three_abreast(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await hedged(nursery, script(HANG), script(HANG), after(1, Send(GOOD_STREAM)))
    assert exchange.status == 200
    assert world.upstream.times() == [("a", 0.0), ("b", 2.0), ("c", 4.0)]
    assert [transport.closed_at for transport in world.upstream.transports[:2]] == [5.0, 5.0]
    world.assert_clean()


async def test_a_loser_that_is_still_dialling(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await hedged(nursery, script(connect_s=4), after(1, Send(GOOD_STREAM)))
    assert exchange.status == 200
    assert world.upstream.dialling == 0
    assert len(world.upstream.transports) == 1
    world.assert_clean()


async def test_both_win_in_the_same_instant(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await hedged(nursery, after(4, Send(GOOD_STREAM)), after(2, Send(GOOD_STREAM)))
    assert exchange.status == 200
    assert [outcome for _, outcome in world.outcomes()].count("won") == 1
    assert len(world.records.taken) == 1
    world.assert_clean()


async def test_a_refusal_ends_a_hedged_race(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await hedged(nursery, script(HANG), status(400, after_s=1), OK)
    assert exchange.status == 400
    assert [transport.closed_at for transport in world.upstream.of("a")] == [3.0]
    world.assert_clean()


async def test_all_fail_abreast(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await hedged(nursery, status(429, "retry-after: 8", after_s=3), status(503, after_s=3))
    assert exchange.status == 503
    assert exchange.answer_headers[b"retry-after"] == b"8"
    world.assert_clean()


DRAIN = Drain(5.0, PicoUsd(10**12))


@pytest.mark.parametrize("policy", ["cap", DRAIN])
async def test_never_hedge_beside_a_provider_that_bills_on(
    policy: Any, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world, exchange = await hedged(nursery, after(9, Send(GOOD_STREAM)), OK, on_disconnect={"a": policy})
    assert exchange.status == 200
    assert world.upstream.times() == [("a", 0.0)]


@pytest.mark.parametrize("policy", ["cap", DRAIN])
async def test_never_hedge_onto_a_provider_that_bills_on(
    policy: Any, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world, exchange = await hedged(nursery, status(500, after_s=9), OK, on_disconnect={"b": policy})
    assert exchange.status == 200
    assert world.upstream.times() == [("a", 0.0), ("b", 9.0)]


@pytest.mark.parametrize("policy", ["cap", DRAIN])
async def test_never_hedge_beside_a_later_attempt_that_bills_on(
    policy: Any, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """The first failed, the second bills on after a cancel: the third may not start beside it."""
    world, exchange = await hedged(nursery, status(500), after(9, Send(GOOD_STREAM)), OK, on_disconnect={"b": policy})
    assert exchange.status == 200
    assert world.upstream.times() == [("a", 0.0), ("b", 0.0)]
    assert world.record.provider == "b"


async def test_hedges_stay_within_their_budget(nursery: trio.Nursery, autojump_clock: object) -> None:
    """Ten saved up, then one for every second call at a share of a half."""
    world = await build_pipeline(
        nursery, {"a": [after(3, Send(GOOD_STREAM))], "b": [script(HANG)]}, timeouts=TIMES, race=HEDGE
    )
    hedges = []
    for _ in range(40):
        before = len(world.upstream.of("b"))
        for transport in world.upstream.open():
            transport.close()
        await world.call()
        hedges.append(len(world.upstream.of("b")) - before)
    assert sum(hedges[:10]) == 10
    assert sum(hedges) == 10 + 40 // 2 - 1 or sum(hedges) == 10 + 40 // 2
    assert sum(hedges[30:]) == 5


async def test_hedging_is_off_as_shipped(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [after(50, Send(GOOD_STREAM))], "b": [OK]}, timeouts=TIMES)
    await world.call()
    assert world.upstream.times() == [("a", 0.0)]


async def test_the_adaptive_delay_is_the_p90_seen(nursery: trio.Nursery, autojump_clock: object) -> None:
    quick = [after((n * 7 % 16 + 1) / 8, Send(GOOD_STREAM), Close()) for n in range(16)]
    world = await build_pipeline(
        nursery,
        {"a": [*quick, script(HANG)], "b": [OK]},
        timeouts=TIMES,
        race=Race(hedge="adaptive", hedge_delay_s=7.0),
    )
    for _ in range(16):
        await world.call()
    began = trio.current_time()
    await world.call()
    assert world.upstream.times()[-1] == ("b", began + 15 / 8)


# the breaker


async def failing_calls(world: World, count: int) -> None:
    for _ in range(count):
        await world.call()


async def test_the_breaker_opens_and_the_provider_is_left_alone(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [REFUSE], "b": [OK]})
    await failing_calls(world, 7)
    dialled = [name for name, _ in world.upstream.times()]
    assert dialled.count("a") == 5
    assert world.health.states(trio.current_time()) == {("a", "up-model", 0): "open"}


async def test_a_recovered_provider_is_probed_and_gets_its_calls_back(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Exactly after its time, by one call, though another provider could serve it."""
    world = await build_pipeline(nursery, {"a": [REFUSE] * 5 + [OK], "b": [OK]})
    await failing_calls(world, 5)
    await trio.sleep_until(OPEN_S - 0.001)
    await world.call()
    assert world.records.taken[-1].provider == "b"
    await trio.sleep_until(OPEN_S)
    await world.call()
    assert world.records.taken[-1].provider == "a"
    assert world.health.all_closed()


async def test_a_failed_probe_doubles_the_time(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [REFUSE]})
    await failing_calls(world, 5)
    for opens_at in (5.0, 15.0, 35.0, 75.0, 155.0, 275.0, 395.0):
        exchange = await world.call()
        assert exchange.status == 503
        assert int(exchange.answer_headers[b"retry-after"]) == opens_at - trio.current_time()
        await trio.sleep_until(opens_at - 0.001)
        before = len(world.upstream.times())
        await world.call()
        assert len(world.upstream.times()) == before
        await trio.sleep_until(opens_at)
        await world.call()
        assert world.upstream.times()[-1] == ("a", opens_at)


async def test_one_probe_at_a_time(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [REFUSE] * 5 + [after(3, Send(GOOD_STREAM))], "b": [OK]})
    await failing_calls(world, 5)
    await trio.sleep(OPEN_S)
    async with trio.open_nursery() as calls:
        for _ in range(5):
            calls.start_soon(world.call)
    assert [name for name, when in world.upstream.times() if when == OPEN_S].count("a") == 1


async def test_a_probe_that_is_abandoned_lets_the_next_one_through(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await build_pipeline(nursery, {"a": [REFUSE] * 5 + [script(HANG), OK]})
    await failing_calls(world, 5)
    await trio.sleep(OPEN_S)
    exchange = FakeExchange(request_body(stream=True))
    async with trio.open_nursery() as calls:
        calls.start_soon(world.pipeline.handle, exchange)
        calls.start_soon(exchange.leave_at, OPEN_S + 2)
    assert (await world.call()).status == 200


async def test_retry_after_opens_at_once_for_as_long_as_it_says(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [status(429, "retry-after: 33"), OK]})
    await world.call()
    exchange = await world.call()
    assert (exchange.status, exchange.answer_headers[b"retry-after"]) == (503, b"33")
    await trio.sleep_until(32.999)
    assert (await world.call()).status == 503
    await trio.sleep_until(33)
    assert (await world.call()).status == 200


async def test_keys_have_breakers_of_their_own(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [status(429, "retry-after: 60"), OK]}, keys={"a": 2})
    await world.call()
    await world.call()
    assert world.outcomes() == [("a", "status_429"), ("a", "won"), ("a", "won")]
    requests = [request for transport in world.upstream.of("a") for request in transport.requests]
    assert [b"sk-a-1" in request for request in requests] == [False, True, True]


async def test_a_refusal_says_the_provider_is_well(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [*[REFUSE] * 4, status(400), *[REFUSE] * 4, OK]})
    for _ in range(9):
        await world.call()
        for transport in world.upstream.open():
            transport.close()
    assert (await world.call()).status == 200


async def test_bodies_that_go_upstream(nursery: trio.Nursery, autojump_clock: object) -> None:
    """The next provider gets the client's fields, our key for it and its own model name."""
    world = await build_pipeline(nursery, {"a": [status(500)], "b": [OK]})
    await world.call(temperature=0.5, unknown={"x": [1]})
    request = world.upstream.of("b")[0].requests[0]
    head_bytes, _, body = request.partition(b"\r\n\r\n")
    assert b"authorization: Bearer sk-b-0" in head_bytes
    sent = json.loads(body)
    assert (sent["model"], sent["temperature"], sent["unknown"]) == ("up-model", 0.5, {"x": [1]})
    assert sent["stream_options"] == {"include_usage": True}
