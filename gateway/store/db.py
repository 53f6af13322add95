"""The store of a serving process: call records go out, keys come in, and the event loop never waits for either.

`put` appends to a deque; `run`, one task, moves batches from it to SQLite in one worker thread at a time and reads
the keys again when their version changed. Everything SQLite does, fsync and checkpoints included, is in that thread.

Invariants: a record that was `put` stays in memory until its commit returned, through any number of failures; a
failing or unreadable database leaves the last good key index in use, so it never turns into a 401; only the thread
that the limiter admitted touches the connection.

The thread waits `_BUSY_S` for another writer, not the five seconds of one-off commands: it serves the keys too, and a
revocation must count within a second while someone else holds the write lock. Trying again is this module's
own work, and a lock is trouble only once it has lasted (`trouble.py`).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import trio

from gateway.auth.keys import KeyIndex
from gateway.store import calls, keys, lines, schema
from gateway.store.calls import CallRecord
from gateway.store.trouble import Trouble, needs_new_connection

RECORDS_MAX = 100_000  # about 100 MB of records; at 5,000 calls/s, 20 s of a disk that does not write
BATCH_ROWS_MAX = 256  # about 1 ms of Python in the thread, so the loop never waits longer than that for the GIL

_BATCH_S = 0.02
_KEYS_POLL_S = 0.25
_FLUSH_S = 5.0
_BUSY_S = 0.25

T = TypeVar("T")


class Store:
    """Records and keys of one serving process. `run` it in a nursery; close it after `run` has ended."""

    def __init__(
        self, path: Path, pepper: bytes, conn: sqlite3.Connection, *, log_fd: int | None, records_max: int
    ) -> None:
        self.keys = keys.load_index(conn, pepper)
        self.lines_lost = 0  # log lines that a stalled reader of standard error cost
        self.records_refused = 0  # records that no repair could make storable; each is named in an error line
        self._path, self._pepper, self._conn = path, pepper, conn
        self._log_fd, self._records_max = log_fd, records_max
        self._thread = trio.CapacityLimiter(1)
        self._queue: deque[CallRecord] = deque()
        self._batch: list[CallRecord] = []
        self._batch_logged = False
        self._parked: trio.Event | None = None
        self._write_at = self._poll_at = 0.0
        self._writes, self._reads = Trouble(), Trouble()
        self._reopen = False

    @classmethod
    def open(cls, path: Path, pepper: bytes, *, log_fd: int | None = 2, records_max: int = RECORDS_MAX) -> Self:
        """Open the database, migrate it and read the keys. Blocks; call it before serving.

        `log_fd` takes one JSON line a call (2: standard error); None writes none.

        Raises:
            DataDirError: the file is not ours, newer than we are, or of another pepper.
            sqlite3.OperationalError: locked for five seconds, or the disk is full.
        """
        conn = schema.open_database(path, pepper)
        try:
            conn.execute(f"PRAGMA busy_timeout = {int(_BUSY_S * 1000)}")
            return cls(path, pepper, conn, log_fd=log_fd, records_max=records_max)
        except BaseException:
            conn.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database. Blocks shortly: the last one out checkpoints the WAL."""
        self._conn.close()

    def create_first_key(self) -> keys.NewKey | None:
        """On a database that never had a key, make one and use it at once; else None.

        Blocks for a few ms, so for start-up only; safe while `run` is running, since it has a connection of its own.
        """
        with contextlib.closing(schema.connect(self._path)) as conn:
            key = keys.create_first(conn, self._pepper)
            if key is not None:
                self.keys = keys.load_index(conn, self._pepper)
        return key

    @property
    def queued(self) -> int:
        """How many records are not yet committed."""
        return len(self._queue) + len(self._batch)

    @property
    def full(self) -> bool:
        """True when so many records wait that calls must be refused (503) until the disk keeps up."""
        return len(self._queue) + len(self._batch) >= self._records_max

    @property
    def failing(self) -> bool:
        """True while SQLite refuses writes or key reads. Records are kept and tried again; clears by itself."""
        return self._writes.failing or self._reads.failing

    def ready(self) -> bool:
        """Whether this process should be sent calls, as far as the store can say."""
        return not (self.failing or self.full)

    def put(self, record: CallRecord) -> None:
        """Hand over the record of an ended call. Never blocks or fails; about 0.1 us, 3 when it wakes the writer.

        Also takes records past `full`: those calls were admitted before, and the connections bound their number.
        """
        self._queue.append(record)
        if self._parked is not None:
            self._parked.set()
            self._parked = None

    async def run(
        self,
        *,
        on_keys: Callable[[KeyIndex], None] | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Write records and follow the keys until cancelled; then write what is queued, within five seconds.

        `on_keys` is called on the loop after `self.keys` has changed.
        """
        task_status.started()
        try:
            while True:
                await self._until_due()
                if trio.current_time() >= self._poll_at:
                    await self._poll_keys(on_keys)
                if self.queued and trio.current_time() >= self._write_at:
                    await self._write_batch()
        finally:
            with trio.move_on_after(_FLUSH_S, shield=True):
                await self._flush()

    async def _until_due(self) -> None:
        """Sleep until the next write or poll. Only here can a `put` need to wake the task."""
        if self.queued:
            await trio.sleep_until(min(self._poll_at, self._write_at))
            return
        parked = self._parked = trio.Event()
        with trio.move_on_at(self._poll_at):
            await parked.wait()
        self._parked = None
        self._write_at = trio.current_time() + _BATCH_S

    async def _poll_keys(self, on_keys: Callable[[KeyIndex], None] | None) -> None:
        try:
            index = await self._in_thread(self._changed_keys)
        except sqlite3.Error as exc:
            self._poll_at = await self._failed(self._reads, exc)
            return
        self._poll_at = trio.current_time() + _KEYS_POLL_S
        if index is not None:
            self.keys = index
            if on_keys is not None:
                on_keys(index)
        await self._succeeded(self._reads)

    async def _write_batch(self) -> None:
        if not self._batch:
            self._batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_ROWS_MAX))]
            self._batch_logged = False
        try:
            await self._in_thread(self._store_batch)
        except sqlite3.Error as exc:
            self._write_at = await self._failed(self._writes, exc)
            return
        self._batch = []
        self._write_at = trio.current_time() + (0 if len(self._queue) >= BATCH_ROWS_MAX else _BATCH_S)
        await self._succeeded(self._writes)

    async def _flush(self) -> None:
        self._write_at = 0
        try:
            while self.queued:
                await trio.sleep_until(self._write_at)
                await self._write_batch()
                if not self._writes.failing:
                    self._write_at = 0
        finally:
            if self.queued and self._log_fd is not None:
                # What the disk refuses to the very end is at least in the log.
                unlogged = (*([] if self._batch_logged else self._batch), *self._queue)
                lines.write_calls(self._log_fd, [calls.row(record) for record in unlogged])
                lines.write_event(self._log_fd, "records_not_stored", "error", count=self.queued)

    async def _failed(self, trouble: Trouble, exc: sqlite3.Error) -> float:
        """Note a failure, say so when it begins to count, and return when to try again (Trio's clock)."""
        before = trouble.failing
        self._reopen = self._reopen or needs_new_connection(exc)
        retry_at = trio.current_time() + trouble.note(exc, trio.current_time())
        if trouble.failing and not before:
            await self._say("store_failing", "error", error=str(exc), queued=self.queued)
        return retry_at

    async def _succeeded(self, trouble: Trouble) -> None:
        before = trouble.failing
        trouble.clear()
        if before:
            await self._say("store_recovered", "info", queued=self.queued)

    async def _say(self, event: str, level: str, **details: str | int) -> None:
        if self._log_fd is not None:
            await self._in_thread(partial(lines.write_event, self._log_fd, event, level, **details))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run one piece of blocking work. Not abandoned when cancelled: it ends by itself, within `_BUSY_S` or so."""
        return await trio.to_thread.run_sync(work, limiter=self._thread)

    def _changed_keys(self) -> KeyIndex | None:
        conn = self._connection()
        return None if keys.version(conn) == self.keys.version else keys.load_index(conn, self._pepper)

    def _store_batch(self) -> None:
        rows = [calls.row(record) for record in self._batch]
        if self._log_fd is not None and not self._batch_logged:
            self.lines_lost += lines.write_calls(self._log_fd, rows)
        self._batch_logged = True
        for gen_id in calls.insert(self._connection(), rows):
            self.records_refused += 1
            if self._log_fd is not None:
                lines.write_event(self._log_fd, "record_refused", "error", gen_id=gen_id)

    def _connection(self) -> sqlite3.Connection:
        """Return the connection, opened anew after an error that may have left it unusable."""
        if self._reopen:
            self._conn.close()
            self._conn = schema.connect(self._path, busy_s=_BUSY_S, create=False)
            self._reopen = False
        return self._conn
