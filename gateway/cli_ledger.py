"""`gateway ledger verify | export`: proves the books, and takes them elsewhere. Both only read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway import cli_base as base
from gateway import cli_show as show
from gateway.cli_base import data_options, database

if TYPE_CHECKING:
    from gateway.store.export import Entry


@click.group()
def ledger() -> None:
    """Prove the ledger and export it. Works also while the gateway serves.

    \b
    Example:
      gateway ledger verify
      gateway ledger export --since 2026-01-01 > ledger.csv
    """


@ledger.command("verify")
@data_options
def ledger_verify(config_path: str, data_dir: Path | None, as_json: bool) -> None:
    """Replay the ledger and prove its sums. Exit code 1 when anything does not add up, and it says what.

    Every entry set sums to zero, every balance is the sum of its entries, every call has exactly the entries of its
    costs, and the usage by day is that of the calls. About 20 s for a million calls.

    \b
    Example:
      $ gateway ledger verify
      the ledger adds up
      $ gateway ledger verify --data-dir damaged
      balance customer acct_0c1d9a52b7e3f468: is $2, its entries sum to $1
      balances: together they are $1, not zero
      Error: the ledger does not add up (2 mismatches)
    """
    from gateway.store.verify import verify

    with database(config_path, data_dir) as (conn, _):
        mismatches = verify(conn)
    if as_json:
        show.echo_json({"ok": not mismatches, "mismatches": mismatches})
    elif not mismatches:
        click.echo("the ledger adds up")
    else:
        click.echo("\n".join(mismatches))
    if mismatches:
        count = len(mismatches)
        raise click.ClickException(f"the ledger does not add up ({count} mismatch{'es' if count > 1 else ''})")


@ledger.command("export")
@click.option("--format", "form", type=click.Choice(["csv", "json"]), help="csv without this; --json means json.")
@base.since_option
@base.until_option
@click.option("--account", metavar="ACCOUNT", help="Only the lines whose sum is its balance; by id or name.")
@data_options
def ledger_export(
    form: str | None,
    since: str | None,
    until: str | None,
    account: str | None,
    config_path: str,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Write the entries of the ledger to standard output, oldest first. Any number of them, in little memory.

    One line an entry; those of one entry_set sum to zero. Amounts are exact USD, times UTC.

    \b
    Example:
      $ gateway ledger export --since 2026-01-01
      id,entry_set,line,kind,at,book,owner,amount_usd,memo
      1,grant:invoice-17,0,grant,2026-01-31T12:00:00.000000Z,grants,acct_0c1d9a52b7e3f468,-1,
      2,grant:invoice-17,1,grant,2026-01-31T12:00:00.000000Z,customer,acct_0c1d9a52b7e3f468,1,
    """
    from gateway.store.export import export

    if as_json and form == "csv":
        raise click.UsageError("--json and --format csv exclude each other")
    since_unix_s, until_unix_s = base.bounds_unix_s(since, until)
    with database(config_path, data_dir) as (conn, _):
        account_id = None if account is None else base.find_account(conn, account).id
        entries = export(conn, since_unix_s=since_unix_s, until_unix_s=until_unix_s, account_id=account_id)
        if as_json or form == "json":
            _write_json(entries)
        else:
            _write_csv(entries)


_FIELDS = ("id", "entry_set", "line", "kind", "at", "book", "owner", "amount_usd", "memo")


def _cells(entries: Iterator[Entry]) -> Iterator[tuple[int | str, ...]]:
    from datetime import UTC, datetime

    from gateway.core.money import format_usd

    for e in entries:
        at = datetime.fromtimestamp(e.at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        yield (e.id, e.entry_set, e.line, e.kind, at, e.book, e.owner, format_usd(e.amount_pico_usd), e.memo)


def _write_csv(entries: Iterator[Entry]) -> None:
    import csv
    import sys

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_FIELDS)
    writer.writerows(_cells(entries))


def _write_json(entries: Iterator[Entry]) -> None:
    """Write one array, an entry a line."""
    import json
    import sys

    before = "[\n"
    for cells in _cells(entries):
        sys.stdout.write(before + json.dumps(dict(zip(_FIELDS, cells, strict=True))))
        before = ",\n"
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")
