"""A whole run: start the servers, go through the phases, look at what the gateway holds afterwards, stop, check.

Phases: `steps` (closed), `spike` (open), `soak` (open). Before them the same streams are read directly from the fake
upstream, as the yardstick of the history's ratios.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from bench import frames, records
from bench.measure import Cores, cpu_s, raise_fd_limit
from bench.processes import REPOSITORY, Fleet, pin
from loadtest import servers, thresholds, vitals
from loadtest.client import Client, get
from loadtest.run import Phase, run_phase
from loadtest.shapes import LoadShape, Soak, Spike, Steps
from loadtest.stats import Stats
from loadtest.thresholds import Check
from loadtest.traffic import FRAMES, MIXED, PACE_S, READERS, Site

STREAM, CHAT, TOOLS = f"bench-stream-{FRAMES}x{PACE_S * 1000:.0f}", "bench-chat", "words"
_SETTLED_S = 8.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How much load a run is."""

    name: str
    direct: LoadShape
    warm: LoadShape
    phases: dict[str, LoadShape]


QUICK = Size(
    "quick",
    Soak(10, 2),
    Soak(15, 1.5),
    {"steps": Steps(15, 2.5, 2), "spike": Spike(8, 50, 1.5, 3, 4.5), "soak": Soak(20, 6)},
)
DEFAULT = Size(
    "default",
    Soak(15, 6),
    Soak(20, 3),
    {"steps": Steps(20, 6, 4), "spike": Spike(10, 80, 4, 8, 14), "soak": Soak(25, 60)},
)


@dataclass(slots=True)
class Outcome:
    """What a run found."""

    phases: dict[str, Phase] = field(default_factory=dict)
    direct: Stats = field(default_factory=Stats)
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def broken(self) -> list[Check]:
        """What did not hold."""
        return [check for check in self.checks if not check.holds]


def run(folder: Path, size: Size, seed: int, say: Say) -> Outcome:
    """Run everything in `folder`. Raises StartError."""
    raise_fd_limit()
    cores, outcome = Cores(), Outcome()
    with _pinned(cores.driver), Fleet() as fleet:
        upstream = servers.start_upstream(fleet, folder, cores.driver)
        sim = servers.start_sim(fleet, "sim", folder, cores.driver, "--first-token-s", "0.01", "--token-gap-s", "0.005")
        gateway = servers.start_gateway(fleet, folder, cores.server, _config(upstream, sim))
        sent = trio.run(_drive, outcome, size, seed, say, gateway, upstream)
        status = gateway.server.stop()
    if not any(phase.stopped for phase in outcome.phases.values()):
        outcome.checks.append(thresholds.of_records(records.judge(gateway.database, sent, status)))
    return outcome


