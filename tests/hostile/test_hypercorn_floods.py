"""HTTP/2 connections that reset, flood or break the protocol: they end, alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import trio
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.hostile.hypercorn import (
    SIBLING_BODY,
    SIBLING_PATH,
    STREAMS_MAX,
    Server,
    assert_alive,
    beside_sibling,
    raw_frame,
    send_if_open,
    settled,
)
from tests.hostile.peer import Peer, head


async def test_rapid_reset_in_a_burst_is_told_to_calm_down(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            for number in range(1, 600):
                # One at a time: a server that closes over unread bytes may lose its own goodbye.
                stream_id = 2 * number - 1
                request = peer.headers(stream_id, head(b"/stubborn"))
                await peer.send(request, RstStreamFrame(stream_id, error_code=8), PingFrame(0))
                await peer.until(lambda number=number: peer.pongs == number)  # type: ignore[misc]
                if peer.closed:
                    break
            assert peer.goaway == ErrorCodes.ENHANCE_YOUR_CALM
        counts = await settled(port, lambda counts: counts["running"] <= 2)
        assert counts["running_peak"] <= STREAMS_MAX + 4

    await beside_sibling(server, assault)


async def test_a_reset_stream_counts_until_its_app_has_left(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            for stream_id in range(1, 2 * STREAMS_MAX, 2):
                await peer.get(stream_id, b"/stubborn")
            # The answer to a ping comes after the streams were taken, so that no reset meets its own request.
            await peer.send(PingFrame(0))
            await peer.until(lambda: peer.pongs == 1)
            await peer.send(*(RstStreamFrame(number, error_code=8) for number in range(1, 2 * STREAMS_MAX, 2)))
            await peer.get(2 * STREAMS_MAX + 1, b"/alive")
            assert (await peer.answer(2 * STREAMS_MAX + 1)).reset == ErrorCodes.REFUSED_STREAM
        counts = await settled(port, lambda counts: counts["running"] <= 2)
        assert counts["running_peak"] <= STREAMS_MAX + 4

    await beside_sibling(server, assault)


async def test_one_stream_too_many_is_refused_alone(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            numbers = range(1, 2 * STREAMS_MAX + 9, 2)
            await peer.send(*(peer.headers(number, [*head(b"/unread"), (b"n", b"%d" % number)]) for number in numbers))
            await peer.until(lambda: all(peer.answers[number].over for number in numbers))
            resets = [peer.answers[number].reset for number in numbers]
            assert resets == [None] * STREAMS_MAX + [ErrorCodes.REFUSED_STREAM] * 4
            assert {bytes(peer.answers[number].body) for number in numbers[:STREAMS_MAX]} == {b"unread"}
            await assert_alive(peer, numbers[-1] + 2)

    await beside_sibling(server, assault)


def flood_frames(peer: Peer, kind: str, number: int) -> list[Frame]:
    """One round of a flood."""
    stream_id = 2 * number + 3
    match kind:
        case "ping":
            return [PingFrame(0)]
        case "settings":
            return [SettingsFrame(0, settings={SettingsFrame.HEADER_TABLE_SIZE: number})]
        case "priority":
            return [PriorityFrame(stream_id, stream_weight=3)]
        case "window":
            return [WindowUpdateFrame(0, 1)]
        case "empty-data":
            return [DataFrame(1, b"")]
        case "unknown":
            return [raw_frame(0xEE, 0, b"x")]
        case "reset":
            return [RstStreamFrame(1, error_code=8)]
    return [peer.headers(stream_id, head(b"/\xff", b"GET"), end=False), WindowUpdateFrame(stream_id, 2**31 - 1)]


FLOODS = ["ping", "settings", "priority", "window", "empty-data", "unknown", "reset", "provoked-reset"]


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_cheap_frames_ends_its_connection(server: Server, kind: str) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream, trio.open_nursery() as nursery:
            await peer.post(1, b"/length")
            nursery.start_soon(peer.until, lambda: False)
            for start in range(0, 5_000, 50):
                if not peer.closed:
                    rounds = (flood_frames(peer, kind, number) for number in range(start, start + 50))
                    await send_if_open(peer, *itertools.chain.from_iterable(rounds))
        assert peer.closed
        assert peer.goaway in (ErrorCodes.ENHANCE_YOUR_CALM, None)
        await settled(port, lambda counts: counts["connections"] <= 2)

    await beside_sibling(server, assault)


async def test_priorities_of_idle_streams_are_ignored(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await peer.get(1, SIBLING_PATH)
            await peer.send(*(PriorityFrame(number, depends_on=number + 2) for number in range(3, 3_000, 2)))
            await peer.send(PriorityFrame(1, depends_on=5, stream_weight=255, exclusive=True))
            await assert_alive(peer, 3)
            assert (await peer.answer(1)).body == SIBLING_BODY

    await beside_sibling(server, assault)


def continuation_flood(peer: Peer) -> list[Frame]:
    """A head that never ends."""
    start = HeadersFrame(1, peer.headers(1, head(b"/")).data, flags=["END_STREAM"])
    return [start, *(ContinuationFrame(1, b"") for _ in range(200))]


def header_bomb(peer: Peer) -> list[Frame]:
    """A small head that decodes to megabytes: one entry of the table, named again and again."""
    data = peer.headers(1, [*head(b"/"), (b"a", b"b" * 3_000)]).data
    return [HeadersFrame(1, data + b"\xbe" * 4_000, flags=["END_HEADERS", "END_STREAM"])]


def bad_hpack(peer: Peer) -> list[Frame]:
    """An index that no table has."""
    del peer
    return [HeadersFrame(1, b"\xff\xff\xff\xff\x0f", flags=["END_HEADERS", "END_STREAM"])]


def push_promise(peer: Peer) -> list[Frame]:
    """Raw bytes of a PUSH_PROMISE, which no client may send."""
    del peer
    return [raw_frame(5, 1, b"\x00\x00\x00\x02")]


def overflow(peer: Peer) -> list[Frame]:
    """A connection window past 2^31 - 1."""
    del peer
    return [WindowUpdateFrame(0, 2**31 - 1)]


def even_stream(peer: Peer) -> list[Frame]:
    """A stream id that only servers may open."""
    return [peer.headers(2, head(b"/"))]


def naked_continuation(peer: Peer) -> list[Frame]:
    """A continuation of nothing."""
    del peer
    return [ContinuationFrame(1, b"x", flags=["END_HEADERS"])]


def bad_setting(peer: Peer) -> list[Frame]:
    """A frame size past 2^24 - 1."""
    del peer
    return [SettingsFrame(0, settings={SettingsFrame.MAX_FRAME_SIZE: 2**31})]


def oversized_frame(peer: Peer) -> list[Frame]:
    """More than the 16 KiB that we allow."""
    del peer
    return [raw_frame(0xEE, 0, b"x" * 20_000)]


CONNECTION_ERRORS = [
    continuation_flood,
    header_bomb,
    bad_hpack,
    push_promise,
    overflow,
    even_stream,
    naked_continuation,
    bad_setting,
    oversized_frame,
]


@pytest.mark.parametrize("frames", CONNECTION_ERRORS)
async def test_what_breaks_a_connection_breaks_only_it(server: Server, frames: Callable[[Peer], list[Frame]]) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await send_if_open(peer, *frames(peer))
            await peer.until(lambda: False)
        await settled(port, lambda counts: counts["connections"] <= 2)

    await beside_sibling(server, assault)
