"""The cases: which load each is, and which figures come of it. Names are fixed; `--case NAME` runs those alone.

`answers`       non-stream, 0.7 KB body, 16 connections, closed loop: capacity and CPU per call
`operator-answers`   the gateway alone: the same on the operator's key, which nothing limits and no credit is held for,
                with half as long on the tenant's key before it and after it, to hold the two against each other
`latency`       the same call in open arrivals at a rate everybody can serve: latency from the intended start
`burst`         streams of 200 chunks without pauses, 16 connections, closed loop
`paced-C`       the field's load shape, 64 frames x 20 ms on C connections; starts are spread over one stream's length
`h2`            `answers` over HTTP/2 prior knowledge, 4 connections x 4 streams
`tls-answers`, `tls-paced-100`   the same loads with a TLS upstream behind the gateway
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.contenders import Contender
from bench.frames import BURST, BURST_FRAMES, CHAT, PACE_S, PACED, PACED_FRAMES
from bench.job import BOTTLENECK_SHARE, Job, Result

CALLERS = 16
STREAM_S = PACED_FRAMES * PACE_S
OPERATOR = "operator-answers"
_SLACK_S = 3.0
_GENERATOR_START_CPU_S = 0.15  # Python and its imports, before the generator's own clock starts

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each case one round does."""

    closed_s: float
    open_s: float
    rate_per_s: float
    streams_each: int  # paced streams per connection, one after another
    concurrency: tuple[int, ...]
    rounds: int
    warm_s: float  # of unmeasured calls before the first round, for compilers and caches


FULL = Size(3.0, 3.0, 250.0, 2, (1, 16, 64, 100, 128, 256, 512), 3, 3.0)
QUICK = Size(1.0, 1.0, 250.0, 1, (1, 16, 100), 1, 0.5)


@dataclass(frozen=True, slots=True)
class Reading:
    """One job's outcome with what its server and the driver's side used meanwhile."""

    result: Result
    server_cpu_s: float
    upstream_cpu_s: float
    rss_max_bytes: int
    busy_s: float  # of both cores, whoever used them
    elapsed_s: float  # including the generator's own start

    @property
    def foreign_share(self) -> float:
        """Share of both cores' time that went to processes outside this run: noise."""
        ours_s = self.server_cpu_s + self.upstream_cpu_s + self.result.cpu_s + _GENERATOR_START_CPU_S
        return max(self.busy_s - ours_s, 0.0) / (2 * self.elapsed_s)

    @property
    def driver_share(self) -> float:
        """CPU of generator and upstream together, as a share of the core they are pinned to."""
        return (self.result.cpu_s + self.upstream_cpu_s) / self.result.wall_s if self.result.wall_s else 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """One load and the reading of it."""

    name: str
    job: Callable[[Contender], Job]
    figures: Callable[[Reading], Figures]
    applies: Callable[[Contender], bool] = lambda _: True
    connections: int = CALLERS  # an overloaded contender is spared the paced cases with more
    beside: Callable[[Contender], Job] | None = None  # runs before and after: a drift of the machine falls on both


def build(size: Size) -> list[Case]:
    """Every case at `size`, in the order they run."""
    return [
        Case("answers", lambda who: _answers(who, size), _call_figures),
        Case(
            OPERATOR,
            lambda who: _answers(who, size, operator=True),
            _call_figures,
            lambda who: bool(who.operator_headers),
            beside=lambda who: _answers(who, size, share=0.5),
        ),
        Case("latency", lambda who: _latency(who, size), _latency_figures),
        Case("burst", lambda who: _burst(who, size), _burst_figures),
        Case("h2", lambda who: _h2(who, size), _call_figures, lambda who: who.h2, 4),
        Case("tls-answers", lambda who: _answers(who, size, tls=True), _call_figures, _has_tls),
        *(_paced_case(connections, size) for connections in size.concurrency),
        Case("tls-paced-100", lambda who: _paced(who, 100, size, tls=True), _paced_figures, _has_tls, 100),
    ]


def _paced_case(connections: int, size: Size) -> Case:
    return Case(
        f"paced-{connections}", lambda who: _paced(who, connections, size), _paced_figures, connections=connections
    )


def warm_up(contender: Contender, size: Size) -> list[Job]:
    """Unmeasured loads of both kinds; their calls count as sent all the same."""
    return [
        _job(contender, CHAT, connections=CALLERS, duration_s=size.warm_s),
        _job(contender, BURST, connections=CALLERS, duration_s=size.warm_s / 2, frames=BURST_FRAMES),
    ]


