"""When a second attempt may start beside the first: by the request, the model, the configuration, and what was seen."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from gateway.config import ModelRace, Race
from gateway.core.money import PicoUsd
from gateway.route.stats import HEDGE_SAMPLES_MIN, WINDOW_S
from tests.plans import NOW, config, model, offer, provider
from tests.test_course import Desk

OFFERS = (offer("alpha", 1), offer("beta", 2))
CENT = PicoUsd(10**10)


def desk_of(race: Race, own: ModelRace | None = None, **more: Any) -> Desk:
    return Desk(config([model("m", *OFFERS, race=own)], race=race, **more))


OFF, DELAY = Race(hedge="off", hedge_delay_s=2.0), Race(hedge="delay", hedge_delay_s=2.0)
ADAPTIVE = Race(hedge="adaptive", hedge_delay_s=2.0)

# the configuration, the model's own, the request's: then the delay, and what losers may cost
MODES: list[tuple[Race, ModelRace | None, str, float, int | None]] = [
    (Race(), None, "{}", inf, None),
    (OFF, None, "{}", inf, None),
    (DELAY, None, "{}", 2.0, None),
    (ADAPTIVE, None, "{}", 2.0, None),
    (OFF, ModelRace("hedge"), "{}", 2.0, None),
    (OFF, ModelRace("all"), "{}", 0.0, None),
    (DELAY, ModelRace("off"), "{}", inf, None),
    (DELAY, ModelRace("off", CENT), "{}", inf, CENT),
    (DELAY, ModelRace("hedge", CENT), "{}", 2.0, CENT),
    (OFF, None, '{"mode":"hedge"}', 2.0, None),
    (OFF, None, '{"mode":"all"}', 0.0, None),
    (DELAY, None, '{"mode":"off"}', inf, None),
    (DELAY, ModelRace("all"), '{"mode":"off"}', inf, None),
    (DELAY, ModelRace("all", CENT), '{"mode":"hedge"}', 2.0, CENT),
    (OFF, ModelRace("off"), '{"mode":"all"}', 0.0, None),
    # the money: the request's own word, and 0 is one
    (DELAY, None, '{"max_extra_cost":"0.02"}', 2.0, 2 * CENT),
    (DELAY, ModelRace("all", CENT), '{"max_extra_cost":"0.02"}', 0.0, 2 * CENT),
    (DELAY, ModelRace("all", CENT), '{"max_extra_cost":0}', 0.0, 0),
    (DELAY, ModelRace("all", CENT), '{"mode":"hedge","max_extra_cost":"0.005"}', 2.0, CENT // 2),
]


@pytest.mark.parametrize(("race", "own", "wish", "delay_s", "extra"), MODES)
def test_modes(race: Race, own: ModelRace | None, wish: str, delay_s: float, extra: int | None) -> None:
    course = desk_of(race, own).course(f'{{"race":{wish}}}')
    assert (course.delay_s, course.extra_pico_usd) == (delay_s, extra)


def test_one_attempt_has_nobody_beside_it() -> None:
    for wishes in ('{"race":{"mode":"all"}}', '{"race":{"mode":"all"},"provider":{"only":["beta"]}}', "{}"):
        assert Desk(config([model("m", OFFERS[1], race=ModelRace("all"))], race=DELAY)).course(wishes).delay_s == inf
    assert desk_of(DELAY).course('{"provider":{"allow_fallbacks":false}}').delay_s == inf


def test_the_keys_of_one_provider_may_race() -> None:
    desk = Desk(config([model("m", OFFERS[0])], [provider("alpha", 2)], race=DELAY))
    assert desk.course().delay_s == 2.0


# the hedge setting, the request, how many samples of how long: then the delay
SEEN: list[tuple[Race, bool, list[float], float]] = [
    (ADAPTIVE, True, [0.4] * HEDGE_SAMPLES_MIN, 0.4),
    (ADAPTIVE, True, [0.4] * (HEDGE_SAMPLES_MIN - 1), 2.0),
    (ADAPTIVE, True, [index / 10 for index in range(1, 21)], 1.8),
    (ADAPTIVE, True, [9.0] * HEDGE_SAMPLES_MIN, 9.0),
    (ADAPTIVE, True, [0.01] * HEDGE_SAMPLES_MIN, 0.05),
    (Race(hedge="adaptive", hedge_delay_min_s=0.5), True, [0.4] * HEDGE_SAMPLES_MIN, 0.5),
    (DELAY, True, [0.4] * HEDGE_SAMPLES_MIN, 2.0),
    (OFF, True, [0.4] * HEDGE_SAMPLES_MIN, inf),
    (ADAPTIVE, False, [0.4] * HEDGE_SAMPLES_MIN, 2.0),  # what streams take says nothing of whole answers
]


@pytest.mark.parametrize(("race", "stream", "seconds", "delay_s"), SEEN)
def test_the_delay_is_the_p90_of_the_first_attempts_past(
    race: Race, stream: bool, seconds: list[float], delay_s: float
) -> None:
    desk = desk_of(race)
    first, second = (attempt.endpoint for attempt in desk.catalog.find("x/m").attempts)
    for each in seconds:
        desk.router.streams.first_content(first, each, NOW - 1)
        desk.router.streams.first_content(second, 0.2, NOW - 1)
    assert desk.course('{"stream":true}' if stream else "{}").delay_s == pytest.approx(delay_s)


def test_whole_answers_have_their_own_past() -> None:
    desk = desk_of(ADAPTIVE)
    first = desk.catalog.find("x/m").attempts[0].endpoint
    for _ in range(HEDGE_SAMPLES_MIN):
        desk.router.answers.first_content(first, 7.0, NOW - 1)
    assert desk.course("{}").delay_s == 7.0
    assert desk.course('{"stream":true}').delay_s == 2.0


def test_what_was_cancelled_counts_as_at_least_so_long() -> None:
    """Of 25 attempts, five were cut off after a second: the p90 is no less, or hedges would feed on themselves."""
    desk = desk_of(ADAPTIVE)
    first = desk.catalog.find("x/m").attempts[0].endpoint
    for index in range(25):
        if index < 5:
            desk.router.streams.first_content_at_least(first, 1.0, NOW - 1)
        else:
            desk.router.streams.first_content(first, 0.3, NOW - 1)
    assert desk.course('{"stream":true}').delay_s == 1.0


def test_what_was_seen_is_forgotten() -> None:
    desk = desk_of(ADAPTIVE)
    first = desk.catalog.find("x/m").attempts[0].endpoint
    for _ in range(HEDGE_SAMPLES_MIN):
        desk.router.streams.first_content(first, 0.4, NOW - WINDOW_S - 1)
    assert desk.course('{"stream":true}').delay_s == 2.0


def test_nothing_starts_beside_a_warm_prompt_cache() -> None:
    desk = desk_of(DELAY)
    course = desk.course('{"session_id":"s"}')
    assert course.delay_s == 2.0
    assert course.conversation is not None
    desk.router.affinity.put(course.conversation, course.placed[0].attempt.target, NOW)
    assert desk.course('{"session_id":"s"}').delay_s == inf
    assert desk.course('{"session_id":"other"}').delay_s == 2.0
    # who asks for a race of all has one
    assert desk.course('{"session_id":"s","race":{"mode":"all"}}').delay_s == 0.0


def test_where_the_warm_provider_cannot_be_first_others_may_start_beside_it() -> None:
    desk = desk_of(DELAY)
    course = desk.course('{"session_id":"s"}')
    assert course.conversation is not None
    desk.router.affinity.put(course.conversation, course.placed[0].attempt.target, NOW)
    assert desk.course('{"session_id":"s","provider":{"ignore":["beta"]}}').delay_s == inf  # it is alone
    desk.router.health.failed(course.placed[0].attempt.target, NOW, probe=False, retry_after_s=9.0)
    wide = Desk(config([model("m", *OFFERS, offer("gamma", 3))], race=DELAY))
    wide.router = desk.router
    again = wide.course('{"session_id":"s"}')
    assert [each.attempt.provider for each in again.placed] == ["beta", "gamma"]
    assert again.delay_s == 2.0


def test_a_warm_key_that_rests_warms_no_other_key() -> None:
    """Caches belong to an account of the provider."""
    desk = Desk(config([model("m", *OFFERS)], [provider("alpha", 2)], race=DELAY))
    course = desk.course('{"session_id":"s"}')
    assert course.conversation is not None
    desk.router.affinity.put(course.conversation, course.placed[0].attempt.target, NOW)
    assert desk.course('{"session_id":"s"}').delay_s == inf
    desk.router.health.failed(course.placed[0].attempt.target, NOW, probe=False, retry_after_s=9.0)
    assert desk.course('{"session_id":"s"}').delay_s == 2.0
