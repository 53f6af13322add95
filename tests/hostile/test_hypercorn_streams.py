"""One HTTP/2 stream that goes wrong costs itself: heads, bodies and answers beside honest streams."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import (
    DataFrame,
    RstStreamFrame,
    SettingsFrame,
)

from tests.hostile.hypercorn import (
    SIBLING_BODY,
    SIBLING_PATH,
    STREAMS_MAX,
    Server,
    assert_alive,
    assert_own_answer,
    assert_own_reply,
    beside_sibling,
)
from tests.hostile.peer import Peer, exchange, head

WRONG_HEADS: list[tuple[str, list[tuple[bytes, bytes]], int | None]] = [
    ("path-not-ascii", head(b"/\xff\xfe"), 400),
    ("path-not-absolute", head(b"x"), 400),
    ("method-not-ascii", head(b"/", b"G\xffT"), 400),
    ("method-no-token", head(b"/", b"G T"), 400),
    ("authority-not-ascii", [*head(b"/")[:3], (b":authority", b"\xff")], 400),
    ("authority-userinfo", [*head(b"/")[:3], (b":authority", b"a:b@x")], 400),
    ("connect", [(b":method", b"CONNECT"), (b":authority", b"x:1")], 405),
    ("connect-lowercase", head(b"/", b"connect"), 405),
    ("connect-protocol", [*head(b"/\xff", b"CONNECT"), (b":protocol", b"foo")], None),
    ("connect-path", head(b"/", b"CONNECT"), None),
    ("path-missing", [field for field in head(b"/") if field[0] != b":path"], None),
    ("path-empty", head(b""), None),
    ("method-missing", head(b"/")[1:], None),
    ("pseudo-unknown", [*head(b"/"), (b":x", b"y")], None),
    ("pseudo-twice", [*head(b"/"), (b":path", b"/")], None),
    ("pseudo-late", [*head(b"/")[:3], (b"a", b"b"), (b":authority", b"x")], None),
    ("status-in-request", [(b":status", b"100"), *head(b"/")], None),
    ("name-uppercase", [*head(b"/"), (b"Aa", b"b")], None),
    ("value-newline", [*head(b"/"), (b"a", b"b\r\nc: d")], None),
    ("connection-field", [*head(b"/"), (b"connection", b"close")], None),
    ("length-no-number", [*head(b"/"), (b"content-length", b"abc")], None),
    ("host-differs", [*head(b"/"), (b"host", b"y")], None),
]


@pytest.mark.parametrize(("fields", "status"), [row[1:] for row in WRONG_HEADS], ids=[row[0] for row in WRONG_HEADS])
async def test_a_wrong_head_costs_its_own_stream(
    server: Server, fields: list[tuple[bytes, bytes]], status: int | None
) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await peer.get(1, SIBLING_PATH)
            await peer.send(peer.headers(3, fields))
            answer = await peer.answer(3)
            if status is None:
                assert answer.reset == ErrorCodes.PROTOCOL_ERROR
            else:
                assert_own_answer(answer, status)
            await assert_alive(peer, 5)
            assert (await peer.answer(1)).body == SIBLING_BODY
            assert peer.goaway is None

    await beside_sibling(server, assault)


@pytest.mark.parametrize("status", [401, 402, 413, 429])
async def test_a_body_after_its_answer_is_dropped_and_its_window_given_back(server: Server, status: int) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await peer.get(1, SIBLING_PATH)
            await peer.post(3, b"/early/%d" % status, (b"content-length", b"99999999"))
            answer = await peer.answer(3)
            assert (answer.status, bytes(answer.body)) == (str(status), b"refused")
            opened_bytes = peer.answers[0].credited_bytes
            await peer.send(*(DataFrame(3, b"x" * 10_000) for _ in range(6)))
            await peer.until(lambda: answer.credited_bytes >= 30_000)
            await assert_alive(peer, 5)
            for _ in range(60):
                window = answer.credited_bytes
                await peer.send(*(DataFrame(3, b"x" * 16_384) for _ in range(2)))
                await peer.until(lambda window=window: answer.credited_bytes > window)  # type: ignore[misc]
            await peer.until(lambda: peer.answers[0].credited_bytes > opened_bytes)
            assert (await peer.answer(1)).body == SIBLING_BODY
            await assert_alive(peer, 7)

    await beside_sibling(server, assault)


async def test_a_body_that_never_ends_after_its_answer_is_reset(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await peer.post(1, b"/early/401")
            answer = await peer.answer(1)
            sent_bytes = 0
            while answer.reset is None:
                await peer.send(*(DataFrame(1, b"x" * 16_000) for _ in range(2)))
                sent_bytes += 2 * 16_000

                def moved_on(wanted_bytes: int = sent_bytes - 33_000) -> bool:
                    return answer.credited_bytes >= wanted_bytes or answer.reset is not None

                await peer.until(moved_on)
            assert answer.reset == ErrorCodes.NO_ERROR
            assert sent_bytes <= 9_000_000
            await peer.send(*(DataFrame(1, b"x" * 10_000) for _ in range(3)))
            await assert_alive(peer, 3)

    await beside_sibling(server, assault)


async def test_an_app_that_does_not_read_its_body_holds_no_sibling(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await peer.post(1, b"/unread")
            await peer.send(*(DataFrame(1, b"x" * 1_000) for _ in range(60)))
            await assert_alive(peer, 3)
            assert not peer.answers[1].over
            assert peer.answers[1].credited_bytes == 0
            assert (await peer.answer(1)).body == b"unread"
            await peer.send(RstStreamFrame(1, error_code=ErrorCodes.NO_ERROR))
            await assert_alive(peer, 5)

    await beside_sibling(server, assault)


async def test_a_body_larger_than_every_window_arrives_whole(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await peer.post(1, b"/length")
            answer = peer.answers[1]
            for number in range(150):
                await peer.until(lambda number=number: answer.credited_bytes + 65_535 >= (number + 1) * 16_101)  # type: ignore[misc]
                await peer.send(DataFrame(1, b"x" * 16_000, pad_length=100, flags=["PADDED"]))
            await peer.send(DataFrame(1, b"", flags=["END_STREAM"]))
            assert (await peer.answer(1)).body == b"%d" % (150 * 16_000)

    await beside_sibling(server, assault)


@pytest.mark.parametrize("path", [b"/raise/mid", b"/return/mid"])
async def test_a_broken_response_resets_its_own_stream_after_what_it_had(server: Server, path: bytes) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await peer.get(1, SIBLING_PATH)
            await peer.get(3, path)
            answer = await peer.answer(3)
            assert (answer.status, bytes(answer.body)) == ("200", b"half of it")
            assert (answer.ended, answer.reset) == (False, ErrorCodes.INTERNAL_ERROR)
            assert (await peer.answer(1)).body == SIBLING_BODY
            await assert_alive(peer, 5)

    await beside_sibling(server, assault)


async def test_a_failure_before_the_response_is_a_json_500(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await peer.get(1, b"/raise/first")
            assert_own_answer(await peer.answer(1), 500)
            await peer.send(peer.headers(3, head(b"/raise/first", b"HEAD")))
            answer = await peer.answer(3)
            assert (answer.status, answer.ended, bytes(answer.body)) == ("500", True, b"")
            await peer.get(5, b"/bad/header")
            assert (await peer.answer(5)).over
            await assert_alive(peer, 7)
        reply = await exchange(port, b"GET /raise/first HTTP/1.1\r\nHost: x\r\n\r\n")
        assert_own_reply(reply, 500)

    await beside_sibling(server, assault)


@pytest.mark.parametrize("announced", [b"5", b"50"])
async def test_a_body_of_another_length_costs_its_own_stream(server: Server, announced: bytes) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await peer.post(1, b"/length", (b"content-length", announced))
            await peer.send(DataFrame(1, b"x" * 20, flags=["END_STREAM"]))
            assert (await peer.answer(1)).reset == ErrorCodes.PROTOCOL_ERROR
            await peer.post(3, b"/length")
            await peer.send(peer.headers(3, [(b":path", b"/")]))
            assert (await peer.answer(3)).reset == ErrorCodes.PROTOCOL_ERROR
            await assert_alive(peer, 5)

    await beside_sibling(server, assault)


async def test_neither_push_nor_connect_protocol_is_offered(server: Server) -> None:
    async def assault(port: int) -> None:
        peer = await Peer.open(port)
        async with peer.stream:
            await assert_alive(peer, 1)
            assert peer.settings.get(SettingsFrame.ENABLE_CONNECT_PROTOCOL, 0) == 0
            assert peer.settings[SettingsFrame.MAX_CONCURRENT_STREAMS] == STREAMS_MAX
            unknown = dict.fromkeys(range(100, 250), 7)
            await peer.send(SettingsFrame(0, settings=unknown), SettingsFrame(0, settings={1: 2**32 - 1}))
            for stream_id in range(3, 60, 2):
                await assert_alive(peer, stream_id)

    await beside_sibling(server, assault)
