"""`python -m loadtest.faultwall`: every way a provider can break, times stream or not, times which provider breaks.

Two simulated providers (`python -m gateway.sim`) stand behind one gateway with short timeouts; each cell is one call
(`faultcells.py` says what is right). Prints the matrix; exit status 1 when a cell is WRONG, 2 when nothing could run.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from bench.measure import Cores
from bench.processes import Fleet, StartError
from loadtest import servers, vitals
from loadtest.client import Client, Reply, post
from loadtest.faultcases import CLIENT_LEAVES, FAULTS, Fault
from loadtest.faultcells import LEAVE_S, WHERES, WORDS_MAX, Cell, Record, Verdict, judge
from loadtest.stats import table

README = Path(__file__).resolve().parent / "README.md"
_MARKS = ("<!-- faultwall:begin -->", "<!-- faultwall:end -->")
# Long enough for a good answer on a busy machine, short enough that a silent provider is not waited for.
TIMEOUTS_S = {"connect_s": 2.0, "first_content_s": 3.0, "answer_s": 3.0, "idle_s": 2.5, "total_s": 20.0}
_CALL_S = 25.0
_SETTLED_S = 8.0
_AT_ONCE = 80
_KINDS = {True: "stream", False: "non-stream"}


@dataclass(slots=True)
class Wall:
    """The outcome of a run."""

    verdicts: dict[Cell, Verdict] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)  # what stayed open afterwards
    took_s: float = 0.0

    @property
    def wrong(self) -> list[str]:
        """One line per wrong cell, then the leaks."""
        lines = [f"{_name(cell)}: {verdict.why}" for cell, verdict in self.verdicts.items() if verdict.why]
        return lines + self.leaks


def cells(faults: tuple[Fault, ...] = FAULTS) -> list[Cell]:
    """Every cell of these rows."""
    combined = [(fault, stream, where) for fault in faults for stream in (True, False) for where in WHERES]
    return [Cell(index, *parts) for index, parts in enumerate(combined)]


def config(wall: list[Cell], ports: tuple[int, int], closed_port: int) -> str:
    """The gateway's configuration: two providers and a model for each cell."""
    rest = ['[log]\nlevel = "error"\ncalls = false\n', "[sim]\nenabled = false\n"]
    for cell in wall:
        for name, port, unreachable in zip(cell.providers, ports, cell.unreachable, strict=True):
            rest.append(servers.provider_table(name, closed_port if unreachable else port))
        rest.append(servers.model_table(cell.model, zip(cell.providers, cell.offered, strict=True)))
    return servers.settings({"timeouts": TIMEOUTS_S, "race": {"retries_max": 0}}, rest)  # each is to be asked once


def run(folder: Path, faults: tuple[Fault, ...] = FAULTS) -> Wall:
    """Start everything in `folder`, make every cell's call, judge them. Raises StartError."""
    began, wall, cores = time.perf_counter(), cells(faults), Cores()
    options = ("--words-max", str(WORDS_MAX), "--first-token-s", "0.02", "--token-gap-s", "0.01")
    with Fleet() as fleet, _closed_port() as closed:
        ports = tuple(servers.start_sim(fleet, name, folder, cores.driver, *options) for name in ("sim-a", "sim-b"))
        gateway = servers.start_gateway(fleet, folder, cores.server, config(wall, (ports[0], ports[1]), closed))
        replies, leaks = trio.run(_call_all, wall, gateway)
        status = gateway.server.stop()
        if status != 0:
            leaks.append(f"the gateway ended with status {status} on SIGTERM:\n{gateway.server.tail()}")
        records = read_records(gateway.database)
    verdicts = {cell: judge(cell, replies[cell], records.get(cell.model, [])) for cell in wall}
    return Wall(verdicts, leaks, time.perf_counter() - began)


