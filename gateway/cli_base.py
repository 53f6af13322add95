"""What the commands share: their common options, how a refusal ends the process, the data folder's database, and the
little of the configuration that they need.

Never loads Trio, Quart or the catalogue: commands on the data folder start in about 80 ms, and work while the
catalogue part of the file has an error (a leaked key must be revocable at any time).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gateway.core.money import PicoUsd
    from gateway.datadir import DataDir
    from gateway.store.accounts import AccountRow

FC = TypeVar("FC", bound=Callable[..., Any])


class Refused(click.ClickException):
    """What the user gave cannot be used: its lines go to standard error as they are, and the exit code is 2."""

    exit_code = 2

    def show(self, file: object = None) -> None:
        """Print the lines. `file` is click's; errors go to standard error always."""
        del file
        click.echo(self.message, err=True)


config_option = click.option(
    "--config", "config_path", default="config.toml", show_default=True, metavar="FILE", help="The configuration."
)
data_dir_option = click.option(
    "--data-dir", metavar="DIR", type=click.Path(path_type=Path), help="The data folder; wins over the configuration's."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


def data_options(command: FC) -> FC:
    """Give a command the options that all commands on the data folder have."""
    return config_option(data_dir_option(json_option(command)))


def account_argument(command: FC) -> FC:
    """Let a command take one account as its argument or as `--account`; see `one_account`."""
    named = click.option("--account", "option", metavar="ACCOUNT", help="The same, as an option.")
    return click.argument("argument", metavar="ACCOUNT", required=False)(named(command))


account_option = click.option("--account", required=True, metavar="ACCOUNT", help="Whose, by id or name.")
plan_option = click.option("--plan", metavar="PLAN", help="One of [plans] in the configuration: its limits hold.")


def _check_day(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    from datetime import date

    try:
        return None if text is None else date.fromisoformat(text).isoformat()
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a day; write it like 2026-01-31") from None


since_option = click.option("--since", metavar="DAY", callback=_check_day, help="From this day (UTC) on.")
until_option = click.option("--until", metavar="DAY", callback=_check_day, help="Up to this day (UTC), it included.")


def bounds_unix_s(since: str | None, until: str | None) -> tuple[float | None, float | None]:
    """Return where the days begin and end: Unix seconds, the second one excluded. Refuses days out of order."""
    from datetime import UTC, datetime

    if since and until and since > until:
        raise Refused(f"--since {since} is after --until {until}; swap them")
    first, last = (
        None if day is None else datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() for day in (since, until)
    )
    return first, None if last is None else last + 86_400


def beside(config_path: str, folder: str) -> Path:
    """Return a folder that a configuration names: relative ones are relative to the file, not to the shell."""
    return Path(config_path).parent / folder


@contextlib.contextmanager
def data_folder(config_path: str, data_dir: Path | None, *, make: bool = False) -> Iterator[DataDir]:
    """Open the data folder; turn what it or SQLite refuses into a message."""
    from gateway.datadir import DataDirError, open_data_dir

    try:
        data = open_data_dir(data_dir or _data_dir_of(config_path), create=make)
        yield data
    except DataDirError as exc:
        raise Refused(str(exc)) from exc
    except sqlite3.Error as exc:
        raise click.ClickException(f"{data.db_path}: {exc}; nothing was changed, try again") from exc


@contextlib.contextmanager
def database(
    config_path: str, data_dir: Path | None, *, make: bool = False
) -> Iterator[tuple[sqlite3.Connection, bytes]]:
    """Open the data folder's database, and give it and its pepper; with `make` both are made when they are missing."""
    from gateway.store.schema import open_database

    with (
        data_folder(config_path, data_dir, make=make) as data,
        contextlib.closing(open_database(data.db_path, data.pepper)) as conn,
    ):
        yield conn, data.pepper


def check_plan(config_path: str, plan: str | None) -> None:
    """Refuse a plan that the configuration does not have."""
    if plan is None:
        return
    plans = _document(config_path, ": a plan is one of its [plans]").get("plans", {})
    if not isinstance(plans, dict) or plan not in plans:
        import difflib

        near = difflib.get_close_matches(plan, plans if isinstance(plans, dict) else (), n=1)
        hint = f"did you mean {near[0]}?" if near else f"add [plans.{plan}] or name another"
        raise Refused(f"{config_path}: there is no plan {plan!r}; {hint}")


def one_account(argument: str | None, option: str | None) -> str:
    """Return the account that was named in either way, by id or name."""
    given = argument or option
    if given is None or (argument and option):
        raise click.UsageError("name one account, by id or name; `gateway accounts list` shows them")
    return given


def find_account(conn: sqlite3.Connection, id_or_name: str) -> AccountRow:
    """Return the account, or end with exit code 1 when there is none."""
    from gateway.store.accounts import find

    try:
        return find(conn, id_or_name)
    except KeyError:
        raise click.ClickException(f"there is no account {id_or_name!r}; `gateway accounts list` shows them") from None


def parse_usd(option: str, text: str) -> PicoUsd:
    """Read an amount such as 12.50, exactly. Digits and a point only: no exponent, sign, space or separator."""
    from gateway.core import money

    try:
        return money.parse_usd(text)
    except ValueError as exc:
        raise Refused(f"{option}: {exc}") from None


def _data_dir_of(config_path: str) -> Path:
    """Read `[server] data_dir` and nothing else, so that an error elsewhere in the file stops no command."""
    from gateway.config import Server

    server = _document(config_path, " or name a folder with --data-dir").get("server", {})
    folder = server.get("data_dir", Server().data_dir) if isinstance(server, dict) else None
    if not isinstance(folder, str):
        raise Refused(f"{config_path}: server.data_dir must be a string; repair it or name a folder with --data-dir")
    return beside(config_path, folder)


def _document(config_path: str, why: str) -> dict[str, Any]:
    """Parse the file without looking at what it says."""
    import tomllib

    try:
        return tomllib.loads(Path(config_path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise Refused(f"{config_path}: {exc.strerror}; name the file with --config{why}") from exc
    except (ValueError, RecursionError) as exc:
        raise Refused(f"{config_path}: {exc}; repair it{why}") from exc
