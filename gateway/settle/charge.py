"""What a call costs: its customer, and us. Pure, integers only.

A customer pays the model's own price, or what the provider asks, and the model's markup on either; nothing for a free
model. All products are added before the one division, whose result is rounded up: once a call, to one pico-USD.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gateway.config import Model, Offer, Price
from gateway.core.money import CostReport, PicoUsd, scale_up
from gateway.core.usage import Usage

_FREE = PicoUsd(0)


class Charge(NamedTuple):
    """What one call costs its customer, and what its provider asks of us."""

    customer: PicoUsd
    provider: PicoUsd


def charge(usage: Usage, model: Model, offer: Offer, *, finished: bool) -> Charge:
    """The charge for `usage` of `model`, served by `offer`.

    Zero-completion insurance: a call without a completion token that has not `finished` (no finish reason came) costs
    the customer nothing; what the provider asks for it is ours to pay.
    """
    base = _base(model, offer)
    if base is None or not (usage.completion or finished):
        return Charge(_FREE, price(usage, offer))
    if base is offer:
        theirs = price(usage, offer)
        return Charge(scale_up(theirs, model.markup), theirs)
    return Charge(scale_up(price(usage, base), model.markup), price(usage, offer))


def costs(usage: Usage, model: Model, offer: Offer, *, finished: bool) -> CostReport:
    """The customer's side of `charge`, with its parts; nothing of the provider's is in it."""
    base = _base(model, offer)
    if base is None or not (usage.completion or finished):
        return CostReport(_FREE, _FREE, _FREE)
    prompt, completion = _prompt(usage, base), _completion(usage, base)
    # Sums are rounded, not parts: what the parts leave of the total is the price per call, to the last pico-USD.
    with_prompt = scale_up(prompt, model.markup)
    with_completion = scale_up(prompt + completion, model.markup)
    total = scale_up(prompt + completion + base.request, model.markup)
    return CostReport(total, with_prompt, PicoUsd(with_completion - with_prompt))


def ceiling(offers: Iterable[tuple[Model, Offer]], prompt_tokens: int, completion_tokens: int) -> PicoUsd:
    """The most that so many tokens can cost the customer, whichever of `offers` serves them: the hold."""
    most = _FREE
    for model, offer in offers:
        base = _base(model, offer)
        if base is not None:
            dearest_input = max(base.input, base.cached_input or 0, base.cache_write or 0)
            dearest_output = max(base.output, base.reasoning or 0)
            cost = prompt_tokens * dearest_input + completion_tokens * dearest_output + base.request
            most = max(most, scale_up(cost, model.markup))
    return most


def customer_price(model: Model, offer: Offer) -> Price:
    """The price list a customer sees, markup included, each price rounded up to one pico-USD."""
    base = _base(model, offer)
    if base is None:
        return Price(_FREE, _FREE)

    def shown(price: PicoUsd | None) -> PicoUsd | None:
        return None if price is None else scale_up(price, model.markup)

    return Price(
        scale_up(base.input, model.markup),
        scale_up(base.output, model.markup),
        shown(base.cached_input),
        shown(base.cache_write),
        shown(base.reasoning),
        scale_up(base.request, model.markup),
    )


def price(usage: Usage, rates: Price | Offer) -> PicoUsd:
    """The price of `usage` under `rates`, exact: each kind of token at its own price where there is one."""
    return PicoUsd(_prompt(usage, rates) + _completion(usage, rates) + rates.request)


def _base(model: Model, offer: Offer) -> Price | Offer | None:
    """What the markup goes on top of; None for a free model."""
    if model.price is None:
        return offer
    return model.price if isinstance(model.price, Price) else None


def _prompt(usage: Usage, rates: Price | Offer) -> int:
    cached_price = rates.input if rates.cached_input is None else rates.cached_input
    write_price = rates.input if rates.cache_write is None else rates.cache_write
    plain = usage.prompt - usage.cached - usage.cache_write
    return plain * rates.input + usage.cached * cached_price + usage.cache_write * write_price


def _completion(usage: Usage, rates: Price | Offer) -> int:
    reasoning_price = rates.output if rates.reasoning is None else rates.reasoning
    return (usage.completion - usage.reasoning) * rates.output + usage.reasoning * reasoning_price
