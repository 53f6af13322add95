"""The data folder: its pepper, its lock and where its files are.

    data/            0700
      pepper         32 random bytes, 0600; without it no stored key can be recognised: back it up
      lock           flock, held by the one serving process
      gateway.db     records and keys (gateway.store)

Invariants: the pepper appears whole or not at all, whoever races to make it; it is never rewritten.
The command line works on the folder without the lock, also while a process serves.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PEPPER_BYTES = 32


class DataDirError(Exception):
    """The data folder cannot be used; `str()` says which path, why, and what to change. Exit code 2."""


class DataDirBusy(DataDirError):
    """Another process serves from this folder."""


@dataclass(frozen=True, slots=True)
class DataDir:
    """An existing, writable folder with a valid pepper."""

    path: Path
    pepper: bytes = field(repr=False)

    @property
    def db_path(self) -> Path:
        """Where the SQLite file is."""
        return self.path / "gateway.db"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for serving. The kernel lets go when the process dies, however it dies.

        Raises:
            DataDirBusy: another process holds it.
            DataDirError: the lock file cannot be opened.
        """
        path = self.path / "lock"
        try:
            lock_fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise _refused(path, "open", exc) from exc
        try:
            _lock(lock_fd, self.path)
            yield
        finally:
            os.close(lock_fd)


def open_data_dir(path: Path, *, create: bool = True) -> DataDir:
    """Make the folder and its pepper when they are missing, check both, and return them.

    Raises:
        DataDirError: it is no folder, not writable, its pepper is damaged, or `create` is false and it is not there.
    """
    if create:
        _make_folder(path)
    elif not (path / "pepper").exists():
        raise DataDirError(
            f"{path}: there is no data folder here; name another with --data-dir or start `gateway serve`"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise DataDirError(
            f"{path}: this user cannot write to the data folder; change its owner or mode, or --data-dir"
        )
    return DataDir(path, _pepper(path / "pepper"))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise DataDirError(
            f"{path}: is a file, and the data folder should be here; move it or change data_dir"
        ) from None
    except OSError as exc:
        raise _refused(path, "create", exc) from exc


def _pepper(path: Path) -> bytes:
    try:
        if not path.exists():
            _create_pepper(path)
        pepper = path.read_bytes()
        with contextlib.suppress(PermissionError):  # a restored copy may have come back readable by others
            path.chmod(0o600)
    except OSError as exc:
        raise _refused(path, "read or create", exc) from exc
    if len(pepper) != PEPPER_BYTES:
        raise DataDirError(
            f"{path}: holds {len(pepper)} bytes, not {PEPPER_BYTES}; restore it from a backup (keys made with the lost "
            "one cannot be recognised), or remove it together with gateway.db to begin anew"
        )
    return pepper


def _create_pepper(path: Path) -> None:
    """Write a whole file under another name, then link it: of racing processes exactly one link succeeds."""
    draft = path.with_name(f".pepper-{secrets.token_hex(8)}")
    draft_fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try:
            os.write(draft_fd, secrets.token_bytes(PEPPER_BYTES))
            os.fsync(draft_fd)
        finally:
            os.close(draft_fd)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()


def _lock(lock_fd: int, path: Path) -> None:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock_fd, 32).decode("ascii", "replace").strip()
        by = f" (process {holder})" if holder else ""
        raise DataDirBusy(
            f"{path}: another gateway serves from this data folder{by}; stop it, or give this one its own --data-dir"
        ) from None
    except OSError as exc:
        raise _refused(path / "lock", "lock", exc) from exc
    os.ftruncate(lock_fd, 0)
    os.write(lock_fd, f"{os.getpid()}\n".encode())


def _refused(path: Path, verb: str, exc: OSError) -> DataDirError:
    return DataDirError(f"{path}: cannot {verb} it: {exc.strerror or exc}")
