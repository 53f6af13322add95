"""One run: start everybody, go through the cases in interleaved rounds, stop everybody, check the gateway's records.

Contenders stay up for the whole run and take turns within each case; who goes first rotates by round, so that
a slow minute of the machine falls on all of them alike. Probes (`probes.py`) come before the servers are started.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import msgspec

from bench import books, certs, contenders, lag, measure, probes, processes, records
from bench.cases import Case, Figures, Reading, Size, over_operator, warm_up
from bench.contenders import Contender, Upstreams
from bench.job import Job, Result
from bench.summary import DIRECT, GATEWAY

Start = Callable[[processes.Fleet, Upstreams, Path, int], Contender]
_POLL_S = 0.25  # of the servers' resident memory while a job runs
_OPEN_SHARE = 0.4  # of measured capacity, the most that open arrivals ask for
_DRAIN_S = 1.0  # for a server that was left with unfinished calls
_RELEASE_S = 5.0  # for the holds of calls that were left


@dataclass(slots=True)
class Outcome:
    """What a run found: `figures[contender][case]` is one entry per round."""

    figures: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # contender -> why it is not in the run
    notes: list[str] = field(default_factory=list)
    start: dict[str, Figures] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    records: records.Verdict | None = None
    books: books.Audit | None = None
    probes: dict[str, Figures] = field(default_factory=dict)
    wrong: dict[str, dict[str, int]] = field(default_factory=dict)


class Run:
    """The processes of a run, as a context manager that stops them all."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.cores = measure.Cores()
        self.outcome = Outcome()
        self.contenders: list[Contender] = []
        self._say = say
        self._fleet = processes.Fleet()
        self._gone: set[str] = set()  # rivals that died on the way
        self._overloaded: dict[str, int] = {}  # contender -> paced connections that were too many

    def __enter__(self) -> Run:
        measure.raise_fd_limit()
        pem, ca = certs.write_self_signed(self.folder)
        self._upstream, port = self._start_upstream("upstream")
        self._upstream_tls, tls_port = self._start_upstream("upstream-tls", "--tls", str(pem))
        self.upstreams = Upstreams(port, tls_port, ca)
        self.contenders.append(contenders.direct(self.upstreams))
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._fleet.__exit__(kind, exc, tb)

    def _start_upstream(self, name: str, *options: str) -> tuple[processes.Server, int]:
        command = [sys.executable, "-m", "bench.upstream", *options]
        server = self._fleet.spawn(name, command, core=self.cores.driver, folder=self.folder)
        return server, processes.wait_listening(server, contenders.READY_S)

    def probe(self, names: list[str], *, quick: bool) -> None:
        """Run probes on the servers' core. Raises StartError for one that fails."""
        for name in names:
            self._say(f"probe: {name}")
            self.outcome.probes[name] = probes.run(name, self.cores.server, quick=quick)

    def add(self, name: str, start: Start) -> Contender | None:
        """Start one contender and note its start-up figures; one that cannot start is reported and left out."""
        self._say(f"starting {name}")
        folder = self.folder / name
        folder.mkdir()
        try:
            contender = start(self._fleet, self.upstreams, folder, self.cores.server)
            contenders.first_answer(contender)
        except (processes.StartError, OSError) as exc:
            self.outcome.absent[name] = str(exc)
            self._say(f"{name} is not in this run: {exc}")
            return None
        if contender.server is not None:
            self.outcome.start[name] = {
                "ready_s": contender.ready_s,
                "first_answer_s": contender.first_answer_s,
                "rss_idle_mib": measure.rss_bytes(contender.server.pid) / 2**20,
            }
        self.outcome.versions[name] = contender.version or "?"
        if not contender.sends_done:
            self.outcome.notes.append(f"{name} ends its streams without [DONE]")
        self.contenders.append(contender)
        return contender

    def measure(self, cases: list[Case], size: Size) -> None:
        """Run every case in `size.rounds` interleaved rounds."""
        for contender in self.contenders:
            self._say(f"warming up {contender.name}")
            for job in warm_up(contender, size):
                self._read(contender, job)
        for round_index in range(size.rounds):
            turn = round_index % len(self.contenders)
            order = self.contenders[turn:] + self.contenders[:turn]
            for case in cases:
                self._say(f"round {round_index + 1}/{size.rounds}: {case.name}")
                for contender in order:
                    if case.applies(contender) and contender.name not in self._gone:
                        self._one(case, contender)

    def _one(self, case: Case, contender: Contender) -> None:
        limit = self._overloaded.get(contender.name)
        if limit is not None and case.name.startswith("paced") and case.connections >= limit:
            return
        try:
            figures, results = self._measured(case, contender)
        except processes.StartError as exc:
            if contender.name in (DIRECT, GATEWAY):
                raise
            self._gone.add(contender.name)
            self.outcome.notes.append(f"{contender.name} left the run in {case.name}: {exc}")
            return
        by_case = self.outcome.figures.setdefault(contender.name, {})
        by_case.setdefault(case.name, []).append(figures)
        if case.name == "answers":
            contender.rate_max_s = _OPEN_SHARE * figures["req_s"]
        for result in results:
            self._note_trouble(case, contender, result)

    def _measured(self, case: Case, contender: Contender) -> tuple[Figures, list[Result]]:
        """Run a case's jobs; of the gateway also how late it was meanwhile, scraped outside the readings' clocks."""
        before = lag.scrape(contender.port) if contender.name == GATEWAY else None
        beside = [] if case.beside is None else [self._read(contender, case.beside(contender))]
        reading = self._read(contender, case.job(contender))
        figures = case.figures(reading)
        if case.beside is not None:
            beside.append(self._read(contender, case.beside(contender)))
            figures |= over_operator(beside, reading)
        if before is not None:
            figures |= lag.figures(before, lag.scrape(contender.port))
        return figures, [each.result for each in (reading, *beside)]

    def _read(self, contender: Contender, job: Job) -> Reading:
        server = contender.server
        before, started_at = self._clocks(server), time.perf_counter()
        result, rss_max_bytes = self._drive(job, server)
        contender.sent += result.sent
        server_s, upstream_s, tls_s, busy_s = (
            later - earlier for later, earlier in zip(self._clocks(server), before, strict=True)
        )
        return Reading(result, server_s, upstream_s + tls_s, rss_max_bytes, busy_s, time.perf_counter() - started_at)

    def _clocks(self, server: processes.Server | None) -> tuple[float, float, float, float]:
        """CPU seconds so far: the server's, the two upstreams', both cores'."""
        return (
            measure.cpu_s(server.pid) if server else 0.0,
            measure.cpu_s(self._upstream.pid),
            measure.cpu_s(self._upstream_tls.pid),
            sum(measure.busy_s(core) for core in {self.cores.server, self.cores.driver}),
        )

    def _drive(self, job: Job, server: processes.Server | None) -> tuple[Result, int]:
        """Run the generator process on `job`, sampling the server's memory meanwhile."""
        command = [sys.executable, "-m", "bench.load"]
        core = self.cores.driver
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=processes.REPOSITORY,
            preexec_fn=lambda: processes.pin(core),
        ) as generator:
            pending: bytes | None = msgspec.json.encode(job)
            rss_max_bytes = 0
            while True:
                try:
                    output, _ = generator.communicate(pending, timeout=_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    pending = None
                    rss_max_bytes = max(rss_max_bytes, measure.rss_bytes(server.pid) if server else 0)
        if generator.returncode != 0:
            raise processes.StartError(f"the load generator ended with status {generator.returncode}")
        return msgspec.json.decode(output, type=Result), rss_max_bytes

    def finish(self) -> None:
        """Note the memory left after the load, stop the gateway as an operator would, judge its records and books."""
        for contender in self.contenders:
            if contender.server is not None:
                rss = measure.rss_bytes(contender.server.pid) / 2**20
                self.outcome.start[contender.name]["rss_after_mib"] = rss
        for contender in self.contenders:
            if contender.name == GATEWAY and contender.server is not None:
                held_usd = self._held_usd(contender)
                status = contender.server.stop()
                self.outcome.records = records.judge(contender.database, contender.sent, status)
                self.outcome.books = books.audit(contender.database, held_usd)

    def _held_usd(self, contender: Contender) -> float:
        """The credit in holds, once those of calls that were left have had time to go."""
        end = time.monotonic() + _RELEASE_S
        while (held_usd := lag.scrape(contender.port).held_usd) and time.monotonic() < end:
            time.sleep(_POLL_S)
        return held_usd

    def _note_trouble(self, case: Case, contender: Contender, result: Result) -> None:
        if result.errors:
            counts = self.outcome.wrong.setdefault(contender.name, {})
            for why, count in result.errors.items():
                counts[f"{case.name}: {why}"] = counts.get(f"{case.name}: {why}", 0) + count
            self._say(f"{contender.name} {case.name}: {result.errors} {result.sample!r}")
        if result.unfinished:
            self._overloaded[contender.name] = case.connections
            note = f"{contender.name} left {result.unfinished} of {result.sent} calls unfinished in {case.name}"
            self.outcome.notes.append(note)
            self._say(note)
            time.sleep(_DRAIN_S)
