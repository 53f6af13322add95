"""The probes: parts of the gateway timed by themselves, in a process of their own on the servers' core.

`admission`   the money of one call: open, book and close at the till (`admission.py`); CPU us a call
`limiter`     one decision of the limiter and its release, over 1, 10^4 and 10^6 keys (`limiter.py`); quick: up to 10^4
`auto`        how often the auto router is right, and what one verdict costs (`auto_router.py`)

Run by `python -m bench.probes NAME [--quick]`; prints figures as JSON.
"""

from __future__ import annotations

import argparse
import random
import sys

import msgspec

from bench import admission, auto_router, limiter
from bench.cases import Figures
from bench.processes import pin, run_checked

NAMES = ("admission", "limiter", "auto")
_QUICK_KEYS_MAX = 10_000  # a million take half a minute to fill in
_CALLS, _QUICK_CALLS = 100_000, 10_000


def run(name: str, core: int, *, quick: bool) -> Figures:
    """The figures of one probe. Blocks until it is done. Raises StartError when it fails."""
    command = [sys.executable, "-m", "bench.probes", name, "--core", str(core), *(["--quick"] if quick else [])]
    return msgspec.json.decode(run_checked(command), type=Figures)


def measure(name: str, *, quick: bool) -> Figures:
    """The same in this process."""
    if name == "admission":
        return admission.figures(batches=8, rounds=3) if quick else admission.figures()
    if name == "auto":
        return auto_router.figures(calls=200, rounds=2) if quick else auto_router.figures()
    sizes = [keys for keys in limiter.KEYS if not quick or keys <= _QUICK_KEYS_MAX]
    return {f"keys_{keys}_us": _decision_us(keys, _QUICK_CALLS if quick else _CALLS) for keys in sizes}


def _decision_us(keys: int, calls: int) -> float:
    """CPU us of one admission and its release, over keys taken at random from a table of so many live ones."""
    table, _ = limiter.grow(keys)
    chosen = random.Random(1)
    order = [limiter.levels_of(chosen.randrange(keys), limiter.LIMITS) for _ in range(calls)]

    def decide(levels: limiter.Levels, now: float) -> None:
        table.admit(levels, 1000, now, limiter.WALL).release(900, now)

    return limiter.timed(decide, order)


def main() -> None:
    """Entry point of a probe's process."""
    parser = argparse.ArgumentParser(prog="python -m bench.probes", description=__doc__.split("\n\n")[0])
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--core", type=int)
    options = parser.parse_args()
    if options.core is not None:
        pin(options.core)
    print(msgspec.json.encode(measure(options.name, quick=options.quick)).decode())


if __name__ == "__main__":
    main()
