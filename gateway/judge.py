"""What the outcome of an attempt means outside its race: for the breakers, the measurements, both budgets, the
conversation's place, metrics and the call's record. One `CallJudge` a call; all its methods are synchronous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from gateway.core.call import Attempt, AttemptNote, Call, Target
from gateway.errors import AttemptFailed
from gateway.observe.metrics import Metrics
from gateway.route.stats import Stats
from gateway.router import Course, Router

# Failures that say nothing of the provider's health: a model it does not have, our own pool, a bug of ours,
# a prompt that it takes no part of.
_HEALTHY: Final = frozenset({"status_404", "not_a_stream", "pool_full", "internal", "too_long"})
_TOO_SLOW: Final = frozenset({"first_content_timeout", "answer_timeout"})


class CallJudge:
    """Hears the outcomes of one call's race, and answers for its budgets."""

    __slots__ = (
        "_begun", "_call", "_course", "_estimated", "_hedged_at", "_metrics", "_probes", "_prompts", "_router", "_sent",
        "_spent", "_wall", "_won",
    )  # fmt: skip

    def __init__(
        self, call: Call, course: Course, router: Router, metrics: Metrics, wall_clock: Callable[[], float]
    ) -> None:
        self._call = call
        self._course = course
        self._router = router
        self._metrics = metrics
        self._wall = wall_clock
        self._begun: dict[int, str] = {}  # by attempt: why it stands where it does
        self._probes: set[Target] | None = None
        self._sent: set[int] = set()
        self._prompts: dict[int, int] | None = None
        self._spent: dict[int, float] = {}  # when a further attempt was taken from its provider's budget
        self._won = False
        self._estimated = 0  # what the hedges so far were thought to cost
        self._hedged_at = 0.0

    def may_hedge(self, attempt: Attempt) -> bool:
        """Whether `attempt` may start beside those that live: what a loser may cost is within both bounds."""
        course, call = self._course, self._call
        begun = [placed.attempt for placed in course.placed if id(placed.attempt) in self._begun]
        cost = max(self._prompt_cost(each) for each in (attempt, *begun))
        if course.extra_pico_usd is not None and self._estimated + cost > course.extra_pico_usd:
            return False
        now = self._wall()
        if not self._router.hedges.allow(call.account_id, cost, now):
            return False
        self._estimated += cost
        self._hedged_at = now
        return True

    def may_retry(self, attempt: Attempt) -> bool:
        """Whether `attempt` may follow one that failed."""
        now, router = trio.current_time(), self._router
        if id(attempt) in self._begun and router.health.state(attempt.target, now) == "open":
            return False  # the same again: its breaker has opened meanwhile
        if not router.retries.spend(attempt.provider, now):
            return False
        self._spent[id(attempt)] = now
        return True

    def began(self, attempt: Attempt, now: float, *, beside: bool) -> None:
        """It starts. The first one into a half-open breaker is its probe."""
        placed = self._course.placed
        if beside:
            reason = "hedge"
        elif id(attempt) in self._begun:
            reason = "retry"
        elif placed[0].attempt is attempt:
            reason = placed[0].reason
        else:
            reason = next(each.reason for each in placed if each.attempt is attempt)
        self._begun[id(attempt)] = reason
        health = self._router.health
        if not health.all_closed() and health.started(attempt.target, now):
            self._probes = {*(self._probes or ()), attempt.target}

    def sent(self, attempt: Attempt) -> None:
        """Its request has reached the provider."""
        self._sent.add(id(attempt))

    def won(self, attempt: Attempt, began: float, now: float) -> None:
        """First content came."""
        router = self._router
        if not router.health.all_closed():
            router.health.succeeded(attempt.target, probe=self._is_probe(attempt))
        if self._call.stream or len(self._course.placed) > 1:  # how long whole answers take is for hedging alone
            self._stats.first_content(attempt.endpoint, now - began, now)
        router.streams.outcome(attempt.endpoint, True, now)
        if id(attempt) in self._spent:
            router.retries.give_back(attempt.provider, self._spent[id(attempt)])
        if self._course.conversation is not None:
            router.affinity.put(self._course.conversation, attempt.target, now)
        self._won = True
        self._call.model = attempt.model.id
        if self._prompts is not None:
            self._call.prompt_estimate = self._prompts.get(id(attempt), self._call.prompt_estimate)
        self._note(attempt, "won", 200, began, now)

    def failed(self, attempt: Attempt, failure: AttemptFailed, began: float, now: float) -> None:
        """It failed. A refusal of the request says the provider is well."""
        router, target = self._router, attempt.target
        probe = self._is_probe(attempt)
        if failure.outcome in _HEALTHY:
            router.health.abandoned(target, probe=probe)
        elif failure.reach == "call":
            router.health.succeeded(target, probe=probe)
        else:
            router.health.failed(target, now, probe=probe, retry_after_s=failure.retry_after_s)
            router.streams.outcome(attempt.endpoint, False, now)
            if failure.outcome in _TOO_SLOW:
                self._stats.first_content_at_least(attempt.endpoint, now - began, now)
            if self._course.conversation is not None:
                router.affinity.drop(self._course.conversation, target)
        self._note(attempt, failure.outcome, failure.status, began, now)

    def lost(self, attempt: Attempt, began: float, now: float) -> None:
        """It was cancelled: another won, or the client left. A loser that was sent its prompt cost us that."""
        router = self._router
        router.health.abandoned(attempt.target, probe=self._is_probe(attempt))
        self._stats.first_content_at_least(attempt.endpoint, now - began, now)
        read = self._won and id(attempt) in self._sent
        cost = self._prompt_cost(attempt) if read else 0
        self._note(attempt, "cancelled", 0, began, now, cost)

    def shortened(self, attempt: Attempt, prompt_tokens: int) -> None:
        """The attempt was sent a shorter prompt than the request has."""
        self._prompts = {**(self._prompts or {}), id(attempt): prompt_tokens}

    def over(self) -> None:
        """The race has ended. When one won, what its hedges cost is known; else their estimate stays spent."""
        if self._estimated and self._won:
            actual = sum(note.cost_pico_usd for note in self._call.attempts)
            self._router.hedges.settle(self._call.account_id, self._estimated, actual, self._hedged_at)

    def _prompt_cost(self, attempt: Attempt) -> int:
        """What an attempt costs us that was sent its prompt and cancelled; pico-USD."""
        tokens = (self._prompts or {}).get(id(attempt), self._call.prompt_estimate)
        return attempt.offer.input * tokens + attempt.offer.request

    @property
    def _stats(self) -> Stats:
        return self._router.streams if self._call.stream else self._router.answers

    def _is_probe(self, attempt: Attempt) -> bool:
        return self._probes is not None and attempt.target in self._probes

    def _note(self, attempt: Attempt, outcome: str, status: int, began: float, now: float, cost: int = 0) -> None:
        reason = self._begun[id(attempt)]
        model, upstream_model = ("", "") if outcome == "won" else (attempt.model.id, attempt.offer.model)
        self._call.attempts.append(
            AttemptNote(
                attempt.provider, outcome, status, (now - began) * 1000, cost, model, upstream_model, reason,
                (began - self._call.started) * 1000,
            )
        )  # fmt: skip
        self._metrics.attempts.by[attempt.provider, outcome] += 1
