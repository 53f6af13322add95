"""Where conversations went last: ten minutes from the last use, the longest unused first, and never another's."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gateway.core.call import Target
from gateway.route.affinity import Affinity

A: Target = ("openai", "gpt-4o", 0)
B: Target = ("azure", "gpt-4o-eu", 1)
KEY, OTHER = b"k" * 16, b"o" * 16


@pytest.mark.parametrize(("later", "expected"), [(0.0, A), (599.9, A), (600.0, None), (9e9, None)])
def test_it_lasts_ten_minutes(later: float, expected: Target | None) -> None:
    affinity = Affinity()
    affinity.put(KEY, A, 5.0)
    assert affinity.get(KEY, 5.0 + later) == expected
    assert len(affinity) == (expected is not None)
    assert affinity.get(OTHER, 5.0) is None


def test_each_use_renews_it() -> None:
    affinity = Affinity()
    affinity.put(KEY, A, 0.0)
    for n in range(1, 10):
        assert affinity.get(KEY, n * 500.0) == A
    affinity.put(KEY, B, 5000.0)
    assert affinity.get(KEY, 5599.0) == B
    assert len(affinity) == 1


def test_a_failure_drops_what_failed_and_nothing_newer() -> None:
    affinity = Affinity()
    affinity.put(KEY, A, 0.0)
    affinity.put(OTHER, A, 0.0)
    affinity.drop(KEY, ("openai", "gpt-4o", 1))
    affinity.drop(KEY, B)
    assert affinity.get(KEY, 1.0) == A
    affinity.drop(KEY, A)
    affinity.drop(KEY, A)
    assert affinity.get(KEY, 1.0) is None
    assert affinity.get(OTHER, 1.0) == A


@pytest.mark.parametrize("use", ["get", "put"])
def test_beyond_the_bound_the_longest_unused_goes(use: str) -> None:
    affinity = Affinity(conversations_max=2)
    affinity.put(b"1", A, 0.0)
    affinity.put(b"2", A, 1.0)
    if use == "get":
        assert affinity.get(b"1", 2.0) == A
    else:
        affinity.put(b"1", A, 2.0)
    affinity.put(b"3", A, 3.0)
    assert [affinity.get(key, 3.0) for key in (b"1", b"2", b"3")] == [A, None, A]
    assert len(affinity) == 2


def test_expired_conversations_make_way_for_new_ones() -> None:
    affinity = Affinity()
    for n in range(100):
        affinity.put(b"%d" % n, A, 0.0)
    for n in range(100, 150):
        affinity.put(b"%d" % n, A, 700.0)
    assert len(affinity) == 50


def test_a_table_of_none_holds_none() -> None:
    affinity = Affinity(conversations_max=0)
    affinity.put(KEY, A, 0.0)
    assert affinity.get(KEY, 0.0) is None


KEYS = st.sampled_from([b"1", b"2", b"3", b"4", b"5"])
TARGETS = st.sampled_from([A, B])
PLACES = 3


class Machine(RuleBasedStateMachine):
    """Against a list in the order of use, from which everything expired is taken out at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.made = Affinity(PLACES, ttl_s=10.0)
        self.now = 0.0
        self.uses: list[tuple[bytes, Target, float]] = []

    def use(self, key: bytes, target: Target) -> None:
        self.uses = [each for each in self.uses if each[0] != key] + [(key, target, self.now)]

    def held(self, key: bytes) -> Target | None:
        self.uses = [each for each in self.uses if self.now < each[2] + 10.0]
        return next((target for each, target, _at in self.uses if each == key), None)

    @rule(step=st.sampled_from([0, 0, 1, 2, 5, 9, 10]))
    def pass_time(self, step: int) -> None:
        self.now += step

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        expected = self.held(key)
        assert self.made.get(key, self.now) == expected
        if expected is not None:
            self.use(key, expected)

    @rule(key=KEYS, where=TARGETS)
    def put(self, key: bytes, where: Target) -> None:
        self.made.put(key, where, self.now)
        self.held(key)
        self.use(key, where)
        self.uses = self.uses[-PLACES:]

    @rule(key=KEYS, where=TARGETS)
    def drop(self, key: bytes, where: Target) -> None:
        self.made.drop(key, where)
        if self.held(key) == where:
            self.uses = [each for each in self.uses if each[0] != key]

    @invariant()
    def is_bounded(self) -> None:
        assert len(self.made) <= PLACES


def test_it_holds_what_a_list_would_hold() -> None:
    run_state_machine_as_test(Machine, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))
