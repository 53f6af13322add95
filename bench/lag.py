"""How late the gateway was under a load: its own histograms of loop lag and commit lag, before a case and after it.

Loop lag is how much later than due the event loop woke a task, sampled each 100 ms. Commit lag is how long the oldest
call of each batch waited, after its end, for the commit of its record and ledger entries; its charge was in the journal
all the while. A quantile is the upper bound of the bucket that it fell into, so it is at most what is said; past the
last bound (5 s) that bound is said.
"""

from __future__ import annotations

import http.client
import math
import re
from contextlib import closing
from dataclasses import dataclass

from bench.processes import StartError

Buckets = dict[float, float]  # upper bound in seconds -> samples at or below it
HISTOGRAMS = {"loop_lag": "gateway_loop_lag_seconds", "commit_lag": "gateway_commit_lag_seconds"}
HELD = "gateway_credit_held_usd"
_TIMEOUT_S = 10.0
_SAMPLE = re.compile(r'^(\w+)(?:\{le="([^"]+)"\})? (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Scrape:
    """What `GET /metrics` said at one moment."""

    buckets: dict[str, Buckets]  # by the names of `HISTOGRAMS`
    held_usd: float


def scrape(port: int) -> Scrape:
    """Ask the gateway. Raises StartError when it does not answer, or lacks one of these metrics."""
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)) as connection:
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            text = response.read().decode()
    except (OSError, http.client.HTTPException) as exc:
        raise StartError(f"GET /metrics failed: {exc!r}") from exc
    if response.status != 200:
        raise StartError(f"GET /metrics was answered with {response.status}")
    return parse(text)


def parse(text: str) -> Scrape:
    """Read the text exposition format. Raises StartError for one that lacks a metric."""
    samples = _SAMPLE.findall(text)
    buckets = {
        short: {float(bound): float(value) for found, bound, value in samples if found == f"{name}_bucket"}
        for short, name in HISTOGRAMS.items()
    }
    held = [float(value) for found, _, value in samples if found == HELD]
    missing = [HISTOGRAMS[short] for short, found in buckets.items() if not found] + ([] if held else [HELD])
    if missing:
        raise StartError(f"GET /metrics lacks {', '.join(missing)}")
    return Scrape(buckets, held[0])


def figures(before: Scrape, after: Scrape) -> dict[str, float]:
    """Lags between two scrapes, ms, and of how many samples they are; no quantile where there was none."""
    found: dict[str, float] = {}
    for short, later in after.buckets.items():
        earlier = before.buckets[short]
        between = {bound: count - earlier[bound] for bound, count in later.items()}
        found[f"{short}_count"] = between[math.inf]
        if between[math.inf]:
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                found[f"{short}_{name}_ms"] = quantile(between, share) * 1e3
    return found


def quantile(buckets: Buckets, share: float) -> float:
    """The nearest-rank quantile's bucket: its upper bound, seconds. `buckets` holds at least one sample."""
    rank = max(math.ceil(share * buckets[math.inf]), 1)
    last = max(bound for bound in buckets if bound < math.inf)
    return min(next(bound for bound, count in sorted(buckets.items()) if count >= rank), last)
