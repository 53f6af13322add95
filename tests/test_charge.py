"""What a call costs: tables of exact figures, and the rules that hold for any usage, price and markup."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Model, Offer, Price
from gateway.configfile import parse
from gateway.core.money import PicoUsd
from gateway.core.usage import Usage
from gateway.edge.web import _model
from gateway.route.catalog import Catalog
from gateway.settle.charge import ceiling, charge, costs, customer_price, price

PLAIN = Offer("p", "m", PicoUsd(100), PicoUsd(500))
FULL = Offer(
    "p",
    "m",
    PicoUsd(100),
    PicoUsd(500),
    cached_input=PicoUsd(10),
    cache_write=PicoUsd(125),
    reasoning=PicoUsd(300),
    request=PicoUsd(7),
)
OWN = Price(PicoUsd(200), PicoUsd(1000), cached_input=PicoUsd(20))
USAGE = Usage(prompt=100, completion=40, cached=60, reasoning=10, cache_write=30)


def model(**more: Any) -> Model:
    return Model("a/m", (PLAIN,), 8192, **more)


@pytest.mark.parametrize(
    ("usage", "offer", "expected"),
    [
        (USAGE, PLAIN, 100 * 100 + 40 * 500),
        (USAGE, FULL, 10 * 100 + 60 * 10 + 30 * 125 + 30 * 500 + 10 * 300 + 7),
        (Usage(0, 0), FULL, 7),
        (Usage(0, 0), PLAIN, 0),
        (Usage(100, 0, cached=100), FULL, 1007),
        (Usage(0, 40, reasoning=40), FULL, 12_007),
    ],
)
def test_each_kind_of_token_has_its_price(usage: Usage, offer: Offer, expected: int) -> None:
    assert price(usage, offer) == expected
    assert charge(usage, model(), offer, finished=True) == (expected, expected)


@pytest.mark.parametrize(
    ("terms", "customer"),
    [
        ({}, 30_000),
        ({"markup": (1, 4)}, 37_500),
        ({"price": OWN}, 40 * 200 + 60 * 20 + 40 * 1000),
        ({"price": OWN, "markup": (1, 2)}, 73_800),
        ({"price": "free"}, 0),
        ({"price": "free", "markup": (1, 1)}, 0),
        ({"markup": (1, 7)}, 34_286),  # 34,285.7
        ({"price": Price(PicoUsd(0), PicoUsd(0))}, 0),
    ],
)
def test_a_customer_pays_the_models_price_and_its_markup(terms: dict[str, Any], customer: int) -> None:
    assert charge(USAGE, model(**terms), PLAIN, finished=True) == (customer, 30_000)


@pytest.mark.parametrize(
    ("usage", "finished", "customer"),
    [
        (Usage(100, 0), False, 0),
        (Usage(100, 0), True, 10_000),
        (Usage(100, 1), False, 10_500),
        (Usage(100, 0, estimated=True), False, 0),
        (Usage(0, 0), False, 0),
    ],
)
def test_no_completion_and_no_finish_is_on_us(usage: Usage, finished: bool, customer: int) -> None:
    charged = charge(usage, model(), PLAIN, finished=finished)
    assert charged.customer == costs(usage, model(), PLAIN, finished=finished).total == customer
    assert charged.provider == usage.prompt * 100 + usage.completion * 500


def test_the_parts_of_a_cost_leave_the_price_per_call() -> None:
    assert costs(USAGE, model(), FULL, finished=True) == (23_357, 5350, 18_000)
    assert costs(USAGE, model(markup=(1, 1)), FULL, finished=True) == (46_714, 10_700, 36_000)
    assert costs(USAGE, model(), PLAIN, finished=True) == (30_000, 10_000, 20_000)


@pytest.mark.parametrize(
    ("terms", "offers", "expected"),
    [
        ({}, (PLAIN,), 10 * 100 + 20 * 500),
        ({}, (FULL,), 10 * 125 + 20 * 500 + 7),
        ({}, (PLAIN, FULL), 11_257),
        ({}, (), 0),
        ({"markup": (1, 3)}, (PLAIN,), 14_667),  # 14,666.7
        ({"price": OWN}, (PLAIN, FULL), 22_000),
        ({"price": "free", "markup": (1, 1)}, (PLAIN, FULL), 0),
        ({}, (msgspec.structs.replace(PLAIN, reasoning=PicoUsd(900)),), 19_000),
    ],
)
def test_the_ceiling_takes_the_dearest_offer_and_kind_of_token(
    terms: dict[str, Any], offers: tuple[Offer, ...], expected: int
) -> None:
    assert ceiling([(model(**terms), offer) for offer in offers], 10, 20) == expected


_PICO = st.integers(0, 10**9).map(PicoUsd)
_RATES = st.builds(
    Price, _PICO, _PICO, st.none() | _PICO, st.none() | _PICO, st.none() | _PICO, st.integers(0, 10**12).map(PicoUsd)
)
_OFFERS = _RATES.map(lambda rates: Offer("p", "m", **msgspec.structs.asdict(rates)))
_MARKUPS = st.tuples(st.integers(0, 10**6), st.integers(1, 10**6))
_MODELS = st.builds(
    lambda terms, markup: model(price=terms, markup=markup), st.none() | st.just("free") | _RATES, _MARKUPS
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    prompt, completion = draw(st.integers(0, 10**6)), draw(st.integers(0, 10**6))
    cached = draw(st.integers(0, prompt))
    return Usage(
        prompt,
        completion,
        cached,
        draw(st.integers(0, completion)),
        cache_write=draw(st.integers(0, prompt - cached)),
    )


@given(usages(), _MODELS, st.lists(_OFFERS, min_size=1, max_size=4), st.data(), st.booleans())
def test_no_charge_is_over_the_hold(
    usage: Usage, entry: Model, offers: list[Offer], data: st.DataObject, finished: bool
) -> None:
    spare = data.draw(st.integers(0, 1000))
    hold = ceiling([(entry, offer) for offer in offers], usage.prompt + spare, usage.completion + spare)
    for offer in offers:
        assert 0 <= charge(usage, entry, offer, finished=finished).customer <= hold


@given(usages(), _MODELS, _OFFERS)
def test_a_charge_is_rounded_up_once(usage: Usage, entry: Model, offer: Offer) -> None:
    charged, told = charge(usage, entry, offer, finished=True), costs(usage, entry, offer, finished=True)
    assert charged.customer == told.total
    extra = 1 + Fraction(*entry.markup)
    base = offer if entry.price is None else entry.price
    exact, exact_fee = Fraction(0), Fraction(0)
    if not isinstance(base, str):
        exact, exact_fee = price(usage, base) * extra, base.request * extra
    assert type(charged.customer) is int
    assert 0 <= charged.customer - exact < 1
    assert charged.provider == price(usage, offer)
    assert told.total == charged.customer
    assert min(told) >= 0
    fee = told.total - told.prompt - told.completion
    assert abs(fee - exact_fee) < 1


@given(usages(), st.integers(0, 1000), st.integers(0, 1000), _MODELS, _OFFERS)
def test_more_tokens_never_cost_less(usage: Usage, more_in: int, more_out: int, entry: Model, offer: Offer) -> None:
    more = Usage(
        usage.prompt + more_in, usage.completion + more_out, usage.cached, usage.reasoning, False, usage.cache_write
    )
    dearer, cheaper = charge(more, entry, offer, finished=True), charge(usage, entry, offer, finished=True)
    assert dearer.customer >= cheaper.customer
    assert dearer.provider >= cheaper.provider
    tokens = usage.prompt, usage.completion
    assert ceiling([(entry, offer)], more.prompt, more.completion) >= ceiling([(entry, offer)], *tokens)


def pricing(members: str, terms: str = "") -> object:
    """What GET /models says of a model with such an offer."""
    text = f"""
