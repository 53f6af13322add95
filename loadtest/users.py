"""Users, tasks and waits, in the manner of Locust.

A `User` class has tasks, methods marked `@task(weight)`, each of which makes one call and returns its `Sample`. A user
runs one task after another, drawn by weight, with a wait between. `weight` of the class is its share among the users.
In open arrivals no user waits: each arrival is one task of one class, drawn the same way.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import trio

from loadtest.client import Client, Reply
from loadtest.stats import Sample

Task = Callable[[Any, float], Awaitable[Sample]]
CALL_S = 30.0
_WEIGHT = "_task_weight"


def task(weight: int) -> Callable[[Task], Task]:
    """Mark a method as a task that is drawn `weight` times as often as one of weight 1."""
    if weight < 1:
        raise ValueError(f"a task's weight is at least 1, not {weight}")

    def mark(method: Task) -> Task:
        setattr(method, _WEIGHT, weight)
        return method

    return mark


@dataclass(frozen=True, slots=True)
class Wait:
    """How long a user rests after a task: `choose(dice, seconds the task took)`."""

    choose: Callable[[random.Random, float], float]


def between(low_s: float, high_s: float) -> Wait:
    """Wait a random time within these bounds."""
    return Wait(lambda dice, _took_s: dice.uniform(low_s, high_s))


def constant(wait_s: float) -> Wait:
    """Always wait so long."""
    return Wait(lambda _dice, _took_s: wait_s)


def pacing(every_s: float) -> Wait:
    """Start a task each `every_s`, or at once when the last one took longer."""
    return Wait(lambda _dice, took_s: max(0.0, every_s - took_s))


class Connections(Protocol):
    """Where users get connections."""

    def take(self) -> Client:
        """A connection for one call: one at rest, or a new one."""

    def give(self, client: Client) -> None:
        """The call is over."""


class User:
    """Base of the users. Subclasses set `weight` and `wait`, and have tasks."""

    weight: ClassVar[int] = 1
    wait: ClassVar[Wait] = between(0.0, 0.2)

    def __init__(self, connections: Connections, dice: random.Random) -> None:
        self.connections = connections
        self.dice = dice
        self.stopping = False

    @classmethod
    def tasks(cls) -> list[tuple[Task, int]]:
        """The tasks with their weights, in the order of their names."""
        found = [getattr(cls, name) for name in dir(cls)]
        return [(method, getattr(method, _WEIGHT)) for method in found if hasattr(method, _WEIGHT)]

    async def one(self, intended_at: float) -> Sample:
        """Run one task, drawn by weight."""
        tasks, weights = zip(*self.tasks(), strict=True)
        chosen: Task = self.dice.choices(tasks, weights)[0]
        return await chosen(self, intended_at)

    async def run(self, note: Callable[[Sample], None]) -> None:
        """Run tasks until `stopping` is set; the task under way then is finished."""
        while not self.stopping:
            began = trio.current_time()
            note(await self.one(began))
            await trio.sleep(self.wait.choose(self.dice, trio.current_time() - began))

    async def call(self, request: bytes, intended_at: float, *, leave_after: int = -1) -> Reply:
        """Make one call within `CALL_S`; a call that takes longer is broken."""
        client = self.connections.take()
        try:
            with trio.move_on_after(CALL_S):
                return await client.call(request, intended_at=intended_at, leave_after=leave_after)
            return Reply(intended_at, broken=f"no end within {CALL_S:g} s")
        finally:
            self.connections.give(client)


def spread(classes: Sequence[type[User]], count: int) -> list[type[User]]:
    """`count` users over the classes in proportion to their weights; largest remainders first."""
    total = sum(each.weight for each in classes)
    shares = [count * each.weight / total for each in classes]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(classes)), key=lambda i: (counts[i] - shares[i], i))
    for i in by_remainder[: count - sum(counts)]:
        counts[i] += 1
    return [each for each, number in zip(classes, counts, strict=True) for _ in range(number)]
