"""The serving store: nothing lost, nothing doubled, the loop never waiting, keys followed within a second."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.auth.keys import KeyIndex
from gateway.core.call import AttemptNote
from gateway.store import calls, db, keys
from gateway.store.calls import CallRecord
from gateway.store.db import Store
from gateway.store.outbox import BATCH_ROWS_MAX
from gateway.store.schema import OPERATOR, connect

PEPPER = bytes(range(32))


def record(number: int) -> CallRecord:
    return CallRecord(
        f"gen-{number:06}", f"req-{number}", 1_700_000_000.5, OPERATOR, model="sim/words", ended="complete"
    )


@contextlib.contextmanager
def other(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of another process, as far as SQLite is concerned."""
    with contextlib.closing(connect(path)) as conn:
        yield conn


def stored(path: Path) -> list[str]:
    with other(path) as conn:
        return [row[0] for row in conn.execute("SELECT gen_id FROM calls ORDER BY gen_id")]


def expected(count: int) -> list[str]:
    return [record(number).gen_id for number in range(count)]


def read_lines(read_fd: int) -> list[dict[str, Any]]:
    """Read a pipe whose writers have closed it, to its end."""
    with open(read_fd, "rb") as reader:
        return [json.loads(line) for line in reader]


async def until(condition: Callable[[], bool], within_s: float = 10) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - the condition is another process's or thread's
            await trio.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store.open(path, PEPPER, log_fd=None) as opened:
        yield opened


async def test_a_record_arrives_with_every_field(store: Store, path: Path, nursery: trio.Nursery) -> None:
    await nursery.start(store.run)
    full = CallRecord(
        "gen-1", "req-1", 1_700_000_000.25, OPERATOR, "key_1", "laptop", "chat", "express", True, "openai/gpt-4o",
        "openai", "gpt-4o-2024-08-06", (AttemptNote("groq", "connect", 0, 1.5), AttemptNote("openai", "won", 200, 80.25)), 200, "",
        "complete", 11, 3, 42, 7, True, 2_500_000, 1_000_000, 81.5, 900.125, 512, 4096,
    )  # fmt: skip
    store.put(full)
    await until(lambda: store.queued == 0)
    with other(path) as conn:
        conn.row_factory = sqlite3.Row
        (row,) = [dict(row) for row in conn.execute("SELECT * FROM calls")]
    assert tuple(row) == calls.COLUMNS
    assert json.loads(row.pop("attempts")) == [
        {"provider": "groq", "outcome": "connect", "status": 0, "ms": 1.5},
        {"provider": "openai", "outcome": "won", "status": 200, "ms": 80.25},
    ]
    assert row == {name: getattr(full, name) for name in calls.COLUMNS if name != "attempts"}


@pytest.mark.parametrize("count", [1, 15, 16, 17, 2 * BATCH_ROWS_MAX + 7])
async def test_every_record_is_stored_once(store: Store, path: Path, nursery: trio.Nursery, count: int) -> None:
    await nursery.start(store.run)
    for number in range(count):
        store.put(record(number))
    await until(lambda: store.queued == 0)
    assert stored(path) == expected(count)


