"""The gateway's vital signs during a run: its own /metrics, and what the kernel says of its process."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import trio

from bench.measure import rss_bytes
from loadtest.client import Client, get
from loadtest.servers import Target
from loadtest.stats import slope_per_s

_SERIES = re.compile(r"^(\w+)(?:\{[^}]*\})? ([0-9.eE+-]+|NaN)$", re.MULTILINE)
_SETTLED = ("gateway_calls_in_flight", "gateway_streams_pumped", "gateway_drains", "gateway_request_bodies_held_bytes")
_POLL_S = 0.05
_SCRAPE_S = 5.0


class MetricsMissing(Exception):
    """/metrics did not answer, or without a gauge that is needed."""


def parse(text: str) -> dict[str, float]:
    """Each metric of a text exposition, summed over its labels."""
    found: dict[str, float] = {}
    for name, value in _SERIES.findall(text):
        found[name] = found.get(name, 0.0) + float(value)
    return found


async def scrape(target: Target) -> dict[str, float]:
    """GET /metrics over a connection of its own. Raises Raises MetricsMissing."""
    client = Client(target.host, target.port)
    try:
        with trio.move_on_after(_SCRAPE_S):
            reply = await client.call(get("/metrics"), intended_at=trio.current_time())
            if reply.status == 200:
                return parse(b"".join(reply.body).decode())
            raise MetricsMissing(f"/metrics answered {reply.status or reply.broken}")
        raise MetricsMissing(f"/metrics did not answer within {_SCRAPE_S:g} s")
    finally:
        client.close()


async def leaks(target: Target, *, within_s: float) -> list[str]:
    """What the gateway still holds `within_s` seconds after the last call; empty when everything was let go."""
    deadline = trio.current_time() + within_s
    while True:
        try:
            levels = await scrape(target)
            held = [f"{name} is {levels.get(name, float('nan')):g}" for name in _SETTLED if levels.get(name) != 0.0]
        except MetricsMissing as exc:
            held = [str(exc)]
        if not held:
            return []
        if trio.current_time() > deadline:
            return [f"{text} {within_s:g} s after the last call" for text in held]
        await trio.sleep(_POLL_S)


def open_files(pid: int) -> int:
    """How many descriptors the process holds."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def files_at_rest(target: Target, pid: int) -> int:
    """The gateway's descriptors that are no connection, a client's or one of the warm pool. Raises MetricsMissing."""
    levels = await scrape(target)
    clients = levels.get("gateway_client_connections")
    if clients is None:
        raise MetricsMissing("/metrics lacks gateway_client_connections")
    return open_files(pid) - int(clients + levels.get("gateway_upstream_connections", 0.0))


@dataclass(slots=True)
class Memory:
    """Resident memory over time, by (seconds, bytes) points."""

    points: list[tuple[float, float]] = field(default_factory=list)

    async def watch(self, pid: int, every_s: float = 0.25) -> None:
        """Take a point each `every_s` until cancelled."""
        while True:
            self.points.append((trio.current_time(), float(rss_bytes(pid))))
            await trio.sleep(every_s)

    def max_bytes(self) -> float:
        """The most there was."""
        return max((value for _, value in self.points), default=0.0)

    def slope_bytes_per_s(self, after_share: float = 0.5) -> float:
        """How fast it grows in the points after `after_share` of the time; the start fills caches and pools."""
        return slope_per_s(self.points[int(len(self.points) * after_share) :])
