"""The gate: rates, credit and spend cap are one decision, and a refused call has consumed nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admit.credit import NOTHING, Spent, periods
from gateway.admit.gate import Admission, Gate, limits_of
from gateway.admit.limiter import Limiter
from gateway.admit.limits import Allowance, Limits
from gateway.config import Plan
from gateway.core.money import PICO_PER_USD, PicoUsd
from gateway.core.principal import Account, Principal
from gateway.errors import GatewayError, Overloaded, PaymentRequired, RateLimited, SpendLimitReached

WALL = 1_767_571_200.0  # 2026-01-05, a Monday
DAY_S = 86_400
USD = PICO_PER_USD
PLANS = {"free": Plan(rpm=20, rpd=200), "paid": Plan(rpm=200, tpm=1000, concurrency=3)}
POSTPAID, PREPAID = Account("a"), Account("a", prepaid=True)


def who(account: Account = PREPAID, key: str = "k", **terms: Any) -> Principal:
    return Principal(key, account, "a key", **terms)


def gate_with(balance: int = 0, spent: Spent = NOTHING) -> Gate:
    gate = Gate(Limiter(day_zone="UTC", keys_max=100), wall=WALL)
    gate.load({"a": balance}, [("k", spent)])
    return gate


def admit(gate: Gate, principal: Principal, *, hold: int = 0, tokens: int = 1, now: float = 0.0) -> Admission:
    return gate.admit(principal, PLANS, tokens=tokens, hold=hold, now=now, wall=WALL + now)


def settle(admission: Admission, cost: int, tokens: int = 1, now: float = 0.0) -> None:
    admission.settle(cost, tokens, began=periods(WALL), now=now)


@pytest.mark.parametrize(
    ("balance", "hold", "passes"),
    [(0, 0, True), (0, 1, False), (5, 5, True), (5, 6, False), (-5, 0, True), (-5, 1, False)],
)
def test_a_prepaid_account_holds_what_it_has(balance: int, hold: int, passes: bool) -> None:
    gate = gate_with(balance)
    if passes:
        assert admit(gate, who(), hold=hold).hold == hold
        assert gate.balance("a") == (balance, hold)
    else:
        with pytest.raises(PaymentRequired):
            admit(gate, who(), hold=hold)
        assert gate.balance("a") == (balance, 0)


def test_holds_of_all_keys_come_out_of_one_balance() -> None:
    gate = gate_with(10)
    first = admit(gate, who(key="one"), hold=6)
    with pytest.raises(PaymentRequired):
        admit(gate, who(key="two"), hold=5)
    settle(first, 5)
    assert gate.balance("a") == (5, 0)
    admit(gate, who(key="two"), hold=5)
    assert gate.held() == 5


@pytest.mark.parametrize("cost", [0, 3, 6, 9])
def test_a_call_is_settled_once_for_less_as_much_or_more_than_its_hold(cost: int) -> None:
    gate = gate_with(10)
    admission = admit(gate, who(), hold=6)
    settle(admission, cost)
    assert (gate.balance("a"), gate.spent("k", WALL)) == ((10 - cost, 0), Spent(cost, cost, cost, cost))
    with pytest.raises(AssertionError, match="once"):
        settle(admission, cost)
    assert gate.balance("a") == (10 - cost, 0)


def test_an_account_that_pays_afterwards_holds_nothing_and_owes() -> None:
    gate = gate_with()
    admission = admit(gate, who(POSTPAID), hold=10**15)
    assert (admission.hold, gate.held()) == (0, 0)
    settle(admission, 7)
    assert gate.balance("a") == (-7, 0)


@pytest.mark.parametrize(
    ("reset", "already"), [(None, Spent(90, 0, 0, 0)), ("daily", Spent(500, 90, 300, 400)),
                           ("weekly", Spent(500, 0, 90, 400)), ("monthly", Spent(500, 0, 0, 90))],
)  # fmt: skip
def test_a_spend_limit_counts_its_period_and_what_is_held(reset: Any, already: Spent) -> None:
    gate = gate_with(10_000, already)
    principal = who(POSTPAID, spend_limit=PicoUsd(100), limit_reset=reset)
    first = admit(gate, principal, hold=10)
    assert first.hold == 10
    with pytest.raises(SpendLimitReached):
        admit(gate, principal, hold=1)
    settle(first, 4)
    admit(gate, principal, hold=6)
    with pytest.raises(SpendLimitReached):
        admit(gate, principal, hold=1)


def test_a_spend_limit_begins_anew() -> None:
    gate = gate_with(0, Spent(100, 100, 100, 100))
    principal = who(POSTPAID, spend_limit=PicoUsd(100), limit_reset="daily")
    with pytest.raises(SpendLimitReached):
        admit(gate, principal, hold=1, now=DAY_S - 0.001)
    admit(gate, principal, hold=100, now=DAY_S)


def test_what_costs_nothing_passes_an_empty_purse_and_a_limit_that_is_reached() -> None:
    gate = gate_with(0, Spent(100, 100, 100, 100))
    settle(admit(gate, who(spend_limit=PicoUsd(100))), 0)
    assert gate.spent("k", WALL) == Spent(100, 100, 100, 100)


@pytest.mark.parametrize(
    ("principal", "hold", "message"),
    [
        (
            who(),
            3 * USD,
            (
                "insufficient balance: this call may cost up to $3, and $2.5 is available; add credit, or ask for fewer "
                "max_tokens"
            ),
        ),
        (
            who(spend_limit=PicoUsd(2 * USD), limit_reset="monthly"),
            USD,
            (
                "the key's monthly spend limit of $2 is reached: this call may cost up to $1, and $0.75 is left; raise the "
                "limit, or ask for fewer max_tokens"
            ),
        ),
        (
            who(spend_limit=PicoUsd(USD)),
            USD,
            (
                "the key's spend limit of $1 is reached: this call may cost up to $1, and $0 is left; raise the limit, or "
                "ask for fewer max_tokens"
            ),
        ),
    ],
)
def test_what_a_refused_caller_is_told(principal: Principal, hold: int, message: str) -> None:
    gate = gate_with(25 * USD // 10, Spent(5 * USD, 0, 0, 125 * USD // 100))
    with pytest.raises(PaymentRequired) as told:
        admit(gate, principal, hold=hold)
    assert told.value.message == message


def test_a_balance_below_zero_is_told_as_nothing_available() -> None:
    with pytest.raises(PaymentRequired, match=r"and \$0 is available"):
        admit(gate_with(-USD), who(), hold=1)


@pytest.mark.parametrize(
    ("principal", "balance", "hold", "error"),
    [
        (who(rpm=5), 0, 1, PaymentRequired),
        (who(rpm=5, spend_limit=PicoUsd(3)), 10, 4, SpendLimitReached),
        (who(rpm=5, tpm=2), 10, 4, RateLimited),
        (who(rpm=5, plan="gone"), 10, 4, Overloaded),
        (who(Account("a", plan="gone", prepaid=True), rpm=5), 10, 4, Overloaded),
    ],
)
def test_a_refused_call_consumes_nothing(
    principal: Principal, balance: int, hold: int, error: type[GatewayError]
) -> None:
    gate = gate_with(balance)
    for _ in range(10):
        with pytest.raises(error):
            admit(gate, principal, hold=hold, tokens=3)
    assert (gate.balance("a"), gate.held(), gate.spent("k", WALL)) == ((balance, 0), 0, NOTHING)
    plain = who(rpm=5)
    for _ in range(5):
        admit(gate, plain)
    with pytest.raises(RateLimited, match="5 RPM"):
        admit(gate, plain)


def test_a_plan_that_is_not_configured_is_named() -> None:
    with pytest.raises(Overloaded, match=r"plan 'gone' .* add \[plans\.gone\]"):
        admit(gate_with(), who(POSTPAID, plan="gone"))


@pytest.mark.parametrize(
    ("principal", "key", "account"),
    [
        (who(POSTPAID), Limits(), Limits()),
        (who(POSTPAID, rpm=7), Limits(rpm=7), Limits()),
        (who(POSTPAID, rpm=7, plan="free"), Limits(7, 200), Limits()),
        (who(POSTPAID, rpm=70, plan="free"), Limits(20, 200), Limits()),
        (who(Account("a", plan="free")), Limits(20, 200), Limits(20, 200)),
        (who(Account("a", plan="free"), plan="paid"), Limits(200, None, 1000, 3), Limits(20, 200)),
        (who(Account("a", plan="paid"), concurrency=9, tpm=9), Limits(200, None, 9, 3), Limits(200, None, 1000, 3)),
    ],
)
def test_the_tightest_of_plan_and_key_wins(principal: Principal, key: Limits, account: Limits) -> None:
    assert limits_of(principal, PLANS) == (key, account)


def test_new_terms_count_from_the_next_call_on() -> None:
    gate = gate_with()
    for _ in range(2):
        admit(gate, who(POSTPAID, rpm=4))
    # A bucket that is half empty is half empty under another limit.
    assert gate.standing(who(POSTPAID, rpm=6), PLANS, now=0, wall=WALL).requests == Allowance(6, 3, 30_000)
    for _ in range(3):
        admit(gate, who(POSTPAID, rpm=6))
    with pytest.raises(RateLimited, match="6 RPM"):
        admit(gate, who(POSTPAID, rpm=6))
    on_plan = who(POSTPAID, key="another", plan="free")
    gate.admit(on_plan, PLANS, tokens=1, hold=0, now=0, wall=WALL)
    with pytest.raises(RateLimited, match="1 RPM"):
        gate.admit(on_plan, {"free": Plan(rpm=1)}, tokens=1, hold=0, now=0, wall=WALL)


def test_tokens_are_trued_up_and_the_place_is_free_again() -> None:
    gate = gate_with()
    principal = who(POSTPAID, tpm=600, concurrency=1)
    admission = admit(gate, principal, tokens=600)
    with pytest.raises(RateLimited):
        admit(gate, principal, tokens=1)
    settle(admission, 0, tokens=100)
    standing = gate.standing(principal, PLANS, now=0, wall=WALL)
    assert standing.tokens == Allowance(600, 500, 10_000)
    assert admit(gate, principal, tokens=500).standing(0).tokens == Allowance(600, 0, 60_000)


def test_credit_from_outside_comes_into_the_purse() -> None:
    gate = gate_with(5)
    gate.apply("a", 10)
    gate.apply("another", 3)
    assert (gate.balance("a"), gate.balance("another"), gate.balance("nobody")) == ((15, 0), (3, 0), (0, 0))
    gate.apply("a", -20)
    assert gate.balance("a") == (-5, 0)


def test_a_key_that_never_called_has_spent_nothing() -> None:
    assert gate_with().spent("another", WALL) == NOTHING


def test_the_periods_of_a_beginning_may_lie_before_those_of_now() -> None:
    gate = gate_with()
    principal = who(POSTPAID, spend_limit=PicoUsd(100), limit_reset="daily")
    late = admit(gate, principal, hold=60, now=DAY_S - 1)
    admit(gate, principal, hold=40, now=DAY_S)  # what is held counts in the day that has begun
    late.settle(60, 1, began=gate.period_of(WALL + DAY_S - 1), now=DAY_S + 1)
    assert gate.spent("k", WALL + DAY_S + 1) == Spent(60, 0, 60, 60)
    admit(gate, principal, hold=60, now=DAY_S + 2)


@pytest.mark.parametrize("reset", ["daily", "weekly", "monthly", None])
@pytest.mark.parametrize("back_s", [3600, DAY_S, 40 * DAY_S])
def test_a_clock_that_was_ahead_leaves_no_time_without_a_limit(reset: Any, back_s: int) -> None:
    gate = gate_with()
    principal = who(POSTPAID, spend_limit=PicoUsd(100), limit_reset=reset)

    def call(wall: float, cost: int) -> None:
        admission = gate.admit(principal, PLANS, tokens=1, hold=60, now=0, wall=wall)
        admission.settle(cost, 1, began=gate.period_of(wall), now=0)

    call(WALL + back_s, 1)
    call(WALL, 60)
    for later_s in range(20):
        with pytest.raises(SpendLimitReached):
            call(WALL + later_s, 60)
    assert gate.spent("k", WALL) == Spent(61, 61, 61, 61)
    if reset == "daily":
        call(WALL + DAY_S, 60)


@given(
    st.integers(0, 50),
    st.one_of(st.none(), st.integers(0, 50)),
    st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(0, 40)), max_size=60),
)
def test_never_more_is_held_than_there_is(balance: int, limit: int | None, steps: list[tuple[bool, int, int]]) -> None:
    """Against a model in plain sums; costs may pass their holds."""
    gate, principal = gate_with(balance), who(spend_limit=None if limit is None else PicoUsd(limit))
    open_calls: list[Admission] = []
    paid = 0
    for begins, hold, cost in steps:
        held = sum(admission.hold for admission in open_calls)
        if begins:
            fits = balance - paid - held >= hold and (limit is None or paid + held + hold <= limit)
            try:
                open_calls.append(admit(gate, principal, hold=hold))
            except PaymentRequired:
                assert hold
                assert not fits
            else:
                assert fits or not hold
        elif open_calls:
            settle(open_calls.pop(0), cost)
            paid += cost
        assert gate.balance("a") == (balance - paid, sum(admission.hold for admission in open_calls))
        assert gate.spent("k", WALL).total == paid
