"""Laws of the plan over random catalogues, worlds and requests; `tests.plan_cases` tells its rules once more, slowly."""

from __future__ import annotations

from itertools import combinations, groupby

from hypothesis import given, settings

from gateway.core.call import Attempt
from gateway.errors import AllFailed, GatewayError
from gateway.route.order import Placed
from tests.plan_cases import Case, cases
from tests.plans import NOW, placed, short

RESTING = {"open", "probing"}
MANY = settings(max_examples=200)
Name = tuple[str, str, str, int]


def plan_of(case: Case) -> list[Placed] | GatewayError:
    try:
        return placed(
            case.wishes, case.catalog, case.at, draw=case.draw, warm=case.warm, prompt_tokens=case.prompt_tokens
        )
    except GatewayError as error:
        return error


def found_of(case: Case) -> list[Placed]:
    plan = plan_of(case)
    return [] if isinstance(plan, GatewayError) else plan


def may_serve(case: Case) -> list[list[Attempt]]:
    """Of each model of the request who may serve, whatever the breakers say; of all together without partition."""
    models = [
        [attempt for attempt in case.attempts(name) if not case.excluded(attempt, free=free)]
        for name, free in case.models()
    ]
    return [[attempt for attempts in models for attempt in attempts]] if case.together else models


def rests(case: Case, attempt: Attempt) -> bool:
    return case.states[attempt.target] in RESTING


def name(attempt: Attempt) -> Name:
    return (attempt.model.id, *attempt.target)


def fits(case: Case, attempt: Attempt) -> bool:
    return case.prompt_tokens <= (attempt.offer.context_window or attempt.model.context_window)


@MANY
@given(cases())
def test_who_is_in_the_plan(case: Case) -> None:
    """Nobody whom the request excludes or whose breaker is open, nobody twice, and all others."""
    found = [each.attempt for each in found_of(case)]
    names = {name(attempt) for attempt in found}
    assert len(names) == len(found)
    assert not [attempt for attempt in found if rests(case, attempt)]
    served = may_serve(case)
    assert names <= {name(attempt) for attempts in served for attempt in attempts}
    for attempts in served:
        ready = [attempt for attempt in attempts if not rests(case, attempt)]
        if case.one_only and ready:  # one endpoint, with all its keys that do not rest
            kept = {attempt.endpoint for attempt in ready if name(attempt) in names}
            assert len(kept) == 1
            ready = [attempt for attempt in ready if attempt.endpoint in kept]
        assert {name(attempt) for attempt in ready} <= names


@given(cases())
def test_who_gets_no_plan_is_told_why(case: Case) -> None:
    error = plan_of(case)
    if not isinstance(error, GatewayError):
        return
    served = [attempt for attempts in may_serve(case) for attempt in attempts]
    if served:
        assert isinstance(error, AllFailed)
        assert all(rests(case, attempt) for attempt in served)
        least_s = min(case.at.health.retry_after_s(attempt.target, NOW) for attempt in served)
        assert (error.status, error.retry_after_s) == (503, max(least_s, 1.0))
        return
    first, free = case.models()[0]
    attempts = case.attempts(first)
    reasons = {reason for attempt in attempts for reason in case.excluded(attempt, free=free)}
    constrained = any(not reason.startswith("-") for reason in reasons)
    assert error.status == (503 if not attempts else 404 if constrained else 400)
    assert error.param != "free"


@MANY
@given(cases())
def test_in_which_order(case: Case) -> None:
    """A half-open endpoint may have gone ahead within its model when the order is ours, or to the end."""
    plan = found_of(case)
    if not case.together:
        models = [model for model, _ in groupby(plan, key=lambda each: each.attempt.model.id)]
        assert models == [model for model, _ in case.models() if model in models]
    steady = [each for each in plan if case.states[each.attempt.target] != "half_open"]
    for _, group in groupby(steady, key=lambda each: None if case.together else each.attempt.model.id):
        of_model = list(group)
        for one, after in combinations(of_model, 2):
            assert not case.is_before(after.attempt, one.attempt)
            if one.reason == after.reason == "fallback" and not case.provider.get("order"):
                alike = case.place(one.attempt) == case.place(after.attempt)
                assert not (alike and case.is_cheaper(after.attempt, one.attempt))


@given(cases())
def test_reasons_are_true(case: Case) -> None:
    order = case.provider.get("order", [])
    for each in found_of(case):
        attempt = each.attempt
        listed = attempt.model.balance == "order"
        true = {
            "only": True,
            "probe": case.states[attempt.target] == "half_open",
            "provider.order": case.named(order, attempt),
            f"sort:{case.sort}": not order,
            "outage": attempt.endpoint in case.failing and not listed,
            "affinity": (case.warm or "").startswith(f"{short(attempt)}@{attempt.slug}#"),
            "listed": listed,
            "price": not listed and attempt.endpoint not in case.failing,
            "fallback": bool(order) or attempt.endpoint not in case.failing,
        }
        assert true[each.reason], each


@given(cases())
def test_it_depends_on_nothing_else(case: Case) -> None:
    first, again = plan_of(case), plan_of(case)
    assert (str(first), again) == (str(again), again if isinstance(first, GatewayError) else first)
    if case.sort is not None and not case.provider.get("order"):
        case.draw = 1.0 - case.draw if case.draw else 0.5
        assert found_of(case) == ([] if isinstance(first, GatewayError) else first)
