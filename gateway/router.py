"""The router: from a request's model and wishes to a course of attempts, and what is remembered from call to call.

It owns the breakers, the measurements, the conversations' places and both budgets of further attempts. The stages of
`gateway.route` decide with them, `gateway.judge` tells them what became of each attempt. Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Final

from gateway.config import Config
from gateway.core.call import Attempt, Call, Endpoint
from gateway.core.principal import Principal
from gateway.core.routing import PLAIN, RaceMode
from gateway.dialects.conversation import conversation_key
from gateway.dialects.needs import needs_of
from gateway.dialects.openai_chat import ChatRequest
from gateway.dialects.prompt import read_prompt
from gateway.errors import BadRequest, PermissionDenied
from gateway.exchange import Headers
from gateway.route.affinity import Affinity
from gateway.route.auto.verdict import Classifier, Verdict
from gateway.route.budgets import HedgeBudget, RetryBudget
from gateway.route.catalog import Catalog
from gateway.route.eligible import Ask, window_of
from gateway.route.health import Health
from gateway.route.order import Placed
from gateway.route.plan import View, plan
from gateway.route.resolve import AUTO, Choice, known, pool, resolve
from gateway.route.stats import HEDGE_SAMPLES_MIN, Stats

_MEASURABLE_S: Final = 0.05  # a shorter stream says more of the network than of the provider


@dataclass(slots=True)
class Course:
    """One call's plan, and what its race may do beside it. `delay_s` is inf where nothing is hedged."""

    placed: list[Placed]
    delay_s: float = inf
    extra_pico_usd: int | None = None  # what losers may cost; None: what the account's budget allows
    conversation: bytes | None = None
    verdict: Verdict | None = None  # of the auto router


