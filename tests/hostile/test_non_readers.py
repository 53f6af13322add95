"""Clients that do not read what they asked for: memory stays, `client_stall_s` ends them, everything is let go.

The provider produces as fast as it is read; unbounded, it would fill hundreds of megabytes in these seconds.
"""

from __future__ import annotations

import socket
from functools import partial

import pytest
import trio
from hyperframe.frame import DataFrame, SettingsFrame, WindowUpdateFrame

from tests.hostile.gateway import CHAT, STALL_S, Target, beside_sibling, chat_body, together
from tests.hostile.peer import Peer, head
from tests.lanes import OpenLane
from tests.wire import Ask
from tests.wire_h1 import encode

CLIENTS = 50
GROWTH_BYTES_MAX = 60_000_000
WATCH_S = STALL_S + 1.5


async def ask_and_not_read(lane: OpenLane, ask: Ask) -> None:
    """HTTP/1.1: send, then leave the socket alone until the gateway has given up."""
    async with lane.connect() as stream:
        raw = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        assert isinstance(raw, trio.SocketStream)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        await stream.send_all(encode(ask))
        await trio.sleep(WATCH_S + 1)


async def open_and_keep_shut(lane: OpenLane, target: Target, streams: int, drip_s: float | None) -> None:
    """HTTP/2: many streams with a window of nothing, opened by single bytes when `drip_s` is given."""
    body = chat_body("h/flood")
    async with lane.connect() as stream:
        peer = await Peer.over(stream, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}, credit=False)
        numbers = range(1, 2 * streams, 2)
        for number in numbers:
            fields = [*head(CHAT.encode(), b"POST"), *target.headers]
            await peer.send(peer.headers(number, fields, end=False), DataFrame(number, body, flags=["END_STREAM"]))
        with trio.fail_after(2 * STALL_S + 4):
            while not peer.closed and not all(peer.answers[number].over for number in numbers):
                with trio.move_on_after(drip_s or 100):
                    await peer.until(lambda: all(peer.answers[number].over for number in numbers))
                if drip_s and not peer.closed:
                    await peer.send(*(WindowUpdateFrame(n, 1) for n in numbers if not peer.answers[n].over))
        assert all(peer.answers[number].status == "200" for number in numbers)


async def grow(target: Target, peak: list[int]) -> None:
    """Watch the memory of the process."""
    with trio.move_on_after(WATCH_S + 1):
        while True:
            peak.append(target.rss_bytes())
            await trio.sleep(0.05)


KINDS = [
    ("clear", "express"), ("hypercorn", "hypercorn-h1"), ("tls", "tls-h1"), ("clear", "h2"), ("tls", "tls-h2"),
]  # fmt: skip


@pytest.mark.parametrize(("gateway", "lane"), KINDS, ids=[lane for _, lane in KINDS])
async def test_clients_that_do_not_read_cost_little_and_end(
    request: pytest.FixtureRequest, gateway: str, lane: str
) -> None:
    target: Target = request.getfixturevalue(gateway)
    opened = target.lane(lane)
    await beside_sibling(target, partial(trio.sleep, 0))
    await target.until_quiet()
    before_bytes, before_files, peak = target.rss_bytes(), target.descriptors(), [0]
    stalled = target.records("ended = 'client_stalled' or ended = 'client_gone'")

    async def assault() -> None:
        if lane.endswith("h2"):
            clients = [partial(open_and_keep_shut, opened, target, 10, None) for _ in range(CLIENTS // 10)]
        else:
            clients = [partial(ask_and_not_read, opened, target.ask(chat_body("h/flood"))) for _ in range(CLIENTS)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(grow, target, peak)
            nursery.start_soon(together, clients)
            await trio.sleep(WATCH_S)
            assert target.records("ended in ('client_stalled', 'client_gone')") - stalled == CLIENTS

    await beside_sibling(target, assault)
    await target.until_quiet()
    print(f"{lane}: grown by {(max(peak) - before_bytes) / 1e6:.1f} MB for {CLIENTS}")
    assert max(peak) - before_bytes < GROWTH_BYTES_MAX
    assert target.descriptors() <= before_files + 8  # warm connections to the provider of the sibling


async def test_a_window_opened_by_single_bytes_is_no_reader(clear: Target) -> None:
    await beside_sibling(clear, partial(open_and_keep_shut, clear.lane("h2"), clear, 5, 0.2))
    await clear.until_quiet()


@pytest.mark.parametrize("lane", ["express", "h2"])
async def test_a_slow_reader_is_no_non_reader(clear: Target, lane: str) -> None:
    """8 MB are more than any buffer on the way; nothing of them may be lost or cut."""

    async def assault() -> None:
        answer = await clear.lane(lane).ask(clear.ask(chat_body("h/long-line")))
        assert answer.end == "whole"
        assert answer.body.count(b"y") >= 8_000_000

    await beside_sibling(clear, assault)
