"""Periods against the calendar, and meters that roll with them."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admit.credit import NOTHING, Meter, Periods, Purse, Spent, periods

DAY_S = 86_400
LAST_S = int(dt.datetime(2200, 1, 1, tzinfo=dt.UTC).timestamp())


def wall(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()


def at(text: str) -> Periods:
    return periods(wall(text))


@pytest.mark.parametrize(
    ("before", "after", "turned"),
    [
        ("2026-01-04T23:59:59.999", "2026-01-05T00:00:00", "day week"),  # Sunday to Monday
        ("2026-01-05T00:00:00", "2026-01-05T23:59:59.999", ""),
        ("2026-01-10T23:59:59.999", "2026-01-11T00:00:00", "day"),  # Saturday to Sunday
        ("2026-01-31T23:59:59.999", "2026-02-01T00:00:00", "day month"),
        ("2026-02-28T23:59:59.999", "2026-03-01T00:00:00", "day month"),
        ("2028-02-28T23:59:59.999", "2028-02-29T00:00:00", "day"),
        ("2028-02-29T23:59:59.999", "2028-03-01T00:00:00", "day month"),
        ("2025-12-31T23:59:59.999", "2026-01-01T00:00:00", "day month"),  # a Thursday: the week goes on
        ("2028-12-31T23:59:59.999", "2029-01-01T00:00:00", "day week month"),
    ],
)
def test_what_turns_at_midnight(before: str, after: str, turned: str) -> None:
    changed = [name for name, old, new in zip(Periods._fields, at(before), at(after), strict=True) if old != new]
    assert " ".join(changed) == turned


@given(st.integers(0, LAST_S), st.integers(-40 * DAY_S, 40 * DAY_S))
def test_periods_are_those_of_the_calendar(now: int, step: int) -> None:
    other = max(0, now + step)
    one, two = (dt.datetime.fromtimestamp(moment, dt.UTC) for moment in (now, other))
    first, second = periods(now), periods(other)
    assert (first.day == second.day) == (one.date() == two.date())
    assert (first.week == second.week) == (one.isocalendar()[:2] == two.isocalendar()[:2])
    assert (first.month == second.month) == ((one.year, one.month) == (two.year, two.month))
    if now <= other:
        assert first.day <= second.day
        assert first.week <= second.week
        assert first.month <= second.month


def test_a_purse_is_worth_what_is_not_held() -> None:
    purse = Purse(100)
    purse.held = 30
    assert purse.available == 70
    purse.balance = 20
    assert purse.available == -10


@pytest.mark.parametrize(
    ("calls", "asked", "spent"),
    [
        ([], "2026-01-05", NOTHING),
        ([(7, "2026-01-05")], "2026-01-05", Spent(7, 7, 7, 7)),
        ([(7, "2026-01-05")], "2026-01-06", Spent(7, 0, 7, 7)),
        ([(7, "2026-01-05")], "2026-01-12", Spent(7, 0, 0, 7)),
        ([(7, "2026-01-05")], "2026-02-01", Spent(7, 0, 0, 0)),
        ([(7, "2026-01-28"), (5, "2026-02-01")], "2026-02-01", Spent(12, 5, 0 + 12, 5)),  # one week, two months
        ([(7, "2026-01-05"), (5, "2026-01-06")], "2026-01-06", Spent(12, 5, 12, 12)),
        (
            [(7, "2026-01-06"), (5, "2026-01-05")],
            "2026-01-06",
            Spent(12, 7, 12, 12),
        ),  # a call that ended after midnight
        ([(7, "2026-02-02"), (5, "2026-01-31")], "2026-02-02", Spent(12, 7, 7, 7)),
        ([(7, "2026-01-05"), (0, "2026-01-05")], "2026-01-05", Spent(7, 7, 7, 7)),
    ],
)
def test_a_call_counts_where_it_began(calls: list[tuple[int, str]], asked: str, spent: Spent) -> None:
    meter = Meter(at("2026-01-01"))
    latest = "2026-01-01"
    for amount, began in calls:
        latest = max(latest, began)
        meter.observe(at(latest))
        meter.add(amount, at(began))
    assert meter.spent(at(asked)) == spent


def test_asking_turns_the_periods_and_what_began_before_does_not_count_in_them() -> None:
    meter = Meter(at("2026-01-04"), Spent(50, 5, 20, 40))
    assert meter.spent(at("2026-01-05")) == Spent(50, 0, 0, 40)
    meter.add(3, at("2026-01-04"))
    assert meter.spent(at("2026-01-05")) == Spent(53, 0, 0, 43)


@pytest.mark.parametrize("back_to", ["2026-01-04", "2026-01-05", "2025-12-31", "2025-11-25"])
def test_a_clock_that_steps_back_takes_along_what_was_spent(back_to: str) -> None:
    meter = Meter(at("2026-01-05"))
    meter.add(7, at("2026-01-05"))
    assert meter.spent(at(back_to)) == Spent(7, 7, 7, 7)
    meter.add(5, at(back_to))
    assert meter.spent(at(back_to)) == Spent(12, 12, 12, 12)


@pytest.mark.parametrize(
    ("ahead", "then", "spent"),
    [
        ("2026-02-14", "2026-01-05", Spent(67, 67, 67, 67)),
        ("2026-02-14", "2026-01-06", Spent(67, 0, 67, 67)),
        ("2026-02-14", "2026-01-12", Spent(67, 0, 0, 67)),
        ("2026-02-14", "2026-02-02", Spent(67, 0, 0, 0)),
        ("2036-01-05", "2026-01-06", Spent(67, 0, 67, 67)),
    ],
)
def test_a_clock_that_was_ahead_and_is_right_again_turns_the_periods_as_before(
    ahead: str, then: str, spent: Spent
) -> None:
    """The time until it is as late again as it once said is not a time without limits, nor one that never ends."""
    meter = Meter(at("2026-01-05"))
    meter.add(7, at(ahead))
    assert meter.spent(at("2026-01-05")) == Spent(7, 7, 7, 7)
    meter.add(60, at("2026-01-05"))
    assert meter.against("daily", at("2026-01-05")) == 67
    assert meter.spent(at(then)) == spent


def test_a_call_that_ends_late_turns_no_period_back() -> None:
    meter = Meter(at("2026-02-01"))
    meter.add(7, at("2026-02-01"))
    meter.add(5, at("2025-12-31"))
    meter.add(3, at("2026-02-01"))
    assert meter.spent(at("2026-02-01")) == Spent(15, 10, 10, 10)


def test_a_limit_counts_what_is_held_in_every_period() -> None:
    now = at("2026-01-05")
    meter = Meter(now, Spent(1000, 1, 10, 100))
    meter.held = 5
    assert meter.against(None, now) == 1005
    assert meter.against("daily", now) == 6
    assert meter.against("weekly", now) == 15
    assert meter.against("monthly", now) == 105
    assert meter.against("daily", at("2026-01-06")) == 5


Days = st.integers(20_000, 20_070)


@given(st.lists(st.tuples(Days, st.integers(0, 1000), st.integers(0, 2)), max_size=40))
def test_with_a_clock_that_goes_on_meters_are_the_sums_of_their_calls(steps: list[tuple[int, int, int]]) -> None:
    """Calls end on the day they began or up to two days later, and days do not go back."""
    meter = Meter(periods(20_000 * DAY_S))
    calls: list[tuple[int, int]] = []
    for day, amount, late in sorted(steps):
        began = max(20_000, day - late)
        meter.spent(periods(day * DAY_S))
        meter.add(amount, periods(began * DAY_S))
        calls.append((began, amount))
        now = periods(day * DAY_S)
        assert meter.spent(now) == Spent(
            sum(amount for _, amount in calls),
            *(sum(amount for began, amount in calls if periods(began * DAY_S)[kind] >= now[kind]) for kind in range(3)),
        )
