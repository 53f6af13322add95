"""Each field of `provider`, and what several of them mean together: the wishes in, the plan out, a line each.

Read a plan as `tests.plans` writes it. The draw is in the middle: of alpha 4, beta 1, east 2 and west 3 USD it is beta.
"""

from __future__ import annotations

import pytest

from gateway.config import Price
from gateway.core.money import PicoUsd
from tests.plans import Measured, catalog, model, offer, placed, planned, provider, slugs

FOUR = catalog(model("m", offer("alpha", 4), offer("beta", 1), offer("gamma", 2, tag="east"), offer("gamma", 3, tag="west")))  # fmt: skip


def wish(preferences: str) -> str:
    return f'{{"provider":{preferences}}}'


WHO: list[tuple[str, str]] = [
    ("{}", "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    # order: base slugs name every variant, tags one; who is not named comes after, by default order
    ('{"order":["alpha"]}', "alpha:provider.order beta:fallback gamma/east:fallback gamma/west:fallback"),
    ('{"order":["ALPHA"]}', "alpha:provider.order beta:fallback gamma/east:fallback gamma/west:fallback"),
    ('{"order":["gamma"]}', "gamma/east:provider.order gamma/west:provider.order beta:fallback alpha:fallback"),
    ('{"order":["gamma/west"]}', "gamma/west:provider.order beta:fallback gamma/east:fallback alpha:fallback"),
    ('{"order":["gamma/west","gamma"]}', "gamma/west:provider.order gamma/east:provider.order beta:fallback alpha:fallback"),
    ('{"order":["gamma","gamma/west"]}', "gamma/east:provider.order gamma/west:provider.order beta:fallback alpha:fallback"),
    ('{"order":["alpha","gamma","beta"]}', "alpha:provider.order gamma/east:provider.order gamma/west:provider.order beta:provider.order"),
    ('{"order":["gamma/north","gam","alpha"]}', "alpha:provider.order beta:fallback gamma/east:fallback gamma/west:fallback"),
    ('{"order":["nobody"]}', "beta:fallback gamma/east:fallback gamma/west:fallback alpha:fallback"),
    ('{"order":[]}', "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    # allow_fallbacks
    ('{"allow_fallbacks":true}', "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    ('{"allow_fallbacks":false}', "beta:price"),
    ('{"allow_fallbacks":false,"order":["alpha"]}', "alpha:provider.order"),
    ('{"allow_fallbacks":false,"order":["gamma","alpha"]}', "gamma/east:provider.order gamma/west:provider.order alpha:provider.order"),
    ('{"allow_fallbacks":false,"order":["nobody","beta"]}', "beta:provider.order"),
    ('{"allow_fallbacks":false,"order":["nobody"]}', "404 provider.order"),
    ('{"allow_fallbacks":false,"order":[]}', "beta:price"),
    ('{"allow_fallbacks":false,"only":["gamma"]}', "gamma/east:price"),
    ('{"allow_fallbacks":false,"sort":"price"}', "beta:sort:price"),
    # only
    ('{"only":["alpha"]}', "alpha:only"),
    ('{"only":["Gamma"]}', "gamma/east:price gamma/west:fallback"),
    ('{"only":["gamma/west"]}', "gamma/west:only"),
    ('{"only":["alpha","beta","nobody"]}', "beta:price alpha:fallback"),
    ('{"only":["nobody"]}', "404 provider.only"),
    ('{"only":["gamma/north"]}', "404 provider.only"),
    ('{"only":["up"]}', "404 provider.only"),
    ('{"only":["alpha/"]}', "404 provider.only"),
    ('{"only":[]}', "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    # ignore
    ('{"ignore":["beta"]}', "gamma/east:price gamma/west:fallback alpha:fallback"),
    ('{"ignore":["gamma"]}', "beta:price alpha:fallback"),
    ('{"ignore":["GAMMA/East"]}', "beta:price gamma/west:fallback alpha:fallback"),
    ('{"ignore":["nobody"]}', "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    ('{"ignore":["alpha","beta","gamma"]}', "404 provider.ignore"),
    # together
    ('{"only":["gamma"],"ignore":["gamma/east"]}', "gamma/west:only"),
    ('{"only":["alpha"],"ignore":["alpha"]}', "404 provider.ignore"),
    ('{"only":["alpha","beta"],"order":["alpha"]}', "alpha:provider.order beta:fallback"),
    ('{"only":["gamma"],"order":["alpha"]}', "gamma/east:fallback gamma/west:fallback"),
    ('{"order":["beta","alpha"],"ignore":["beta"]}', "alpha:provider.order gamma/east:fallback gamma/west:fallback"),
    ('{"only":["alpha"],"order":["beta"],"allow_fallbacks":false}', "404 provider.only"),
]  # fmt: skip


@pytest.mark.parametrize(("preferences", "expected"), WHO)
def test_who(preferences: str, expected: str) -> None:
    assert planned(wish(preferences), FOUR) == expected


TIMED = Measured(FOUR).latency(beta=(0.9, 0.9, 0.9), alpha=(0.2, 0.3, 5.0), **{"gamma/east": 0.3})
TIMED.throughput(beta=90.0, alpha=20.0, **{"gamma/west": (30.0, 50.0, 70.0)})
UNEVEN = Measured(FOUR).throughput(beta=(30.0, 50.0, 70.0))  # p50 is 50, and 30 what p75, p90 and p99 of them reach

SORTED: list[tuple[str, Measured | None, str]] = [
    ('{"sort":"price"}', None, "beta:sort:price gamma/east:sort:price gamma/west:sort:price alpha:sort:price"),
    ('{"sort":"price"}', TIMED, "beta:sort:price gamma/east:sort:price gamma/west:sort:price alpha:sort:price"),
    ('{"sort":{"by":"price"}}', None, "beta:sort:price gamma/east:sort:price gamma/west:sort:price alpha:sort:price"),
    # by the medians; equal ones and those that nobody has measured by price
    ('{"sort":"latency"}', None, "beta:sort:latency gamma/east:sort:latency gamma/west:sort:latency alpha:sort:latency"),
    ('{"sort":"latency"}', TIMED, "gamma/east:sort:latency alpha:sort:latency beta:sort:latency gamma/west:sort:latency"),
    ('{"sort":"throughput"}', TIMED, "beta:sort:throughput gamma/west:sort:throughput alpha:sort:throughput gamma/east:sort:throughput"),
    ('{"sort":"throughput","ignore":["beta"]}', TIMED, "gamma/west:sort:throughput alpha:sort:throughput gamma/east:sort:throughput"),
    ('{"sort":"latency","only":["gamma","alpha"],"allow_fallbacks":false}', TIMED, "gamma/east:sort:latency"),
    ('{"sort":{"partition":"none"}}', TIMED, "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    # an order replaces a sort, whether or not anybody of it is there ("if order is not specified": OpenRouter's schema)
    ('{"sort":"latency","order":["gamma/west"]}', TIMED, "gamma/west:provider.order beta:fallback gamma/east:fallback alpha:fallback"),
    ('{"sort":"latency","order":["nobody"]}', TIMED, "beta:fallback gamma/east:fallback gamma/west:fallback alpha:fallback"),
    # preferred bounds: known slow ones go behind, nobody is left out, and who is not measured is not slow
    ('{"preferred_max_latency":0.5}', TIMED, "gamma/east:fallback gamma/west:fallback alpha:fallback beta:price"),
    ('{"preferred_max_latency":{"p50":0.3}}', TIMED, "gamma/east:fallback gamma/west:fallback alpha:fallback beta:price"),
    ('{"preferred_max_latency":{"p90":1}}', TIMED, "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    ('{"preferred_max_latency":{"p50":0.5,"p99":4.9}}', TIMED, "gamma/east:fallback gamma/west:fallback beta:price alpha:fallback"),
    ('{"preferred_max_latency":0.1}', TIMED, "gamma/west:fallback beta:price gamma/east:fallback alpha:fallback"),
    ('{"preferred_min_throughput":50}', UNEVEN, "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    ('{"preferred_min_throughput":50.1}', UNEVEN, "gamma/east:fallback gamma/west:fallback alpha:fallback beta:price"),
    ('{"preferred_min_throughput":{"p50":50,"p90":30}}', UNEVEN, "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    ('{"preferred_min_throughput":{"p75":40}}', UNEVEN, "gamma/east:fallback gamma/west:fallback alpha:fallback beta:price"),
    ('{"preferred_min_throughput":{"p99":31}}', UNEVEN, "gamma/east:fallback gamma/west:fallback alpha:fallback beta:price"),
    ('{"preferred_min_throughput":100}', TIMED, "gamma/east:fallback beta:price gamma/west:fallback alpha:fallback"),
    ('{"preferred_min_throughput":100,"preferred_max_latency":0.5}', None, "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    ('{"sort":"price","preferred_max_latency":0.5}', TIMED, "gamma/east:sort:price gamma/west:sort:price alpha:sort:price beta:sort:price"),
    ('{"order":["beta","alpha"],"preferred_max_latency":0.5}', TIMED, "alpha:provider.order gamma/east:fallback gamma/west:fallback beta:provider.order"),
    ('{"allow_fallbacks":false,"preferred_max_latency":0.5}', TIMED, "gamma/east:fallback"),
]  # fmt: skip


@pytest.mark.parametrize(("preferences", "measured", "expected"), SORTED)
def test_sort_and_preferred_bounds(preferences: str, measured: Measured | None, expected: str) -> None:
    assert planned(wish(preferences), FOUR, measured) == expected


# Three providers that differ in what a request may ask for, at 4, 1 and 2 USD.
PLAIN_PRICES = (offer("beta", 1, quantization="fp8"), offer("gamma", 2, parameters=frozenset[str]()))
OFFERS = (offer("alpha", 4, quantization="fp16", parameters=frozenset({"temperature", "seed"})), *PLAIN_PRICES)
KEEPERS = (provider("alpha", collects_data=False, zdr=True), provider("gamma", collects_data=False))
MIXED = catalog(
    model("m", *OFFERS),
    model("marked-up", *OFFERS, markup=(1, 10)),
    model("third", *OFFERS, markup=(1, 3)),
    model("own-price", *OFFERS, price=Price(PicoUsd(3_000_000), PicoUsd(9_000_000), request=PicoUsd(10**9))),
    model("own-price-marked-up", *OFFERS, price=Price(PicoUsd(3_000_000), PicoUsd(9_000_000)), markup=(1, 2)),
    model("free", *OFFERS, price="free"),
    model("per-call", offer("alpha", 1, request=PicoUsd(10**10)), offer("beta", 2), offer("gamma", 4)),
    providers=KEEPERS,
)
ALL = "beta:price gamma:fallback alpha:fallback"

FILTERED: list[tuple[str, str]] = [
    (wish('{"data_collection":"allow"}'), ALL),
    (wish('{"data_collection":"deny"}'), "gamma:price alpha:fallback"),
    (wish('{"data_collection":"deny","only":["beta"]}'), "404 provider.data_collection"),
    (wish('{"zdr":false}'), ALL),
    (wish('{"zdr":true}'), "alpha:only"),
    (wish('{"zdr":true,"ignore":["alpha"]}'), "404 provider.ignore"),
    (wish('{"zdr":true,"data_collection":"deny","order":["gamma"]}'), "alpha:fallback"),
    # quantizations: an offer that does not say is unknown
    (wish('{"quantizations":["fp8"]}'), "beta:only"),
    (wish('{"quantizations":["fp8","fp16"]}'), "beta:price alpha:fallback"),
    (wish('{"quantizations":["unknown"]}'), "gamma:only"),
    (wish('{"quantizations":["int4"]}'), "404 provider.quantizations"),
    (wish('{"quantizations":[]}'), ALL),
    # max_price, in USD per million tokens: what the customer pays, so a markup and the model's own price count
    (wish('{"max_price":{"prompt":"4"}}'), ALL),
    (wish('{"max_price":{"prompt":3.999999}}'), "beta:price gamma:fallback"),
    (wish('{"max_price":{"completion":"1"}}'), "beta:only"),
    (wish('{"max_price":{"prompt":5,"completion":1.5}}'), "beta:only"),
    (wish('{"max_price":{"prompt":"0.99"}}'), "404 provider.max_price"),
    (wish('{"max_price":{"prompt":0}}'), "404 provider.max_price"),
    (wish('{"max_price":{"image":0,"audio":0}}'), ALL),
    ('{"model":"x/marked-up","provider":{"max_price":{"prompt":"1"}}}', "404 provider.max_price"),
    ('{"model":"x/marked-up","provider":{"max_price":{"prompt":"1.1"}}}', "beta:only"),
    ('{"model":"x/marked-up","provider":{"max_price":{"prompt":"2.199999"}}}', "beta:only"),
    ('{"model":"x/third","provider":{"max_price":{"prompt":"1.333333"}}}', "404 provider.max_price"),
    ('{"model":"x/third","provider":{"max_price":{"prompt":"1.333334"}}}', "beta:only"),
    ('{"model":"x/per-call","provider":{"max_price":{"request":"0.0099"}}}', "beta:price gamma:fallback"),
    ('{"model":"x/per-call","provider":{"max_price":{"request":"0.01","prompt":1}}}', "alpha:only"),
    # require_parameters: those that the request has must be known to be taken; else the others are ignored there
    ('{"temperature":1,"provider":{"require_parameters":true}}', "beta:price alpha:fallback"),
    ('{"temperature":1,"seed":1,"provider":{"require_parameters":true}}', "beta:price alpha:fallback"),
    ('{"temperature":1,"top_p":1,"provider":{"require_parameters":true}}', "beta:only"),
    ('{"temperature":1,"top_p":null,"provider":{"require_parameters":true}}', "beta:price alpha:fallback"),
    ('{"top_k":1,"provider":{"require_parameters":true,"ignore":["beta"]}}', "404 provider.ignore"),
    ('{"top_k":1,"provider":{"require_parameters":true,"only":["alpha","gamma"]}}', "404 provider.only"),
    ('{"top_k":1,"provider":{"require_parameters":false}}', ALL),
    ('{"top_k":1}', ALL),
    ('{"stream":true,"stream_options":{"include_usage":true},"provider":{"require_parameters":true}}', ALL),
    ('{"session_id":"s","models":["x/nobody"],"usage":{"include":true},"provider":{"require_parameters":true}}', ALL),
    # together
    (wish('{"quantizations":["fp8","fp16"],"max_price":{"prompt":3},"order":["alpha"]}'), "beta:fallback"),
    (wish('{"data_collection":"deny","sort":"price","allow_fallbacks":false}'), "gamma:sort:price"),
    (wish('{"zdr":true,"max_price":{"prompt":1}}'), "404 provider.max_price"),
]  # fmt: skip


@pytest.mark.parametrize(("wishes", "expected"), FILTERED)
def test_filters(wishes: str, expected: str) -> None:
    assert planned(wishes, MIXED) == expected


# Of a model with a price of its own the customer pays the same whoever serves it.
PRICED: list[tuple[str, bool]] = [
    ('{"model":"x/own-price","provider":{"max_price":{"prompt":3,"completion":9,"request":"0.001"}}}', True),
    ('{"model":"x/own-price","provider":{"max_price":{"prompt":"2.999999"}}}', False),
    ('{"model":"x/own-price","provider":{"max_price":{"completion":8}}}', False),
    ('{"model":"x/own-price","provider":{"max_price":{"request":"0.0009"}}}', False),
    ('{"model":"x/own-price-marked-up","provider":{"max_price":{"prompt":"4.5"}}}', True),
    ('{"model":"x/own-price-marked-up","provider":{"max_price":{"prompt":"4.4"}}}', False),
    ('{"model":"x/free","provider":{"max_price":{"prompt":0,"completion":0,"request":0}}}', True),
]


@pytest.mark.parametrize(("wishes", "served"), PRICED)
def test_max_price_of_a_model_with_its_own(wishes: str, served: bool) -> None:
    if served:
        assert sorted(slugs(placed(wishes, MIXED))) == ["alpha", "beta", "gamma"]
    else:
        assert planned(wishes, MIXED) == "404 provider.max_price"
