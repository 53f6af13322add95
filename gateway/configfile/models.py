"""`[[models]]`: the catalogue, each model with the offers that can serve it.

What a customer pays is the model's business (`price`, `markup`); what a provider asks is its offer's. Ids under `sim/`
belong to the sim provider, and only those: a real model never falls back to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, get_args

from gateway.config import Model, ModelRace, Provider
from gateway.configfile.offers import read_offers, read_tokens
from gateway.configfile.prices import read_customer_price, read_markup, read_usd
from gateway.configfile.read import Table
from gateway.core.routing import RaceMode

_RACE_MODES: Final[tuple[RaceMode, ...]] = get_args(RaceMode)
_BALANCES: Final[tuple[Literal["price", "order"], ...]] = ("price", "order")
_AUTO = ("auto", "auto:free")
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
    answer_max = read_tokens(table, "completion_tokens_max")
    aliases = _aliases(table, model_id)
    created = table.get("created", int) or 0
    if created < 0:
        table.problem("created", "bad value: must be a Unix time in seconds, at least 0")
    name = table.text("name") or ""
    description = table.get("description", str) or ""
    offers = read_offers(table, model_id, providers)
    price, markup = read_customer_price(table), read_markup(table)
    balance = table.choice("balance", _BALANCES) or "price"
    race = _race(table)
    table.close()
    if model_id is None:
        return None
    return Model(
        model_id, offers, window, aliases, created, name, description, price, markup, answer_max, balance, race
    )


def _context_window(table: Table) -> int:
    if "context_window" not in table:
        table.problem(None, "context_window is missing: give it in tokens")
    return read_tokens(table, "context_window") or 0


def _race(table: Table) -> ModelRace | None:
    inner = table.table("race")
    mode = inner.choice("mode", _RACE_MODES)
    max_extra_cost = read_usd(inner, "max_extra_cost")
    if isinstance(table.raw("race"), dict) and "mode" not in inner:
        inner.problem(None, f"mode is missing: one of {', '.join(_RACE_MODES)}")
    inner.close()
    return None if mode is None else ModelRace(mode, max_extra_cost)


def _aliases(table: Table, model_id: str | None) -> tuple[str, ...]:
    aliases = table.get("aliases", tuple[str, ...]) or ()
    for alias in aliases:
        if not _ALIAS.fullmatch(alias):
            table.problem("aliases", f"bad value: {alias!r} is no model name")
        elif alias in _AUTO:
            table.problem("aliases", f"bad value: {alias!r} names the auto router; see [auto.pools]")
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
