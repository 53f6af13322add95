"""The answers that can be given again, and the one being recorded for each call under way. In memory only.

Invariant: `held_bytes` is the sum of what every kept answer and every recording costs, and never over `bytes_max`. An
answer costs its body, its headers and a fixed amount for the objects around them, so their number is bounded too. Room
is made by dropping the oldest kept answers; when calls under way alone fill the bound, the one that asks for more is
not recorded further. An answer that was dropped while it is being given again lives on until it was sent.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from gateway.exchange import Headers
from gateway.idempotency.keys import EXPIRED_AT_ONCE

ANSWER_OVERHEAD_BYTES: Final = 2048  # the objects of an answer with ten headers take 1.9 KB (tracemalloc)
REPLAYED: Final = (b"idempotent-replayed", b"true")
# What belongs to one request or one connection, not to the answer.
_OWN_NAMES: Final = frozenset(
    {
        b"connection", b"content-length", b"date", b"keep-alive", b"request-id", b"retry-after", b"server",
        b"set-cookie", b"transfer-encoding", b"x-request-id",
    }
)  # fmt: skip
_OWN_PREFIXES: Final = (b"x-ratelimit-", b"anthropic-ratelimit-")


@dataclass(frozen=True, slots=True)
class Replay:
    """An answer to give again, in one reply. `stream`: the body is a whole event stream.

    `headers` hold `idempotent-replayed` and the first call's `x-generation-id`, under which the charge is found, but
    neither request ids nor rate limits: those are the replaying request's own, and the caller adds them.
    """

    status: int
    headers: Headers
    body: bytes
    stream: bool
    gen_id: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A remembered answer. `request` is the digest of what it answers; `until` is on Trio's clock."""

    replay: Replay
    request: bytes
    cost_bytes: int
    until: float


class Answers:
    """The kept answers, oldest first."""

    def __init__(self, bytes_max: int, answer_bytes_max: int, keep_s: float) -> None:
        self.held_bytes = 0
        self._bytes_max = bytes_max
        self._answer_bytes_max = answer_bytes_max
        self._keep_s = keep_s
        self._kept_bytes = 0
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, more_bytes: int, cost_bytes: int) -> bool:
        """Account for `more_bytes` of a recording that costs `cost_bytes` already. False: there is no room."""
        under_way = self.held_bytes - self._kept_bytes
        if cost_bytes + more_bytes > self._answer_bytes_max or under_way + more_bytes > self._bytes_max:
            return False
        while self.held_bytes + more_bytes > self._bytes_max:
            self._drop(next(iter(self._kept)))
        self.held_bytes += more_bytes
        return True

    def give_back(self, size_bytes: int) -> None:
        """A recording is dropped."""
        self.held_bytes -= size_bytes

    def keep(self, digest: bytes, replay: Replay, request: bytes, cost_bytes: int, now: float) -> None:
        """Remember an answer whose cost was taken while it was recorded."""
        if digest in self._kept:
            self._drop(digest)
        self._kept[digest] = Kept(replay, request, cost_bytes, now + self._keep_s)
        self._kept_bytes += cost_bytes

    def find(self, digest: bytes, now: float) -> Kept | None:
        """The answer of `digest`, unless its time is over."""
        kept = self._kept.get(digest)
        return kept if kept is not None and now < kept.until else None

    def expire(self, now: float) -> None:
        """Drop what is too old, looking at a bounded number of the oldest."""
        for _ in range(min(EXPIRED_AT_ONCE, len(self._kept))):
            digest = next(iter(self._kept))
            if now < self._kept[digest].until:
                return
            self._drop(digest)

    def _drop(self, digest: bytes) -> None:
        cost_bytes = self._kept.pop(digest).cost_bytes
        self._kept_bytes -= cost_bytes
        self.held_bytes -= cost_bytes


class Recording:
    """The answer of one call under way, as far as it was sent. What is not 2xx, or too large, is not recorded."""

    __slots__ = ("_answers", "_body", "_headers", "_over", "_status", "_stream", "_whole", "cost_bytes")

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._over = False
        self._whole = False
        self._stream = False
        self._status = 0
        self._headers: Headers = []
        self._body: bytes | bytearray = b""
        self.cost_bytes = 0

    def record(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""
        self.begin(status, headers, stream=False)
        self.add(body)
        self.end()

    def begin(self, status: int, headers: Headers, *, stream: bool) -> None:
        """The head of the answer."""
        if not 200 <= status < 300:
            self.drop()
            return
        self._status, self._stream = status, stream
        self._headers = [
            (name, value)
            for name, value in headers
            if name.lower() not in _OWN_NAMES and not name.lower().startswith(_OWN_PREFIXES)
        ]
        self._take(ANSWER_OVERHEAD_BYTES + sum(len(name) + len(value) for name, value in self._headers))

    def add(self, data: bytes) -> None:
        """More of the body."""
        if not data or not self._take(len(data)):
            return
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytearray):
            self._body += data
        else:
            self._body = bytearray(self._body)
            self._body += data

    def end(self) -> None:
        """The body is complete."""
        self._whole = True

    def drop(self) -> None:
        """Record nothing from now on, and forget what was recorded."""
        self._answers.give_back(self.cost_bytes)
        self.cost_bytes, self._over, self._body = 0, True, b""

    def keep(self, digest: bytes, request: bytes, gen_id: str, now: float) -> Replay | None:
        """Hand the answer over to the kept ones; None when it is not whole, or is not recorded."""
        if self._over or not self._whole:
            self.drop()
            return None
        replay = Replay(self._status, [*self._headers, REPLAYED], bytes(self._body), self._stream, gen_id)
        self._answers.keep(digest, replay, request, self.cost_bytes, now)
        self.cost_bytes, self._over, self._body = 0, True, b""
        return replay

    def _take(self, more_bytes: int) -> bool:
        if self._over:
            return False
        if not self._answers.take(more_bytes, self.cost_bytes):
            self.drop()
            return False
        self.cost_bytes += more_bytes
        return True
