"""Clients that send a byte at a time, or leave at once: they are timed out or let go, and nothing is kept of them."""

from __future__ import annotations

import random
from functools import partial

import pytest
import trio
from hyperframe.frame import DataFrame, RstStreamFrame

from tests.hostile.gateway import BODY_S, CHAT, HEADER_S, Target, beside_sibling, chat_body, together
from tests.hostile.peer import Peer, head
from tests.lanes import OpenLane
from tests.wire import Answer, write
from tests.wire_h1 import H1Client, encode

LANES = [
    ("clear", "express", 200), ("hypercorn", "hypercorn-h1", 50), ("tls", "tls-h1", 50), ("clear", "h2", 200),
]  # fmt: skip
STORM = 2_000
AT_ONCE = 100
SEED = 20_260_731


async def trickle_h1(lane: OpenLane, target: Target) -> None:
    """A body of which a byte comes each second."""
    request = encode(target.ask(chat_body("sim/words")))
    at = request.index(b"\r\n\r\n") + 4
    async with lane.connect() as stream:
        await write(stream, request[:at])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip, stream, request[at:])
            with trio.fail_after(BODY_S + 3):
                answer = await H1Client(stream).answer()
            nursery.cancel_scope.cancel()
    assert_timed_out(answer)


async def drip(stream: trio.abc.Stream, data: bytes) -> None:
    for at in range(len(data)):
        await write(stream, data[at : at + 1])
        await trio.sleep(1)


def assert_timed_out(answer: Answer) -> None:
    assert answer.status == 408
    assert b'"request_timeout"' in answer.body


async def trickle_h2(lane: OpenLane, target: Target, streams: int) -> None:
    """The same on the streams of one connection."""
    async with lane.connect() as stream:
        peer = await Peer.over(stream)
        numbers = range(1, 2 * streams, 2)
        for number in numbers:
            await peer.send(peer.headers(number, [*head(CHAT.encode(), b"POST"), *target.headers], end=False))
        with trio.fail_after(BODY_S + 3):
            while not all(peer.answers[number].over for number in numbers):
                await peer.send(*(DataFrame(n, b"{") for n in numbers if not peer.answers[n].over))
                with trio.move_on_after(1):
                    await peer.until(lambda: all(peer.answers[number].over for number in numbers))
        assert {peer.answers[number].status for number in numbers} == {"408"}


@pytest.mark.parametrize(("gateway", "lane", "clients"), LANES, ids=[lane for _, lane, _ in LANES])
async def test_bodies_that_trickle_are_timed_out_and_given_back(
    request: pytest.FixtureRequest, gateway: str, lane: str, clients: int
) -> None:
    target: Target = request.getfixturevalue(gateway)
    opened = target.lane(lane)

    async def assault() -> None:
        if lane == "h2":
            await together([partial(trickle_h2, opened, target, 20) for _ in range(clients // 20)])
        else:
            await together([partial(trickle_h1, opened, target) for _ in range(clients)])

    await beside_sibling(target, assault)
    gauges = await target.until_quiet()
    assert gauges["gateway_request_bodies_held_bytes"] == 0


async def test_heads_that_trickle_are_timed_out(clear: Target) -> None:
    async def client() -> None:
        async with clear.lanes[0].connect() as stream, trio.open_nursery() as nursery:
            nursery.start_soon(drip, stream, b"POST " + CHAT.encode() + b" HTTP/1.1\r\n")
            with trio.fail_after(HEADER_S + 3):
                answer = await H1Client(stream).answer()
            assert_timed_out(answer)
            nursery.cancel_scope.cancel()

    await beside_sibling(clear, partial(together, [client] * 200))
    await clear.until_quiet()


async def leave_h1(lane: OpenLane, request: bytes, wait_s: float, limiter: trio.CapacityLimiter) -> None:
    """Ask, and hang up a moment later."""
    async with limiter, lane.connect() as stream:
        await write(stream, request)
        await trio.sleep(wait_s)


async def leave_h2(lane: OpenLane, target: Target, waits_s: list[float], limiter: trio.CapacityLimiter) -> None:
    """Ask again and again on one connection, and reset each time; one request is let through between two resets."""
    body, fields = chat_body("h/stall"), [*head(CHAT.encode(), b"POST"), *target.headers]
    async with limiter, lane.connect() as stream:
        peer = await Peer.over(stream)
        for index, wait_s in enumerate(waits_s):
            number = 4 * index + 1
            await peer.send(peer.headers(number, fields, end=False), DataFrame(number, body, flags=["END_STREAM"]))
            await trio.sleep(wait_s)
            await peer.send(RstStreamFrame(number, error_code=8))
            await peer.get(number + 2, b"/health")
            assert (await peer.answer(number + 2)).status == "200"


@pytest.mark.parametrize("gateway", ["clear", "hypercorn", "tls"])
async def test_a_storm_of_disconnects_leaves_one_record_each_and_nothing_else(
    request: pytest.FixtureRequest, gateway: str
) -> None:
    target: Target = request.getfixturevalue(gateway)
    storm = STORM if gateway == "clear" else STORM // 5
    random_ = random.Random(SEED)
    requests = [encode(target.ask(chat_body(f"h/{name}"))) for name in ("hang", "stall", "bytewise", "flood")]
    await target.until_quiet()
    before_records, before_files = target.records("model != 'sim/words'"), target.descriptors()
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def assault() -> None:
        lane = target.lanes[0]
        await together(
            [
                partial(leave_h1, lane, requests[n % 4], random_.choice((0.0005, 0.001, 0.003)), limiter)
                for n in range(storm)
            ]
        )

    await beside_sibling(target, assault, within_s=40)
    gauges = await target.until_quiet()
    assert gauges["gateway_streams_pumped"] == 0
    assert target.descriptors() <= before_files + 16
    assert target.records("model != 'sim/words'") - before_records == storm


@pytest.mark.parametrize("gateway", ["clear", "tls"])
async def test_a_storm_of_resets_leaves_nothing(request: pytest.FixtureRequest, gateway: str) -> None:
    target: Target = request.getfixturevalue(gateway)
    random_, limiter = random.Random(SEED), trio.CapacityLimiter(AT_ONCE)
    lane = target.lanes[1]
    await target.until_quiet()
    files = target.descriptors()
    waits = [[random_.choice((0.0, 0.001, 0.003)) for _ in range(20)] for _ in range(20)]
    await beside_sibling(target, partial(together, [partial(leave_h2, lane, target, some, limiter) for some in waits]))
    gauges = await target.until_quiet()
    assert gauges["gateway_calls_in_flight"] == 0
    assert target.descriptors() <= files + 16
