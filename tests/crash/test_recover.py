"""Start-up's recovery, cut at each of its steps: done again, it comes to the same books."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.core.call import AttemptNote
from gateway.core.money import PicoUsd
from gateway.datadir import open_data_dir
from gateway.store import accounts, batch, calls, credit, journal, ledger, opening
from gateway.store.holds import Holds, OpenHold
from gateway.store.journal import Journal, render
from gateway.store.schema import open_database
from gateway.store.verify import verify
from tests.books import paid, record

SEGMENT_BYTES = 65_536
GRANTED = 10**15


class Crash(BaseException):
    """The process ends here."""


class Folder:
    """A data folder as a crash left it: calls in the journal, some of them committed too, and open holds."""

    def __init__(self, path: Path) -> None:
        self.data = open_data_dir(path)
        self.conn = open_database(self.data.db_path, self.data.pepper)
        self.account_id = accounts.create(self.conn, "acme", prepaid=True).id
        credit.grant(self.conn, self.account_id, PicoUsd(GRANTED))
        self.journal_path = path / "journal"
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.records = [paid(number, account_id=self.account_id) for number in range(300)]
        self.records += [record(300, account_id=self.account_id, idempotency="ab" * 32)]

    def crash(self, *, committed: int) -> None:
        """Write all journal lines, commit so many calls, leave three holds open: one of a call that is in the journal."""
        journal.segments(self.journal_path)
        written = Journal(self.journal_path, SEGMENT_BYTES)
        for one in self.records:
            if not written.has_room(1):
                written.add_spare(written.make_segment())
            if written.wants_spare:
                written.add_spare(written.make_segment())
            written.write(one)
        rows = self.records[:committed]
        batch.write(self.conn, rows, [calls.row(one) for one in rows], again=False)
        holds = Holds(self.holds_path)
        for gen_id in (self.records[-2].gen_id, "gen-open-1", "gen-open-2"):
            holds.open(
                OpenHold(gen_id, "req", 1.5, self.account_id, 77, "key_1", "name", "chat", "express", True, "t/m")
            )
        holds.unmap()

    @property
    def holds_path(self) -> Path:
        return self.data.db_path.with_name("holds")

    def recover(self) -> None:
        """What a start does."""
        holds = Holds(self.holds_path)
        try:
            opening.recover(self.conn, self.journal_path, holds, self._say)
        finally:
            holds.unmap()

    def _say(self, event: str, _level: str, **details: Any) -> None:
        self.said.append((event, details))

    def check(self) -> None:
        """The books are right and nothing is left to recover."""
        found = dict(self.conn.execute("SELECT gen_id, ended FROM calls"))
        assert found.keys() == {one.gen_id for one in self.records} | {"gen-open-1", "gen-open-2"}
        assert [gen_id for gen_id, ended in found.items() if ended == "crashed"] == ["gen-open-1", "gen-open-2"]
        assert verify(self.conn) == []
        balance = accounts.find(self.conn, self.account_id).balance_pico_usd
        assert balance == GRANTED - sum(one.cost_pico_usd for one in self.records)
        assert journal.segments(self.journal_path) == []
        holds = Holds(self.holds_path)
        assert holds.found == []
        holds.unmap()
        assert {details["gen_id"] for event, details in self.said if event == "hold_voided"} == {
            "gen-open-1",
            "gen-open-2",
        }
        self.conn.close()


@pytest.mark.parametrize("committed", [0, 150, 301])
def test_replay_adds_what_is_missing_and_only_that(tmp_path: Path, committed: int) -> None:
    folder = Folder(tmp_path)
    folder.crash(committed=committed)
    assert len(journal.segments(folder.journal_path)) == 3
    folder.recover()
    said = [details for event, details in folder.said if event == "journal_replayed"]
    assert said == ([{"calls": 301 - committed}] if committed < 301 else [])
    folder.recover()
    folder.check()


def _crash_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, nth: int, *, after: bool) -> None:
    """Have the nth call of a function be the last thing that happens, done or not."""
    real: Callable[..., Any] = getattr(owner, name)
    left = [nth]

    def crashing(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and not after:
            raise Crash
        result = real(*args, **options)
        if left[0] == 0:
            raise Crash
        return result

    monkeypatch.setattr(owner, name, crashing)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name", "times"),
    [
        (batch, "write", 5),
        (Path, "unlink", 3),
        (batch, "existing", 6),
        (Holds, "forget_found", 1),
        (os, "posix_fallocate", 1),
    ],
    ids=["commit", "delete a segment", "look", "clear the holds", "allocate"],
)
def test_a_crash_in_recovery_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, times: int, after: bool
) -> None:
    """At each time that a step is taken; then once more to the end."""
    for nth in range(1, times + 1):
        folder = Folder(tmp_path / str(nth))
        folder.crash(committed=40)
        with monkeypatch.context() as patch:
            _crash_at(patch, owner, name, nth, after=after)
            with pytest.raises(Crash):
                folder.recover()
        folder.recover()
        folder.check()


@pytest.mark.parametrize("cut", [1, 9, 40, -1])
def test_a_line_that_was_cut_ends_its_segment_and_not_the_others(tmp_path: Path, cut: int) -> None:
    folder = Folder(tmp_path)
    folder.crash(committed=0)
    first = journal.segments(folder.journal_path)[0]
    lines = first.read_bytes().split(b"\n")
    kept = len(lines) - 2  # the last is zeros; the one before it is cut
    half = b"\n".join(lines[:kept]) + b"\n" + lines[kept][:cut]
    first.write_bytes(half + bytes(SEGMENT_BYTES - len(half)))
    lost = folder.records.pop(kept)
    folder.recover()
    folder.check()
    assert lost.cost_pico_usd > 0


def test_a_damaged_line_costs_that_call_and_is_told(tmp_path: Path) -> None:
    """A disk that forgets is no crash: the other lines are replayed, and the file is kept for whoever looks into it."""
    folder = Folder(tmp_path)
    folder.crash(committed=0)
    first = journal.segments(folder.journal_path)[0]
    lines = first.read_bytes().split(b"\n")
    lines[7] = lines[7].replace(b"req-", b"rot-")
    first.write_bytes(b"\n".join(lines))
    folder.records.pop(7)
    folder.recover()
    folder.check()
    kept = str(first.with_suffix(".damaged"))
    assert ("journal_damaged", {"lines": 1, "kept": kept}) in folder.said
    assert Path(kept).exists()


def test_a_line_is_the_call(tmp_path: Path) -> None:
    """Whatever a record holds comes back, also when it has to be shortened."""
    plain = paid(
        1, attempts=(AttemptNote("a", "won", 200, 1.5),), finish_reason="stop", upstream_id="x", idempotency="ab" * 32
    )
    long = paid(2, model="m" * 5000, attempts=tuple(AttemptNote("p" * 64, "status_500", 500, 1.0) for _ in range(60)))
    path = tmp_path / "000000000001.log"
    path.write_bytes(render(plain) + render(long) + bytes(100))
    found, damaged = journal.read(path)
    assert damaged == 0
    assert found[0] == plain
    assert (found[1].gen_id, found[1].cost_pico_usd, len(found[1].attempts)) == (long.gen_id, long.cost_pico_usd, 3)
    assert max(len(render(plain)), len(render(long))) <= journal.LINE_BYTES_MAX


def test_the_ledger_takes_a_set_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.crash(committed=301)
    entry_set = ledger.of_call(folder.records[0])
    assert entry_set is not None
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        ledger.write(folder.conn, [entry_set])
    folder.conn.close()
