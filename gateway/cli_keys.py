"""`gateway keys create | list | revoke`: the keys of a data folder, whether or not a gateway serves from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gateway import cli_base as base
from gateway import cli_show as show
from gateway.cli_base import Refused, data_options, database

if TYPE_CHECKING:
    from gateway.core.money import PicoUsd
    from gateway.core.principal import LimitReset
    from gateway.store.keys import KeyRow

_AT_LEAST_1 = click.IntRange(min=1)


@click.group()
def keys() -> None:
    """Make, list and revoke API keys. Works also while the gateway serves, which follows within a second.

    \b
    Example:
      gateway keys create --name my-laptop
      gateway keys create --name ci --account acme --limit 5 --limit-reset monthly --rpm 20
      gateway keys list
      gateway keys revoke key_5f2c9a1be07d4438
    """


@keys.command("create")
@click.option("--name", required=True, help="What the key is for; shown in lists and in records.")
@click.option("--account", metavar="ACCOUNT", help="Whose credit it spends, by id or name; without, the operator's.")
@base.plan_option
@click.option("--management", is_flag=True, help="It manages keys over HTTP and may not call models.")
@click.option("--limit", metavar="USD", help="The most it may spend in a period, such as 5 or 0.50.")
@click.option(
    "--limit-reset",
    type=click.Choice(["daily", "weekly", "monthly", "none"]),
    help="When --limit begins anew (UTC); none: never.",
)
@click.option("--rpm", type=_AT_LEAST_1, metavar="N", help="Requests a minute.")
@click.option("--rpd", type=_AT_LEAST_1, metavar="N", help="Requests a day.")
@click.option("--tpm", type=_AT_LEAST_1, metavar="N", help="Tokens a minute.")
@click.option("--concurrency", type=_AT_LEAST_1, metavar="N", help="Calls at once.")
@click.option("--expires-at", metavar="TIME", help="When it ends, such as 2027-01-31 or 2027-01-31T12:00:00+08:00.")
@click.option("--model", "models", multiple=True, metavar="ID", help="Repeatable; it may call these models only.")
@data_options
def keys_create(
    name: str,
    account: str | None,
    plan: str | None,
    management: bool,
    limit: str | None,
    limit_reset: LimitReset | Literal["none"] | None,
    rpm: int | None,
    rpd: int | None,
    tpm: int | None,
    concurrency: int | None,
    expires_at: str | None,
    models: tuple[str, ...],
    config_path: str,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Make a key. Its secret is shown this once: only a digest is stored.

    The secret alone goes to standard output, the rest to standard error. Of the limits of the key, its account and
    their plans, the tightest holds. Without --account and --plan the key is the operator's own: no credit is needed,
    nothing limits it, and it is metered all the same.

    \b
    Example:
      $ gateway keys create --name my-laptop --json
      {"id": "key_5f2c9a1be07d4438", "key": "sk-gw-..."}
      $ export OPENAI_API_KEY=$(gateway keys create --name my-laptop)
      $ gateway keys create --name ci --account acme --limit 5 --limit-reset monthly --rpm 20 --model sim/words
    """
    from gateway.store.keys import KeyTerms, create

    base.check_plan(config_path, plan)
    terms = KeyTerms(
        kind="management" if management else "standard",
        plan=plan,
        spend_limit=_spend_limit(limit, limit_reset),
        limit_reset=None if limit_reset == "none" else limit_reset,
        expires_at=_expiry(expires_at),
        models=_models(models),
        rpm=rpm,
        rpd=rpd,
        tpm=tpm,
        concurrency=concurrency,
    )
    with database(config_path, data_dir, make=True) as (conn, pepper):
        owner = {} if account is None else {"account_id": base.find_account(conn, account).id}
        try:
            key = create(conn, pepper, name, terms=terms, **owner)
        except ValueError as exc:
            raise Refused(str(exc)) from exc
    if as_json:
        show.echo_json({"id": key.id, "key": key.secret})
        return
    click.echo(f"{key.id} ({key.name}); the key is shown this once:", err=True)
    click.echo(key.secret)


