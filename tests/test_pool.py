"""The pool: warm connections, their limit, and which of them may carry another call."""

from __future__ import annotations

import contextlib

import pytest
import trio

from gateway.config import Upstream
from gateway.core.call import Origin
from gateway.upstream.http1 import ResponseReader
from gateway.upstream.pool import SWEEP_S, Lease, Pool
from gateway.upstream.transport import TransportBroken
from tests.exchanges import FakeExchange, build_pipeline, request_body
from tests.upstream import (
    DONE,
    FINISH,
    GOOD_STREAM,
    HANG,
    LAST_CHUNK,
    REFUSE,
    ROLE,
    SSE_HEAD,
    WORD,
    Close,
    MemoryTransport,
    MemoryUpstream,
    Request,
    Reset,
    Script,
    Send,
    Step,
    Wait,
    chunk,
    script,
)

A, B = Origin("a.test", 80, tls=False), Origin("b.test", 80, tls=False)
SILENT = Script((HANG,))


def make(
    nursery: trio.Nursery, *scripts: Script, connections_max: int = 4, idle_s: float = 30
) -> tuple[Pool, MemoryUpstream]:
    upstream = MemoryUpstream(nursery, {"a": scripts or [SILENT], "b": [SILENT]})
    return Pool(connections_max=connections_max, idle_s=idle_s, connect=upstream.connect), upstream


