"""How often each provider is the first choice: by the inverse square of its price. Exact, by integrating over the draw."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import PICO_PER_USD, PicoUsd
from gateway.route.catalog import Catalog
from tests.plans import Measured, catalog, model, offer, placed, provider, slugs

GRID = 16
EXACT = 1e-9


def shares(first: Callable[[float], str]) -> dict[str, float]:
    """How much of 0 <= draw < 1 has each first choice, which has one interval of it: their ends are bisected."""
    found: dict[str, float] = {}
    below_one = 1.0 - 2.0**-53
    for step in range(GRID):
        _integrate(first, step / GRID, min((step + 1) / GRID, below_one), found)
    return found


def _integrate(first: Callable[[float], str], low: float, high: float, found: dict[str, float]) -> None:
    at_low, at_high, middle = first(low), first(high), (low + high) / 2
    if high - low < EXACT or at_low == at_high == first(middle):
        found[at_low] = found.get(at_low, 0.0) + high - low
        return
    _integrate(first, low, middle, found)
    _integrate(first, middle, high, found)


def chosen(known: Catalog, wishes: str = "{}", at: Measured | None = None, warm: str | None = None) -> dict[str, float]:
    return shares(lambda draw: slugs(placed(wishes, known, at, draw=draw, warm=warm))[0])


def inverse_squares(prices: dict[str, Fraction | int]) -> dict[str, float]:
    weights = {name: 1 / Fraction(price) ** 2 for name, price in prices.items()}
    return {name: float(weight / sum(weights.values())) for name, weight in weights.items()}


def test_openrouters_own_example() -> None:
    """Of providers at 1, 2 and 3 USD the first is chosen nine times as often as the third, and a failing second last."""
    known = catalog(model("m", offer("a", 1), offer("b", 2), offer("c", 3)))
    found = chosen(known, at=Measured(known).failed("b"))
    assert found == pytest.approx({"a": 0.9, "c": 0.1})
    assert chosen(known) == pytest.approx({"a": 36 / 49, "b": 9 / 49, "c": 4 / 49})


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_the_inverse_square_of_the_price(prices: list[int]) -> None:
    named = {f"p{index}": price for index, price in enumerate(prices)}
    known = catalog(model("m", *(offer(name, usd) for name, usd in named.items())))
    assert chosen(known) == pytest.approx(inverse_squares(dict(named)), abs=1e-6)


def test_a_markup_changes_no_share() -> None:
    offers = (offer("a", 1), offer("b", 2), offer("c", 3))
    assert chosen(catalog(model("m", *offers, markup=(1, 4)))) == pytest.approx(chosen(catalog(model("m", *offers))))


def test_one_price_stands_for_three_tokens_of_the_prompt_to_one_of_the_answer() -> None:
    dear_answers = offer("a", 1, output=PicoUsd(9_000_000))
    known = catalog(model("m", dear_answers, offer("b", 4)))
    assert chosen(known) == pytest.approx(inverse_squares({"a": 12, "b": 16}))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_costs_nothing_is_chosen_evenly_before_all_that_costs_something(count: int) -> None:
    free = [offer(f"free-{index}", 0) for index in range(count)]
    known = catalog(model("m", offer("a", 1), *free))
    assert chosen(known) == pytest.approx({each.provider: 1 / count for each in free})


def test_a_price_per_call_is_a_price() -> None:
    """An offer of a dollar a call, whatever its length, is not one that costs nothing."""
    by_call = offer("a", 0, request=PicoUsd(PICO_PER_USD))
    assert chosen(catalog(model("m", by_call, offer("b", 1)))).get("a", 0.0) < 0.5


LEFT: list[tuple[str, dict[str, Fraction | int]]] = [
    ('{"provider":{"ignore":["a"]}}', {"b": 2, "c": 3}),
    ('{"provider":{"only":["c","a"]}}', {"a": 1, "c": 3}),
    ('{"provider":{"allow_fallbacks":false}}', {"a": 1, "b": 2, "c": 3}),
    ('{"provider":{"order":["nobody"]}}', {"a": 1, "b": 2, "c": 3}),
    ('{"models":["x/n"]}', {"a": 1, "b": 2, "c": 3}),
    ('{"provider":{"order":["c"]}}', {"c": 1}),
    ('{"provider":{"sort":"price"}}', {"a": 1}),
    ('{"provider":{"sort":"throughput"}}', {"a": 1}),
]


@pytest.mark.parametrize(("wishes", "left"), LEFT)
def test_shares_are_of_those_who_may_serve(wishes: str, left: dict[str, Fraction | int]) -> None:
    known = catalog(model("m", offer("a", 1), offer("b", 2), offer("c", 3)), model("n", offer("d", 1)))
    assert chosen(known, wishes) == pytest.approx(inverse_squares(left))


def test_one_that_rests_has_no_share_and_leaves_the_others_theirs() -> None:
    known = catalog(model("m", offer("a", 1), offer("b", 2), offer("c", 3)))
    assert chosen(known, at=Measured(known).open("a")) == pytest.approx(inverse_squares({"b": 2, "c": 3}))


def test_the_keys_of_a_provider_have_one_share_together() -> None:
    known = catalog(model("m", offer("a", 1), offer("b", 2)), providers=[provider("a", keys=4)])
    found = shares(lambda draw: placed("{}", known, draw=draw)[0].attempt.provider)
    assert found == pytest.approx(inverse_squares({"a": 1, "b": 2}))


def test_the_warm_one_has_them_all() -> None:
    known = catalog(model("m", offer("a", 1), offer("b", 2), offer("c", 3)))
    assert chosen(known, warm="c") == pytest.approx({"c": 1.0})
    second = shares(lambda draw: slugs(placed("{}", known, draw=draw, warm="c"))[1])
    assert second == pytest.approx(inverse_squares({"a": 1, "b": 2}))
