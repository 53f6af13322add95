"""Load shapes: how much load there is at each moment of a run. Pure.

As Locust's `LoadShape`: `tick(run_s)` says what the load is `run_s` seconds after the start, None ends the phase.
`arrivals` says what the level counts. "closed": users, each starting its next call when its last one ended, so a slow
gateway is asked less. "open": calls a second on a fixed schedule whatever the gateway does, as real callers come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

Arrivals = Literal["closed", "open"]


@dataclass(frozen=True, slots=True)
class Tick:
    """The load wanted: `level` users (closed) or calls a second (open); users change by at most `change_per_s`."""

    level: float
    change_per_s: float = float("inf")


class LoadShape:
    """Base of the shapes."""

    arrivals: ClassVar[Arrivals] = "closed"

    def tick(self, run_s: float) -> Tick | None:
        """The load at `run_s` seconds; None when the phase is over."""
        raise NotImplementedError


@dataclass(frozen=True)
class Steps(LoadShape):
    """`users_step` more users every `step_s` seconds, `steps` times (Locust's examples/custom_shape/step_load.py)."""

    users_step: int
    step_s: float
    steps: int
    spawn_per_s: float = 40.0

    def tick(self, run_s: float) -> Tick | None:
        """See LoadShape."""
        step = int(run_s // self.step_s) + 1
        return Tick(step * self.users_step, self.spawn_per_s) if step <= self.steps else None


@dataclass(frozen=True)
class Spike(LoadShape):
    """`base_per_s` calls a second, `peak_per_s` between `from_s` and `to_s`, then `base_per_s` again until `end_s`."""

    arrivals: ClassVar[Arrivals] = "open"

    base_per_s: float
    peak_per_s: float
    from_s: float
    to_s: float
    end_s: float

    def tick(self, run_s: float) -> Tick | None:
        """See LoadShape."""
        if run_s >= self.end_s:
            return None
        return Tick(self.peak_per_s if self.from_s <= run_s < self.to_s else self.base_per_s)


@dataclass(frozen=True)
class Soak(LoadShape):
    """`per_s` calls a second for `end_s` seconds: what leaks shows."""

    arrivals: ClassVar[Arrivals] = "open"

    per_s: float
    end_s: float

    def tick(self, run_s: float) -> Tick | None:
        """See LoadShape."""
        return Tick(self.per_s) if run_s < self.end_s else None


def arrival_times(shape: LoadShape, idle_step_s: float = 0.05) -> Iterator[float]:
    """The seconds after the start at which an open shape's calls are due; a level of 0 is looked at again later."""
    due = 0.0
    while (tick := shape.tick(round(due, 9))) is not None:  # ten tenths of a second are one, whatever floats say
        if tick.level > 0:
            yield due
            due += 1.0 / tick.level
        else:
            due += idle_step_s
