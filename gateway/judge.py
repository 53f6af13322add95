"""What the outcome of an attempt means outside its race: for health, for metrics, for the record, for hedging."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Final

import trio

from gateway.config import Race as RaceConfig
from gateway.core.call import Attempt, AttemptNote, Call
from gateway.errors import AttemptFailed
from gateway.observe.metrics import Metrics
from gateway.route.health import Health

_WINDOW: Final = 128  # first-content times kept per offer: enough for a p90, small enough to sort
_SAMPLES_MIN: Final = 16
_BURST: Final = 10.0  # hedges that may run ahead of their share


class Hedger:
    """When a second attempt may start beside the first. Holds the request budget and the delays seen.

    The budget is gRPC's hedging throttle turned round (proposal A6): every call earns `hedge_share_max` of a hedge,
    every hedge costs one, and no more than `_BURST` are saved up.
    """

    def __init__(self, config: RaceConfig) -> None:
        self._config = config
        self._tokens = _BURST
        self._seen: dict[tuple[str, str], deque[float]] = {}

    def delay_s(self, first: Attempt) -> float:
        """How long the first attempt has alone; inf when it is never to be hedged."""
        self._tokens = min(_BURST, self._tokens + self._config.hedge_share_max)
        if self._config.hedge == "off" or first.on_disconnect != "cancel":
            return inf  # cancelling an attempt that is billed on would pay twice for one answer
        if self._config.hedge == "delay":
            return self._config.hedge_delay_s
        seen = self._seen.get((first.provider, first.offer.model), ())
        if len(seen) < _SAMPLES_MIN:
            return self._config.hedge_delay_s
        return sorted(seen)[int(len(seen) * 0.9)]

    def allow(self, _attempt: Attempt) -> bool:
        """Spend one hedge from the budget."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def saw(self, attempt: Attempt, duration_s: float) -> None:
        """An attempt had its first content after so long."""
        if self._config.hedge == "adaptive":
            self._seen.setdefault((attempt.provider, attempt.offer.model), deque(maxlen=_WINDOW)).append(duration_s)


# Failures that say nothing of the provider's health: a model it does not have, our own pool, a bug of ours.
_HEALTHY: Final = frozenset({"status_404", "not_a_stream", "pool_full", "internal"})


class CallJudge:
    """Hears the outcomes of one call's race."""

    __slots__ = ("_call", "_health", "_hedger", "_metrics", "_probes", "_sent", "_won")

    def __init__(self, call: Call, health: Health, metrics: Metrics, hedger: Hedger) -> None:
        self._call = call
        self._health = health
        self._metrics = metrics
        self._hedger = hedger
        self._probes: set[tuple[str, int]] = set()
        self._sent: set[int] = set()
        self._won = False

    def began(self, attempt: Attempt) -> None:
        """It starts. The first one into a half-open breaker is its probe."""
        if not self._health.all_closed() and self._health.started(_target(attempt), trio.current_time()):
            self._probes.add(_target(attempt))

    def sent(self, attempt: Attempt) -> None:
        """Its request has reached the provider."""
        self._sent.add(id(attempt))

    def won(self, attempt: Attempt, duration_s: float) -> None:
        """First content came."""
        if not self._health.all_closed():
            self._health.succeeded(_target(attempt), probe=_target(attempt) in self._probes)
        self._hedger.saw(attempt, duration_s)
        self._won = True
        self._note(attempt, "won", 200, duration_s)

    def failed(self, attempt: Attempt, failure: AttemptFailed, duration_s: float) -> None:
        """It failed. A refusal of the request says the provider is well."""
        target = _target(attempt)
        probe = target in self._probes
        if failure.outcome in _HEALTHY:
            self._health.abandoned(target, probe=probe)
        elif failure.reach == "call":
            self._health.succeeded(target, probe=probe)
        else:
            self._health.failed(target, trio.current_time(), probe=probe, retry_after_s=failure.retry_after_s)
        self._note(attempt, failure.outcome, failure.status, duration_s)

    def lost(self, attempt: Attempt, duration_s: float) -> None:
        """It was cancelled: another won, or the client left. A loser that was sent its prompt cost us that."""
        self._health.abandoned(_target(attempt), probe=_target(attempt) in self._probes)
        read = self._won and id(attempt) in self._sent
        cost = attempt.offer.input * self._call.prompt_estimate if read else 0
        self._note(attempt, "cancelled", 0, duration_s, cost)

    def _note(self, attempt: Attempt, outcome: str, status: int, duration_s: float, cost: int = 0) -> None:
        self._call.attempts.append(AttemptNote(attempt.provider, outcome, status, duration_s * 1000, cost))
        self._metrics.attempts.by[attempt.provider, outcome] += 1


def _target(attempt: Attempt) -> tuple[str, int]:
    return attempt.provider, attempt.key_index
