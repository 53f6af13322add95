"""How the commands show things: tables, JSON, times, and money (tables round it, JSON is exact)."""

from __future__ import annotations

from collections.abc import Sequence

import click

_PICO_PER_MICRO = 10**6


def balance_usd(amount: int) -> str:
    """Show pico-USD that somebody has: six decimals, rounded down."""
    return _six_decimals(amount // _PICO_PER_MICRO)


def cost_usd(amount: int) -> str:
    """Show pico-USD that somebody pays: six decimals, rounded up."""
    return _six_decimals(-(-amount // _PICO_PER_MICRO))


def exact_usd(amount: int) -> str:
    """Return pico-USD as an exact decimal, as JSON answers have it."""
    from gateway.core.money import format_usd

    return format_usd(amount)


def utc(unix_s: float) -> str:
    """Return a Unix time as `2026-01-31T12:00:00Z`."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_or_none(unix_s: float | None) -> str | None:
    """Return a Unix time as `utc` does; None for none."""
    return None if unix_s is None else utc(unix_s)


def echo_json(value: object) -> None:
    """Print a value as one line of JSON."""
    import json

    click.echo(json.dumps(value))


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, numbers: int = 0) -> str:
    """Return the rows under their head, in columns as wide as they need; the last `numbers` ones to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    first_number = len(head) - numbers
    lines = (
        "  ".join(
            cell.ljust(width) if at < first_number else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def _six_decimals(micro: int) -> str:
    whole, part = divmod(abs(micro), 10**6)
    return f"{'-' if micro < 0 else ''}{whole}.{part:06}"
