"""Idempotency-Key: the same key and the same request run once and are charged once.

Theory of operation. Of an account's calls with one key, one is the first: it holds the key's `Slot` and runs. Others
with the same request wait for it. When it leaves its slot complete, they get its answer; when it failed, they race to
be the first, one wins, the rest wait for that one. Another route or other bytes of the body are another request: 409.

- Only complete 2xx answers are remembered: in memory, for `keep_s` of Trio's clock, within `bytes_max` in all. After
  that, and after a restart, the key is 409 `idempotency_key_used` for as long as it is remembered at all (`used_s` of
  the wall clock, the newest `used_max` keys). A key forgotten altogether runs again.
- A call that failed (not 2xx, a broken stream, the client left) leaves no trace of its key: any request may use it.
- All API keys of an account share its idempotency keys: check what the caller may do before `enter`.
- Everything that grows is bounded: answers, used keys, calls under way, waiters (in all and of one account).
- No task of its own: whoever enters pays for a few looks at the oldest entries. All state changes are synchronous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from types import TracebackType
from typing import Final, Self

import trio

from gateway.errors import Conflict, Overloaded
from gateway.exchange import Exchange, Headers
from gateway.idempotency.answers import Answers, Recording, Replay
from gateway.idempotency.keys import UsedKeys, check_key, digest_of_key, digest_of_request, find_key
from gateway.idempotency.recorder import Recorder

__all__ = ["Idempotency", "Replay", "Slot", "find_key"]

RUNNING_MAX: Final = 10_000  # calls under way with a key; each takes 1 KB besides what it records
WAITERS_MAX: Final = 1_000
ACCOUNT_WAITERS_MAX: Final = 250  # so that one account's storm leaves room for the others'


@dataclass(slots=True, eq=False)
class _Run:
    """A call under way. `completed`: generation id, Trio's clock, wall clock. `replay` once it left, if kept."""

    digest: bytes
    request: bytes
    recording: Recording
    completed: tuple[str, float, float] | None = None
    replay: Replay | None = None
    left: trio.Event = field(default_factory=trio.Event)


class Slot:
    """The right and the duty to run: a context manager. Leaving it without `complete` means that the call failed."""

    __slots__ = ("_leave", "_run", "digest_hex")

    def __init__(self, run: _Run, leave: Callable[[_Run], None]) -> None:
        self.digest_hex = run.digest.hex()
        self._run = run
        self._leave = leave

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(self._run)

    def exchange(self, exchange: Exchange) -> Exchange:
        """`exchange`, with the answer that is sent through it recorded."""
        return Recorder(exchange, self._run.recording)

    def remember(self, status: int, headers: Headers, body: bytes) -> None:
        """Record a whole answer that does not go through an exchange: a view's."""
        self._run.recording.record(status, headers, body)

    def complete(self, gen_id: str, now: float, wall: float) -> None:
        """The call is complete, 2xx and booked: it never runs again, even if the client did not take its last bytes.

        `now` is on Trio's clock, `wall` in Unix seconds. `gen_id` is empty for what has none.
        """
        self._run.completed = (gen_id, now, wall)


