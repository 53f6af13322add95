"""`gateway keys create | list | revoke`: the keys of a data folder, whether or not a gateway serves from it.

Never loads Trio, Quart or the catalogue: it starts in about 80 ms, and works while the catalogue has an error
(a leaked key must be revocable at any time).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli_base import Refused, beside, config_option, data_dir_option, json_option, table

if TYPE_CHECKING:
    from gateway.store.keys import KeyRow


@click.group()
def keys() -> None:
    """Make, list and revoke API keys. Works also while the gateway serves, which follows within a second.

    \b
    Example:
      gateway keys create --name my-laptop
      gateway keys list
      gateway keys revoke key_5f2c9a1be07d4438
    """


@keys.command("create")
@click.option("--name", required=True, help="What the key is for; shown in lists and in records.")
@config_option
@data_dir_option
@json_option
def keys_create(name: str, config_path: str, data_dir: Path | None, as_json: bool) -> None:
    """Make a key. Its secret is shown this once: only a digest is stored.

    The secret alone goes to standard output, the rest to standard error.

    \b
    Example:
      $ gateway keys create --name my-laptop --json
      {"id": "key_5f2c9a1be07d4438", "key": "sk-gw-..."}
      $ export OPENAI_API_KEY=$(gateway keys create --name my-laptop)
    """
    from gateway.store.keys import create

    with _database(config_path, data_dir, make=True) as (conn, pepper):
        try:
            key = create(conn, pepper, name)
        except ValueError as exc:
            raise Refused(str(exc)) from exc
    if as_json:
        click.echo(_json({"id": key.id, "key": key.secret}))
        return
    click.echo(f"{key.id} ({key.name}); the key is shown this once:", err=True)
    click.echo(key.secret)


@keys.command("list")
@config_option
@data_dir_option
@json_option
def keys_list(config_path: str, data_dir: Path | None, as_json: bool) -> None:
    """List all keys, revoked ones too, oldest first. Secrets are not known, only their ends.

    \b
    Example:
      $ gateway keys list
      ID                    NAME       KEY                ACCOUNT   CREATED               STATE
      key_5f2c9a1be07d4438  my-laptop  sk-gw-Zk3v...9hQw  operator  2026-01-31T12:00:00Z  live
    """
    from gateway.store.keys import list_all

    with _database(config_path, data_dir, make=False) as (conn, _):
        rows = list_all(conn)
    if as_json:
        click.echo(_json([_shown(row) for row in rows]))
        return
    lines = [(r.id, r.name, r.prefix_hint, r.account_id, _utc(r.created_at), _state(r)) for r in rows]
    click.echo(table(("ID", "NAME", "KEY", "ACCOUNT", "CREATED", "STATE"), lines))


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@config_option
@data_dir_option
@json_option
def keys_revoke(key_id: str, config_path: str, data_dir: Path | None, as_json: bool) -> None:
    """Revoke a key for good; a serving gateway refuses it within a second. Exit code 1 when there is no such key.

    \b
    Example:
      $ gateway keys revoke key_5f2c9a1be07d4438
      key_5f2c9a1be07d4438 is revoked
    """
    from gateway.store.keys import revoke

    with _database(config_path, data_dir, make=False) as (conn, _):
        try:
            changed = revoke(conn, key_id)
        except KeyError:
            raise click.ClickException(f"there is no key {key_id!r}; `gateway keys list` shows the ids") from None
    if as_json:
        click.echo(_json({"id": key_id, "revoked": True}))
        return
    click.echo(f"{key_id} is revoked" if changed else f"{key_id} was revoked before")


def _data_dir_of(config_path: str) -> Path:
    """Read `[server] data_dir` and nothing else, so that an error elsewhere in the file stops no key command."""
    import tomllib

    from gateway.config import Server

    try:
        document = tomllib.loads(Path(config_path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise Refused(
            f"{config_path}: {exc.strerror}; name the file with --config or a folder with --data-dir"
        ) from exc
    except ValueError as exc:
        raise Refused(f"{config_path}: {exc}; repair it or name a folder with --data-dir") from exc
    server = document.get("server", {})
    folder = server.get("data_dir", Server().data_dir) if isinstance(server, dict) else None
    if not isinstance(folder, str):
        raise Refused(f"{config_path}: server.data_dir must be a string; repair it or name a folder with --data-dir")
    return beside(config_path, folder)


@contextlib.contextmanager
def _database(config_path: str, data_dir: Path | None, *, make: bool) -> Iterator[tuple[sqlite3.Connection, bytes]]:
    """Open the data folder's database and its pepper; turn what the disk refuses into a message."""
    from gateway.datadir import DataDirError, open_data_dir
    from gateway.store.schema import open_database

    try:
        data = open_data_dir(data_dir or _data_dir_of(config_path), create=make)
        with contextlib.closing(open_database(data.db_path, data.pepper)) as conn:
            yield conn, data.pepper
    except DataDirError as exc:
        raise Refused(str(exc)) from exc
    except sqlite3.Error as exc:
        raise click.ClickException(f"{data.db_path}: {exc}; nothing was changed, try again") from exc


def _state(row: KeyRow) -> str:
    return "live" if row.revoked_at is None else f"revoked {_utc(row.revoked_at)}"


def _shown(row: KeyRow) -> dict[str, str | None]:
    return {
        "id": row.id,
        "name": row.name,
        "hint": row.prefix_hint,
        "account_id": row.account_id,
        "created_at": _utc(row.created_at),
        "revoked_at": None if row.revoked_at is None else _utc(row.revoked_at),
    }


def _utc(unix_s: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: object) -> str:
    import json

    return json.dumps(value)
