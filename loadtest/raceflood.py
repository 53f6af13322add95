"""`python -m loadtest.raceflood --cancels 100000`: races by the hundred thousand, and what their losers leave behind.

Every call starts two lanes at once and cancels at least one, in every state a lane can be in: dialling, in the TLS
handshake, waiting for a head, for content, for the rest of a body, and as it wins (`floodcalls.py`). Nothing of them
may be left, by what the kernel, the gateway's event loop, its metrics and its records say (`floodcensus.py`).
Exit status: 1 for anything left or wrong, 2 for a run that could not be done.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from bench.measure import Cores, raise_fd_limit
from bench.processes import Fleet, StartError, free_port, run_checked, wait_accepting, wait_listening
from loadtest import servers
from loadtest.floodcalls import PACE, PLAN, POLL_S, Flood, Sent, config
from loadtest.floodcensus import (
    Census,
    Site,
    Tally,
    census,
    count_of,
    environment,
    held,
    left_behind,
    read_records,
    rows,
    series,
)
from loadtest.stats import slope_per_s, table
from loadtest.vitals import MetricsMissing

WARM_CANCELS, SETTLED_S = 1000, 15.0
CALLERS_OF_ACCOUNT = 8  # under the hedge budget's burst of ten, however many calls begin at one moment
GROWTH_MAX_BYTES = 2**20  # of memory for 10,000 calls
GROWTH_CALLS_MIN = 80_000  # until then heaps and SQLite's caches fill
_WATCHED = "from loadtest.floodcensus import serve_watched; serve_watched()"


@dataclass(slots=True)
class Outcome:
    """What a flood came to. What was sent, and the records, count the warm-up too."""

    cancelled: int = 0  # lanes, by the gateway's own count
    took_s: float = 0.0
    refused: int = 0  # second lanes that the budgets did not allow
    sent: Sent = field(default_factory=Sent)
    censuses: dict[str, Census] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @property
    def growth_bytes(self) -> float:
        """Memory of its own for 10,000 calls: the slope of the later half, as the start fills caches."""
        points = self.sent.memory
        return slope_per_s(points[len(points) // 2 :]) * 10_000

    async def settled(self, moment: str, site: Site, amiss: Callable[[Census], list[str]]) -> Census:
        """The first census with nothing amiss, or the last one within `SETTLED_S`; keep it, and what is amiss."""
        deadline = trio.current_time() + SETTLED_S
        while True:
            now = self.censuses[moment] = await census(site)
            found = amiss(now)
            if not found or trio.current_time() > deadline:
                self.leaks += [f"{moment}: {what}" for what in found]
                return now
            await trio.sleep(POLL_S)

    def wrong(self, cancels: int) -> list[str]:
        """Everything that should not be so."""
        tally, sent = self.tally, self.sent
        found = [f"{count} x {what}" for what, count in sent.problems.most_common()]
        found += self.leaks + tally.mistakes[:10]
        if self.cancelled < cancels:
            found.append(f"{self.cancelled} lanes were cancelled, not {cancels}")
        if tally.records != sent.calls:
            found.append(f"{tally.records} records of {sent.calls} calls")
        if self.refused:
            found.append(f"{self.refused} second lanes were refused by their budget")
        if sent.calls >= GROWTH_CALLS_MIN and self.growth_bytes > GROWTH_MAX_BYTES:
            found.append(f"memory grows by {self.growth_bytes / 1024:.0f} KiB for 10,000 calls")
        return found


def run(folder: Path, cancels: int, callers: int, seed: int) -> Outcome:
    """Start everything in `folder`, flood it, look at what is left.

    Raises StartError, MetricsMissing, sqlite3.Error.
    """
    raise_fd_limit()
    cores, outcome = Cores(), Outcome()
    with Fleet() as fleet, _full_port() as full, socket.create_server(("127.0.0.1", 0), backlog=1024) as mute:
        providers = {name: _start_provider(fleet, name, folder, cores.driver) for name in "ab"}
        providers |= {"full": (os.getpid(), full), "mute": (os.getpid(), mute.getsockname()[1])}
        settings = config({name: port for name, (_, port) in providers.items()})
        keys = -(-callers // CALLERS_OF_ACCOUNT)
        gateway, targets, told_file = _start_gateway(fleet, folder, cores.server, settings, keys)
        flood = Flood(targets, outcome.sent, seed)
        trio.run(_drive, outcome, flood, Site(gateway, told_file, providers), mute, cancels, callers)
        status = gateway.server.stop()
        if status != 0:
            outcome.leaks.append(f"the gateway ended with status {status} on SIGTERM:\n{gateway.server.tail()}")
    outcome.tally = read_records(gateway.database)
    return outcome


@contextmanager
def _full_port() -> Iterator[int]:
    """A port that takes no more connections: its queue is full and nobody accepts, so whoever dials it waits."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):  # a queue of length 0 holds one (sk_acceptq_is_full, include/net/sock.h)
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def _start_provider(fleet: Fleet, name: str, folder: Path, core: int) -> tuple[int, int]:
    """A simulated provider: its process and its port. Raises StartError."""
    port = free_port()
    numbers = {"port": port, "first-token-s": PACE.first_token_s, "token-gap-s": PACE.token_gap_s}
    options = [f"--{option}={value}" for option, value in {**numbers, "words-max": PACE.words_max}.items()]
    server = fleet.spawn(f"sim-{name}", [sys.executable, "-m", "gateway.sim", *options], core=core, folder=folder)
    wait_accepting(server, port, servers.READY_S)
    return server.pid, port


