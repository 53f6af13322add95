"""The rate limiter's edges, as tables: minutes, retries, rollback, true-up, changed limits, header fields."""

from __future__ import annotations

import copy

import pytest

from gateway.admit.headers import duration, ratelimit_headers
from gateway.admit.limiter import Level
from gateway.admit.limits import Allowance, Limits, Standing, of_plan, tightest
from gateway.config import Plan
from gateway.errors import RateLimited
from tests.limiting import FREE, NOON, account, key, limiter, refused


@pytest.mark.parametrize(
    ("given", "least"),
    [
        ([FREE], FREE),
        ([Limits(rpm=5), FREE], Limits(rpm=5)),
        ([Limits(5, 9, None, 1), Limits(6, 8, 70, None), Limits(None, None, 71, 2)], Limits(5, 8, 70, 1)),
    ],
)
def test_the_least_of_each_limit_wins(given: list[Limits], least: Limits) -> None:
    assert tightest(*given) == least


def test_a_plan_sets_limits() -> None:
    assert of_plan(Plan(rpm=1, rpd=2, tpm=3, concurrency=4)) == Limits(1, 2, 3, 4)
    assert of_plan(Plan()) == FREE


@pytest.mark.parametrize("rpm", [1, 7, 10, 59, 61, 1000])
def test_a_full_bucket_gives_the_limit_at_once_and_then_the_rate(rpm: int) -> None:
    made, level = limiter(), [key(rpm=rpm)]
    for _ in range(rpm):
        made.admit(level, 0, 5.0, NOON)
    error = refused(made, level, 0, 5.0)
    assert error.message == f"Rate limit exceeded: {rpm} RPM"
    assert error.retry_after_s == pytest.approx(60 / rpm)
    # Over any minute after that: one call an interval, never two.
    passed = 0
    for step in range(1, 10 * rpm + 1):
        try:
            made.admit(level, 0, 5.0 + step * 6.0 / rpm + 1e-6, NOON)
        except RateLimited:
            continue
        passed += 1
    assert passed == rpm


# What has gone before, at second 100: (levels, tokens of each call). Then: the call refused there, its wait and message.
RETRIES = [
    ("rpm", [key(rpm=10)], [0] * 10, 0, 6.0, "10 RPM"),
    ("tpm", [key(tpm=600)], [500], 200, 10.0, "600 TPM"),
    ("tpm to the brim", [key(tpm=600)], [1], 600, 0.1, "600 TPM"),
    ("rpd", [key(rpd=2)], [0, 0], 0, 12 * 3600.0, "2 RPD"),
    ("account rpm", [key(), account(rpm=2)], [0, 0], 0, 30.0, "2 RPM for all keys of the account together"),
    (
        "later of two levels",
        [key(rpm=4), account(rpm=3)],
        [0] * 3,
        0,
        20.0,
        "3 RPM for all keys of the account together",
    ),
    ("both full, the key's later", [key(rpm=2), account(rpm=2, tpm=9)], [0, 0], 0, 30.0, "2 RPM"),
    ("tpm later than rpm", [key(rpm=60, tpm=60)], [1] * 60, 30, 30.0, "60 TPM"),
    ("day later than minute", [key(rpm=2, rpd=2)], [0, 0], 0, 12 * 3600.0, "2 RPD"),
    (
        "minute of one, day of other",
        [key(rpm=1), account(rpd=1)],
        [0],
        0,
        12 * 3600.0,
        "1 RPD for all keys of the account together",
    ),
]


@pytest.mark.parametrize(
    ("levels", "before", "tokens", "wait_s", "message"), [row[1:] for row in RETRIES], ids=[row[0] for row in RETRIES]
)
def test_retry_after_is_exact_to_the_millisecond(
    levels: list[Level], before: list[int], tokens: int, wait_s: float, message: str
) -> None:
    made = limiter()
    for used in before:
        made.admit(levels, used, 100.0, NOON).release(used, 100.0)
    error = refused(made, levels, tokens, 100.0)
    assert (error.status, error.message) == (429, f"Rate limit exceeded: {message}")
    assert error.retry_after_s == pytest.approx(wait_s, abs=1e-6)
    assert error.retry_after_s is not None
    early, late = error.retry_after_s - 0.001, error.retry_after_s + 0.001
    refused(made, levels, tokens, 100.0 + early, NOON + early)
    made.admit(levels, tokens, 100.0 + late, NOON + late)


