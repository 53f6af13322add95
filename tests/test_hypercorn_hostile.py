"""Hostile clients against Hypercorn as we fix it: a real process, real sockets, frames of our own making.

Every test runs beside a sibling: an event stream on another connection, all of whose events must arrive. After each
test the process is up and no fault has reached a connection's guard.
"""

from __future__ import annotations

import itertools
import json
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from h2.errors import ErrorCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.hostile_peer import Answer, Peer, exchange, head

Assault = Callable[[int], Awaitable[None]]
DEADLINE_S = 8
ROOT = Path(__file__).parent.parent
SIBLING_PATH = b"/sse?n=30&gap_ms=10"
SIBLING_BODY = b"".join(b"data: %d\n\n" % number for number in range(30))
STREAMS_MAX = 32


class Server:
    """The process under attack."""

    def __init__(self, idle_s: float = 60) -> None:
        command = [sys.executable, "-m", "tests.hostile_app", str(idle_s)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * 4_096

    def stop(self) -> None:
        """End the process, whatever state it is in."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One process for the module: what one test breaks, the next one sees."""
    running = Server()
    yield running
    running.stop()


async def stats(port: int) -> dict[str, int]:
    """The server's own counts."""
    peer = await Peer.open(port)
    async with peer.stream:
        await peer.get(1, b"/stats")
        counts: dict[str, int] = json.loads((await peer.answer(1)).body)
    return counts


async def settled(port: int, done: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """The counts once they are `done`; the deadline is the caller's."""
    while not done(counts := await stats(port)):  # noqa: ASYNC110 - the counts of another process
        await trio.sleep(0.02)
    return counts


async def beside_sibling(server: Server, assault: Assault) -> None:
    """Run `assault` while another connection streams; nothing of the stream may be lost, no guard needed."""
    with trio.fail_after(DEADLINE_S):
        sibling = await Peer.open(server.port)
        async with sibling.stream:
            await sibling.get(1, SIBLING_PATH)
            await assault(server.port)
            assert (await sibling.answer(1)).body == SIBLING_BODY
        counts = await stats(server.port)
    assert counts["faults"] == 0
    assert counts["websockets"] == 0
    assert server.process.poll() is None


async def assert_alive(peer: Peer, stream_id: int) -> None:
    """The connection still serves a new stream."""
    await peer.get(stream_id, b"/alive")
    answer = await peer.answer(stream_id)
    assert (answer.status, bytes(answer.body)) == ("200", b"/alive")


def assert_own_answer(answer: Answer, status: int) -> None:
    """An answer of the server itself: JSON with one fresh request id under both names."""
    assert answer.status == str(status)
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert answer.headers["x-request-id"] == answer.headers["request-id"]
    assert uuid.UUID(answer.headers["request-id"]).version == 4
    assert json.loads(answer.body) == {"status": status, "id": answer.headers["request-id"]}


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


async def send_if_open(peer: Peer, *frames: Frame) -> None:
    """Send to a server that may have hung up."""
    try:
        await peer.send(*frames)
    except trio.BrokenResourceError:
        peer.closed = True


def raw_frame(kind: int, stream_id: int, body: bytes) -> Frame:
    """A frame of any type, with the flag END_HEADERS."""
    frame = ExtensionFrame(type=kind, stream_id=stream_id, flag_byte=4, body=body)
    # hyperframe leaves the length of these at zero.
    frame.body_len = len(body)
    return frame


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
            unknown = {code: 7 for code in range(100, 250)}
            await peer.send(SettingsFrame(0, settings=unknown), SettingsFrame(0, settings={1: 2**32 - 1}))
            for stream_id in range(3, 60, 2):
                await assert_alive(peer, stream_id)

    await beside_sibling(server, assault)


def assert_own_reply(reply: bytes, status: int) -> None:
    """The same as `assert_own_answer`, over HTTP/1.1."""
    top, _, body = reply.partition(b"\r\n\r\n")
    line, *fields = top.decode("ascii").split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    answer = Answer({":status": line.split()[1], **headers}, bytearray(body))
    assert_own_answer(answer, status)
    assert headers["connection"] == "close"


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


async def wait_exit(process: subprocess.Popen[Any]) -> int:
    """The exit code, once there is one; the deadline is the caller's."""
    while (code := process.poll()) is None:  # noqa: ASYNC110 - another process
        await trio.sleep(0.02)
    return code


@pytest.mark.parametrize("stalled_by", ["socket", "window"])
async def test_a_client_that_does_not_read_cannot_hold_the_stop(stalled_by: str) -> None:
    server = Server()
    largest = 2**31 - 1 if stalled_by == "socket" else 0
    try:
        with trio.fail_after(DEADLINE_S):
            peer = await Peer.open(server.port, settings={SettingsFrame.INITIAL_WINDOW_SIZE: largest}, credit=False)
            async with peer.stream:
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
