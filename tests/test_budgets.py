"""Budgets of hedges and of further attempts: against oracles that replay everything that happened."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.route.budgets import BURST, RESERVE_PER_S, WINDOW_S, HedgeBudget, HedgeLevels, RetryBudget

DAY_S = 86_400
NOON = 1_767_571_200.0 + DAY_S / 2
ME = "account"


def hedges_of(budget: HedgeBudget, calls: int, cost: int = 0, wall: float = NOON) -> int:
    """How many of so many calls are hedged when each wants to be."""
    hedged = 0
    for _ in range(calls):
        budget.earn(ME)
        hedged += budget.allow(ME, cost, wall)
    return hedged


# --- hedges


@pytest.mark.parametrize(
    ("share", "calls", "hedged"),
    [(0.05, 10, 10), (0.05, 11, 10), (0.05, 1000, 59), (0.2, 1000, 209), (1.0, 500, 500), (0.0, 100, 0), (1e-7, 99, 0)],
)
def test_hedges_are_a_burst_and_a_share(share: float, calls: int, hedged: int) -> None:
    assert hedges_of(HedgeBudget(share, None), calls) == hedged


@pytest.mark.parametrize(
    ("money", "cost", "hedged"), [(100, 30, 3), (100, 25, 4), (0, 1, 0), (0, 0, 10), (None, 10**15, 10)]
)
def test_hedges_stop_where_the_days_money_ends(money: int | None, cost: int, hedged: int) -> None:
    assert hedges_of(HedgeBudget(1.0, money), 10, cost) == hedged


def test_no_more_than_the_burst_is_saved_up() -> None:
    budget = HedgeBudget(0.5, None)
    assert budget.allow(ME, 0, NOON)
    for _ in range(1000):
        budget.earn(ME)
    assert sum(budget.allow(ME, 0, NOON) for _ in range(100)) == BURST


def test_a_refused_hedge_costs_nothing() -> None:
    budget = HedgeBudget(0.0001, 100)
    assert not budget.allow(ME, 101, NOON)
    assert sum(budget.allow(ME, 10, NOON) for _ in range(20)) == 10


@pytest.mark.parametrize(
    ("actual", "more"),
    [(60, 0), (50, 1), (0, 1), (61, 0)],
)
def test_settling_counts_what_it_cost(actual: int, more: int) -> None:
    budget = HedgeBudget(1.0, 100)
    assert budget.allow(ME, 60, NOON)
    assert not budget.allow(ME, 50, NOON)
    budget.settle(ME, 60, actual, NOON)
    assert budget.allow(ME, 50, NOON) == bool(more)


def test_settling_what_was_never_allowed_gives_nothing() -> None:
    budget = HedgeBudget(1.0, 100)
    budget.settle(ME, 60, 0, NOON)
    assert budget.allow(ME, 100, NOON)
    budget.settle(ME, 10**9, 0, NOON)
    assert not budget.allow(ME, 101, NOON)


def test_accounts_do_not_spend_each_others() -> None:
    budget = HedgeBudget(0.05, 100)
    assert hedges_of(budget, 50, 10) == 10
    assert budget.allow("other", 100, NOON)


def test_a_day_of_utc_begins_with_all_of_it() -> None:
    budget = HedgeBudget(0.05, 100)
    end = NOON + DAY_S / 2
    assert hedges_of(budget, 20, 10, end - 0.001) == 10
    assert hedges_of(budget, 20, 10, end) == 10
    assert hedges_of(budget, 20, 0, end - 0.001) == 1, "a clock set back over midnight goes on with the day"
    assert hedges_of(budget, 20, 0, end - 2 * DAY_S) == 10, "one that was wrong by days is believed"


@pytest.mark.parametrize("actual", [0, 90, 500])
def test_a_hedge_of_yesterday_is_no_money_of_today(actual: int) -> None:
    budget = HedgeBudget(1.0, 100)
    assert budget.allow(ME, 100, NOON)
    assert budget.allow(ME, 60, NOON + DAY_S)
    budget.settle(ME, 100, actual, NOON)
    assert not budget.allow(ME, 41, NOON + DAY_S)
    assert budget.allow(ME, 40, NOON + DAY_S)


def test_when_the_table_is_full_new_accounts_do_without() -> None:
    budget = HedgeBudget(0.05, 100, accounts_max=2)
    for name in ("a", "b", "c", "d"):
        budget.earn(name)
    assert [budget.allow(name, 10, NOON) for name in ("a", "b", "c", "a", "d")] == [True, True, False, True, False]
    assert budget.levels() == HedgeLevels(allowed=3, refused_share=0, refused_money=0, refused_room=2, accounts=2)
    assert budget.allow("c", 10, NOON + DAY_S)
    assert budget.levels().accounts == 1


def test_new_settings_keep_what_was_spent() -> None:
    budget = HedgeBudget(0.5, 100)
    assert hedges_of(budget, 8, 10) == 8
    budget.configure(0.5, 85)
    assert not budget.allow(ME, 6, NOON)
    assert budget.allow(ME, 5, NOON)
    budget.configure(0.0, None)
    assert hedges_of(budget, 50) == 0


class HedgeMachine(RuleBasedStateMachine):
    """Three accounts and two places, days and a clock that is set; against a replay of all events since the day began."""

    SHARE, MONEY, PLACES = Fraction(3, 10), 1000, 2

    def __init__(self) -> None:
        super().__init__()
        self.made = HedgeBudget(0.3, self.MONEY, accounts_max=self.PLACES)
        self.wall, self.set_s = NOON, 0
        self.day = 0
        self.events: list[tuple[str, str]] = []  # of the day: who called or hedged
        self.hedges: list[list[object]] = []  # of the day, unsettled: who, estimate, wall
        self.older: list[list[object]] = []
        self.money: Counter[str] = Counter()
        self.over: Counter[str] = Counter()  # what hedges cost beyond their estimates

    def tokens(self, who: str) -> Fraction:
        tokens = Fraction(BURST)
        for name, what in self.events:
            if name == who:
                tokens = min(Fraction(BURST), tokens + self.SHARE) if what == "call" else tokens - 1
        return tokens

    def hedgers(self) -> set[str]:
        return {name for name, what in self.events if what == "hedge"}

    @rule(who=st.sampled_from("abc"), calls=st.integers(1, 30))
    def call(self, who: str, calls: int) -> None:
        for _ in range(calls):
            self.made.earn(who)
            self.events.append((who, "call"))

    @rule(who=st.sampled_from("abc"), cost=st.sampled_from([0, 1, 50, 99, 400, 1000, 1001]), times=st.integers(1, 12))
    def hedge(self, who: str, cost: int, times: int) -> None:
        day = int(self.wall // DAY_S)
        if day not in {self.day, self.day - 1}:
            self.day, self.events, self.money, self.over = day, [], Counter(), Counter()
            self.older += self.hedges
            self.hedges = []
        for _ in range(times):
            room = who in self.hedgers() or len(self.hedgers()) < self.PLACES
            expected = self.tokens(who) >= 1 and self.money[who] + cost <= self.MONEY and room
            assert self.made.allow(who, cost, self.wall) == expected
            if expected:
                self.events.append((who, "hedge"))
                self.money[who] += cost
                self.hedges.append([who, cost, self.wall])

    @precondition(lambda self: self.hedges)
    @rule(which=st.integers(0, 99), actual=st.sampled_from([0, 0, 1, 50, 450]))
    def settle(self, which: int, actual: int) -> None:
        who, cost, wall = self.hedges.pop(which % len(self.hedges))
        assert isinstance(who, str)
        assert isinstance(cost, int)
        assert isinstance(wall, float)
        self.made.settle(who, cost, actual, wall)
        if wall // DAY_S == self.day:
            self.money[who] += actual - cost
            self.over[who] += max(0, actual - cost)

    @precondition(lambda self: self.older)
    @rule()
    def settle_of_another_day(self) -> None:
        who, cost, wall = self.older.pop()
        assert isinstance(who, str)
        assert isinstance(cost, int)
        assert isinstance(wall, float)
        self.made.settle(who, cost, 0, wall)

    @rule(step_s=st.sampled_from([60, 3600, 11 * 3600, DAY_S]))
    def pass_time(self, step_s: int) -> None:
        self.wall += step_s

    @precondition(lambda self: self.set_s == 0)
    @rule()
    def set_clock_back(self) -> None:
        self.set_s = 7200
        self.wall -= 7200

    @precondition(lambda self: self.set_s)
    @rule()
    def set_clock_forward(self) -> None:
        self.set_s = 0
        self.wall += 7200

    @invariant()
    def neither_budget_is_exceeded(self) -> None:
        for who in "abc":
            calls = sum(each == (who, "call") for each in self.events)
            hedges = sum(each == (who, "hedge") for each in self.events)
            assert hedges <= BURST + self.SHARE * calls
            assert self.money[who] <= self.MONEY + self.over[who]


def test_hedges_never_exceed_either_budget() -> None:
    run_state_machine_as_test(HedgeMachine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))


# --- further attempts


def test_a_small_teams_fallbacks_are_never_refused() -> None:
    budget = RetryBudget()
    for minute in range(600):
        budget.earn(minute * 60.0)
        assert all(budget.spend(provider, minute * 60.0) for provider in "abcde" for _key in range(3))


def test_the_reserve_is_there_without_calls() -> None:
    budget = RetryBudget()
    assert sum(budget.spend("a", 0.0) for _ in range(200)) == RESERVE_PER_S * WINDOW_S
    assert not budget.spend("a", 9.99)
    assert budget.spend("a", 10.0)
    assert budget.spend("b", 0.0)


@pytest.mark.parametrize(
    ("share", "reserve_per_s", "calls", "expected"),
    [(0.2, 0, 9, 1), (0.2, 0, 4, 0), (1.0, 1, 5, 15), (0.0, 0, 99, 0), (0.0, 0.5, 0, 5), (0.3, 0.19, 1, 2)],
)
def test_calls_earn_their_share(share: float, reserve_per_s: float, calls: int, expected: int) -> None:
    budget = RetryBudget(share, reserve_per_s)
    for _ in range(calls):
        budget.earn(3.0)
    assert sum(budget.spend("a", 3.5) for _ in range(200)) == expected
    assert budget.levels(3.5) == {"a": 0}
    assert budget.levels(99.0) == {"a": int(reserve_per_s * 10)}


@pytest.mark.parametrize(
    ("content_after_s", "per_window"), [(None, 300), (0.0, 1000), (1.0, 1000), (2.5, 1000), (20.0, 300)]
)
def test_a_healthy_standby_takes_over_and_a_dying_one_is_spared(content_after_s: float | None, per_window: int) -> None:
    """A hundred calls a second, the first provider dead: each call wants to go on to the second."""
    budget, answers = RetryBudget(), list[tuple[float, float]]()
    made: Counter[int] = Counter()
    for call in range(6000):
        now = call / 100
        budget.earn(now)
        while answers and answers[0][0] <= now:
            budget.give_back("second", answers.pop(0)[1])
        if budget.spend("second", now):
            made[int(now)] += 1
            if content_after_s is not None:
                answers.append((now + content_after_s, now))
    for first in range(10, 50):
        assert sum(made[second] for second in range(first, first + WINDOW_S)) <= per_window
    assert sum(made[second] for second in range(20, 50)) >= per_window * 3 * 0.9


def test_a_call_that_began_long_ago_takes_nothing_from_the_others() -> None:
    budget = RetryBudget(1.0, 0)
    assert not budget.spend("a", 25.0)
    for at in (25.0, 24.0, 15.0, 5.0):
        budget.earn(at)
    assert budget.levels(25.0) == {"a": 2}


def test_giving_back_twice_or_late_gives_nothing() -> None:
    budget = RetryBudget(0.0, 1)
    assert sum(budget.spend("a", 0.0) for _ in range(20)) == 10
    budget.give_back("a", 0.5)
    budget.give_back("unknown", 0.5)
    assert budget.levels(0.5) == {"a": 1}
    assert budget.spend("b", 0.0)
    for _ in range(3):
        budget.give_back("b", 0.0)
    assert budget.levels(0.5) == {"a": 1, "b": 10}
    assert sum(budget.spend("a", 11.0) for _ in range(20)) == 10
    budget.give_back("a", 0.5)
    budget.give_back("a", 1.5)
    assert budget.levels(11.0) == {"a": 0, "b": 10}


def test_new_settings_of_further_attempts_keep_what_was_spent() -> None:
    budget = RetryBudget(0.0, 1)
    assert sum(budget.spend("a", 0.0) for _ in range(7)) == 7
    budget.configure(0.0, 0)
    assert budget.levels(0.0) == {"a": 0}
    budget.configure(0.5, 1)
    budget.earn(0.0)
    budget.earn(0.0)
    assert budget.levels(0.0) == {"a": 4}


class RetryMachine(RuleBasedStateMachine):
    """Two providers; against a replay of every call and attempt."""

    SHARE, RESERVE = Fraction(1, 4), 1

    def __init__(self) -> None:
        super().__init__()
        self.made = RetryBudget(0.25, self.RESERVE)
        self.now = 0.0
        self.calls: list[float] = []
        self.open: list[tuple[str, float]] = []  # further attempts that failed, or are without content

    def within(self, at: float) -> bool:
        return int(at) > int(self.now) - WINDOW_S

    def left(self, provider: str) -> Fraction:
        earned = self.SHARE * sum(map(self.within, self.calls))
        return self.RESERVE * WINDOW_S + earned - sum(each == provider and self.within(at) for each, at in self.open)

    @rule(step=st.sampled_from([0.25, 1.0, 3.5, 9.0, 30.0]))
    def pass_time(self, step: float) -> None:
        self.now += step

    @rule(calls=st.integers(1, 12))
    def call(self, calls: int) -> None:
        for _ in range(calls):
            self.made.earn(self.now)
            self.calls.append(self.now)

    @rule(provider=st.sampled_from("ab"), times=st.integers(1, 8))
    def attempt(self, provider: str, times: int) -> None:
        for _ in range(times):
            expected = self.left(provider) >= 1
            assert self.made.spend(provider, self.now) == expected
            if expected:
                self.open.append((provider, self.now))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, 99))
    def content(self, which: int) -> None:
        self.made.give_back(*self.open.pop(which % len(self.open)))

    @invariant()
    def levels_are_what_is_left(self) -> None:
        for provider, level in self.made.levels(self.now).items():
            assert level == max(0, self.left(provider) // 1)


def test_further_attempts_never_exceed_their_budget() -> None:
    run_state_machine_as_test(RetryMachine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))