def test_concurrent_calls_are_counted_until_they_are_released() -> None:
    made, levels = limiter(), [key(concurrency=2)]
    first, second = (made.admit(levels, 0, 0.0, NOON) for _ in range(2))
    error = refused(made, levels, 0, 3600.0)
    assert (error.message, error.retry_after_s) == ("Rate limit exceeded: 2 concurrent calls", 1.0)
    first.release(0, 3600.0)
    first.release(0, 3600.0)
    made.admit(levels, 0, 3600.0, NOON)
    refused(made, levels, 0, 3600.0)
    second.release(0, 3600.0)
    made.admit(levels, 0, 3600.0, NOON)
    assert "1 concurrent call" in refused(made, [key(concurrency=1)], 0, 3600.0).message


@pytest.mark.parametrize("level", [key(tpm=1000), account(tpm=1000)])
def test_a_call_larger_than_a_whole_minute_is_told_that_it_can_never_pass(level: Level) -> None:
    made = limiter()
    error = refused(made, [level, key("other", rpm=1)], 1001, 0.0)
    assert error.retry_after_s is None
    assert "1000 TPM" in error.message
    assert error.message.endswith(
        "; this call alone may use 1001 tokens and can never pass: shorten it or lower max_tokens"
    )
    made.admit([level, key("other", rpm=1)], 1000, 0.0, NOON)


def test_a_refusal_of_the_second_level_takes_nothing_from_the_first() -> None:
    made = limiter()
    own, other, shared = key(rpm=5, rpd=5, tpm=500, concurrency=5), key("o", rpm=99), account(rpm=1)
    made.admit([other, shared], 0, 0.0, NOON)
    for _ in range(20):
        refused(made, [own, shared], 100, 0.0)
    assert len(made) == 2, "a refused call left an entry"
    assert made.standing([own], 0.0, NOON) == Standing(Allowance(5, 5, 0), Allowance(500, 500, 0))
    tickets = [made.admit([own], 100, 0.0, NOON) for _ in range(5)]
    assert len(tickets) == 5


def test_a_refusal_takes_nothing_from_an_entry_that_is_there() -> None:
    made = limiter()
    own, shared = key(rpm=5, rpd=5, tpm=500, concurrency=5), account(tpm=150)
    ticket = made.admit([own, shared], 100, 0.0, NOON)
    before = ticket.standing(0.0)
    for _ in range(20):
        refused(made, [own, shared], 100, 0.0)
    assert ticket.standing(0.0) == before == Standing(Allowance(5, 4, 12 * 3600 * 1000), Allowance(150, 50, 40_000))


def test_a_level_without_limits_keeps_no_state() -> None:
    made = limiter()
    for index in range(100):
        ticket = made.admit([key(str(index)), Level("account:a", FREE)], 10**9, 0.0, NOON)
        assert ticket.standing(0.0) == Standing(None, None)
        ticket.release(10**9, 1.0)
    assert len(made) == 0


@pytest.mark.parametrize(
    ("held", "used", "left", "wait_ms"),
    [(500, 500, 100, 0), (500, 50, 550, 0), (500, 0, 600, 0), (100, 700, 0, 20_000), (0, 1200, 0, 70_000)],
)
def test_tokens_are_trued_up_to_what_was_used(held: int, used: int, left: int, wait_ms: int) -> None:
    made, levels = limiter(), [key(tpm=600)]  # a token is 100 ms
    ticket = made.admit(levels, held, 0.0, NOON)
    ticket.release(used, 0.0)
    ticket.release(0, 0.0)
    assert made.standing(levels, 0.0, NOON).tokens == Allowance(600, left, used * 100)
    if wait_ms:
        assert refused(made, levels, 100, 0.0).retry_after_s == wait_ms / 1000
    else:
        made.admit(levels, left, 0.0, NOON)


def test_a_debt_counts_from_when_it_is_known() -> None:
    made, levels = limiter(), [key(tpm=600)]
    made.admit(levels, 1, 0.0, NOON).release(601, 1000.0)
    assert made.standing(levels, 1000.0, NOON).tokens == Allowance(600, 0, 60_000)


def test_a_refund_never_fills_over_the_brim() -> None:
    made, levels = limiter(), [key(tpm=600)]
    made.admit(levels, 600, 0.0, NOON).release(0, 59.0)
    made.admit(levels, 600, 59.0, NOON)
    refused(made, levels, 1, 59.0)


