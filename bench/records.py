"""The check after the run: the gateway's database must hold exactly one complete record per call sent.

Reads `calls` of `gateway.db` read-only, after the gateway has stopped. Complete: status and ending are set, and
the generation id is its own. A fast gateway that forgets calls has not done the job that was timed.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_NEEDED = ("gen_id", "status", "ended")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the database held against what was sent."""

    sent: int
    rows: int
    distinct: int
    incomplete: int
    exit_status: int
    endings: dict[str, int]
    problem: str  # empty when the records are right


def judge(database: Path, sent: int, exit_status: int) -> Verdict:
    """Compare `database` with `sent` calls; a database that cannot be read is a problem, not an exception."""
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return _count(connection, sent, exit_status)
    except sqlite3.Error as exc:
        return Verdict(sent, 0, 0, 0, exit_status, {}, f"cannot read {database}: {exc}")


def _count(connection: sqlite3.Connection, sent: int, exit_status: int) -> Verdict:
    columns = {row[1] for row in connection.execute("PRAGMA table_info(calls)")}
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        return Verdict(sent, 0, 0, 0, exit_status, {}, f"table calls lacks the columns {', '.join(missing)}")
    rows, distinct = connection.execute("SELECT count(*), count(DISTINCT gen_id) FROM calls").fetchone()
    unset = " OR ".join(f"{name} IS NULL OR {name} = ''" for name in _NEEDED)
    (incomplete,) = connection.execute(f"SELECT count(*) FROM calls WHERE {unset}").fetchone()
    endings = {str(ended): count for ended, count in connection.execute("SELECT ended, count(*) FROM calls GROUP BY 1")}
    problem = _problem(sent, rows, distinct, incomplete, exit_status)
    return Verdict(sent, rows, distinct, incomplete, exit_status, endings, problem)


def _problem(sent: int, rows: int, distinct: int, incomplete: int, exit_status: int) -> str:
    problems = []
    if rows != sent:
        problems.append(f"{sent} calls were sent but {rows} are recorded")
    if distinct != rows:
        problems.append(f"{rows - distinct} records share a gen_id with another")
    if incomplete:
        problems.append(f"{incomplete} records lack {' or '.join(_NEEDED)}")
    if exit_status != 0:
        problems.append(f"the gateway ended with status {exit_status} on SIGTERM")
    return "; ".join(problems)