@contextmanager
def _closed_port() -> Iterator[int]:
    """A port that is ours and refuses every connection: bound, never listened on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


async def _call_all(wall: list[Cell], gateway: servers.Gateway) -> tuple[dict[Cell, Reply | None], list[str]]:
    replies: dict[Cell, Reply | None] = {}
    room = trio.CapacityLimiter(_AT_ONCE)

    async def one(cell: Cell) -> None:
        async with room:
            replies[cell] = await _call(cell, gateway.target)

    async with trio.open_nursery() as nursery:
        for cell in wall:
            nursery.start_soon(one, cell)
    leaks = await vitals.leaks(gateway.target, within_s=_SETTLED_S)
    return replies, leaks


async def _call(cell: Cell, target: servers.Target) -> Reply | None:
    client = Client(target.host, target.port)
    request = post(servers.CHAT_PATH, target.headers(), cell.body())
    early = cell.fault.name == CLIENT_LEAVES and cell.leaves_after < 0
    try:
        with trio.move_on_after(LEAVE_S if early else _CALL_S):
            return await client.call(request, intended_at=trio.current_time(), leave_after=cell.leaves_after)
        return None
    finally:
        client.close()


def read_records(database: Path) -> dict[str, list[Record]]:
    """The records by model. Raises sqlite3.Error."""
    found: dict[str, list[Record]] = {}
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        for model, ended, attempts, tokens in connection.execute(
            "SELECT model, ended, attempts, completion_tokens FROM calls"
        ):
            asked = tuple(str(attempt["provider"]) for attempt in json.loads(attempts or "[]"))
            found.setdefault(model, []).append(Record(ended, asked, tokens or 0))
    return found


def rows(wall: Wall) -> list[list[str]]:
    """The matrix: a heading, then a row per fault."""
    heading = ["fault", *(f"{kind}, {where}" for kind in _KINDS.values() for where in WHERES)]
    by_fault: dict[str, list[str]] = {}
    for cell, verdict in wall.verdicts.items():
        by_fault.setdefault(cell.fault.label, [cell.fault.label]).append(verdict.label)
    return [heading, *by_fault.values()]


def markdown(wall: Wall) -> str:
    """The matrix as a markdown table."""
    heading, *body = rows(wall)
    lines = [heading, ["---"] * len(heading), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def update_readme(wall: Wall, readme: Path = README) -> None:
    """Put the matrix between its marks."""
    begin, end = _MARKS
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    text = readme.read_text()
    readme.write_text(pattern.sub(lambda _: f"{begin}\n{markdown(wall)}\n{end}", text))


def summary(wall: Wall) -> str:
    """One line: how many cells came out how."""
    labels = [verdict.label for verdict in wall.verdicts.values()]
    counts = ", ".join(f"{labels.count(label)} {label}" for label in sorted(set(labels)))
    return f"fault wall: {len(labels)} calls in {wall.took_s:.1f} s: {counts}"


def _name(cell: Cell) -> str:
    return f"{cell.fault.label}, {_KINDS[cell.stream]}, {cell.where} faulty"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.faultwall", description=__doc__.split("\n\n")[0])
    parser.add_argument("--update-readme", action="store_true", help="write the matrix into loadtest/README.md")
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="only faults whose name holds this (repeatable)"
    )
    options = parser.parse_args(arguments)
    chosen = tuple(
        f for f in FAULTS if not options.only or any(part in f.label or part in f.name for part in options.only)
    )
    if not chosen:
        parser.error(f"no fault's name holds {' or '.join(options.only)}")
    if options.update_readme and options.only:
        parser.error("--update-readme writes the whole matrix; leave out --only")
    try:
        with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
            wall = run(Path(folder), chosen)
    except (StartError, sqlite3.Error) as exc:
        print(f"the fault wall could not run: {exc}", file=sys.stderr)
        return 2
    print(table(rows(wall)))
    print(summary(wall))
    for line in wall.wrong:
        print(f"WRONG  {line}")
    if options.update_readme:
        update_readme(wall)
    return 1 if wall.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