def _has_tls(contender: Contender) -> bool:
    return bool(contender.tls_prefix)


def _job(who: Contender, kind: str, *, tls: bool = False, operator: bool = False, **load: float | str) -> Job:
    body, headers = who.body(kind, tls=tls).decode(), who.operator_headers if operator else who.headers
    return Job(who.port, who.path_for(kind), headers, body, needs_done=who.sends_done, **load)  # type: ignore[arg-type]


def _answers(who: Contender, size: Size, *, tls: bool = False, operator: bool = False, share: float = 1.0) -> Job:
    return _job(who, CHAT, tls=tls, operator=operator, connections=CALLERS, duration_s=share * size.closed_s)


def _latency(who: Contender, size: Size) -> Job:
    return _job(who, CHAT, connections=CALLERS, duration_s=size.open_s, rate_per_s=min(size.rate_per_s, who.rate_max_s))


def _burst(who: Contender, size: Size) -> Job:
    return _job(who, BURST, connections=CALLERS, duration_s=size.closed_s, frames=BURST_FRAMES)


def _h2(who: Contender, size: Size) -> Job:
    return _job(who, CHAT, connections=4, streams=4, protocol="h2", duration_s=size.closed_s)


def _paced(who: Contender, connections: int, size: Size, *, tls: bool = False) -> Job:
    each = max(size.streams_each, 4 if connections == 1 else 1)
    whole_s = STREAM_S * (each + 1)
    return _job(
        who,
        PACED,
        tls=tls,
        connections=connections,
        calls=connections * each,
        frames=PACED_FRAMES,
        pace_s=PACE_S,
        spread_s=STREAM_S,
        deadline_s=2 * whole_s + _SLACK_S,
    )


def _call_figures(reading: Reading) -> Figures:
    result = reading.result
    return {
        "req_s": result.correct / result.wall_s,
        **_each("cpu_ms", reading.server_cpu_s * 1e3, result.correct),
        "p50_ms": result.latency.p50 * 1e3,
        "p99_ms": result.latency.p99 * 1e3,
        **_common(reading),
    }


def over_operator(tenant: Sequence[Reading], operator: Reading) -> Figures:
    """What a call costs on the tenant's key over the operator's: limits, hold and header fields. CPU."""
    calls, operator_calls = sum(reading.result.correct for reading in tenant), operator.result.correct
    if not (calls and operator_calls):
        return {}
    tenant_s, operator_s = sum(r.server_cpu_s for r in tenant) / calls, operator.server_cpu_s / operator_calls
    return {"tenant_ratio": tenant_s / operator_s, "tenant_us": (tenant_s - operator_s) * 1e6}


def _latency_figures(reading: Reading) -> Figures:
    result = reading.result
    return {
        "rate_s": result.sent / result.wall_s,
        "p50_ms": result.latency.p50 * 1e3,
        "p99_ms": result.latency.p99 * 1e3,
        **_common(reading),
    }


def _burst_figures(reading: Reading) -> Figures:
    result = reading.result
    return {
        "streams_s": result.correct / result.wall_s,
        "frames_s": result.frames / result.wall_s,
        **_each("cpu_ms", reading.server_cpu_s * 1e3, result.correct),
        **_common(reading),
    }


def _paced_figures(reading: Reading) -> Figures:
    result = reading.result
    return {
        "first_p50_ms": result.first_content.p50 * 1e3,
        "first_p99_ms": result.first_content.p99 * 1e3,
        "gap_p99_ms": result.gap.p99 * 1e3,
        "gap_max_ms": result.gap.max * 1e3,
        "frames_s": result.frames / result.wall_s,
        "stalls": float(result.stalls),
        **_each("cpu_us", reading.server_cpu_s * 1e6, result.frames),
        **_common(reading),
    }


def _each(name: str, total: float, count: int) -> Figures:
    """`total` per right answer; no figure at all when nothing was right."""
    return {name: total / count} if count else {}


def _common(reading: Reading) -> Figures:
    result = reading.result
    return {
        "sent": float(result.sent),
        "wrong": float(sum(result.errors.values())),
        "unfinished": float(result.unfinished),
        "server_share": reading.server_cpu_s / result.wall_s,
        "generator_share": result.cpu_share,
        "driver_share": reading.driver_share,
        "driver_bound": float(reading.driver_share > BOTTLENECK_SHARE),
        "foreign_share": reading.foreign_share,
        "rss_max_mib": reading.rss_max_bytes / 2**20,
    }
