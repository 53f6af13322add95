"""The outbox: records in order, a batch kept until it is committed, and the journal and the hold slots told of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.store.calls import CallRecord
from gateway.store.holds import Holds, OpenHold
from gateway.store.journal import LINE_BYTES_MAX, Journal
from gateway.store.outbox import BATCH_ROWS_MAX, Outbox


def record(number: int) -> CallRecord:
    return CallRecord(f"gen-{number:06}", f"req-{number}", 1_700_000_000.5, "acct_1")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal", 4 * LINE_BYTES_MAX)
    yield opened
    opened.close()


@pytest.fixture
def holds(tmp_path: Path) -> Iterator[Holds]:
    opened = Holds(tmp_path / "holds")
    yield opened
    opened.unmap()


@pytest.fixture
def outbox(journal: Journal, holds: Holds) -> Outbox:
    return Outbox(journal, holds)


def open_hold(holds: Holds, number: int) -> int:
    return holds.open(
        OpenHold(f"gen-{number:06}", "req", 1_700_000_000.5, "acct_1", 7, "key_1", "k", "chat", "l", True, "m")
    )


def left_by_a_crash(path: Path) -> list[str]:
    """The calls whose slots another process would find now."""
    found = Holds(path)
    found.unmap()
    return sorted(hold.gen_id for hold in found.found)


def ids(outbox: Outbox) -> list[str]:
    return [record.gen_id for record in outbox.records]


def test_a_batch_is_kept_until_it_is_committed(outbox: Outbox) -> None:
    outbox.put(record(0), None)
    outbox.begin()
    outbox.logged = outbox.tried = True
    outbox.put(record(1), None)
    outbox.begin()  # tried again: the same batch, and what was said of it
    assert (ids(outbox), outbox.logged, outbox.tried, len(outbox)) == (["gen-000000"], True, True, 2)
    outbox.committed()
    outbox.begin()
    assert (ids(outbox), outbox.logged, outbox.tried, len(outbox)) == (["gen-000001"], False, False, 1)
    outbox.committed()
    assert len(outbox) == 0


def test_nothing_makes_an_empty_batch(outbox: Outbox) -> None:
    outbox.begin()
    outbox.committed()
    assert (outbox.records, len(outbox), list(outbox.unlogged())) == ([], 0, [])


@pytest.mark.parametrize("count", [1, BATCH_ROWS_MAX, BATCH_ROWS_MAX + 1, 3 * BATCH_ROWS_MAX])
def test_all_that_was_put_goes_out_in_order(outbox: Outbox, count: int) -> None:
    for number in range(count):
        outbox.put(record(number), None)
    went: list[str] = []
    while len(outbox):
        outbox.begin()
        assert 0 < len(outbox.records) <= BATCH_ROWS_MAX
        assert outbox.has_another_batch == (len(outbox) - len(outbox.records) >= BATCH_ROWS_MAX)
        went += ids(outbox)
        outbox.committed()
    assert went == [record(number).gen_id for number in range(count)]


def test_what_has_no_line_in_the_log_yet(outbox: Outbox) -> None:
    outbox.put(record(0), None)
    outbox.begin()
    outbox.put(record(1), None)
    assert [call.gen_id for call in outbox.unlogged()] == ["gen-000000", "gen-000001"]
    outbox.logged = True
    assert [call.gen_id for call in outbox.unlogged()] == ["gen-000001"]


def test_lines_are_released_by_the_commit_and_not_before(outbox: Outbox, journal: Journal) -> None:
    segment = journal.write(record(0))
    outbox.put(record(0), segment)
    outbox.put(record(1), None)
    outbox.put(record(2), journal.write(record(2)))
    outbox.begin()
    assert segment.uncommitted == 2
    outbox.committed()
    assert segment.uncommitted == 0


def test_a_crash_finds_the_slots_until_the_commit(outbox: Outbox, holds: Holds, tmp_path: Path) -> None:
    for number in range(3):
        outbox.put(record(number), None, open_hold(holds, number) if number != 1 else None)
    outbox.begin()
    outbox.put(record(3), None, open_hold(holds, 3))
    waiting = ["gen-000000", "gen-000002", "gen-000003"]
    assert (len(holds), left_by_a_crash(tmp_path / "holds")) == (3, waiting)
    outbox.tried = True  # the commit failed
    outbox.begin()
    assert (len(holds), left_by_a_crash(tmp_path / "holds")) == (3, waiting)
    outbox.committed()
    assert (len(holds), left_by_a_crash(tmp_path / "holds")) == (1, ["gen-000003"])
    outbox.begin()
    outbox.committed()
    assert (len(holds), left_by_a_crash(tmp_path / "holds")) == (0, [])


def test_a_slot_is_closed_once(outbox: Outbox, holds: Holds) -> None:
    """Its next owner keeps it, whatever is committed after."""
    slot = open_hold(holds, 0)
    outbox.put(record(0), None, slot)
    outbox.begin()
    outbox.committed()
    assert open_hold(holds, 1) == slot
    outbox.begin()
    outbox.committed()
    outbox.put(record(2), None)
    outbox.begin()
    outbox.committed()
    assert len(holds) == 1


async def test_waiting_ends_with_the_commit_of_all_that_was_put_before(
    outbox: Outbox, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    done: list[int] = []

    async def wait(number: int) -> None:
        await outbox.wait_committed()
        done.append(number)

    await outbox.wait_committed()  # nothing was put
    for number in range(BATCH_ROWS_MAX + 1):
        outbox.put(record(number), None)
        if number in {0, BATCH_ROWS_MAX - 1, BATCH_ROWS_MAX}:
            nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
    assert done == []
    outbox.begin()
    await trio.testing.wait_all_tasks_blocked()
    assert done == []
    outbox.committed()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(done) == [0, BATCH_ROWS_MAX - 1]
    outbox.begin()
    outbox.committed()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(done) == [0, BATCH_ROWS_MAX - 1, BATCH_ROWS_MAX]


async def test_a_waiter_that_is_cancelled_holds_nobody_up(
    outbox: Outbox, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    outbox.put(record(0), None)
    with trio.move_on_after(1) as scope:
        await outbox.wait_committed()
    assert scope.cancelled_caught
    event = trio.Event()

    async def wait() -> None:
        await outbox.wait_committed()
        event.set()

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    outbox.begin()
    outbox.committed()
    await event.wait()