@contextmanager
def _pinned(core: int) -> Iterator[None]:
    """This process, the generator, on `core` for as long; what is started meanwhile has a core of its own."""
    before = os.sched_getaffinity(0)
    pin(core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _config(upstream: int, sim: int) -> str:
    """The shipped configuration with the run's own providers and models."""
    shipped = (REPOSITORY / "config.toml").read_text()
    tables = [servers.provider_table("load", upstream), servers.provider_table("load-sim", sim)]
    tables += [servers.model_table(f"load/{name}", [("load", name)]) for name in (STREAM, CHAT)]
    tables.append(servers.model_table(f"load/{TOOLS}", [("load-sim", TOOLS)]))
    return "\n".join([shipped, *tables])


def _site(target: servers.Target, prefix: str) -> Site:
    stream_text, chat_text = frames.expected_text(FRAMES), frames.expected_text(frames.ANSWER_WORDS)
    return Site(target, prefix + STREAM, prefix + CHAT, prefix + TOOLS, stream_text, chat_text, PACE_S)


async def _drive(outcome: Outcome, size: Size, seed: int, say: Say, gateway: servers.Gateway, upstream: int) -> int:
    """The phases and the checks on the living gateway; how many calls it owes records of."""
    pid = gateway.server.pid
    say("direct: the same streams without the gateway, open arrivals")
    direct = Phase(size.direct, READERS, outcome.direct)
    await run_phase(direct, _site(servers.Target(upstream, "none"), ""), seed)
    site = _site(gateway.target, "load/")
    warm = Phase(size.warm, MIXED)
    await run_phase(warm, site, seed)
    before = await _files(outcome, gateway)
    left, abandoned = warm.stats.left, await _abandoned(upstream, 0)
    cpu_from_s, own_from_s = cpu_s(pid), time.process_time()
    memory = vitals.Memory()
    for index, (name, shape) in enumerate(size.phases.items()):
        say(f"{name}: {shape}, {shape.arrivals} arrivals")
        phase = outcome.phases[name] = Phase(shape, MIXED)
        memory = vitals.Memory()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(memory.watch, pid)
            await run_phase(phase, site, seed + index + 1, thresholds.past_saving)
            nursery.cancel_scope.cancel()
        outcome.checks += thresholds.of_phase(name, phase.stats, phase.stopped)
        left += phase.stats.left
    _note_figures(outcome, cpu_s(pid) - cpu_from_s, time.process_time() - own_from_s, memory)
    soak_s = outcome.phases[name].took_s
    outcome.checks += thresholds.of_memory(memory.slope_bytes_per_s(), soak_s)
    outcome.checks.append(thresholds.of_leaks(await vitals.leaks(gateway.target, within_s=_SETTLED_S)))
    abandoned = await _abandoned(upstream, left)
    outcome.checks.append(thresholds.of_abandoned(left, abandoned))
    after = await _files(outcome, gateway)
    if before is not None and after is not None:
        outcome.checks.append(thresholds.of_files(before, after))
    return sum(phase.stats.recorded for phase in (warm, *outcome.phases.values()))


async def _files(outcome: Outcome, gateway: servers.Gateway) -> int | None:
    try:
        return await vitals.files_at_rest(gateway.target, gateway.server.pid)
    except vitals.MetricsMissing as exc:
        outcome.checks.append(Check("metrics", str(exc), False))
        return None


async def _abandoned(upstream: int, expected: int) -> int:
    """How many streams the upstream saw abandoned; waits a while for as many as expected."""
    client = Client("127.0.0.1", upstream)
    deadline = trio.current_time() + _SETTLED_S
    try:
        while True:
            reply = await client.call(get("/stats"), intended_at=trio.current_time())
            count = int(json.loads(b"".join(reply.body))["streams_abandoned"])
            if count >= expected or trio.current_time() > deadline:
                return count
            await trio.sleep(0.05)
    finally:
        client.close()


def _note_figures(outcome: Outcome, gateway_cpu_s: float, own_cpu_s: float, memory: vitals.Memory) -> None:
    """The history's figures; those named `_ratio` compare across machines."""
    soak = outcome.phases["soak"].stats
    first, direct = soak.first_content("stream"), outcome.direct.first_content("stream")
    total_frames = sum(phase.stats.all.frames for phase in outcome.phases.values())
    outcome.figures |= {
        "first_content_p50_ratio": first.p50 / direct.p50 if direct.p50 else 0.0,
        "first_content_p99_ratio": first.p99 / direct.p99 if direct.p99 else 0.0,
        "cpu_ratio": gateway_cpu_s / own_cpu_s if own_cpu_s else 0.0,
        "first_content_p99_ms": first.p99 * 1000,
        "cpu_us_per_frame": gateway_cpu_s / total_frames * 1e6 if total_frames else 0.0,
        "rss_max_mib": memory.max_bytes() / 2**20,
    }
    if outcome.phases["soak"].took_s >= thresholds.RSS_SLOPE_SPAN_S:
        outcome.figures["rss_slope_kib_s"] = memory.slope_bytes_per_s() / 1024