[providers.mine]
base_url = "http://127.0.0.1:1"
[[models]]
id = "a/m"
context_window = 1
{terms}
offers = [ {{ provider = "mine", model = "m", {members} }} ]
"""
    entry = Catalog(parse(text, path="config.toml", environ={})).get_listed("a/m")
    assert entry is not None
    return _model(entry)["pricing"]


@pytest.mark.parametrize(
    ("members", "terms", "expected"),
    [
        (
            'input = "2.50", output = "10"',
            "",
            {"prompt": "0.0000025", "completion": "0.00001", "request": "0"},
        ),
        (
            'input = "2.50", output = "10"',
            'price = "free"\nmarkup = "1"',
            {"prompt": "0", "completion": "0", "request": "0"},
        ),
        (
            'input = "1", output = "1"',
            'markup = "0.25"\nprice = { input = "2", output = "4", cached_input = "0.2", cache_write = "2.5", reasoning = "8", request = "0.01" }',
            {
                "prompt": "0.0000025",
                "completion": "0.000005",
                "request": "0.0125",
                "input_cache_read": "0.00000025",
                "input_cache_write": "0.000003125",
                "internal_reasoning": "0.00001",
            },
        ),
        (
            'input = "0.000001", output = "0"',  # 1 pico-USD and a third is shown as 2
            'markup = "0.333"',
            {"prompt": "0.000000000002", "completion": "0", "request": "0"},
        ),
        (
            'input = "1", output = "1", cached_input = "0"',
            "",
            {"prompt": "0.000001", "completion": "0.000001", "request": "0", "input_cache_read": "0"},
        ),
    ],
)
def test_the_catalogue_shows_what_a_customer_pays(members: str, terms: str, expected: dict[str, str]) -> None:
    assert pricing(members, terms) == expected


def test_a_free_models_price_list_is_zero() -> None:
    assert customer_price(model(price="free", markup=(1, 2)), FULL) == Price(PicoUsd(0), PicoUsd(0))
