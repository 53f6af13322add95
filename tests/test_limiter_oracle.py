"""The limiter against an oracle that keeps every event and works with fractions: both must decide alike, always.

The oracle replays a counter's whole past for each question. It knows nothing of `full_at`: it counts units in a bucket
that drains. Only the size of an interval is shared knowledge: a minute by the limit, rounded up to a nanosecond.
"""

from __future__ import annotations

import copy
import math
from collections import Counter as Tally
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.admit.limiter import Level, Limiter, Ticket
from gateway.admit.limits import Allowance, Limits, Standing
from gateway.errors import RateLimited

MS = 10**6
ZONES = {  # and half an hour before a midnight, in a week of a clock change where there is one
    "America/New_York": datetime(2026, 10, 31, 23, 30, tzinfo=ZoneInfo("America/New_York")).timestamp(),
    "Africa/Cairo": datetime(2026, 4, 23, 23, 30, tzinfo=ZoneInfo("Africa/Cairo")).timestamp(),
    "Asia/Taipei": datetime(2026, 3, 1, 23, 30, tzinfo=ZoneInfo("Asia/Taipei")).timestamp(),
}


def interval(limit: int) -> int:
    return math.ceil(Fraction(60 * 10**9, limit))


class Bucket:
    """Units that were used and drain away, from every event so far. An event: when, how many, and the limit then."""

    def __init__(self) -> None:
        self.events: list[tuple[int, int, int]] = []

    def used(self, now_ns: int, limit: int) -> Fraction:
        """Units of `limit` in use; when the limit changes, the same share of time stays."""
        used, before, unit = Fraction(0), 0, 1
        for at_ns, units, then in [*self.events, (now_ns, 0, limit)]:
            used = max(Fraction(0), used - Fraction(at_ns - before, unit))
            used = max(Fraction(0), used * unit / interval(then) + units)
            before, unit = at_ns, interval(then)
        return used

    def fits(self, now_ns: int, units: int, limit: int) -> bool:
        return self.used(now_ns, limit) + units <= limit

    def allowance(self, now_ns: int, limit: int) -> Allowance:
        used = self.used(now_ns, limit)
        return Allowance(limit, max(0, math.floor(limit - used)), math.ceil(used * interval(limit) / MS))


class Memory:
    """Everything that ever happened to one name."""

    def __init__(self) -> None:
        self.requests = Bucket()
        self.tokens = Bucket()
        self.days: Tally[date] = Tally()
        self.under_way = 0


class Call:
    """An admitted call, with what it was admitted under."""

    def __init__(self, ticket: Ticket, levels: list[Level], tokens: int) -> None:
        self.ticket = ticket
        self.levels = levels
        self.tokens = tokens


