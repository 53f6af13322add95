"""How fast and reliable endpoints are: windows, quantiles against slow definitions, and what cancelled attempts tell."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.route.stats import HEDGE_SAMPLES_MIN, SAMPLES_MAX, WINDOW_S, Quantiles, Stats

ONE = ("openai", "gpt-4o")
TWO = ("azure", "gpt-4o")
PERCENTS = (50, 75, 90, 99)
VALUES = st.lists(st.integers(1, 40).map(float), min_size=1, max_size=40)


def told(values: Sequence[float], cut: Sequence[float] = (), now: float = 0.0) -> Stats:
    stats = Stats()
    for value in values:
        stats.first_content(ONE, value, now)
        stats.throughput(ONE, value, now)
    for value in cut:
        stats.first_content_at_least(ONE, value, now)
    return stats


def latency(stats: Stats, now: float = 0.0, samples_min: int = 1) -> Quantiles:
    found = stats.latency(ONE, now, samples_min)
    assert found is not None
    return found


def ranks(found: Quantiles | None) -> tuple[float, ...]:
    assert found is not None
    return found.p50, found.p75, found.p90, found.p99


def survival_ranks(values: list[float], cut: list[float]) -> tuple[float, ...]:
    """Kaplan and Meier's own formula: at each complete sample the share of those still waiting that end there."""
    alive, ended = Fraction(1), {}
    for at in sorted(set(values)):
        waiting = sum(value >= at for value in [*values, *cut])
        alive *= 1 - Fraction(values.count(at), waiting)
        ended[at] = 1 - alive
    longest = max([*values, *cut])
    return tuple(
        next((at for at, share in ended.items() if share >= Fraction(percent, 100)), longest) for percent in PERCENTS
    )


# --- quantiles


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (1, 1, 1, 1)), (2, (1, 2, 2, 2)), (4, (2, 3, 4, 4)), (10, (5, 8, 9, 10)), (100, (50, 75, 90, 99))],
)
def test_quantiles_are_nearest_ranks(count: int, expected: tuple[int, ...]) -> None:
    values = [float(n) for n in range(1, count + 1)]
    random.Random(7).shuffle(values)
    stats = told(values)
    assert ranks(latency(stats)) == expected
    slowest_first = tuple(count + 1 - rank for rank in expected)
    assert ranks(stats.throughput_of(ONE, 0.0)) == slowest_first, "p90 is the rate that 90% of the answers reached"


@given(VALUES)
def test_a_percentile_is_as_good_for_that_share_of_the_samples(values: list[float]) -> None:
    stats = told(values)
    for percent, slow, low in zip(PERCENTS, ranks(latency(stats)), ranks(stats.throughput_of(ONE, 0.0)), strict=True):
        assert sum(value <= slow for value in values) * 100 >= percent * len(values)
        assert sum(value < slow for value in values) * 100 < percent * len(values)
        assert sum(value >= low for value in values) * 100 >= percent * len(values)
        assert sum(value > low for value in values) * 100 < percent * len(values)


@given(VALUES, VALUES)
def test_cut_samples_are_estimated_as_kaplan_and_meier_do(values: list[float], cut: list[float]) -> None:
    found = latency(told(values, cut))
    assert ranks(found) == survival_ranks(values, cut)
    assert (found.count, found.cut) == (len(values), len(cut))


@pytest.mark.parametrize(
    ("values", "cut", "expected"),
    [
        ([1, 2, 3, 4], [], (2, 3, 4, 4)),
        ([1, 2, 3, 4], [0.5] * 40, (2, 3, 4, 4)),  # who left before the fastest says nothing
        ([1, 2, 3, 4], [9] * 4, (4, 9, 9, 9)),  # half of them were slower than all that ended
        ([1], [1], (1, 1, 1, 1)),  # of equals the complete one was the shorter
        ([2], [1], (2, 2, 2, 2)),
        ([1, 3], [2, 2], (3, 3, 3, 3)),  # 1/4, then all the rest
        ([1, 1, 3], [2], (1, 3, 3, 3)),
    ],
)
def test_what_cut_samples_do(values: list[float], cut: list[float], expected: tuple[float, ...]) -> None:
    assert ranks(latency(told(values, cut))) == expected


def test_a_cut_sample_of_no_length_is_none() -> None:
    assert latency(told([1.0], [0.0])).cut == 0


def test_only_cut_samples_are_no_reading() -> None:
    assert told([], [1.0] * 20).latency(ONE, 0.0) is None


