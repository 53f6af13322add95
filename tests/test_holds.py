"""The slots of open holds: what a crash finds in them, wherever it came."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import Overloaded
from gateway.store import db, holds
from gateway.store.calls import CallRecord
from gateway.store.db import Store
from gateway.store.holds import SLOT_BYTES, SLOTS_MAX, Holds, OpenHold

HOLD = OpenHold(
    "gen-1", "req-1", 1_700_000_000.25, "acct_1", 5_000_000, "key_1", "läptop", "chat", "express", True, "openai/gpt-4o"
)
VOID = CallRecord(
    "gen-1", "req-1", 1_700_000_000.25, "acct_1", "key_1", "läptop", "chat", "express", True, "openai/gpt-4o",
    ended="crashed", code="gateway_crashed", hold_pico_usd=5_000_000,
)  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "holds"


@pytest.fixture
def slots(path: Path) -> Iterator[Holds]:
    opened = Holds(path)
    yield opened
    opened.unmap()


def after_a_crash(path: Path) -> list[CallRecord]:
    """What the next process finds. The mapped pages are the kernel's: a killed process need not flush them."""
    again = Holds(path)
    try:
        return again.found
    finally:
        again.unmap()


def test_an_open_hold_is_found_with_all_it_says(path: Path, slots: Holds) -> None:
    assert (slots.found, len(slots), slots.full) == ([], 0, False)
    slots.open(HOLD)
    assert after_a_crash(path) == [VOID]
    assert len(slots) == 1


def test_a_closed_hold_is_not_found(path: Path, slots: Holds) -> None:
    first, second = slots.open(HOLD), slots.open(HOLD._replace(gen_id="gen-2"))
    slots.close(first)
    assert [record.gen_id for record in after_a_crash(path)] == ["gen-2"]
    slots.close(second)
    assert (after_a_crash(path), len(slots)) == ([], 0)


def test_slots_are_used_again_by_longer_and_shorter_texts(path: Path, slots: Holds) -> None:
    for number, name in enumerate(["long" * 20, "s", "long" * 30, ""]):
        slot = slots.open(HOLD._replace(gen_id=f"gen-{number}", key_name=name))
        (found,) = after_a_crash(path)
        assert (found.gen_id, found.key_name) == (f"gen-{number}", name)
        slots.close(slot)


def test_a_full_table_says_so_and_takes_the_next_when_one_is_free(path: Path, slots: Holds) -> None:
    taken = [slots.open(HOLD._replace(gen_id=f"gen-{number}")) for number in range(SLOTS_MAX)]
    assert (slots.full, len(slots), len(set(taken))) == (True, SLOTS_MAX, SLOTS_MAX)
    assert {record.gen_id for record in after_a_crash(path)} == {f"gen-{number}" for number in range(SLOTS_MAX)}
    slots.close(taken[7])
    assert not slots.full
    assert slots.open(HOLD) == taken[7]


def test_a_store_has_room_for_as_many_calls_as_there_are_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls under way count, not holds: one whose body is still being read will hold credit too."""
    monkeypatch.setattr(db, "SLOTS_MAX", 6)
    with Store.open(tmp_path / "gateway.db", bytes(32), log_fd=None) as store:
        assert [store.has_room(under_way) for under_way in (0, 5, 6, 7)] == [True, True, False, False]
        monkeypatch.setattr(db, "SLOTS_MAX", SLOTS_MAX)
        assert (store.has_room(6), store.holds.full) == (True, False)


def test_a_store_refuses_a_hold_that_has_no_slot(tmp_path: Path) -> None:
    with Store.open(tmp_path / "gateway.db", bytes(32), log_fd=None) as store:
        taken = [store.open_hold(HOLD._replace(gen_id=f"gen-{number}")) for number in range(SLOTS_MAX)]
        with pytest.raises(Overloaded, match="too many calls hold credit at once; retry shortly") as told:
            store.open_hold(HOLD)
        assert told.value.retry_after_s == 1.0
        store.close_hold(taken[7])
        assert store.open_hold(HOLD) == taken[7]
        for slot in taken:
            store.close_hold(slot)


@pytest.mark.parametrize("name", ["x" * 1000, "\U0001f600" * 200, "\x01" * 100])
def test_a_text_too_long_for_a_slot_keeps_who_and_how_much(path: Path, slots: Holds, name: str) -> None:
    slots.open(HOLD._replace(gen_id="gen-0"))
    slots.open(HOLD._replace(key_name=name, model=name))
    slots.open(HOLD._replace(gen_id="gen-2"))
    found = {record.gen_id: record for record in after_a_crash(path)}
    assert set(found) == {"gen-0", "gen-1", "gen-2"}
    long = found["gen-1"]
    assert (long.account_id, long.key_id, long.hold_pico_usd, long.key_name, long.ended) == (
        "acct_1", "key_1", 5_000_000, "", "crashed",
    )  # fmt: skip


def test_cut_at_any_byte_a_slot_is_all_there_or_not_there(path: Path, slots: Holds) -> None:
    """The text goes first, its length last; whatever was in the slot before."""
    text = holds._render(HOLD)
    old = holds._render(HOLD._replace(gen_id="gen-old", key_name="o" * 60))
    steps = [*((4 + at, byte) for at, byte in enumerate(text)), *enumerate(struct.pack("<I", len(text)))]
    slots._map[4 : 4 + len(old)] = old
    for number, (at, byte) in enumerate(steps, 1):
        slots._map[at] = byte
        if number in {1, 2, len(text) // 2, len(text)} or number > len(text):
            found = after_a_crash(path)
            assert found in ([], [VOID])
            assert (found == [VOID]) == (bytes(slots._map[:4]) == struct.pack("<I", len(text)))


@pytest.mark.parametrize(
    "length", [1, 2, 30, len(holds._render(HOLD)) - 1, SLOT_BYTES - 4, SLOT_BYTES - 3, SLOT_BYTES, 2**32 - 1]
)
def test_a_wrong_length_finds_nothing(path: Path, slots: Holds, length: int) -> None:
    slot = slots.open(HOLD)
    slots._map[slot : slot + 4] = struct.pack("<I", length)
    assert after_a_crash(path) == []


@pytest.mark.parametrize("text", [b"\xff\xfe", b"{}", b"[]", b'["gen-1"]', b"7", b"null", b'["g","r",1.0'])
def test_what_we_did_not_write_is_left_out(path: Path, slots: Holds, text: bytes) -> None:
    slot = slots.open(HOLD)
    slots._map[slot : slot + 4 + len(text)] = struct.pack("<I", len(text)) + text
    slots.open(HOLD._replace(gen_id="gen-2"))
    assert [record.gen_id for record in after_a_crash(path)] == ["gen-2"]


def test_what_was_found_stays_until_it_is_forgotten(path: Path, slots: Holds) -> None:
    slots.open(HOLD)
    again = Holds(path)
    assert again.found == [VOID]
    again.unmap()
    again = Holds(path)  # cut short: found once more
    assert again.found == [VOID]
    again.forget_found()
    assert again.found == []
    again.unmap()
    assert after_a_crash(path) == []


def test_the_file_is_allocated_whole_and_not_for_others(path: Path, slots: Holds) -> None:
    assert path.stat().st_size == SLOT_BYTES * SLOTS_MAX
    assert path.stat().st_blocks * 512 >= SLOT_BYTES * SLOTS_MAX
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_without_room_is_told_at_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space left"):
        Holds(path)
    assert len(os.listdir("/proc/self/fd")) == before