def _start_gateway(
    fleet: Fleet, folder: Path, core: int, settings: str, accounts: int
) -> tuple[servers.Gateway, list[servers.Target], Path]:
    """`gateway serve`, as each of so many accounts sees it, and the file it tells its tasks in. Raises StartError."""
    path, data_dir, told_file = folder / "config.toml", folder / "data", folder / "told.json"
    path.write_text(settings)
    where = ["--config", str(path), "--data-dir", str(data_dir)]
    keys = [_create_key(f"caller-{number}", where) for number in range(accounts)]
    command = [sys.executable, "-c", _WATCHED, "serve", *where, "--bind", "127.0.0.1:0"]
    server = fleet.spawn("gateway", command, core=core, folder=folder, env=environment(told_file))
    port = wait_listening(server, servers.READY_S)
    targets = [servers.Target(port, key) for key in keys]
    return servers.Gateway(server, targets[0], data_dir), targets, told_file


def _create_key(account: str, where: list[str]) -> str:
    """A key of an account with limits and prepaid credit, so that every call holds some. Raises StartError."""

    def run(*words: str) -> str:
        return run_checked([sys.executable, "-m", "gateway", *words, *where, "--json"])

    run("accounts", "create", "--name", account, "--plan", PLAN, "--prepaid")
    run("credits", "grant", "--account", account, "--usd", "10000", "--reference", account)
    key: str = json.loads(run("keys", "create", "--name", account, "--account", account))["key"]
    return key


async def _drive(outcome: Outcome, flood: Flood, site: Site, mute: socket.socket, cancels: int, callers: int) -> None:
    """Warm up, look, flood, look at once, and again when the warm pool has run out."""
    pid = site.gateway.server.pid
    async with trio.open_nursery() as nursery:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(mute))
        nursery.start_soon(trio.serve_listeners, _say_nothing, [listener])
        await flood.run(min(WARM_CANCELS, cancels), callers, pid)
        outcome.sent.memory.clear()
        before = await outcome.settled("before", site, lambda now: left_behind(now, now))
        began = trio.current_time()
        outcome.cancelled = await flood.run(cancels, callers, pid)
        outcome.took_s = trio.current_time() - began
        await outcome.settled("after the last call", site, held)
        await outcome.settled("at rest", site, lambda now: left_behind(before, now))
        outcome.refused = count_of(await series(site.gateway.target), "gateway_hedges_total", 'verdict="refused')
        nursery.cancel_scope.cancel()


async def _say_nothing(stream: trio.SocketStream) -> None:
    async with stream:
        while await stream.receive_some():
            pass


def told(outcome: Outcome) -> str:
    """What was seen, as text."""
    tally, sent = outcome.tally, outcome.sent
    cancelled = tally.outcomes["cancelled"]
    lines = [
        table(rows(outcome.censuses)),
        "",
        f"{outcome.cancelled} lanes cancelled in {outcome.took_s:.0f} s; with the warm-up:",
        f"{sent.calls} calls, {tally.records} records; callers who left: {_counts(sent.left)}",
        f"lanes by outcome: {_counts(tally.outcomes)}",
        f"lanes cancelled: {tally.losers} lost to a winner, {cancelled - tally.losers} were given up by their caller",
        f"records by ending: {_counts(tally.endings)}",
        f"records by lanes: {_counts(tally.lanes)}; by winners: {_counts(tally.winners)}",
    ]
    if sent.calls >= GROWTH_CALLS_MIN:
        lines.append(f"memory: {outcome.growth_bytes / 1024:+.0f} KiB for 10,000 calls, over the later half")
    return "\n".join(lines)


def _counts(found: Mapping[str, int] | Mapping[int, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items())) or "none"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.raceflood", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--cancels", "--calls", type=int, default=5000, metavar="N", help="lanes to be cancelled (5000); not calls"
    )
    parser.add_argument("--callers", type=int, default=64, metavar="N", help="how many call at once (64)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the callers' choices (1)")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
            outcome = run(Path(folder), options.cancels, options.callers, options.seed)
    except (StartError, MetricsMissing, sqlite3.Error) as exc:
        print(f"the race flood could not run: {exc}", file=sys.stderr)
        return 2
    print(told(outcome))
    wrong = outcome.wrong(options.cancels)
    for line in wrong:
        print(f"WRONG  {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
