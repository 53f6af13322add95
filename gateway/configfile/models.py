"""`[[models]]`: the catalogue, each model with the priced offers that can serve it.

Every offer has a price: a free one says `input = "0"`. What a customer pays is the model's business (`price`,
`markup`). Ids under `sim/` belong to the sim provider, and only those: a real model never falls back to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gateway.config import Model, Offer, Provider
from gateway.configfile.prices import read_customer_price, read_markup, read_rates
from gateway.configfile.providers import SIM
from gateway.configfile.read import Table, did_you_mean
from gateway.providers.presets import load_presets

SUPPORTS = frozenset({"stream", "tools", "images", "json_schema", "embeddings"})
"""What an offer can be limited to. One that lists `embeddings` serves embeddings and no chat."""

CONTEXT_WINDOW_MAX = 1 << 31

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._:-]*")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")


def read_models(tables: list[Table], providers: Mapping[str, Provider]) -> dict[str, Model]:
    """Every model by id. Ids and aliases are one namespace, in which nothing is named twice."""
    models: dict[str, Model] = {}
    taken: dict[str, str] = {}
    for table in tables:
        model = _model(table, providers)
        if model is None:
            continue
        if model.id in taken:
            table.problem("id", f"duplicate model id {model.id!r}: already {taken[model.id]}")
            continue
        taken[model.id] = "the id of another model"
        models[model.id] = model
    for table in tables:
        _claim_aliases(table, models, taken)
    return models


def _model(table: Table, providers: Mapping[str, Provider]) -> Model | None:
    model_id = table.text("id")
    if model_id is None and "id" not in table:
        table.problem(None, 'id is missing: a model needs one, such as "openai/gpt-4o"')
    if model_id is not None and not _ID.fullmatch(model_id):
        table.problem("id", f'bad value: {model_id!r} must be author/slug, such as "openai/gpt-4o"')
        model_id = None
    window = _context_window(table)
    answer_max = _completion_tokens_max(table)
    aliases = _aliases(table, model_id)
    created = table.get("created", int) or 0
    if created < 0:
        table.problem("created", "bad value: must be a Unix time in seconds, at least 0")
    name = table.text("name") or ""
    description = table.get("description", str) or ""
    offers = _offers(table, model_id, providers)
    price, markup = read_customer_price(table), read_markup(table)
    table.close()
    if model_id is None:
        return None
    return Model(model_id, offers, window, aliases, created, name, description, price, markup, answer_max)


def _context_window(table: Table) -> int:
    window = table.get("context_window", int)
    if window is None:
        if "context_window" not in table:
            table.problem(None, "context_window is missing: give it in tokens")
        return 0
    if not 0 < window <= CONTEXT_WINDOW_MAX:
        table.problem("context_window", f"bad value: must be in tokens, 1 to {CONTEXT_WINDOW_MAX}")
    return window


def _completion_tokens_max(table: Table) -> int | None:
    limit = table.get("completion_tokens_max", int)
    if limit is not None and not 0 < limit <= CONTEXT_WINDOW_MAX:
        table.problem("completion_tokens_max", f"bad value: must be in tokens, 1 to {CONTEXT_WINDOW_MAX}")
        return None
    return limit


def _aliases(table: Table, model_id: str | None) -> tuple[str, ...]:
    aliases = table.get("aliases", tuple[str, ...]) or ()
    for alias in aliases:
        if not _ALIAS.fullmatch(alias):
            table.problem("aliases", f"bad value: {alias!r} is no model name")
        elif model_id is not None and alias.startswith("sim/") != model_id.startswith("sim/") and "/" in alias:
            table.problem("aliases", f"bad value: {alias!r}; names under sim/ belong to the sim provider's models")
    return aliases


def _claim_aliases(table: Table, models: Mapping[str, Model], taken: dict[str, str]) -> None:
    model_id = table.raw("id")
    model = models.get(model_id) if isinstance(model_id, str) else None
    if model is None or taken.get(model.id) == "claimed":
        return
    for alias in model.aliases:
        if alias in taken:
            owner = "another model's id" if alias in models else "another alias"
            table.problem("aliases", f"duplicate name {alias!r}: already {owner}")
        taken[alias] = "an alias"
    taken[model.id] = "claimed"


def _offers(table: Table, model_id: str | None, providers: Mapping[str, Provider]) -> tuple[Offer, ...]:
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


def _offer(table: Table, model_id: str | None, providers: Mapping[str, Provider]) -> Offer | None:
    provider = _required_text(table, "provider")
    model = _required_text(table, "model")
    if provider is not None:
        _check_provider(table, provider, model_id, providers)
    rates = read_rates(table, "unpriced model")
    supports = _supports(table)
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