async def test_a_released_connection_is_used_again_the_newest_first(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    pool, upstream = make(nursery)
    first, second = await pool.acquire(A), await pool.acquire(A)
    assert not first.reused
    first.release()
    second.release()
    again = pool.acquire_warm(A)
    assert again is not None
    assert again.reused
    assert again.transport is upstream.transports[1]
    assert pool.counts()[A] == (1, 1)


async def test_origins_do_not_share(nursery: trio.Nursery, autojump_clock: object) -> None:
    pool, _ = make(nursery)
    (await pool.acquire(A)).release()
    assert pool.acquire_warm(B) is None
    assert pool.acquire_warm(A._replace(ca_file="x")) is None
    assert pool.acquire_warm(A._replace(tls=True)) is None


async def test_close_and_release_count_once(nursery: trio.Nursery, autojump_clock: object) -> None:
    pool, upstream = make(nursery)
    lease = await pool.acquire(A)
    lease.close()
    lease.close()
    lease.release()
    assert pool.counts()[A] == (0, 0)
    assert upstream.open() == []


async def test_the_limit_makes_callers_wait_and_a_cancelled_waiter_leaves_nothing(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    pool, upstream = make(nursery, connections_max=2)
    leases = [await pool.acquire(A), await pool.acquire(A)]
    with trio.move_on_after(5) as scope:
        await pool.acquire(A)
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert len(upstream.transports) == 2

    async def free() -> None:
        await trio.sleep(3)
        leases[0].close()

    nursery.start_soon(free)
    third = await pool.acquire(A)
    assert trio.current_time() == 8
    assert pool.counts()[A] == (2, 0)
    third.close()


async def test_no_more_than_the_limit_are_ever_open(nursery: trio.Nursery, autojump_clock: object) -> None:
    """Calls over the limit wait; as each gets its place there is a warm connection for it."""
    pool, upstream = make(nursery, connections_max=2)
    most = 0

    async def call() -> None:
        nonlocal most
        lease = pool.acquire_warm(A) or await pool.acquire(A)
        most = max(most, len(upstream.open()))
        await trio.sleep(1)
        lease.release()

    async with trio.open_nursery() as calls:
        for _ in range(20):
            calls.start_soon(call)
    assert trio.current_time() == 10
    assert most == 2
    assert pool.counts()[A] == (0, 2)


@pytest.mark.parametrize("failing", [REFUSE, Script(connect_s=99)])
async def test_a_failed_dial_gives_its_place_back(
    failing: Script, nursery: trio.Nursery, autojump_clock: object
) -> None:
    pool, upstream = make(nursery, failing, failing, SILENT, connections_max=1)
    for _ in range(2):
        with trio.move_on_after(1), contextlib.suppress(TransportBroken):
            await pool.acquire(A)
    assert (upstream.dialling, upstream.transports) == (0, [])
    lease = await pool.acquire(A)
    lease.close()


STALE: dict[str, tuple[Step, ...]] = {
    "closed": (Wait(1), Close()),
    "reset": (Wait(1), Reset()),
    "stray bytes": (Wait(1), Send(b"HTTP/1.1 408 Timeout\r\n\r\n")),
}


@pytest.mark.parametrize("name", STALE)
@pytest.mark.parametrize("swept", [True, False])
async def test_stale_connections_are_not_used(
    name: str, swept: bool, nursery: trio.Nursery, autojump_clock: object
) -> None:
    pool, upstream = make(nursery, Script(STALE[name]), SILENT)
    (await pool.acquire(A)).release()
    await trio.sleep(2)
    if swept:
        pool.sweep(trio.current_time())
        assert pool.counts()[A] == (0, 0)
    assert pool.acquire_warm(A) is None
    assert upstream.open() == []


async def test_idle_connections_are_closed_after_idle_s(nursery: trio.Nursery, autojump_clock: object) -> None:
    pool, upstream = make(nursery, idle_s=12)
    nursery.start_soon(pool.run)
    (await pool.acquire(A)).release()
    await trio.sleep(SWEEP_S + 0.5)
    assert len(upstream.open()) == 1
    await trio.sleep(3 * SWEEP_S)
    assert upstream.open() == []
    assert upstream.transports[0].closed_at == 15


async def test_the_service_closes_what_idles_when_it_ends(nursery: trio.Nursery, autojump_clock: object) -> None:
    pool, upstream = make(nursery)
    with trio.move_on_after(1):
        async with trio.open_nursery() as services:
            services.start_soon(pool.run)
            (await pool.acquire(A)).release()
    assert upstream.open() == []


# the last bytes of a response that was over before they came

BODY = chunk(ROLE) + chunk(WORD) + chunk(FINISH) + chunk(DONE)


async def unfinished(nursery: trio.Nursery, *late: Step) -> tuple[Pool, MemoryUpstream, Lease, ResponseReader]:
    pool, upstream = make(nursery, Script((Send(SSE_HEAD + BODY), *late)), SILENT)
    lease = await pool.acquire(A)
    reader = ResponseReader()
    reader.feed(await lease.transport.receive())
    assert not reader.complete
    lease.release(reader)
    return pool, upstream, lease, reader


async def test_done_before_the_last_chunk_the_connection_is_used_again(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    pool, upstream, _, _ = await unfinished(nursery, Wait(1), Send(LAST_CHUNK))
    await trio.sleep(2)
    lease = pool.acquire_warm(A)
    assert lease is not None
    assert lease.transport is upstream.transports[0]


@pytest.mark.parametrize(
    "late",
    [
        (Wait(9),),
        (Send(LAST_CHUNK[:-2]),),
        (Close(),),
        (Reset(),),
        (Send(LAST_CHUNK), Close()),
        (Send(LAST_CHUNK + b"HTTP/1.1 200 OK\r\n"),),
        (Send(LAST_CHUNK), Send(b"stray")),
        (Send(b"zz\r\n"),),
        (Send(chunk(b"data: more\n\n")),),
    ],
)
@pytest.mark.parametrize("swept", [True, False])
async def test_done_but_no_clean_end_the_connection_is_closed(
    late: tuple[Step, ...], swept: bool, nursery: trio.Nursery, autojump_clock: object
) -> None:
    pool, upstream, _, _ = await unfinished(nursery, *late)
    await trio.sleep(2)
    if swept:
        pool.sweep(trio.current_time())
    assert pool.acquire_warm(A) is None
    assert upstream.open() == []


async def test_a_connection_that_was_finished_by_the_sweep_is_checked_again(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    pool, upstream, _, _ = await unfinished(nursery, Send(LAST_CHUNK), Wait(3), Close())
    await trio.sleep(1)
    pool.sweep(trio.current_time())
    assert pool.counts()[A] == (0, 1)
    await trio.sleep(3)
    assert pool.acquire_warm(A) is None
    assert upstream.open() == []


async def test_sequential_calls_share_one_connection(nursery: trio.Nursery, autojump_clock: object) -> None:
    many = Script((Request(), Send(GOOD_STREAM)) * 50)
    world = await build_pipeline(nursery, {"a": [many]})
    for _ in range(50):
        assert (await world.call()).status == 200
    assert len(world.upstream.transports) == 1
    assert len(world.upstream.transports[0].requests) == 50
    world.assert_clean()


async def test_calls_over_the_limit_wait_within_connect_s(nursery: trio.Nursery, autojump_clock: object) -> None:
    """No place within connect_s is a failed attempt like any other, and nothing of it stays."""
    slow = script(Send(SSE_HEAD + chunk(WORD)), Wait(30), Close())
    world = await build_pipeline(nursery, {"a": [slow]}, limits=Upstream(connections_max=1))
    first = FakeExchange(request_body(stream=True))
    nursery.start_soon(world.pipeline.handle, first)
    await trio.sleep(1)
    second = await world.call()
    assert (second.status, second.ended_at) == (503, 6)
    await trio.sleep(60)
    world.assert_clean()


async def test_memory_transports_tell_who_closed_when(nursery: trio.Nursery, autojump_clock: object) -> None:
    """The instrument of these tests itself: a closed transport is counted, and its script stops."""
    pool, upstream = make(nursery, Script((Wait(5), Send(b"late"))))
    lease = await pool.acquire(A)
    transport = lease.transport
    assert isinstance(transport, MemoryTransport)
    await trio.sleep(2)
    lease.close()
    assert transport.closed_at == 2
    await trio.sleep(9)
    with pytest.raises(TransportBroken):
        transport.receive_now()
    assert upstream.open() == []
