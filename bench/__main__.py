"""`python -m bench`: run the cases, print the tables, write JSON and charts, check the gateway's records.

Exit status: 0 when every call sent has exactly one complete record and was charged its price, and the gateway answered
nothing wrongly; 1 when not (or, with `--strict`, when a target was missed); 2 for a run that could not be done.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from bench import cases, contenders, measure, peers, probes, processes, report, tables
from bench.run import Outcome, Run
from bench.summary import summarise

OUT = Path(__file__).resolve().parent / "out"


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the gateway beside a direct call, nginx and, with --peers, its rivals.",
        epilog="Example: python -m bench --quick --case answers --case paced-100",
    )
    parser.add_argument("--quick", action="store_true", help="one short round, under a minute (for CI)")
    parser.add_argument("--peers", action="store_true", help="also install and run LiteLLM, Portkey and MLflow")
    parser.add_argument("--only-peer", action="append", choices=sorted(peers.STARTS), help="with --peers: this one")
    parser.add_argument("--case", action="append", metavar="NAME", help="run this case alone (repeatable)")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 3; --quick 1)")
    parser.add_argument("--no-gateway", action="store_true", help="leave the gateway out (to measure the others)")
    parser.add_argument("--strict", action="store_true", help="fail when a target is missed")
    parser.add_argument("--no-charts", action="store_true", help="write the JSON alone")
    parser.add_argument("--out", type=Path, default=OUT, help="where JSON and charts go (default bench/out)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep logs, data and configs in this new folder")
    parser.add_argument(
        "--update-readme",
        nargs="?",
        const="",
        metavar="JSON",
        help="fill README.md's table from this run, or from an earlier run's JSON and do nothing else",
    )
    return parser.parse_args(arguments)


def _chosen(options: argparse.Namespace, size: cases.Size) -> tuple[list[str], list[cases.Case]]:
    """The probes and the cases to run."""
    here = {case.name: case for case in cases.build(size)}
    if not options.case:
        return list(probes.NAMES), list(here.values())
    known = [*probes.NAMES, *(case.name for case in cases.build(cases.FULL))]
    unknown = [name for name in options.case if name not in known]
    if unknown:
        sys.exit(f"no such case: {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = [name for name in options.case if name not in probes.NAMES]
    missing = [name for name in wanted if name not in here]
    if missing:
        sys.exit(f"--quick leaves out {', '.join(missing)}; run without it")
    return [name for name in options.case if name in probes.NAMES], [here[name] for name in wanted]


def _size(options: argparse.Namespace) -> cases.Size:
    size = cases.QUICK if options.quick else cases.FULL
    if options.rounds is None:
        return size
    if options.rounds < 1:
        sys.exit(f"--rounds must be at least 1, not {options.rounds}")
    return dataclasses.replace(size, rounds=options.rounds)


def _run(
    options: argparse.Namespace, size: cases.Size, probed: list[str], chosen: list[cases.Case], folder: Path
) -> Outcome:
    with Run(folder, _say) as run:
        if not options.no_gateway:
            run.probe(probed, quick=options.quick)
        if not chosen:
            return run.outcome
        if not options.no_gateway and run.add("gateway", contenders.start_gateway) is None:
            raise processes.StartError("the gateway did not start")
        run.add("nginx", contenders.start_nginx)
        if options.peers:
            for name in options.only_peer or peers.STARTS:
                run.add(name, peers.STARTS[name])
        run.measure(chosen, size)
        run.finish()
        return run.outcome


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _report(outcome: Outcome, size: cases.Size, arguments: list[str]) -> tables.Report:
    return tables.Report(
        command=" ".join(["python -m bench", *arguments]),
        when=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=measure.machine(),
        pinning=measure.Cores().describe(),
        rounds=size.rounds,
        summary=summarise(outcome.figures),
        per_round=outcome.figures,
        start=outcome.start,
        absent=outcome.absent,
        versions=outcome.versions,
        notes=outcome.notes,
        wrong=outcome.wrong,
        records=outcome.records,
        books=outcome.books,
        probes=outcome.probes,
    )


def _write(found: tables.Report, options: argparse.Namespace) -> Path:
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    path = out / f"{stamp}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    if not options.no_charts:
        from bench import charts

        for chart in charts.draw(found, out, stamp):
            _say(f"wrote {chart}")
    _say(f"wrote {path}")
    return path


def _status(found: tables.Report, *, strict: bool) -> int:
    """The exit status; says why it is not 0."""
    problems = []
    if found.records is not None and found.records.problem:
        problems.append(f"records: {found.records.problem}")
    if found.books is not None and found.books.problem:
        problems.append(f"books: {found.books.problem}")
    if "gateway" in found.wrong:
        problems.append(f"the gateway answered wrongly: {found.wrong['gateway']}")
    if strict:
        problems += [f"target: {target.line()}" for target in found.targets() if target.met is False]
    for problem in problems:
        _say(f"FAIL {problem}")
    return 1 if problems else 0


def main(arguments: list[str]) -> int:
    """Run the benchmark as the command line says; returns the exit status."""
    options = _options(arguments)
    if options.update_readme:
        report.update_readme(msgspec.json.decode(Path(options.update_readme).read_bytes(), type=tables.Report))
        return 0
    size = _size(options)
    probed, chosen = _chosen(options, size)
    if options.list:
        print("\n".join([*probed, *(case.name for case in chosen)]))
        return 0
    # Ended from outside, the run must still stop the servers it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder: Path = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        try:
            outcome = _run(options, size, probed, chosen, folder)
        except processes.StartError as exc:
            _say(str(exc))
            return 2
    found = _report(outcome, size, arguments)
    print(report.text(found))
    _write(found, options)
    if options.update_readme is not None:
        report.update_readme(found)
    return _status(found, strict=options.strict)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
