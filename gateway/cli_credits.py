"""`gateway credits grant | show`: an account's credit, changed by entries in the ledger only."""

from __future__ import annotations

from pathlib import Path

import click

from gateway import cli_base as base
from gateway import cli_show as show
from gateway.cli_base import Refused, data_options, database


@click.group("credits")
def account_credits() -> None:
    """Grant credit to accounts and show it. Works also while the gateway serves, which follows within a second.

    \b
    Example:
      gateway credits grant --account acme --usd 1.00 --reference invoice-17
      gateway credits show --account acme
    """


@account_credits.command("grant")
@base.account_option
@click.option("--usd", required=True, metavar="USD", help="How much, exactly; such as 1.00.")
@click.option("--reference", metavar="TEXT", help="What it is for: the same one never grants twice.")
@click.option("--note", default="", metavar="TEXT", help="Kept with the entry in the ledger.")
@data_options
def credits_grant(
    account: str, usd: str, reference: str | None, note: str, config_path: str, data_dir: Path | None, as_json: bool
) -> None:
    """Give an account credit.

    With a --reference it is safe to run again: the second time changes nothing and says so. The same reference for
    another account or amount is refused with exit code 1.

    \b
    Example:
      $ gateway credits grant --account acme --usd 1.00 --reference invoice-17
      $1 granted to acme; its balance is $1.000000
      $ gateway credits grant --account acme --usd 1.00 --reference invoice-17
      nothing granted: invoice-17 was granted to acme before; its balance is $1.000000
    """
    from gateway.store.credit import ReferenceUsed, grant

    amount = base.parse_usd("--usd", usd)
    with database(config_path, data_dir) as (conn, _):
        row = base.find_account(conn, account)
        try:
            done = grant(conn, row.id, amount, reference=reference, note=note)
        except ReferenceUsed as exc:
            raise click.ClickException(str(exc)) from exc
        except ValueError as exc:
            raise Refused(str(exc)) from exc
    if as_json:
        show.echo_json(
            {
                "account_id": row.id,
                "entry_set": done.set_id,
                "granted": done.made,
                "usd": show.exact_usd(amount),
                "balance_usd": show.exact_usd(done.balance_pico_usd),
            }
        )
        return
    balance = f"its balance is ${show.balance_usd(done.balance_pico_usd)}"
    if done.made:
        click.echo(f"${show.exact_usd(amount)} granted to {row.name}; {balance}")
    else:
        click.echo(f"nothing granted: {reference} was granted to {row.name} before; {balance}")


@account_credits.command("show")
@base.account_option
@data_options
def credits_show(account: str, config_path: str, data_dir: Path | None, as_json: bool) -> None:
    """Show an account's credit in USD (balances rounded down, use rounded up; exact in --json).

    It is that of the ledger: calls under way hold some of it, which only the serving gateway knows.

    \b
    Example:
      $ gateway credits show --account acme
      ACCOUNT                NAME  PAYS      GRANTED  TOPPED UP      USED   BALANCE
      acct_0c1d9a52b7e3f468  acme  prepaid  1.000000   0.000000  0.000013  0.999987
    """
    from gateway.store.credit import show as read

    with database(config_path, data_dir) as (conn, _):
        row = base.find_account(conn, account)
        credit = read(conn, row.id)
    if as_json:
        show.echo_json(
            {
                "account_id": row.id,
                "name": row.name,
                "prepaid": row.prepaid,
                "granted_usd": show.exact_usd(credit.granted_pico_usd),
                "topped_up_usd": show.exact_usd(credit.topped_up_pico_usd),
                "used_usd": show.exact_usd(credit.used_pico_usd),
                "balance_usd": show.exact_usd(credit.balance_pico_usd),
            }
        )
        return
    line = (
        row.id,
        row.name,
        "prepaid" if row.prepaid else "postpaid",
        show.balance_usd(credit.granted_pico_usd),
        show.balance_usd(credit.topped_up_pico_usd),
        show.cost_usd(credit.used_pico_usd),
        show.balance_usd(credit.balance_pico_usd),
    )
    click.echo(show.table(("ACCOUNT", "NAME", "PAYS", "GRANTED", "TOPPED UP", "USED", "BALANCE"), [line], numbers=4))
