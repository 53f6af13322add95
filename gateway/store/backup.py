"""A copy of the database that is whole, taken while others write, and of the pepper that its keys were made with.

    FILE           the database as of one moment, 0600, no WAL beside it
    FILE.pepper    32 bytes, 0600

Invariants: nothing is overwritten; a file of that name is complete and checked, or empty after a crash; the copy is
of one snapshot, for SQLite's online backup copies all pages in one step (sqlite.org/backup.html: a copy in several
steps begins anew whenever another process has written, and beside a busy gateway would never end).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from gateway.datadir import DataDir
from gateway.store.schema import connect


class BackupError(Exception):
    """No backup was made; `str()` says which path, why, and what to change. Nothing is left of it."""


def pepper_path(target: Path) -> Path:
    """Where the pepper of the backup `target` goes."""
    return target.with_name(f"{target.name}.pepper")


def backup(data: DataDir, target: Path) -> None:
    """Copy the database of a data folder to `target` and its pepper beside it. Blocks; writers go on.

    Raises:
        BackupError: there is such a file already, it cannot be written, the disk is full, or the copy is damaged.
        sqlite3.Error: the database is locked or not there. Nothing is left behind.
    """
    with _claimed(target), _claimed(pepper_path(target)):
        for path, write in ((target, _copy_database), (pepper_path(target), _copy_pepper)):
            draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")  # no journal of an earlier one beside it
            try:
                write(data, draft)
                draft.replace(path)
            except OSError as exc:
                raise BackupError(f"{path}: cannot write it: {exc.strerror or exc}") from exc
            finally:
                draft.unlink(missing_ok=True)
        _sync_folder(target.parent)


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Take a name that nobody has, with an empty file; give it back when what follows fails."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise BackupError(f"{path}: is there already, and a backup overwrites nothing; name another file") from None
    except OSError as exc:
        raise BackupError(f"{path}: cannot create it: {exc.strerror or exc}") from exc
    try:
        yield
    except BaseException:
        path.unlink()
        raise


def _copy_database(data: DataDir, draft: Path) -> None:
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with (
        contextlib.closing(connect(data.db_path, create=False)) as source,
        contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as copy,
    ):
        source.execute("BEGIN")
        source.execute("SELECT 1 FROM meta").fetchone()  # a lock shows here; the copy itself would wait for ever
        try:
            source.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode = DELETE")  # the copied header says WAL; one file is easier to keep
            (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as exc:
            raise BackupError(f"{data.db_path}: cannot be copied to {draft.parent}: {exc}") from exc
        if verdict != "ok":
            raise BackupError(
                f"{data.db_path}: is damaged ({verdict.splitlines()[-1]}); restore it from an older backup"
            )


def _copy_pepper(data: DataDir, draft: Path) -> None:
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data.pepper)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    folder_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder_fd)
    finally:
        os.close(folder_fd)
