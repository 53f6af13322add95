"""Ends: idle connections, and a stop that no client can hold."""

from __future__ import annotations

import signal
import socket

import pytest
import trio
from h2.errors import ErrorCodes
from hyperframe.frame import (
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.hostile.hypercorn import (
    DEADLINE_S,
    Server,
    settled,
    wait_exit,
)
from tests.hostile.peer import Peer


async def test_an_idle_connection_by_prior_knowledge_is_closed() -> None:
    """Cleartext HTTP/2 begins as HTTP/1.1, whose idle clock has just been stopped for a request."""
    server = Server(idle_s=0.5)
    try:
        with trio.fail_after(DEADLINE_S):
            peer = await Peer.open(server.port)
            async with peer.stream:
                await peer.until(lambda: False)
            assert peer.closed
    finally:
        server.stop()


@pytest.mark.parametrize("stalled_by", ["socket", "window"])
async def test_a_client_that_does_not_read_cannot_hold_the_stop(stalled_by: str) -> None:
    server = Server()
    largest = 2**31 - 1 if stalled_by == "socket" else 0
    try:
        with trio.fail_after(DEADLINE_S):
            peer = await Peer.open(server.port, settings={SettingsFrame.INITIAL_WINDOW_SIZE: largest}, credit=False)
            async with peer.stream:
                assert isinstance(peer.stream, trio.SocketStream)
                peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
                await peer.send(WindowUpdateFrame(0, 2**31 - 65_536))
                await peer.get(1, b"/flood")
                await settled(server.port, lambda counts: counts["running"] == 2)
                server.process.send_signal(signal.SIGTERM)
                with trio.fail_after(5):
                    assert await wait_exit(server.process) == 0
    finally:
        server.stop()


async def test_a_stop_finishes_open_streams_and_refuses_new_ones() -> None:
    server = Server()
    try:
        with trio.fail_after(DEADLINE_S):
            peer = await Peer.open(server.port)
            async with peer.stream:
                await peer.get(1, b"/sse?n=60&gap_ms=10")
                await peer.until(lambda: len(peer.answers[1].body) > 0)
                server.process.send_signal(signal.SIGTERM)
                stream_id = 3
                while not peer.answers[stream_id].reset:
                    stream_id += 2
                    await peer.get(stream_id, b"/alive")
                    await peer.answer(stream_id)
                assert peer.answers[stream_id].reset == ErrorCodes.REFUSED_STREAM
                assert peer.goaway == ErrorCodes.NO_ERROR
                assert (await peer.answer(1)).body.endswith(b"data: 59\n\n")
                assert peer.answers[1].ended
                assert await wait_exit(server.process) == 0
    finally:
        server.stop()
