"""The command line as the tests call it."""

from __future__ import annotations

from click.testing import CliRunner, Result

from gateway.cli import main


def run(*arguments: str) -> Result:
    """Run `gateway` in this process; an exception that is not an exit code fails the test."""
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
