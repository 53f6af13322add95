"""JSON lines on standard error, written by the store's thread.

Each write is whole lines of at most `PIPE_BUF` bytes, which POSIX makes atomic on a pipe: lines of other
writers never land inside ours, and a pipe that polls as writable takes the write without blocking. A log
reader that stalls therefore costs log lines, never records: after a short wait the rest of the batch is let go.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Iterable, Sequence

import orjson

from gateway.store.calls import CallRecord, log_line

_ATOMIC_BYTES = select.PIPE_BUF  # 4096 on Linux: 5 to 8 lines
_STALL_MS = 100


def write_calls(fd: int, records: Iterable[CallRecord]) -> int:
    """Write one line for each call; return how many lines a stalled or closed reader cost."""
    return _write(fd, [log_line(record) for record in records])


def write_event(fd: int, event: str, level: str, **details: str | float) -> None:
    """Write one line about the store itself. Details hold no secrets."""
    _write(fd, [orjson.dumps({"event": event, "level": level, **details}, option=orjson.OPT_APPEND_NEWLINE)])


def _write(fd: int, lines: Sequence[bytes]) -> int:
    if _is_file(fd):  # it never stalls, and each write lets go of the GIL: one
        return 0 if _write_file(fd, b"".join(lines)) else len(lines)
    done = 0
    for count, data in _joined(lines):
        if not _write_one(fd, data):
            return len(lines) - done
        done += count
    return 0


def _is_file(fd: int) -> bool:
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False


def _write_file(fd: int, data: bytes) -> bool:
    try:
        return os.write(fd, data) == len(data)
    except OSError:
        return False


def _joined(lines: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Join neighbours up to the atomic size: (number of lines, bytes) for each write."""
    joined: list[tuple[int, bytes]] = []
    start = size = 0
    for at, line in enumerate(lines):
        if size and size + len(line) > _ATOMIC_BYTES:
            joined.append((at - start, b"".join(lines[start:at])))
            start, size = at, 0
        size += len(line)
    if size:
        joined.append((len(lines) - start, b"".join(lines[start:])))
    return joined


def _write_one(fd: int, data: bytes) -> bool:
    ready = select.poll()
    ready.register(fd, select.POLLOUT)
    view = memoryview(data)
    try:
        while view:
            if not ready.poll(_STALL_MS):
                return False
            view = view[os.write(fd, view[:_ATOMIC_BYTES]) :]
    except OSError:  # the reader is gone, or its disk is full: a log has nobody else to tell
        return False
    return True
