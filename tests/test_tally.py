"""The hot path's counters say what prometheus-client's own would."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from gateway.observe.tally import Counts, Distribution

_BOUNDS = (0.1, 0.5, 1, 2.5)
_VALUES = st.sampled_from([0.0, 0.1, 0.1000001, 0.25, 0.5, 1.0, 2.5, 7.0, math.inf])


def _text(registry: CollectorRegistry) -> list[str]:
    """The samples; the library adds `_created` lines of its own, which are times."""
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.tuples(st.sampled_from(["a", 'b"\n\\']), _VALUES), max_size=20))
def test_a_distribution_is_the_librarys_histogram(seen: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    distribution = Distribution("took_seconds", "How long.", ("who",), _BOUNDS)
    ours.register(distribution)
    histogram = Histogram("took_seconds", "How long.", ("who",), buckets=_BOUNDS, registry=theirs)
    for who, value in seen:
        distribution.observe((who,), value)
        histogram.labels(who).observe(value)
    assert _text(ours) == _text(theirs)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 1000)), max_size=20))
def test_counts_are_the_librarys_counter(seen: list[tuple[str, int]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counts, plain = Counts("calls", "Calls.", ("how",)), Counts("size_bytes", "Bytes.")
    ours.register(counts)
    ours.register(plain)
    counter = Counter("calls", "Calls.", ("how",), registry=theirs)
    bare = Counter("size_bytes", "Bytes.", registry=theirs)
    for how, value in seen:
        counts.by[(how,)] += value
        counter.labels(how).inc(value)
        plain.by[()] += value
        bare.inc(value)
    assert _text(ours) == _text(theirs)
