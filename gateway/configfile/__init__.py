"""Reads `config.toml` into one frozen `Config`, or says everything that is wrong with it.

The one place where a file becomes configuration: `load` gives a whole `Config` or raises `ConfigError`
with every problem (file, line, key), so that a bad file changes nothing. The environment is an argument;
`gateway check`, `gateway serve` and SIGHUP all come through here.
"""

from __future__ import annotations

import os
import re
import ssl
import tomllib
from collections.abc import Mapping
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from gateway.config import Config, Ledger, Limits, Log, Plan, Race, Routing, Server, Sim, Timeouts, Upstream
from gateway.configfile.auto import read_auto
from gateway.configfile.lines import syntax_error_line
from gateway.configfile.models import read_models
from gateway.configfile.prices import read_usd
from gateway.configfile.providers import read_providers
from gateway.configfile.read import ConfigError, Problem, Report, Table
from gateway.core.money import PicoUsd

__all__ = ["ConfigError", "Problem", "load", "parse"]

S = TypeVar("S", bound=msgspec.Struct)

DAY_S = 86_400.0

_BIND = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?):(\d{1,5})")
_PLAN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_MAY_BE_ZERO = frozenset(
    {"grace_s", "keepalive_s", "first_token_s", "token_gap_s", "affinity_s", "probe_every_s"}
    | {"hedge_delay_s", "hedge_delay_min_s", "hedge_share_max", "retry_share_max", "retries_per_s_min"}
    | {"retries_max", "retry_delay_s"}
)
_AT_MOST = {
    "hedge_share_max": 1.0,
    "retry_share_max": 1.0,
    "retries_per_s_min": 1e6,
    "attempts_max": 64,
    "retries_max": 8,
    "h2_streams_max": 65_535,
}
_COUNT_MAX = 1 << 40  # of bytes, connections, words: beyond it a number is a slip of the pen


def load(path: str | os.PathLike[str], *, environ: Mapping[str, str]) -> Config:
    """Read and check the file at `path`; keys come from `environ`. Raises ConfigError with every problem."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read()
    except OSError as exc:
        raise ConfigError([Problem(name, 0, "", f"cannot read it: {exc.strerror}")]) from exc
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError([Problem(name, line, "", "is not UTF-8")]) from exc
    return parse(text, path=name, environ=environ)


def parse(text: str, *, path: str, environ: Mapping[str, str]) -> Config:
    """Check `text` as the content of the file `path`. Raises ConfigError with every problem."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        message = re.sub(r" \(at .*\)$", "", str(exc))
        problem = Problem(path, syntax_error_line(str(exc), text), "", f"not valid TOML: {message}")
        raise ConfigError([problem]) from exc
    except RecursionError as exc:
        raise ConfigError([Problem(path, 0, "", "not valid TOML: nested too deeply")]) from exc
    report = Report(path, text)
    config = _config(Table(report, (), raw), path, environ)
    if report.problems:
        raise ConfigError(report.problems)
    return config


def _config(root: Table, path: str, environ: Mapping[str, str]) -> Config:
    server = _server(root.table("server"))
    sim = _section(root.table("sim"), Sim())
    providers = read_providers(root.table("providers"), sim, environ)
    models = read_models(root.tables("models"), providers)
    config = Config(
        path=path,
        server=server,
        timeouts=_section(root.table("timeouts"), Timeouts()),
        race=_section(root.table("race"), Race()),
        routing=_section(root.table("routing"), Routing()),
        auto=read_auto(root.table("auto"), models, providers),
        upstream=_section(root.table("upstream"), Upstream()),
        sim=sim,
        log=_section(root.table("log"), Log()),
        limits=_limits(root.table("limits")),
        ledger=_section(root.table("ledger"), Ledger()),
        plans=_plans(root.table("plans")),
        providers=providers,
        models=models,
    )
    root.close()
    return config


