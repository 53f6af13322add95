"""The seams between us and the pinned Hypercorn and h2: that they exist, fit, and that what we put there behaves.

A new version of either fails here first, by the name of what has moved.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import math
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import priority.priority
import pytest
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BufferCompleteError
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import ConnectionState, HTTPRequestEvent

from gateway.edge.bounded_send import BoundedSendMixin, listen_options
from gateway.edge.h1_fixes import GuardedH11Protocol
from gateway.edge.h2_buffers import BufferStalledError, GuardedStreamBuffer, RoundRobin
from gateway.edge.h2_fixes import GuardedH2Protocol
from gateway.edge.h2_head import Head, Refusal, read_head
from gateway.edge.h2_limits import BUDGET_FRAMES_MAX, STREAMS_WATCHED, FrameBudget, ResetWatch
from gateway.edge.hypercorn_fixes import RELIED_ON, SEAMS, install
from gateway.edge.inbox import Inbox
from gateway.edge.own_answers import OwnAnswers, plain_error

METHODS = [(where, name, parameters) for where, methods in RELIED_ON.items() for name, parameters in methods.items()]


def look_up(where: str) -> type:
    """The class that `module:class` names."""
    module, _, name = where.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


@pytest.fixture
def installed() -> Iterator[None]:
    """`install` for one test; the stock names afterwards."""
    before = {seam: getattr(importlib.import_module(seam[0]), seam[1]) for seam in SEAMS}
    yield
    for (module, name), stock in before.items():
        setattr(importlib.import_module(module), name, stock)
    GuardedH2Protocol.answers = GuardedH11Protocol.answers = OwnAnswers()


def test_the_pinned_version_is_installed() -> None:
    assert importlib.metadata.version("hypercorn") == "0.18.0"


@pytest.mark.parametrize(("where", "name", "parameters"), METHODS)
def test_what_we_override_or_call_is_still_there(where: str, name: str, parameters: tuple[str, ...]) -> None:
    method = inspect.getattr_static(look_up(where), name)
    assert tuple(inspect.signature(method).parameters)[1:] == parameters


@pytest.mark.parametrize(("seam", "replacement"), SEAMS.items())
def test_each_replacement_is_a_subclass_with_the_stock_signature(seam: tuple[str, str], replacement: type) -> None:
    stock = getattr(importlib.import_module(seam[0]), seam[1])
    assert issubclass(replacement, stock)
    ours, theirs = (tuple(inspect.signature(known).parameters) for known in (replacement, stock))
    assert ours == theirs


def test_install_is_idempotent_and_the_last_renderer_counts(installed: None) -> None:
    del installed
    install()
    install(render_error=lambda status, _: b"%d" % status)
    for (module, name), replacement in SEAMS.items():
        assert getattr(importlib.import_module(module), name) is replacement
    assert GuardedH2Protocol.answers.answer(404).body == b"404"
    assert GuardedH11Protocol.answers is GuardedH2Protocol.answers


@pytest.mark.parametrize(("alpn", "expected"), [("h2", GuardedH2Protocol), ("http/1.1", GuardedH11Protocol)])
async def test_hypercorn_builds_ours(installed: None, alpn: str, expected: type) -> None:
    del installed
    install()
    arguments: list[Any] = [
        None,
        Config(),
        WorkerContext(None),
        None,
        ConnectionState({}),
        False,
        None,
        None,
        None,
        alpn,
    ]
    assert type(ProtocolWrapper(*arguments).protocol) is expected


@pytest.mark.parametrize("status", [400, 404, 405, 431, 500])
def test_an_own_answer_is_json_with_one_request_id(status: int) -> None:
    answer = OwnAnswers(plain_error).answer(status)
    headers = dict(answer.headers)
    minted = headers[b"request-id"].decode()
    assert uuid.UUID(minted).version == 4
    assert headers[b"x-request-id"].decode() == minted
    assert int(headers[b"content-length"]) == len(answer.body)
    assert json.loads(answer.body)["error"]["request_id"] == minted
    assert (b"allow" in headers) == (status == 405)


def filled(stall_s: float = math.inf) -> GuardedStreamBuffer:
    """A buffer as each stream has one."""
    return GuardedStreamBuffer(EventWrapper, stall_s)


async def test_a_writer_sleeps_until_the_buffer_is_short(nursery: trio.Nursery) -> None:
    buffer = filled()
    pushed: list[int] = []

    async def write() -> None:
        await buffer.push(b"x" * BUFFER_HIGH_WATER)
        pushed.append(1)

    nursery.start_soon(write)
    await trio.testing.wait_all_tasks_blocked()
    for size in (0, 10, BUFFER_HIGH_WATER // 2 - 10):
        assert len(await buffer.pop(size)) == size
        await trio.testing.wait_all_tasks_blocked()
        assert not pushed
    await buffer.pop(1)
    await trio.testing.wait_all_tasks_blocked()
    assert pushed


async def test_a_closed_buffer_wakes_its_writer_and_takes_no_more(nursery: trio.Nursery) -> None:
    buffer = filled()
    nursery.start_soon(buffer.push, b"x" * BUFFER_HIGH_WATER)
    await trio.testing.wait_all_tasks_blocked()
    await buffer.close()
    await trio.testing.wait_all_tasks_blocked()
    assert not nursery.child_tasks
    with pytest.raises(BufferCompleteError):
        await buffer.push(b"x")


async def test_an_ended_buffer_is_drained_only_once_its_end_is_out(nursery: trio.Nursery) -> None:
    buffer = filled()
    await buffer.push(b"x")
    await buffer.pop(1)
    buffer.set_complete()
    nursery.start_soon(buffer.drain)
    await trio.testing.wait_all_tasks_blocked()
    assert nursery.child_tasks
    await buffer.close()


async def test_a_reader_without_progress_is_stalled_at_the_second(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    buffer = filled(30)

    async def drip() -> None:
        while True:
            await trio.sleep(9)
            await buffer.pop(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(BufferStalledError):
            await buffer.push(b"x" * 2 * BUFFER_HIGH_WATER)
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 30


def test_turns_go_round_and_priorities_change_nothing() -> None:
    turns = RoundRobin()
    for stream_id in (1, 3, 5):
        turns.insert_stream(stream_id)
        turns.unblock(stream_id)
    turns.reprioritize(1, depends_on=5, weight=1, exclusive=True)
    assert [next(turns) for _ in range(6)] == [1, 3, 5, 1, 3, 5]
    turns.block(3)
    assert [next(turns) for _ in range(3)] == [1, 5, 1]
    turns.remove_stream(1)
    turns.remove_stream(5)
    with pytest.raises(priority.priority.DeadlockError):
        next(turns)
    with pytest.raises(priority.priority.MissingStreamError):
        turns.unblock(1)


def test_a_frame_budget_refills_and_is_capped() -> None:
    budget = FrameBudget(0.0)
    assert all(budget.spend(1, 0.0) for _ in range(BUDGET_FRAMES_MAX))
    assert not budget.spend(1, 0.0)
    assert budget.spend(100, 1.0)
    budget.earn(10 * BUDGET_FRAMES_MAX)
    assert budget.spend(BUDGET_FRAMES_MAX, 1.0)
    assert not budget.spend(1, 1.0)


def test_more_than_half_of_the_last_streams_reset_is_abuse() -> None:
    watch = ResetWatch()
    verdicts = []
    for number in range(STREAMS_WATCHED + 10):
        if number % 2:
            watch.completed()
        else:
            verdicts.append(watch.was_reset(float(number)))
    assert not any(verdicts)
    assert [watch.was_reset(1_000.0 + number) for number in range(3)][-1]


def test_a_burst_of_resets_is_abuse_and_a_slow_client_is_not() -> None:
    watch = ResetWatch()
    assert not any(watch.was_reset(number * 0.001) for number in range(200))
    assert watch.was_reset(0.2)
    slow = ResetWatch()
    assert not any(slow.was_reset(float(number)) for number in range(STREAMS_WATCHED - 1))


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        (b"get", b"/a?b", Head("GET", b"/a?b")),
        (b"OPTIONS", b"*", Head("OPTIONS", b"*")),
        (b"CONNECT", b"/", Refusal(405)),
        (b"GET", b"/\xff", Refusal(400)),
        (b"GET", b"/ ", Refusal(400)),
        (b"GET", b"http://x/", Refusal(400)),
        (b"G\xff", b"/", Refusal(400)),
        (b"", b"/", Refusal(400)),
    ],
)
def test_a_head_is_read_or_refused(method: bytes, path: bytes, expected: Head | Refusal) -> None:
    assert read_head([(b":method", method), (b":path", path), (b":authority", b"x")]) == expected


async def test_an_inbox_joins_a_body_and_tells_what_was_taken() -> None:
    taken: list[int] = []

    async def note(count_bytes: int) -> None:
        taken.append(count_bytes)

    inbox = Inbox(pause_bytes=None, taken=note)
    for part in (b"a", b"b"):
        await inbox.put({"type": "http.request", "body": part, "more_body": True})
    assert await inbox.receive() == {"type": "http.request", "body": b"ab", "more_body": True}
    await inbox.put({"type": "http.request", "body": b"", "more_body": False})
    assert await inbox.receive() == {"type": "http.request", "body": b"", "more_body": False}
    await inbox.put({"type": "http.disconnect"})
    assert await inbox.receive() == {"type": "http.disconnect"}
    assert taken == [2, 0]


async def test_an_inbox_pauses_its_reader_until_taken_or_gone(nursery: trio.Nursery) -> None:
    for wake in ("receive", "gone"):
        inbox = Inbox(pause_bytes=10)
        full: HTTPRequestEvent = {"type": "http.request", "body": b"x" * 10, "more_body": True}
        nursery.start_soon(inbox.put, full)
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        if wake == "receive":
            await inbox.receive()
        else:
            await inbox.put({"type": "http.disconnect"})
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks


class FakeProtocol:
    """Notes the end of its connection."""

    def __init__(self) -> None:
        self.ended = False

    async def handle(self, event: object) -> None:
        """Take an event."""
        self.ended = self.ended or isinstance(event, Closed)


def bounded_server(stall_s: float) -> tuple[BoundedSendMixin, FakeProtocol, trio.abc.Stream]:
    """A server half whose client does not read: every send waits for the other end of a lockstep stream."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    config = Config()
    setattr(config, "send_stall_s", stall_s)  # noqa: B010 - ours, unknown to Hypercorn
    build: Callable[..., BoundedSendMixin] = BoundedSendMixin
    server = build(None, config, WorkerContext(None), {}, ours)
    protocol = FakeProtocol()
    setattr(server, "protocol", protocol)  # noqa: B010 - a fake
    return server, protocol, theirs


