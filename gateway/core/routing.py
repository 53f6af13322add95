"""What a request wishes of its routing: which providers, in which order, at what price. Values shared by stages. Pure.

The names are OpenRouter's (openrouter.ai/docs/guides/routing/provider-selection), amounts are pico-USD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from gateway.core.money import PicoUsd

Sort = Literal["price", "latency", "throughput"]
RaceMode = Literal["off", "hedge", "all"]


class Bounds(NamedTuple):
    """A bound for each percentile that has one: tokens per second, or seconds."""

    p50: float | None = None
    p75: float | None = None
    p90: float | None = None
    p99: float | None = None


class MaxPrice(NamedTuple):
    """The most that may be asked: per token of the prompt and of the completion, and per call. None: any price."""

    prompt: PicoUsd | None = None
    completion: PicoUsd | None = None
    request: PicoUsd | None = None


class RaceWish(NamedTuple):
    """The request's `race`: its mode, and what its losers may cost beyond the answer. None: as the model has it."""

    mode: RaceMode | None = None
    max_extra_cost: PicoUsd | None = None


NO_RACE_WISH: Final = RaceWish()


@dataclass(frozen=True, slots=True)
class Preferences:
    """The request's `provider` object. Slugs are lower case; `google-vertex` also names `google-vertex/us-east5`."""

    order: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    allow_fallbacks: bool = True
    sort: Sort | None = None
    partition: Literal["model", "none"] = "model"  # none: providers of all the models are sorted together
    require_parameters: bool = False
    data_collection: Literal["allow", "deny"] = "allow"
    zdr: bool = False
    quantizations: frozenset[str] | None = None
    max_price: MaxPrice | None = None
    preferred_min_throughput: Bounds | None = None  # slower ones go to the back, none is left out
    preferred_max_latency: Bounds | None = None


@dataclass(frozen=True, slots=True)
class Routing:
    """All of a request's wishes. `models` are tried after `model`, in order, and do not repeat it."""

    models: tuple[str, ...] = ()
    preferences: Preferences = Preferences()
    middle_out: bool | None = None  # None: not said
    echo_upstream_body: bool = False
    session_id: str | None = None
    race: RaceWish = NO_RACE_WISH


PLAIN: Final = Routing()
"""Of a request that wishes nothing."""
