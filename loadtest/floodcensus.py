"""What a gateway and its providers hold at one moment, told by the kernel, by its event loop and by its metrics.

Two such censuses around a flood of cancelled races must be alike (`left_behind`). `serve_watched` is `gateway` with a
signal handler that tells its tasks and its memory. `read_records` reads what the gateway wrote down of the calls.
"""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import trio

from loadtest.client import Client, get
from loadtest.servers import Gateway, Target
from loadtest.vitals import MetricsMissing

# What no call may still hold. A gauge that is not there is told of, too.
GAUGES = (
    "gateway_calls_in_flight", "gateway_streams_pumped", "gateway_drains", "gateway_request_bodies_held_bytes",
    "gateway_credit_held_usd", "gateway_records_queued", "gateway_client_connections",
)  # fmt: skip
THREADS_SLACK = 2  # Trio keeps an idle worker thread for ten seconds
FILES_SLACK = 2  # the journal turns its segments over
BLOCKS_SLACK = 5000  # for caches that fill; what one lost race leaves behind is dozens
_OWN = {"gateway_client_connections": 1.0}  # what asking for the metrics takes itself
_TOLD_FILE = "RACEFLOOD_TOLD"
_SERIES = re.compile(r"^(\w+(?:\{[^}]*\})?) ([0-9.eE+-]+)$", re.MULTILINE)
_POOL = "gateway_upstream_connections"
_RSS = re.compile(r"^(Rss\w+):\s+(\d+) kB$", re.MULTILINE)
_LISTENING = "0A"  # include/net/tcp_states.h
_WAIT_S, _POLL_S = 5.0, 0.02


def serve_watched() -> None:
    """`gateway` with this process's arguments; SIGUSR1 writes to a file how many tasks live, by name, and how many
    blocks of memory Python has given out (`sys.getallocatedblocks`): what the collector cannot free.
    """
    path = Path(os.environ[_TOLD_FILE])

    def tell(_number: int, _frame: object) -> None:
        found: Counter[str] = Counter()
        todo = [trio.lowlevel.current_root_task()]
        while todo:
            task = todo.pop()
            if task is not None:
                found[task.name] += 1
                todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        gc.collect()
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps({"tasks": found, "blocks": sys.getallocatedblocks()}))
        draft.replace(path)

    from gateway.cli import main

    signal.signal(signal.SIGUSR1, tell)
    main()


@dataclass(frozen=True, slots=True)
class Site:
    """What is looked at: a gateway that runs under `serve_watched`, and its providers."""

    gateway: Gateway
    told_file: Path
    providers: Mapping[str, tuple[int, int]]  # by name: the process that listens, and its port

    @property
    def ports(self) -> frozenset[int]:
        """Where the gateway connects to."""
        return frozenset(port for _, port in self.providers.values())


def environment(told_file: Path) -> dict[str, str]:
    """What `serve_watched` needs to be told."""
    return {_TOLD_FILE: str(told_file)}


class Memory(NamedTuple):
    """Resident bytes of a process: its own, and of files it has mapped (the journal's segments come and go)."""

    own: int
    mapped: int


@dataclass(frozen=True, slots=True)
class Census:
    """One moment; counts by name."""

    descriptors: Counter[str]  # the gateway's, by kind
    connections: dict[str, int]  # that each provider has open; every unfinished answer has one
    tasks: Counter[str]
    gauges: dict[str, float]
    pool: tuple[int, int]  # connections to providers in use, and idle
    threads: int
    blocks: int  # of Python's memory that are in use, garbage collected
    memory: Memory


async def series(target: Target) -> dict[str, float]:
    """The gateway's metrics, each with its labels as they are written. Raises MetricsMissing."""
    client = Client(target.host, target.port)
    try:
        with trio.move_on_after(_WAIT_S):
            reply = await client.call(get("/metrics"), intended_at=trio.current_time())
            if reply.status == 200:
                return {name: float(value) for name, value in _SERIES.findall(b"".join(reply.body).decode())}
            raise MetricsMissing(f"/metrics answered {reply.status or reply.broken}")
        raise MetricsMissing(f"/metrics did not answer within {_WAIT_S:g} s")
    finally:
        client.close()


