"""Ended calls on their way to the database: a queue, and the batch that is being written. On the event loop only.

A record stays here until its commit returned. Each knows its line in the journal, or the slot of its hold, which may
go then: until the commit one of them tells a crash of the call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import trio

from gateway.store.calls import CallRecord
from gateway.store.holds import Holds
from gateway.store.journal import Journal, Segment

BATCH_ROWS_MAX = 256  # about 1 ms of Python in the thread, so the loop never waits longer than that for the GIL


class Outbox:
    """The queue and its present batch. `logged` and `tried` are of that batch."""

    def __init__(self, journal: Journal, holds: Holds) -> None:
        self.records: list[CallRecord] = []
        self.logged = self.tried = False
        self._journal = journal
        self._holds = holds
        self._queue: deque[tuple[CallRecord, Segment | None, int | None]] = deque()
        self._traces: list[tuple[Segment | None, int | None]] = []
        self._put_count = self._committed_count = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    def __len__(self) -> int:
        return len(self._queue) + len(self.records)

    def put(self, record: CallRecord, line: Segment | None, slot: int | None = None) -> None:
        """Take one."""
        self._queue.append((record, line, slot))
        self._put_count += 1

    def begin(self) -> None:
        """Have a batch in `records`, the last one when that is not committed yet."""
        if not self.records:
            taken = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_ROWS_MAX))]
            self.records = [record for record, _, _ in taken]
            self._traces = [(line, slot) for _, line, slot in taken]
            self.logged = self.tried = False

    @property
    def has_another_batch(self) -> bool:
        """Whether a whole batch waits behind this one."""
        return len(self._queue) >= BATCH_ROWS_MAX

    def committed(self) -> None:
        """The batch is in the database."""
        self._committed_count += len(self.records)
        for line, slot in self._traces:
            if line is not None:
                self._journal.release(line)
            if slot is not None:
                self._holds.close(slot)
        self.records, self._traces = [], []
        while self._waiting and self._waiting[0][0] <= self._committed_count:
            self._waiting.popleft()[1].set()

    async def wait_committed(self) -> None:
        """Wait until all that was put so far is committed."""
        if self._committed_count < self._put_count:
            event = trio.Event()
            self._waiting.append((self._put_count, event))
            await event.wait()

    def unlogged(self) -> Iterator[CallRecord]:
        """What has no line in the log yet."""
        if not self.logged:
            yield from self.records
        yield from (record for record, _, _ in self._queue)
