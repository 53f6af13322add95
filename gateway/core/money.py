"""Money as integers: one pico-USD is 1e-12 USD. No float ever holds an amount.

$0.075 per 1M tokens is 75,000 pico-USD per token, exactly; an int64 column holds $9.2M.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import NamedTuple, NewType

PicoUsd = NewType("PicoUsd", int)

PICO_PER_USD = 10**12
_PRICE_SCALE = Decimal(10**6)  # USD per 1M tokens -> pico-USD per token


_DIGITS_MAX = 13  # each side of the point: with the scale of a price still exact in Decimal's 28 digits
_NUMBER = re.compile(r"[0-9]{1,13}(\.[0-9]{1,13})?")


class CostReport(NamedTuple):
    """What a customer is told of a call's cost. The parts are at most the total; a price per call is in neither."""

    total: PicoUsd
    prompt: PicoUsd
    completion: PicoUsd


def parse_usd(text: str) -> PicoUsd:
    """Turn a decimal string of USD ("0.05") into pico-USD. Raises ValueError for anything finer or not a number."""
    return _integral(_decimal(text) * PICO_PER_USD, text, "finer than one pico-USD")


def parse_price_per_million(text: str) -> PicoUsd:
    """Turn "2.50" (USD per 1M tokens) into pico-USD per token. Raises ValueError when that is not integral."""
    return _integral(_decimal(text) * _PRICE_SCALE, text, "finer than one pico-USD per token")


def parse_fraction(text: str) -> tuple[int, int]:
    """Turn "0.25" into numerator and denominator, (1, 4). Raises ValueError when it is no number of at least 0."""
    return _decimal(text).as_integer_ratio()


def scale_up(amount: int, extra: tuple[int, int]) -> PicoUsd:
    """`amount` and `extra` (a fraction) of it, rounded up to a whole pico-USD."""
    numerator, denominator = extra
    return PicoUsd(-(-amount * (denominator + numerator) // denominator))


def format_usd(amount: int) -> str:
    """Render pico-USD as a plain decimal string of USD, exact, no exponent: 2500000 -> "0.0000025"."""
    text = f"{Decimal(amount).scaleb(-12):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_price_per_million(per_token: int) -> str:
    """Render pico-USD per token as USD per 1M tokens: 2500000 -> "2.5"."""
    text = f"{Decimal(per_token).scaleb(-6):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _decimal(text: str) -> Decimal:
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        shown = text[:40] if isinstance(text, str) else text
        raise ValueError(
            f'{shown!r} is not a decimal number of at least 0; write it as a string such as "2.50", with at most '
            f"{_DIGITS_MAX} digits before and after the point"
        )
    return Decimal(text)


def _integral(value: Decimal, text: str, why: str) -> PicoUsd:
    if value != value.to_integral_value():
        raise ValueError(f"{text!r} is {why}; round it")
    return PicoUsd(int(value))