@keys.command("list")
@click.option("--account", metavar="ACCOUNT", help="Only this account's, by id or name.")
@data_options
def keys_list(account: str | None, config_path: str, data_dir: Path | None, as_json: bool) -> None:
    """List all keys, revoked ones too, oldest first. Secrets are not known, only their ends.

    Limits are in --json.

    \b
    Example:
      $ gateway keys list
      ID                    NAME       KEY                ACCOUNT   KIND      PLAN  CREATED               STATE
      key_5f2c9a1be07d4438  my-laptop  sk-gw-Zk3v...9hQw  operator  standard  -     2026-01-31T12:00:00Z  live
    """
    from gateway.store.keys import list_all

    with database(config_path, data_dir) as (conn, _):
        account_id = None if account is None else base.find_account(conn, account).id
        rows = list_all(conn, account_id=account_id)
    if as_json:
        show.echo_json([_shown(row) for row in rows])
        return
    lines = [
        (
            r.id,
            r.name,
            r.prefix_hint,
            r.account_id,
            r.terms.kind,
            r.terms.plan or "-",
            show.utc(r.created_at),
            _state(r),
        )
        for r in rows
    ]
    click.echo(show.table(("ID", "NAME", "KEY", "ACCOUNT", "KIND", "PLAN", "CREATED", "STATE"), lines))


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@data_options
def keys_revoke(key_id: str, config_path: str, data_dir: Path | None, as_json: bool) -> None:
    """Revoke a key for good; a serving gateway refuses it within a second. Exit code 1 when there is no such key.

    \b
    Example:
      $ gateway keys revoke key_5f2c9a1be07d4438
      key_5f2c9a1be07d4438 is revoked
    """
    from gateway.store.keys import revoke

    with database(config_path, data_dir) as (conn, _):
        try:
            changed = revoke(conn, key_id)
        except KeyError:
            raise click.ClickException(f"there is no key {key_id!r}; `gateway keys list` shows the ids") from None
    if as_json:
        show.echo_json({"id": key_id, "revoked": True})
        return
    click.echo(f"{key_id} is revoked" if changed else f"{key_id} was revoked before")


def _spend_limit(limit: str | None, limit_reset: str | None) -> PicoUsd | None:
    if limit is None:
        if limit_reset is not None:
            raise Refused("--limit-reset: says when --limit begins anew, and there is no --limit; give both")
        return None
    return base.parse_usd("--limit", limit)


def _expiry(text: str | None) -> float | None:
    """Return the Unix time; UTC when the text names no zone."""
    if text is None:
        return None
    import time
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(f"--expires-at: {text!r} is not a time; write 2027-01-31 or 2027-01-31T12:00:00Z") from None
    expires_at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if expires_at <= time.time():
        raise Refused(f"--expires-at: {show.utc(expires_at)} has passed; name a time to come")
    return expires_at


def _models(ids: tuple[str, ...]) -> tuple[str, ...] | None:
    for model in ids:
        author, slash, name = model.partition("/")
        if not (author and slash and name and model.isprintable()) or " " in model:
            raise Refused(f"--model: {model!r} is not a model id; write author/name, as `gateway models` shows them")
    return ids or None


def _state(row: KeyRow) -> str:
    import time

    if row.revoked_at is not None:
        return f"revoked {show.utc(row.revoked_at)}"
    if row.terms.disabled:
        return "disabled"
    if row.terms.expires_at is not None and row.terms.expires_at <= time.time():
        return f"expired {show.utc(row.terms.expires_at)}"
    return "live"


def _shown(row: KeyRow) -> dict[str, object]:
    terms = row.terms
    return {
        "id": row.id,
        "name": row.name,
        "hint": row.prefix_hint,
        "account_id": row.account_id,
        "created_at": show.utc(row.created_at),
        "revoked_at": show.utc_or_none(row.revoked_at),
        "kind": terms.kind,
        "plan": terms.plan,
        "limit_usd": None if terms.spend_limit is None else show.exact_usd(terms.spend_limit),
        "limit_reset": terms.limit_reset,
        "disabled": terms.disabled,
        "expires_at": show.utc_or_none(terms.expires_at),
        "models": terms.models,
        "rpm": terms.rpm,
        "rpd": terms.rpd,
        "tpm": terms.tpm,
        "concurrency": terms.concurrency,
    }