def count_of(levels: Mapping[str, float], name: str, label: str) -> int:
    """The sum of a metric over the series whose labels hold this text."""
    return int(sum(value for each, value in levels.items() if each.partition("{")[0] == name and label in each))


async def census(site: Site) -> Census:
    """Look at everything. Raises MetricsMissing."""
    pid, target = site.gateway.server.pid, site.gateway.target
    levels = await series(target)
    missing = [name for name in GAUGES if name not in levels]
    if missing:
        raise MetricsMissing(f"/metrics lacks {', '.join(missing)}")
    tasks, blocks = await _told(site)
    connections = {
        name: descriptors(process, port, frozenset())["client sockets"]
        for name, (process, port) in site.providers.items()
    }
    pool = (count_of(levels, _POOL, 'state="used"'), count_of(levels, _POOL, 'state="idle"'))
    gauges = {each: levels[each] - _OWN.get(each, 0.0) for each in GAUGES}
    return Census(
        descriptors(pid, target.port, site.ports), connections, tasks, gauges, pool, _threads(pid), blocks, memory(pid)
    )


async def _told(site: Site) -> tuple[Counter[str], int]:
    """The gateway's tasks and blocks, once the connection that asked for the metrics is gone."""
    pid, own_port = site.gateway.server.pid, site.gateway.target.port
    await _until(lambda: not descriptors(pid, own_port, frozenset())["client sockets"])
    site.told_file.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    if not await _until(site.told_file.exists):
        raise MetricsMissing(f"the gateway's event loop did not answer within {_WAIT_S:g} s")
    told = json.loads(site.told_file.read_text())
    return Counter(told["tasks"]), int(told["blocks"])


async def _until(condition: Callable[[], bool]) -> bool:
    """Whether it came to hold within `_WAIT_S`."""
    with trio.move_on_after(_WAIT_S):
        while not condition():  # noqa: ASYNC110 - another process sets no event
            await trio.sleep(_POLL_S)
        return True
    return False


def _threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def memory(pid: int) -> Memory:
    """Look (proc_pid_status(5))."""
    kib = dict(_RSS.findall(Path(f"/proc/{pid}/status").read_text()))
    return Memory(int(kib["RssAnon"]) * 1024, (int(kib["RssFile"]) + int(kib["RssShmem"])) * 1024)


def descriptors(pid: int, own_port: int, provider_ports: frozenset[int]) -> Counter[str]:
    """The descriptors of a process by kind. A client socket is one that was accepted at `own_port`."""
    sockets, found = _tcp_sockets(pid), Counter[str]()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = str(descriptor.readlink())
        except FileNotFoundError:  # closed meanwhile
            continue
        kind, _, inode = name.partition(":[")
        if kind != "socket":
            found["files" if name.startswith("/") else name if kind == "anon_inode" else kind] += 1
        elif (ends := sockets.get(inode.rstrip("]"))) is None:
            found["other sockets"] += 1
        else:
            local, remote, state = ends
            accepted = "client sockets" if local == own_port else "other sockets"
            kind = "provider sockets" if remote in provider_ports else accepted
            found["listening sockets" if state == _LISTENING else kind] += 1
    return found


