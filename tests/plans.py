"""Catalogues small enough to read, and plans as one line: the provider slugs in their order, each with its reason.

A slug is followed by `#1` for the second key of a provider, and has its model before it (`two@alpha`) where a plan has
several models. What nobody can serve reads as `404 provider.only`: the status and the parameter at fault.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.config import Config, Model, Offer, Provider
from gateway.core.call import Attempt, Endpoint, Target
from gateway.core.money import PicoUsd
from gateway.dialects.needs import needs_of
from gateway.dialects.openai_chat import parse_request
from gateway.errors import GatewayError
from gateway.route.catalog import Catalog
from gateway.route.eligible import Ask
from gateway.route.health import FAILURES_TO_OPEN, Health
from gateway.route.order import Placed
from gateway.route.plan import View, plan
from gateway.route.resolve import resolve
from gateway.route.stats import Stats

NOW: Final = 1000.0
MESSAGES: Final = [{"role": "user", "content": "hi"}]
WINDOW: Final = 8000


def offer(provider: str, usd: float, **more: Any) -> Offer:
    """`usd` is the price of a million tokens, of the prompt and of the answer. The upstream model tells tags apart."""
    price = PicoUsd(round(usd * 1_000_000))
    upstream = f"up-{more['tag']}" if "tag" in more else "up"
    settings: dict[str, Any] = {"provider": provider, "model": upstream, "input": price, "output": price}
    return Offer(**settings | more)


def model(name: str, *offers: Offer, **more: Any) -> Model:
    settings: dict[str, Any] = {"id": f"x/{name}", "offers": offers, "context_window": WINDOW}
    return Model(**settings | more)


def provider(name: str, keys: int = 1, **more: Any) -> Provider:
    settings: dict[str, Any] = {"name": name, "kind": "openai", "base_url": f"https://{name}.test/v1", "enabled": True}
    settings["api_keys"] = tuple(f"sk-{name}-{index}" for index in range(keys))
    return Provider(**settings | more)


def config(models: Iterable[Model], providers: Iterable[Provider] = (), **more: Any) -> Config:
    """Providers that are not given have one key and no settings."""
    models = list(models)
    known = {each.provider: provider(each.provider) for one in models for each in one.offers}
    known |= {each.name: each for each in providers}
    return Config("test.toml", models={one.id: one for one in models}, providers=known, **more)


def catalog(*models: Model, providers: Iterable[Provider] = ()) -> Catalog:
    return Catalog(config(models, providers))


@dataclass
class Measured:
    """Health and measurements as they stand at NOW. Names are slugs; all keys of a slug are meant without `#`."""

    catalog: Catalog
    health: Health = field(default_factory=Health)
    stats: Stats = field(default_factory=Stats)

    def named(self, name: str) -> list[Attempt]:
        slug, _, key = name.partition("#")
        found = [each for each in attempts_of(self.catalog) if slug in {each.slug, f"{short(each)}@{each.slug}"}]
        found = [each for each in found if not key or each.key_index == int(key)]
        assert found, f"{name} is in no catalogue of this test"
        return found

    def latency(self, **seconds: float | Sequence[float]) -> Measured:
        for endpoint, samples in self._samples(seconds):
            for each in samples:
                self.stats.first_content(endpoint, each, NOW - 1)
        return self

    def throughput(self, **rates: float | Sequence[float]) -> Measured:
        for endpoint, samples in self._samples(rates):
            for each in samples:
                self.stats.throughput(endpoint, each, NOW - 1)
        return self

    def failed(self, *names: str, ago_s: float = 1.0) -> Measured:
        for name in names:
            self.stats.outcome(self.named(name)[0].endpoint, False, NOW - ago_s)
        return self

    def worked(self, *names: str) -> Measured:
        for name in names:
            self.stats.outcome(self.named(name)[0].endpoint, True, NOW)
        return self

    def open(self, *names: str, for_s: float = 3.0) -> Measured:
        """Their breakers rest for `for_s` more."""
        return self._trip(names, NOW + for_s)

    def half_open(self, *names: str) -> Measured:
        """Their breakers let a probe through."""
        return self._trip(names, NOW)

    def shaky(self, *names: str) -> Measured:
        """They have failed, but not often enough for their breakers."""
        for attempt in self._all(names):
            for _ in range(FAILURES_TO_OPEN - 1):
                self.health.failed(attempt.target, NOW - 1, probe=False)
        return self

    def probing(self, *names: str) -> Measured:
        """Another call is their probe."""
        self.half_open(*names)
        for attempt in self._all(names):
            assert self.health.started(attempt.target, NOW)
        return self

    def _trip(self, names: Iterable[str], until: float) -> Measured:
        for attempt in self._all(names):
            self.health.failed(attempt.target, until - 10.0, probe=False, retry_after_s=10.0)
        return self

    def _all(self, names: Iterable[str]) -> list[Attempt]:
        return [attempt for name in names for attempt in self.named(name)]

    def _samples(self, values: Mapping[str, float | Sequence[float]]) -> Iterable[tuple[Endpoint, Sequence[float]]]:
        for name, value in values.items():
            samples = value if isinstance(value, Sequence) else [value]
            yield self.named(name)[0].endpoint, samples


def attempts_of(known: Catalog) -> list[Attempt]:
    return [attempt for entry in known.listed() for attempt in entry.attempts]


def short(attempt: Attempt) -> str:
    return attempt.model.id.removeprefix("x/")


def placed(
    wishes: str,
    known: Catalog,
    at: Measured | None = None,
    *,
    draw: float = 0.5,
    warm: str | None = None,
    prompt_tokens: int = 100,
) -> list[Placed]:
    """The plan of a chat request with these members beside `messages`; of `x/m` when they name no model."""
    at = at or Measured(known)
    body: dict[str, Any] = {"model": "x/m", "messages": MESSAGES} | json.loads(wishes)
    request = parse_request(json.dumps(body).encode())
    choices, routing = resolve(request.model, request.routing, known)
    needs = needs_of(request.fields, stream=request.stream)
    ask = Ask(needs, routing.preferences, prompt_tokens, compresses=bool(routing.middle_out))
    target: Target | None = None if warm is None else at.named(warm)[0].target
    return plan(choices, ask, View(at.health, at.stats, NOW, draw, target))


def planned(wishes: str, known: Catalog, at: Measured | None = None, **more: Any) -> str:
    """The plan as one line, or what the caller is told instead."""
    try:
        return line(placed(wishes, known, at, **more))
    except GatewayError as error:
        return f"{error.status} {error.param or error.code}"


def line(plan: Sequence[Placed]) -> str:
    several = len({each.attempt.model.id for each in plan}) > 1
    return " ".join(f"{_name(each.attempt, with_model=several)}:{each.reason}" for each in plan)


def slugs(plan: Sequence[Placed]) -> list[str]:
    return [_name(each.attempt, with_model=False) for each in plan]


def _name(attempt: Attempt, *, with_model: bool) -> str:
    key = f"#{attempt.key_index}" if attempt.key_index else ""
    return f"{short(attempt)}@{attempt.slug}{key}" if with_model else f"{attempt.slug}{key}"