async def test_what_is_queued_is_flushed_when_the_writer_is_cancelled(store: Store, path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for number in range(700):
            store.put(record(number))
        nursery.cancel_scope.cancel()
    assert store.queued == 0
    assert stored(path) == expected(700)


@pytest.mark.parametrize("cancel_at", range(12))
async def test_cancelled_anywhere_nothing_is_lost_or_doubled(store: Store, path: Path, cancel_at: int) -> None:
    put = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for put in range(1, 1 + cancel_at * 50):
            store.put(record(put - 1))
            if put % 50 == 0:
                await trio.sleep(cancel_at / 1000)
        nursery.cancel_scope.cancel()
    assert stored(path) == expected(put)


async def test_a_full_disk_keeps_everything_and_recovers(store: Store, path: Path, nursery: trio.Nursery) -> None:
    def limit_pages(pages: int) -> None:
        assert store._writer.conn.execute(f"PRAGMA max_page_count = {pages}").fetchone()[0] >= pages

    used = store._writer.conn.execute("PRAGMA page_count").fetchone()[0]
    limit_pages(used + 10)
    await nursery.start(store.run)
    for number in range(1000):
        store.put(record(number))
    await until(lambda: store.failing)
    assert not store.ready()
    assert store.queued >= 1000 - BATCH_ROWS_MAX
    held = store.queued
    assert len(stored(path)) == 1000 - held  # a refused batch left nothing behind

    await store._writer.run_without(lambda: limit_pages(1_000_000))
    await until(lambda: store.queued == 0)
    assert store.ready()
    assert stored(path) == expected(1000)


async def test_a_database_locked_for_two_seconds_stops_nothing(store: Store, path: Path, nursery: trio.Nursery) -> None:
    lags_s: list[float] = []

    async def tick() -> None:
        while True:
            due = trio.current_time() + 0.005
            await trio.sleep_until(due)
            lags_s.append(trio.current_time() - due)

    await nursery.start(store.run)
    with other(path) as holder, trio.CancelScope() as ticking:
        holder.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as ticks:
            ticks.start_soon(tick)
            for number in range(400):
                store.put(record(number))
                await trio.sleep(0.005)
            assert store.queued == 400
            assert store.ready()
            holder.execute("ROLLBACK")
            await until(lambda: store.queued == 0, within_s=2)
            ticking.cancel()
    assert stored(path) == expected(400)
    lags_s.sort()  # a loop that waited for the lock would have stood still for 0.25 s at a time
    assert lags_s[int(len(lags_s) * 0.99)] < 0.05
    assert lags_s[-1] < 0.2
    nursery.cancel_scope.cancel()


async def test_a_database_locked_for_ever_is_given_up_at_the_end_but_logged(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "_FLUSH_S", 0.3)
    log_fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Store.open(path, PEPPER, log_fd=log_fd) as store, other(path) as holder:
        holder.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            for number in range(300):  # more than one batch, so that one is logged before and one after giving up
                store.put(record(number))
            started = time.monotonic()
            nursery.cancel_scope.cancel()
        assert time.monotonic() - started < 2
        assert store.queued == 300
    os.close(log_fd)
    lines = [json.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert sorted(line["gen_id"] for line in lines[:-1]) == expected(300)
    assert lines[-1] == {"event": "records_not_stored", "level": "error", "count": 300}


async def test_full_is_told_before_the_queue_grows_past_its_bound(path: Path) -> None:
    with Store.open(path, PEPPER, log_fd=None, records_max=10) as store:
        for number in range(9):
            store.put(record(number))
        assert store.ready()
        store.put(record(9))
        assert store.full
        assert not store.ready()
        store.put(record(10))  # of a call admitted before
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            await until(store.ready)
            nursery.cancel_scope.cancel()
    assert stored(path) == expected(11)


async def test_a_new_key_counts_and_a_revoked_one_stops_within_a_second(
    store: Store, path: Path, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """The keys are made and revoked by the real command line, while records are being written."""
    (tmp_path / "pepper").write_bytes(PEPPER)
    told: list[KeyIndex] = []

    async def command(*arguments: str) -> bytes:
        argv = [sys.executable, "-m", "gateway", "keys", *arguments, "--data-dir", str(tmp_path), "--json"]
        return (await trio.run_process(argv, capture_stdout=True)).stdout

    async def write() -> None:
        for number in range(100_000):
            store.put(record(number))
            await trio.sleep(0.001)

    nursery.start_soon(lambda: store.run(on_keys=told.append))
    async with trio.open_nursery() as load:
        load.start_soon(write)
        made = json.loads(await command("create", "--name", "laptop"))
        secret = made["key"].encode()
        await until(lambda: store.keys.find(secret) is not None, within_s=1)
        found = store.keys.find(secret)
        assert found is not None
        assert (found.key_id, found.account_id, found.name) == (made["id"], OPERATOR, "laptop")
        await command("revoke", made["id"])
        await until(lambda: store.keys.find(secret) is None, within_s=1)
        load.cancel_scope.cancel()
    await until(lambda: store.queued == 0)
    assert [index.version for index in told] == [1, 2]
    assert len(stored(path)) > 0
    nursery.cancel_scope.cancel()


async def test_unreadable_keys_leave_the_old_index_and_recover(store: Store, path: Path, nursery: trio.Nursery) -> None:
    key = store.create_first_key()
    assert key is not None
    await nursery.start(store.run)
    with other(path) as conn:
        conn.execute("ALTER TABLE meta RENAME TO mislaid")
        await until(lambda: store.failing)
        assert not store.ready()
        assert store.keys.find(key.secret.encode()) is not None
        store.put(record(0))
        await until(lambda: store.queued == 0)  # records are still written
        conn.execute("ALTER TABLE mislaid RENAME TO meta")
        await until(store.ready)
        keys.revoke(conn, key.id)
    await until(lambda: store.keys.find(key.secret.encode()) is None, within_s=1)


def test_the_first_key_is_made_once(store: Store) -> None:
    key = store.create_first_key()
    assert key is not None
    assert store.keys.find(key.secret.encode()) is not None
    keys.revoke(store._writer.conn, key.id)
    assert store.create_first_key() is None


async def test_records_no_column_can_hold_are_repaired_not_lost(path: Path) -> None:
    read_fd, write_fd = os.pipe()
    odd = [record(number) for number in range(4)]
    odd[0].prompt_tokens = 10**30
    odd[1].model = "\ud83d" * 1000
    odd[2].started_at = float("nan")
    with Store.open(path, PEPPER, log_fd=write_fd) as store:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            for one in (*odd, odd[3]):  # the last twice: one row
                store.put(one)
            nursery.cancel_scope.cancel()
        assert store.records_refused == 0
    os.close(write_fd)
    with other(path) as conn:
        rows = conn.execute("SELECT gen_id, prompt_tokens, model, started_at FROM calls ORDER BY gen_id").fetchall()
    assert [row[0] for row in rows] == expected(4)
    assert (rows[0][1], rows[1][2], rows[2][3]) == (2**63 - 1, "?" * 256, 0.0)
    assert [line["gen_id"] for line in read_lines(read_fd)] == [*expected(4), record(3).gen_id]


async def test_each_call_is_one_line_of_json(path: Path) -> None:
    read_fd, write_fd = os.pipe()
    with Store.open(path, PEPPER, log_fd=write_fd) as store:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            first = record(0)
            first.attempts = (AttemptNote("sim", "won", 200, 1.25),)
            store.put(first)
            for number in range(1, 40):
                store.put(record(number))
            nursery.cancel_scope.cancel()
    os.close(write_fd)
    lines = read_lines(read_fd)
    assert [line["gen_id"] for line in lines] == expected(40)
    assert lines[0]["attempts"] == [{"provider": "sim", "outcome": "won", "status": 200, "ms": 1.25}]
    assert tuple(lines[0]) == ("event", "level", *calls.COLUMNS)


@pytest.mark.parametrize("reader", ["stalled", "gone"])
async def test_a_log_nobody_reads_costs_lines_not_records(path: Path, reader: str) -> None:
    read_fd, write_fd = os.pipe()
    if reader == "gone":
        os.close(read_fd)
    with Store.open(path, PEPPER, log_fd=write_fd) as store:
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            for number in range(BATCH_ROWS_MAX):
                store.put(record(number))
            await until(lambda: store.queued == 0, within_s=2)
            nursery.cancel_scope.cancel()
    os.close(write_fd)
    whole = 0
    if reader == "stalled":
        whole = len(read_lines(read_fd))  # what did arrive is whole lines
        assert whole > 0
    assert store.lines_lost == BATCH_ROWS_MAX - whole > 0
    assert stored(path) == expected(BATCH_ROWS_MAX)


async def test_a_put_costs_at_most_three_microseconds(store: Store, nursery: trio.Nursery) -> None:
    records = [record(number) for number in range(5000)]
    each_s: list[float] = []
    await nursery.start(store.run)
    for start in range(0, 5000, 500):
        await until(lambda: store.queued == 0)  # parked, so that each run pays for one wake-up
        before = time.perf_counter()
        for one in records[start : start + 500]:
            store.put(one)
        each_s.append((time.perf_counter() - before) / 500)
    assert min(each_s) < 3e-6
