"""`python -m loadtest`: mixed traffic in steps, a spike and a soak, then the fault wall.

Exit status: 0 when everything held, 1 when a threshold broke or a cell of the wall is WRONG, 2 for a run that could
not be done.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import trio

from bench.measure import machine
from bench.processes import StartError
from loadtest import faultwall, history, scenario, servers, thresholds
from loadtest.run import Phase, run_phase
from loadtest.shapes import Soak
from loadtest.stats import Stats, table
from loadtest.thresholds import Check
from loadtest.traffic import MIXED, Site


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description="Load the gateway with mixed traffic, then show it every way a provider can break.",
        epilog="Example: python -m loadtest --quick",
    )
    parser.add_argument("--quick", action="store_true", help="under 45 s (default: under 3 min)")
    parser.add_argument("--no-wall", action="store_true", help="without the fault wall")
    parser.add_argument("--seed", type=int, default=1, help="of the users' dice (default 1)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep configs, logs and the gateway's data there")
    parser.add_argument("--url", help="load this running gateway on a loopback address instead; soak only")
    parser.add_argument("--key", default="", help="with --url: the API key")
    parser.add_argument("--model", default="sim/words", help="with --url: the model to ask (default sim/words)")
    parser.add_argument("--per-s", type=float, default=10.0, help="with --url: calls a second (default 10)")
    parser.add_argument("--for-s", type=float, default=10.0, help="with --url: seconds (default 10)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    options = _options(arguments)
    began = time.perf_counter()
    try:
        if options.url:
            holds = _run_elsewhere(options)
        elif options.keep:
            options.keep.mkdir(parents=True)
            holds = _run_here(options, options.keep)
        else:
            with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
                holds = _run_here(options, Path(folder))
    except (StartError, servers.NotLoopback, sqlite3.Error, OSError) as exc:
        print(f"the load test could not run: {exc}", file=sys.stderr)
        return 2
    print(f"\n{'everything held' if holds else 'BROKEN'}, after {time.perf_counter() - began:.0f} s")
    return 0 if holds else 1


def _run_here(options: argparse.Namespace, folder: Path) -> bool:
    size = scenario.QUICK if options.quick else scenario.DEFAULT
    (folder / "load").mkdir()
    outcome = scenario.run(folder / "load", size, options.seed, lambda text: print(f"... {text}", flush=True))
    _print_stats("direct (open arrivals)", outcome.direct)
    for name, phase in outcome.phases.items():
        _print_phase(name, phase)
    _print_checks(outcome.checks)
    holds = not outcome.broken
    if not options.no_wall:
        holds = _run_wall(folder / "wall") and holds
    lines = history.read()
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    print("\n" + table(history.compare(outcome.figures, history.last_like(lines, size.name))))
    history.append({"at": now, "size": size.name, "held": holds, "figures": outcome.figures, "machine": machine()})
    return holds


def _run_wall(folder: Path) -> bool:
    print("... the fault wall", flush=True)
    folder.mkdir()
    wall = faultwall.run(folder)
    print(faultwall.summary(wall))
    for line in wall.wrong:
        print(f"WRONG  {line}")
    return not wall.wrong


def _run_elsewhere(options: argparse.Namespace) -> bool:
    """Load a gateway that somebody else started: answers are checked, its process is not ours to look into."""
    target = servers.loopback(options.url, options.key)
    site = Site(target, options.model, options.model, options.model, None, None, 0.0)
    phase = Phase(Soak(options.per_s, options.for_s), MIXED)
    trio.run(run_phase, phase, site, options.seed, thresholds.past_saving)
    _print_phase("soak", phase)
    checks = thresholds.of_phase("soak", phase.stats, phase.stopped)
    _print_checks(checks)
    return all(check.holds for check in checks)


def _print_phase(name: str, phase: Phase) -> None:
    unit = "users" if phase.shape.arrivals == "closed" else "calls at once"
    timed = f"{phase.shape.arrivals} arrivals, {phase.took_s:.1f} s, at most {phase.in_flight_max} {unit}"
    _print_stats(f"{name} ({timed})", phase.stats)


def _print_stats(title: str, stats: Stats) -> None:
    late_ms = max(stats.all.late_s, default=0.0) * 1000
    print(f"\n{title}; times in ms from the intended start; the generator was at most {late_ms:.0f} ms late")
    print(table(stats.rows()))
    for line in stats.problems():
        print(f"  {line}")


def _print_checks(checks: list[Check]) -> None:
    print()
    for check in checks:
        print(f"{'ok    ' if check.holds else 'BROKEN'}  {check.name}: {check.told}")


if __name__ == "__main__":
    sys.exit(main())
