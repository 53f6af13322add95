"""From the names in a request to catalogue entries: ids, aliases, suffixes, fallback models, the auto routers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.config import Auto
from gateway.core.routing import Routing
from gateway.dialects.routing import split_suffix, with_suffix
from gateway.errors import ModelNotFound
from gateway.route.catalog import Catalog, Entry

AUTO_FREE: Final = "auto:free"
AUTO: Final = frozenset({"auto", AUTO_FREE})
"""The ids of the auto routers: bare, and in no catalogue."""


class Choice(NamedTuple):
    """A model the call may be served with; `free`: by what costs the customer nothing alone."""

    entry: Entry
    free: bool = False


def resolve(model: str, routing: Routing, catalog: Catalog) -> tuple[list[Choice], Routing]:
    """The request's model and its fallback models, in order, and its wishes with what the model's suffix adds.

    A fallback model that nobody knows is left out, as a fallback provider is. Raises BadRequest or ModelNotFound when
    none of them is known, for the first.
    """
    first, suffix = _find(model, catalog)
    if suffix is not None:
        routing = with_suffix(routing, suffix)
    found = [] if first is None else [first]
    for choice in known(routing.models, catalog):
        if choice not in found:
            found.append(choice)
    if not found:
        catalog.find(model)  # raises
    return found, routing


def known(models: Sequence[str], catalog: Catalog) -> list[Choice]:
    """Those of the models that the catalogue has."""
    found = [_find(name, catalog)[0] for name in models]
    return [choice for choice in found if choice is not None]


def pool(model: str, auto: Auto, name: str, catalog: Catalog) -> list[Choice]:
    """The models of the class `name` for an auto router: its pool, then the general one, whose models may take over.

    Raises ModelNotFound when the configuration has no pools for this router.
    """
    free = model == AUTO_FREE
    pools = auto.free_pools if free else auto.pools
    if not pools:
        table = "auto.free_pools" if free else "auto.pools"
        raise ModelNotFound(f"{model} is not served here: the operator has to fill [{table}]", param="model")
    general = pools["general"]
    return [Choice(catalog.find(each), free) for each in dict.fromkeys((*pools.get(name, general), *general))]


def _find(name: str, catalog: Catalog) -> tuple[Choice | None, str | None]:
    """The whole name first: an id may end like a suffix."""
    entry = catalog.get(name)
    if entry is not None:
        return Choice(entry), None
    base, suffix = split_suffix(name)
    entry = catalog.get(base) if suffix is not None else None
    return (None, None) if entry is None else (Choice(entry, suffix == "free"), suffix)
