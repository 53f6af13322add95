"""What a call cost. Pure, integers only: tokens times pico-USD per token, so nothing is ever rounded."""

from __future__ import annotations

from gateway.config import Offer
from gateway.core.money import PicoUsd
from gateway.core.usage import Usage


def price(usage: Usage, offer: Offer) -> PicoUsd:
    """The price of `usage` under `offer`: cached prompt tokens at their own price where the offer names one."""
    cached_price = offer.input if offer.cached_input is None else offer.cached_input
    prompt = (usage.prompt - usage.cached) * offer.input + usage.cached * cached_price
    return PicoUsd(prompt + usage.completion * offer.output)
