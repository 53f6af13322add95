"""What the plan makes of the world: breakers, recent outages, where a conversation is at home, and the listed order.

Read a plan as `tests.plans` writes it. The draw is in the middle: of alpha 4, beta 1, east 2 and west 3 USD it is beta.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.errors import AllFailed
from gateway.route.health import OPEN_S_MAX, RETRY_AFTER_S_MAX
from gateway.route.stats import OUTAGE_S
from tests.plans import NOW, Measured, catalog, model, offer, placed, planned, provider, slugs

OFFERS = (offer("alpha", 4), offer("beta", 1), offer("gamma", 2, tag="east"), offer("gamma", 3, tag="west"))
FOUR = catalog(model("m", *OFFERS))
LISTED = catalog(model("m", *OFFERS, balance="order"))
TWO_MODELS = catalog(model("m", offer("alpha", 4), offer("beta", 1)), model("n", offer("gamma", 1), offer("delta", 2)))
KEYS = catalog(model("m", offer("alpha", 1), offer("beta", 2)), providers=[provider("alpha", 3), provider("beta", 2)])
ONE = catalog(model("m", offer("alpha", 1)), providers=[provider("alpha", 3)])

World = Callable[[Measured], object]

# the reasons that matter here are the probes'
BREAKERS: list[tuple[str, World, str]] = [
    ("{}", lambda at: at.shaky("alpha", "beta"), "beta gamma/east gamma/west alpha"),
    ("{}", lambda at: at.open("alpha"), "beta gamma/east gamma/west"),
    ("{}", lambda at: at.open("beta"), "gamma/east gamma/west alpha"),
    ("{}", lambda at: at.open("alpha", "beta", "gamma/west"), "gamma/east"),
    ("{}", lambda at: at.probing("alpha"), "beta gamma/east gamma/west"),
    ("{}", lambda at: at.half_open("alpha"), "alpha:probe beta gamma/east gamma/west"),
    ("{}", lambda at: at.half_open("beta"), "beta:probe gamma/east gamma/west alpha"),
    ("{}", lambda at: at.half_open("alpha").open("beta"), "alpha:probe gamma/east gamma/west"),
    # one probe a call: another half-open one is the last resort
    ("{}", lambda at: at.half_open("beta", "gamma/east"), "beta:probe gamma/west alpha gamma/east"),
    ('{"provider":{"order":["alpha"]}}', lambda at: at.open("alpha"), "beta gamma/east gamma/west"),
    ('{"provider":{"order":["gamma"]}}', lambda at: at.open("gamma/east"), "gamma/west beta alpha"),
    ('{"provider":{"sort":"price"}}', lambda at: at.open("beta"), "gamma/east gamma/west alpha"),
    ('{"provider":{"only":["alpha"]}}', lambda at: at.half_open("alpha"), "alpha:probe"),
    ('{"provider":{"only":["alpha"]}}', lambda at: at.open("alpha"), "503"),
    ('{"provider":{"ignore":["alpha"]}}', lambda at: at.half_open("alpha"), "beta gamma/east gamma/west"),
]  # fmt: skip


@pytest.mark.parametrize(("wishes", "world", "expected"), BREAKERS)
def test_breakers(wishes: str, world: World, expected: str) -> None:
    at = Measured(FOUR)
    world(at)
    plan = planned(wishes, FOUR, at)
    found = [each if each.endswith(":probe") else each.partition(":")[0] for each in plan.split()]
    assert found == expected.split() or plan == f"{expected} upstream_error"


PROBES_IN_PLACE: list[tuple[str, str, str]] = [
    # the request's own order is kept, of models and of providers: a probe waits for its turn
    ('{"models":["x/n"]}', "gamma", "m@beta m@alpha n@gamma n@delta"),
    ('{"models":["x/n"]}', "alpha", "m@alpha m@beta n@gamma n@delta"),
    ('{"provider":{"order":["beta","alpha"]}}', "alpha", "beta alpha"),
    ('{"provider":{"order":["alpha","beta"]}}', "alpha", "alpha beta"),
]


@pytest.mark.parametrize(("wishes", "half_open", "expected"), PROBES_IN_PLACE)
def test_a_probe_does_not_jump_what_the_request_put_in_order(wishes: str, half_open: str, expected: str) -> None:
    plan = planned(wishes, TWO_MODELS, Measured(TWO_MODELS).half_open(half_open))
    assert [each.partition(":")[0] for each in plan.split()] == expected.split()


@pytest.mark.parametrize("resting", ["alpha", "beta", "gamma/east", "gamma/west"])
@pytest.mark.parametrize("draw", [0.01, 0.5, 0.8, 0.99])
def test_without_fallbacks_the_one_provider_is_not_one_that_rests(resting: str, draw: float) -> None:
    wishes = '{"provider":{"allow_fallbacks":false}}'
    plan = slugs(placed(wishes, FOUR, Measured(FOUR).open(resting), draw=draw))
    assert len(plan) == 1
    assert plan != [resting]


WAITS: list[tuple[dict[str, float], float]] = [
    ({"alpha": 7.5, "beta": 3.25, "gamma/east": 9.0, "gamma/west": 4.0}, 3.25),
    ({"alpha": 10.0, "beta": 10.0, "gamma/east": 10.0, "gamma/west": 8.0}, 8.0),
    ({"alpha": 0.001, "beta": 10.0, "gamma/east": 10.0, "gamma/west": 8.0}, 1.0),
]


@pytest.mark.parametrize(("waits", "least"), WAITS)
def test_when_all_rest_the_caller_hears_of_the_least_wait(waits: dict[str, float], least: float) -> None:
    at = Measured(FOUR)
    for name, wait_s in waits.items():
        at.open(name, for_s=wait_s)
    with pytest.raises(AllFailed, match="every provider of x/m is resting") as told:
        placed("{}", FOUR, at)
    assert told.value.status == 503
    assert told.value.retry_after_s == pytest.approx(least)


def test_a_wait_for_another_calls_probe_is_a_second() -> None:
    with pytest.raises(AllFailed) as told:
        placed("{}", ONE, Measured(ONE).probing("alpha"))
    assert (told.value.status, told.value.retry_after_s) == (503, 1.0)


@pytest.mark.parametrize("after_s", [0.0, 599.0, 600.0])
def test_a_retry_after_of_an_hour_rests_ten_minutes(after_s: float) -> None:
    at = Measured(ONE)
    for attempt in at.named("alpha"):
        at.health.failed(attempt.target, NOW - after_s, probe=False, retry_after_s=3600.0)
    if after_s < RETRY_AFTER_S_MAX:
        assert planned("{}", ONE, at) == "503 upstream_error"
    else:
        assert planned("{}", ONE, at) == "alpha:probe alpha#1:only alpha#2:only"


def test_a_rest_doubles_with_each_failed_probe_up_to_two_minutes() -> None:
    at, now, rests = Measured(ONE), 0.0, []
    target = at.named("alpha#0")[0].target
    for _ in range(5):
        at.health.failed(target, now, probe=False)
    for _ in range(7):
        rests.append(at.health.retry_after_s(target, now))
        now += rests[-1]
        assert at.health.state(target, now - 0.01) == "open"
        assert at.health.started(target, now)
        assert not at.health.started(target, now)
        at.health.failed(target, now, probe=True)
    assert rests == [5.0, 10.0, 20.0, 40.0, 80.0, OPEN_S_MAX, OPEN_S_MAX]


OUTAGES: list[tuple[str, World, str]] = [
    ("{}", lambda at: at.failed("beta"), "gamma/east:price gamma/west:fallback alpha:fallback beta:outage"),
    ("{}", lambda at: at.failed("beta", ago_s=OUTAGE_S - 0.001), "gamma/east:price gamma/west:fallback alpha:fallback beta:outage"),
    ("{}", lambda at: at.failed("beta", ago_s=OUTAGE_S), "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    ("{}", lambda at: (at.failed("beta"), at.worked("beta")), "beta:price gamma/east:fallback gamma/west:fallback alpha:fallback"),
    ("{}", lambda at: at.failed("gamma/east"), "beta:price gamma/west:fallback alpha:fallback gamma/east:outage"),
    ("{}", lambda at: at.failed("beta", "gamma/east", "gamma/west"), "alpha:price beta:outage gamma/east:outage gamma/west:outage"),
    ("{}", lambda at: at.failed("beta").open("beta"), "gamma/east:price gamma/west:fallback alpha:fallback"),
    ('{"provider":{"sort":"price"}}', lambda at: at.failed("beta"), "beta:sort:price gamma/east:sort:price gamma/west:sort:price alpha:sort:price"),
    ('{"provider":{"order":["beta"]}}', lambda at: at.failed("beta"), "beta:provider.order gamma/east:fallback gamma/west:fallback alpha:fallback"),
    ('{"provider":{"order":["alpha"]}}', lambda at: at.failed("beta"), "alpha:provider.order gamma/east:fallback gamma/west:fallback beta:fallback"),
    ('{"provider":{"allow_fallbacks":false}}', lambda at: at.failed("beta"), "gamma/east:price"),
    ('{"provider":{"only":["beta"]}}', lambda at: at.failed("beta"), "beta:only"),
]  # fmt: skip


@pytest.mark.parametrize(("wishes", "world", "expected"), OUTAGES)
def test_outages(wishes: str, world: World, expected: str) -> None:
    at = Measured(FOUR)
    world(at)
    assert planned(wishes, FOUR, at) == expected


def test_when_all_had_outages_all_are_tried() -> None:
    at = Measured(FOUR).failed("alpha", "beta", "gamma/east", "gamma/west")
    assert sorted(slugs(placed("{}", FOUR, at))) == ["alpha", "beta", "gamma/east", "gamma/west"]


@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999])
def test_a_model_may_have_its_offers_tried_as_listed(draw: float) -> None:
    at = Measured(LISTED)
    assert planned("{}", LISTED, at, draw=draw) == "alpha:listed beta:listed gamma/east:listed gamma/west:listed"
    warm = planned("{}", LISTED, at, draw=draw, warm="gamma/west")
    assert warm == "gamma/west:affinity alpha:listed beta:listed gamma/east:listed"
    at.failed("alpha")  # the operator's word counts until a breaker opens
    assert planned("{}", LISTED, at, draw=draw) == "alpha:listed beta:listed gamma/east:listed gamma/west:listed"
    at.open("alpha")
    assert planned("{}", LISTED, at, draw=draw) == "beta:listed gamma/east:listed gamma/west:listed"


AFFINITY: list[tuple[str, str, World, str]] = [
    ("{}", "alpha", lambda _: None, "alpha:affinity beta:price gamma/east:fallback gamma/west:fallback"),
    ("{}", "gamma/west", lambda _: None, "gamma/west:affinity beta:price gamma/east:fallback alpha:fallback"),
    ("{}", "beta", lambda _: None, "beta:affinity gamma/east:price gamma/west:fallback alpha:fallback"),
    ("{}", "alpha", lambda at: at.failed("alpha"), "beta:price gamma/east:fallback gamma/west:fallback alpha:outage"),
    ("{}", "alpha", lambda at: at.open("alpha"), "beta:price gamma/east:fallback gamma/west:fallback"),
    ('{"provider":{"ignore":["alpha"]}}', "alpha", lambda _: None, "beta:price gamma/east:fallback gamma/west:fallback"),
    ('{"provider":{"only":["gamma","alpha"]}}', "alpha", lambda _: None, "alpha:affinity gamma/east:price gamma/west:fallback"),
    ('{"provider":{"allow_fallbacks":false}}', "alpha", lambda _: None, "alpha:affinity"),
    # who sorts wants what is best now
    ('{"provider":{"sort":"price"}}', "alpha", lambda _: None, "beta:sort:price gamma/east:sort:price gamma/west:sort:price alpha:sort:price"),
    ('{"provider":{"preferred_max_latency":1}}', "alpha", lambda at: at.latency(alpha=2.0), "beta:price gamma/east:fallback gamma/west:fallback alpha:affinity"),
]  # fmt: skip


@pytest.mark.parametrize(("wishes", "warm", "world", "expected"), AFFINITY)
def test_a_conversation_stays_where_it_is(wishes: str, warm: str, world: World, expected: str) -> None:
    at = Measured(FOUR)
    world(at)
    assert planned(wishes, FOUR, at, warm=warm) == expected


def test_a_conversation_stays_with_a_fallback_model_only_among_its_providers() -> None:
    plan = planned('{"models":["x/n"]}', TWO_MODELS, warm="delta")
    assert plan == "m@beta:price m@alpha:fallback n@delta:affinity n@gamma:price"


WHICH_KEY: list[tuple[str, str | None, str]] = [
    ("{}", None, "alpha:price alpha#1:price alpha#2:price beta:fallback beta#1:fallback"),
    ("{}", "alpha#2", "alpha#2:affinity alpha:affinity alpha#1:affinity beta:price beta#1:price"),
    ("{}", "beta#1", "beta#1:affinity beta:affinity alpha:price alpha#1:price alpha#2:price"),
    ('{"provider":{"only":["alpha"]}}', "alpha#1", "alpha#1:affinity alpha:affinity alpha#2:affinity"),
    ('{"provider":{"allow_fallbacks":false}}', None, "alpha:price alpha#1:price alpha#2:price"),
]


@pytest.mark.parametrize(("wishes", "warm", "expected"), WHICH_KEY)
def test_which_key(wishes: str, warm: str | None, expected: str) -> None:
    """All keys of a provider before the next one, and first the one whose account has the prompt in its cache."""
    assert planned(wishes, KEYS, warm=warm) == expected


def test_which_key_of_a_model_with_one_provider() -> None:
    assert planned("{}", ONE) == "alpha:only alpha#1:only alpha#2:only"
    assert slugs(placed("{}", ONE, warm="alpha#1")) == ["alpha#1", "alpha", "alpha#2"]
    assert slugs(placed("{}", ONE, Measured(ONE).open("alpha#1"), warm="alpha#1")) == ["alpha", "alpha#2"]


def test_which_key_when_providers_are_sorted() -> None:
    """The sort chooses the provider; among its keys there is nothing to sort by."""
    plan = slugs(placed('{"provider":{"sort":"price"}}', KEYS, warm="alpha#2"))
    assert plan == ["alpha#2", "alpha", "alpha#1", "beta", "beta#1"]


def test_a_key_that_rests_leaves_the_others_of_its_provider() -> None:
    at = Measured(KEYS).open("alpha#0").half_open("beta#1")
    assert planned("{}", KEYS, at) == "beta#1:probe alpha#1:price alpha#2:price beta:fallback"