class Router:
    """What routing remembers. `draw` gives a random number of 0 <= x < 1."""

    def __init__(self, config: Config, classifier: Classifier, draw: Callable[[], float]) -> None:
        race, routing = config.race, config.routing
        self.health = Health()
        self.streams, self.answers = Stats(), Stats()  # first content of streams; how long whole answers take
        self.affinity = Affinity(routing.affinity_conversations_max, routing.affinity_s)
        self.hedges = HedgeBudget(race.hedge_share_max, race.hedge_usd_per_day)
        self.retries = RetryBudget(race.retry_share_max, race.retries_per_s_min)
        self._classifier = classifier
        self._draw = draw

    def configure(self, config: Config) -> None:
        """Take a new configuration; what was measured and spent stays."""
        self.hedges.configure(config.race.hedge_share_max, config.race.hedge_usd_per_day)
        self.retries.configure(config.race.retry_share_max, config.race.retries_per_s_min)

    def course(
        self, request: ChatRequest, call: Call, principal: Principal, headers: Headers, config: Config, catalog: Catalog
    ) -> Course:
        """Decide who serves the call, and note its model.

        Raises BadRequest, ModelNotFound, PermissionDenied, NoRoute, RouteConstrained, AllFailed.
        """
        routing = request.routing
        only = catalog.only(request.model) if routing is PLAIN and principal.models is None else None
        if only is not None and self.health.all_closed() and call.prompt_estimate <= window_of(only):
            call.model = only.model.id
            return Course([Placed(only, "only")])  # the usual case of a small box: nothing to decide
        choices, verdict = self._choices(request, config, catalog)
        if verdict is not None:
            call.auto = ", ".join(f"{name} {score:g}" for name, score in verdict.scores)
        choices = _allowed(choices, principal)
        entry = choices[0].entry
        call.model = entry.model.id
        course = Course([], verdict=verdict)
        routing, plain = request.routing, len(choices) == 1 and entry.alone
        warm = None
        if not plain or len(choices[0].entry.attempts) > 1:
            if config.routing.affinity_s and not routing.preferences.order:
                course.conversation = conversation_key(
                    principal.account_id, routing.session_id, headers, request.fields
                )
            if course.conversation is not None:
                warm = self.affinity.get(course.conversation, call.started)
        needs = needs_of(request.fields, stream=request.stream)
        ask = Ask(needs, routing.preferences, call.prompt_estimate, compresses=bool(routing.middle_out))
        view = View(self.health, self.streams, call.started, self._draw(), warm)
        course.placed = _cut(plan(choices, ask, view), config.race.attempts_max)
        first = course.placed[0].attempt
        call.model = first.model.id
        if len(course.placed) > 1:
            self._race(course, request, config, call.started, cached=first.target == warm)
        return course

    def _choices(self, request: ChatRequest, config: Config, catalog: Catalog) -> tuple[list[Choice], Verdict | None]:
        if request.model not in AUTO:
            choices, request.routing = resolve(request.model, request.routing, catalog)
            return choices, None
        prompt = read_prompt(request.fields)
        if prompt is None:
            raise BadRequest("`messages` must be a list of messages, each with a role and content", param="messages")
        verdict = self._classifier.classify(prompt)
        choices = pool(request.model, config.auto, verdict.name, catalog)
        free = choices[0].free  # a call that may cost nothing falls back to what costs nothing
        more = [Choice(each.entry, free or each.free) for each in known(request.routing.models, catalog)]
        for each in more:
            if each not in choices:
                choices.append(each)
        return choices, verdict

    def pauses_s(self, config: Config) -> Iterator[float]:
        """The pauses before the tries that a call has left when everybody failed: full jitter, doubled each time.

        Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
        """
        race = config.race
        return (self._draw() * race.retry_delay_s * 2**index for index in range(race.retries_max))

    def began(self, call: Call) -> None:
        """A call was admitted and makes its first attempt: both budgets earn."""
        self.retries.earn(call.started)
        self.hedges.earn(call.account_id)

    def ended(self, call: Call, now: float) -> None:
        """A stream is over: how fast it was, and whether its provider broke it off."""
        winner, began = call.winner, call.first_content_at
        if winner is None or began is None:
            return
        if call.ended.startswith("upstream_"):
            self.streams.outcome(winner.endpoint, False, now)
        elif call.usage is not None and call.usage.completion > 1 and now - began > _MEASURABLE_S:
            self.streams.throughput(winner.endpoint, call.usage.completion / (now - began), now)

    def _race(self, course: Course, request: ChatRequest, config: Config, now: float, *, cached: bool) -> None:
        """When a second attempt may start beside the first: never when the first has the prompt in its cache."""
        first = course.placed[0].attempt
        own, wish = first.model.race, request.routing.race
        mode: RaceMode = wish.mode or (own.mode if own else "off" if config.race.hedge == "off" else "hedge")
        course.extra_pico_usd = wish.max_extra_cost
        if course.extra_pico_usd is None and own is not None:
            course.extra_pico_usd = own.max_extra_cost
        if mode == "all":
            course.delay_s = 0.0
        elif mode == "hedge" and not cached:
            course.delay_s = self._hedge_delay_s(first, config, now, stream=request.stream)

    def _hedge_delay_s(self, first: Attempt, config: Config, now: float, *, stream: bool) -> float:
        """How long the first attempt has alone: the p90 of its own past, once enough of that is known."""
        race = config.race
        seen = None
        if race.hedge != "delay":
            stats = self.streams if stream else self.answers
            seen = stats.latency(first.endpoint, now, HEDGE_SAMPLES_MIN)
        return race.hedge_delay_s if seen is None else max(seen.p90, race.hedge_delay_min_s)


def _allowed(choices: list[Choice], principal: Principal) -> list[Choice]:
    """Those that the key may use. Raises PermissionDenied when that is none."""
    if principal.models is None:
        return choices
    found = [choice for choice in choices if choice.entry.model.id in principal.models]
    if not found:
        wanted = choices[0].entry.model.id
        raise PermissionDenied(f"this key may not use {wanted}; GET /key lists its models", code="model_denied")
    return found


def _cut(placed: list[Placed], most: int) -> list[Placed]:
    """At most so many; an endpoint's second key goes before another endpoint's first."""
    if len(placed) <= most:
        return placed
    seen: dict[Endpoint, int] = {}
    turns: list[tuple[int, int]] = []
    for index, each in enumerate(placed):
        turn = seen[each.attempt.endpoint] = seen.get(each.attempt.endpoint, -1) + 1
        turns.append((turn, index))
    return [placed[index] for index in sorted(index for _, index in sorted(turns)[:most])]
