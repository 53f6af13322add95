"""SSE framing: cut a byte stream into whole frames, whatever the reads were. Pure.

A frame ends with a blank line; lines end with LF, CRLF or CR (WHATWG HTML, section 9.2.6 "Interpreting an event
stream"). The unit of relay is the whole frame: a tail without its blank line is held, so that an error frame of
ours can follow any cut.
"""

from __future__ import annotations

import re
from typing import Final

# Two line ends in a row. After CRLF or LF a CR at the very end is not yet one: its LF may still come.
_BLANK = re.compile(rb"(?:\r\n|\n)(?:\r\n|\n|\r(?=[^\n]))|\r\r\n?")
KEEPALIVE: Final = b": keepalive\n\n"  # a comment of ours, for a client that has waited for long
_BOM = b"\xef\xbb\xbf"


class FrameTooLarge(ValueError):
    """A frame grew over the limit before its blank line came."""


class FrameCutter:
    """Holds the unfinished tail of a stream. `feed` returns a block of whole frames, often just what was fed."""

    __slots__ = ("_after_cr", "_bytes_max", "_held", "_held_bytes", "_started")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._after_cr = False
        self._started = False

    @property
    def held(self) -> bytes:
        """The tail that has not seen its blank line."""
        return b"".join(self._held)

    def feed(self, data: bytes) -> bytes:
        """Take bytes, return the whole frames they complete (b"" when none). Raises FrameTooLarge."""
        if not self._started or self._after_cr:
            data = self._trim_start(data)
        if self._held:
            if not self._may_complete(data):
                return self._hold(data)
            data = b"".join((*self._held, data))
            self._held, self._held_bytes = [], 0
        if data.endswith(b"\n\n"):
            return data
        end = _last_blank_line(data)
        if end < len(data):
            self._hold(data[end:])
        block = data[:end]
        self._after_cr = block.endswith(b"\r") and end == len(data)
        return block

    def _trim_start(self, data: bytes) -> bytes:
        """Drop a byte order mark at the very start, and the LF of a CRLF that was split after its CR."""
        if data and self._after_cr:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if data and not self._started:
            data = b"".join((*self._held, data))
            self._held, self._held_bytes = [], 0
            if len(data) < len(_BOM) and _BOM.startswith(data):
                return data  # too short to tell: it is held like any tail, and looked at again
            self._started = True
            data = data.removeprefix(_BOM)
        return data

    def _may_complete(self, data: bytes) -> bool:
        """Whether a blank line can end inside `data`: only the seam and the new bytes are searched."""
        seam = b"".join(self._held[-3:])[-3:] + data
        return b"\n\n" in seam or (b"\r" in seam and _BLANK.search(seam) is not None)

    def _hold(self, data: bytes) -> bytes:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > self._bytes_max:
            raise FrameTooLarge
        return b""


def _last_blank_line(data: bytes) -> int:
    """Where the last blank line ends, or 0."""
    if b"\r" not in data:
        return data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
    end = 0
    for match in _BLANK.finditer(data):
        end = match.end()
    return end


def frame_end(block: bytes, start: int) -> int:
    """Where the frame that begins at `start` of a block of whole frames ends, its blank line included."""
    if b"\r" not in block:
        end = block.find(b"\n\n", start)
        return end + 2 if end >= 0 else len(block)  # what is left is a blank line too many
    match = _BLANK.search(block, start)
    return match.end() if match is not None else len(block)


def last_frame(block: bytes) -> bytes:
    """The last frame of a block whose frames end with LF LF."""
    return block[block.rfind(b"\n\n", 0, len(block) - 2) + 2 if b"\n\n" in block[:-2] else 0 :]


def without_comments(frame: bytes) -> bytes:
    """Drop the comment lines of a frame; b"" when nothing but comments was in it."""
    lines = frame.splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(b":")]
    return b"" if all(line in (b"\n", b"\r\n", b"\r") for line in kept) else b"".join(kept)


def event_data(frame: bytes) -> tuple[bytes | None, bytes]:
    """Read a frame's `data` (lines joined by LF; None when it has none) and its `event` name."""
    data: list[bytes] = []
    event = b""
    for line in frame.splitlines():
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            event = value.removeprefix(b" ")
    return (b"\n".join(data) if data else None), event
