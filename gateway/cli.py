"""The command line: `gateway serve | check | models`, and the commands on the data folder: `accounts`, `keys`,
`credits`, `usage`, `ledger`, `backup`, each in a module of its own beside this one.

Each command imports what it needs when it runs, so that `--help` and the data folder's commands start fast.
Exit codes: 0 done; 1 the thing asked could not be done; 2 wrong usage, configuration or data folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway import __version__
from gateway.cli_accounts import accounts
from gateway.cli_backup import backup
from gateway.cli_base import Refused, beside, config_option, data_dir_option
from gateway.cli_credits import account_credits
from gateway.cli_keys import keys
from gateway.cli_ledger import ledger
from gateway.cli_show import table
from gateway.cli_usage import usage

if TYPE_CHECKING:
    from gateway.config import Config


def _check_binds(_context: click.Context, _parameter: click.Parameter, binds: tuple[str, ...]) -> tuple[str, ...]:
    for bind in binds:
        host, colon, port = bind.rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit() and int(port) < 65_536):
            raise click.BadParameter(f"{bind!r} is not HOST:PORT; write 127.0.0.1:8080 or [::1]:8080")
    return binds


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
def main() -> None:
    """A self-hosted LLM gateway.

    \b
    Example:
      gateway check                          is config.toml right?
      gateway serve                          listen on http://127.0.0.1:8080
      gateway keys create --name my-laptop   a key for one more client
      gateway usage --by day                 what was called, and what it cost
      gateway backup monday.db               a copy of everything, also while serving
    """


@main.command()
@config_option
@data_dir_option
@click.option(
    "--bind",
    "binds",
    multiple=True,
    callback=_check_binds,
    metavar="HOST:PORT",
    help="Repeatable; wins over the configuration's.",
)
def serve(config_path: str, data_dir: Path | None, binds: tuple[str, ...]) -> None:
    """Serve until SIGTERM or SIGINT.

    SIGHUP reads the configuration again. On first run this makes the data folder and one API key, printed once. One
    process may serve from a data folder; a second exits 2.

    \b
    Example:
      $ gateway serve --config config.toml --bind 127.0.0.1:8080 --bind [::1]:8080
      listening on http://127.0.0.1:8080
      listening on http://[::1]:8080
    """
    config = _load(config_path)
    from gateway.app import serve as run
    from gateway.datadir import DataDirError

    folder = data_dir or beside(config_path, config.server.data_dir)
    try:
        code = run(config, config_path=config_path, data_dir=folder, binds=binds or None)
    except DataDirError as exc:
        raise Refused(str(exc)) from exc
    sys.exit(code)


@main.command()
@config_option
def check(config_path: str) -> None:
    """Check the configuration offline.

    Nothing is contacted and nothing is written. Every problem is named with its file, line and key, and the exit code
    is then 2.

    \b
    Example:
      $ gateway check --config config.toml
      config.toml: ok, 31 models, 42 providers (1 enabled)
    """
    config = _load(config_path)
    enabled = sum(provider.enabled for provider in config.providers.values())
    click.echo(f"{config_path}: ok, {len(config.models)} models, {len(config.providers)} providers ({enabled} enabled)")


@main.command()
@config_option
def models(config_path: str) -> None:
    """Show the catalogue as a table.

    One line for each offer of a model, in the order of preference. Prices are USD per 1M tokens. A provider whose key
    is unset is disabled; a model of which every offer is disabled answers 503.

    \b
    Example:
      $ gateway models
      MODEL          CONTEXT  PROVIDER  STATE     INPUT  OUTPUT
      openai/gpt-4o  128000   openai    disabled  2.5    10
      sim/words      128000   sim       enabled   0      0
    """
    click.echo(table(("MODEL", "CONTEXT", "PROVIDER", "STATE", "INPUT", "OUTPUT"), _offers(_load(config_path))))


for _command in (accounts, keys, account_credits, usage, ledger, backup):
    main.add_command(_command)


def _load(config_path: str) -> Config:
    """Load and check the whole configuration, or end with exit code 2 and the lines that say what is wrong."""
    import os

    from gateway.configfile import ConfigError, load

    try:
        return load(config_path, environ=os.environ)
    except ConfigError as exc:
        raise Refused(str(exc)) from exc


def _offers(config: Config) -> list[tuple[str, ...]]:
    from gateway.core.money import format_price_per_million as price

    return [
        (
            model.id,
            str(model.context_window),
            offer.provider,
            "enabled" if config.providers[offer.provider].enabled else "disabled",
            price(offer.input),
            price(offer.output),
        )
        for model in config.models.values()
        for offer in model.offers
    ]
