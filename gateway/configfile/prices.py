"""Money in the file: the prices of `[[models]]` (what an offer costs us, what a customer pays), and amounts.

All are decimal strings, because a float has no exact one: USD per 1M tokens, USD per call for `request`, else USD.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, TypeVar

from gateway.config import Price
from gateway.configfile.read import Table
from gateway.core.money import PicoUsd, parse_fraction, parse_price_per_million, parse_usd

_DECIMAL = re.compile(r"\d{1,5}(\.\d{1,12})?")
_FREE = PicoUsd(0)
_T = TypeVar("_T")


def read_rates(table: Table, what: str) -> Price | None:
    """The prices among the keys of `table`; None when `input` or `output` is missing or bad, which is reported.

    `what` says in the report what lacks a price.
    """
    input_price, output_price = _per_million(table, "input"), _per_million(table, "output")
    cached, write, reasoning = (_per_million(table, key) for key in ("cached_input", "cache_write", "reasoning"))
    request = _decimal(table, "request", parse_usd, 'no price; write USD per call, such as "0.005"')
    missing = [key for key in ("input", "output") if key not in table]
    if missing:
        table.problem(
            None,
            f'{what}: {" and ".join(missing)} missing; give USD per 1M tokens as a decimal string, "0" when it is free',
        )
    if input_price is None or output_price is None:
        return None
    return Price(input_price, output_price, cached, write, reasoning, _FREE if request is None else request)


def read_customer_price(table: Table) -> Price | Literal["free"] | None:
    """`price` of a model: "free", or a table of prices; None when absent or reported."""
    value = table.raw("price")
    if value is None:
        return None
    if value == "free":
        return "free"
    if not isinstance(value, dict):
        table.problem(
            "price", 'bad value: must be "free" or a table of prices, such as { input = "3.00", output = "15.00" }'
        )
        return None
    inner = table.table("price")
    rates = read_rates(inner, "unpriced model")
    inner.close()
    return rates


def read_markup(table: Table) -> tuple[int, int]:
    """`markup` of a model as a fraction, numerator and denominator: "0.25" is (1, 4)."""
    markup = _decimal(table, "markup", parse_fraction, 'no markup; write a fraction such as "0.25" for 25%')
    return (0, 1) if markup is None else markup


def read_usd(table: Table, key: str) -> PicoUsd | None:
    """An amount of USD, at least 0; None when absent or reported."""
    return _decimal(table, key, parse_usd, 'no amount; write USD, such as "0.01"')


def _per_million(table: Table, key: str) -> PicoUsd | None:
    return _decimal(table, key, parse_price_per_million, 'no price; write USD per 1M tokens, such as "2.50"')


def _decimal(table: Table, key: str, parse: Callable[[str], _T], wanted: str) -> _T | None:
    value = table.raw(key)
    if value is None:
        return None
    if not isinstance(value, str):
        table.problem(key, f'bad value: must be a decimal string; write "{value}" in quotes')
        return None
    if not _DECIMAL.fullmatch(value):
        table.problem(key, f"bad value: {value[:32]!r} is {wanted}")
        return None
    try:
        return parse(value)
    except ValueError as exc:
        table.problem(key, f"bad value: {exc}")
        return None
