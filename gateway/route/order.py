"""In which order those who may serve are tried. Pure: chance is the argument `draw`, 0 <= draw < 1.

By default, as OpenRouter does it (openrouter.ai/docs/guides/routing/provider-selection): whoever serves this
conversation already, then a provider drawn by the inverse square of its price from those without an outage in the last
30 seconds, the rest behind it from cheap to dear. `provider.order` and `provider.sort` replace that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Final, NamedTuple

from gateway.core.call import Attempt, Target
from gateway.core.routing import Bounds, Preferences, Sort
from gateway.route.eligible import asked, names, window_of
from gateway.route.stats import Quantiles, Stats


class Placed(NamedTuple):
    """An attempt in the plan, and why it stands there."""

    attempt: Attempt
    reason: str


_Group = Sequence[Attempt]  # of one endpoint: its keys


class Ordering(NamedTuple):
    """What an order is made from. `warm` is where this conversation's prompt is cached."""

    preferences: Preferences
    stats: Stats
    warm: Target | None
    now: float
    draw: float
    prompt_tokens: int = 0


def ordered(attempts: Sequence[Attempt], by: Ordering) -> list[Placed]:
    """All attempts of one model (or, without partition, of several), best first."""
    groups = _by_endpoint(attempts)
    wish = by.preferences
    if wish.order:
        placed = _as_listed(groups, by)
    elif wish.sort is not None:
        warmed = [by_warmth(group, by.warm) for group in groups]
        placed = [(group, f"sort:{wish.sort}") for group in sorted(warmed, key=_sort_key(wish.sort, by))]
    else:
        placed = _balanced(groups, by)
    if wish.preferred_min_throughput is not None or wish.preferred_max_latency is not None:
        placed.sort(key=lambda each: _misses(each[0][0], by))  # stable: slow ones go behind, none is left out
    if any(_too_long(group[0], by) for group, _ in placed):
        placed.sort(key=lambda each: _too_long(each[0][0], by))
    if not wish.allow_fallbacks and not wish.order:
        placed = placed[:1]
    return [Placed(attempt, reason) for group, reason in placed for attempt in group]


def _by_endpoint(attempts: Sequence[Attempt]) -> list[_Group]:
    groups: dict[tuple[str, ...], list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault((attempt.model.id, *attempt.endpoint), []).append(attempt)
    return [*groups.values()]


def _as_listed(groups: list[_Group], by: Ordering) -> list[tuple[_Group, str]]:
    """In the request's order; whom it does not name comes after, by default order."""
    found: list[tuple[_Group, str]] = []
    rest = groups
    for slug in by.preferences.order:
        named = [group for group in rest if names((slug,), group[0])]
        found += [(group, "provider.order") for group in named]
        rest = [group for group in rest if group not in named]
    return found + [(group, "fallback") for group, _ in _balanced(rest, by)]


def _balanced(groups: list[_Group], by: Ordering) -> list[tuple[_Group, str]]:
    if len(groups) == 1:
        return [(by_warmth(groups[0], by.warm), _only(groups[0], by.warm))]
    listed = groups[:1] and groups[0][0].model.balance == "order"  # the operator's word: until its breaker opens
    well: list[_Group] = []
    ill: list[_Group] = []
    for group in groups:
        is_ill = not listed and by.stats.recent_outage(group[0].endpoint, by.now)
        (ill if is_ill else well).append(group)
    warm = [group for group in well if by.warm is not None and group[0].endpoint == by.warm[:2]]
    rest = [group for group in well if by.warm is None or group[0].endpoint != by.warm[:2]]
    chosen = [(group, "listed") for group in rest] if listed else _drawn(rest, by.draw)
    last = [(group, "outage") for group in sorted(ill, key=lambda group: _cost(group[0]))]
    return [(by_warmth(group, by.warm), "affinity") for group in warm] + chosen + last


def _only(group: _Group, warm: Target | None) -> str:
    return "affinity" if warm is not None and group[0].endpoint == warm[:2] and len(group) > 1 else "only"


def by_warmth(group: Sequence[Attempt], warm: Target | None) -> Sequence[Attempt]:
    """The keys of one endpoint, the one that has the conversation's prompt in its cache first."""
    if warm is None or len(group) == 1:
        return group
    return sorted(group, key=lambda attempt: attempt.target != warm)


def _drawn(groups: list[_Group], draw: float) -> list[tuple[_Group, str]]:
    """One by weight, the rest by price. What costs nothing outweighs all that costs something."""
    if not groups:
        return []
    prices = [_cost(group[0]) for group in groups]
    cheapest = min(prices)
    weights = [1.0 if price == cheapest else (cheapest / price) ** 2 for price in prices]
    at, left = 0, draw * sum(weights)
    while at < len(groups) - 1 and left >= weights[at]:
        left -= weights[at]
        at += 1
    rest = sorted((index for index in range(len(groups)) if index != at), key=prices.__getitem__)
    return [(groups[at], "price")] + [(groups[index], "fallback") for index in rest]


_TYPICAL: Final = 3  # prompt tokens to one of the answer, where one price has to stand for both
_ANSWER_TOKENS: Final = 250  # of that answer, over which a price per call is spread


def _cost(attempt: Attempt) -> int:
    """What an offer asks of us: what the customer pays is the same for all where the model has a price of its own."""
    offer = attempt.offer
    return _TYPICAL * offer.input + offer.output + offer.request // _ANSWER_TOKENS


def _price(attempt: Attempt) -> tuple[int, int]:
    """What it costs the customer, then what it costs us."""
    per_call = asked(attempt, "request") // _ANSWER_TOKENS
    return _TYPICAL * asked(attempt, "input") + asked(attempt, "output") + per_call, _cost(attempt)


def _sort_key(sort: Sort, by: Ordering) -> Callable[[_Group], tuple[float, tuple[int, int]]]:
    """Least first; an endpoint nobody has measured comes last, and equal ones by price."""

    def key(group: _Group) -> tuple[float, tuple[int, int]]:
        first = group[0]
        if sort == "price":
            return 0.0, _price(first)
        read = by.stats.latency if sort == "latency" else by.stats.throughput_of
        seen = read(first.endpoint, by.now)
        if seen is None:
            return inf, _price(first)
        return (seen.p50 if sort == "latency" else -seen.p50), _price(first)

    return key


def _too_long(attempt: Attempt, by: Ordering) -> bool:
    """Whether the prompt may be too long for an endpoint: it comes after those it fits."""
    return by.prompt_tokens > window_of(attempt)


def _misses(attempt: Attempt, by: Ordering) -> bool:
    """Whether an endpoint is known to miss a preferred bound."""
    wish, stats = by.preferences, by.stats
    slow = _beyond(stats.latency(attempt.endpoint, by.now), wish.preferred_max_latency, 1)
    return slow or _beyond(stats.throughput_of(attempt.endpoint, by.now), wish.preferred_min_throughput, -1)


def _beyond(seen: Quantiles | None, bounds: Bounds | None, sign: int) -> bool:
    if seen is None or bounds is None:
        return False
    pairs = zip(bounds, (seen.p50, seen.p75, seen.p90, seen.p99), strict=True)
    return any(bound is not None and sign * value > sign * bound for bound, value in pairs)
