"""Amounts as integers: what is parsed, refused, scaled and shown, exactly."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import (
    format_price_per_million,
    format_usd,
    parse_fraction,
    parse_price_per_million,
    parse_usd,
    scale_up,
)


@pytest.mark.parametrize(
    ("text", "pico"), [("0", 0), ("0.05", 5 * 10**10), ("0.000000000001", 1), ("9200000", 92 * 10**17)]
)
def test_usd(text: str, pico: int) -> None:
    assert parse_usd(text) == pico
    assert format_usd(pico) == text


@pytest.mark.parametrize(("text", "pico"), [("0", 0), ("2.5", 2_500_000), ("0.075", 75_000), ("0.000001", 1)])
def test_price_per_million_tokens(text: str, pico: int) -> None:
    assert parse_price_per_million(text) == pico
    assert format_price_per_million(pico) == text


@pytest.mark.parametrize("text", ["", "x", "1,5", "NaN", "inf", "-1", "-0.01"])
def test_what_is_no_amount(text: str) -> None:
    for parse in (parse_usd, parse_price_per_million, parse_fraction):
        with pytest.raises(ValueError):
            parse(text)


@pytest.mark.parametrize(("parse", "text"), [(parse_usd, "0.0000000000001"), (parse_price_per_million, "0.0000001")])
def test_finer_than_a_pico_usd_is_refused(parse: object, text: str) -> None:
    assert callable(parse)
    with pytest.raises(ValueError, match="finer than one pico-USD"):
        parse(text)


@pytest.mark.parametrize(("text", "fraction"), [("0", (0, 1)), ("0.25", (1, 4)), ("1", (1, 1)), ("0.333", (333, 1000))])
def test_a_markup_is_a_fraction(text: str, fraction: tuple[int, int]) -> None:
    assert parse_fraction(text) == fraction


@given(st.integers(0, 10**24), st.integers(0, 10**15), st.integers(1, 10**15))
def test_scaling_rounds_up_to_the_next_integer_only(amount: int, numerator: int, denominator: int) -> None:
    scaled = scale_up(amount, (numerator, denominator))
    assert 0 <= scaled - amount * (1 + Fraction(numerator, denominator)) < 1


@given(st.integers(0, 2**63 - 1))
def test_every_amount_of_a_column_is_shown_exactly(amount: int) -> None:
    text = format_usd(amount)
    assert parse_usd(text) == amount
    assert "e" not in text.lower()
    assert Decimal(text) * 10**12 == amount
