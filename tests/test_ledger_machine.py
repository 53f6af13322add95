"""The money core as a state machine: calls, credit, commits and crashes in any order, against a model in plain sums.

The steps are those of `gateway.till` and `gateway.store.db`, one at a time, so that a crash can come between any two.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.admit.credit import Spent
from gateway.admit.gate import Admission, Gate
from gateway.admit.limiter import Limiter
from gateway.core.money import PicoUsd
from gateway.core.principal import Account, Principal
from gateway.errors import PaymentRequired
from gateway.store import batch, calls, credit, holds, ledger, opening, verify
from gateway.store.calls import CallRecord
from gateway.store.holds import Holds, OpenHold
from gateway.store.journal import LINE_BYTES_MAX, Journal, JournalFailed, Segment
from gateway.store.outbox import Outbox
from gateway.store.schema import connect, open_database

DAY_S = 86_400
START_S = dt.datetime(2026, 1, 30, 23, 0, tzinfo=dt.UTC).timestamp()  # a Friday, near the end of a month
SLOTS = 6
LONG = "x" * 3000  # makes the lines long, so that a segment is full after five
COSTS = st.one_of(st.sampled_from(["nothing", "the hold", "less", "more"]), st.integers(0, 100))

PREPAID, POSTPAID = Account("prepaid", prepaid=True), Account("postpaid")
KEYS = [
    Principal("plain", PREPAID, "plain"),
    Principal("daily", PREPAID, "daily", spend_limit=PicoUsd(60), limit_reset="daily"),
    Principal("owing", POSTPAID, "owing"),
    Principal("weekly", POSTPAID, "weekly", spend_limit=PicoUsd(80), limit_reset="weekly"),
    Principal("monthly", POSTPAID, "monthly", spend_limit=PicoUsd(120), limit_reset="monthly"),
    Principal("ever", POSTPAID, "ever", spend_limit=PicoUsd(200)),
]
RESETS = {"daily": 1, "weekly": 2, "monthly": 3, None: 0}


class Cut(Exception):
    """The process ends in the middle of its recovery."""


@dataclass(eq=False)
class Served:
    """A call as the model knows it. `line`: it is in the journal; `stored`: in the database."""

    key: Principal
    gen_id: str
    started_at: float
    admission: Admission
    slot: int | None
    cost: int = 0
    record: CallRecord | None = None
    line: Segment | None = None
    stored: bool = False
    journaled: bool = False


class LedgerMachine(RuleBasedStateMachine):
    """One gateway's money, from an empty database on."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "gateway.db"
        shutil.copy(self.template, self.path)
        self.conn = connect(self.path)
        self.other = connect(self.path)
        self.wall, self.now = START_S, 0.0
        self.count = 0
        self.open: list[Served] = []
        self.booked: list[Served] = []  # settled, their last byte on its way, their record not yet handed over
        self.put: list[Served] = []  # in the outbox
        self.stored: list[Served] = []
        self.crashed: dict[str, int] = {}  # gen id to hold
        self.in_doubt = False

    # a process begins and ends

    @initialize(granted=st.integers(0, 2000))
    def start(self, granted: int) -> None:
        self.grant("prepaid", granted + 1)
        self.holds = Holds(self.folder / "holds")
        opening.recover(self.conn, self.folder / "journal", self.holds, lambda *_args, **_details: None)
        self._begin()

    def _begin(self) -> None:
        self.journal = Journal(self.folder / "journal", 4 * LINE_BYTES_MAX)
        self.outbox = Outbox(self.journal, self.holds)
        books = opening.read_books(self.conn, self.wall)
        self.last_entry_id = books.last_entry_id
        self.gate = Gate(Limiter(day_zone="UTC", keys_max=100), wall=self.wall)
        spent = ((key.key_id, Spent(key.total, key.daily, key.weekly, key.monthly)) for key in books.spending)
        self.gate.load(books.balances, spent)
        self.ahead_s = max([call.started_at for call in self.stored], default=0.0)
        self.exact = self.ahead_s < self.wall  # nothing was booked in what is the future now
        self.highest = self.wall

    @rule(cut=st.booleans())
    def crash(self, cut: bool) -> None:
        """All memory is gone; what the kernel has is not. `cut`: and once more in the middle of the recovery."""
        self._lose_memory()
        lost = [call for call in (*self.booked, *self.put) if call.journaled and not call.stored]
        voided = [call for call in (*self.open, *self.booked, *self.put) if call.slot is not None and not call.stored]
        if cut:
            self._recover_cut()
        said = self._recover()
        for call in lost:
            call.stored = True
            self.stored.append(call)
        self.crashed |= {call.gen_id: call.admission.hold for call in voided}
        if not cut:
            assert [event for event, _ in said if event == "journal_replayed"] == ["journal_replayed"] * bool(lost)
            assert {gen_id for event, gen_id in said if event == "hold_voided"} == {call.gen_id for call in voided}
        self.open, self.booked, self.put, self.in_doubt = [], [], [], False
        self._begin()
        self._check_after_a_start()

    def _recover_cut(self) -> None:
        def die(*_args: object, **_details: object) -> None:
            raise Cut

        with contextlib.suppress(Cut):
            opening.recover(self.conn, self.folder / "journal", self.holds, die)
        self.holds.unmap()
        self.holds = Holds(self.folder / "holds")

    def _recover(self) -> list[tuple[str, str]]:
        said: list[tuple[str, str]] = []

        def say(event: str, _level: str, **details: object) -> None:
            said.append((event, str(details.get("gen_id"))))

        opening.recover(self.conn, self.folder / "journal", self.holds, say)
        return said

    def _lose_memory(self) -> None:
        log = self.journal
        for segment in (log._current, log._spare, *log._full, *log.dead):
            if segment is not None:
                with contextlib.suppress(OSError):  # closed already, when the step before showed a fault
                    segment.close()
        self.holds.unmap()
        self.holds = Holds(self.folder / "holds")
        self.conn.close()
        self.conn = connect(self.path)

    @precondition(lambda self: not self.open)
    @rule()
    def restart(self) -> None:
        """A stop that was given its time: all is committed, no file is left to recover."""
        while self.booked:
            self.hand_over(0)
        while len(self.outbox):
            self.commit()
        self.journal.close()
        self.holds.unmap()
        assert list((self.folder / "journal").iterdir()) == []
        self.holds = Holds(self.folder / "holds")
        assert self._recover() == []
        self._begin()
        self._check_after_a_start()

    # calls

    @rule(key=st.sampled_from(KEYS), hold=st.integers(0, 40))
    def admit(self, key: Principal, hold: int) -> None:
        if self.holds.full:
            return  # refused before it comes to the gate
        balance, held = self._balance(key.account_id), self._held(key.account_id)
        gen_id = f"gen-{self.count:06}"
        self.count += 1
        try:
            admission = self.gate.admit(key, {}, tokens=1, hold=hold, now=self.now, wall=self.wall)
        except PaymentRequired:
            assert hold
            assert not self._fits(key, hold)
            return
        if key.account.prepaid:
            assert hold == 0 or balance - held >= hold, "never more is held than there is"
        assert hold == 0 or self._fits(key, hold)
        assert admission.hold == (hold if key.account.prepaid or key.spend_limit is not None else 0)
        slot = None
        if admission.hold:
            opened = OpenHold(
                gen_id, "req", self.wall, key.account_id, admission.hold, key.key_id, "", "chat", "", True, "m"
            )
            slot = self.holds.open(opened)
        self.open.append(Served(key, gen_id, self.wall, admission, slot))

    @precondition(lambda self: self.open)
    @rule(
        at=st.integers(0, 99),
        cost=COSTS,
        ended=st.sampled_from(["complete", "client_gone", "timeout"]),
        delivered=st.booleans(),
    )
    def settle(self, at: int, cost: str | int, ended: str, delivered: bool) -> None:
        """A call ends: used up, for less, beyond its hold, void, or by its deadline. As `Till.book` goes about it."""
        call = self.open.pop(at % len(self.open))
        hold = call.admission.hold
        named = {"nothing": 0, "the hold": hold, "less": hold // 2, "more": hold + 7}
        call.cost = named[cost] if isinstance(cost, str) else cost
        call.record = self._record(call, ended)
        if call.cost:
            try:
                call.line = self.journal.write(call.record)
                call.journaled = True
            except JournalFailed:
                if not delivered:  # 503, and the customer owes nothing
                    call.cost = 0
                    call.record = self._record(call, "overloaded")
        before = self.gate.spent(call.key.key_id, self.wall)
        call.admission.settle(call.cost, 1, began=self.gate.period_of(call.started_at), now=self.now)
        self._check_it_counts(call, before)
        if call.slot is not None and call.line is not None:  # else it goes with the record's commit
            self.holds.close(call.slot)
            call.slot = None
        self.booked.append(call)

    @rule(
        served=st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 40), COSTS), min_size=1, max_size=8),
        again=st.integers(1, 3),
        every=st.integers(1, 3),
        tended=st.booleans(),
        committed=st.booleans(),
    )
    def serve(
        self, served: list[tuple[Principal, int, str | int]], again: int, every: int, tended: bool, committed: bool
    ) -> None:
        """Many calls, one after the other, as far as they are admitted; the record of `every` so many is handed over."""
        for number, (key, hold, cost) in enumerate(served * again):
            before = len(self.open)
            self.admit(key, hold)
            if len(self.open) > before:
                self.settle(before, cost, "complete", delivered=False)
                if number % every == 0:
                    self.hand_over(len(self.booked) - 1)
                if tended:
                    self.tend_journal(make=True)
        if committed and len(self.outbox):
            self.commit()

    @precondition(lambda self: self.booked)
    @rule(at=st.integers(0, 99))
    def hand_over(self, at: int) -> None:
        call = self.booked.pop(at % len(self.booked))
        assert call.record is not None
        self.outbox.put(call.record, call.line, call.slot)
        self.put.append(call)

    def _record(self, call: Served, ended: str) -> CallRecord:
        return CallRecord(
            call.gen_id, "req", call.started_at, call.key.account_id, call.key.key_id, model="m", provider="p",
            ended=ended, finish_reason=LONG, cost_pico_usd=call.cost, provider_cost_pico_usd=call.cost // 2,
            hedge_cost_pico_usd=call.cost // 3, hold_pico_usd=call.admission.hold,
        )  # fmt: skip

    # credit

    @rule(account=st.sampled_from(["prepaid", "postpaid"]), amount=st.integers(1, 150))
    def grant(self, account: str, amount: int) -> None:
        """By another process, on its own connection."""
        credit.grant(self.other, account, PicoUsd(amount))

    @rule()
    def tail(self) -> None:
        for move in ledger.moves_after(self.conn, self.last_entry_id):
            self.gate.apply(move.account_id, move.amount)
            self.last_entry_id = move.entry_id

    # the writer

    @precondition(lambda self: len(self.outbox) > 0)
    @rule()
    def commit(self) -> None:
        self.outbox.begin()
        self._write()
        count = len(self.outbox.records)
        self.outbox.committed()
        self.in_doubt = False
        for call in self.put[:count]:
            call.slot = None
            if not call.stored:
                call.stored = True
                self.stored.append(call)
        del self.put[:count]

    @precondition(lambda self: len(self.outbox) > 0)
    @rule(arrived=st.booleans())
    def commit_in_doubt(self, arrived: bool) -> None:
        """The commit failed as far as is known; `arrived`: and yet it is there."""
        self.outbox.begin()
        if arrived:
            self._write()
            for call in self.put[: len(self.outbox.records)]:
                if not call.stored:
                    call.stored = True
                    self.stored.append(call)
        self.outbox.tried = self.in_doubt = True

    def _write(self) -> None:
        records = self.outbox.records
        again, self.outbox.tried = self.outbox.tried, True
        assert batch.write(self.conn, records, [calls.row(record) for record in records], again=again) == []

    @rule(make=st.booleans())
    def tend_journal(self, make: bool) -> None:
        dead, self.journal.dead = self.journal.dead, []
        Journal.drop(dead)
        if make and self.journal.wants_spare:
            self.journal.add_spare(self.journal.make_segment())

    # time

    @rule(seconds=st.sampled_from([1, 1800, 3600, DAY_S // 2, DAY_S, 3 * DAY_S, 7 * DAY_S, 31 * DAY_S]))
    def time_passes(self, seconds: int) -> None:
        before, began = self._all_spent(), self._begins(self.wall)
        self.wall += seconds
        self.now += seconds
        self.highest = max(self.highest, self.wall)
        goes_on = [1, *(old == new for old, new in zip(began, self._begins(self.wall), strict=True))]
        expected = [Spent(*(amount * kept for amount, kept in zip(spent, goes_on, strict=True))) for spent in before]
        assert self._all_spent() == expected, "what begins anew begins with nothing"

    @rule(seconds=st.sampled_from([0.001, 3600, DAY_S, 8 * DAY_S, 40 * DAY_S]))
    def the_clock_steps_back(self, seconds: float) -> None:
        before = self._all_spent()
        self.wall -= seconds
        self.exact = self.exact and int(self.wall // DAY_S) == int(self.highest // DAY_S)
        assert self._all_spent() == before, "nobody is given anything back"

    # what holds

    def _balance(self, account: str) -> int:
        """By the model: what was granted and read, less what was settled."""
        (granted,) = self.conn.execute(
            "SELECT COALESCE(SUM(amount_pico_usd), 0) FROM entries WHERE kind <> 'call' AND book = 'customer' "
            "AND owner = ? AND id <= ?",
            (account, self.last_entry_id),
        ).fetchone()
        return int(granted) - sum(call.cost for call in self._settled() if call.key.account_id == account)

    def _settled(self) -> Iterator[Served]:
        yield from self.stored
        yield from (call for call in (*self.booked, *self.put) if not call.stored)

    def _held(self, account: str) -> int:
        return sum(call.admission.hold for call in self.open if call.key.account_id == account)

    def _held_by(self, key: Principal) -> int:
        return sum(call.admission.hold for call in self.open if call.key is key)

    def _spent(self, key: Principal) -> Spent:
        """By the model, which a clock that stepped back over midnight puts wrong until the next start."""
        own = [call for call in self._settled() if call.key is key]
        since = [sum(call.cost for call in own if call.started_at >= begin) for begin in self._begins(self.wall)]
        return Spent(sum(call.cost for call in own), *since)

    @staticmethod
    def _begins(wall: float) -> list[float]:
        """When the day, the week and the month of a moment began."""
        today = dt.datetime.fromtimestamp(wall // DAY_S * DAY_S, dt.UTC)
        begins = [today, today - dt.timedelta(days=today.weekday()), today.replace(day=1)]
        return [begin.timestamp() for begin in begins]

    def _all_spent(self) -> list[Spent]:
        """By the gate. Each step is checked against the one before it, so this is right whatever the clock did."""
        return [self.gate.spent(key.key_id, self.wall) for key in KEYS]

    def _check_it_counts(self, call: Served, before: Spent) -> None:
        """A settled call counts once, in the periods in which it began."""
        after = self.gate.spent(call.key.key_id, self.wall)
        assert after.total == before.total + call.cost
        began, present = self._begins(call.started_at), self._begins(self.wall)
        for old, new, its, now in zip(before[1:], after[1:], began, present, strict=True):
            if its > now:  # the clock has stepped back since: it counts for at least itself
                assert call.cost <= new <= old + call.cost
            else:
                assert new == old + call.cost * (its == now)

    def _fits(self, key: Principal, hold: int) -> bool:
        account = key.account_id
        if key.account.prepaid and self._balance(account) - self._held(account) < hold:
            return False
        if key.spend_limit is None:
            return True
        spent = self._spent(key) if self.exact else self.gate.spent(key.key_id, self.wall)
        return spent[RESETS[key.limit_reset]] + self._held_by(key) + hold <= key.spend_limit

    @invariant()
    def memory_is_the_model(self) -> None:
        for account in ("prepaid", "postpaid"):
            assert self.gate.balance(account) == (self._balance(account), self._held(account))
        assert self.gate.held() == sum(call.admission.hold for call in self.open)
        for key in KEYS:
            meter = self.gate._meters.get(key.key_id)
            assert (0 if meter is None else meter.held) == self._held_by(key)
        assert len(self.holds) == sum(call.slot is not None for call in (*self.open, *self.booked, *self.put))
        for key in KEYS:
            spent, expected = self.gate.spent(key.key_id, self.wall), self._spent(key)
            assert spent.total == expected.total
            assert spent == expected or not self.exact

    @invariant()
    def memory_is_the_ledger_and_what_is_not_committed(self) -> None:
        for account in ("prepaid", "postpaid"):
            (replayed,) = self.conn.execute(
                "SELECT COALESCE(SUM(amount_pico_usd), 0) FROM entries WHERE book = 'customer' AND owner = ? "
                "AND (kind = 'call' OR id <= ?)",
                (account, self.last_entry_id),
            ).fetchone()
            waiting = sum(
                call.cost for call in (*self.booked, *self.put) if call.key.account_id == account and not call.stored
            )
            assert self.gate.balance(account)[0] == replayed - waiting

    @invariant()
    def books_sum_to_zero(self) -> None:
        (unbalanced,) = self.conn.execute(
            "SELECT COUNT(*) FROM (SELECT 1 FROM entries GROUP BY entry_set HAVING SUM(amount_pico_usd) <> 0)"
        ).fetchone()
        total = self.conn.execute("SELECT COALESCE(SUM(balance_pico_usd), 0) FROM balances").fetchone()[0]
        assert (unbalanced, total) == (0, 0)

    @invariant()
    def a_crash_finds_every_call_that_held_credit(self) -> None:
        for call in (*self.open, *self.booked, *self.put):
            assert not call.admission.hold or call.stored or call.journaled or call.slot is not None

    @invariant()
    def what_is_journaled_and_not_committed_is_on_the_disk(self) -> None:
        for call in (*self.booked, *self.put):
            if call.line is not None and not call.stored:
                assert call.line.path.exists()

    def _check_after_a_start(self) -> None:
        """The books say what the model says, each call once, and no hold survives."""
        assert self.gate.held() == 0
        assert (self.holds.found, len(self.holds)) == ([], 0)
        for key in KEYS:
            assert self.gate.spent(key.key_id, self.wall) == self._spent(key)
        found = self.conn.execute("SELECT gen_id, cost_pico_usd FROM calls WHERE ended <> 'crashed'").fetchall()
        assert sorted(found) == sorted((call.gen_id, call.cost) for call in self.stored)
        found = self.conn.execute("SELECT gen_id, hold_pico_usd FROM calls WHERE ended = 'crashed'").fetchall()
        assert dict(found) == self.crashed
        assert verify.verify(self.conn) == []

    def teardown(self) -> None:
        try:
            assert verify.verify(self.conn) == []
            self.crash(cut=False)
        finally:
            with contextlib.suppress(OSError):  # closed already, when a crash showed a fault
                self.journal.close()
            self.holds.unmap()
            self.conn.close()
            self.other.close()
            shutil.rmtree(self.folder)


def test_in_any_order_the_books_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "SLOTS_MAX", SLOTS)
    path = tmp_path / "template.db"
    open_database(path, bytes(32)).close()
    monkeypatch.setattr(LedgerMachine, "template", path, raising=False)
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=80,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(
    ("now", "days", "spent"),
    [
        ("2026-01-05T00:00:00", ["2026-01-04", "2026-01-05"], (1, 1, 2)),  # a Monday
        ("2026-01-04T23:59:59.999", ["2026-01-04", "2025-12-29", "2025-12-28", "2025-12-31"], (1, 3, 1)),  # a Sunday
        ("2026-02-01T00:00:00.5", ["2026-01-31", "2026-01-26", "2026-01-25", "2026-02-01"], (1, 3, 1)),
        ("2028-03-01T12:00:00", ["2028-02-29", "2028-02-28", "2028-02-27", "2028-03-01"], (1, 3, 1)),
        ("2026-01-05T12:00:00", ["2026-01-06", "2026-02-01"], (2, 2, 2)),  # of a clock that was ahead
        ("2026-01-05T12:00:00", [], None),
    ],
)
def test_what_a_key_has_spent_is_read_from_the_rollups(
    tmp_path: Path, now: str, days: list[str], spent: tuple[int, int, int] | None
) -> None:
    with contextlib.closing(open_database(tmp_path / "gateway.db", bytes(32))) as conn:
        records = [
            CallRecord(f"gen-{number}", "req", _unix_s(day) + 43_200, "operator", "key_1", cost_pico_usd=1)
            for number, day in enumerate(days)
        ]
        batch.write(conn, records, [calls.row(record) for record in records], again=False)
        books = opening.read_books(conn, _unix_s(now))
    expected = [] if spent is None else [opening.KeySpending("key_1", len(days), *spent)]
    assert books.spending == expected


def _unix_s(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()


def test_the_template_is_what_the_machine_needs(tmp_path: Path) -> None:
    """A copy of a closed database is a database: nothing of it is left in a WAL."""
    open_database(tmp_path / "one.db", bytes(32)).close()
    shutil.copy(tmp_path / "one.db", tmp_path / "two.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "two.db")) as conn:
        assert conn.execute("SELECT COUNT(*) FROM balances").fetchone() == (0,)
