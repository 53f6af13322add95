"""What a request asks of a key, turned into the key's terms, and what may not be asked.

Invariant: a kind, a plan, an account or a digest never comes from a change: a field that is not named here stays as it
is in the terms that were given.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from msgspec import UNSET

from gateway.api.session import Session
from gateway.api.shapes import KeyChange, NewKeyBody, iso, limit_of
from gateway.errors import BadRequest, ModelNotFound, PermissionDenied
from gateway.route.catalog import Catalog, Entry
from gateway.store.keys import KeyTerms

_RATES = ("rpm", "rpd", "tpm", "concurrency")


def changed(asked: KeyChange, terms: KeyTerms, session: Session, catalog: Catalog) -> KeyTerms:
    """Return the terms with what was asked for in its place. Raises BadRequest and PermissionDenied."""
    # Any: each value has the type of its field, as msgspec has checked.
    new: dict[str, Any] = {name: getattr(asked, name) for name in _RATES if getattr(asked, name) is not UNSET}
    limit = limit_of(asked.limit)
    if limit is not UNSET:
        new["spend_limit"] = limit
    if asked.limit_reset is not UNSET:
        new["limit_reset"] = None if asked.limit_reset == "none" else asked.limit_reset
    if asked.enabled is not UNSET or asked.disabled is not UNSET:
        new["disabled"] = _disabled(asked)
    if asked.allowed_models is not UNSET:
        new["models"] = None if asked.allowed_models is None else _model_ids(asked.allowed_models, catalog)
    if asked.expires_at is not UNSET:
        new["expires_at"] = _end(asked, session)
    then = replace(terms, **new)
    if "expires_at" in new or isinstance(asked, NewKeyBody):
        _check_not_outlasting(then, session)
    return then


def find_model(catalog: Catalog, name: str) -> Entry | None:
    """The catalogue's entry of an id or alias, or None."""
    try:
        return catalog.find(name)
    except (BadRequest, ModelNotFound):
        return None


def _disabled(asked: KeyChange) -> bool:
    if asked.enabled is UNSET:
        return asked.disabled is True
    if asked.disabled is asked.enabled:
        raise BadRequest("`enabled` and `disabled` contradict each other; send one of them", param="enabled")
    return not asked.enabled


def _end(asked: KeyChange, session: Session) -> float | None:
    if asked.expires_at is None or asked.expires_at is UNSET:
        return None
    end = asked.expires_at.timestamp()
    if end <= session.now:
        raise BadRequest("`expires_at` is past; send a time to come, or null for none", param="expires_at")
    return end


def _model_ids(names: tuple[str, ...], catalog: Catalog) -> tuple[str, ...]:
    """The ids of models named by id or alias, each once."""
    if not names:
        raise BadRequest("`allowed_models` is empty; name a model, or send null for all", param="allowed_models")
    ids: dict[str, None] = {}
    for name in names:
        entry = find_model(catalog, name)
        if entry is None:
            raise BadRequest(
                f"`allowed_models` names {name[:80]!r}, which is not in the catalogue; GET /v1/models lists what is",
                param="allowed_models",
            )
        ids[entry.model.id] = None
    return tuple(ids)


def _check_not_outlasting(terms: KeyTerms, session: Session) -> None:
    own_end = session.principal.expires_at
    if terms.kind != "management" or own_end is None:
        return
    if terms.expires_at is None or terms.expires_at > own_end:
        raise PermissionDenied(
            "a management key cannot last beyond the one that makes or prolongs it; "
            f"send an `expires_at` of {iso(own_end)} at the latest",
            param="expires_at",
        )
