"""What the calls of a run came to: counts, problems and quantiles, by the name of the task. Pure.

A `Sample` is one call. Quantities are seconds from the intended start of the call, and cover right answers only:
a refused call is quick, and would make a broken gateway look fast.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bench.job import Spread, spread_of

TOTAL = "all"


@dataclass(frozen=True, slots=True)
class Sample:
    """One call. `problem` is empty for a right answer, else a short label."""

    name: str
    problem: str = ""
    first_content_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    stalls: int = 0
    total_s: float = 0.0
    frames: int = 0
    late_s: float = 0.0  # how long after the intended start the call began, for want of the generator
    recorded: bool = True  # whether the gateway owes a record of it
    left: bool = False  # the caller went away before the end, on purpose


@dataclass(slots=True)
class Entry:
    """All calls of one name."""

    calls: int = 0
    frames: int = 0
    stalls: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    first_content_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Count one call."""
        self.calls += 1
        self.late_s.append(sample.late_s)
        if sample.problem:
            self.problems[sample.problem] += 1
            return
        self.frames += sample.frames
        self.stalls += sample.stalls
        self.gaps_s += sample.gaps_s
        if sample.first_content_s is not None:
            self.first_content_s.append(sample.first_content_s)
        if not sample.left:
            self.total_s.append(sample.total_s)

    @property
    def wrong(self) -> int:
        """Calls with a problem."""
        return self.problems.total()

    @property
    def error_share(self) -> float:
        """Wrong calls of all calls; 0 when there were none."""
        return self.wrong / self.calls if self.calls else 0.0


class Stats:
    """The calls of a run or a phase, by name and together."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.all = Entry()
        self.recorded = 0
        self.left = 0

    def add(self, sample: Sample) -> None:
        """Count one call."""
        self.entries.setdefault(sample.name, Entry()).add(sample)
        self.all.add(sample)
        self.recorded += sample.recorded
        self.left += sample.left

    def first_content(self, *names: str) -> Spread:
        """Time to first content of these tasks, all when none is named; seconds."""
        chosen = [self.entries[name] for name in names if name in self.entries] if names else [self.all]
        return spread_of([value for entry in chosen for value in entry.first_content_s])

    def rows(self) -> list[list[str]]:
        """The table's rows: a heading, each name, the total."""
        heading = ["task", "calls", "wrong", "first p50", "first p99", "gap p99", "stalls", "total p50", "total p99"]
        named = [*sorted(self.entries.items()), (TOTAL, self.all)]
        return [heading, *(_row(name, entry) for name, entry in named)]

    def problems(self) -> list[str]:
        """One line per kind of wrong answer, the commonest first."""
        found = Counter({(name, what): n for name, e in self.entries.items() for what, n in e.problems.items()})
        return [f"{count} x {name}: {what}" for (name, what), count in found.most_common()]


def _row(name: str, entry: Entry) -> list[str]:
    first, gap, total = (spread_of(values) for values in (entry.first_content_s, entry.gaps_s, entry.total_s))
    paced = (_ms(first.p50, first), _ms(first.p99, first), _ms(gap.p99, gap), str(entry.stalls))
    return [name, str(entry.calls), str(entry.wrong), *paced, _ms(total.p50, total), _ms(total.p99, total)]


def _ms(value_s: float, spread: Spread) -> str:
    return f"{value_s * 1000:.1f}" if spread.count else "-"


def table(rows: list[list[str]]) -> str:
    """Rows as aligned text, the first column to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def slope_per_s(points: list[tuple[float, float]]) -> float:
    """The least-squares slope through (seconds, value) points; 0 for fewer than two moments."""
    if len(points) < 2:
        return 0.0
    mean_t = sum(t for t, _ in points) / len(points)
    mean_v = sum(v for _, v in points) / len(points)
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    return sum((t - mean_t) * (v - mean_v) for t, v in points) / spread if spread else 0.0
