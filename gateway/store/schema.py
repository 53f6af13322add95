"""The database file: how it is opened, its tables, and the steps from one version of them to the next.

Invariants: every connection is in WAL mode with foreign keys on and in autocommit, so a transaction is always
an explicit `immediate()`; `meta` is one row; a migration step and its new `meta.schema_version` commit
together, whoever of several processes gets there first.

Never open this file by any other means in a process that has it open: closing that other descriptor would
drop SQLite's POSIX locks (sqlite.org/howtocorrupt.html section 2.2).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from gateway.auth.keys import digest
from gateway.datadir import DataDirError
from gateway.store.migrations import OPERATOR, STEPS

__all__ = ["OPERATOR", "connect", "immediate", "open_database"]

BUSY_S = 5.0  # how long a one-off command waits for another writer

_PEPPER_PROOF = b"gateway: the pepper of this database"


def connect(path: Path, *, busy_s: float = BUSY_S, create: bool = True) -> sqlite3.Connection:
    """Open the file for use by one thread at a time. Waits up to `busy_s` for other writers.

    Raises sqlite3.Error; with `create` false also when the file is missing.
    """
    if create:
        # Only a file that was not there: closing any descriptor of a live one drops this process's POSIX locks on it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    uri = f"{path.resolve().as_uri()}?mode=rw"
    conn = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)
    try:
        conn.execute("PRAGMA journal_mode = WAL").fetchone()
        conn.execute("PRAGMA synchronous = NORMAL")
        conn.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        conn.close()
        raise
    return conn


def open_database(path: Path, pepper: bytes, *, busy_s: float = BUSY_S) -> sqlite3.Connection:
    """Open the file, creating or migrating it, and check that its keys were made with this pepper.

    Raises:
        DataDirError: it is no database of ours, a newer gateway made it, or the pepper is another one.
        sqlite3.OperationalError: it stayed locked for `busy_s`, or the disk is full.
    """
    try:
        conn = connect(path, busy_s=busy_s)
    except OSError as exc:
        raise DataDirError(f"{path}: cannot open the database: {exc.strerror or exc}") from exc
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as exc:
        raise DataDirError(f"{path}: {exc}; restore it from a backup or move it away") from exc
    try:
        _migrate(conn, path)
        _check_pepper(conn, pepper, path)
    except BaseException:
        conn.close()
        raise
    return conn


@contextlib.contextmanager
def immediate(conn: sqlite3.Connection) -> Iterator[None]:
    """A write transaction: takes the write lock at once, commits at the end, rolls back on any exception."""
    conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:  # some errors (disk full among them) have rolled back already
            conn.execute("ROLLBACK")
        raise


def _version(conn: sqlite3.Connection) -> int:
    if conn.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'").fetchone() is None:
        return 0
    version: int = conn.execute("SELECT schema_version FROM meta").fetchone()[0]
    return version


def _migrate(conn: sqlite3.Connection, path: Path) -> None:
    if _version(conn) < len(STEPS):
        from sqlite_utils import Database  # 0.1 s to import, and only a new or old file needs it

        with immediate(conn):
            for step in STEPS[_version(conn) :]:  # asked again: another process may have been first
                step(Database(conn, execute_plugins=False))
            conn.execute("UPDATE meta SET schema_version = ?", (max(len(STEPS), _version(conn)),))
    if (version := _version(conn)) > len(STEPS):
        raise DataDirError(
            f"{path}: has schema version {version} and this gateway knows {len(STEPS)}; run the newer gateway that "
            "made it, or restore a backup"
        )


def _check_pepper(conn: sqlite3.Connection, pepper: bytes, path: Path) -> None:
    """Bind a new database to its pepper; refuse an old one under another, where every key would turn into a 401."""
    proof = digest(pepper, _PEPPER_PROOF)
    row = conn.execute("SELECT pepper_proof FROM meta").fetchone()
    if row[0] is None:
        with immediate(conn):
            conn.execute("UPDATE meta SET pepper_proof = ? WHERE pepper_proof IS NULL", (proof,))
        row = conn.execute("SELECT pepper_proof FROM meta").fetchone()
    if row[0] != proof:
        raise DataDirError(
            f"{path.with_name('pepper')}: is not the pepper that the keys in {path.name} were made with; "
            "restore the two from the same backup"
        )
