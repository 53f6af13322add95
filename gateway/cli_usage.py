"""`gateway usage`: calls, tokens and money by model, key or day, from the sums that are kept as calls are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gateway import cli_base as base
from gateway import cli_show as show
from gateway.cli_base import data_options, database

if TYPE_CHECKING:
    from gateway.store.usage import UsageRow

_HEAD = (
    "CALLS",
    "PROMPT",
    "CACHED",
    "CACHE WRITE",
    "COMPLETION",
    "REASONING",
    "COST",
    "PROVIDER COST",
    "HEDGE COST",
)


@click.command()
@click.option(
    "--by", type=click.Choice(["model", "key", "day"]), default="model", show_default=True, help="What a line sums up."
)
@click.option("--account", metavar="ACCOUNT", help="Only this account's, by id or name.")
@base.since_option
@base.until_option
@data_options
def usage(
    by: Literal["model", "key", "day"],
    account: str | None,
    since: str | None,
    until: str | None,
    config_path: str,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Show what was used: calls, tokens, and USD (rounded up; exact in --json). Days are UTC's.

    COST is what customers pay, PROVIDER COST what the providers ask for the same calls, HEDGE COST what they ask for
    attempts that lost a race.

    \b
    Example:
      $ gateway usage --by model --account acme --since 2026-01-01 --until 2026-01-31
      MODEL          CALLS  PROMPT  CACHED  CACHE WRITE  COMPLETION  REASONING      COST  PROVIDER COST  HEDGE COST
      openai/gpt-4o      2    1200       0            0         340          0  0.006400       0.006400    0.000000
      total              2    1200       0            0         340          0  0.006400       0.006400    0.000000
    """
    from gateway.store.keys import list_all
    from gateway.store.usage import usage as read

    base.bounds_unix_s(since, until)
    with database(config_path, data_dir) as (conn, _):
        account_id = None if account is None else base.find_account(conn, account).id
        rows = read(conn, by=by, since_day=since, until_day=until, account_id=account_id)
        names = {key.id: key.name for key in list_all(conn, account_id=account_id)} if by == "key" else {}
    if as_json:
        show.echo_json([_shown(row) | ({"key_name": names.get(row.name, "")} if by == "key" else {}) for row in rows])
        return
    named = by == "key"
    head = ("KEY", "NAME") if named else (by.upper(),)
    lines = [
        (row.name or "-", *((names.get(row.name, ""),) if named else ()), *_cells(row)) for row in (*rows, _total(rows))
    ]
    click.echo(show.table((*head, *_HEAD), lines, numbers=len(_HEAD)))


def _cells(row: UsageRow) -> tuple[str, ...]:
    counts = (row.calls, row.prompt_tokens, row.cached_tokens, row.cache_write_tokens, row.completion_tokens)
    costs = (row.cost_pico_usd, row.provider_cost_pico_usd, row.hedge_cost_pico_usd)
    return (*map(str, counts), str(row.reasoning_tokens), *map(show.cost_usd, costs))


def _total(rows: list[UsageRow]) -> UsageRow:
    """Sum up first and round then: a total may be less than the sum of the rounded lines above it."""
    from gateway.store.usage import SUMS, UsageRow

    return UsageRow("total", *(sum(getattr(row, name) for row in rows) for name in ("calls", *SUMS)))


def _shown(row: UsageRow) -> dict[str, object]:
    return {
        "name": row.name,
        "calls": row.calls,
        "prompt_tokens": row.prompt_tokens,
        "cached_tokens": row.cached_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        "completion_tokens": row.completion_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "cost_usd": show.exact_usd(row.cost_pico_usd),
        "provider_cost_usd": show.exact_usd(row.provider_cost_pico_usd),
        "hedge_cost_usd": show.exact_usd(row.hedge_cost_pico_usd),
    }
