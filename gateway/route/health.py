"""A circuit breaker per endpoint (a provider's model) and key. Pure: takes `now`, monotonic seconds.

closed --5 failures in a row--> open --after its time--> half-open (one probe) --success--> closed, --failure--> open,
twice as long. A provider's own Retry-After opens at once, for as long as it says; of two deadlines the later counts.
Precedents: five failures is Envoy's consecutive_5xx default; doubling to a cap is AWS's capped backoff.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from gateway.core.call import Target

FAILURES_TO_OPEN: Final = 5
OPEN_S: Final = 5.0
OPEN_S_MAX: Final = 120.0
RETRY_AFTER_S_MAX: Final = 600.0

State = Literal["closed", "open", "half_open"]


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    open_until: float = 0.0
    open_s: float = OPEN_S
    tripped: bool = False
    probing: bool = False
    told_until: float = 0.0  # by the provider itself, in a Retry-After


class Health:
    """All breakers. Bounded by the configuration: one per endpoint and key."""

    __slots__ = ("_breakers",)

    def __init__(self) -> None:
        self._breakers: dict[Target, _Breaker] = {}

    def state(self, target: Target, now: float) -> State:
        """How the breaker stands."""
        breaker = self._breakers.get(target)
        if breaker is None or not breaker.tripped:
            return "closed"
        return "open" if now < breaker.open_until or breaker.probing else "half_open"

    def started(self, target: Target, now: float) -> bool:
        """An attempt starts; whether it is the probe of a half-open breaker."""
        breaker = self._breakers.get(target)
        if breaker is None or not breaker.tripped or breaker.probing or now < breaker.open_until:
            return False
        breaker.probing = True
        return True

    def succeeded(self, target: Target, *, probe: bool) -> None:
        """The provider answered as it should. Closes the breaker, unless it opened after this attempt had begun."""
        breaker = self._breakers.get(target)
        if breaker is not None and (probe or not breaker.tripped):
            del self._breakers[target]

    def abandoned(self, target: Target, *, probe: bool) -> None:
        """An attempt says nothing of its provider (it was cancelled, say): its probe, if it was one, is over."""
        breaker = self._breakers.get(target)
        if breaker is not None and probe:
            breaker.probing = False

    def failed(self, target: Target, now: float, *, probe: bool, retry_after_s: float | None = None) -> None:
        """The provider failed; `retry_after_s` when it said for how long."""
        breaker = self._breakers.setdefault(target, _Breaker())
        breaker.failures += 1
        if probe:
            breaker.probing = False
            breaker.open_s = min(breaker.open_s * 2, OPEN_S_MAX)
        if breaker.tripped or breaker.failures >= FAILURES_TO_OPEN:
            breaker.tripped = True
            breaker.open_until = max(breaker.open_until, now + breaker.open_s)
        if retry_after_s:
            breaker.tripped = True
            breaker.told_until = max(breaker.told_until, now + min(retry_after_s, RETRY_AFTER_S_MAX))
            breaker.open_until = max(breaker.open_until, breaker.told_until)

    def rest_over(self, target: Target, now: float) -> None:
        """The provider seems well: its next call may be the probe, unless it said itself for how long to wait."""
        breaker = self._breakers.get(target)
        if breaker is not None:
            breaker.open_until = min(breaker.open_until, max(now, breaker.told_until))

    def retry_after_s(self, target: Target, now: float) -> float:
        """Seconds until the breaker lets a probe through; 0 when it does now."""
        breaker = self._breakers.get(target)
        return max(0.0, breaker.open_until - now) if breaker is not None and breaker.tripped else 0.0

    def all_closed(self) -> bool:
        """Whether no breaker has anything to say: the usual case, at no cost."""
        return not self._breakers

    def states(self, now: float) -> dict[Target, State]:
        """Every breaker that has seen a failure, for metrics."""
        return {target: self.state(target, now) for target in self._breakers}
