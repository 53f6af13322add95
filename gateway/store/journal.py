"""The journal: one line a settled call, written before its last byte leaves, so that `kill -9` loses no charge.

SQLite commits in batches, some 50 ms later. A line is copied into a file that is mapped into memory: the kernel has it
from that moment, whatever becomes of the process, as it would after a `write`, without a system call and without
letting go of the GIL (0.9 us a line and not 7). Start-up replays lines whose call is not in the database yet.

    data/journal/000000000007.log    lines `crc32 json LF`, then zeros to the end of the segment

Segments are allocated ahead, in the writer thread, so that a full disk shows before a call is admitted and never at
its end; a page without a block behind it would be a SIGBUS. A segment goes when the calls of all its lines are
committed. All but `make_segment` and `drop` belong to the event loop.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec
import orjson

from gateway.store.calls import COLUMNS, CallRecord, values_of

LINE_BYTES_MAX: Final = 4096  # of one line; room for as many as there are calls under way is kept free

_NUMBER_DIGITS: Final = 12
_ATTEMPTS_KEPT: Final = 3  # of a call whose line would be too long


class JournalFailed(Exception):
    """A line could not be written: the charge is not durable, so the call must not end as if it were."""


class Segment:
    """One file of the journal, mapped. `uncommitted` counts its lines whose calls are not in the database."""

    __slots__ = ("path", "size_bytes", "text", "uncommitted", "used_bytes")

    def __init__(self, path: Path, text: mmap.mmap | None, size_bytes: int) -> None:
        self.path = path
        self.text = text
        self.size_bytes = size_bytes
        self.used_bytes = 0
        self.uncommitted = 0

    def append(self, line: bytes) -> None:
        """Copy a line. Its newline goes last: a line that a crash cut short has none."""
        assert self.text is not None
        start, end = self.used_bytes, self.used_bytes + len(line) - 1
        self.text[start:end] = line[:-1]
        self.text[end : end + 1] = b"\n"
        self.used_bytes = end + 1
        self.uncommitted += 1

    def close(self) -> None:
        """Let the file go."""
        if self.text is not None:
            self.text.close()


class Journal:
    """The journal of a serving process. Begins empty: `replay` comes first, see `gateway.store.opening`."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self._folder = folder
        self._segment_bytes = max(segment_bytes // LINE_BYTES_MAX, 4) * LINE_BYTES_MAX
        self._number = max([int(path.stem) for path in segments(folder, "*")], default=0)
        self._current = self.make_segment()
        self._spare: Segment | None = None
        self._full: list[Segment] = []
        self.dead: list[Segment] = []  # to be dropped by the writer thread

    def write(self, record: CallRecord) -> Segment:
        """Write the line of one call; about 2 us. The segment is to be `release`d once the call is committed.

        Raises JournalFailed.
        """
        try:
            line = render(record)
        except TypeError as exc:
            raise JournalFailed("an amount that no 64 bits hold") from exc
        segment = self._current
        if segment.used_bytes + len(line) > segment.size_bytes:
            segment = self._next()
        segment.append(line)
        return segment

    def _next(self) -> Segment:
        if self._spare is None:
            raise JournalFailed("no room; the disk is full or slow")
        self._full.append(self._current)
        self._current, self._spare = self._spare, None
        self._sweep()
        return self._current

    def release(self, segment: Segment) -> None:
        """The call of one of its lines is committed."""
        segment.uncommitted -= 1
        if segment.uncommitted == 0 and segment is not self._current:
            self._sweep()

    def _sweep(self) -> None:
        self.dead += [segment for segment in self._full if segment.uncommitted == 0]
        self._full = [segment for segment in self._full if segment.uncommitted]

    def has_room(self, calls: int) -> bool:
        """Whether so many calls can still end."""
        room = self._current.size_bytes - self._current.used_bytes
        if self._spare is not None:
            room += self._spare.size_bytes
        return room >= calls * LINE_BYTES_MAX

    @property
    def wants_spare(self) -> bool:
        """Whether the writer thread should allocate a segment."""
        return self._spare is None

    def add_spare(self, segment: Segment) -> None:
        """Take what `make_segment` made."""
        self._spare = segment

    def make_segment(self) -> Segment:
        """Allocate a segment. Blocks. Raises OSError when the disk has no room for it; then nothing is left of it."""
        number = self._number + 1
        path = self._folder / f"{number:0{_NUMBER_DIGITS}}.log"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._segment_bytes)
            text = mmap.mmap(fd, self._segment_bytes)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(fd)
        self._number = number
        return Segment(path, text, self._segment_bytes)

    @staticmethod
    def drop(dead: list[Segment]) -> None:
        """Close and delete segments. Blocks."""
        for segment in dead:
            segment.close()
            with contextlib.suppress(OSError):
                segment.path.unlink()

    def close(self) -> None:
        """Close all files, and delete those that hold nothing that is not committed. Blocks."""
        left = [self._current, *self._full] + ([self._spare] if self._spare else [])
        self.drop([*self.dead, *(segment for segment in left if segment.uncommitted == 0)])
        for segment in left:
            if segment.uncommitted:
                segment.close()


def render(record: CallRecord) -> bytes:
    """One line, at most LINE_BYTES_MAX."""
    text = orjson.dumps(values_of(record), default=msgspec.to_builtins)
    if len(text) > LINE_BYTES_MAX - 10:
        record = msgspec.structs.replace(record)
        record.attempts = record.attempts[-_ATTEMPTS_KEPT:]
        record.model, record.key_name = record.model[:64], record.key_name[:64]
        record.upstream_model, record.upstream_id = record.upstream_model[:64], record.upstream_id[:64]
        record.finish_reason = (record.finish_reason or "")[:64]
        text = orjson.dumps(values_of(record), default=msgspec.to_builtins)
    return b"%08x %b\n" % (crc32(text), text)


def segments(folder: Path, pattern: str = "*.log") -> list[Path]:
    """The segments that are there, oldest first. Makes the folder."""
    folder.mkdir(mode=0o700, exist_ok=True)
    return sorted(path for path in folder.glob(pattern) if path.stem.isdigit())


def read(path: Path) -> tuple[list[CallRecord], int]:
    """The calls of one segment, and how many lines of it are damaged.

    A line cut short by a crash is none: no last byte was sent after it, and zeros follow it.
    """
    found, damaged = [], 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            check, _, text = line[:-1].partition(b" ")
            if not text or check != b"%08x" % crc32(text):
                damaged += 1
                continue
            # Of an older version's line the last columns are missing: they have defaults.
            found.append(msgspec.convert(dict(zip(COLUMNS, orjson.loads(text), strict=False)), CallRecord))
    return found, damaged