@pytest.mark.parametrize(
    ("before", "after", "passes"),
    [
        (Limits(rpm=1000), Limits(rpm=10), 10),
        (Limits(rpm=10), Limits(rpm=1000), 1000),
        (FREE, Limits(rpm=10), 10),
        (Limits(rpd=100), Limits(rpd=7), 7),
        (Limits(rpm=10), FREE, 50),
        (Limits(tpm=10), Limits(rpm=10, rpd=5, tpm=2**53, concurrency=9), 5),
    ],
)
def test_changed_limits_hold_from_the_next_call_on(before: Limits, after: Limits, passes: int) -> None:
    made, old, new = limiter(), [Level("key:k", before)], [Level("key:k", after)]
    made.admit(old, 0, 0.0, NOON).release(0, 0.0)
    passed = 0
    while passed < 2 * passes + 5:
        try:
            made.admit(new, 0, 0.0, NOON).release(0, 0.0)
        except RateLimited:
            break
        passed += 1
    if after == FREE:
        assert passed == 2 * passes + 5
    else:
        # The one call before is carried over: by number for days, as a share of the bucket for minutes.
        share = 1 if after.rpd == 7 else -(-passes // before.rpm) if before.rpm and after.rpm else 0
        assert passed == passes - share


def test_lowering_the_concurrent_calls_below_those_under_way_lets_them_end() -> None:
    made = limiter()
    tickets = [made.admit([key(concurrency=9)], 0, 0.0, NOON) for _ in range(5)]
    for ticket in tickets[:3]:
        refused(made, [key(concurrency=2)], 0, 0.0)
        ticket.release(0, 0.0)
    refused(made, [key(concurrency=2)], 0, 0.0)
    tickets[3].release(0, 0.0)
    made.admit([key(concurrency=2)], 0, 0.0, NOON)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, b"0s"),
        (1, b"1ms"),
        (20, b"20ms"),
        (999, b"999ms"),
        (1000, b"1s"),
        (8640, b"8.64s"),
        (10_000, b"10s"),
        (10_100, b"10.1s"),
        (59_999, b"59.999s"),
        (60_000, b"1m0s"),
        (360_000, b"6m0s"),
        (86_400, b"1m26.4s"),
        (60_005, b"1m0.005s"),
        (3_600_000, b"1h0m0s"),
        (86_399_500, b"23h59m59.5s"),
        (90_000_000, b"25h0m0s"),
    ],
)
def test_durations_are_written_as_openai_does(ms: int, text: bytes) -> None:
    assert duration(ms) == text


def test_each_limited_dimension_has_three_fields() -> None:
    assert ratelimit_headers(Standing(None, None)) == []
    assert ratelimit_headers(Standing(Allowance(60, 59, 1000), None)) == [
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"59"),
        (b"x-ratelimit-reset-requests", b"1s"),
    ]
    assert ratelimit_headers(Standing(None, Allowance(150_000, 149_984, 6))) == [
        (b"x-ratelimit-limit-tokens", b"150000"),
        (b"x-ratelimit-remaining-tokens", b"149984"),
        (b"x-ratelimit-reset-tokens", b"6ms"),
    ]


@pytest.mark.parametrize(
    ("levels", "requests", "tokens"),
    [
        ([key(rpm=60)], Allowance(60, 59, 1000), None),
        ([key(rpm=60, rpd=50)], Allowance(50, 49, 12 * 3600 * 1000), None),
        ([key(rpm=60), account(rpm=30)], Allowance(30, 29, 2000), None),
        ([key(rpm=60, tpm=6000), account(tpm=600)], Allowance(60, 59, 1000), Allowance(600, 500, 10_000)),
        ([key(rpm=60, rpd=60)], Allowance(60, 59, 12 * 3600 * 1000), None),  # as much left of both: the slower counts
        ([key(concurrency=1)], None, None),
    ],
)
def test_the_standing_is_the_tightest_of_all_levels(
    levels: list[Level], requests: Allowance | None, tokens: Allowance | None
) -> None:
    made = limiter()
    ticket = made.admit(levels, 100, 0.0, NOON)
    assert ticket.standing(0.0) == made.standing(levels, 0.0, NOON) == Standing(requests, tokens)
    assert made.standing(copy.deepcopy(levels), 3600.0, NOON).tokens == (
        tokens and Allowance(tokens.limit, tokens.limit, 0)
    )