def _tcp_sockets(pid: int) -> dict[str, tuple[int, int, str]]:
    """TCP sockets by inode: local port, remote port, state (proc_pid_net(5))."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, remote, state, _, _, _, _, _, inode, *_ = line.split()
            found[inode] = int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16), state
    return found


def held(now: Census) -> list[str]:
    """What is still under way, or outside the pool: no call is, when this is empty."""
    used, idle = now.pool
    found = [f"{name} is {value:g}" for name, value in now.gauges.items() if value]
    if used:
        found.append(f"{used} provider connections are in use")
    if now.descriptors["provider sockets"] != used + idle:
        found.append(f"{now.descriptors['provider sockets']} provider sockets, but {used + idle} in the pool")
    return found


def left_behind(before: Census, after: Census) -> list[str]:
    """What is there `after` that was not `before`, both with the warm pool run out."""
    found = held(after)
    found += [f"{count} connections are open at provider {name}" for name, count in after.connections.items() if count]
    found += [f"a task more than before: {name} ({more})" for name, more in (after.tasks - before.tasks).items()]
    for kind, more in (after.descriptors - before.descriptors).items():
        if more > (FILES_SLACK if kind == "files" else 0):
            found.append(f"descriptors more than before: {kind} ({more})")
    if after.blocks > before.blocks + BLOCKS_SLACK:
        found.append(f"{after.blocks} blocks of Python's memory, {before.blocks} before")
    if after.threads > before.threads + THREADS_SLACK:
        found.append(f"{after.threads} threads, {before.threads} before")
    return found


def rows(censuses: Mapping[str, Census]) -> list[list[str]]:
    """The censuses side by side as a table: a heading, then a row for everything that any of them counts."""
    moments = list(censuses.values())
    lines = [["", *censuses]]

    def line(label: str, values: Iterable[float]) -> None:
        lines.append([label, *(str(int(value)) if value == int(value) else f"{value:.6g}" for value in values)])

    for kind in sorted({kind for each in moments for kind in each.descriptors}):
        line(f"gateway: {kind}", [each.descriptors[kind] for each in moments])
    line("gateway: pool, in use", [each.pool[0] for each in moments])
    line("gateway: pool, idle", [each.pool[1] for each in moments])
    for name in moments[0].connections:
        line(f"provider {name}: connections", [each.connections[name] for each in moments])
    line("gateway: tasks", [each.tasks.total() for each in moments])
    line("gateway: threads", [each.threads for each in moments])
    for name in GAUGES:
        line(name, [each.gauges[name] for each in moments])
    line("gateway: Python's memory blocks", [each.blocks for each in moments])
    line("gateway: own memory, MiB", [round(each.memory.own / 2**20, 1) for each in moments])
    line("gateway: mapped files, MiB", [round(each.memory.mapped / 2**20, 1) for each in moments])
    return lines


@dataclass(slots=True)
class Tally:
    """What the gateway wrote down of its calls."""

    records: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    lanes: Counter[int] = field(default_factory=Counter)  # records by how many attempts they have
    winners: Counter[int] = field(default_factory=Counter)  # records by how many of them won
    outcomes: Counter[str] = field(default_factory=Counter)  # of attempts
    losers: int = 0  # attempts cancelled because another won; the rest because the caller left
    mistakes: list[str] = field(default_factory=list)

    def add(self, ended: str, provider: str, attempts: list[dict[str, object]]) -> None:
        """Count one record: a complete one has one winner, any other at most one."""
        won = [str(attempt["provider"]) for attempt in attempts if attempt["outcome"] == "won"]
        cancelled = sum(attempt["outcome"] == "cancelled" for attempt in attempts)
        self.records += 1
        self.endings[ended] += 1
        self.lanes[len(attempts)] += 1
        self.winners[len(won)] += 1
        self.outcomes.update(str(attempt["outcome"]) for attempt in attempts)
        self.losers += cancelled if won else 0
        if len(won) > 1 or (ended == "complete" and won != [provider]):
            self.mistakes.append(f"a call that ended as {ended} at {provider or 'nobody'} has winners {won}")


def read_records(database: Path) -> Tally:
    """Count the records. Raises sqlite3.Error."""
    tally = Tally()
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        for ended, provider, attempts in connection.execute("SELECT ended, provider, attempts FROM calls"):
            tally.add(ended, provider, json.loads(attempts or "[]"))
    return tally
