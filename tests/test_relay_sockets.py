"""Streams through the pump: real sockets at both ends, every fault, slow clients, and clients that leave."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from gateway.config import Timeouts
from gateway.dialects.sse import KEEPALIVE
from gateway.exchange import ClientGone, Headers
from gateway.pollset import PEER_CLOSED, PollSet
from gateway.relay.pump import Pump
from gateway.upstream.http1 import ResponseReader
from tests.exchanges import FakeExchange, World, build_pipeline, request_body, retimed
from tests.streams import pieces
from tests.upstream import (
    DONE,
    FINISH,
    GOOD_STREAM,
    HANG,
    LAST_CHUNK,
    ROLE,
    SSE_HEAD,
    SSE_HEAD_TO_END,
    USAGE,
    WORD,
    Close,
    Flood,
    Request,
    Reset,
    Script,
    Send,
    SocketUpstream,
    Step,
    Wait,
    chunk,
    frame,
    script,
    streamed,
)

DEADLINE_S = 20.0
TICK_S = 0.02
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BEGIN = Send(SSE_HEAD + chunk(ROLE) + chunk(WORD))
END = Send(chunk(FINISH) + chunk(USAGE) + chunk(DONE) + LAST_CHUNK)
PAUSE = Wait(0.03)


def ours(*frames: bytes) -> bytes:
    return b"".join(frames).replace(b"up-model", b"test/model")


class SocketExchange(FakeExchange):
    """An exchange whose client is a socket, chunk-framed as on the wire."""

    def __init__(self, pollset: PollSet, body: bytes, *, watched: bool = True) -> None:
        super().__init__(body)
        self._pollset = pollset
        self._watched = watched
        self._ours, self.client = trio.socket.socketpair()
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self.owed = b""

    def close(self) -> None:
        self._pollset.remove(self._ours.fileno(), PEER_CLOSED)
        self._ours.close()

    def watch(self, scope: trio.CancelScope) -> None:
        super().watch(scope)
        if self._watched:
            self._pollset.add(self._ours.fileno(), PEER_CLOSED, self.leave)

    async def start(self, status: int, headers: Headers, first: bytes, *, last: bool = False) -> None:
        self._begin("start", status, headers)
        await self._send_all(HEAD + self.wire(first, last=last))
        if last:
            self.finished()

    async def send(self, data: bytes) -> None:
        await self._send_all(self.wire(data, last=False))

    async def finish(self, last: bytes = b"") -> None:
        assert self.ended_at is None
        await self._send_all(self.wire(last, last=True))
        self.finished()

    def pump_fd(self) -> int | None:
        return self._ours.fileno()

    def wire(self, data: bytes, *, last: bool) -> bytes:
        return chunk(data) + (LAST_CHUNK if last else b"")

    def owe(self, wire: bytes) -> None:
        self.owed += wire

    def finished(self) -> None:
        self.ended_at = trio.current_time()

    async def _send_all(self, data: bytes) -> None:
        data, self.owed = self.owed + data, b""
        while data:
            try:
                data = data[await self._ours.send(data) :]
            except OSError as exc:
                raise ClientGone from exc


class Client:
    """Reads what an exchange was sent; the chunk framing has to hold."""

    def __init__(self, exchange: SocketExchange) -> None:
        self._socket = exchange.client
        self._reader = ResponseReader()
        self.body = b""

    async def read(self) -> bytes:
        """To the end of the answer."""
        while not self._reader.complete:
            await self.read_some()
        return self.body

    async def read_some(self) -> None:
        self.body += self._reader.feed(await self._socket.recv(65536))

    def leave(self) -> None:
        self._socket.close()


class Rig:
    """A gateway of one provider on sockets, pump and poll set running."""

    def __init__(self, world: World, upstream: SocketUpstream, pollset: PollSet, pump: Pump) -> None:
        self.world = world
        self.upstream = upstream
        self.pollset = pollset
        self.pump = pump
        self.exchanges: list[SocketExchange] = []

    def exchange(self, **more: Any) -> SocketExchange:
        exchange = SocketExchange(self.pollset, request_body(stream=True), **more)
        self.exchanges.append(exchange)
        return exchange

    async def handle(self, exchange: SocketExchange) -> None:
        try:
            await self.world.pipeline.handle(exchange)
        finally:
            exchange.close()

    async def call(self, **more: Any) -> bytes:
        """One call of a client that reads all; what it read."""
        exchange = self.exchange(**more)
        client = Client(exchange)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.handle, exchange)
            body = await client.read()
        client.leave()
        return body

    def assert_clean(self) -> None:
        assert len(self.pump) == 0
        assert len(self.pollset) == 0
        self.world.assert_clean()


@asynccontextmanager
async def rig(*scripts: Script, **times: float) -> AsyncIterator[Rig]:
    """The services run in a nursery of this context; nothing of them outlives it."""
    pollset = PollSet()
    pump = Pump(pollset)
    upstream = SocketUpstream(scripts)
    limits: Timeouts = retimed(**times)
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as services:
            port = await services.start(_run_upstream, upstream)
            services.start_soon(pollset.run)
            services.start_soon(pump.run, TICK_S)
            world = await build_pipeline(services, {"a": scripts}, timeouts=limits, ports={"a": port}, pump=pump)
            made = Rig(world, upstream, pollset, pump)
            try:
                yield made
                made.assert_clean()
            finally:
                world.pool.close_idle()
                for exchange in made.exchanges:
                    exchange.client.close()
                services.cancel_scope.cancel()


async def _run_upstream(upstream: SocketUpstream, *, task_status: trio.TaskStatus[int]) -> None:
    await upstream.run(task_status=task_status)


async def test_a_good_stream() -> None:
    async with rig(script(BEGIN, PAUSE, Send(chunk(WORD)), PAUSE, END)) as r:
        assert await r.call() == ours(ROLE, WORD, WORD, FINISH, DONE)
        assert r.world.record.ended == "complete"
        assert r.world.record.bytes_out == len(ours(ROLE, WORD, WORD, FINISH, DONE))


async def test_split_at_every_byte() -> None:
    utf8 = frame({"content": "é漢😀"})
    raw = streamed(WORD, utf8, b": c\n\n", WORD, FINISH, USAGE, DONE)
    steps = [step for byte in pieces(raw, range(len(raw))) for step in (Send(byte), Wait(0))]
    async with rig(script(*steps)) as r:
        assert await r.call() == ours(WORD, utf8, WORD, FINISH, DONE)


async def test_crlf_and_cr() -> None:
    for eol in (b"\r\n", b"\r"):
        raw = streamed(*(f.replace(b"\n", eol) for f in (ROLE, WORD, WORD, FINISH, DONE)))
        steps = [step for piece in pieces(raw, range(0, len(raw), 3)) for step in (Send(piece), Wait(0))]
        async with rig(script(*steps)) as r:
            assert await r.call() == ours(ROLE, WORD, WORD, FINISH, DONE).replace(b"\n", eol)


async def test_a_5_mb_line() -> None:
    long = frame({"content": 'x"model": "up-model"' * 250_000})
    async with rig(script(BEGIN, PAUSE, Send(chunk(long)), END)) as r:
        assert await r.call() == ours(ROLE, WORD) + long.replace(b"up-model", b"test/model", 1) + ours(FINISH, DONE)


BREAKS: dict[str, tuple[Sequence[Step], str]] = {
    "cut": ((BEGIN, PAUSE, Send(chunk(WORD)), PAUSE, Close()), "upstream_cut"),
    "reset": ((BEGIN, PAUSE, Send(chunk(WORD)), PAUSE, Reset()), "upstream_cut"),
    "cut inside a frame": ((BEGIN, PAUSE, Send(chunk(WORD)), Send(chunk(WORD[:-9])), Close()), "upstream_cut"),
    "no finish": ((BEGIN, PAUSE, Send(chunk(WORD)), PAUSE, Send(LAST_CHUNK)), "upstream_cut"),
    "no finish, to the end": ((Send(SSE_HEAD_TO_END + ROLE + WORD), PAUSE, Send(WORD), PAUSE, Close()), "upstream_cut"),
    "error frame": ((BEGIN, PAUSE, Send(chunk(WORD)), PAUSE, Send(chunk(b'data: {"object":"error"}\n\n')), HANG),
                    "upstream_error_frame"),
    "garbage": ((BEGIN, PAUSE, Send(chunk(WORD)), PAUSE, Send(chunk(b"data: {nope\n\n")), HANG), "upstream_bad_frame"),
    "broken chunking": ((BEGIN, PAUSE, Send(chunk(WORD)), PAUSE, Send(b"zz\r\n"), HANG), "upstream_cut"),
    "fault in the same read": ((BEGIN, PAUSE, Send(chunk(WORD) + LAST_CHUNK)), "upstream_cut"),
    "garbage in the same read": ((BEGIN, PAUSE, Send(chunk(WORD + b"data: {nope\n\n")), HANG), "upstream_bad_frame"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
async def test_a_provider_that_breaks_off(name: str) -> None:
    steps, ended = BREAKS[name]
    async with rig(script(*steps)) as r:
        body = await r.call()
        assert body.startswith(ours(ROLE, WORD, WORD))
        assert DONE not in body
        last = json.loads(body[:-2].rpartition(b"\n\ndata: ")[2])
        assert last["error"]["code"] == "upstream_broken"
        assert body.count(b"\n\n") == 4
        assert r.world.record.ended == ended
        await r.upstream.left.wait()


@pytest.mark.parametrize("blank", [b"\n", b"\n\n\n", b"\r\n"])
async def test_odd_blank_lines_end_neither_the_stream_nor_the_pump(blank: bytes) -> None:
    async with rig(script(BEGIN, PAUSE, Send(chunk(WORD + blank)), PAUSE, END)) as r:
        body = await r.call()
        assert [part.strip() for part in body.split(b"\n\n") if part.strip()] == [
            part.strip() for part in ours(ROLE, WORD, WORD, FINISH, DONE).split(b"\n\n") if part.strip()
        ]
        assert r.world.record.ended == "complete"


async def test_one_bad_stream_does_not_disturb_the_others() -> None:
    good = script(BEGIN, *[step for _ in range(10) for step in (PAUSE, Send(chunk(WORD)))], END)
    bad = [script(*steps) for steps, _ in BREAKS.values()]
    bodies: list[bytes] = []

    async def call(r: Rig) -> None:
        bodies.append(await r.call())

    async with rig(good, *bad, good) as r, trio.open_nursery() as calls:
        for _ in range(len(bad) + 10):
            calls.start_soon(call, r)
            await trio.sleep(0.001)
    assert bodies.count(ours(ROLE, *[WORD] * 11, FINISH, DONE)) == 10


async def test_idle() -> None:
    async with rig(script(BEGIN, PAUSE, Send(chunk(WORD)), HANG), idle_s=0.6) as r:
        body = await r.call()
        assert body.startswith(ours(ROLE, WORD, WORD))
        assert json.loads(body[:-2].rpartition(b"\n\ndata: ")[2])["error"]["code"] == "timeout"
        assert r.world.record.ended == "upstream_idle"
        await r.upstream.left.wait()


async def test_total() -> None:
    async with rig(script(BEGIN, *[step for _ in range(500) for step in (PAUSE, Send(chunk(WORD)))]), total_s=0.6) as r:
        body = await r.call()
        assert json.loads(body[:-2].rpartition(b"\n\ndata: ")[2])["error"]["code"] == "timeout"
        assert r.world.record.ended == "timeout"
        await r.upstream.left.wait()


async def test_keepalive_comments_fill_a_silence() -> None:
    async with rig(script(BEGIN, Wait(0.5), Send(chunk(WORD)), PAUSE, END), keepalive_s=0.1) as r:
        body = await r.call()
        assert 2 <= body.count(KEEPALIVE) <= 5
        assert body.replace(KEEPALIVE, b"") == ours(ROLE, WORD, WORD, FINISH, DONE)
        assert r.world.record.ended == "complete"


async def test_keepalive_though_the_provider_sends_comments() -> None:
    comments = [step for _ in range(10) for step in (Wait(0.05), Send(chunk(b": busy\n\n")))]
    async with rig(script(BEGIN, *comments, END), keepalive_s=0.15) as r:
        body = await r.call()
        assert body.count(KEEPALIVE) >= 2
        assert body.replace(KEEPALIVE, b"") == ours(ROLE, WORD, FINISH, DONE)


async def settled_bytes(r: Rig) -> int:
    """How much the provider could send until it was no longer taken."""
    peer = r.upstream.peers[0]
    before = -1
    while before != peer.sent_bytes:
        before = peer.sent_bytes
        await trio.sleep(0.15)
    return before


BLOCK = chunk(WORD * 300)


async def test_a_slow_client_stops_the_reading_and_a_reading_one_resumes_it() -> None:
    async with rig(script(BEGIN, PAUSE, *[Send(BLOCK)] * 200, END)) as r:
        exchange = r.exchange()
        client = Client(exchange)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(r.handle, exchange)
            while len(client.body) < len(ours(ROLE, WORD)):
                await client.read_some()
            blocked_bytes = await settled_bytes(r)
            assert blocked_bytes < 200 * len(BLOCK), "the provider's socket filled up"
            assert r.pump._lanes
            for lane in r.pump._lanes:
                assert 0 < len(lane._backlog) < 200_000, "one read of memory"
            body = await client.read()
        assert body == ours(ROLE, WORD, *[WORD] * 300 * 200, FINISH, DONE)
        assert r.world.record.ended == "complete"


async def test_a_client_that_never_reads_is_ended_after_client_stall_s() -> None:
    async with rig(script(BEGIN, PAUSE, Flood(BLOCK)), client_stall_s=0.3) as r:
        exchange = r.exchange()
        await r.handle(exchange)
        assert r.world.record.ended == "client_stalled"
        await r.upstream.left.wait()
        exchange.client.close()


async def test_a_client_that_reads_slowly_is_no_stalled_one() -> None:
    async with rig(script(BEGIN, PAUSE, *[Send(BLOCK)] * 20, END), client_stall_s=0.5, idle_s=0.5) as r:
        exchange = r.exchange()
        client = Client(exchange)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(r.handle, exchange)
            for _ in range(15):
                await client.read_some()
                await trio.sleep(0.1)
            body = await client.read()
        assert body == ours(ROLE, WORD, *[WORD] * 300 * 20, FINISH, DONE)
        assert r.world.record.ended == "complete"


async def test_bytes_owed_come_before_the_error_frame() -> None:
    """The total time runs out while the client is behind: what it is owed comes first, framing intact."""
    async with rig(script(BEGIN, PAUSE, Flood(BLOCK)), total_s=0.6) as r:
        exchange = r.exchange()
        client = Client(exchange)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(r.handle, exchange)
            await r.upstream.left.wait()
            body = await client.read()
        assert exchange.owed == b""
        frames = body[:-2].split(b"\n\n")
        assert all(json.loads(data.removeprefix(b"data: "))["model"] == "test/model" for data in frames)
        assert json.loads(frames[-1].removeprefix(b"data: "))["error"]["code"] == "timeout"
        assert len(frames) > 300


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("when", ["quiet", "flooded"])
async def test_a_client_that_leaves(watched: bool, when: str) -> None:
    """Seen by the watch at once; without a watch by the next write."""
    more: Step = Flood(BLOCK) if when == "flooded" else Flood(chunk(WORD))
    quiet = when == "quiet" and watched
    async with rig(script(BEGIN, HANG) if quiet else script(BEGIN, PAUSE, more)) as r:
        exchange = r.exchange(watched=watched)
        client = Client(exchange)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(r.handle, exchange)
            while len(client.body) < len(ours(ROLE, WORD)):
                await client.read_some()
            client.leave()
            await r.upstream.left.wait()
        assert r.world.record.ended == "client_gone"


async def test_a_client_that_half_closes_has_left() -> None:
    async with rig(script(BEGIN, HANG)) as r:
        exchange = r.exchange()
        client = Client(exchange)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(r.handle, exchange)
            await client.read_some()
            exchange.client.shutdown(socket.SHUT_WR)
            await r.upstream.left.wait()
        client.leave()
        assert r.world.record.ended == "client_gone"


async def test_done_before_the_last_chunk_and_the_connection_is_used_again() -> None:
    first = (BEGIN, PAUSE, Send(chunk(FINISH) + chunk(DONE)), PAUSE, Send(LAST_CHUNK))
    async with rig(script(*first, Request(), Send(GOOD_STREAM))) as r:
        assert await r.call() == ours(ROLE, WORD, FINISH, DONE)
        ((_, idle),) = r.world.pool.counts().values()
        assert idle == 1
        await trio.sleep(0.1)
        assert await r.call() == ours(ROLE, WORD, WORD, FINISH, DONE)
        assert r.upstream.served == 1


async def test_many_streams_at_once() -> None:
    steps = [BEGIN, *[step for _ in range(20) for step in (Wait(0.005), Send(chunk(WORD)))], END]
    bodies: list[bytes] = []

    async def call(r: Rig) -> None:
        bodies.append(await r.call())

    async with rig(script(*steps)) as r, trio.open_nursery() as calls:
        for _ in range(60):
            calls.start_soon(call, r)
    assert bodies == [ours(ROLE, *[WORD] * 21, FINISH, DONE)] * 60


async def test_cancelled_calls_take_both_sockets_out_of_the_poll_set() -> None:
    async with rig(script(BEGIN, Flood(chunk(WORD)))) as r:
        for round_s in (0.0, 0.001, 0.01, 0.05):
            exchange = r.exchange()
            with trio.move_on_after(round_s):
                await r.handle(exchange)
            with contextlib.suppress(OSError):
                exchange.client.close()
            assert len(r.pump) == 0
        assert {record.ended for record in r.world.records.taken} == {"cancelled"}


def test_the_socketpair_is_what_the_gateway_sees() -> None:
    """The instrument of these tests: a full client socket blocks like a TCP one."""
    a, b = socket.socketpair()
    with a, b:
        a.setblocking(False)
        with pytest.raises(BlockingIOError) as caught:
            while True:
                a.send(b"x" * 65536)
        assert caught.value.errno == errno.EAGAIN
