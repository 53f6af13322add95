"""Hypercorn's own HTTP/1.1: upgrades, parse errors, broken answers and early ones."""

from __future__ import annotations

import pytest

from tests.hostile.hypercorn import (
    Server,
    assert_own_reply,
    beside_sibling,
    settled,
)
from tests.hostile.peer import exchange

WEBSOCKET = (
    b"GET /%ff%fe?%ff HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x00\x01garbage"
)
H2C = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: %s\r\n\r\n"
)


@pytest.mark.parametrize("request_bytes", [WEBSOCKET, H2C % b"!!!notb64", H2C % b"AAX__w__AAT_____", H2C % b""])
async def test_nothing_upgrades(server: Server, request_bytes: bytes) -> None:
    async def assault(port: int) -> None:
        reply = await exchange(port, request_bytes)
        assert reply.startswith(b"HTTP/1.1 200 ")

    await beside_sibling(server, assault)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nBad Name: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /length HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", 400),
    ],
)
async def test_a_parse_error_is_answered_in_json(server: Server, request_bytes: bytes, status: int) -> None:
    async def assault(port: int) -> None:
        assert_own_reply(await exchange(port, request_bytes), status)

    await beside_sibling(server, assault)


async def test_a_broken_response_over_http1_ends_without_its_last_chunk(server: Server) -> None:
    async def assault(port: int) -> None:
        for path in (b"/raise/mid", b"/return/mid"):
            reply = await exchange(port, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert reply.endswith(b"half of it\r\n")

    await beside_sibling(server, assault)


async def test_an_early_answer_over_http1_comes_without_continue_and_closes(server: Server) -> None:
    async def assault(port: int) -> None:
        early = b"POST /early/401 HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\nExpect: 100-continue\r\n\r\n"
        reply = await exchange(port, early)
        assert reply.startswith(b"HTTP/1.1 401 ")
        reads = b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
        reply = await exchange(port, reads + b"Connection: close\r\n\r\n", deadline_s=0.3)
        assert reply.startswith(b"HTTP/1.1 100 ")
        unread = b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 200_000
        reply = await exchange(port, unread)
        assert reply.startswith(b"HTTP/1.1 200 ")
        await settled(port, lambda counts: counts["connections"] <= 2)

    await beside_sibling(server, assault)


async def test_a_client_that_leaves_behind_a_pipelined_request_leaves_nothing(server: Server) -> None:
    async def assault(port: int) -> None:
        one = b"GET /sse?n=100000&gap_ms=5 HTTP/1.1\r\nHost: x\r\n\r\n"
        await exchange(port, one + one, deadline_s=0.2)
        await settled(port, lambda counts: counts["connections"] <= 2)

    await beside_sibling(server, assault)
