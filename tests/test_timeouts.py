"""Time limits of a relayed answer, at exact virtual times, and how a stream that ends badly looks to the client."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from gateway.dialects.sse import KEEPALIVE
from tests.exchanges import FakeExchange, World, build_pipeline, request_body, retimed
from tests.upstream import (
    DONE,
    FINISH,
    HANG,
    LAST_CHUNK,
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
    script,
    whole,
)

TIMES = retimed(first_content_s=60, answer_s=90, idle_s=20, total_s=100, client_stall_s=7, keepalive_s=1000)
BEGIN = Send(SSE_HEAD + chunk(ROLE) + chunk(WORD))
MORE = Send(chunk(WORD))
END = Send(chunk(FINISH) + chunk(USAGE) + chunk(DONE) + LAST_CHUNK)
COMMENT = Send(chunk(b": busy\n\n"))


def ours(*frames: bytes) -> bytes:
    return b"".join(frames).replace(b"up-model", b"test/model")


async def stream(nursery: trio.Nursery, *steps: Step, **times: float) -> tuple[World, FakeExchange]:
    limits = {name: getattr(TIMES, name) for name in TIMES.__struct_fields__}
    world = await build_pipeline(nursery, {"a": [script(*steps)]}, timeouts=retimed(**{**limits, **times}))
    return world, await world.call()


def assert_error_frame(exchange: FakeExchange, world: World, code: str, kind: str = "api_error") -> dict[str, Any]:
    """The last frame is an error, in the shape that SDKs raise on; nothing after it, no `[DONE]` anywhere."""
    assert exchange.status == 200
    assert DONE not in exchange.body
    last: dict[str, Any] = json.loads(exchange.frames()[-1].removeprefix(b"data: "))
    assert last["object"] == "chat.completion.chunk"
    assert last["model"] == "test/model"
    assert last["error"]["code"] == code
    assert last["error"]["type"] == kind
    assert last["error"]["message"]
    assert last["error"]["request_id"] == "request-1"
    assert last["choices"] == [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]
    assert last["usage"]["completion_tokens"] > 0
    assert last["usage"]["estimated"] is True
    assert exchange.ended_at is not None
    world.assert_clean()
    return last


async def test_idle(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await stream(nursery, BEGIN, Wait(19.9), MORE, Wait(19.9), MORE, HANG)
    assert_error_frame(exchange, world, "timeout")
    assert [when for when, _ in exchange.sent] == [0.0, 19.9, 39.8, pytest.approx(59.8)]
    assert world.upstream.transports[0].closed_at == pytest.approx(59.8)
    assert (world.record.ended, world.record.code, world.record.status) == ("upstream_idle", "timeout", 200)
    assert world.record.usage_estimated


async def test_total_over_a_stream_that_never_idles(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await stream(nursery, BEGIN, *[step for _ in range(30) for step in (Wait(9), MORE)])
    assert_error_frame(exchange, world, "timeout")
    assert exchange.ended_at == 100
    assert world.upstream.transports[0].closed_at == 100
    assert world.record.ended == "timeout"


@pytest.mark.parametrize("streaming", [True, False])
async def test_total_before_the_first_content(streaming: bool, nursery: trio.Nursery, autojump_clock: object) -> None:
    slow = script(HANG)
    world = await build_pipeline(
        nursery, {"a": [slow], "b": [slow], "c": [slow]}, timeouts=retimed(first_content_s=40, answer_s=40, total_s=100)
    )
    exchange = await world.call(stream=streaming)
    assert (exchange.status, exchange.ended_at) == (504, 100)
    assert exchange.json()["error"]["code"] == "timeout"
    assert world.record.ended == "timeout"
    world.assert_clean()


@pytest.mark.parametrize("stall_at", [0, 1, 2])
async def test_client_stall(stall_at: int, nursery: trio.Nursery, autojump_clock: object) -> None:
    steps: list[Step] = [BEGIN, Wait(1), MORE, Wait(1), MORE, Wait(1), END]
    world = await build_pipeline(nursery, {"a": [script(*steps)]}, timeouts=TIMES)
    exchange = FakeExchange(request_body(stream=True), stall_at=stall_at)
    await world.pipeline.handle(exchange)
    assert trio.current_time() == stall_at + 7
    assert world.upstream.transports[0].closed_at == stall_at + 7
    assert world.record.ended == "client_stalled"
    world.assert_clean()


async def test_client_stall_at_the_very_end(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [script(BEGIN, Wait(1), END)]}, timeouts=TIMES)
    exchange = FakeExchange(request_body(stream=True), stall_at=1)
    await world.pipeline.handle(exchange)
    assert trio.current_time() == 8
    assert world.record.ended == "client_stalled"
    world.assert_clean()


async def test_client_stall_of_a_whole_answer(nursery: trio.Nursery, autojump_clock: object) -> None:
    """A client that does not read a whole answer holds it for client_stall_s, not for total_s."""
    world = await build_pipeline(nursery, {"a": [script(Send(whole(answer_body())))]}, timeouts=TIMES)
    exchange = FakeExchange(request_body(stream=False), stall_at=0)
    await world.pipeline.handle(exchange)
    assert trio.current_time() == 7
    assert world.record.ended == "client_stalled"
    world.assert_clean()


async def test_client_stall_of_an_error(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [Script(refused=True)]}, timeouts=TIMES)
    await world.pipeline.handle(FakeExchange(request_body(stream=True), stall_at=0))
    assert trio.current_time() == 7
    assert len(world.records.taken) == 1


async def test_keepalive_comments_fill_a_silence(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await stream(nursery, BEGIN, Wait(17), MORE, Wait(12), END, keepalive_s=5, idle_s=18)
    assert [(when, data) for when, data in exchange.sent if data == KEEPALIVE] == [
        (5.0, KEEPALIVE), (10.0, KEEPALIVE), (15.0, KEEPALIVE), (22.0, KEEPALIVE), (27.0, KEEPALIVE),
    ]  # fmt: skip
    assert exchange.body.replace(KEEPALIVE, b"") == ours(ROLE, WORD, WORD, FINISH, DONE)
    assert world.record.ended == "complete"


async def test_keepalive_does_not_keep_an_idle_provider_alive(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await stream(nursery, BEGIN, HANG, keepalive_s=5)
    assert_error_frame(exchange, world, "timeout")
    assert exchange.ended_at == 20


async def test_keepalive_though_the_provider_sends_what_the_client_never_sees(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    """Comments of the provider are dropped and half a frame is held: the client's side is silent all the same."""
    steps = [BEGIN, *[step for _ in range(10) for step in (Wait(3), COMMENT)], END]
    world, exchange = await stream(nursery, *steps, keepalive_s=5, idle_s=35)
    times = [when for when, data in exchange.sent if data == KEEPALIVE]
    gaps = [b - a for a, b in zip([0.0, *times], [*times, 30.0], strict=True)]
    assert max(gaps) <= 5
    assert world.record.ended == "complete"


