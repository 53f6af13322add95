"""Queries for people: on a connection of their own that can only read, in a thread of their own, with a time limit.

What the account API asks never waits behind the writer, and never makes the writer wait.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import trio

from gateway.errors import Overloaded

QUERY_S: Final = 5.0
WAITING_MAX: Final = 64  # queries at once; more are refused rather than queued
_STEPS_PER_LOOK: Final = 10_000  # of SQLite's virtual machine, about 0.1 ms

T = TypeVar("T")


class Reader:
    """The reading connection of a serving process. Opened by its first query."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._conn: sqlite3.Connection | None = None
        self._thread = trio.CapacityLimiter(1)
        self._waiting = 0

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the thread. Raises what it raises, and Overloaded for what SQLite or the time limit says."""
        if self._waiting >= WAITING_MAX:
            raise Overloaded("too many queries at once; retry shortly", retry_after_s=1.0)
        self._waiting += 1
        try:
            return await trio.to_thread.run_sync(self._run, work, limiter=self._thread)
        except sqlite3.Error as exc:
            raise Overloaded(
                "the database cannot be read now, or not in time; retry shortly", retry_after_s=1.0
            ) from exc
        finally:
            self._waiting -= 1

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        conn = self._conn
        if conn is None:
            uri = f"{self._path.resolve().as_uri()}?mode=ro"
            conn = self._conn = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        end = time.monotonic() + QUERY_S
        conn.set_progress_handler(lambda: time.monotonic() > end, _STEPS_PER_LOOK)
        try:
            return work(conn)
        except sqlite3.Error:
            conn.close()
            self._conn = None
            raise

    def close(self) -> None:
        """Close the connection."""
        if self._conn is not None:
            self._conn.close()
