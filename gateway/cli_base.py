"""What the commands share: their common options, how a refusal ends the process, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click


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


def beside(config_path: str, folder: str) -> Path:
    """Return a folder that a configuration names: relative ones are relative to the file, not to the shell."""
    return Path(config_path).parent / folder


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return the rows under their head, in columns as wide as they need."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return "\n".join(line.rstrip() for line in lines)
