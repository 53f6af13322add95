"""The days of `rpd`: zones, changes of the clock by law and by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gateway.admit.days import Days
from gateway.admit.limits import Allowance
from tests.limiting import NOON, at, key, limiter, refused, sweep


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("UTC", (2026, 3, 8), 24),
        ("America/New_York", (2026, 3, 8), 23),
        ("America/New_York", (2026, 11, 1), 25),
        ("Asia/Taipei", (2026, 3, 8), 24),
        ("Africa/Cairo", (2026, 4, 24), 23),  # midnight itself is skipped
        ("Africa/Cairo", (2026, 10, 29), 25),  # 24:00 becomes 23:00 of the same day
        ("America/Havana", (2026, 11, 1), 25),  # 01:00 becomes 00:00: midnight comes twice
    ],
)
def test_a_day_lasts_from_midnight_to_midnight_of_its_zone(zone: str, day: tuple[int, int, int], hours: int) -> None:
    made, levels = limiter(zone), [key(rpd=1)]
    start = at(zone, *day)
    made.admit(levels, 0, 0.0, start - 0.001).release(0, 0.0)
    assert refused(made, levels, 0, 0.0, start - 0.001).retry_after_s == pytest.approx(0.001, abs=1e-6)
    made.admit(levels, 0, 0.0, start).release(0, 0.0)
    assert refused(made, levels, 0, 0.0, start).retry_after_s == hours * 3600
    refused(made, levels, 0, 0.0, start + hours * 3600 - 0.001)
    made.admit(levels, 0, 0.0, start + hours * 3600)


@pytest.mark.parametrize(
    ("zone", "around"),
    [
        ("America/St_Johns", (2006, 10, 29)),  # 00:01 becomes 23:01 of the day before
        ("America/Toronto", (1919, 3, 31)),  # 23:30 becomes 00:30 of the day after
        ("Pacific/Apia", (2011, 12, 31)),  # a whole day is skipped
        ("America/New_York", (2026, 11, 1)),
    ],
)
def test_a_later_instant_never_has_an_earlier_day(zone: str, around: tuple[int, int, int]) -> None:
    start = at(zone, *around) - 86_400
    days = Days(zone)
    seen = [days.at(start + minute * 60.0) for minute in range(3 * 1440)]
    assert all(earlier <= later for earlier, later in pairwise(seen))
    assert len(set(seen)) >= 3
    assert seen == [Days(zone).at(start + minute * 60.0) for minute in range(3 * 1440)], "the bounds depend on the past"


def test_a_clock_set_back_over_midnight_gives_no_day_twice() -> None:
    midnight = at("America/New_York", 2026, 5, 21)
    made, spent, fresh = limiter("America/New_York"), [key("spent", rpd=3)], [key("fresh", rpd=3)]
    for _ in range(3):
        made.admit(spent, 0, 0.0, midnight - 600).release(0, 0.0)
    for _ in range(2):
        made.admit(spent, 0, 0.0, midnight + 600).release(0, 0.0)
    # An hour back: the third call of the day that had begun, and no more, neither now nor when midnight comes again.
    made.admit(spent, 0, 0.0, midnight + 700 - 3600).release(0, 0.0)
    for _ in range(3):
        made.admit(fresh, 0, 0.0, midnight + 700 - 3600).release(0, 0.0)
    for wall in (midnight - 2800, midnight - 1, midnight, midnight + 86_399):
        for levels in (spent, fresh):
            assert refused(made, levels, 0, 0.0, wall).retry_after_s == midnight + 86_400 - wall
    made.admit(spent, 0, 0.0, midnight + 86_400)


def test_an_idle_entry_that_was_evicted_does_not_give_a_day_twice_either() -> None:
    midnight = at("UTC", 2026, 5, 21)
    made, levels = limiter(), [key(rpd=1)]
    made.admit(levels, 0, 0.0, midnight - 1).release(0, 0.0)
    sweep(made, 0.0, midnight)
    assert len(made) == 0
    made.admit(levels, 0, 0.0, midnight - 1).release(0, 0.0)
    refused(made, levels, 0, 0.0, midnight)


def test_a_clock_set_forward_an_hour_begins_the_day_once() -> None:
    midnight = at("UTC", 2026, 5, 21)
    made, levels = limiter(), [key(rpd=1)]
    made.admit(levels, 0, 0.0, midnight - 600).release(0, 0.0)
    made.admit(levels, 0, 0.0, midnight - 600 + 3600).release(0, 0.0)
    refused(made, levels, 0, 0.0, midnight + 3001)


def test_a_clock_that_was_a_year_ahead_locks_nobody_out_for_a_year() -> None:
    made, levels = limiter(), [key(rpd=2)]
    year = 366 * 86_400.0
    for _ in range(2):
        made.admit(levels, 0, 0.0, NOON + year).release(0, 0.0)
    assert refused(made, levels, 0, 0.0, NOON).retry_after_s == 12 * 3600
    made.admit(levels, 0, 0.0, NOON + 12 * 3600)


def test_another_zone_and_bound_keep_what_is_counted() -> None:
    made, levels = limiter("Asia/Taipei"), [key(rpd=2)]
    ticket = made.admit(levels, 0, 0.0, at("UTC", 2026, 5, 20, 17, 0))  # the 21st in Taipei
    made.configure(day_zone="UTC", keys_max=10)
    assert ticket.standing(0.0).requests == Allowance(2, 1, 0), "asked before the zone's day is known"
    made.admit(levels, 0, 0.0, at("UTC", 2026, 5, 20, 17, 1))
    wait_s = refused(made, levels, 0, 0.0, at("UTC", 2026, 5, 20, 17, 2)).retry_after_s
    assert wait_s == at("UTC", 2026, 5, 22) - at("UTC", 2026, 5, 20, 17, 2), "the 21st had begun, and goes on"
