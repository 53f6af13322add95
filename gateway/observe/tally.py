"""Counters and histograms of the hot path: a dict entry each, made into Prometheus families when scraped.

prometheus-client's own children take a lock and check their state on every increment, 1-3 us a call each in a busy
process; these belong to one thread, the event loop's, and cost a tenth. What is exposed is the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Labels = tuple[str, ...]


class Counts(Collector):
    """A counter: `counts.by[labels] += 1`. The caller's labels are bounded, so this is."""

    def __init__(self, name: str, text: str, labels: Labels = ()) -> None:
        self.by: defaultdict[Labels, float] = defaultdict(float)
        self._name, self._text, self._labels = name, text, labels

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self.by.items() or ([((), 0.0)] if not self._labels else []):
            family.add_metric(labels, value)
        return [family]


class Distribution(Collector):
    """A histogram with fixed upper bounds."""

    def __init__(self, name: str, text: str, labels: Labels, bounds: Sequence[float]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._bounds = tuple(bounds)
        self._sums: defaultdict[Labels, float] = defaultdict(float)
        self._counts: dict[Labels, list[int]] = {}

    def observe(self, labels: Labels, value: float) -> None:
        """Count one value. The caller's labels are bounded, so this is."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
        counts[bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def collect(self) -> Iterable[Metric]:
        """See Collector. Buckets are cumulative, as the exposition format has them."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for labels, counts in self._counts.items():
            below, buckets = 0, []
            for name, count in zip(names, counts, strict=True):
                below += count
                buckets.append((name, float(below)))
            family.add_metric(labels, buckets, self._sums[labels])
        return [family]
