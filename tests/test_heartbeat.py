"""Comments before the first content, on a virtual clock: when they begin, what they commit to, and what still works."""

from __future__ import annotations

import trio

from gateway.dialects.sse import KEEPALIVE as COMMENT
from gateway.heartbeat import Heartbeat
from tests.exchanges import FakeExchange, World, build_pipeline, request_body, retimed
from tests.upstream import DONE, FINISH, GOOD_STREAM, HANG, REFUSE, Script, Send, Wait, script, whole

TIMES = retimed(first_content_s=10, answer_s=10, keepalive_s=3, client_stall_s=5, total_s=100)
OK = script(Send(GOOD_STREAM))


async def beaten(nursery: trio.Nursery, scripts: dict[str, list[Script]]) -> World:
    heartbeat = Heartbeat()
    nursery.start_soon(heartbeat.run)
    return await build_pipeline(nursery, scripts, timeouts=TIMES, heartbeat=heartbeat)


async def test_a_long_silence_is_filled_and_another_provider_still_takes_over(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await beaten(nursery, {"a": [script(HANG)], "b": [OK]})
    exchange = await world.call()
    comments = [when for when, data in exchange.sent if data == COMMENT]
    assert comments == [3.0, 6.0, 9.0]
    assert exchange.status == 200
    assert exchange.body.count(b"word") == 2
    assert exchange.body.endswith(DONE)
    assert exchange.calls.count("start") == 1
    assert world.outcomes() == [("a", "first_content_timeout"), ("b", "won")]
    assert world.record.ended == "complete"
    world.assert_clean()


async def test_an_error_after_the_first_comment_is_told_in_the_stream(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await beaten(nursery, {"a": [script(Wait(4), Send(whole(b"{}", 500)))]})
    exchange = await world.call()
    assert exchange.status == 200
    assert exchange.frames()[0] == COMMENT
    assert b'"code":"upstream_error"' in exchange.frames()[-1]
    assert b"[DONE]" not in exchange.body
    assert (world.record.status, world.record.code, world.record.ended) == (200, "upstream_error", "upstream_error")
    world.assert_clean()


async def test_an_error_before_it_has_its_own_status(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await beaten(nursery, {"a": [script(Wait(2), Send(whole(b"{}", 500)))], "b": [REFUSE]})
    exchange = await world.call()
    assert exchange.status == 502
    assert exchange.calls == ["reply"]
    world.assert_clean()


async def test_an_answer_that_is_no_stream_stays_silent(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await beaten(nursery, {"a": [script(HANG)]})
    exchange = await world.call(stream=False)
    assert (exchange.status, exchange.calls) == (503, ["reply"])
    world.assert_clean()


async def test_a_client_that_leaves_between_comments_is_settled(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await beaten(nursery, {"a": [script(HANG)]})
    exchange = FakeExchange(request_body(stream=True))
    nursery.start_soon(exchange.leave_at, 5.0)
    await world.pipeline.handle(exchange)
    assert trio.current_time() == 5.0
    assert [data for _, data in exchange.sent] == [COMMENT]
    assert world.record.ended == "client_gone"
    world.assert_clean()


async def test_a_comment_nobody_reads_ends_the_call(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await beaten(nursery, {"a": [script(Wait(8), Send(GOOD_STREAM))]})
    exchange = FakeExchange(request_body(stream=True), stall_at=0)
    await world.pipeline.handle(exchange)
    assert trio.current_time() == 8 + 5
    assert world.record.ended == "client_stalled"
    world.assert_clean()


async def test_a_fast_answer_has_no_comments(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await beaten(nursery, {"a": [OK]})
    exchange = await world.call()
    assert COMMENT not in exchange.body
    assert FINISH.replace(b"up-model", b"test/model") in exchange.body
    world.assert_clean()
