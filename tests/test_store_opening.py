"""Start-up: the journal is replayed once, holds of a crash are resolved, and the books are as of one moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.core.money import PicoUsd
from gateway.store import batch, calls, credit, journal, ledger, opening, verify
from gateway.store.calls import CallRecord
from gateway.store.holds import Holds, OpenHold
from gateway.store.journal import LINE_BYTES_MAX, Journal
from tests.books import DAY_S, FIRST_DAY_S, open_books, paid, record, settle


class Cut(Exception):
    """The process ends here."""


@dataclass
class Crashed:
    """A data folder as a killed process left it."""

    conn: sqlite3.Connection
    folder: Path
    said: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)

    def journaled(self, *records: CallRecord, segment_bytes: int = 4 * LINE_BYTES_MAX) -> None:
        log = Journal(self.folder / "journal", segment_bytes)
        for call in records:
            if log.wants_spare:
                log.add_spare(log.make_segment())
            log.write(call)
        for segment in (log._current, log._spare, *log._full):
            if segment is not None:
                segment.close()

    def held(self, *records: CallRecord) -> None:
        holds = Holds(self.folder / "holds")
        for call in records:
            holds.open(
                OpenHold(call.gen_id, "req", call.started_at, call.account_id, 7, "key_1", "k", "chat", "l", True, "m")
            )
        holds.unmap()

    def say(self, event: str, level: str, **details: object) -> None:
        self.said.append((event, level, details))

    def recover(self, *, cut_at: str = "") -> None:
        def say(event: str, level: str, **details: object) -> None:
            if event == cut_at:
                raise Cut
            self.say(event, level, **details)

        holds = Holds(self.folder / "holds")
        try:
            opening.recover(self.conn, self.folder / "journal", holds, say)
            assert holds.found == []
        finally:
            holds.unmap()

    def stored(self) -> list[tuple[str, str, int]]:
        return self.conn.execute("SELECT gen_id, ended, cost_pico_usd FROM calls ORDER BY gen_id").fetchall()

    def is_clean(self) -> bool:
        holds = Holds(self.folder / "holds")
        holds.unmap()
        return not holds.found and not list((self.folder / "journal").iterdir()) and verify.verify(self.conn) == []


@pytest.fixture
def crashed(tmp_path: Path) -> Iterator[Crashed]:
    conn = open_books(tmp_path / "data")
    yield Crashed(conn, tmp_path / "data")
    conn.close()


def row(call: CallRecord, ended: str = "") -> tuple[str, str, int]:
    return call.gen_id, ended, call.cost_pico_usd


def test_a_clean_folder_has_nothing_to_recover(crashed: Crashed) -> None:
    crashed.recover()
    crashed.recover()
    assert (crashed.said, crashed.stored(), crashed.is_clean()) == ([], [], True)


@pytest.mark.parametrize("committed", [0, 1, 300, 600])
def test_lines_whose_calls_are_not_stored_are_replayed(crashed: Crashed, committed: int) -> None:
    records = [paid(number) for number in range(600)]
    if committed:
        batch.write(crashed.conn, records[:committed], [calls.row(call) for call in records[:committed]], again=False)
    crashed.journaled(*records)
    assert len(journal.segments(crashed.folder / "journal")) > 5
    crashed.recover()
    assert crashed.stored() == [row(call) for call in records]
    missing = 600 - committed
    assert crashed.said == ([("journal_replayed", "warning", {"calls": missing})] if missing else [])
    assert crashed.is_clean()


def test_a_hold_is_void_and_told_and_recorded(crashed: Crashed) -> None:
    call = record(1, account_id="acct_1")
    crashed.held(call)
    crashed.recover()
    details = {"gen_id": call.gen_id, "account_id": "acct_1", "key_id": "key_1", "hold_pico_usd": 7}
    assert crashed.said == [("hold_voided", "warning", details)]
    assert crashed.stored() == [row(call, "crashed")]
    columns = "code, status, hold_pico_usd, stream, model, started_at"
    assert crashed.conn.execute(f"SELECT {columns} FROM calls").fetchone() == (
        "gateway_crashed", 0, 7, 1, "m", call.started_at,
    )  # fmt: skip
    assert crashed.is_clean()


def test_a_hold_whose_call_was_settled_is_not_void(crashed: Crashed) -> None:
    """Cut off between the line of the journal and the end of the hold."""
    settled, stored, cut_off = paid(1), paid(2), record(3)
    batch.write(crashed.conn, [stored], [calls.row(stored)], again=False)
    crashed.journaled(settled)
    crashed.held(settled, stored, cut_off)
    crashed.recover()
    assert [(event, details.get("gen_id")) for event, _, details in crashed.said] == [
        ("journal_replayed", None),
        ("hold_voided", cut_off.gen_id),
    ]
    assert crashed.stored() == [row(settled), row(stored), row(cut_off, "crashed")]
    assert crashed.is_clean()


@pytest.mark.parametrize("cut_at", ["journal_replayed", "hold_voided"])
def test_a_recovery_that_is_cut_is_done_again(crashed: Crashed, cut_at: str) -> None:
    crashed.journaled(*(paid(number) for number in range(5)))
    crashed.held(record(7), record(8))
    with pytest.raises(Cut):
        crashed.recover(cut_at=cut_at)
    crashed.recover()
    assert crashed.stored() == [*(row(paid(n)) for n in range(5)), *(row(record(n), "crashed") for n in (7, 8))]
    assert crashed.is_clean()


def test_a_recovery_that_is_cut_between_commit_and_deletion_is_done_again(
    crashed: Crashed, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed.journaled(*(paid(number) for number in range(300)))
    unlinked: list[Path] = []

    def unlink(self: Path, missing_ok: bool = False) -> None:
        unlinked.append(self)
        if len(unlinked) > 3:
            raise Cut

    with monkeypatch.context() as patched, pytest.raises(Cut):
        patched.setattr(Path, "unlink", unlink)
        crashed.recover()
    crashed.recover()
    assert crashed.stored() == [row(paid(number)) for number in range(300)]
    assert crashed.is_clean()


def test_a_locked_database_loses_no_line(crashed: Crashed, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed.journaled(paid(1))
    crashed.held(record(2))

    def locked(*_args: object, **_more: object) -> list[str]:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patched, pytest.raises(sqlite3.OperationalError):
        patched.setattr(batch, "write", locked)
        crashed.recover()
    crashed.recover()
    assert crashed.stored() == [row(paid(1)), row(record(2), "crashed")]


def test_a_torn_last_line_is_not_charged(crashed: Crashed) -> None:
    crashed.journaled(paid(1), paid(2))
    path = journal.segments(crashed.folder / "journal")[0]
    text = path.read_bytes().rstrip(b"\0")
    path.write_bytes(text[:-5] + b"\0" * 5000)
    crashed.recover()
    assert crashed.stored() == [row(paid(1))]
    assert crashed.is_clean()


@pytest.mark.parametrize("rotten", [(0,), (2,), (0, 1, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("committed", [False, True])
def test_a_damaged_line_costs_its_call_and_the_segment_is_kept(
    crashed: Crashed, rotten: tuple[int, ...], committed: bool
) -> None:
    """Also where all its calls are stored already: who looks into the file will see."""
    crashed.journaled(*(paid(number) for number in range(5)))
    if committed:
        settle(crashed.conn, [paid(number) for number in range(5)])
    path = journal.segments(crashed.folder / "journal")[0]
    lines = path.read_bytes().split(b"\n")
    for number in rotten:
        lines[number] = lines[number].replace(b"req-", b"rot-")
    damaged = b"\n".join(lines)
    path.write_bytes(damaged)
    crashed.recover()
    assert crashed.stored() == [row(paid(number)) for number in range(5) if committed or number not in rotten]
    kept = path.with_suffix(".damaged")
    told = [("journal_damaged", "error", {"lines": len(rotten), "kept": str(kept)})]
    if not committed and len(rotten) < 5:
        told.append(("journal_replayed", "warning", {"calls": 5 - len(rotten)}))
    assert crashed.said == told
    assert kept.read_bytes() == damaged
    assert list((crashed.folder / "journal").iterdir()) == [kept]
    assert verify.verify(crashed.conn) == []
    crashed.recover()
    assert crashed.said == told, "it is told once"


def test_a_damaged_segment_holds_up_no_other(crashed: Crashed) -> None:
    crashed.journaled(*(paid(number) for number in range(200)))
    paths = journal.segments(crashed.folder / "journal")
    assert len(paths) > 3
    lines = paths[1].read_bytes().split(b"\n")
    lost = lines[0].partition(b'["')[2].partition(b'"')[0].decode()
    paths[1].write_bytes(paths[1].read_bytes().replace(b"req-", b"rot-", 1))
    crashed.held(paid(7), record(900))
    crashed.recover()
    expected = [row(paid(number)) for number in range(200) if paid(number).gen_id != lost]
    assert crashed.stored() == [*expected, row(record(900), "crashed")]
    assert len(expected) == 199
    assert [event for event, _, _ in crashed.said] == ["journal_damaged", "journal_replayed", "hold_voided"]
    assert list((crashed.folder / "journal").iterdir()) == [paths[1].with_suffix(".damaged")]


@pytest.mark.parametrize("cut_at", ["journal_damaged", "journal_replayed"])
def test_a_recovery_of_a_damaged_segment_that_is_cut_is_done_again(crashed: Crashed, cut_at: str) -> None:
    crashed.journaled(*(paid(number) for number in range(5)))
    path = journal.segments(crashed.folder / "journal")[0]
    path.write_bytes(path.read_bytes().replace(b"req-1", b"rot-1"))
    crashed.held(record(7))
    with pytest.raises(Cut):
        crashed.recover(cut_at=cut_at)
    crashed.recover()
    assert crashed.stored() == [*(row(paid(n)) for n in (0, 2, 3, 4)), row(record(7), "crashed")]
    assert list((crashed.folder / "journal").iterdir()) == [path.with_suffix(".damaged")]


def test_the_books_are_as_of_one_moment(crashed: Crashed) -> None:
    credit.grant(crashed.conn, "acct_1", PicoUsd(100))
    calls_of = [paid(number, account_id="acct_1", idempotency=None) for number in range(3)]
    batch.write(crashed.conn, calls_of, [calls.row(call) for call in calls_of], again=False)
    books = opening.read_books(crashed.conn, FIRST_DAY_S + 10)
    cost = sum(call.cost_pico_usd for call in calls_of)
    assert (books.read_at, books.balances) == (FIRST_DAY_S + 10, {"acct_1": 100 - cost})
    assert books.spending == [opening.KeySpending("key_1", cost, cost, cost, cost)]
    credit.grant(crashed.conn, "acct_1", PicoUsd(7))
    assert [move.amount for move in ledger.moves_after(crashed.conn, books.last_entry_id)] == [7]
    assert not crashed.conn.in_transaction


def test_an_empty_database_has_empty_books(crashed: Crashed) -> None:
    assert opening.read_books(crashed.conn, 7.5) == opening.OpeningBooks(7.5, {}, [], 0, [])


def test_keys_of_idempotency_are_read_for_a_day(crashed: Crashed) -> None:
    now = FIRST_DAY_S + DAY_S + 10
    found = [record(number, idempotency=f"{number:02x}") for number in (8, 9, 10, 11)]
    found += [record(1, day=1), record(2, day=1, idempotency="ff")]
    batch.write(crashed.conn, found, [calls.row(call) for call in found], again=False)
    used = sorted(opening.read_books(crashed.conn, now).used_idempotency)
    assert used == [(call.idempotency, call.started_at, call.gen_id) for call in (found[2], found[3], found[5])]
