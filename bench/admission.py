"""What the money of one call costs in CPU: opened at the till (limits, hold, header fields), booked, closed.

The same calls as the load makes, on a tenant's key, without sockets: once with records that go nowhere, once with the
real journal and hold slots in files. Handing a record to the store is an append, and SQLite has a thread of its own:
neither is in here; the load's CPU figures have all of it. Back of the envelope: a prompt estimate of 700 bytes 3 us,
limiter 4, header fields 3, charge and record 5, journal line 5, hold slot 2, counters 4: about 25 us.

`python -m bench.admission` prints it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import trio

from bench import frames, tenant
from bench.cases import Figures
from gateway.admit.gate import Gate
from gateway.admit.limiter import Limiter
from gateway.config import Config, Ledger
from gateway.configfile import parse
from gateway.core.call import Call
from gateway.core.ids import IdMint
from gateway.core.money import parse_usd
from gateway.core.principal import Account, Principal
from gateway.core.usage import Usage, estimate_prompt_tokens
from gateway.dialects.openai_chat import ChatRequest, parse_request
from gateway.observe.metrics import Metrics
from gateway.route.catalog import Catalog, Entry
from gateway.store.calls import CallRecord
from gateway.store.holds import Holds, OpenHold
from gateway.store.journal import Journal, Segment
from gateway.till import Tab, Till

UNDER_WAY = 64  # calls that are open at once
BATCHES, ROUNDS = 64, 5
_NO_LINE = Segment(Path(), None, 0)


class NoRecords:
    """Records that go nowhere."""

    def has_room(self, calls_under_way: int) -> bool:
        """There is always room."""
        del calls_under_way
        return True

    def open_hold(self, hold: OpenHold) -> int:
        """Note nothing."""
        del hold
        return 0

    def close_hold(self, slot: int) -> None:
        """Forget nothing."""

    def write_line(self, record: CallRecord) -> Segment:
        """Write nothing."""
        del record
        return _NO_LINE

    def put(self, record: CallRecord, line: Segment | None = None, slot: int | None = None) -> None:
        """Keep nothing."""

    async def committed(self) -> None:
        """Nothing waits."""

    def tend(self) -> None:
        """Nothing is left to do after a batch."""


class FileRecords(NoRecords):
    """The journal and the hold slots of a serving process; `tend` does the writer thread's part, outside the clock."""

    def __init__(self, folder: Path) -> None:
        self._holds = Holds(folder / "holds")
        self._journal = Journal(folder / "journal", Ledger().journal_segment_bytes)
        self._lines: list[Segment] = []

    def open_hold(self, hold: OpenHold) -> int:
        """Fill a slot."""
        return self._holds.open(hold)

    def close_hold(self, slot: int) -> None:
        """Clear a slot."""
        self._holds.close(slot)

    def write_line(self, record: CallRecord) -> Segment:
        """Write a line."""
        return self._journal.write(record)

    def put(self, record: CallRecord, line: Segment | None = None, slot: int | None = None) -> None:
        """Keep the line until `tend`."""
        del record, slot
        if line is not None:
            self._lines.append(line)

    def tend(self) -> None:
        """The calls so far are committed."""
        while self._lines:
            self._journal.release(self._lines.pop())
        dead, self._journal.dead = self._journal.dead, []
        self._journal.drop(dead)
        if self._journal.wants_spare:
            self._journal.add_spare(self._journal.make_segment())

    def close(self) -> None:
        """Let the files go."""
        self.tend()
        self._journal.close()
        self._holds.unmap()


@dataclass(frozen=True, slots=True)
class _Scene:
    """What all the calls have in common."""

    config: Config
    entry: Entry
    principal: Principal
    body: bytes
    request: ChatRequest