def _limits(table: Table) -> Limits:
    limits = _section(table, Limits())
    try:
        ZoneInfo(limits.day_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        table.problem("day_zone", f'bad value: {limits.day_zone!r} is no time zone; write one such as "Asia/Taipei"')
    return limits


def _plans(table: Table) -> dict[str, Plan]:
    plans: dict[str, Plan] = {}
    for name in table.names():
        if not _PLAN.fullmatch(name):
            table.problem(name, "bad plan name: use at most 64 of a-z, 0-9, - and _, not - or _ first")
        plans[name] = _section(table.table(name), Plan())
    return plans


def _section(table: Table, defaults: S) -> S:
    """Read a flat table into the struct of its defaults: types from the struct, ranges from the names' units."""
    given: dict[str, object] = {}
    for field in msgspec.structs.fields(defaults):
        value = _flat_value(table, field)
        if value is None:
            continue
        wrong = "" if field.type is PicoUsd else _range_fault(field.encode_name, value)
        if wrong:
            table.problem(field.encode_name, f"bad value: {wrong}")
        elif isinstance(value, str) and not value.strip():
            table.problem(field.encode_name, "bad value: must not be empty")
        else:
            given[field.encode_name] = value
    table.close()
    return msgspec.structs.replace(defaults, **given)


def _flat_value(table: Table, field: msgspec.structs.FieldInfo) -> object:
    if field.type is PicoUsd:
        return read_usd(table, field.encode_name)
    return table.get(field.encode_name, field.type)


def _range_fault(name: str, value: object) -> str:
    """What is wrong with a number, "" if nothing. Seconds end in `_s`; every other number counts something."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    least: float = 0 if name in _MAY_BE_ZERO or isinstance(value, float) else 1
    most = _AT_MOST.get(name, DAY_S if name.endswith("_s") else _COUNT_MAX)
    if least <= value <= most and (value > 0 or name in _MAY_BE_ZERO):
        return ""
    unit = (
        " seconds" if name.endswith("_s") else " bytes" if "bytes" in name else " a second" if "_per_s" in name else ""
    )
    above = "at least 0" if name in _MAY_BE_ZERO else "at least 1" if least else "more than 0"
    return f"{value:g} must be {above} and at most {most:.15g}{unit}"


def _server(table: Table) -> Server:
    server = _section(table, Server())
    if not server.bind:
        table.problem("bind", "bad value: give at least one HOST:PORT")
    for index, bind in enumerate(server.bind):
        found = _BIND.fullmatch(bind)
        if found is None or int(found[1]) > 65_535:
            table.problem("bind", f'bad value: {bind!r} must be HOST:PORT, such as "127.0.0.1:8080" or "[::1]:8080"')
        elif int(found[1]) and bind in server.bind[:index]:
            table.problem("bind", f"bad value: {bind!r} is given twice")
    if server.bodies_in_memory_bytes_max < server.inference_body_bytes_max:
        table.problem(
            "bodies_in_memory_bytes_max" if "bodies_in_memory_bytes_max" in table else "inference_body_bytes_max",
            f"bad value: bodies_in_memory_bytes_max ({server.bodies_in_memory_bytes_max}) must be at least "
            f"inference_body_bytes_max ({server.inference_body_bytes_max}), or the largest body never fits",
        )
    _check_tls(table, server)
    return server


def _check_tls(table: Table, server: Server) -> None:
    if server.certfile is None and server.keyfile is None:
        return
    if server.certfile is None:
        table.problem("keyfile", "keyfile without certfile: TLS needs both")
    elif server.keyfile is None:
        table.problem("certfile", "certfile without keyfile: TLS needs both")
    elif all([_readable(table, "certfile", server.certfile), _readable(table, "keyfile", server.keyfile)]):
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(server.certfile, server.keyfile, password="")
        except (ssl.SSLError, ValueError):
            table.problem("certfile", "certfile and keyfile are not a PEM certificate and its unencrypted key")


def _readable(table: Table, key: str, path: str) -> bool:
    try:
        with open(path, "rb"):
            return True
    except OSError as exc:
        table.problem(key, f"cannot read {path}: {exc.strerror}")
        return False