LIMITS = st.builds(
    Limits,
    rpm=st.sampled_from([None, 1, 2, 7, 60]),
    rpd=st.sampled_from([None, None, 1, 3, 8]),
    tpm=st.sampled_from([None, None, 7, 100, 7000, 7000]),
    concurrency=st.sampled_from([None, None, 1, 2, 5]),
)
# Zero, single nanoseconds, intervals of the limits above, and hours.
STEPS_NS = st.one_of(
    st.integers(0, 3),
    st.integers(0, 90_000).map(lambda ms: ms * MS),
    st.sampled_from([60 // n * 10**9 + d for n in (1, 2, 60) for d in (-1, 0, 1)]),
    st.sampled_from([-(-60 * 10**9 // n) * k + d for n in (7, 100, 7000) for k in (1, 3, 7) for d in (-1, 0)]),
    st.sampled_from([1800, 3600, 6 * 3600, 24 * 3600]).map(lambda s: s * 10**9),
)
TOKENS = st.sampled_from([0, 0, 1, 2, 3, 7, 8, 50, 100, 101, 1000, 3500, 7000, 7001])
NAMES = ("key:1", "key:2", "account:1")


class Machine(RuleBasedStateMachine):
    """Two keys of one account, whose limits change, and a clock that is set; then whatever calls."""

    def __init__(self) -> None:
        super().__init__()
        self.zone = "UTC"
        self.now_ns = 0
        self.wall = 0.0
        self.set_s = 0
        self.today = date.min
        self.made = Limiter(day_zone="UTC", keys_max=100)
        self.limits = dict.fromkeys(NAMES, Limits(rpm=2, tpm=100))
        self.past = {name: Memory() for name in NAMES}
        self.calls: list[Call] = []

    def teardown(self) -> None:
        for call in self.calls:
            call.ticket.release(call.tokens, self.now)

    @property
    def now(self) -> float:
        return self.now_ns / 1e9

    def levels(self, name: str) -> list[Level]:
        return [Level(each, self.limits[each]) for each in (name, "account:1")]

    @precondition(lambda self: not self.wall)
    @rule(zone=st.sampled_from(sorted(ZONES)), limits=st.tuples(LIMITS, LIMITS, LIMITS))
    def begin(self, zone: str, limits: tuple[Limits, Limits, Limits]) -> None:
        self.zone, self.wall = zone, ZONES[zone]
        self.made = Limiter(day_zone=zone, keys_max=100)
        self.limits = dict(zip(NAMES, limits, strict=True))

    @precondition(lambda self: self.wall)
    @rule(step_ns=STEPS_NS)
    def pass_time(self, step_ns: int) -> None:
        # Whole nanoseconds that a float of seconds can carry there and back, as a monotonic clock's can.
        while int((self.now_ns + step_ns) / 1e9 * 1e9) != self.now_ns + step_ns:
            step_ns += 1
        self.now_ns += step_ns
        self.wall += step_ns / 1e9

    @precondition(lambda self: self.wall)
    @rule(hours=st.sampled_from([-1, 1]))
    def set_clock(self, hours: int) -> None:
        if abs(self.set_s + hours * 3600) <= 2 * 3600:
            self.set_s += hours * 3600
            self.wall += hours * 3600

    @precondition(lambda self: self.wall)
    @rule(name=st.sampled_from(NAMES), limits=LIMITS)
    def change(self, name: str, limits: Limits) -> None:
        self.limits[name] = limits

    @precondition(lambda self: self.wall)
    @rule(name=st.sampled_from(NAMES[:2]), tokens=st.lists(TOKENS, min_size=1, max_size=5))
    def calls_at_once(self, name: str, tokens: list[int]) -> None:
        for each in tokens:
            self.call(name, each)

    def call(self, name: str, tokens: int) -> None:
        levels = self.levels(name)
        expected = not list(self.against(levels, tokens))
        try:
            ticket = self.made.admit(levels, tokens, self.now, self.wall)
        except RateLimited as error:
            assert not expected, f"refused ({error.message}) what the oracle admits"
            self.check_refusal(error, levels, tokens)
            return
        assert expected, f"admitted against {list(self.against(levels, tokens))}"
        self.calls.append(Call(ticket, levels, tokens))
        for level in levels:
            memory, limits = self.past[level.name], level.limits
            memory.under_way += limits != Limits()
            if limits.rpm:
                memory.requests.events.append((self.now_ns, 1, limits.rpm))
            if limits.tpm:
                memory.tokens.events.append((self.now_ns, tokens, limits.tpm))
            if limits.rpd:
                memory.days[self.today] += 1
        assert ticket.standing(self.now) == self.standing(levels)

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 99), used=st.one_of(st.none(), TOKENS))
    def finish(self, which: int, used: int | None) -> None:
        call = self.calls.pop(which % len(self.calls))
        used = call.tokens if used is None else used
        call.ticket.release(used, self.now)
        for level in call.levels:
            memory = self.past[level.name]
            memory.under_way -= level.limits != Limits()
            if level.limits.tpm:
                memory.tokens.events.append((self.now_ns, used - call.tokens, level.limits.tpm))

    @precondition(lambda self: self.wall)
    @invariant()
    def the_headers_agree(self) -> None:
        # The day that has begun goes on when the clock is set back.
        self.today = max(self.today, datetime.fromtimestamp(self.wall, ZoneInfo(self.zone)).date())
        for name in NAMES[:2]:
            levels = self.levels(name)
            assert self.made.standing(levels, self.now, self.wall) == self.standing(levels)

    def against(self, levels: list[Level], tokens: int) -> Iterator[str]:
        """The limits that refuse a call now, by the oracle."""
        for level in levels:
            memory, limits = self.past[level.name], level.limits
            if limits.rpm and not memory.requests.fits(self.now_ns, 1, limits.rpm):
                yield f"{limits.rpm} RPM"
            if limits.rpd and memory.days[self.today] >= limits.rpd:
                yield f"{limits.rpd} RPD"
            if limits.tpm and not memory.tokens.fits(self.now_ns, tokens, limits.tpm):
                yield f"{limits.tpm} TPM"
            if limits.concurrency and memory.under_way >= limits.concurrency:
                yield f"{limits.concurrency} concurrent call"

    def standing(self, levels: list[Level]) -> Standing:
        """What is left, by the oracle."""
        requests, tokens = [], []
        end = datetime.combine(self.today + timedelta(days=1), datetime.min.time(), ZoneInfo(self.zone)).timestamp()
        for level in levels:
            memory, limits = self.past[level.name], level.limits
            if limits.rpm:
                requests.append(memory.requests.allowance(self.now_ns, limits.rpm))
            if limits.rpd:
                calls = memory.days[self.today]
                reset_ms = math.ceil((end - self.wall) * 1000) if calls else 0
                requests.append(Allowance(limits.rpd, max(0, limits.rpd - calls), reset_ms))
            if limits.tpm:
                tokens.append(memory.tokens.allowance(self.now_ns, limits.tpm))
        return Standing(*(min(of, key=tightest_first, default=None) for of in (requests, tokens)))

    def check_refusal(self, error: RateLimited, levels: list[Level], tokens: int) -> None:
        """It names a limit that refuses, and says when none does. (`the_headers_agree` sees that it was free.)"""
        assert error.message.startswith(tuple(f"Rate limit exceeded: {name}" for name in self.against(levels, tokens)))
        if error.retry_after_s is None:
            assert any(level.limits.tpm and tokens > level.limits.tpm for level in levels)
        elif "concurrent" not in error.message:
            for difference, passes in ((-0.001, False), (0.001, True)):
                wait_s = error.retry_after_s + difference
                later, places = copy.deepcopy(self.made), self.freed(levels)
                if wait_s > 0:
                    assert admits(later, places, tokens, self.now + wait_s, self.wall + wait_s) is passes

    def freed(self, levels: list[Level]) -> list[Level]:
        """The levels without their concurrent calls, of which nobody knows when they end."""
        return [Level(level.name, level.limits._replace(concurrency=None)) for level in levels]


def tightest_first(allowance: Allowance) -> tuple[int, int, int]:
    return allowance.remaining, -allowance.reset_ms, allowance.limit


def admits(made: Limiter, levels: list[Level], tokens: int, now: float, wall: float) -> bool:
    try:
        made.admit(levels, tokens, now, wall)
    except RateLimited:
        return False
    return True


def test_the_limiter_decides_as_the_oracle_does() -> None:
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=200, stateful_step_count=40, deadline=None, derandomize=True)
    )


@given(
    rpm=st.sampled_from([1, 3, 7, 10]),
    gaps_ms=st.lists(st.sampled_from([0, 0, 0, 1, 500, 3000, 6000, 6001, 8571, 20_000, 60_000, 90_000]), max_size=80),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_window_holds_more_than_the_limit_and_the_rate(rpm: int, gaps_ms: list[int]) -> None:
    made, level = Limiter(day_zone="UTC", keys_max=10), [Level("key:1", Limits(rpm=rpm))]
    now_ms, passed = 0, []
    for gap_ms in gaps_ms:
        now_ms += gap_ms
        if admits(made, level, 0, now_ms / 1000, 0.0):
            passed.append(now_ms)
    for first, start_ms in enumerate(passed):
        for last, end_ms in enumerate(passed[first:], first):
            assert last - first + 1 <= rpm + Fraction((end_ms - start_ms) * rpm, 60_000)


CALLS = st.lists(
    st.tuples(st.sampled_from([0, 1, 100, 2000, 30_000]), st.integers(0, 120), st.integers(0, 150)), max_size=60
)


@given(calls=CALLS)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_over_all_time_the_tokens_used_keep_to_the_rate(calls: list[tuple[int, int, int]]) -> None:
    """Each call: milliseconds after the one before, its estimate, what it used. It ends when the next but one begins."""
    tpm = 100
    made, level = Limiter(day_zone="UTC", keys_max=10), [Level("key:1", Limits(tpm=tpm))]
    now_ms, used, debt = 0, 0, 0
    under_way: list[tuple[Ticket, int]] = []
    for gap_ms, held, uses in calls:
        now_ms += gap_ms
        try:
            under_way.append((made.admit(level, held, now_ms / 1000, 0.0), uses))
        except RateLimited:
            continue
        debt += max(0, uses - held)
        if len(under_way) > 2:
            ticket, spent = under_way.pop(0)
            ticket.release(spent, now_ms / 1000)
            used += spent
        assert used <= tpm + Fraction(now_ms * tpm, 60_000) + debt


@pytest.mark.parametrize("zone", sorted(ZONES))
def test_the_machine_begins_just_before_a_midnight(zone: str) -> None:
    start = datetime.fromtimestamp(ZONES[zone], ZoneInfo(zone))
    assert (start + timedelta(minutes=31)).date() == start.date() + timedelta(days=1)
