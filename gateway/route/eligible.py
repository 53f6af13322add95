"""Who may serve a call at all: what a request needs or forbids, held against each attempt. Pure.

What is left out has a reason, and when nobody is left the reasons say what the caller is told: a request that no
provider of the model can serve is a 400, one whose own constraints leave nobody a 404.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from gateway.config import Model
from gateway.core.call import Attempt
from gateway.core.routing import PLAIN, MaxPrice, Preferences
from gateway.dialects.needs import Needs
from gateway.errors import BadRequest, RouteConstrained

CHAT_LESS: Final = "embeddings"
_CERTAIN: Final = 2  # our estimate is never twice the tokens: a prompt with an estimate over that does not fit
_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Ask:
    """What a plan has to satisfy. `prompt_tokens` is an estimate."""

    needs: Needs
    preferences: Preferences
    prompt_tokens: int
    compresses: bool = False  # a prompt that is too long will be shortened


def eligible(attempts: Sequence[Attempt], ask: Ask, *, free: bool = False) -> list[Attempt]:
    """Those that may serve, in their order; `free`: of what costs the customer nothing.

    Raises BadRequest (nobody can do what is asked), RouteConstrained 404 (nobody is left by the constraints).
    """
    found: list[Attempt] = []
    reasons: dict[str, int] = {}
    for attempt in attempts:
        reason = "free" if free and not is_free(attempt) else _reason(attempt, ask)
        if reason is None:
            found.append(attempt)
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
    return found or _nobody(attempts, ask, reasons)


def names(slugs: Iterable[str], attempt: Attempt) -> bool:
    """Whether one of the slugs names the attempt's provider, or this variant of it."""
    return any(slug in {attempt.slug, attempt.provider.lower()} for slug in slugs)


def is_free(attempt: Attempt) -> bool:
    """Whether the customer pays nothing for it."""
    model, offer = attempt.model, attempt.offer
    if model.price is not None:
        return model.price == "free"
    return not any((offer.input, offer.output, offer.request, offer.cached_input, offer.cache_write, offer.reasoning))


def window_of(attempt: Attempt) -> int:
    """How many tokens fit, prompt and answer together."""
    return attempt.offer.context_window or attempt.model.context_window


def _reason(attempt: Attempt, ask: Ask) -> str | None:
    """Why an attempt may not serve; None when it may. Constraints first: what they leave out could not be asked."""
    reason = _forbidden(attempt, ask) if ask.preferences is not PLAIN.preferences else None
    if reason is not None:
        return reason
    supports = attempt.offer.supports
    if supports is not None and (CHAT_LESS in supports or not ask.needs.features <= supports):
        return "features"
    if not ask.compresses and ask.prompt_tokens > _CERTAIN * window_of(attempt):
        return "context"
    return None


def _forbidden(attempt: Attempt, ask: Ask) -> str | None:
    wish, offer = ask.preferences, attempt.offer
    if wish.only is not None and not names(wish.only, attempt):
        return "provider.only"
    if wish.ignore and names(wish.ignore, attempt):
        return "provider.ignore"
    if not wish.allow_fallbacks and wish.order and not names(wish.order, attempt):
        return "provider.order"
    if wish.data_collection == "deny" and attempt.collects_data:
        return "provider.data_collection"
    if wish.zdr and not attempt.zdr:
        return "provider.zdr"
    if wish.quantizations is not None and (offer.quantization or _UNKNOWN) not in wish.quantizations:
        return "provider.quantizations"
    if wish.max_price is not None and _dearer(attempt, wish.max_price):
        return "provider.max_price"
    if wish.require_parameters and offer.parameters is not None and not ask.needs.parameters <= offer.parameters:
        return "provider.require_parameters"
    return None


def _dearer(attempt: Attempt, most: MaxPrice) -> bool:
    """Whether the customer's price is over a bound. Markups count: it is what the customer would pay."""
    bounds = ((most.prompt, "input"), (most.completion, "output"), (most.request, "request"))
    return any(bound is not None and asked(attempt, kind) > bound for bound, kind in bounds)


def asked(attempt: Attempt, kind: str) -> int:
    """The customer's price of one kind (`input`, `output`, `request`), in pico-USD, rounded up."""
    model = attempt.model
    if model.price == "free":
        return 0
    base: int = getattr(model.price or attempt.offer, kind)
    numerator, denominator = model.markup
    return -(-base * (numerator + denominator) // denominator)


def _nobody(attempts: Sequence[Attempt], ask: Ask, reasons: dict[str, int]) -> NoReturn:
    model = attempts[0].model
    constraints = sorted(reason for reason in reasons if reason not in {"features", "context"})
    if not constraints:
        raise _unable(model, attempts, ask, reasons)
    told = ", ".join(":free" if reason == "free" else reason for reason in constraints)
    raise RouteConstrained(
        f"{told} of the request leave no provider of {model.id}; loosen them, or see the model's endpoints",
        param=next((reason for reason in constraints if reason != "free"), "model"),
    )


def _unable(model: Model, attempts: Sequence[Attempt], ask: Ask, reasons: dict[str, int]) -> BadRequest:
    if "features" not in reasons:
        longest = max(window_of(attempt) for attempt in attempts)
        return BadRequest(
            f"the prompt has about {ask.prompt_tokens} tokens and {model.id} takes {longest} with its answer; shorten "
            'it, or send `transforms: ["middle-out"]`',
            param="messages",
        )
    supports = [attempt.offer.supports for attempt in attempts]
    if all(each is not None and CHAT_LESS in each for each in supports):
        return BadRequest(f"{model.id} is an embeddings model; it does not take chat completions", param="model")
    missing = [name for name in ask.needs.features if not any(each is None or name in each for each in supports)]
    if "stream" in missing:
        return BadRequest(f"no provider of {model.id} streams; send `stream: false`", param="stream")
    what = " or ".join(sorted(missing or ask.needs.features))
    return BadRequest(
        f"no provider of {model.id} can do what the request asks for ({what}); see its entry in GET /v1/models",
        param="model",
    )
