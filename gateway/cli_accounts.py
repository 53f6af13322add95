"""`gateway accounts create | list | suspend | resume`: who owns keys, and whether he pays before or after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway import cli_base as base
from gateway import cli_show as show
from gateway.cli_base import Refused, data_options, database

if TYPE_CHECKING:
    from gateway.store.accounts import AccountRow


@click.group()
def accounts() -> None:
    """Make, list, suspend and resume accounts. Works also while the gateway serves, which follows within a second.

    \b
    Example:
      gateway accounts create --name acme --plan free --prepaid
      gateway accounts list
      gateway accounts suspend acme
    """


@accounts.command("create")
@click.option("--name", required=True, help="Whose it is; the other commands take it as well as the id.")
@base.plan_option
@click.option("--prepaid", is_flag=True, help="Calls need credit; without, they are counted and paid afterwards.")
@data_options
def accounts_create(
    name: str, plan: str | None, prepaid: bool, config_path: str, data_dir: Path | None, as_json: bool
) -> None:
    """Make an account. Its id alone goes to standard output.

    The limits of its plan hold for all its keys together.

    \b
    Example:
      $ gateway accounts create --name acme --plan free --prepaid
      acct_0c1d9a52b7e3f468
      $ gateway credits grant --account acme --usd 1.00
      $ gateway keys create --name ci --account acme
    """
    from gateway.store.accounts import create

    base.check_plan(config_path, plan)
    with database(config_path, data_dir, make=True) as (conn, _):
        try:
            account = create(conn, name, plan=plan, prepaid=prepaid)
        except ValueError as exc:
            raise Refused(str(exc)) from exc
    if as_json:
        show.echo_json(_shown(account))
        return
    click.echo(f"{account.name} is made ({_pays(account)}, plan {account.plan or 'none'}); its id:", err=True)
    click.echo(account.id)


@accounts.command("list")
@data_options
def accounts_list(config_path: str, data_dir: Path | None, as_json: bool) -> None:
    """List all accounts, oldest first, with their balances in USD (rounded down; exact in --json).

    \b
    Example:
      $ gateway accounts list
      ID                     NAME      PAYS      PLAN  CREATED               STATE    BALANCE
      operator               Operator  postpaid  -     2026-01-31T12:00:00Z  live   -0.000012
      acct_0c1d9a52b7e3f468  acme      prepaid   free  2026-01-31T12:05:00Z  live    1.000000
    """
    from gateway.store.accounts import list_all

    with database(config_path, data_dir) as (conn, _):
        rows = list_all(conn)
    if as_json:
        show.echo_json([_shown(row) for row in rows])
        return
    lines = [
        (r.id, r.name, _pays(r), r.plan or "-", show.utc(r.created_at), _state(r), show.balance_usd(r.balance_pico_usd))
        for r in rows
    ]
    click.echo(show.table(("ID", "NAME", "PAYS", "PLAN", "CREATED", "STATE", "BALANCE"), lines, numbers=1))


@accounts.command("suspend")
@base.account_argument
@data_options
def accounts_suspend(
    argument: str | None, option: str | None, config_path: str, data_dir: Path | None, as_json: bool
) -> None:
    """Suspend an account: its keys are answered 403 within a second, until it is resumed.

    \b
    Example:
      $ gateway accounts suspend acme
      acme is suspended
    """
    _set_suspended(base.one_account(argument, option), config_path, data_dir, as_json=as_json, suspended=True)


@accounts.command("resume")
@base.account_argument
@data_options
def accounts_resume(
    argument: str | None, option: str | None, config_path: str, data_dir: Path | None, as_json: bool
) -> None:
    """Resume a suspended account.

    \b
    Example:
      $ gateway accounts resume acme
      acme is live
    """
    _set_suspended(base.one_account(argument, option), config_path, data_dir, as_json=as_json, suspended=False)


def _set_suspended(id_or_name: str, config_path: str, data_dir: Path | None, *, as_json: bool, suspended: bool) -> None:
    from gateway.store.accounts import find, set_suspended

    with database(config_path, data_dir) as (conn, _):
        account = base.find_account(conn, id_or_name)
        try:
            changed = set_suspended(conn, account.id, suspended=suspended)
        except ValueError as exc:
            raise click.ClickException(str(exc)) from exc
        account = find(conn, account.id)
    if as_json:
        show.echo_json(_shown(account))
        return
    click.echo(f"{account.name} {'is' if changed else 'was'} {_state(account)}{'' if changed else ' before'}")


def _pays(account: AccountRow) -> str:
    return "prepaid" if account.prepaid else "postpaid"


def _state(account: AccountRow) -> str:
    return "live" if account.suspended_at is None else "suspended"


def _shown(account: AccountRow) -> dict[str, object]:
    return {
        "id": account.id,
        "name": account.name,
        "plan": account.plan,
        "prepaid": account.prepaid,
        "created_at": show.utc(account.created_at),
        "suspended_at": show.utc_or_none(account.suspended_at),
        "balance_usd": show.exact_usd(account.balance_pico_usd),
    }
