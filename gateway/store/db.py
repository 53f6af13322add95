"""The store of a serving process: ended calls go out, keys and credit come in, and the event loop never waits.

`put` appends to a deque; `run`, one task, moves batches from it to SQLite in one worker thread at a time and looks
for keys and credit that others wrote. Everything SQLite does, fsync and checkpoints included, is in that thread;
queries of the account API are in another, on a connection that can only read.

Invariants: a record that was `put` stays in memory until its commit returned, through any number of failures; a
failing or unreadable database leaves the last good key index in use, so it never turns into a 401; only the thread
that the limiter admitted touches the connection; credit that others wrote is told once, in the order of the ledger.

The thread waits `BUSY_S` for another writer, not the five seconds of one-off commands: it serves the keys too, and a
revocation must count within a second while someone else holds the write lock. Trying again is this module's
own work, and a lock is trouble only once it has lasted (`trouble.py`).
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import trio

from gateway.auth.keys import KeyIndex
from gateway.config import Ledger
from gateway.errors import Overloaded
from gateway.store import batch, calls, keys, ledger, lines, opening, schema
from gateway.store.calls import CallRecord
from gateway.store.holds import SLOTS_MAX, Holds, OpenHold
from gateway.store.journal import Journal, Segment
from gateway.store.ledger import Move
from gateway.store.outbox import Outbox
from gateway.store.reader import Reader
from gateway.store.trouble import BACKOFF_FIRST_S, Trouble, is_lock
from gateway.store.writer import Writer

RECORDS_MAX = 100_000  # about 100 MB of records; at 5,000 calls/s, 20 s of a disk that does not write

_BATCH_S = 0.05  # a crash loses nothing meanwhile: what matters is in the journal
_DURABLE_BATCH_S = 0.002  # with `power_loss` each call waits for its commit
_KEYS_POLL_S = 0.25
_FLUSH_S = 5.0
_CHANGE_S = 5.0  # that a change of keys waits for another writer, in tries of BUSY_S

_DEFAULTS = Ledger()

T = TypeVar("T")


class Store:
    """Records and keys of one serving process. `run` it in a nursery; close it after `run` has ended."""

    def __init__(
        self,
        path: Path,
        pepper: bytes,
        conn: sqlite3.Connection,
        *,
        log_fd: int | None,
        log_calls: bool,
        records_max: int,
        settings: Ledger,
    ) -> None:
        self._log_fd, self._log_calls, self._records_max = log_fd, log_calls, records_max
        self.holds = Holds(path.with_name("holds"))
        opening.recover(conn, path.with_name("journal"), self.holds, self._say_now)
        self.journal = Journal(path.with_name("journal"), settings.journal_segment_bytes)
        self.books = opening.read_books(conn, time.time())
        self.keys = keys.load_index(conn, pepper)
        self.lines_lost = 0  # log lines that a stalled reader of standard error cost
        self.records_refused = 0  # records that no repair could make storable; each is named in an error line
        self._path, self._pepper = path, pepper
        self._writer = Writer(path, conn, settings.durability)
        self._reader = Reader(path)
        self._last_entry_id = self.books.last_entry_id
        self._on_moves: Callable[[list[Move]], None] | None = None
        self._on_keys: Callable[[KeyIndex], None] | None = None
        self._on_commit: Callable[[float], None] | None = None
        self._lag_s = 0.0
        self._outbox = Outbox(self.journal, self.holds)
        self._parked: trio.Event | None = None
        self._hurry = trio.Event()
        self._write_at = self._poll_at = self._spare_at = 0.0
        self._batch_s = _BATCH_S if settings.durability == "crash" else _DURABLE_BATCH_S
        self._writes, self._reads = Trouble(), Trouble()

    @classmethod
    def open(
        cls,
        path: Path,
        pepper: bytes,
        *,
        log_fd: int | None = 2,
        log_calls: bool = True,
        records_max: int = RECORDS_MAX,
        settings: Ledger = _DEFAULTS,
    ) -> Self:
        """Open the database, migrate it, recover what a crash left and read the keys. Blocks; call it before serving.

        `log_fd` takes one JSON line a call and what is to be said of the store (2: standard error); None writes none.

        Raises:
            DataDirError: the file is not ours, newer than we are, or of another pepper.
            sqlite3.OperationalError: locked for five seconds, or the disk is full.
            OSError: there is no room for the journal.
        """
        conn = schema.open_database(path, pepper)
        try:
            return cls(
                path, pepper, conn, log_fd=log_fd, log_calls=log_calls, records_max=records_max, settings=settings
            )
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
        self._reader.close()
        self._writer.close()
        self.journal.close()
        self.holds.unmap()

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
        return len(self._outbox)

    @property
    def full(self) -> bool:
        """True when so many records wait that calls must be refused (503) until the disk keeps up."""
        return len(self._outbox) >= self._records_max

    @property
    def failing(self) -> bool:
        """True while SQLite refuses writes or key reads. Records are kept and tried again; clears by itself."""
        return self._writes.failing or self._reads.failing

    def ready(self) -> bool:
        """Whether this process should be sent calls, as far as the store can say."""
        return not (self.failing or self.full)

    def has_room(self, calls_under_way: int) -> bool:
        """Whether one more call can be admitted beside those and still be settled, whatever the disk does meanwhile."""
        slots = calls_under_way < SLOTS_MAX and not self.holds.full
        return slots and not self.full and self.journal.has_room(calls_under_way + 1)

    def put(self, record: CallRecord, line: Segment | None = None, slot: int | None = None) -> None:
        """Hand over the record of an ended call. Never blocks or fails; about 0.1 us, 3 when it wakes the writer.

        `line` is where its line in the journal is, `slot` a hold that stays noted until the record is safe. Also takes
        records past `full`: those calls were admitted before, and the connections bound their number.
        """
        self._outbox.put(record, line, slot)
        if self._parked is not None:
            self._parked.set()
            self._parked = None

    def open_hold(self, hold: OpenHold) -> int:
        """Note a hold where a crash leaves it; the slot for `close_hold`. Raises Overloaded when there is no room."""
        if self.holds.full:
            raise Overloaded("too many calls hold credit at once; retry shortly", retry_after_s=1.0)
        return self.holds.open(hold)

    def close_hold(self, slot: int) -> None:
        """The hold is settled."""
        self.holds.close(slot)

    def write_line(self, record: CallRecord) -> Segment:
        """Make a settled call durable against a crash of this process. Raises JournalFailed."""
        segment = self.journal.write(record)
        if self.journal.wants_spare:
            self._hurry.set()
        return segment

    async def committed(self) -> None:
        """Wait until all that was `put` so far is committed."""
        await self._outbox.wait_committed()

    async def change(self, work: Callable[[sqlite3.Connection, bytes], T]) -> T:
        """Run one change of keys or accounts in the writer thread; the new keys are in use when it returns.

        Raises what `work` raises, and Overloaded when the database stays locked or the disk is full.
        """
        give_up_at = trio.current_time() + _CHANGE_S
        while True:
            try:
                result = await self._writer.run(lambda conn: work(conn, self._pepper))
                break
            except sqlite3.OperationalError as exc:
                if trio.current_time() >= give_up_at or not is_lock(exc):
                    self._writer.failed(exc)
                    raise Overloaded("the database cannot be written now; retry shortly", retry_after_s=1.0) from exc
            await trio.sleep(BACKOFF_FIRST_S)
        await self._look()
        return result

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query in the reader's thread. Raises Overloaded when it cannot be read, or not in time."""
        return await self._reader.run(work)

    async def run(
        self,
        *,
        on_keys: Callable[[KeyIndex], None] | None = None,
        on_moves: Callable[[list[Move]], None] | None = None,
        on_commit: Callable[[float], None] | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Write records and follow keys and credit until cancelled; then write what is queued, within five seconds.

        `on_keys` is called on the loop after `self.keys` has changed, `on_moves` with credit that others wrote,
        `on_commit` with the seconds that the oldest record of a batch had to wait.
        """
        self._on_keys, self._on_moves, self._on_commit = on_keys, on_moves, on_commit
        task_status.started()
        try:
            while True:
                await self._until_due()
                if trio.current_time() >= self._poll_at:
                    await self._look()
                if self.journal.wants_spare or self.journal.dead:
                    await self._tend_journal()
                if self.queued and trio.current_time() >= self._write_at:
                    await self._write_batch()
        finally:
            with trio.move_on_after(_FLUSH_S, shield=True):
                await self._flush()

    async def _until_due(self) -> None:
        """Sleep until the next write or look, or until the journal needs a segment."""
        self._hurry = trio.Event()
        if self.queued:
            with trio.move_on_at(min(self._poll_at, self._write_at)):
                await self._hurry.wait()
            return
        self._parked = self._hurry  # only here a `put` needs to wake the task
        with trio.move_on_at(self._poll_at):
            await self._hurry.wait()
        self._parked = None
        self._write_at = trio.current_time() + self._batch_s

    async def _look(self) -> None:
        """See what others changed: keys, accounts, credit."""
        try:
            index, moves = await self._writer.run(self._changes)
        except sqlite3.Error as exc:
            self._poll_at = await self._failed(self._reads, exc)
            return
        self._poll_at = trio.current_time() + _KEYS_POLL_S
        if moves and moves[-1].entry_id > self._last_entry_id:
            fresh = [move for move in moves if move.entry_id > self._last_entry_id]
            self._last_entry_id = fresh[-1].entry_id
            if self._on_moves is not None:
                self._on_moves(fresh)
        if index is not None and index.version >= self.keys.version:
            self.keys = index
            if self._on_keys is not None:
                self._on_keys(index)
        await self._succeeded(self._reads)

    async def _tend_journal(self) -> None:
        """Allocate the next segment, delete those that are done with."""
        dead, self.journal.dead = self.journal.dead, []
        wanted = self.journal.wants_spare and trio.current_time() >= self._spare_at

        def tend() -> Segment | None:
            Journal.drop(dead)
            return self.journal.make_segment() if wanted else None

        try:
            segment = await self._writer.run_without(tend)
        except OSError as exc:
            self._spare_at = trio.current_time() + _KEYS_POLL_S
            await self._say("journal_has_no_room", "error", error=exc.strerror or type(exc).__name__)
            return
        if segment is not None:
            self.journal.add_spare(segment)

    async def _write_batch(self) -> None:
        self._outbox.begin()
        try:
            await self._writer.run(self._store_batch)
        except sqlite3.Error as exc:
            self._write_at = await self._failed(self._writes, exc)
            return
        self._outbox.committed()
        self._write_at = trio.current_time() + (0 if self._outbox.has_another_batch else self._batch_s)
        if self._on_commit is not None:
            self._on_commit(self._lag_s)
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
                lines.write_calls(self._log_fd, self._outbox.unlogged())
                lines.write_event(self._log_fd, "records_not_stored", "error", count=self.queued)

    async def _failed(self, trouble: Trouble, exc: sqlite3.Error) -> float:
        """Note a failure, say so when it begins to count, and return when to try again (Trio's clock)."""
        before = trouble.failing
        self._writer.failed(exc)
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
        await trio.to_thread.run_sync(partial(self._say_now, event, level, **details))

    def _say_now(self, event: str, level: str, **details: str | int) -> None:
        if self._log_fd is not None:
            lines.write_event(self._log_fd, event, level, **details)

    def _changes(self, conn: sqlite3.Connection) -> tuple[KeyIndex | None, list[Move]]:
        moves = ledger.moves_after(conn, self._last_entry_id)
        return (None if keys.version(conn) == self.keys.version else keys.load_index(conn, self._pepper)), moves

    def _store_batch(self, conn: sqlite3.Connection) -> None:
        outbox = self._outbox
        rows = [calls.row(record) for record in outbox.records]
        if self._log_fd is not None and self._log_calls and not outbox.logged:
            self.lines_lost += lines.write_calls(self._log_fd, outbox.records)
        outbox.logged, again, outbox.tried = True, outbox.tried, True
        for gen_id in batch.write(conn, outbox.records, rows, again=again):
            self.records_refused += 1
            self._say_now("record_refused", "error", gen_id=gen_id)
        oldest = outbox.records[0]
        self._lag_s = time.time() - oldest.started_at - (oldest.total_ms or 0) / 1000
