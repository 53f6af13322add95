"""The journal: what was written is read back, whatever cut it short, and its segments come and go with their calls."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.call import AttemptNote
from gateway.store.calls import COLUMNS, CallRecord
from gateway.store.journal import LINE_BYTES_MAX, Journal, JournalFailed, Segment, read, render, segments

SEGMENT_BYTES = 4 * LINE_BYTES_MAX
FULL = CallRecord(
    "gen-1", "req-1", 1_700_000_000.25, "acct_1", "key_1", "läptop", "chat", "express", True, "openai/gpt-4o",
    "openai", "gpt-4o-2024-08-06", (AttemptNote("groq", "connect", 0, 1.5), AttemptNote("openai", "won", 200, 80.25)), 200, "",
    "complete", 11, 3, 42, 7, True, 2_500_000, 1_000_000, 81.5, 900.125, 512, 4096, 5, 17, 3_000_000, "stop",
    "chatcmpl-7", "ab" * 32,
)  # fmt: skip


def record(number: int, **more: Any) -> CallRecord:
    return CallRecord(f"gen-{number:06}", f"req-{number:06}", 1_700_000_000.5 + number, "acct_1", **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def log(folder: Path) -> Iterator[Journal]:
    opened = Journal(folder, SEGMENT_BYTES)
    yield opened
    opened.close()


def fill(log: Journal, start: int = 0) -> list[Segment]:
    """Write lines until the next would be of another segment; the segment of each."""
    size = len(render(record(0)))
    room = log._current.size_bytes - log._current.used_bytes
    return [log.write(record(start + number)) for number in range(room // size)]


def found(folder: Path, *, damaged: int = 0) -> list[str]:
    """The gen ids in all segments, which have so many damaged lines."""
    each = [read(path) for path in segments(folder)]
    assert sum(lines for _, lines in each) == damaged
    return [call.gen_id for calls, _ in each for call in calls]


def test_every_field_comes_back(folder: Path, log: Journal) -> None:
    log.write(FULL)
    log.write(record(2))
    assert [read(path) for path in segments(folder)] == [([FULL, record(2)], 0)]


def test_an_empty_segment_holds_no_calls(folder: Path, log: Journal) -> None:
    assert found(folder) == []
    assert [path.stat().st_size for path in segments(folder)] == [SEGMENT_BYTES]


def test_the_folder_is_made_and_what_is_no_segment_is_let_be(folder: Path) -> None:
    assert segments(folder) == []
    for name in ("000000000007.log", "000000000011.log", "notes.log", "000000000009.tmp"):
        (folder / name).touch()
    assert [path.stem for path in segments(folder)] == ["000000000007", "000000000011"]


def test_numbers_go_on_after_those_that_are_there(folder: Path) -> None:
    segments(folder)
    (folder / "000000000041.log").touch()
    log = Journal(folder, SEGMENT_BYTES)
    assert log._current.path.name == "000000000042.log"
    log.close()
    assert [path.name for path in segments(folder)] == ["000000000041.log"]


@pytest.mark.parametrize(
    ("asked", "lines"),
    [(0, 4), (1, 4), (4 * LINE_BYTES_MAX, 4), (18_000, 4), (5 * LINE_BYTES_MAX - 1, 4), (5 * LINE_BYTES_MAX, 5)],
)
def test_a_segment_is_a_whole_number_of_lines_and_at_least_four(folder: Path, asked: int, lines: int) -> None:
    log = Journal(folder, asked)
    sizes = [segment.size_bytes for segment in (log._current, log.make_segment())]
    assert sizes == [path.stat().st_size for path in segments(folder)] == [lines * LINE_BYTES_MAX] * 2
    log.close()


@given(st.integers(0, 400))
def test_a_line_cut_short_anywhere_ends_the_segment(cut: int) -> None:
    """It is no damage: nobody was sent the last byte of its call."""
    whole, last = render(record(1)), render(record(2))
    cut = min(cut, len(last) - 1)
    for tail in (b"", b"\0" * 50):
        assert _read_text(whole + last[:cut] + tail) == (["gen-000001"], 0)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_costs_its_line_and_no_other(at: int, bit: int) -> None:
    """One in its newline costs the line after it too; one that makes a newline leaves two halves."""
    lines = [render(record(number)) for number in range(4)]
    flipped = bytearray(lines[1])
    at %= len(flipped)
    flipped[at] ^= 1 << bit
    ids, damaged = _read_text(lines[0] + flipped + lines[2] + lines[3] + b"\0" * 50)
    newline = at == len(flipped) - 1
    assert ids == ["gen-000000"] + ["gen-000002"] * (not newline) + ["gen-000003"]
    assert damaged == flipped[:-1].count(b"\n") + 1


@pytest.mark.parametrize("line", [b"", b"7", b"zzzzzzzz []", b"0" * 9, b"\0" * 30, b"\xff" * 5000])
@pytest.mark.parametrize("times", [1, 3])
def test_what_is_no_line_of_ours_is_counted_and_skipped(line: bytes, times: int) -> None:
    junk = (line + b"\n") * times
    assert _read_text(render(record(0)) + junk + render(record(1)) + b"\0") == (["gen-000000", "gen-000001"], times)


def _read_text(text: bytes) -> tuple[list[str], int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "000000000001.log"
        path.write_bytes(text)
        calls, damaged = read(path)
        return [call.gen_id for call in calls], damaged


def test_a_line_of_an_older_version_has_fewer_columns(folder: Path) -> None:
    segments(folder)
    values = msgspec.structs.astuple(FULL)[: COLUMNS.index("cache_write_tokens")]
    text = msgspec.json.encode(values)
    (folder / "000000000001.log").write_bytes(b"%08x %b\n\0\0\0" % (crc32(text), text))
    (call,), damaged = read(folder / "000000000001.log")
    assert damaged == 0
    assert (call.gen_id, call.attempts, call.bytes_out) == (FULL.gen_id, FULL.attempts, FULL.bytes_out)
    assert (call.cache_write_tokens, call.hold_pico_usd, call.idempotency, call.upstream_id) == (0, 0, None, "")


def test_a_line_of_a_newer_version_has_more_columns(folder: Path) -> None:
    segments(folder)
    text = msgspec.json.encode([*msgspec.structs.astuple(FULL), "more"])
    (folder / "000000000001.log").write_bytes(b"%08x %b\n" % (crc32(text), text))
    assert read(folder / "000000000001.log") == ([FULL], 0)


LONG = "x" * 10_000
WIDE = "\U0001f600" * 10_000
CONTROL = "\x01" * 10_000  # six bytes each, as JSON


@pytest.mark.parametrize("text", [LONG, WIDE, CONTROL])
@pytest.mark.parametrize("field", ["model", "key_name", "upstream_model", "upstream_id", "finish_reason"])
def test_a_long_line_is_cut_and_keeps_the_money(field: str, text: str) -> None:
    call = msgspec.structs.replace(FULL, **{field: text})
    line = render(call)
    assert len(line) <= LINE_BYTES_MAX
    (read_back,) = msgspec.json.decode(b"[%b]" % line[9:-1])
    values = dict(zip(COLUMNS, read_back, strict=True))
    assert values[field] == text[:64]
    assert values["cost_pico_usd"] == FULL.cost_pico_usd
    assert getattr(call, field) == text, "the record itself is not the journal's to cut"


def test_of_many_attempts_the_last_are_kept() -> None:
    notes = tuple(AttemptNote(f"provider-{number}", "failed", 500, 1.0) for number in range(200))
    line = render(msgspec.structs.replace(FULL, attempts=notes, model=LONG, key_name=LONG, upstream_id=LONG))
    assert len(line) <= LINE_BYTES_MAX
    assert orjson.loads(line[9:])[COLUMNS.index("attempts")] == [msgspec.to_builtins(note) for note in notes[-3:]]


def test_the_next_segment_is_the_spare(folder: Path, log: Journal) -> None:
    assert log.wants_spare
    log.add_spare(log.make_segment())
    assert not log.wants_spare
    first = fill(log)
    assert log.write(record(900)) is not first[0]
    assert log.wants_spare
    assert found(folder) == [f"gen-{number:06}" for number in [*range(len(first)), 900]]


def test_without_a_spare_a_full_segment_takes_no_more(folder: Path, log: Journal) -> None:
    lines = fill(log)
    with pytest.raises(JournalFailed, match="no room"):
        log.write(record(900))
    assert found(folder) == [f"gen-{number:06}" for number in range(len(lines))]
    log.add_spare(log.make_segment())
    log.write(record(901))
    assert found(folder)[-1] == "gen-000901"


@pytest.mark.parametrize("committed_when", ["current", "full"])
def test_a_segment_goes_when_the_calls_of_all_its_lines_are_committed(
    folder: Path, log: Journal, committed_when: str
) -> None:
    log.add_spare(log.make_segment())
    lines = fill(log)
    if committed_when == "current":
        for line in lines:
            log.release(line)
        assert log.dead == []
        other = log.write(record(900))
    else:
        other = log.write(record(900))
        for line in lines[:-1]:
            log.release(line)
        assert log.dead == []
        log.release(lines[-1])
    assert log.dead == [lines[0]]
    Journal.drop(log.dead)
    log.dead = []
    assert [path.name for path in segments(folder)] == [other.path.name]
    log.release(other)
    assert log.dead == []


def test_dropping_what_is_gone_already_is_no_fault(log: Journal) -> None:
    segment = log.make_segment()
    segment.path.unlink()
    Journal.drop([segment])
    assert segment.text is not None
    assert segment.text.closed


def test_closing_leaves_what_is_not_committed(folder: Path) -> None:
    log = Journal(folder, SEGMENT_BYTES)
    log.add_spare(log.make_segment())
    done = fill(log)
    kept = log.write(record(900))
    log.add_spare(log.make_segment())
    for line in done:
        log.release(line)
    log.close()
    assert [path.name for path in segments(folder)] == [kept.path.name]
    assert found(folder) == ["gen-000900"]


def test_a_clean_end_leaves_no_segment(folder: Path) -> None:
    log = Journal(folder, SEGMENT_BYTES)
    log.release(log.write(record(1)))
    log.close()
    assert segments(folder) == []


def test_a_full_disk_shows_when_a_segment_is_made(folder: Path, log: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    before = segments(folder)

    def no_room(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(OSError, match="No space left"):
        log.make_segment()
    assert segments(folder) == before
    monkeypatch.undo()
    assert log.make_segment().path.name == "000000000002.log"


@pytest.mark.parametrize("field", ["cost_pico_usd", "provider_cost_pico_usd", "hold_pico_usd"])
def test_an_amount_past_64_bits_is_a_line_that_cannot_be_written(folder: Path, log: Journal, field: str) -> None:
    with pytest.raises(JournalFailed, match="an amount that no 64 bits hold"):
        log.write(record(1, **{field: 2**64}))
    log.write(record(2, **{field: 2**63 - 1}))
    assert (found(folder), log._current.uncommitted) == (["gen-000002"], 1)


@pytest.mark.parametrize("copied", [0, 1, 9, 100, -1])
def test_a_line_that_a_crash_cut_short_is_none(folder: Path, log: Journal, copied: int) -> None:
    """Whatever part of it was copied, its newline was not: that goes last."""
    first = log.write(record(1))
    assert first.text is not None
    line = render(record(2))[:-1]
    part = line[:copied] if copied >= 0 else line
    first.text[first.used_bytes : first.used_bytes + len(part)] = part
    assert read(first.path) == ([record(1)], 0)
    log.write(record(3))
    assert read(first.path)[0] == [record(1), record(3)]


@pytest.mark.parametrize("segment_bytes", [SEGMENT_BYTES, SEGMENT_BYTES + LINE_BYTES_MAX, 10 * LINE_BYTES_MAX, 18_000])
def test_as_many_calls_as_have_room_can_end(folder: Path, segment_bytes: int) -> None:
    """With lines as long as they get, at any fill of the present segment, with and without a spare."""
    longest = record(1, model="m" * 500)
    while len(render(longest)) < LINE_BYTES_MAX - 3:
        longest.code += "c"
    size = len(render(longest))
    for used in range(0, segment_bytes, 1000):
        for spare in (False, True):
            log = Journal(folder, segment_bytes)
            log._current.used_bytes = used
            if spare:
                log.add_spare(log.make_segment())
            calls = max((n for n in range(30) if log.has_room(n)), default=0)
            for _ in range(calls):
                log.write(longest)
            log.close()
            for path in segments(folder):
                path.unlink()
            assert not log.has_room(30)
    assert LINE_BYTES_MAX - 3 <= size <= LINE_BYTES_MAX


def test_lines_are_on_their_way_to_the_disk_at_once(folder: Path, log: Journal) -> None:
    """Another descriptor sees each line as soon as `write` returned: a killed process has lost none."""
    path = segments(folder)[0]
    for number in range(20):
        log.write(record(number))
        assert read(path) == ([record(other) for other in range(number + 1)], 0)
