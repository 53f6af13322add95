"""What the load generator is told and what it tells back: JSON on its stdin and stdout, one job per process."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

BOTTLENECK_SHARE = 0.8  # of one core; above it the driver's side, not the server, set the pace


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One load: `connections` callers, closed loop, or open arrivals when `rate_per_s` is set."""

    port: int
    path: str
    headers: dict[str, str]
    body: str
    connections: int
    frames: int = 0  # content frames of each answer; 0: a non-stream answer
    needs_done: bool = True  # a stream without `[DONE]` is wrong
    pace_s: float = 0.0  # gap between frames; 0: a burst
    calls: int = 0  # stop after so many calls; 0: by time alone
    duration_s: float = 0.0  # start no call after this; 0: by count alone
    rate_per_s: float = 0.0  # open arrivals at this rate; latency counts from the intended start
    spread_s: float = 0.0  # first calls start evenly over this, so that streams are out of phase
    deadline_s: float = 60.0  # calls unfinished then are counted as such
    protocol: Literal["h1", "h2"] = "h1"
    host: str = "127.0.0.1"
    streams: int = 1  # per connection, HTTP/2 only


class Spread(msgspec.Struct, frozen=True):
    """Quantiles of one measured quantity, seconds."""

    count: int = 0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class Result(msgspec.Struct, frozen=True):
    """What one job saw. `sent` counts every call begun, whatever became of it."""

    sent: int
    correct: int
    errors: dict[str, int]
    sample: str  # start of the first wrong answer
    unfinished: int
    wall_s: float
    cpu_s: float  # of the generator itself, while it measured
    latency: Spread
    first_content: Spread
    gap: Spread  # between content frames of one stream
    frames: int
    stalls: int  # gaps over ten times the pace

    @property
    def cpu_share(self) -> float:
        """The generator's own CPU, as a share of one core."""
        return self.cpu_s / self.wall_s if self.wall_s else 0.0


def spread_of(samples: list[float]) -> Spread:
    """Nearest-rank quantiles of `samples`, seconds."""
    if not samples:
        return Spread()
    ordered = sorted(samples)

    def rank(share: float) -> float:
        return ordered[max(math.ceil(share * len(ordered)), 1) - 1]

    return Spread(len(ordered), rank(0.5), rank(0.9), rank(0.99), ordered[-1])
