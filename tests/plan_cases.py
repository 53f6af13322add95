"""Random catalogues, worlds and requests for the planner's properties, and its rules told once more, slowly.

The rules are read from the request's JSON and OpenRouter's pages, and prices from what settling charges: nothing here
asks the planner's own modules who may serve or who comes first.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil, inf
from typing import Any

from hypothesis import strategies as st

from gateway.config import Model, Offer, Price, Provider
from gateway.core.call import Attempt, Endpoint, Target
from gateway.core.money import PicoUsd
from gateway.core.usage import Usage
from gateway.route.catalog import Catalog
from gateway.settle.charge import charge, customer_price
from tests.plans import MESSAGES, Measured, catalog, model, offer, provider, short

NAMES = ("a", "b", "c")
SLUGS = ("a", "A", "b", "b/east", "c/west", "c/east", "nobody")
OURS = {"model", "messages", "stream", "provider", "models", "transforms"}
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
FEATURES = ("stream", "tools", "images", "json_schema")


@dataclass
class Case:
    """A request, what is known, and how each endpoint and key stands."""

    catalog: Catalog
    body: dict[str, Any]
    at: Measured
    states: dict[Target, str] = field(default_factory=dict)
    failing: set[Endpoint] = field(default_factory=set)
    latencies: dict[Endpoint, list[float]] = field(default_factory=dict)
    rates: dict[Endpoint, list[float]] = field(default_factory=dict)
    warm: str | None = None
    draw: float = 0.5
    prompt_tokens: int = 100

    @property
    def wishes(self) -> str:
        return json.dumps(self.body)

    @property
    def provider(self) -> dict[str, Any]:
        found: dict[str, Any] = self.body.get("provider", {})
        return found

    @property
    def sort(self) -> str | None:
        sort = self.provider.get("sort")
        by: str | None = sort.get("by") if isinstance(sort, dict) else sort
        suffix = {"nitro": "throughput", "floor": "price"}.get(self.body["model"].partition(":")[2])
        return by or suffix

    @property
    def together(self) -> bool:
        """Whether the providers of all models are sorted together."""
        sort = self.provider.get("sort")
        return self.sort is not None and isinstance(sort, dict) and sort.get("partition") == "none"

    @property
    def one_only(self) -> bool:
        return self.provider.get("allow_fallbacks") is False and not self.provider.get("order")

    def models(self) -> list[tuple[str, bool]]:
        """The models of the request that are in the catalogue, in its order, and whether only for nothing."""
        first, _, suffix = self.body["model"].partition(":")
        wanted = [(first, suffix == "free"), *((name, False) for name in self.body.get("models", ()))]
        found = [(name, free) for name, free in wanted if self.catalog.get(name) is not None]
        return list(dict.fromkeys(found))

    def attempts(self, name: str) -> tuple[Attempt, ...]:
        entry = self.catalog.get(name)
        return entry.attempts if entry is not None else ()

    def named(self, slugs: list[str], attempt: Attempt) -> bool:
        return self.rank(slugs, attempt) < len(slugs)

    def rank(self, slugs: list[str], attempt: Attempt) -> int:
        tagged = f"{attempt.provider}/{attempt.offer.tag}"
        for at, slug in enumerate(slugs):
            if slug.lower() in (attempt.provider, tagged):
                return at
        return len(slugs)

    def excluded(self, attempt: Attempt, *, free: bool) -> set[str]:
        """Every reason why the attempt may not serve: parts of the request by name, or what its offer cannot do."""
        wish, own = self.provider, attempt.offer
        price = customer_price(attempt.model, own)
        most = wish.get("max_price", {})
        sent = {name for name, value in self.body.items() if name not in OURS and value is not None}
        needs = needed(self.body)
        window = own.context_window or attempt.model.context_window
        held = {
            "free": free and charge(Usage(10, 10, 5, 5, cache_write=5), attempt.model, own, finished=True).customer > 0,
            "only": wish.get("only") and not self.named(wish["only"], attempt),
            "ignore": self.named(wish.get("ignore", []), attempt),
            "order": wish.get("allow_fallbacks") is False and wish.get("order") and not self.named(wish["order"], attempt),
            "data_collection": wish.get("data_collection") == "deny" and attempt.collects_data,
            "zdr": wish.get("zdr") and not attempt.zdr,
            "quantizations": wish.get("quantizations") and (own.quantization or "unknown") not in wish["quantizations"],
            "prompt price": "prompt" in most and price.input > Decimal(most["prompt"]) * 10**6,
            "completion price": "completion" in most and price.output > Decimal(most["completion"]) * 10**6,
            "request price": "request" in most and price.request > Decimal(most["request"]) * 10**12,
            "parameters": wish.get("require_parameters") and own.parameters is not None and sent - own.parameters,
            "-features": own.supports is not None and ("embeddings" in own.supports or needs - own.supports),
            "-window": "transforms" not in self.body and self.prompt_tokens > 2 * window,
        }  # fmt: skip
        return {name for name, value in held.items() if value}

    def is_before(self, one: Attempt, other: Attempt) -> bool:
        """Whether `one` has to be tried before `other` of the same model (or of any, where all are sorted together)."""
        own, others = self.place(one), self.place(other)
        by_price = self.sort is not None and not self.provider.get("order")
        return own < others or (by_price and own == others and self.is_cheaper(one, other))

    def place(self, attempt: Attempt) -> tuple[bool, bool, float]:
        """Too long for it, slower than is preferred, and what the request orders or sorts by."""
        window = attempt.offer.context_window or attempt.model.context_window
        slow = self._misses(attempt, "preferred_max_latency", self.latencies, fast_is_less=True)
        slow = slow or self._misses(attempt, "preferred_min_throughput", self.rates, fast_is_less=False)
        if self.provider.get("order"):
            key: float = self.rank(self.provider["order"], attempt)
        elif self.sort == "latency":
            key = percentile(self.latencies.get(attempt.endpoint, []), 50)
        elif self.sort == "throughput":
            key = percentile([-rate for rate in self.rates.get(attempt.endpoint, [])], 50)
        else:
            key = 0.0
        return self.prompt_tokens > window, slow, key

    def is_cheaper(self, one: Attempt, other: Attempt) -> bool:
        """By three tokens of the prompt and one of the answer; nothing is said of those that ask unlike per call."""
        own, others = customer_price(one.model, one.offer), customer_price(other.model, other.offer)
        return own.request == others.request and 3 * own.input + own.output < 3 * others.input + others.output

    def _misses(self, attempt: Attempt, name: str, seen: dict[Any, list[float]], *, fast_is_less: bool) -> bool:
        bound, samples = self.provider.get(name), seen.get(attempt.endpoint)
        if bound is None or not samples:
            return False
        sign = 1 if fast_is_less else -1
        bounds = bound if isinstance(bound, dict) else {"p50": bound}
        slowness = [sign * each for each in samples]
        return any(percentile(slowness, int(key[1:])) > sign * value for key, value in bounds.items())


def percentile(values: list[float], percent: int) -> float:
    """The nearest rank; of nothing it is beyond everything."""
    return sorted(values)[ceil(len(values) * percent / 100) - 1] if values else inf


def needed(body: dict[str, Any]) -> set[str]:
    asked = {
        "stream": body.get("stream"),
        "tools": body.get("tools"),
        "images": body["messages"] is IMAGE,
        "json_schema": body.get("response_format", {}).get("type") == "json_schema",
    }
    return {name for name, value in asked.items() if value}


SLUG_LISTS = st.lists(st.sampled_from(SLUGS), min_size=1, max_size=4, unique_by=str.lower)
SORTS = st.sampled_from(["price", "latency", "throughput"])
SPEEDS = st.lists(st.integers(1, 9).map(float), max_size=4)
BOUND = st.integers(1, 9) | st.dictionaries(
    st.sampled_from(["p50", "p75", "p90", "p99"]), st.integers(1, 9), min_size=1
)
PROVIDER_MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "order": SLUG_LISTS,
    "sort": SORTS | st.fixed_dictionaries({"by": SORTS, "partition": st.sampled_from(["model", "none", "none"])}),
    "only": st.lists(st.sampled_from(SLUGS), min_size=3, max_size=5, unique_by=str.lower),
    "ignore": st.lists(st.sampled_from(SLUGS), max_size=2, unique_by=str.lower),
    "allow_fallbacks": st.sampled_from([True, False, False]),
    "require_parameters": st.booleans(),
    "data_collection": st.sampled_from(["allow", "deny"]),
    "zdr": st.booleans(),
    "quantizations": st.lists(st.sampled_from(["fp8", "fp16", "unknown"]), max_size=2, unique=True),
    "max_price": st.dictionaries(
        st.sampled_from(["prompt", "completion", "request"]), st.sampled_from(["0", "1", "2.5", "4"])
    ),
    "preferred_max_latency": BOUND,
    "preferred_min_throughput": BOUND,
}
ORDERINGS = (
    (),
    ("order",),
    ("sort",),
    ("allow_fallbacks",),
    ("order", "allow_fallbacks"),
    ("sort", "preferred_max_latency"),
    ("allow_fallbacks",),
)
BODY_MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "stream": st.booleans(),
    "tools": st.sampled_from([[], [{"type": "function"}]]),
    "temperature": st.sampled_from([None, 1]),
    "seed": st.just(7),
    "response_format": st.sampled_from([{"type": "json_schema"}, {"type": "text"}]),
    "transforms": st.just(["middle-out"]),
    "models": st.permutations(["x/n", "x/o", "x/nobody"]),
}
LIMITS: dict[str, st.SearchStrategy[Any]] = {
    "supports": st.sets(st.sampled_from([*FEATURES, "embeddings"]), min_size=2).map(frozenset),
    "parameters": st.sets(st.sampled_from(["temperature", "seed", "tools"])).map(frozenset),
    "quantization": st.sampled_from(["fp8", "fp16"]),
    "context_window": st.sampled_from([1000, 4000]),
    "request": st.sampled_from([PicoUsd(10**12), PicoUsd(25 * 10**11)]),
}
PRICES = (None, None, None, "free", Price(PicoUsd(2 * 10**6), PicoUsd(3 * 10**6)))
STATES = ("closed", "closed", "open", "open", "half_open", "probing", "shaky")
ENDPOINTS = (("a", ""), ("b", ""), ("b", "east"), ("b", "west"), ("c", "east"), ("c", "west"))


@st.composite
def catalogues(draw: st.DrawFn) -> Catalog:
    models: list[Model] = []
    for name in ("m", "n", "o"):
        listed: list[Offer] = []
        for who, tag in draw(st.lists(st.sampled_from(ENDPOINTS), min_size=2, max_size=4, unique=True)):
            more = {key: draw(LIMITS[key]) for key in draw(st.sampled_from(["", *LIMITS])).split()}
            # Endpoints are of one model each, or a test could not say which of two it means.
            listed.append(offer(who, draw(st.integers(0, 5)), tag=tag, **{"model": f"{tag}-{name}"} | more))
        price, markup = draw(st.sampled_from(PRICES)), draw(st.sampled_from([(0, 1), (1, 10), (1, 3)]))
        balance = draw(st.sampled_from(["price", "price", "order"]))
        models.append(model(name, *listed, price=price, markup=markup, balance=balance))
    return catalog(*models, providers=[draw(providers(name)) for name in NAMES])


@st.composite
def providers(draw: st.DrawFn, name: str) -> Provider:
    keeps = {"keeps": {}, "learns not": {"collects_data": False}, "keeps not": {"collects_data": False, "zdr": True}}
    enabled = draw(st.sampled_from([True] * 9 + [False]))
    return provider(name, draw(st.integers(1, 2)), enabled=enabled, **keeps[draw(st.sampled_from(sorted(keeps)))])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    known = draw(catalogues())
    case = Case(known, draw(bodies()), Measured(known))
    attempts = [attempt for entry in known.listed() for attempt in entry.attempts]
    restless, measured, failing = (draw(st.booleans()) for _ in range(3))
    for attempt in attempts:
        name = f"{short(attempt)}@{attempt.slug}"
        state = draw(st.sampled_from(STATES)) if restless else "closed"
        case.states[attempt.target] = state
        if state != "closed":
            getattr(case.at, state)(f"{name}#{attempt.key_index}")
        if attempt.key_index:
            continue
        if failing and draw(st.booleans()):
            case.failing.add(attempt.endpoint)
            case.at.failed(name)
        if measured:
            case.latencies[attempt.endpoint], case.rates[attempt.endpoint] = draw(SPEEDS), draw(SPEEDS)
            case.at.latency(**{name: case.latencies[attempt.endpoint]})
            case.at.throughput(**{name: case.rates[attempt.endpoint]})
    warm = draw(st.sampled_from([None, *attempts]))
    case.warm = None if warm is None else f"{short(warm)}@{warm.slug}#{warm.key_index}"
    case.draw = draw(st.floats(0, 1, exclude_max=True))
    case.prompt_tokens = draw(st.sampled_from([100, 100, 100, 1500, 5000, 9000, 20_000]))
    return case


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    suffix = draw(st.sampled_from(["", "", "", "", ":free", ":nitro", ":floor"]))
    body: dict[str, Any] = {"model": f"x/m{suffix}", "messages": draw(st.sampled_from([MESSAGES, MESSAGES, IMAGE]))}
    names = [
        *draw(st.lists(st.sampled_from(sorted(BODY_MEMBERS)), max_size=2)),
        *draw(st.sampled_from([[], ["models"]])),
    ]
    body |= {name: draw(BODY_MEMBERS[name]) for name in names}
    wishes = st.lists(st.sampled_from(sorted(PROVIDER_MEMBERS)), max_size=draw(st.integers(0, 2)))
    if wanted := {*draw(st.sampled_from(ORDERINGS)), *draw(wishes)}:
        body["provider"] = {name: draw(PROVIDER_MEMBERS[name]) for name in sorted(wanted)}
    return body
