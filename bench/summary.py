"""From readings per round to one figure each, and from figures to a verdict on the targets. Pure.

"Added" figures subtract the direct call of the same round, then take the median over rounds: both sides of a
difference saw the same minute of the machine.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bench.cases import Figures

PerRound = dict[str, dict[str, list[Figures]]]
Summary = dict[str, dict[str, Figures]]
DIRECT, GATEWAY = "direct", "gateway"
_ADDED = ("p50_ms", "p99_ms", "first_p50_ms", "first_p99_ms")
_LAGS = tuple(f"{kind}_lag_{quantile}_ms" for kind in ("loop", "commit") for quantile in ("p50", "p99"))
# Summed over rounds; their median would hide trouble.
_COUNTS = ("sent", "wrong", "unfinished", "stalls", "loop_lag_count", "commit_lag_count")
_WORST = ("driver_bound", "rss_max_mib", "gap_max_ms", "foreign_share", *_LAGS)


def summarise(per_round: PerRound) -> Summary:
    """One figure per contender, case and quantity, with `added_*` and `gap_ratio` where there is a direct reading."""
    return {
        contender: {
            case: _over_rounds([_beside(case, index, rounds, per_round) for index in range(len(rounds))])
            for case, rounds in cases.items()
        }
        for contender, cases in per_round.items()
    }


def _beside(case: str, index: int, rounds: list[Figures], per_round: PerRound) -> Figures:
    """One round's figures with what they add to the direct call of that round."""
    figures = dict(rounds[index])
    beside = per_round.get(DIRECT, {}).get(case.removeprefix("tls-"), [])
    if case == "h2" or index >= len(beside):
        return figures
    for name in _ADDED:
        if name in figures:
            figures[f"added_{name}"] = figures[name] - beside[index][name]
    if figures.get("gap_p99_ms") and beside[index].get("gap_p99_ms"):
        figures["gap_ratio"] = figures["gap_p99_ms"] / beside[index]["gap_p99_ms"]
    return figures


def _over_rounds(rounds: list[Figures]) -> Figures:
    merged: Figures = {}
    for name in dict.fromkeys(name for figures in rounds for name in figures):
        values = [figures[name] for figures in rounds if name in figures]
        if name in _COUNTS:
            merged[name] = sum(values)
        elif name in _WORST:
            merged[name] = max(values)
        else:
            merged[name] = statistics.median(values)
    return merged


@dataclass(frozen=True, slots=True)
class Target:
    """One promise and what was measured; `measured` is None when this run did not take that figure."""

    name: str
    limit: float
    unit: str
    measured: float | None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """True, False, or None when it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def line(self) -> str:
        """One line of the report."""
        verdict = {True: "pass", False: "MISS", None: "not measured"}[self.met]
        sign = ">=" if self.at_least else "<="
        value = "-" if self.measured is None else f"{self.measured:.4g}"
        return f"{verdict:12} {self.name}: {value} {self.unit} (target {sign} {self.limit:g})"


def targets(summary: Summary, start: dict[str, Figures], probes: dict[str, Figures]) -> list[Target]:
    """The promises of one process on one core, cleartext, with auth, admission, ledger, records and metrics on."""
    mine = summary.get(GATEWAY, {})

    def figure(case: str, name: str) -> float | None:
        return mine.get(case, {}).get(name)

    cpu_ms, rival_ms = (figure("answers", "cpu_ms"), summary.get("portkey", {}).get("answers", {}).get("cpu_ms"))
    auto = probes.get("auto", {})
    share = cpu_ms / rival_ms if cpu_ms is not None and rival_ms else None
    stalls = figure("paced-256", "stalls")
    return [
        Target("CPU per non-stream call, prepaid key", 0.23, "ms", cpu_ms),
        Target("admission + hold + settle", 40, "us", probes.get("admission", {}).get("files_us")),
        Target("auto router, held-out accuracy", 0.75, "", auto.get("heldout_accuracy"), at_least=True),
        Target("auto router, its worst class", 0.5, "", auto.get("heldout_lowest_class"), at_least=True),
        Target("auto router, 2 KB prompt", 60, "us", auto.get("classify_us")),
        Target("non-stream calls", 4500, "req/s", figure("answers", "req_s"), at_least=True),
        Target("CPU per call as a share of Portkey's", 0.25, "", share),
        Target("CPU per 200-chunk burst stream", 0.30, "ms", figure("burst", "cpu_ms")),
        Target("CPU per paced frame, 100 streams", 45, "us", figure("paced-100", "cpu_us")),
        Target("CPU per paced frame, 100 streams, TLS upstream", 70, "us", figure("tls-paced-100", "cpu_us")),
        Target("inter-frame p99 at 256 streams over direct", 1.5, "x", figure("paced-256", "gap_ratio")),
        Target("stalls at 256 streams", 0, "", stalls),
        Target("added first content p50, 16 streams", 1.0, "ms", figure("paced-16", "added_first_p50_ms")),
        Target("added first content p99, 16 streams", 5.0, "ms", figure("paced-16", "added_first_p99_ms")),
        Target("CPU per HTTP/2 call", 0.8, "ms", figure("h2", "cpu_ms")),
        Target("idle RSS", 80, "MiB", start.get(GATEWAY, {}).get("rss_idle_mib")),
        Target("start to ready", 1.0, "s", start.get(GATEWAY, {}).get("ready_s")),
        Target("start to first answer", 1.0, "s", start.get(GATEWAY, {}).get("first_answer_s")),
    ]
