"""What must hold of a run, and whether it did. Pure.

The limits on time are for a busy two-core machine that runs the callers, too: they catch a gateway that queues or
stalls, not a slow one; `bench/` is for speed. The others have no tolerance: a leak is a leak.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.records import Verdict
from loadtest.stats import Stats

ERROR_SHARE_MAX = 0.0  # every answer is checked whole, and a fake upstream gives no cause for a wrong one
STOP_CALLS_MIN, STOP_ERROR_SHARE = 50, 0.05
FIRST_CONTENT_P99_S = 0.5
STALL_SHARE_MAX = 0.01  # of the frames; a machine that stops for a moment stalls every stream once
RSS_SLOPE_MAX = 128 * 1024  # bytes/s in the later half of the soak
RSS_SLOPE_SPAN_S = 20.0  # a shorter soak says nothing of a slope
FILES_SLACK = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold."""

    name: str
    told: str
    holds: bool


def past_saving(stats: Stats) -> str:
    """Why a phase need not go on; empty while it should."""
    share = stats.all.error_share
    if stats.all.calls >= STOP_CALLS_MIN and share > STOP_ERROR_SHARE:
        return f"{share:.0%} of {stats.all.calls} calls were wrong"
    return ""


def of_phase(name: str, stats: Stats, stopped: str) -> list[Check]:
    """The checks of one phase's figures."""
    first = stats.first_content("stream")
    every = stats.all
    right = every.calls > 0 and every.error_share <= ERROR_SHARE_MAX
    smooth = every.stalls <= STALL_SHARE_MAX * every.frames
    first_told = f"{first.p99 * 1000:.1f} ms of {first.count} streams"
    checks = [
        Check(f"{name}: wrong answers", f"{every.wrong} of {every.calls}", right),
        Check(f"{name}: p99 to first content", first_told, 0 < first.p99 <= FIRST_CONTENT_P99_S),
        Check(f"{name}: stalls", f"{every.stalls} in {every.frames} frames", smooth),
    ]
    return [*checks, Check(f"{name}: stopped early", stopped, False)] if stopped else checks


def of_memory(slope_bytes_per_s: float, span_s: float) -> list[Check]:
    """The check of the soak's memory; none for a short soak."""
    if span_s < RSS_SLOPE_SPAN_S:
        return []
    told = f"{slope_bytes_per_s / 1024:+.1f} KiB/s over {span_s:.0f} s (limit {RSS_SLOPE_MAX // 1024})"
    return [Check("soak: memory slope", told, slope_bytes_per_s <= RSS_SLOPE_MAX)]


def of_files(before: int, after: int) -> Check:
    """Descriptors at rest, before and after."""
    return Check("descriptors at rest", f"{before} before, {after} after", after <= before + FILES_SLACK)


def of_leaks(leaks: list[str]) -> Check:
    """What was still held."""
    return Check("held after the last call", "; ".join(leaks) or "nothing", not leaks)


def of_abandoned(left: int, abandoned: int) -> Check:
    """Every early leaver's upstream stream is closed, and no other."""
    return Check("upstream streams closed for early leavers", f"{abandoned} of {left}", abandoned == left)


def of_records(verdict: Verdict) -> Check:
    """One complete record per accepted call, and a clean stop."""
    told = verdict.problem or f"{verdict.rows} of {verdict.sent}"
    return Check("one record per accepted call", told, not verdict.problem)