def test_the_mixin_is_a_tcp_server() -> None:
    assert issubclass(BoundedSendMixin, TCPServer)


async def test_a_shielded_send_ends_at_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    server, protocol, _ = bounded_server(30)
    with trio.move_on_after(1):
        await server.protocol_send(RawData(b"x"))
    assert trio.current_time() == 30
    assert protocol.ended


async def test_slow_progress_is_no_stall(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    server, protocol, client = bounded_server(30)
    received = bytearray()

    async def read() -> None:
        while len(received) < 200_000:
            await trio.sleep(20)
            received.extend(await client.receive_some(65_536))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await server.protocol_send(RawData(bytes(200_000)))
    assert len(received) == 200_000
    assert not protocol.ended


async def test_a_send_can_be_abandoned_before_its_deadline(nursery: trio.Nursery) -> None:
    server, protocol, _ = bounded_server(math.inf)
    nursery.start_soon(server.protocol_send, RawData(b"x"))
    await trio.testing.wait_all_tasks_blocked()
    server.abandon_send()
    await trio.testing.wait_all_tasks_blocked()
    assert protocol.ended


def test_listening_sockets_get_the_kernels_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        has_option = hasattr(socket, "TCP_USER_TIMEOUT")
        assert listen_options(listener, 20_000) == has_option
        if has_option:
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
        with pytest.raises(ValueError, match="user_timeout_ms is 0"):
            listen_options(listener, 0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not listen_options(ours, 20_000)