@pytest.mark.parametrize(
    ("complete", "cut", "enough"), [(15, 0, False), (16, 0, True), (15, 30, False), (16, 30, True)]
)
def test_a_hedge_needs_more_samples_than_a_display(complete: int, cut: int, enough: bool) -> None:
    stats = told([1.0] * complete, [2.0] * cut)
    assert (stats.latency(ONE, 0.0, HEDGE_SAMPLES_MIN) is not None) == enough
    assert (stats.throughput_of(ONE, 0.0, HEDGE_SAMPLES_MIN) is not None) == (complete >= HEDGE_SAMPLES_MIN)
    assert latency(stats).count == complete


def hedge_always(*, with_losers: bool) -> tuple[float, float]:
    """Hedge each call at the p90 seen so far, beside a fast second provider; the share of hedges, and the median p90."""
    draw, stats, hedges, seen = random.Random(3), Stats(), 0, []
    for call in range(3000):
        now = call / 10
        first, second = draw.lognormvariate(0, 0.8), draw.lognormvariate(0, 0.8) / 5
        found = stats.latency(ONE, now, HEDGE_SAMPLES_MIN)
        delay = found.p90 if found is not None else 1e9
        seen.append(delay)
        hedges += first > delay
        if first <= delay + second:
            stats.first_content(ONE, first, now)
        elif with_losers:
            stats.first_content_at_least(ONE, delay + second, now)
    return hedges / 3000, sorted(seen)[1500]


def test_losers_keep_p90_true_and_hedges_a_tenth() -> None:
    true_p90 = 2.79  # of that distribution: exp(0.8 * 1.2816)
    share, p90 = hedge_always(with_losers=True)
    assert 0.09 < share < 0.12
    assert p90 == pytest.approx(true_p90, rel=0.1)
    share, p90 = hedge_always(with_losers=False)
    assert share > 0.25, "survivors alone make hedges breed hedges"
    assert p90 < true_p90 * 0.6


# --- windows and the cache


@pytest.mark.parametrize(("age", "count"), [(0.0, 2), (WINDOW_S, 2), (WINDOW_S + 0.001, 1), (WINDOW_S + 9, 1)])
def test_samples_leave_after_five_minutes(age: float, count: int) -> None:
    stats = told([1.0], now=10.0)
    stats.first_content(ONE, 5.0, 10.0 + WINDOW_S / 2)
    assert latency(stats, 10.0 + age).count == count


def test_they_leave_without_new_ones() -> None:
    stats = told([1.0], now=0.0)
    assert latency(stats, 299.0).count == 1
    assert latency(stats, 299.5).count == 1
    assert stats.latency(ONE, 301.0) is None
    assert stats.latency(ONE, 301.5) is None


@pytest.mark.parametrize("more", [0, 1, SAMPLES_MAX - 1, SAMPLES_MAX, SAMPLES_MAX * 2 + 5])
def test_the_latest_samples_are_kept(more: int) -> None:
    stats = Stats()
    for n in range(SAMPLES_MAX + more):
        stats.first_content(ONE, float(n), n / 1000)
    found = latency(stats, 3.0)
    assert found.count == SAMPLES_MAX
    assert found.p50 == more + SAMPLES_MAX // 2 - 1


def test_a_full_window_forgets_its_oldest_first() -> None:
    stats = Stats()
    for n in range(SAMPLES_MAX + 100):
        stats.first_content(ONE, 1.0, n / 2)
    end = (SAMPLES_MAX + 99) / 2
    assert latency(stats, end + 2.0).count == SAMPLES_MAX
    assert latency(stats, end + 100.0).count == 401
    stats.first_content(ONE, 1.0, end + 100.0)
    assert latency(stats, end + 200.0).count == 202
    assert latency(stats, end + 400.0).count == 1


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(1, 9)), max_size=80), st.integers(1, 400))
def test_the_window_is_what_a_list_would_hold(samples: list[tuple[int, int]], later: int) -> None:
    stats, now, kept = Stats(), 0.0, []
    for step, value in samples:
        now += step
        stats.first_content(ONE, float(value), now)
        kept.append((now, float(value)))
        assert latency(stats, now).count >= 1
    now += later
    values = [value for at, value in kept if at >= now - WINDOW_S]
    found = stats.latency(ONE, now)
    assert (found is not None and ranks(found)) == (bool(values) and survival_ranks(values, []))
    assert (found.count if found is not None else 0) == len(values)


