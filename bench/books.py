"""The check of the money after the run: every charge is right, the ledger proves it, and no hold is left open.

Reads `gateway.db` read-only, after the gateway has stopped. What a call must cost is reckoned here from the answer's
known tokens and the price that was configured. Together with `records.py` (one complete record per call sent): the sum
of the customers' entries is that of the calls' costs, which is calls times price.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench.tenant import price_pico_usd
from gateway.core.money import format_usd
from gateway.store.verify import verify

_SHOWN = 3  # mismatches that are told in full


@dataclass(frozen=True, slots=True)
class Audit:
    """What was charged. Amounts are pico-USD; `cut_short` are calls that did not end complete."""

    calls: int
    cut_short: int
    cost: int
    entered: int
    mispriced: int
    mismatches: list[str]
    held_usd: float
    problem: str  # empty when the books are right

    def told(self) -> str:
        """One line of the report."""
        if self.problem:
            return self.problem
        cut = f" ({self.cut_short} of them cut short)" if self.cut_short else ""
        return (
            f"{self.calls} calls{cut} charged ${format_usd(self.cost)}; each charge right, the ledger proved, no hold"
        )


def audit(database: Path, held_usd: float) -> Audit:
    """Check the books of `database`; one that cannot be read is a problem. `held_usd`: in holds after the last call."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, isolation_level=None)) as connection:
            return _count(connection, held_usd)
    except sqlite3.Error as exc:
        return Audit(0, 0, 0, 0, 0, [], held_usd, f"cannot read {database}: {exc}")


def _count(connection: sqlite3.Connection, held_usd: float) -> Audit:
    calls = cut_short = cost = mispriced = 0
    groups = connection.execute(
        "SELECT model, ended = 'complete', cost_pico_usd, count(*) FROM calls GROUP BY 1, 2, 3"
    ).fetchall()
    for model, complete, each, count in groups:
        calls += count
        cost += each * count
        if not complete:
            cut_short += count
        elif each != price_pico_usd(model.rpartition("/")[2]):
            mispriced += count
    (entered,) = connection.execute(
        "SELECT COALESCE(-SUM(amount_pico_usd), 0) FROM entries WHERE book = 'customer' AND kind = 'call'"
    ).fetchone()
    mismatches = verify(connection)
    problem = _problem(cost, entered, mispriced, mismatches, held_usd)
    return Audit(calls, cut_short, cost, entered, mispriced, mismatches, held_usd, problem)


def _problem(cost: int, entered: int, mispriced: int, mismatches: list[str], held_usd: float) -> str:
    problems = []
    if entered != cost:
        problems.append(f"calls cost ${format_usd(cost)} but ${format_usd(abs(entered))} is in the ledger")
    if mispriced:
        problems.append(f"{mispriced} complete calls do not cost their price")
    if mismatches:
        problems.append(f"{len(mismatches)} mismatches in the ledger, such as: {' / '.join(mismatches[:_SHOWN])}")
    if held_usd:
        problems.append(f"${held_usd:.12f} is still held after the last call")
    return "; ".join(problems)
