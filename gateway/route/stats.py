"""How fast and how reliable each endpoint has been: quantiles of first content and throughput, uptime, outages. Pure.

An endpoint is a provider and the name it has for a model. Latency and throughput are told over the last 5 minutes, of
at most the latest 512 samples each, uptime over 30 minutes, an outage over 30 seconds: OpenRouter's windows
(openrouter.ai/docs/guides/routing/provider-selection). As there, pN is what N% of the calls were *as good as or better
than*: p90 of latency is slow, p90 of throughput is low.

**Attempts that were cancelled while waiting** are samples too, of another kind: "at least so long". Without them only
the survivors count: an attempt that a hedge beat was slow, and leaving it out makes p90 shrink, which starts more
hedges, which cut off more of the slow ones (simulated in the tests, beside a fast second provider: p90 falls to half,
and hedges go from a tenth of the calls to three tenths). Nor may they count as if they had ended then: a client that
leaves after 10 ms says nothing of p90. So quantiles are those of the product-limit estimate (Kaplan and Meier 1958,
JASA 53:457), which for samples that are all complete is the nearest rank, computed as Efron's redistribution to the
right (1967): the share of a sample that was cut off passes to those that lasted longer. A quantile beyond what was
seen is the longest sample.

Cost: 0.3 us to tell of a sample or an outcome. 0.2 us to read, as what was computed holds for a second, or until an
eighth of the samples are new; computing 512 samples takes 27 us, 80 us when half of them were cut off. At a thousand
calls a second that is 1 us a call for telling and reading. Memory: 20 KiB an endpoint at most, its two windows full.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass
from math import ceil, inf
from typing import Final

from gateway.core.call import Endpoint

ENDPOINTS_MAX: Final = 4096  # more than any catalogue; 80 MiB when all of them are busy
WINDOW_S: Final = 300.0
SAMPLES_MAX: Final = 512  # a p99 is then the sixth largest
HEDGE_SAMPLES_MIN: Final = 16  # with fewer a p90 is hardly more than the largest: hedge by a fixed delay instead
UPTIME_MIN: Final = 30
OUTAGE_S: Final = 30.0
_FRESH_S: Final = 1.0
_FRESH_PART: Final = 8
_ALPHA: Final = 0.125  # of TCP's smoothed round-trip time (RFC 6298, section 2.3)
_MINUTE_S: Final = 60.0
_PERCENTS: Final = (50, 75, 90, 99)
_EPSILON: Final = 1e-9  # of a share of samples; far below one sample


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A reading: what 50, 75, 90 and 99% of the samples were as good as or better than, in their unit.

    `count` is of complete samples, at least 1; `cut` of those known to be "at least", which count in the percentiles.
    """

    p50: float
    p75: float
    p90: float
    p99: float
    ewma: float
    count: int
    cut: int = 0


class Stats:
    """All endpoints, at most `endpoints_max`: beyond it the one that was told of longest ago is forgotten."""

    __slots__ = ("_endpoints_max", "_records")

    def __init__(self, endpoints_max: int = ENDPOINTS_MAX) -> None:
        self._endpoints_max = endpoints_max
        self._records: dict[Endpoint, _Record] = {}

    def __len__(self) -> int:
        """How many endpoints are known."""
        return len(self._records)

    def first_content(self, endpoint: Endpoint, seconds: float, now: float) -> None:
        """A stream had its first content after so long. Keep whole answers apart: theirs is another time."""
        (self._records.get(endpoint) or self._add(endpoint)).latency.add(seconds, now)

    def first_content_at_least(self, endpoint: Endpoint, seconds: float, now: float) -> None:
        """A stream without content was cut off after so long: cancelled as another won, timed out, or the client left.

        Not for one that failed: that it refused soon says nothing of when it would have answered.
        """
        (self._records.get(endpoint) or self._add(endpoint)).latency.add_cut(seconds, now)

    def throughput(self, endpoint: Endpoint, tokens_per_s: float, now: float) -> None:
        """An answer came at so many tokens a second, from its first content to its end."""
        (self._records.get(endpoint) or self._add(endpoint)).throughput.add(tokens_per_s, now)

    def outcome(self, endpoint: Endpoint, ok: bool, now: float) -> None:
        """An attempt ended well or badly by the provider's doing. A cancelled one is no outcome; a refusal is good."""
        (self._records.get(endpoint) or self._add(endpoint)).outcome(ok, now)

    def latency(self, endpoint: Endpoint, now: float, samples_min: int = 1) -> Quantiles | None:
        """Seconds to first content; None with fewer complete samples than `samples_min`.

        To show it, one sample will do. To decide on a hedge ask for HEDGE_SAMPLES_MIN.
        """
        record = self._records.get(endpoint)
        found = None if record is None else record.latency.quantiles(now)
        return found if found is not None and found.count >= samples_min else None

    def throughput_of(self, endpoint: Endpoint, now: float, samples_min: int = 1) -> Quantiles | None:
        """Tokens per second, p90 the rate that 90% of the answers reached; None with fewer samples than asked for."""
        record = self._records.get(endpoint)
        found = None if record is None else record.throughput.quantiles(now)
        return found if found is not None and found.count >= samples_min else None

    def uptime(self, endpoint: Endpoint, now: float) -> float | None:
        """The share of good outcomes in this minute and the 29 before it; None when there were no outcomes."""
        record = self._records.get(endpoint)
        return None if record is None else record.uptime(now)

    def recent_outage(self, endpoint: Endpoint, now: float) -> bool:
        """Whether it failed within the last 30 seconds and nothing succeeded since. OpenRouter tries those last."""
        record = self._records.get(endpoint)
        return record is not None and now - record.failed_at < OUTAGE_S

    def _add(self, endpoint: Endpoint) -> _Record:
        while len(self._records) >= self._endpoints_max:  # looks at all of them: 0.7 ms, when a catalogue is that long
            del self._records[min(self._records, key=lambda each: self._records[each].told_at)]
        return self._records.setdefault(endpoint, _Record())