def test_a_reading_holds_for_a_second_or_an_eighth_of_new_samples() -> None:
    stats = told([1.0] * 64)
    first = latency(stats, 0.0)
    for n in range(8):
        stats.first_content(ONE, 2.0, 0.1)
        assert latency(stats, 0.1) is first, n
    assert latency(stats, 0.99) is first
    assert latency(stats, 1.0).count == 72
    for _ in range(11):
        stats.first_content(ONE, 2.0, 1.1)
    assert latency(stats, 1.1).count == 83
    assert latency(stats, 7.0) is latency(stats, 9.0), "nothing came, nothing left"


def test_the_first_samples_are_seen_at_once() -> None:
    stats = Stats()
    for n in range(1, 8):
        stats.first_content(ONE, 1.0, 0.0)
        assert latency(stats, 0.0).count == n


def test_the_moving_average_follows_rfc_6298_and_starts_anew_after_a_gap() -> None:
    stats = told([8.0, 16.0])
    assert latency(stats).ewma == 9.0
    stats.first_content_at_least(ONE, 4.0, 0.0)
    assert latency(stats).ewma == 9.0, "at least 4 is no news"
    stats.first_content_at_least(ONE, 17.0, 0.0)
    assert latency(stats).ewma == 10.0
    stats.first_content(ONE, 1.0, 301.0)
    assert latency(stats, 301.0).ewma == 1.0


# --- outcomes


@pytest.mark.parametrize(
    ("outcomes", "now", "expected"),
    [
        ([], 0.0, None),
        ([(0.0, True)], 0.0, 1.0),
        ([(0.0, False)], 0.0, 0.0),
        ([(0.0, True), (1.0, False), (70.0, True), (70.0, True)], 80.0, 0.75),
        ([(59.0, False), (61.0, True)], 29 * 60 + 59.0, 0.5),  # this minute and the 29 before it
        ([(59.0, False), (61.0, True)], 30 * 60.0, 1.0),
        ([(59.0, False)], 30 * 60.0, None),
        ([(60.0 * n, n % 2 == 0) for n in range(100)], 6000.0 - 1, 0.5),
        ([(60.0 * n, n < 70) for n in range(100)], 6000.0 - 1, 0.0),
    ],
)
def test_uptime(outcomes: list[tuple[float, bool]], now: float, expected: float | None) -> None:
    stats = Stats()
    for at, ok in outcomes:
        stats.outcome(ONE, ok, at)
    assert stats.uptime(ONE, now) == expected


@pytest.mark.parametrize(
    ("outcomes", "now", "expected"),
    [
        ([], 0.0, False),
        ([(0.0, True)], 1.0, False),
        ([(0.0, False)], 0.0, True),
        ([(0.0, False)], 29.9, True),
        ([(0.0, False)], 30.0, False),
        ([(0.0, False), (1.0, True)], 2.0, False),
        ([(0.0, True), (1.0, False)], 2.0, True),
        ([(0.0, False), (1.0, True), (2.0, False)], 31.0, True),
    ],
)
def test_a_recent_outage_is_a_failure_with_no_success_since(
    outcomes: list[tuple[float, bool]], now: float, expected: bool
) -> None:
    stats = Stats()
    for at, ok in outcomes:
        stats.outcome(ONE, ok, at)
    assert stats.recent_outage(ONE, now) is expected


# --- endpoints


def test_endpoints_are_apart_and_unknown_ones_have_nothing() -> None:
    stats = told([1.0])
    stats.outcome(ONE, False, 0.0)
    assert stats.latency(TWO, 0.0) is None
    assert stats.throughput_of(TWO, 0.0) is None
    assert stats.uptime(TWO, 0.0) is None
    assert not stats.recent_outage(TWO, 0.0)
    assert len(stats) == 1, "asking adds nothing"


def test_beyond_the_bound_the_one_longest_unheard_of_is_forgotten() -> None:
    stats = Stats(endpoints_max=3)
    stats.first_content(("a", "m"), 1.0, 1.0)
    stats.throughput(("b", "m"), 1.0, 2.0)
    stats.outcome(("c", "m"), True, 3.0)
    stats.first_content(("a", "m"), 1.0, 4.0)
    stats.outcome(("d", "m"), True, 5.0)
    assert len(stats) == 3
    assert stats.throughput_of(("b", "m"), 5.0) is None
    assert stats.latency(("a", "m"), 5.0) is not None
    stats.outcome(("e", "m"), True, 6.0)
    assert stats.uptime(("c", "m"), 6.0) is None
    assert stats.uptime(("d", "m"), 6.0) == 1.0
