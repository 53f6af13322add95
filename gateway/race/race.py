"""The race: who is started when, and who wins. Happy eyeballs (RFC 8305; trio's open_tcp_stream) for providers.

Start the first attempt; start the next when one fails or, with hedging, when its delay has passed; the first attempt
with content wins; losers are cancelled by scope and have closed their sockets before `race` returns. Which attempts
are worth starting is decided here from `AttemptFailed.reach`: after a key failure the provider's next key, after a
provider failure the next provider, after a refusal another model, if the request named one.
This is the one layer that tries again; below it a request is sent once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from math import inf
from typing import Protocol

import structlog
import trio

from gateway.core.call import Attempt, Endpoint
from gateway.errors import AllFailed, AttemptFailed, GatewayError, NoRoute
from gateway.upstream.answer import Answer

Start = Callable[[Attempt], Awaitable[Answer]]
# Not answered, or answered that it has no time: nothing bad was said, so it is "unavailable", not "bad gateway".
_BUSY = frozenset(
    {
        "status_429",
        "status_503",
        "connect_error",
        "connect_timeout",
        "first_content_timeout",
        "answer_timeout",
        "pool_full",
    }
)
# Nothing behind this address is worth another try, whatever the model.
_UNREACHABLE = frozenset({"connect_error", "connect_timeout", "pool_full"})
# Over in a moment, perhaps, and nothing was answered yet: an overload or a restart, that named no time to come back.
_FLEETING = frozenset(
    {"connect_error", "no_answer", "status_500", "status_502", "status_503", "status_504", "status_529"}
)


class Judge(Protocol):
    """Told of every outcome as it happens: health, metrics and the call's notes hang on it. Times are Trio's."""

    def began(self, attempt: Attempt, now: float, *, beside: bool) -> None:
        """The attempt starts; `beside` others that live."""

    def won(self, attempt: Attempt, began: float, now: float) -> None:
        """The attempt has its first content."""

    def failed(self, attempt: Attempt, failure: AttemptFailed, began: float, now: float) -> None:
        """The attempt failed."""

    def lost(self, attempt: Attempt, began: float, now: float) -> None:
        """Another attempt won, or the client left."""


class Race:
    """One call's race. `hedge_delay_s` is inf for none; `may_hedge` and `may_retry` ask their budgets, once per attempt
    beside or after others; `pauses_s` are those before a failed attempt is made again, as many as that may be.
    """

    __slots__ = (
        "_dead", "_ended", "_failures", "_fleeting", "_hedge_delay_s", "_judge", "_living", "_may_hedge",
        "_may_retry", "_newest_at", "_over", "_pauses_s", "_refusal", "_refused", "_remaining", "_start", "_told",
    )  # fmt: skip

    def __init__(
        self,
        attempts: Sequence[Attempt],
        start: Start,
        judge: Judge,
        *,
        hedge_delay_s: float = inf,
        may_hedge: Callable[[Attempt], bool] = lambda _attempt: False,
        may_retry: Callable[[Attempt], bool] = lambda _attempt: True,
        pauses_s: Callable[[], Iterable[float]] = tuple,
    ) -> None:
        self._remaining = list(attempts)
        self._start = start
        self._judge = judge
        self._hedge_delay_s = hedge_delay_s
        self._may_hedge = may_hedge
        self._may_retry = may_retry
        self._pauses_s = pauses_s
        self._fleeting: list[Attempt] = []  # that failed in a way that may be over in a moment
        self._newest_at: float | None = None  # when the newest attempt began
        self._refusal: GatewayError | None = None
        self._living: list[Attempt] = []
        self._ended: trio.Event | None = None
        self._over = False
        self._dead: set[str | Endpoint] = set()  # providers and endpoints that are not worth another try
        self._refused: set[str] = set()  # models whose provider refused the request
        self._failures: list[AttemptFailed] = []
        self._told: list[str] = []

    async def run(self) -> Answer:
        """Race to the first content. The caller owns the Answer. Raises Refused, AllFailed, NoRoute."""
        if not self._remaining:
            raise NoRoute("no enabled provider serves this model; the operator has to set a provider key")
        abreast = self._hedge_delay_s < inf and len(self._remaining) > 1
        answer = await (self._abreast() if abreast else self._in_turn())
        return answer if answer is not None else await self._again()

    async def _in_turn(self) -> Answer | None:
        """No hedging: at most one attempt lives at a time, in the caller's own task."""
        while (attempt := self._take()) is not None:
            answer = await self._try(attempt, self._newest_at)
            if answer is not None:
                return answer
        return None

    async def _again(self) -> Answer:
        """Nobody is left: after a pause the best of those whose failure may be over by now has another try."""
        for pause_s in self._pauses_s():
            if self._refusal is not None or not self._fleeting:
                break
            await trio.sleep(pause_s)
            attempt = self._fleeting.pop(0)
            if not self._may_retry(attempt):
                break
            answer = await self._try(self._begin(attempt), self._newest_at)
            if answer is not None:
                return answer
        raise self._all_failed()

    async def _abreast(self) -> Answer | None:
        """Hedging: attempts run side by side; the nursery ends when the first has won and the others have closed."""
        winners: list[Answer] = []
        refusals: list[GatewayError] = []

        async def lane(attempt: Attempt, began: float | None) -> None:
            try:
                answer = await self._try(attempt, began)
            except GatewayError as refusal:
                refusals.append(refusal)
                nursery.cancel_scope.cancel()
                return
            if answer is not None:
                winners.append(answer)
                nursery.cancel_scope.cancel()
            self._living.remove(attempt)
            if self._ended is not None:
                self._ended.set()

        try:
            async with trio.open_nursery() as nursery:
                while (attempt := self._take()) is not None:
                    self._living.append(attempt)
                    nursery.start_soon(lane, attempt, self._newest_at)
                    await self._until_next(attempt)
        except BaseException:
            for answer in winners:
                answer.close()
            raise
        if winners:
            return winners[0]
        if refusals:
            raise refusals[0]
        return None

    async def _until_next(self, newest: Attempt) -> None:
        """Wait until another attempt may start: none lives, or the newest had its time and a hedge is allowed."""
        with trio.move_on_after(self._hedge_delay_s):
            while newest in self._living:
                await self._one_ended()
        while self._living and not self._hedge_allowed():
            await self._one_ended()

    async def _one_ended(self) -> None:
        self._ended = trio.Event()
        await self._ended.wait()

    def _hedge_allowed(self) -> bool:
        """Whether the next attempt may start beside the living: none of them may bill on after a cancel, for all but
        one will be cancelled; and the budget must allow it, which is asked last.
        """
        following = self._peek()
        if following is None or any(a.on_disconnect != "cancel" for a in (following, *self._living)):
            return False
        return self._may_hedge(following)

    def _peek(self) -> Attempt | None:
        """The next attempt worth making; beside living ones another provider first, as it is theirs that is slow."""
        worth = [attempt for attempt in self._remaining if self._is_worth(attempt)]
        if self._living:
            model = self._living[0].model.id  # slowness alone is no reason to answer with another model
            worth = [attempt for attempt in worth if attempt.model.id == model]
            slow = {attempt.provider for attempt in self._living}
            worth.sort(key=lambda attempt: attempt.provider in slow)
        return worth[0] if worth else None

    def _is_worth(self, attempt: Attempt) -> bool:
        dead = self._dead
        if not dead and not self._refused:
            return True
        return attempt.provider not in dead and attempt.endpoint not in dead and attempt.model.id not in self._refused

    def _take(self) -> Attempt | None:
        """The next attempt to start. One that follows a failure asks the retry budget; a hedge has asked its own."""
        if self._newest_at is None:
            return self._begin(self._remaining.pop(0))
        while (attempt := self._peek()) is not None:
            self._remaining.remove(attempt)
            if self._living or self._may_retry(attempt):
                return self._begin(attempt)
            self._told.append(f"{attempt.provider}: retry_budget")
        return None

    def _begin(self, attempt: Attempt) -> Attempt:
        """Told at once and not by the lane's task: a breaker's single probe is taken by the first that is planned."""
        self._newest_at = now = trio.current_time()
        self._judge.began(attempt, now, beside=bool(self._living))
        return attempt

    async def _try(self, attempt: Attempt, began: float | None) -> Answer | None:
        """Run one attempt; None when it failed and others may follow. Raises the refusal when none may."""
        assert began is not None
        try:
            answer = await self._start(attempt)
        except AttemptFailed as failure:
            self._failed(attempt, failure, began)
            return None
        except Exception as exc:  # noqa: BLE001 - a bug of ours in one attempt: tell of it, and let the others try
            structlog.get_logger().error("attempt_failed", provider=attempt.provider, exc_info=exc)
            self._failed(attempt, AttemptFailed("internal"), began)
            return None
        except BaseException:
            self._judge.lost(attempt, began, trio.current_time())
            raise
        if self._over:  # two finished in the same tick: the first keeps it
            answer.close()
            self._judge.lost(attempt, began, trio.current_time())
            return None
        self._over = True
        self._judge.won(attempt, began, trio.current_time())
        return answer

    def _failed(self, attempt: Attempt, failure: AttemptFailed, began: float) -> None:
        self._judge.failed(attempt, failure, began, trio.current_time())
        self._failures.append(failure)
        self._told.append(f"{attempt.provider}: {failure.outcome}")
        if failure.outcome in _FLEETING and failure.retry_after_s is None:
            self._fleeting.append(attempt)
        if failure.reach == "call" and failure.refusal is not None:
            self._refused.add(attempt.model.id)
            self._refusal = self._refusal or failure.refusal
            if not any(map(self._is_worth, (*self._remaining, *self._living))):
                raise self._refusal from None
        elif failure.reach == "provider":
            self._dead.add(attempt.provider if failure.outcome in _UNREACHABLE else attempt.endpoint)

    def _all_failed(self) -> GatewayError:
        """What the caller can mend comes first: a refusal. Else 502 when any provider answered badly, else 503 with the
        least Retry-After: a 429 is never the caller's.
        """
        if self._refusal is not None:
            return self._refusal
        waits = [failure.retry_after_s for failure in self._failures if failure.retry_after_s is not None]
        busy = all(failure.outcome in _BUSY for failure in self._failures)
        return AllFailed(
            f"every provider failed ({', '.join(self._told)}); retry, or choose another model",
            status=503 if busy else 502,
            retry_after_s=(min(waits) if waits else 1.0) if busy else None,
        )