class _Record:
    """One endpoint."""

    __slots__ = ("_minutes", "_outcome_at", "failed_at", "latency", "throughput")

    def __init__(self) -> None:
        self.latency = _Window()
        self.throughput = _Window(more_is_better=True)
        self.failed_at = -inf  # the last failure, unless something succeeded since
        self._outcome_at = -inf
        self._minutes: deque[list[int]] = deque(maxlen=UPTIME_MIN)  # that had outcomes: which, how many, how many good

    @property
    def told_at(self) -> float:
        """When it was last heard of."""
        return max(self.latency.told_at, self.throughput.told_at, self._outcome_at)

    def outcome(self, ok: bool, now: float) -> None:
        """Count one."""
        self._outcome_at = now
        self.failed_at = -inf if ok else now
        minute = int(now // _MINUTE_S)
        minutes = self._minutes
        if not minutes or minutes[-1][0] != minute:
            minutes.append([minute, 1, int(ok)])
            return
        counts = minutes[-1]
        counts[1] += 1
        counts[2] += ok

    def uptime(self, now: float) -> float | None:
        """The share of good ones."""
        first = int(now // _MINUTE_S) - UPTIME_MIN + 1
        counted = [each for each in self._minutes if each[0] >= first]
        return sum(each[2] for each in counted) / sum(each[1] for each in counted) if counted else None


class _Window:
    """The latest samples of one kind and what was last computed of them. One that was cut off is stored negative."""

    __slots__ = ("_at", "_ewma", "_fresh", "_more_is_better", "_read_at", "_reading", "_times", "_values", "told_at")

    def __init__(self, *, more_is_better: bool = False) -> None:
        self._more_is_better = more_is_better
        self._times = array("d")
        self._values = array("d")
        self._at = 0  # the oldest sample, once the ring is full
        self._fresh = 0  # samples since the last computation
        self._ewma = 0.0
        self._read_at = -inf
        self._reading: Quantiles | None = None
        self.told_at = -inf

    def add(self, value: float, now: float) -> None:
        """Take a complete sample."""
        if now - self.told_at > WINDOW_S:
            self._ewma = value  # nothing of before is in the window
        else:
            self._ewma += (value - self._ewma) * _ALPHA
        self._store(value, now)

    def add_cut(self, value: float, now: float) -> None:
        """Take one that would have been `value` at least."""
        if value <= 0.0:
            return
        if now - self.told_at > WINDOW_S:
            self._ewma = value
        elif value > self._ewma:  # a lesser bound says nothing
            self._ewma += (value - self._ewma) * _ALPHA
        self._store(-value, now)

    def _store(self, value: float, now: float) -> None:
        self.told_at = now
        self._fresh += 1
        times = self._times
        if len(times) < SAMPLES_MAX:
            times.append(now)
            self._values.append(value)
            return
        at = self._at
        times[at] = now
        self._values[at] = value
        self._at = (at + 1) % SAMPLES_MAX

    def quantiles(self, now: float) -> Quantiles | None:
        """What is known; computed anew when that is worth it."""
        fresh = self._fresh
        if now - self._read_at < _FRESH_S and fresh * _FRESH_PART <= len(self._times):
            return self._reading
        self._read_at = now
        oldest = now - WINDOW_S
        if fresh or (self._times and self._times[self._at] < oldest):
            self._fresh = 0
            self._forget(oldest)
            self._reading = self._compute()
        return self._reading

    def _forget(self, oldest: float) -> None:
        """Turn the ring so that it begins with its oldest sample, and drop those from before `oldest`."""
        at = self._at
        times, values = self._times[at:] + self._times[:at], self._values[at:] + self._values[:at]
        first = bisect_left(times, oldest)
        self._times, self._values, self._at = times[first:], values[first:], 0

    def _compute(self) -> Quantiles | None:
        complete = sorted([value for value in self._values if value >= 0.0], reverse=self._more_is_better)
        count = len(complete)
        if not count:
            return None
        if count == len(self._values):
            ranks = [complete[-(-count * percent // 100) - 1] for percent in _PERCENTS]
        else:
            ranks = _product_limit(complete, sorted([-value for value in self._values if value < 0.0]))
        p50, p75, p90, p99 = ranks
        return Quantiles(p50, p75, p90, p99, self._ewma, count, len(self._values) - count)


def _product_limit(complete: list[float], cut: list[float]) -> list[float]:
    """The value at each percentile when `cut` are lower bounds; both ascending, `complete` not empty.

    Each sample has a weight, at first the same. Where one was cut off, its weight passes to all that lasted longer; of
    a complete and a cut sample of the same value, the complete one is the shorter.
    """
    ranks: list[float] = []
    total = len(complete) + len(cut)
    weight, below, done = 1.0 / total, 0.0, 0  # of one sample; of the `done` complete ones
    for passed, bound in enumerate([*cut, inf], start=1):
        upto = bisect_right(complete, bound, done)
        mass = below + weight * (upto - done)
        while len(ranks) < len(_PERCENTS) and (share := _PERCENTS[len(ranks)] / 100) <= mass + _EPSILON:
            ranks.append(complete[done + max(ceil((share - below) / weight - _EPSILON), 1) - 1])
        below, done = mass, upto
        left = total - upto - passed
        if left <= 0 or len(ranks) == len(_PERCENTS):
            break
        weight = (1.0 - below) / left
    return ranks + [max(complete[-1], cut[-1])] * (len(_PERCENTS) - len(ranks))
