"""The open holds, where `kill -9` leaves them: a file of fixed slots, mapped into memory.

A call that holds credit fills a slot before any upstream byte and clears it when it is settled: two copies of some
hundred bytes, no system call. What start-up finds is a call that was cut off: its hold is void, since holds live in
memory, and it is logged and recorded. The file is allocated whole, for a page that cannot be backed is a SIGBUS.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

import orjson

from gateway.store.calls import CallRecord

SLOT_BYTES: Final = 512
SLOTS_MAX: Final = 16_384  # calls that hold credit at once: 8 MiB

_READ_BYTES: Final = 128 * SLOT_BYTES
_LENGTH: Final = Struct("<I")
_FREE: Final = _LENGTH.pack(0)
_TEXT_BYTES_MAX: Final = SLOT_BYTES - _LENGTH.size


class OpenHold(NamedTuple):
    """A call whose hold is open. `started_at` is Unix seconds."""

    gen_id: str
    request_id: str
    started_at: float
    account_id: str
    hold_pico_usd: int
    key_id: str
    key_name: str
    route: str
    lane: str
    stream: bool
    model: str


class Holds:
    """The slots of a serving process. Not for threads."""

    def __init__(self, path: Path) -> None:
        """Open or make the file; `found` is what a crash left. Blocks. Raises OSError."""
        size = SLOT_BYTES * SLOTS_MAX
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            found = _read(fd)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._left = list(found)
        self.found = [hold for hold in found.values() if hold is not None]
        self._free = list(range((SLOTS_MAX - 1) * SLOT_BYTES, -1, -SLOT_BYTES))

    @property
    def full(self) -> bool:
        """Whether no call can hold credit now."""
        return not self._free

    def __len__(self) -> int:
        return SLOTS_MAX - len(self._free)

    def open(self, hold: OpenHold) -> int:
        """Note a hold before the call goes out; the slot to `close`. About 1 us.

        Not to be called while `full`.
        """
        text = _render(hold)
        slot = self._free.pop()
        self._map[slot + 4 : slot + 4 + len(text)] = text
        self._map[slot : slot + 4] = _LENGTH.pack(len(text))  # last: a slot is all there or not there
        return slot

    def close(self, slot: int) -> None:
        """The call is settled."""
        self._map[slot : slot + 4] = _FREE
        self._free.append(slot)

    def forget_found(self) -> None:
        """What was found has been written down: clear it."""
        for slot in self._left:
            self._map[slot : slot + 4] = _FREE
        self.found, self._left = [], []

    def unmap(self) -> None:
        """Let the file go."""
        self._map.close()


def _read(fd: int) -> dict[int, CallRecord | None]:
    """The used slots; None where one holds nothing that we wrote. Not through the map: that would make it resident."""
    found: dict[int, CallRecord | None] = {}
    for start in range(0, SLOTS_MAX * SLOT_BYTES, _READ_BYTES):
        block = os.pread(fd, _READ_BYTES, start)
        if block.count(0) == len(block):
            continue
        for at in range(0, len(block), SLOT_BYTES):
            (length,) = _LENGTH.unpack_from(block, at)
            if length:
                text = block[at + _LENGTH.size : at + _LENGTH.size + length]
                found[start + at] = _parse(text) if length <= _TEXT_BYTES_MAX else None
    return found


_SURE: Final = 6  # fields that always fit


def _render(hold: OpenHold) -> bytes:
    text = orjson.dumps(tuple(hold))
    return text if len(text) <= _TEXT_BYTES_MAX else orjson.dumps(tuple(hold)[:_SURE])


def _parse(text: bytes) -> CallRecord | None:
    try:
        values = orjson.loads(text)
        return CallRecord(**dict(zip(OpenHold._fields, values, strict=False)), ended="crashed", code="gateway_crashed")
    except (orjson.JSONDecodeError, TypeError):  # nothing that we wrote
        return None