class Idempotency:
    """The idempotency keys of all accounts. Sizes in bytes: of all answers together, and of one with its headers."""

    def __init__(
        self,
        *,
        bytes_max: int,
        answer_bytes_max: int,
        keep_s: float = 600,
        used_max: int = 200_000,
        used_s: float = 86_400,
    ) -> None:
        self._answers = Answers(bytes_max, answer_bytes_max, keep_s)
        self._used = UsedKeys(used_max, used_s)
        self._running: dict[bytes, _Run] = {}
        self._waiting: dict[str, int] = {}  # by account; none is 0
        self._waiters = 0

    @property
    def held_bytes(self) -> int:
        """What the remembered answers and those being recorded take."""
        return self._answers.held_bytes

    @property
    def running(self) -> int:
        """How many slots are held."""
        return len(self._running)

    @property
    def waiters(self) -> int:
        """How many calls wait for another's answer."""
        return self._waiters

    def load(self, used: Iterable[tuple[str, float, str]]) -> None:
        """Take over the keys used before a restart: digest in hex, Unix seconds of use, generation id.

        What they were used for is not known: until they are forgotten, any request with them is answered 409.
        """
        for digest_hex, at, gen_id in sorted(used, key=itemgetter(1)):
            self._used.add(bytes.fromhex(digest_hex), None, gen_id, at)

    async def enter(
        self, account_id: str, key: bytes, route: str, body: bytes, now: float, wall: float
    ) -> Replay | Slot:
        """An answer to give again, or the slot to run in; waits for a call under way with the same key and request.

        `now` is on Trio's clock, `wall` in Unix seconds. A slot is held from here on: enter it at once.

        Raises:
            BadRequest: the key is not 1 to 255 printable ASCII characters.
            Conflict: `idempotency_key_reused`, the key belongs to another request; `idempotency_key_used`, its call
                was completed and its answer is gone.
            Overloaded: too many calls under way with a key, or waiting for one.
        """
        check_key(key)
        digest, request = digest_of_key(account_id, key), await digest_of_request(route, body)
        self.expire(now, wall)
        run = self._running.get(digest)
        if run is not None:
            with self._counted_waiter(account_id):
                run = await self._wait_through(run, request)
            if run is not None and run.completed is not None:
                if run.replay is None:
                    raise _gone(run.completed[0])
                return run.replay
        return self._find(digest, request, now, wall) or self._begin(digest, request)

    def expire(self, now: float, wall: float) -> None:
        """Forget a few of what is too old. `enter` does it too; a service tick may, for times without calls."""
        self._answers.expire(now)
        self._used.expire(wall)

    async def _wait_through(self, run: _Run, request: bytes) -> _Run | None:
        """Wait for a run that completes; None when the last one failed and nobody took its place."""
        current: _Run | None = run
        while current is not None:
            _check_same(current.request, request)
            await current.left.wait()
            if current.completed is not None:
                return current
            current = self._running.get(current.digest)
        return None

    @contextmanager
    def _counted_waiter(self, account_id: str) -> Iterator[None]:
        own = self._waiting.get(account_id, 0)
        if self._waiters >= WAITERS_MAX or own >= ACCOUNT_WAITERS_MAX:
            raise Overloaded(
                "too many calls wait for another with the same Idempotency-Key; retry shortly", retry_after_s=1.0
            )
        self._waiters += 1
        self._waiting[account_id] = own + 1
        try:
            yield
        finally:
            self._waiters -= 1
            self._waiting[account_id] -= 1
            if not self._waiting[account_id]:
                del self._waiting[account_id]

    def _find(self, digest: bytes, request: bytes, now: float, wall: float) -> Replay | None:
        """The remembered answer, or None when the key is free. Raises Conflict when it is neither."""
        kept = self._answers.find(digest, now)
        if kept is not None:
            _check_same(kept.request, request)
            return kept.replay
        used = self._used.find(digest, wall)
        if used is None:
            return None
        if used.request is not None:
            _check_same(used.request, request)
        raise _gone(used.gen_id)

    def _begin(self, digest: bytes, request: bytes) -> Slot:
        if len(self._running) >= RUNNING_MAX:
            raise Overloaded("too many calls with an Idempotency-Key are under way; retry shortly", retry_after_s=1.0)
        run = self._running[digest] = _Run(digest, request, Recording(self._answers))
        return Slot(run, self._leave)

    def _leave(self, run: _Run) -> None:
        if run.completed is None:
            run.recording.drop()
        else:
            gen_id, now, wall = run.completed
            run.replay = run.recording.keep(run.digest, run.request, gen_id, now)
            self._used.add(run.digest, run.request, gen_id, wall)
        del self._running[run.digest]
        run.left.set()


def _check_same(known: bytes, request: bytes) -> None:
    if known != request:
        raise Conflict(
            "this Idempotency-Key belongs to another request: its route or the bytes of its body differ;"
            " send a new key with a new request",
            code="idempotency_key_reused",
        )


def _gone(gen_id: str) -> Conflict:
    booked = f"completed and charged as generation {gen_id}" if gen_id else "completed (and charged, if it costs)"
    return Conflict(
        f"the call with this Idempotency-Key was {booked}, and its answer is no longer kept; nothing was run or charged"
        " again. Send a new key to run it once more",
        code="idempotency_key_used",
    )
