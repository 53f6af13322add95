"""The plan: which attempts a call may make, in which order. Pure; takes `now`.

Offers in the order of the catalogue, each under each of its keys. Attempts whose breaker is open are left out; when
every breaker is open the call fails at once with the time until the first one lets a probe through.
"""

from __future__ import annotations

import msgspec

from gateway.core.call import Attempt
from gateway.errors import AllFailed, BadRequest, NoRoute
from gateway.route.catalog import Entry
from gateway.route.health import Health

_CHAT_LESS = "embeddings"


def plan(entry: Entry, fields: dict[str, msgspec.Raw], *, stream: bool, health: Health, now: float) -> list[Attempt]:
    """The attempts for one call, best first, never empty.

    Raises NoRoute (no enabled offer), BadRequest (no offer can do what is asked), AllFailed 503 (all breakers open).
    """
    attempts = entry.attempts
    if not attempts:
        raise NoRoute(f"no enabled provider serves {entry.model.id}; the operator has to set a provider key")
    if entry.does_all:
        able = list(attempts)
    else:
        able = [attempt for attempt in attempts if _able(attempt, fields, stream=stream)]
    if not able:
        raise BadRequest(_unable(entry, stream=stream), param="stream" if stream else "model")
    if health.all_closed():
        return able
    targets = [(attempt.provider, attempt.key_index) for attempt in able]
    closed = [a for a, target in zip(able, targets, strict=True) if health.state(target, now) == "closed"]
    probes = [a for a, target in zip(able, targets, strict=True) if health.state(target, now) == "half_open"]
    ready = probes[:1] + closed + probes[1:]  # the probe goes first, or a provider would never come back
    if ready:
        return ready
    wait_s = min(health.retry_after_s(target, now) for target in targets)
    raise AllFailed(
        f"every provider of {entry.model.id} is resting after failures; retry later, or choose another model",
        status=503,
        retry_after_s=max(wait_s, 1.0),
    )


def _able(attempt: Attempt, fields: dict[str, msgspec.Raw], *, stream: bool) -> bool:
    supports = attempt.offer.supports
    if supports is None:
        return True
    if _CHAT_LESS in supports:
        return False
    asked = (("stream", stream), ("tools", "tools" in fields))
    return all(feature in supports for feature, wanted in asked if wanted)


def _unable(entry: Entry, *, stream: bool) -> str:
    if all(_CHAT_LESS in (attempt.offer.supports or ()) for attempt in entry.attempts):
        return f"{entry.model.id} is an embeddings model; it does not take chat completions"
    if stream:
        return f"no provider of {entry.model.id} streams; send `stream: false`"
    return f"no provider of {entry.model.id} can do what the request asks for; see its entry in GET /v1/models"
