"""The values of rate limiting: how much is allowed, and how much of it is left. Pure.

`Limits` here are those of one key or one account; `gateway.config.Limits` is the section that all plans share.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.config import Plan


class Limits(NamedTuple):
    """What one key, or one account with all its keys together, may do. None: no such limit; numbers are 1 or more."""

    rpm: int | None = None  # requests a minute
    rpd: int | None = None  # requests a calendar day
    tpm: int | None = None  # tokens a minute
    concurrency: int | None = None  # calls under way at once


class Allowance(NamedTuple):
    """How one limit stands: `remaining` of `limit`, and the milliseconds until all of it is there again."""

    limit: int
    remaining: int
    reset_ms: int


class Standing(NamedTuple):
    """How a caller stands in each dimension: the allowance with least left of all that hold. None: no limit."""

    requests: Allowance | None
    tokens: Allowance | None


def tightest(*limits: Limits) -> Limits:
    """The least of each limit; None only where all have none."""
    return Limits(*(min((n for n in numbers if n is not None), default=None) for numbers in zip(*limits, strict=True)))


def of_plan(plan: Plan) -> Limits:
    """The limits that a configured plan sets."""
    return Limits(plan.rpm, plan.rpd, plan.tpm, plan.concurrency)
