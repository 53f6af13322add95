"""`offers = [...]` of a model: who can serve it, at what price, and what each cannot do.

Every offer has a price: a free one says `input = "0"`. What an offer does not say, it has from its model, or can do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, get_args

from gateway.config import Offer, Provider, Quantization
from gateway.configfile.prices import read_rates
from gateway.configfile.providers import SIM
from gateway.configfile.read import Table, did_you_mean
from gateway.providers.presets import load_presets

SUPPORTS = frozenset({"stream", "tools", "images", "json_schema", "embeddings"})
"""What an offer can be limited to. One that lists `embeddings` serves embeddings and no chat."""

CONTEXT_WINDOW_MAX = 1 << 31

QUANTIZATIONS: Final[tuple[Quantization, ...]] = get_args(Quantization)

_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # a request's slugs are read in lower case
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_OPENAI = """
audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens metadata modalities
moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_options
prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store stream_options
temperature tool_choice tools top_logprobs top_p user verbosity web_search_options
"""  # platform.openai.com/docs/api-reference/chat
_OPENROUTER = """
cache_control image_config include_reasoning min_p reasoning repetition_penalty structured_outputs top_a top_k
"""  # openrouter.ai/docs/api/reference/parameters, and `supported_parameters` of its models
_HOSTS = "chat_template_kwargs enable_thinking ignore_eos min_tokens stop_token_ids thinking thinking_budget"  # common
_PARAMETERS: Final = frozenset((_OPENAI + _OPENROUTER + _HOSTS).split())
"""The fields people list. Others are taken too, since hosts have their own, unless one is nearly one of these."""
_TYPING_ERROR = 0.85  # `difflib`'s ratio of "temprature" to "temperature" is 0.95, of "top_n" to "top_p" 0.8


def read_offers(table: Table, model_id: str | None, providers: Mapping[str, Provider]) -> tuple[Offer, ...]:
    """The offers of one model, as they are listed. One with a problem may still be among them."""
    offers: list[Offer] = []
    seen: set[tuple[str, str]] = set()
    tables = table.tables("offers")
    if not tables and not (table.raw("offers")):
        table.problem("offers" if "offers" in table else None, "no offers: a model needs at least one")
    for inner in tables:
        offer = _offer(inner, model_id, providers)
        if offer is None:
            continue
        if (offer.provider, offer.model) in seen:
            inner.problem(None, f"duplicate offer: {offer.provider} already offers {offer.model!r} here")
        seen.add((offer.provider, offer.model))
        offers.append(offer)
    return tuple(offers)


def read_tokens(table: Table, key: str) -> int | None:
    """A number of tokens, at least 1; None when absent or reported."""
    tokens = table.get(key, int)
    if tokens is not None and not 0 < tokens <= CONTEXT_WINDOW_MAX:
        table.problem(key, f"bad value: must be in tokens, 1 to {CONTEXT_WINDOW_MAX}")
        return None
    return tokens


def _offer(table: Table, model_id: str | None, providers: Mapping[str, Provider]) -> Offer | None:
    provider = _required_text(table, "provider")
    model = _required_text(table, "model")
    if provider is not None:
        _check_provider(table, provider, model_id, providers)
    rates = read_rates(table, "unpriced model")
    supports, parameters = _supports(table), _parameters(table)
    quantization = table.choice("quantization", QUANTIZATIONS)
    window, answer_max = read_tokens(table, "context_window"), read_tokens(table, "completion_tokens_max")
    tag = _tag(table)
    table.close()
    if provider is None or model is None or rates is None:
        return None
    return Offer(
        provider,
        model,
        rates.input,
        rates.output,
        cached_input=rates.cached_input,
        supports=supports,
        cache_write=rates.cache_write,
        reasoning=rates.reasoning,
        request=rates.request,
        quantization=quantization,
        context_window=window,
        completion_tokens_max=answer_max,
        parameters=parameters,
        tag=tag,
    )


def _required_text(table: Table, key: str) -> str | None:
    if table.raw(key) is None:
        table.problem(None, f"{key} is missing")
        return None
    return table.text(key)


def _check_provider(table: Table, name: str, model_id: str | None, providers: Mapping[str, Provider]) -> None:
    if name not in providers:
        if name in load_presets():
            table.problem("provider", f"unknown provider {name!r}: it is a preset; add a [providers.{name}] table")
        else:
            table.problem("provider", f"unknown provider {name!r}{did_you_mean(name, providers)}")
    elif model_id is not None and model_id.startswith("sim/") and name != SIM:
        table.problem("provider", f"bad value: {model_id!r} may only be offered by the sim provider")
    elif model_id is not None and not model_id.startswith("sim/") and name == SIM:
        table.problem(
            "provider", "bad value: the sim provider may only offer ids under sim/; a real model never uses it"
        )


def _supports(table: Table) -> frozenset[str] | None:
    listed = table.get("supports", tuple[str, ...])
    if listed is None:
        return None
    for word in listed:
        if word not in SUPPORTS:
            hint = did_you_mean(word, SUPPORTS) or f"; known are {', '.join(sorted(SUPPORTS))}"
            table.problem("supports", f"bad value: {word!r}{hint}")
    return frozenset(listed)


def _parameters(table: Table) -> frozenset[str] | None:
    listed = table.get("parameters", tuple[str, ...])
    if listed is None:
        return None
    for word in listed:
        if not _PARAMETER.fullmatch(word):
            table.problem("parameters", f'bad value: {word[:64]!r} is no field of a request, such as "temperature"')
        elif word not in _PARAMETERS and (hint := did_you_mean(word.lower(), _PARAMETERS, cutoff=_TYPING_ERROR)):
            table.problem("parameters", f"bad value: {word!r}{hint}")
    return frozenset(listed)


def _tag(table: Table) -> str:
    tag = table.text("tag")
    if tag is not None and not _TAG.fullmatch(tag):
        table.problem(
            "tag", f'bad value: {tag[:64]!r} must be at most 64 of a-z, 0-9, ".", "-" and "_", a-z or 0-9 first'
        )
    return tag or ""
