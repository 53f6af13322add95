"""`[providers.*]`: what the user wrote, over what the preset of that name knows, with the keys resolved.

A provider without its key is disabled, which is no error; so is a local server nobody asked for. The
`sim` provider is ours: it is always there (its base_url is filled in when it has bound its port) unless
`[sim] enabled = false`. Key values never reach a message.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from gateway.config import OnDisconnect, Provider, Quirks, Sim
from gateway.configfile.read import Table, did_you_mean
from gateway.providers.presets import Preset, load_presets, parse_on_disconnect

SIM = "sim"

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_KEY_VALUE = re.compile(r"[\x21-\x7e]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")
_OURS = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "expect", "host", "te", "trailer"}
    | {"transfer-encoding", "upgrade"}
)
"""Headers that only the gateway may write."""

_NO_PRESET = Preset(title="", base_url="", docs="", checked="", basis="")


def read_providers(table: Table, sim: Sim, environ: Mapping[str, str]) -> dict[str, Provider]:
    """Every provider of the file, and `sim`. A provider with a problem is still returned, so that offers find it."""
    providers = {SIM: _sim(sim)}
    for name in table.names():
        if name == SIM:
            table.problem(name, "the sim provider is built in; set [sim] instead")
        elif not _NAME.fullmatch(name):
            table.problem(name, "bad provider name: use at most 64 of a-z, 0-9, - and _, not - or _ first")
        else:
            providers[name] = _provider(name, table.table(name), environ)
    return providers


def _sim(sim: Sim) -> Provider:
    return Provider(
        name=SIM,
        kind="sim",
        base_url="",
        api_keys=(),
        enabled=sim.enabled,
        disabled_why="" if sim.enabled else "[sim] enabled = false",
        collects_data=False,
        zdr=True,
    )


def _provider(name: str, table: Table, environ: Mapping[str, str]) -> Provider:
    preset = _preset(name, table)
    kind = table.text("kind")
    if kind not in (None, "openai"):
        table.problem("kind", f'bad value: {kind!r} is no adapter; the only one is "openai"')
    enabled = table.get("enabled", bool)
    base_url = _base_url(table, preset)
    keys, missing = _keys(table, preset, environ)
    headers = preset.headers | _headers(table)
    on_disconnect = _on_disconnect(table, preset)
    quirks = _quirks(table.table("quirks"), preset.quirks)
    ca_file = _ca_file(table)
    collects_data, zdr = _data_policy(table)
    why = missing
    if enabled is False:
        why = "enabled = false"
    elif preset.local and enabled is None and "base_url" not in table:
        why = "a server of your own: set base_url or enabled = true"
    table.close()
    return Provider(
        name=name,
        kind="openai",
        base_url=base_url,
        api_keys=keys,
        enabled=not why,
        disabled_why=why,
        on_disconnect=on_disconnect,
        headers=headers,
        quirks=quirks,
        ca_file=ca_file,
        collects_data=collects_data,
        zdr=zdr,
    )


def _preset(name: str, table: Table) -> Preset:
    presets = load_presets()
    chosen = table.text("preset")
    if chosen is not None and chosen not in presets:
        table.problem("preset", f"unknown preset {chosen!r}{did_you_mean(chosen, presets)}")
        return _NO_PRESET
    preset = presets.get(chosen or name)
    if preset is None:
        if "base_url" not in table:
            hint = did_you_mean(name, presets)
            table.problem(None, f'no preset is named {name!r}{hint}; give base_url, or preset = "NAME"')
        return _NO_PRESET
    if preset.base_url_needed and "base_url" not in table:
        table.problem(None, f"base_url is needed: {preset.base_url} with the parts in braces filled in")
    return preset


def _base_url(table: Table, preset: Preset) -> str:
    given = table.text("base_url")
    if given is None:
        return preset.base_url
    wrong = _url_fault(given)
    if wrong:
        table.problem("base_url", f"bad value: {wrong}")
        return preset.base_url
    return given.rstrip("/")


def _url_fault(url: str) -> str:
    if not url.isascii() or any(char in url for char in ' {}<>"\\^`|'):
        return "must be a plain ASCII URL with every part in braces filled in"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or not _HOST.fullmatch(parts.hostname):
        return "must begin with http:// or https:// and a host"
    if port == 0:
        return "port 0 cannot be connected to"
    if "@" in parts.netloc:
        return "must not hold a user name or password; use api_key or headers"
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        return "must have no query or fragment"
    return ""


def _keys(table: Table, preset: Preset, environ: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """The secret keys, and why the provider is disabled for want of one ("" when it is not)."""
    inline = _strings(table, "api_key")
    variables = _strings(table, "api_key_env")
    if inline is not None and variables is not None:
        table.problem("api_key", "give api_key or api_key_env, not both")
    if inline is not None:
        if not all(_KEY_VALUE.fullmatch(key) for key in inline):
            table.problem("api_key", "bad value: a key must be printable ASCII without spaces, and not empty")
        return inline, ""
    if variables is not None:
        for variable in variables:
            if not _VARIABLE.fullmatch(variable):
                table.problem("api_key_env", f"bad value: {variable[:64]!r} is no variable name; a key goes in api_key")
    elif "api_key_env" in table or preset.api_key_env is None:
        return (), ""
    else:
        variables = (preset.api_key_env,)
    return _from_environ(table, variables, environ, optional=preset.local)


def _from_environ(
    table: Table, variables: tuple[str, ...], environ: Mapping[str, str], *, optional: bool
) -> tuple[tuple[str, ...], str]:
    keys: list[str] = []
    for variable in variables:
        value = environ.get(variable, "").strip()
        if value and not _KEY_VALUE.fullmatch(value):
            table.problem(
                "api_key_env", f"the value of {variable} holds a space or a character that no header may hold"
            )
        elif value and value not in keys:
            keys.append(value)
    if keys or optional:
        return tuple(keys), ""
    return (), f"{' and '.join(variables)} {'is' if len(variables) == 1 else 'are'} not set"


def _strings(table: Table, key: str) -> tuple[str, ...] | None:
    """A string or a non-empty list of strings; None when absent or reported. No value is repeated in a message."""
    value = table.raw(key)
    if value is None:
        return None
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
        table.problem(key, "bad value: must be a string or a list of strings, not empty")
        return None
    return tuple(str(item) for item in found)


def _headers(table: Table) -> dict[str, str]:
    headers: dict[str, str] = {}
    inner = table.table("headers")
    for name in inner.names():
        value = inner.get(name, str)
        if not _HEADER_NAME.fullmatch(name):
            inner.problem(name, "bad value: not a header name")
        elif name.lower() in _OURS:
            inner.problem(name, "this header is set by the gateway")
        elif name.lower() in headers:
            inner.problem(name, "this header is given twice")
        elif value is not None and not _HEADER_VALUE.fullmatch(value):
            inner.problem(name, "bad value: must be printable ASCII")
        elif value is not None:
            headers[name.lower()] = value
    return headers


def _on_disconnect(table: Table, preset: Preset) -> OnDisconnect:
    given = table.raw("on_disconnect")
    if given is None:
        return preset.disconnect
    try:
        return parse_on_disconnect(given)
    except ValueError as exc:
        table.problem("on_disconnect", f"bad value: {exc}")
        return preset.disconnect


def _quirks(table: Table, preset: Quirks) -> Quirks:
    """The preset's quirks with the fields the user gave in their place."""
    given: dict[str, object] = {}
    for field in msgspec.structs.fields(Quirks):
        value = table.get(field.encode_name, field.type)
        if value is not None:
            given[field.encode_name] = value
    path = given.get("chat_path")
    if isinstance(path, str) and (not path.startswith("/") or not re.fullmatch(r"[\x21-\x7e]+", path)):
        table.problem("chat_path", "bad value: must begin with / and be printable ASCII without spaces")
    header = given.get("auth_header")
    if isinstance(header, str) and (not _HEADER_NAME.fullmatch(header) or header.lower() in _OURS):
        table.problem("auth_header", "bad value: not the name of a header that can carry a key")
    table.close()
    return msgspec.structs.replace(preset, **given)


def _data_policy(table: Table) -> tuple[bool, bool]:
    """`collects_data` and `zdr`. Who keeps nothing collects nothing; of whom nobody says, we take it that they do."""
    collects, zdr = table.get("collects_data", bool), table.get("zdr", bool) or False
    if collects and zdr:
        table.problem("zdr", "bad value: zdr = true says that nothing is kept, and collects_data = true that it is")
    return (not zdr if collects is None else collects), zdr


def _ca_file(table: Table) -> str | None:
    path = table.text("ca_file")
    if path is not None:
        try:
            ssl.create_default_context(cafile=path)
        except (OSError, ValueError) as exc:
            table.problem("ca_file", f"cannot use {path}: {_reason(exc)}")
    return path


def _reason(exc: Exception) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or type(exc).__name__
