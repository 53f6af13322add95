"""Where the limiter's counters live: many small dicts, bounded in all, swept a few entries at a time. Pure.

One dict of a million names stops the loop for 25 ms when it grows; 256 dicts of 4,000 grow one at a time, in 0.3 ms.
A name's shard comes from bits of its hash that the dict inside does not use first; Python's hash of a string is seeded
anew in each process, so no caller can aim names at one shard. Nothing here is tracked by the garbage collector
(`Counter` opts out, and so do dicts of such values): it would touch each entry in each full walk.

Eviction: each insertion moves a clock hand over a few entries and drops those that say nothing: both buckets full, no
call today, none under way. Losing such an entry changes no decision. An entry that does say something is never
dropped. When the table is full, an insertion looks at `LOOKS_WHEN_FULL` entries for a place and is refused if it finds
none: a caller not seen today waits, and nobody's limit starts afresh. Only admitted calls insert, so to fill the table
one needs that many keys with a call to spare on each, and the limits of their accounts stand against it.
"""

from __future__ import annotations

import sys
from typing import Final

import msgspec

SHARDS: Final = 256
LOOKS: Final = 4  # an insertion adds one entry and looks at four: the table stays near the number of live ones
LOOKS_WHEN_FULL: Final = 256  # about 40 us; finds a place but for 1 in 10^11 when a tenth of the table is idle
_INT_BYTES: Final = 32  # one integer of 2**30 to 2**60, as CPython stores it
_HASH_SHIFT: Final = 40


class Counter(msgspec.Struct, gc=False):
    """What is counted of one key or account."""

    requests_full_at_ns: int = 0
    tokens_full_at_ns: int = 0
    day: int = 0  # the day of calls_today
    calls_today: int = 0
    under_way: int = 0

    def turn(self, today: int) -> None:
        """Begin a new day. After a wrong clock was set back by days, what it had counted counts for today."""
        if self.day < today:
            self.calls_today = 0
        self.day = today

    def idle(self, now_ns: int, today: int) -> bool:
        """Whether a new counter would decide the same."""
        if self.under_way or self.requests_full_at_ns > now_ns or self.tokens_full_at_ns > now_ns:
            return False
        if self.day != today:
            self.turn(today)
        return not self.calls_today


def shard_of(name: str) -> int:
    """The index of the shard that holds `name`."""
    return (hash(name) >> _HASH_SHIFT) % SHARDS


class Shards:
    """Counters by name, `keys_max` at most. `dicts` is open to the limiter, for lookups only."""

    __slots__ = ("_ahead", "_count", "_shard", "dicts", "keys_max")

    def __init__(self, keys_max: int) -> None:
        self.keys_max = keys_max
        self.dicts: list[dict[str, Counter]] = [{} for _ in range(SHARDS)]
        self._count = 0
        self._shard = 0  # where the hand is, and the names of that shard still before it
        self._ahead: list[str] = []

    def __len__(self) -> int:
        return self._count

    def add(self, shard: int, name: str, counter: Counter) -> None:
        """Insert a name that is not there. Call `make_room` before."""
        self.dicts[shard][name] = counter
        self._count += 1

    def make_room(self, entries: int, now_ns: int, today: int) -> bool:
        """Move the hand on; whether so many entries can be added now."""
        for _ in range(LOOKS * entries):
            self._look(now_ns, today)
        looks = LOOKS_WHEN_FULL
        while looks and self._count + entries > self.keys_max:
            self._look(now_ns, today)
            looks -= 1
        return self._count + entries <= self.keys_max

    def memory_bytes(self) -> int:
        """What the table takes, nearly: the dicts as they are, and each entry with a name and two long integers."""
        name = next((name for table in self.dicts for name in table), "")
        entry = sys.getsizeof(Counter()) + sys.getsizeof(name) + 2 * _INT_BYTES
        return sum(map(sys.getsizeof, self.dicts)) + self._count * entry

    def _look(self, now_ns: int, today: int) -> None:
        if not self._ahead:
            self._shard = (self._shard + 1) % SHARDS
            self._ahead = list(self.dicts[self._shard])
            return
        name = self._ahead.pop()
        table = self.dicts[self._shard]
        if table[name].idle(now_ns, today):
            del table[name]
            self._count -= 1
