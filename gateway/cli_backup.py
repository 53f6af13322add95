"""`gateway backup`: a whole copy of the database and its pepper, also while the gateway serves."""

from __future__ import annotations

from pathlib import Path

import click

from gateway import cli_show as show
from gateway.cli_base import data_folder, data_options


@click.command()
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
@data_options
def backup(target: Path, config_path: str, data_dir: Path | None, as_json: bool) -> None:
    """Copy the database to FILE, and the pepper to FILE.pepper: without it no key of the copy is recognised.

    The copy is of one moment and checked; the gateway may serve meanwhile. Nothing is overwritten. After a crash,
    start the gateway once before: it brings in the last calls from its journal.

    To restore, make a new folder of the two files, prove it, and serve from it.

    \b
    Example:
      $ gateway backup monday.db
      monday.db and monday.db.pepper are written
      $ mkdir -m 700 restored
      $ cp monday.db restored/gateway.db && cp monday.db.pepper restored/pepper
      $ gateway ledger verify --data-dir restored
      the ledger adds up
      $ gateway serve --data-dir restored
    """
    from gateway.store.backup import BackupError, pepper_path
    from gateway.store.backup import backup as copy

    with data_folder(config_path, data_dir) as data:
        try:
            copy(data, target)
        except BackupError as exc:
            raise click.ClickException(str(exc)) from exc
    if as_json:
        show.echo_json({"file": str(target), "pepper": str(pepper_path(target))})
        return
    click.echo(f"{target} and {pepper_path(target)} are written")
