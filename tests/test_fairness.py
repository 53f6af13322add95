"""A client whose bytes are always ready may not starve the others: the loop comes round, deadlines fire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from tests.lanes import LANES, OpenLane
from tests.process import GatewayProcess
from tests.serving import call, config_text, first_key, gateway, get

ROUND_S = 1.0  # what one answer may take beside a flood, on a machine with every core busy
HEADER_S = 2


@pytest.fixture
def served(tmp_path: Path) -> Iterator[GatewayProcess]:
    with gateway(tmp_path, config_text(server=f"header_s = {HEADER_S}\nbody_s = {HEADER_S}")) as process:
        yield process


def floods(key: str) -> dict[str, tuple[bytes, bytes]]:
    """What is sent once, and what is then sent again and again."""
    auth = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + key.encode()
    chunked = auth + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    return {
        "blank lines": (b"", b"\r\n" * 16384),
        "pipelined refusals": (
            b"",
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" * 400,
        ),
        "one-byte chunks": (chunked, b"1\r\nx\r\n" * 8000),
        "trailers": (chunked + b"0\r\n", b"a: b\r\n" * 8000),
        "one long header": (b"GET / HTTP/1.1\r\nX: ", b"x" * 65536),
    }


async def flood(url: str, once: bytes, again: bytes) -> None:
    address = urlsplit(url)
    stream = await trio.open_tcp_stream(address.hostname or "", address.port or 0)
    async with stream, trio.open_nursery() as nursery:
        nursery.start_soon(_drain, stream)
        try:
            await stream.send_all(once)
            while True:
                await stream.send_all(again)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            nursery.cancel_scope.cancel()


async def _drain(stream: trio.SocketStream) -> None:
    try:
        while await stream.receive_some(65536):
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@pytest.mark.parametrize("name", floods("x"))
async def test_a_flood_does_not_starve_the_others(name: str, served: GatewayProcess) -> None:
    key = first_key(served)
    once, again = floods(key)[name]
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(flood, served.url, once, again)
        for _ in range(10):
            with trio.fail_after(ROUND_S):
                answer = await OpenLane(LANES[0], served.url).ask(get("/health"))
            assert answer.status == 200
            await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    assert (await OpenLane(LANES[0], served.url).ask(call(key))).status == 200


async def test_blank_lines_do_not_keep_a_connection_open(served: GatewayProcess) -> None:
    address = urlsplit(served.url)
    stream = await trio.open_tcp_stream(address.hostname or "", address.port or 0)
    async with stream:
        began = trio.current_time()
        with trio.fail_after(HEADER_S + 5), pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.send_all(b"\r\n")
                await trio.sleep(0.1)
        assert trio.current_time() - began > HEADER_S - 1


async def test_a_million_members_are_refused_before_they_are_made(served: GatewayProcess) -> None:
    key = first_key(served)
    many = call(key, **{f"k{number}": 1 for number in range(400_000)})
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            answer = await OpenLane(LANES[0], served.url).ask(many)
            assert answer.status == 400
            assert b"too many top-level members" in answer.body
            nursery.cancel_scope.cancel()

        nursery.start_soon(ask)
        while True:
            with trio.fail_after(ROUND_S):
                assert (await OpenLane(LANES[0], served.url).ask(get("/health"))).status == 200
            await trio.sleep(0.01)
