"""The plan: which attempts a call may make, in which order, and why. Pure; takes `now` and `draw`.

Of each model in turn: who may serve (`eligible`), in which order (`order`), and what the breakers let through. Attempts
whose breaker is open are left out; when every one is open the call fails at once with the time until a probe may pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.core.call import Attempt, Target
from gateway.core.routing import PLAIN
from gateway.errors import AllFailed, GatewayError, NoRoute
from gateway.route.catalog import Entry
from gateway.route.eligible import Ask, eligible, window_of
from gateway.route.health import Health, State
from gateway.route.order import Ordering, Placed, by_warmth, ordered
from gateway.route.resolve import Choice
from gateway.route.stats import Stats

_ASKED: Final = frozenset({"provider.order", "sort:price", "sort:latency", "sort:throughput"})


class View(NamedTuple):
    """What the plan knows of the world. `warm` is where this conversation was served last."""

    health: Health
    stats: Stats
    now: float
    draw: float
    warm: Target | None = None


def plan(choices: Sequence[Choice], ask: Ask, view: View) -> list[Placed]:
    """The attempts for one call, best first, never empty. `choices` are the models in the order of the request.

    Raises NoRoute (no enabled offer), BadRequest (no offer can do what is asked), RouteConstrained (the request's own
    constraints leave none), AllFailed 503 (all breakers open): of several models the first one's.
    """
    entry, free = choices[0]
    if len(choices) == 1 and entry.alone and not free and _fits(entry, ask):
        attempts = entry.attempts if view.warm is None else by_warmth(entry.attempts, view.warm)
        placed = [Placed(attempt, "only") for attempt in attempts]
    else:
        placed = _all(choices, ask, view)
    return placed if view.health.all_closed() else _past_breakers(placed, view)


def _fits(entry: Entry, ask: Ask) -> bool:
    """Whether a model of one endpoint has nothing to be asked: no wish of the request's could leave it out."""
    return ask.preferences is PLAIN.preferences and ask.prompt_tokens <= window_of(entry.attempts[0])


def _all(choices: Sequence[Choice], ask: Ask, view: View) -> list[Placed]:
    by = Ordering(ask.preferences, view.stats, view.warm, view.now, view.draw)
    models: list[list[Attempt]] = []
    problems: list[GatewayError] = []
    for entry, free in choices:
        if not entry.attempts:
            problems.append(
                NoRoute(f"no enabled provider serves {entry.model.id}; the operator has to set a provider key")
            )
            continue
        try:
            models.append(eligible(entry.attempts, ask, free=free))
        except GatewayError as problem:
            problems.append(problem)
    if not models:
        raise problems[0]
    if ask.preferences.partition == "none" and ask.preferences.sort is not None:
        return _long_last(ordered([attempt for model in models for attempt in model], by), ask)
    return [placed for model in models for placed in _long_last(ordered(model, by), ask)]


def _long_last(placed: list[Placed], ask: Ask) -> list[Placed]:
    """Endpoints the prompt may be too long for come after those it fits."""
    return sorted(placed, key=lambda each: ask.prompt_tokens > window_of(each.attempt))


def _past_breakers(placed: list[Placed], view: View) -> list[Placed]:
    states = {id(each.attempt): view.health.state(each.attempt.target, view.now) for each in placed}
    ready = [each for each in placed if states[id(each.attempt)] != "open"]
    if ready:
        return _probe_first(ready, states)
    wait_s = min(view.health.retry_after_s(each.attempt.target, view.now) for each in placed)
    model = placed[0].attempt.model.id
    raise AllFailed(
        f"every provider of {model} is resting after failures; retry later, or choose another model",
        status=503,
        retry_after_s=max(wait_s, 1.0),
    )


def _probe_first(ready: list[Placed], states: dict[int, State]) -> list[Placed]:
    """One half-open endpoint of the first model goes first, or it would never come back. Not past the request's own
    order; and never one of a later model, which would answer for the first.
    """
    model = ready[0].attempt.model.id
    for each in ready:
        if each.attempt.model.id == model and states[id(each.attempt)] == "half_open" and each.reason not in _ASKED:
            return [Placed(each.attempt, "probe"), *(other for other in ready if other is not each)]
    return ready
