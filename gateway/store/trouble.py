"""When a database error counts as the store failing, and how long to wait before the next try.

A lock is somebody else's write and normally passes: it counts only once it has lasted. A full disk, an I/O
error or a damaged file counts at once.
"""

from __future__ import annotations

import sqlite3

LOCKED_S_MAX = 5.0
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.1, 2.0

_LOCKED_CODES = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED))
# A connection that met one of these goes on working; any other error may have left it unusable.
_HARMLESS_CODES = _LOCKED_CODES | {sqlite3.SQLITE_FULL}


def _code(exc: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 for an error that Python raised itself."""
    return int(getattr(exc, "sqlite_errorcode", 0)) & 0xFF


def is_lock(exc: sqlite3.Error) -> bool:
    """Say whether it is somebody else's write, which passes."""
    return _code(exc) in _LOCKED_CODES


def needs_new_connection(exc: sqlite3.Error) -> bool:
    """Say whether the connection should be opened anew before the next try."""
    return _code(exc) not in _HARMLESS_CODES


class Trouble:
    """One operation's run of failures. `failing` says whether it counts."""

    def __init__(self) -> None:
        self.failing = False
        self._backoff_s = BACKOFF_FIRST_S
        self._since: float | None = None

    def note(self, exc: sqlite3.Error, now: float) -> float:
        """Count one failure at `now` (seconds); return the seconds to wait before the next try."""
        if self._since is None:
            self._since = now
        if _code(exc) in _LOCKED_CODES:  # the try has waited already: stay close behind the lock's holder
            self.failing = self.failing or now - self._since >= LOCKED_S_MAX
            return BACKOFF_FIRST_S
        self.failing = True
        wait_s = self._backoff_s
        self._backoff_s = min(wait_s * 2, BACKOFF_MAX_S)
        return wait_s

    def clear(self) -> None:
        """Count one success."""
        self.failing = False
        self._backoff_s = BACKOFF_FIRST_S
        self._since = None
