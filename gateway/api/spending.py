"""A key's cap and what it has spent, as OpenRouter names them. Nobody brings his own provider key: `byok` is 0."""

from __future__ import annotations

from gateway.admit.credit import Spent
from gateway.api.periods import resets_at
from gateway.api.shapes import iso_or_none, usd, usd_or_none
from gateway.core.money import PicoUsd
from gateway.core.principal import LimitReset


def spending(limit: PicoUsd | None, limit_reset: LimitReset | None, spent: Spent) -> dict[str, object]:
    """The fields that keys and `/key` have in common."""
    left = None if limit is None else max(0, limit - spent.counted(limit_reset))
    windows = (("", spent.total), ("_daily", spent.daily), ("_weekly", spent.weekly), ("_monthly", spent.monthly))
    return {
        "limit": usd_or_none(limit),
        "limit_remaining": usd_or_none(left),
        "limit_reset": limit_reset,
        "include_byok_in_limit": False,
        **{f"usage{window}": usd(amount) for window, amount in windows},
        **{f"byok_usage{window}": 0 for window, _ in windows},
    }


def budget(limit: PicoUsd, limit_reset: LimitReset | None, spent: Spent, now: float) -> dict[str, object]:
    """A cap as OpenRouter describes a budget. `remaining_usd` may be negative: a call can cost more than its estimate.

    `now` is Unix seconds.
    """
    used = spent.counted(limit_reset)
    return {
        "scope": "key_limit",
        "budget_id": None,
        "guardrail_id": None,
        "include_byok": False,
        "limit_usd": usd(limit),
        "spend_usd": usd(used),
        "remaining_usd": usd(limit - used),
        "reset_interval": limit_reset,
        "resets_at": iso_or_none(resets_at(limit_reset, now)),
    }
