"""Clients of HTTP/2 that do not read, or read by single bytes: no memory, no socket kept, no sibling slowed."""

from __future__ import annotations

import trio
from h2.errors import ErrorCodes
from hyperframe.frame import (
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.hostile.hypercorn import (
    SIBLING_BODY,
    SIBLING_PATH,
    Server,
    assert_alive,
    beside_sibling,
    settled,
    stats,
)
from tests.hostile.peer import Peer


async def test_a_client_that_never_opens_its_window_costs_no_memory(server: Server) -> None:
    async def assault(port: int) -> None:
        before_bytes = server.rss_bytes()
        flooded_bytes = (await stats(port))["flooded_bytes"]
        peer = await Peer.open(port, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}, credit=False)
        async with peer.stream:
            for stream_id in range(1, 20, 2):
                await peer.get(stream_id, b"/flood")
            await peer.get(21, b"/deaf-flood")
            await peer.until(lambda: all(peer.answers[number].over for number in range(1, 22, 2)))
            assert {peer.answers[number].reset for number in range(1, 22, 2)} == {ErrorCodes.CANCEL}
            await peer.send(PingFrame(0))
            await peer.until(lambda: peer.pongs == 1)
        counts = await settled(port, lambda counts: counts["running"] <= 2)
        assert counts["flooded_bytes"] - flooded_bytes < 20 * 65_536
        assert server.rss_bytes() - before_bytes < 20_000_000

    await beside_sibling(server, assault)


async def test_a_window_opened_by_single_bytes_is_no_reader(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}, credit=False)
        async with peer.stream:
            await peer.get(1, b"/flood")
            answer = peer.answers[1]
            while not answer.over:
                await peer.send(WindowUpdateFrame(1, 1))
                with trio.move_on_after(0.1):
                    await peer.answer(1)
            assert answer.reset == ErrorCodes.CANCEL
            assert 0 < len(answer.body) < 100

    await beside_sibling(server, assault)


async def test_a_large_answer_reaches_an_honest_reader_whole(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await peer.get(1, b"/flood")
            await peer.get(3, SIBLING_PATH)
            assert (await peer.answer(3)).body == SIBLING_BODY
            assert len(peer.answers[1].body) > 1_000_000
            await peer.send(RstStreamFrame(1, error_code=ErrorCodes.CANCEL))
            await assert_alive(peer, 5)

    await beside_sibling(server, assault)


async def test_a_socket_that_nobody_reads_is_closed(server: Server) -> None:
    async def assault(port: int) -> None:
        largest = 2**31 - 1
        peer = await Peer.open(port, settings={SettingsFrame.INITIAL_WINDOW_SIZE: largest}, credit=False)
        async with peer.stream:
            await peer.send(WindowUpdateFrame(0, largest - 65_535))
            await peer.get(1, b"/flood")
            await settled(port, lambda counts: counts["connections"] == 3 and counts["running"] == 3)
            await settled(port, lambda counts: counts["connections"] <= 2 and counts["running"] <= 2)

    await beside_sibling(server, assault)


async def test_streams_share_a_connection_by_turns(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            for stream_id in (1, 3, 5):
                await peer.get(stream_id, b"/flood")
            await peer.until(lambda: sum(len(peer.answers[number].body) for number in (1, 3, 5)) > 3_000_000)
            shares = sorted(len(peer.answers[number].body) for number in (1, 3, 5))
            assert shares[2] - shares[0] < 500_000

    await beside_sibling(server, assault)
