"""The plan: which attempts a call may make, in which order, and why. Pure; takes `now` and `draw`.

Of each model in turn: who may serve (`eligible`), in which order (`order`), and what the breakers let through. Attempts
whose breaker is open are left out; when every one is open the call fails at once with the time until a probe may pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateway.core.call import Attempt, Target
from gateway.core.routing import PLAIN
from gateway.errors import AllFailed, GatewayError, NoRoute
from gateway.route.catalog import Entry
from gateway.route.eligible import Ask, eligible, window_of
from gateway.route.health import Health
from gateway.route.order import Ordering, Placed, by_warmth, ordered
from gateway.route.resolve import Choice
from gateway.route.stats import Stats


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
        attempts = by_warmth(entry.attempts, view.warm)
        placed = [Placed(attempt, "only") for attempt in attempts]
        return placed if view.health.all_closed() else _probe_first(_ready(placed, view), view)
    return _all(choices, ask, view)


def _fits(entry: Entry, ask: Ask) -> bool:
    """Whether a model of one endpoint has nothing to be asked: no wish of the request's could leave it out."""
    return ask.preferences is PLAIN.preferences and ask.prompt_tokens <= window_of(entry.attempts[0])


def _all(choices: Sequence[Choice], ask: Ask, view: View) -> list[Placed]:
    by = Ordering(ask.preferences, view.stats, view.warm, view.now, view.draw, ask.prompt_tokens)
    models: list[list[Attempt]] = []
    problems: list[GatewayError] = []
    resting: list[Attempt] = []
    for entry, free in choices:
        try:
            able = _able(entry, ask, free=free)
        except GatewayError as problem:
            problems.append(problem)
            continue
        ready = [attempt for attempt in able if view.health.state(attempt.target, view.now) != "open"]
        resting += able
        if ready:
            models.append(ready)
    if not models:
        raise _resting(resting, view) if resting else problems[0]
    if ask.preferences.partition == "none" and ask.preferences.sort is not None:
        return ordered([attempt for model in models for attempt in model], by)
    plans = [ordered(model, by) for model in models]
    if not (view.health.all_closed() or ask.preferences.order or ask.preferences.sort):
        plans = [_probe_first(each, view) for each in plans]
    return [placed for each in plans for placed in each]


def _able(entry: Entry, ask: Ask, *, free: bool) -> list[Attempt]:
    if not entry.attempts:
        raise NoRoute(f"no enabled provider serves {entry.model.id}; the operator has to set a provider key")
    return eligible(entry.attempts, ask, free=free)


def _ready(placed: list[Placed], view: View) -> list[Placed]:
    ready = [each for each in placed if view.health.state(each.attempt.target, view.now) != "open"]
    if not ready:
        raise _resting([each.attempt for each in placed], view)
    return ready


def _probe_first(placed: list[Placed], view: View) -> list[Placed]:
    """Of one model: a half-open endpoint goes first, or it would never come back; not past the request's own order."""
    half = [each for each in placed if view.health.state(each.attempt.target, view.now) == "half_open"]
    if not half:
        return placed
    rest = [each for each in placed if view.health.state(each.attempt.target, view.now) != "half_open"]
    return [Placed(half[0].attempt, "probe"), *rest, *half[1:]]


def _resting(attempts: list[Attempt], view: View) -> AllFailed:
    wait_s = min(view.health.retry_after_s(attempt.target, view.now) for attempt in attempts)
    model = attempts[0].model.id
    return AllFailed(
        f"every provider of {model} is resting after failures; retry later, or choose another model",
        status=503,
        retry_after_s=max(wait_s, 1.0),
    )
