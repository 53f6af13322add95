"""Prometheus metrics, in a registry of their own. What every call counts is a `tally`; the rest is the library's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.observe.tally import Counts, Distribution

_FIRST_CONTENT_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 40, 60)
_LAG_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_TOTAL_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

Levels = Callable[[], Iterable[tuple[str, tuple[str, ...], float]]]


class Metrics:
    """Counters of the calls of this process. `levels` are read when scraped."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.calls = Counts("gateway_calls", "Calls by how they ended.", ("model", "status", "ended"))
        self.attempts = Counts("gateway_attempts", "Attempts at providers by outcome.", ("provider", "outcome"))
        self.bytes_in = Counts("gateway_request_body_bytes", "Request body bytes.")
        self.bytes_out = Counts("gateway_answer_body_bytes", "Answer body bytes.")
        self.first_content = Distribution(
            "gateway_first_content_seconds", "From the request to the first content.", ("provider",), _FIRST_CONTENT_S
        )
        self.total = Distribution("gateway_call_seconds", "From the request to its end.", ("stream",), _TOTAL_S)
        for family in (self.calls, self.attempts, self.bytes_in, self.bytes_out, self.first_content, self.total):
            registry.register(family)
        self.commit_lag = Histogram(
            "gateway_commit_lag_seconds", "From the end of a call to its commit: the oldest of each batch.",
            buckets=_LAG_S, registry=registry,
        )  # fmt: skip
        self.loop_lag = Histogram(
            "gateway_loop_lag_seconds", "How much later than due the event loop woke a task.",
            buckets=_LAG_S, registry=registry,
        )  # fmt: skip

    def expose_levels(self, levels: Levels) -> None:
        """Add gauges that are read when scraped: (name, label values, value); names are the keys of `LEVELS`."""
        self.registry.register(_Levels(levels))

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


LEVELS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "gateway_calls_in_flight": ("Calls being served.", ()),
    "gateway_upstream_connections": ("Connections to providers.", ("origin", "state")),
    "gateway_breaker_open": (
        "1 while the breaker of an endpoint and key is open, 0.5 half-open.",
        ("provider", "model", "key"),
    ),
    "gateway_hedges_total": ("Second attempts beside a slow first one, by what the budgets said.", ("verdict",)),
    "gateway_retry_budget": ("Further attempts that a provider may still get.", ("provider",)),
    "gateway_client_connections": ("Client connections.", ()),
    "gateway_request_bodies_held_bytes": ("Request bodies in memory.", ()),
    "gateway_records_queued": ("Records of calls not yet committed.", ()),
    "gateway_streams_pumped": ("Streams carried by the pump.", ()),
    "gateway_cost_usd_total": ("What settled calls cost, by who pays it.", ("side",)),
    "gateway_credit_held_usd": ("Credit held for calls under way.", ()),
    "gateway_limiter_entries": ("Keys and accounts whose rates are in memory.", ()),
    "gateway_drains": ("Abandoned streams read on because their provider bills on.", ()),
}


class _Levels(Collector):
    def __init__(self, levels: Levels) -> None:
        self._read = levels

    def collect(self) -> Iterable[Metric]:
        families = {name: _family(name)(name, text, labels=labels) for name, (text, labels) in LEVELS.items()}
        for name, labels, value in self._read():
            families[name].add_metric(labels, value)
        return families.values()


def _family(name: str) -> type[GaugeMetricFamily | CounterMetricFamily]:
    return CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