async def test_a_providers_comments_are_no_progress(nursery: trio.Nursery, autojump_clock: object) -> None:
    steps = [BEGIN, *[step for _ in range(10) for step in (Wait(3), COMMENT)], END]
    world, exchange = await stream(nursery, *steps, idle_s=18)
    assert_error_frame(exchange, world, "timeout")
    assert exchange.ended_at == 18


async def test_a_client_that_leaves_during_a_keepalive(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [script(BEGIN, HANG)]}, timeouts=retimed(keepalive_s=5, idle_s=18))
    exchange = FakeExchange(request_body(stream=True))
    nursery.start_soon(exchange.leave_at, 6.0)
    await world.pipeline.handle(exchange)
    assert trio.current_time() == 6
    assert world.upstream.transports[0].closed_at == 6
    assert world.record.ended == "client_gone"
    world.assert_clean()


BREAKS: dict[str, tuple[Step, ...]] = {
    "cut": (BEGIN, Wait(1), Close()),
    "reset": (BEGIN, Wait(1), Reset()),
    "cut inside a frame": (BEGIN, Send(chunk(WORD[:-20])), Wait(1), Close()),
    "cut inside a chunk": (BEGIN, Send(chunk(WORD)[:-20]), Wait(1), Close()),
    "complete but without finish": (BEGIN, Wait(1), Send(LAST_CHUNK)),
    "ended by the end without finish": (Send(SSE_HEAD_TO_END + ROLE + WORD), Wait(1), Close()),
    "ended by the end inside a frame": (Send(SSE_HEAD_TO_END + ROLE + WORD + WORD[:-9]), Wait(1), Close()),
    "error frame": (BEGIN, Wait(1), Send(chunk(b'data: {"error":{"code":500,"message":"secret"}}\n\n')), HANG),
    "event: error": (BEGIN, Wait(1), Send(chunk(b'event: error\ndata: {"message":"secret"}\n\n')), HANG),
    "garbage": (BEGIN, Wait(1), Send(chunk(b"data: {secret\n\n")), HANG),
    "broken chunking": (BEGIN, Wait(1), Send(b"zz\r\n"), HANG),
    "another response": (BEGIN, Wait(1), Send(b"HTTP/1.1 200 OK\r\n\r\n"), HANG),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_a_provider_that_breaks_off(name: str, nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await stream(nursery, *BREAKS[name])
    assert_error_frame(exchange, world, "upstream_broken")
    assert exchange.body.startswith(ours(ROLE, WORD))
    assert b"secret" not in exchange.body
    assert world.upstream.transports[0].closed_at == 1
    assert len(exchange.frames()) == 3
    assert world.record.ended.startswith("upstream_")
    assert world.record.completion_tokens == 1
    assert len(world.upstream.times()) == 1


@pytest.mark.parametrize("tail", [LAST_CHUNK, chunk(b"data: {nope\n\n"), chunk(b'data: {"error":{"code":500}}\n\n')])
async def test_frames_that_came_with_the_fault_reach_the_client(
    tail: bytes, nursery: trio.Nursery, autojump_clock: object
) -> None:
    """One read holds good frames and then the fault: the client gets what came before it."""
    world, exchange = await stream(nursery, BEGIN, Wait(1), Send(chunk(WORD) + chunk(WORD) + tail), HANG)
    assert_error_frame(exchange, world, "upstream_broken")
    assert exchange.body.startswith(ours(ROLE, WORD, WORD, WORD))
    assert world.record.completion_tokens == 3


async def test_an_error_frame_belongs_to_its_stream(nursery: trio.Nursery, autojump_clock: object) -> None:
    """Its id and creation time are those of the chunks before it: readers group chunks by id."""
    world, exchange = await stream(nursery, *BREAKS["cut"])
    last = assert_error_frame(exchange, world, "upstream_broken")
    assert (last["id"], last["created"]) == ("chatcmpl-7", 7)


async def test_no_done_but_a_finish(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await stream(nursery, BEGIN, Wait(1), Send(chunk(FINISH) + LAST_CHUNK))
    assert exchange.body == ours(ROLE, WORD, FINISH, DONE)
    assert world.record.ended == "complete"
    world.assert_clean()


async def test_extra_blank_lines_do_no_harm(nursery: trio.Nursery, autojump_clock: object) -> None:
    world, exchange = await stream(nursery, BEGIN, Wait(1), Send(chunk(WORD + b"\n")), Wait(1), END)
    assert [frame.strip() for frame in exchange.frames()] == [
        f.strip() for f in map(ours, (ROLE, WORD, WORD, FINISH, DONE))
    ]
    assert world.record.ended == "complete"


async def test_shutdown_ends_a_stream_with_an_error_of_ours(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [script(BEGIN, HANG)]}, timeouts=TIMES)
    exchange = FakeExchange(request_body(stream=True))
    async with trio.open_nursery() as calls:
        calls.start_soon(world.pipeline.handle, exchange)
        await trio.sleep(3)
        world.pipeline.begin_draining()
        refused = await world.call()
        await trio.sleep(1)
        world.pipeline.end_live()
    assert refused.status == 503
    assert exchange.ended_at == 4
    assert_error_frame(exchange, world, "shutting_down", "api_error")
    assert world.record.ended == "shutdown"


async def test_done_before_the_last_chunk_ends_the_call_at_once(nursery: trio.Nursery, autojump_clock: object) -> None:
    """And the connection is used again once its last chunk has come."""
    first = (BEGIN, Wait(1), Send(chunk(FINISH) + chunk(DONE)), Wait(1), Send(LAST_CHUNK))
    world, exchange = await stream(nursery, *first, *script(BEGIN, END).steps)
    assert exchange.ended_at == 1
    await trio.sleep(2)
    assert (await world.call()).ended_at == 3
    assert len(world.upstream.transports) == 1
    world.assert_clean()


async def test_a_slow_body_of_the_client_counts_toward_total(nursery: trio.Nursery, autojump_clock: object) -> None:
    class Slow(FakeExchange):
        async def read_body(self) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

    world = await build_pipeline(nursery, {"a": [script(BEGIN, END)]}, timeouts=TIMES)
    exchange = Slow(b"")
    await world.pipeline.handle(exchange)
    assert exchange.status == 504
    assert exchange.ended_at == 100
    assert world.upstream.times() == []
