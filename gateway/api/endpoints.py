"""`GET /models/{author}/{slug}/endpoints`: who serves a model, at what price, and how each of them is doing. Live.

OpenRouter's shape (its API reference, "List all endpoints for a model"; its Python SDK 1.3 validates it), one endpoint
for each offer of an enabled provider, the provider's keys together. Of its fields these mean something else here:

- `latency_last_30m` (milliseconds to a stream's first content) and `throughput_last_30m` (tokens per second) are of the
  last 5 minutes, the window of `gateway.route.stats`; pN is what N% of the calls were as good as or better than.
- `uptime_last_30m` is the percentage of good outcomes in 30 minutes; the other two windows are not kept, so null.
- `status` is 0, -2 or -10, see `Status`.
- `supported_parameters` of an offer whose configuration lists none are those that hosts of OpenAI's chat have in
  common; a call is sent with all its fields either way.

Ours beside them: an endpoint's `breaker` is the state of each of its provider's keys, in their order; `retry_budget`
is how many further attempts its provider may get now (null: it never was to get one, so its budget is whole).
`hedging` counts the hedges of the whole process since its start, and those that the budgets refused, by reason.

Invariants: a price is the customer's; no key, no upstream address and no account is in it.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import groupby
from operator import attrgetter
from typing import Final

from gateway.config import Price
from gateway.core.call import Attempt
from gateway.core.money import format_usd
from gateway.route.catalog import Entry
from gateway.route.eligible import CHAT_LESS, window_of
from gateway.route.health import State
from gateway.route.stats import Quantiles
from gateway.router import Router
from gateway.settle.charge import customer_price

_TOOLS: Final = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
_SCHEMA: Final = frozenset({"structured_outputs"})
_SAMPLING: Final = frozenset({"temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias", "seed"})
_ANSWER: Final = frozenset(
    {"max_tokens", "max_completion_tokens", "stop", "logprobs", "top_logprobs", "response_format"}
)
_COMMON: Final = _SAMPLING | _ANSWER | _TOOLS | _SCHEMA
_TOOL_CHOICES: Final = ("auto", "function", "none", "required")


class Status(IntEnum):
    """How an endpoint stands, in OpenRouter's numbers: 0 is well, what is negative is not, and what is less is worse.

    Its SDK has 0, -1, -2, -3, -5 and -10, "an open enum", and no word on what tells the negative ones apart.
    """

    OK = 0
    DEGRADED = -2  # a key rests, or it failed in the last 30 s and nothing succeeded since: others are tried first
    DOWN = -10  # every key rests: no call is sent there


def endpoints_of(entry: Entry, router: Router, now: float) -> dict[str, object]:
    """The model and its endpoints, as `data` of the answer. `now` is monotonic seconds.

    Cost: 10 us for an endpoint, and what `gateway.route.stats` takes to compute its quantiles anew, once a second.
    """
    model = entry.model
    budgets, hedges = router.retries.levels(now), router.hedges.levels()
    offers = groupby(entry.attempts, attrgetter("endpoint"))  # an offer's keys follow each other
    return {
        "id": model.id,
        "name": model.name or model.id,
        "created": model.created,
        "description": model.description,
        "architecture": _architecture(entry),
        "endpoints": [_endpoint(list(keys), router, now, budgets) for _, keys in offers],
        "hedging": {
            "allowed": hedges.allowed,
            "refused_share": hedges.refused_share,
            "refused_money": hedges.refused_money,
            "refused_room": hedges.refused_room,
        },
    }


def pricing(price: Price) -> dict[str, str]:
    """What a customer pays, in USD per token and per request. A kind of token without a price of its own is left out:
    it costs what prompt or completion tokens cost.
    """
    own = {
        "input_cache_read": price.cached_input,
        "input_cache_write": price.cache_write,
        "internal_reasoning": price.reasoning,
    }
    shown = {"prompt": price.input, "completion": price.output, "request": price.request}
    shown |= {name: amount for name, amount in own.items() if amount is not None}
    return {name: format_usd(amount) for name, amount in shown.items()}


def _endpoint(keys: list[Attempt], router: Router, now: float, budgets: dict[str, int]) -> dict[str, object]:
    attempt = keys[0]
    model, offer, streams = attempt.model, attempt.offer, router.streams
    states = [router.health.state(key.target, now) for key in keys]
    parameters = _parameters(attempt)
    uptime = streams.uptime(attempt.endpoint, now)
    return {
        "name": f"{attempt.provider} | {model.id}",
        "model_id": model.id,
        "model_name": model.name or model.id,
        "provider_name": attempt.provider,
        "tag": attempt.slug,
        "quantization": offer.quantization or "unknown",
        "context_length": window_of(attempt),
        "max_completion_tokens": offer.completion_tokens_max or model.completion_tokens_max,
        "max_prompt_tokens": None,  # the window bounds prompt and answer together
        "pricing": pricing(customer_price(model, offer)),
        "supported_parameters": parameters,
        "supports_tool_choice": dict.fromkeys(_TOOL_CHOICES, "tool_choice" in parameters),
        # Where writing to the cache has a price, the caller asks for it.
        "supports_implicit_caching": offer.cached_input is not None and offer.cache_write is None,
        "supports_diarization": False,
        "native_tools": {},
        "service_tier": None,
        "status": status_of(states, outage=streams.recent_outage(attempt.endpoint, now)),
        "uptime_last_5m": None,
        "uptime_last_30m": None if uptime is None else round(100 * uptime, 3),
        "uptime_last_1d": None,
        "latency_last_30m": _percentiles(streams.latency(attempt.endpoint, now), 1000),
        "throughput_last_30m": _percentiles(streams.throughput_of(attempt.endpoint, now), 1),
        "breaker": states,
        "retry_budget": budgets.get(attempt.provider),
    }


def status_of(states: list[State], *, outage: bool) -> Status:
    """The status of an endpoint from the breakers of its keys, and whether it failed lately."""
    if all(state == "open" for state in states):
        return Status.DOWN
    return Status.DEGRADED if outage or any(state != "closed" for state in states) else Status.OK


def _percentiles(seen: Quantiles | None, scale: int) -> dict[str, float] | None:
    if seen is None:
        return None
    return {name: round(getattr(seen, name) * scale, 2) for name in ("p50", "p75", "p90", "p99")}


def _parameters(attempt: Attempt) -> list[str]:
    """The request fields that have an effect at an endpoint, as far as anybody says."""
    offer = attempt.offer
    supports = offer.supports
    names = _COMMON if offer.parameters is None else offer.parameters
    if supports is not None:
        if CHAT_LESS in supports:
            return []
        names -= frozenset() if "tools" in supports else _TOOLS
        names -= frozenset() if "json_schema" in supports else _SCHEMA
    return sorted(names.difference(attempt.quirks.drop_fields))


def _architecture(entry: Entry) -> dict[str, object]:
    """What goes in and comes out, of any of its endpoints. An offer that does not say what it can do can do all."""
    supports = [attempt.offer.supports for attempt in entry.attempts]
    images = any(each is None or "images" in each for each in supports)
    chats = any(each is None or CHAT_LESS not in each for each in supports)
    takes, gives = (["text", "image"] if images else ["text"]), ["text" if chats else "embeddings"]
    return {
        "modality": f"{'+'.join(takes)}->{'+'.join(gives)}",
        "input_modalities": takes,
        "output_modalities": gives,
        "tokenizer": None,
        "instruct_type": None,
    }
