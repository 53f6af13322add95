"""The connection that writes, and the one thread at a time that may touch it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeVar

import trio

from gateway.store import schema
from gateway.store.trouble import needs_new_connection

BUSY_S: Final = 0.25  # that one try waits for another writer

T = TypeVar("T")


class Writer:
    """The writing connection of a serving process. Opened anew after an error that may have left it unusable."""

    def __init__(self, path: Path, conn: sqlite3.Connection, durability: Literal["crash", "power_loss"]) -> None:
        self.conn = conn
        self._path = path
        self._durability = durability
        self._thread = trio.CapacityLimiter(1)
        self._reopen = False
        self._prepare()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run one piece of blocking work. Not abandoned when cancelled: it ends by itself, within `BUSY_S` or so."""
        return await trio.to_thread.run_sync(lambda: work(self._connection()), limiter=self._thread)

    async def run_without(self, work: Callable[[], T]) -> T:
        """Run blocking work that needs the thread and no connection."""
        return await trio.to_thread.run_sync(work, limiter=self._thread)

    def failed(self, exc: sqlite3.Error) -> None:
        """Work raised this: see whether the connection is still good."""
        self._reopen = self._reopen or needs_new_connection(exc)

    def close(self) -> None:
        """Close it. Blocks shortly: the last one out checkpoints the WAL."""
        self.conn.close()

    def _connection(self) -> sqlite3.Connection:
        if self._reopen:
            self.conn.close()
            self.conn = schema.connect(self._path, busy_s=BUSY_S, create=False)
            self._prepare()
            self._reopen = False
        return self.conn

    def _prepare(self) -> None:
        self.conn.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
        if self._durability == "power_loss":
            self.conn.execute("PRAGMA synchronous = FULL")
