"""The limiter's table: bounded, swept a little at a time, and never without a limit that is live."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from gateway.admit import shards
from gateway.admit.limiter import Level, Ticket
from gateway.admit.limits import Limits
from gateway.admit.shards import Counter
from gateway.errors import Overloaded
from tests.limiting import NOON, account, key, limiter, refused, sweep

ALIVE: list[tuple[str, Limits, Callable[[Ticket], None]]] = [
    ("a bucket of requests", Limits(rpm=1), lambda ticket: ticket.release(0, 0.0)),
    ("a bucket of tokens", Limits(tpm=100), lambda ticket: ticket.release(100, 0.0)),
    ("a debt", Limits(tpm=100), lambda ticket: ticket.release(1000, 0.0)),
    ("calls of the day", Limits(rpd=1), lambda ticket: ticket.release(0, 0.0)),
    ("a call under way", Limits(concurrency=1), lambda _ticket: None),
]


@pytest.mark.parametrize(("limits", "finish"), [row[1:] for row in ALIVE], ids=[row[0] for row in ALIVE])
def test_a_full_table_refuses_the_new_and_keeps_each_live_limit(
    limits: Limits, finish: Callable[[Ticket], None]
) -> None:
    made = limiter(keys_max=500)
    names = [Level(f"key:{index}", limits) for index in range(500)]
    for level in names:
        finish(made.admit([level], 100, 0.0, NOON))
    for index in range(100):
        with pytest.raises(Overloaded) as caught:
            made.admit([Level(f"key:new{index}", limits)], 0, 0.0, NOON)
        assert caught.value.status == 503
        assert "keys_in_memory_max" in caught.value.message
    assert len(made) == 500
    for level in names:
        refused(made, [level], 100, 0.0)


def test_a_full_table_that_refuses_has_consumed_nothing() -> None:
    made, known = limiter(keys_max=2), key(rpm=2, rpd=2, tpm=2, concurrency=2)
    made.admit([known, key("z", rpm=1)], 1, 0.0, NOON).release(1, 0.0)
    before = made.standing([known], 0.0, NOON)
    with pytest.raises(Overloaded):
        made.admit([known, account(rpm=1)], 1, 0.0, NOON)
    assert made.standing([known], 0.0, NOON) == before
    made.admit([known], 1, 0.0, NOON)


def test_idle_entries_make_room_and_the_table_stays_bounded() -> None:
    made = limiter(keys_max=2000)
    now = 0.0
    for index in range(20_000):
        now += 0.1
        made.admit([key(str(index), rpm=60, tpm=600)], 10, now, NOON).release(10, now)
        assert len(made) <= 2000
    # A bucket is full again after a second: ten names are live at a time.
    sweep(made, now, NOON)
    assert len(made) == 10
    assert sum(map(len, made._shards.dicts)) == 10


def test_the_hand_looks_at_few_entries_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    idle = Counter.idle

    def counted(self: Counter, now_ns: int, today: int) -> bool:
        nonlocal looks
        looks += 1
        return idle(self, now_ns, today)

    monkeypatch.setattr(Counter, "idle", counted)
    made = limiter(keys_max=3000)
    for index in range(3000):
        looks = 0
        made.admit([key(str(index), rpd=1)], 0, 0.0, NOON).release(0, 0.0)
        assert looks <= shards.LOOKS
    for _ in range(20):
        looks = 0
        with pytest.raises(Overloaded):
            made.admit([key("new", rpd=1), account(rpd=1)], 0, 0.0, NOON)
        assert looks <= shards.LOOKS_WHEN_FULL + 2 * shards.LOOKS
    # The next day all are idle.
    looks = 0
    made.admit([key("new", rpd=1), account(rpd=1)], 0, 0.0, NOON + 86_400)
    assert 0 < looks <= 2 * shards.LOOKS
    assert len(made) <= 3000


def test_the_hand_does_not_take_the_idle_entry_of_the_call_itself() -> None:
    own = key(rpm=1)
    for index in range(300):  # wherever the hand stands
        made = limiter(keys_max=2)
        made.admit([own], 0, 0.0, NOON).release(0, 0.0)
        made._shards._shard = index % shards.SHARDS
        made.admit([own, account(rpm=9)], 0, 100.0, NOON)
        assert len(made) == 2
        refused(made, [own], 0, 100.0)


def test_an_entry_is_small_and_unknown_to_the_garbage_collector() -> None:
    made = limiter(keys_max=100_000)
    for index in range(50_000):
        made.admit([key(f"key_{index:022d}", rpm=9, rpd=9, tpm=9000, concurrency=9)], 10, 1e6, NOON).release(11, 1e6)
    assert len(made) == 50_000
    assert made.memory_bytes() / len(made) < 300
    assert max(map(len, made._shards.dicts)) < 3 * 50_000 / shards.SHARDS, "the shards are uneven"
    assert not gc.is_tracked(next(iter(next(filter(None, made._shards.dicts)).values())))
