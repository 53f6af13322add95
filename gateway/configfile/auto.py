"""`[auto]`: the pools of the auto router, with every name resolved to the id of a model of the file.

The sim provider's models stand in a pool for a gateway that has no keys yet. Once any other model of the file can be
served they are left out, here, so that no customer is ever answered with simulated text because a provider failed.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config import AUTO_CLASSES, Auto, Model, Provider
from gateway.configfile.read import Table, did_you_mean

Pools = dict[str, tuple[str, ...]]


def read_auto(table: Table, models: Mapping[str, Model], providers: Mapping[str, Provider]) -> Auto:
    """Both tables of pools. A pool may name models that no enabled provider serves; planning passes over them."""
    names = {alias: model for model in models.values() for alias in model.aliases} | dict(models)
    pools = _pools(table.table("pools"), names, free=False)
    free_pools = _pools(table.table("free_pools"), names, free=True)
    table.close()
    if any(_is_served(model, providers) for model in models.values() if not _is_sim(model.id)):
        pools, free_pools = _without_sim(pools), _without_sim(free_pools)
    return Auto(pools, free_pools)


def _pools(table: Table, names: Mapping[str, Model], *, free: bool) -> Pools:
    pools: Pools = {}
    for kind in table.names():
        if kind not in AUTO_CLASSES:
            hint = did_you_mean(kind, AUTO_CLASSES) or f"; known are {', '.join(AUTO_CLASSES)}"
            table.problem(kind, f"the auto router has no such class{hint}")
            continue
        listed = table.get(kind, tuple[str, ...])
        if listed is not None and not listed:
            table.problem(kind, "bad value: a pool needs at least one model; a class without a pool uses general's")
        pools[kind] = tuple(_ids(table, kind, listed or (), names, free=free))
    if table.names() and "general" not in table:
        table.problem(None, "general is missing: the pool of every class that has none")
    return pools


def _ids(table: Table, kind: str, listed: tuple[str, ...], names: Mapping[str, Model], *, free: bool) -> list[str]:
    ids: list[str] = []
    for index, name in enumerate(listed):
        model = names.get(name)
        if model is None:
            wrong = f"{name[:80]!r} is no model of this file{did_you_mean(name, names)}"
        elif model.id in ids:
            wrong = f"{model.id!r} is given twice"
        elif model.offers and all("embeddings" in (offer.supports or ()) for offer in model.offers):
            wrong = f"{model.id!r} is an embeddings model; it does not take chat completions"
        elif free and model.price != "free":
            wrong = f'{model.id!r} is not free; give that model price = "free", or leave it out'
        else:
            ids.append(model.id)
            continue
        table.report.add((*table.path, kind, index), f"bad value: {wrong}")
    return ids


def _without_sim(pools: Pools) -> Pools:
    """The pools that have other models; none at all without one for `general`."""
    kept = {kind: real for kind, ids in pools.items() if (real := tuple(name for name in ids if not _is_sim(name)))}
    return kept if "general" in kept else {}


def _is_sim(model_id: str) -> bool:
    return model_id.startswith("sim/")


def _is_served(model: Model, providers: Mapping[str, Provider]) -> bool:
    return any(offer.provider in providers and providers[offer.provider].enabled for offer in model.offers)
