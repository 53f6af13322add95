"""Days, weeks and months of UTC: when the present one began and when it ends. Pure; weeks begin on Monday."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Literal

Period = Literal["day", "week", "month", "year", "all"]
PERIODS: tuple[Period, ...] = ("day", "week", "month", "year", "all")
RESET_PERIODS: dict[str, Period] = {"daily": "day", "weekly": "week", "monthly": "month"}


def today(now: float) -> date:
    """The UTC day of a Unix time."""
    return datetime.fromtimestamp(now, UTC).date()


def began(period: Period, day: date) -> date | None:
    """The first day of the period that `day` is in; None for all time."""
    match period:
        case "day":
            return day
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "year":
            return day.replace(month=1, day=1)
        case "all":
            return None


def resets_at(limit_reset: str | None, now: float) -> float | None:
    """When a cap that resets so begins anew, Unix seconds; None for one that never does."""
    period = RESET_PERIODS.get(limit_reset or "")
    day = today(now)
    first = None if period is None else began(period, day)
    if first is None:
        return None
    match period:
        case "day":
            then = first + timedelta(days=1)
        case "week":
            then = first + timedelta(days=7)
        case _:
            then = (first + timedelta(days=31)).replace(day=1)
    return datetime(then.year, then.month, then.day, tzinfo=UTC).timestamp()
