"""The catalogue of one snapshot: from model ids and aliases to attempts, rendered ahead as far as can be. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.config import Config, Model, Offer, Provider
from gateway.core.call import Attempt, Origin
from gateway.errors import BadRequest, ModelNotFound
from gateway.providers.openai import build_endpoint


@dataclass(frozen=True, slots=True)
class Entry:
    """One model and every attempt that could serve it, in the order of its offers, each with each key.

    `alone` is True for a model of one endpoint that can do everything: there is nothing to choose or to leave out.
    """

    model: Model
    attempts: tuple[Attempt, ...]
    alone: bool = field(init=False)

    def __post_init__(self) -> None:
        endpoints = {attempt.endpoint for attempt in self.attempts}
        able = all(attempt.offer.supports is None for attempt in self.attempts)
        object.__setattr__(self, "alone", len(endpoints) == 1 and able)


class Catalog:
    """Frozen after building."""

    __slots__ = ("_entries", "_only")

    def __init__(self, config: Config) -> None:
        self._entries: dict[str, Entry] = {}
        self._only: dict[str, Attempt] = {}
        for model in config.models.values():
            attempts = tuple(_attempts(model, config))
            entry = Entry(model, attempts)
            for name in (model.id, *model.aliases):
                self._entries[name] = entry
                if entry.alone and len(attempts) == 1:
                    self._only[name] = attempts[0]

    def find(self, name: str) -> Entry:
        """The entry of an id or alias. Raises BadRequest for a bare id that is no alias, ModelNotFound else."""
        entry = self._entries.get(name)
        if entry is not None:
            return entry
        shown = name[:80]
        if "/" not in name:
            raise BadRequest(f"`model` {shown!r} has no provider prefix; write it as author/name", param="model")
        raise ModelNotFound(f"model {shown!r} is not in the catalogue; GET /v1/models lists what is", param="model")

    def get(self, name: str) -> Entry | None:
        """The entry of an id or alias, if there is one."""
        return self._entries.get(name)

    def only(self, name: str) -> Attempt | None:
        """The one attempt of a model that has but one, which can do everything."""
        return self._only.get(name)

    def listed(self) -> list[Entry]:
        """Models that an enabled offer can serve, by id."""
        own = {entry.model.id: entry for entry in self._entries.values() if entry.attempts}
        return [own[name] for name in sorted(own)]

    def get_listed(self, name: str) -> Entry | None:
        """One of `listed`, by id or alias."""
        entry = self._entries.get(name)
        return entry if entry is not None and entry.attempts else None


def _attempts(model: Model, config: Config) -> Iterable[Attempt]:
    for offer in model.offers:
        provider = config.providers[offer.provider]
        if provider.enabled:
            for key_index in range(max(1, len(provider.api_keys))):
                yield _attempt(provider, model, offer, key_index)


def _attempt(provider: Provider, model: Model, offer: Offer, key_index: int) -> Attempt:
    endpoint = build_endpoint(provider, key_index)
    return Attempt(
        provider=provider.name,
        key_index=key_index,
        origin=Origin(endpoint.host, endpoint.port, endpoint.tls, provider.ca_file),
        head=endpoint.head,
        offer=offer,
        quirks=provider.quirks,
        on_disconnect=provider.on_disconnect,
        model=model,
        collects_data=provider.collects_data,
        zdr=provider.zdr,
        api_key=provider.api_keys[key_index] if provider.api_keys else "",
    )
