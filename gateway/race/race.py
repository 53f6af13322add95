"""The race: who is started when, and who wins. Happy eyeballs (RFC 8305; trio's open_tcp_stream) for providers.

Start the first attempt; start the next when one fails or, with hedging, when its delay has passed; the first attempt
with content wins; losers are cancelled by scope and have closed their sockets before `race` returns. Which attempts
are worth starting is decided here from `AttemptFailed.reach`: after a key failure the provider's next key, after a
provider failure the next provider, after a refusal none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Protocol

import trio

from gateway.core.call import Attempt, AttemptNote
from gateway.errors import AllFailed, AttemptFailed, GatewayError, NoRoute
from gateway.upstream.answer import Answer

Start = Callable[[Attempt], Awaitable[Answer]]
_BUSY = frozenset({"status_429", "status_503", "connect_error", "connect_timeout", "first_content_timeout"})


class Judge(Protocol):
    """Told of every outcome as it happens: health, metrics and the call's notes hang on it."""

    def won(self, attempt: Attempt, duration_s: float) -> None:
        """The attempt has its first content."""

    def failed(self, attempt: Attempt, failure: AttemptFailed, duration_s: float) -> None:
        """The attempt failed."""

    def lost(self, attempt: Attempt, duration_s: float) -> None:
        """Another attempt won, or the client left."""


class Race:
    """One call's race. `hedge_delay_s` is inf for none; `may_hedge` asks the budget, once per hedge."""

    __slots__ = (
        "_attempts",
        "_dead",
        "_failures",
        "_hedge_delay_s",
        "_judge",
        "_may_hedge",
        "_next",
        "_notes",
        "_over",
        "_start",
    )

    def __init__(
        self,
        attempts: Sequence[Attempt],
        start: Start,
        judge: Judge,
        *,
        hedge_delay_s: float = inf,
        may_hedge: Callable[[Attempt], bool] = lambda _attempt: False,
    ) -> None:
        self._attempts = attempts
        self._start = start
        self._judge = judge
        self._hedge_delay_s = hedge_delay_s
        self._may_hedge = may_hedge
        self._next = 0
        self._over = False
        self._dead: set[str] = set()
        self._failures: list[AttemptFailed] = []
        self._notes: list[AttemptNote] = []

    async def run(self) -> Answer:
        """Race to the first content. The caller owns the Answer. Raises Refused, AllFailed, NoRoute."""
        if not self._attempts:
            raise NoRoute("no enabled provider serves this model; the operator has to set a provider key")
        if self._hedge_delay_s < inf and len(self._attempts) > 1:
            return await self._abreast()
        return await self._in_turn()

    async def _in_turn(self) -> Answer:
        """No hedging: at most one attempt lives at a time, in the caller's own task."""
        while (attempt := self._take()) is not None:
            answer = await self._try(attempt)
            if answer is not None:
                return answer
        raise self._all_failed()

    async def _abreast(self) -> Answer:
        """Hedging: attempts run side by side; the nursery ends when the first has won and the others have closed."""
        winners: list[Answer] = []
        refusals: list[GatewayError] = []

        async def lane(attempt: Attempt, over: trio.Event) -> None:
            try:
                answer = await self._try(attempt)
            except GatewayError as refusal:
                refusals.append(refusal)
                nursery.cancel_scope.cancel()
                return
            if answer is None:
                over.set()
            else:
                winners.append(answer)
                nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                attempt = self._take()
                while attempt is not None:
                    over = trio.Event()
                    nursery.start_soon(lane, attempt, over)
                    with trio.move_on_after(self._hedge_delay_s if attempt.on_disconnect == "cancel" else inf):
                        await over.wait()  # nobody starts beside a provider that bills on after a cancel
                    if not over.is_set() and not self._hedge_allowed():
                        await over.wait()
                    attempt = self._take()
        except BaseException:
            for answer in winners:
                answer.close()
            raise
        if winners:
            return winners[0]
        if refusals:
            raise refusals[0]
        raise self._all_failed()

    def _hedge_allowed(self) -> bool:
        """Ask whether the next attempt may start beside the living: not onto a provider that bills after a cancel."""
        following = self._peek()
        return following is not None and following.on_disconnect == "cancel" and self._may_hedge(following)

    def _peek(self) -> Attempt | None:
        index = self._next
        while index < len(self._attempts) and self._attempts[index].provider in self._dead:
            index += 1
        return self._attempts[index] if index < len(self._attempts) else None

    def _take(self) -> Attempt | None:
        attempt = self._peek()
        if attempt is not None:
            self._next = self._attempts.index(attempt, self._next) + 1
        return attempt

    async def _try(self, attempt: Attempt) -> Answer | None:
        """Run one attempt; None when it failed and others may follow. Raises the refusal when none may."""
        began = trio.current_time()
        try:
            answer = await self._start(attempt)
        except AttemptFailed as failure:
            self._judge.failed(attempt, failure, trio.current_time() - began)
            if failure.reach == "call" and failure.refusal is not None:
                raise failure.refusal from None
            if failure.reach == "provider":
                self._dead.add(attempt.provider)
            self._failures.append(failure)
            self._notes.append(AttemptNote(attempt.provider, failure.outcome, failure.status, 0.0))
            return None
        except trio.Cancelled:
            self._judge.lost(attempt, trio.current_time() - began)
            raise
        if self._over:  # two finished in the same tick: the first keeps it
            answer.close()
            self._judge.lost(attempt, trio.current_time() - began)
            return None
        self._over = True
        self._judge.won(attempt, trio.current_time() - began)
        return answer

    def _all_failed(self) -> AllFailed:
        """502 when any provider answered badly, else 503 with the least Retry-After: a 429 is never the caller's."""
        waits = [failure.retry_after_s for failure in self._failures if failure.retry_after_s is not None]
        told = ", ".join(f"{note.provider}: {note.outcome}" for note in self._notes)
        busy = all(failure.outcome in _BUSY for failure in self._failures)
        return AllFailed(
            f"every provider failed ({told}); retry, or choose another model",
            status=503 if busy else 502,
            retry_after_s=(min(waits) if waits else 1.0) if busy else None,
        )