def figures(batches: int = BATCHES, rounds: int = ROUNDS) -> Figures:
    """Microseconds of CPU a call, best of the rounds: the whole, and of the one with files each step."""
    with tempfile.TemporaryDirectory(prefix="bench-till-") as folder, closing(FileRecords(Path(folder))) as files:
        bare = trio.run(_measure, NoRecords(), batches, rounds)
        opened, booked, closed = trio.run(_measure, files, batches, rounds)
    return {
        "bare_us": sum(bare),
        "files_us": opened + booked + closed,
        "open_us": opened,
        "book_us": booked,
        "close_us": closed,
    }


def _scene() -> _Scene:
    text = tenant.tables({"bench": ("http://127.0.0.1:9/v1", None)})
    config = parse(text, path="bench", environ={})
    account = Account("acct_0c1d9a52b7e3f468", tenant.ACCOUNT, plan="bench", prepaid=True)
    principal = Principal(
        "key_5f2c9a1be07d4438",
        account,
        "bench",
        rpm=tenant.KEY_LIMITS["rpm"],
        rpd=tenant.KEY_LIMITS["rpd"],
        tpm=tenant.KEY_LIMITS["tpm"],
        concurrency=tenant.KEY_LIMITS["concurrency"],
        spend_limit=parse_usd(tenant.KEY_LIMIT_USD),
        limit_reset="monthly",
    )
    body = frames.request_body(f"bench/{frames.CHAT}", stream=False)
    return _Scene(config, Catalog(config).find(f"bench/{frames.CHAT}"), principal, body, parse_request(body))


async def _measure(records: NoRecords, batches: int, rounds: int) -> list[float]:
    """Open, book and close in batches; checks that each call was charged its price and no hold is left."""
    scene, credit = _scene(), parse_usd(tenant.CREDIT_USD)
    account_id = scene.principal.account_id
    gate = Gate(Limiter(day_zone="UTC", keys_max=1000), wall=time.time())
    gate.load({account_id: credit}, [])
    till = Till(gate, records, Metrics(), time.time)
    steps: tuple[Callable[[Tab], object], ...] = (lambda tab: _open(till, scene, tab), till.book, till.close)
    best = [float("inf")]
    ids = IdMint()
    for _ in range(rounds):
        taken_s = [0.0, 0.0, 0.0]
        for _ in range(batches):
            tabs = [_tab(scene, ids) for _ in range(UNDER_WAY)]
            for index, step in enumerate(steps):
                taken_s[index] += _timed(step, tabs)
            records.tend()
        if sum(taken_s) < sum(best):
            best = taken_s
    calls = batches * UNDER_WAY
    assert gate.balance(account_id) == (credit - rounds * calls * tenant.price_pico_usd(frames.CHAT), 0)
    return [taken / calls * 1e6 for taken in best]


def _timed(step: Callable[[Tab], object], tabs: list[Tab]) -> float:
    start = time.thread_time()
    for tab in tabs:
        step(tab)
    return time.thread_time() - start


def _open(till: Till, scene: _Scene, tab: Tab) -> None:
    tab.call.prompt_estimate = estimate_prompt_tokens(scene.body)
    till.open(tab, scene.principal, scene.config, scene.request, scene.entry.attempts)


def _tab(scene: _Scene, ids: IdMint) -> Tab:
    """A call that got its answer, but for the money."""
    now, wall = trio.current_time(), time.time()
    call = Call(ids.request_id(), ids.generation_id(wall), "express", now, wall)
    principal = scene.principal
    call.account_id, call.key_id, call.key_name = principal.account_id, principal.key_id, principal.name
    call.model, call.max_tokens, call.bytes_in = scene.entry.model.id, scene.request.max_tokens, len(scene.body)
    call.winner, call.first_content_at, call.finish_reason = scene.entry.attempts[0], now, "stop"
    call.usage = Usage(frames.PROMPT_TOKENS, frames.COMPLETION_TOKENS[frames.CHAT])
    call.status, call.ended, call.bytes_out = 200, "complete", len(frames.completion())
    return Tab(call)


def main() -> None:
    """Print the figures, which take about ten seconds."""
    for name, value in figures().items():
        print(f"{value:6.2f} {name}")


if __name__ == "__main__":
    main()
