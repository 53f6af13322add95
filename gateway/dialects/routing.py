"""A request's routing wishes: OpenRouter's members `provider`, `models`, `route`, `transforms`, `plugins`, `debug` and
`session_id`, and our own `race`. Pure.

They are taken out of the request, since a provider would refuse them. `null` counts as absent, as the SDKs send it for
unset members, and so do empty lists (but for `transforms`) and an empty `session_id`. What we cannot do is refused by
name, but for `enforce_distillable_text`, which is checked and changes nothing: no offer says whether its text may be.
Source: openrouter.ai/docs/guides/routing/provider-selection and the schemas of its Python SDK.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final, TypeVar, get_args

import msgspec

from gateway.config import Quantization
from gateway.core.money import PicoUsd, parse_price_per_million, parse_usd
from gateway.core.routing import PLAIN, Bounds, MaxPrice, Preferences, RaceMode, RaceWish, Routing, Sort
from gateway.errors import BadRequest

FIELD_BYTES_MAX: Final = 64 * 1024  # of each of our members; three full lists of slugs take half of it
SLUGS_MAX: Final = 64
SLUG_CHARS_MAX: Final = 129  # the longest `provider/tag` of the configuration
MODELS_MAX: Final = 16
MODEL_CHARS_MAX: Final = 256
PLUGINS_MAX: Final = 16
SESSION_CHARS_MAX: Final = 256  # OpenRouter's
SUFFIXES: Final = ("free", "nitro", "floor")

_T = TypeVar("_T")
_Members = dict[str, msgspec.Raw]

_NULL: Final = msgspec.Raw(b"null")
_SHOWN_CHARS_MAX: Final = 40
_OBJECT: Final = msgspec.json.Decoder(_Members)
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
_STRINGS: Final = msgspec.json.Decoder(list[str])
_STRING: Final = msgspec.json.Decoder(str)
_FLAG: Final = msgspec.json.Decoder(bool)
_NUMBER: Final = msgspec.json.Decoder(float)
_USD: Final = re.compile(r"[0-9]{1,32}(\.[0-9]{1,32})?([eE][+-]?[0-9]{1,3})?")
_USD_MAX: Final = 9_000_000  # in pico-USD an int64 holds it
_SUFFIX_SORT: Final[dict[str, Sort]] = {"nitro": "throughput", "floor": "price"}


def parse_routing(fields: dict[str, msgspec.Raw], model: str, *, stream: bool) -> Routing:
    """Take our members out of a request's top level and read them; `PLAIN` when it has none, in 0.1 us.

    `transforms` and the plugin `context-compression` say the same thing; when both are there the plugin counts, which
    is what OpenRouter has today. Raises BadRequest whose `param` is the path of the member at fault.
    """
    if _OURS.isdisjoint(fields):
        return PLAIN
    ours = {name: raw for name in _READERS if (raw := fields.pop(name, _NULL)) != _NULL}
    read: dict[str, Any] = {}
    for name, raw in ours.items():
        if len(memoryview(raw)) > FIELD_BYTES_MAX:
            raise BadRequest(f"`{name}` is too long; send at most {FIELD_BYTES_MAX // 1024} KiB", param=name)
        target, reader = _READERS[name]
        if (value := reader(raw, name)) is not None:
            read[target] = value
    if "models" in read:
        read["models"] = tuple([other for other in read["models"] if other != model])
    if read.get("echo_upstream_body") and not stream:
        path = "debug.echo_upstream_body"
        raise BadRequest(f"`{path}` works only with a stream; send `stream: true`, or leave it out", param=path)
    return Routing(**read) if read else PLAIN


def split_suffix(model: str) -> tuple[str, str | None]:
    """Cut `:free`, `:nitro` or `:floor` from a model id: "openai/gpt-4o:nitro" is "openai/gpt-4o" and "nitro".

    An id may be in the catalogue with its suffix ("auto:free"): look for the whole of it first.
    Source: openrouter.ai/docs/guides/routing/model-variants.
    """
    base, colon, suffix = model.rpartition(":")
    return (base, suffix) if colon and base and suffix in SUFFIXES else (model, None)


def with_suffix(routing: Routing, suffix: str | None) -> Routing:
    """`routing` sorted by throughput for "nitro" and by price for "floor", unless it has its own `provider.sort`."""
    sort = _SUFFIX_SORT.get(suffix or "")
    if sort is None or routing.preferences.sort is not None:
        return routing
    return replace(routing, preferences=replace(routing.preferences, sort=sort))


def _preferences(raw: msgspec.Raw, path: str) -> Preferences:
    members = _members(raw, path, _PREFERENCES)
    read: dict[str, Any] = {name: _PREFERENCES[name](value, f"{path}.{name}") for name, value in members.items()}
    read.pop("enforce_distillable_text", None)
    read.update(read.pop("sort", {}))
    return Preferences(**read)


def _sort(raw: msgspec.Raw, path: str) -> dict[str, str]:
    """A name, or `by` and `partition`: the members of Preferences they set."""
    if _starts(raw, b"{"):
        members = _members(raw, path, ("by", "partition"))
        read = {"sort": _sort_by(members["by"], f"{path}.by")} if "by" in members else {}
        if "partition" in members:
            read["partition"] = _choice(members["partition"], f"{path}.partition", ("model", "none"))
        return read
    if _starts(raw, b'"'):
        return {"sort": _sort_by(raw, path)}
    raise _refusal(raw, path, f"{_one_of(get_args(Sort))}, or an object of `by` and `partition`")


def _sort_by(raw: msgspec.Raw, path: str) -> str:
    if raw == _EXACTO:
        raise BadRequest(
            f'`{path}`: "exacto" is a sort that only OpenRouter has; send {_one_of(get_args(Sort))}', param=path
        )
    return _choice(raw, path, get_args(Sort))


def _slugs(raw: msgspec.Raw, path: str) -> tuple[str, ...]:
    wanted = f"a list of at most {SLUGS_MAX} provider slugs of 1 to {SLUG_CHARS_MAX} characters"
    return tuple(dict.fromkeys([slug.lower() for slug in _strings(raw, path, wanted, SLUGS_MAX, SLUG_CHARS_MAX)]))


def _only(raw: msgspec.Raw, path: str) -> tuple[str, ...] | None:
    return _slugs(raw, path) or None


def _quantizations(raw: msgspec.Raw, path: str) -> frozenset[str] | None:
    allowed = get_args(Quantization)
    listed = _strings(raw, path, f"a list of {_one_of(allowed)}", SLUGS_MAX, SLUG_CHARS_MAX)
    if unknown := [name for name in listed if name not in allowed]:
        raise BadRequest(f"`{path}` has {_cut(unknown[0])!r}; it may list {', '.join(allowed)}", param=path)
    return frozenset(listed) or None


def _max_price(raw: msgspec.Raw, path: str) -> MaxPrice | None:
    """The bounds per token and per call. `image` and `audio` always hold: no offer asks extra for either."""
    members = _members(raw, path, _PRICES)
    prices = {name: _PRICES[name](value, f"{path}.{name}") for name, value in members.items()}
    bound = MaxPrice(prices.get("prompt"), prices.get("completion"), prices.get("request"))
    return None if bound == MaxPrice() else bound


def _per_million(raw: msgspec.Raw, path: str) -> PicoUsd:
    return _amount(raw, path, "USD per million tokens", parse_price_per_million, Decimal("0.000001"))


def _usd(raw: msgspec.Raw, path: str) -> PicoUsd:
    return _amount(raw, path, "USD", parse_usd, Decimal("0.000000000001"))


def _amount(raw: msgspec.Raw, path: str, unit: str, parse: Callable[[str], PicoUsd], one_pico: Decimal) -> PicoUsd:
    """An upper bound, from the digits of a string or of a number.

    What is finer than one pico-USD is cut off. That leaves the bound as it was, since what it bounds is whole pico-USD.
    """
    wanted = f'an amount of {unit} from 0 to {_USD_MAX}, such as "2.50"'
    text = _decode(_STRING, raw, path, wanted) if _starts(raw, b'"') else bytes(raw).decode()
    if not _USD.fullmatch(text) or (amount := Decimal(text)) > _USD_MAX:
        raise _refusal(raw, path, wanted)
    return parse(f"{amount.quantize(one_pico, ROUND_DOWN):f}")


def _bounds(raw: msgspec.Raw, path: str) -> Bounds | None:
    if not _starts(raw, b"{"):
        return Bounds(p50=_not_negative(raw, path, "a number of at least 0, or an object of p50, p75, p90 and p99"))
    members = _members(raw, path, Bounds._fields)
    read = {name: _not_negative(value, f"{path}.{name}", "a number of at least 0") for name, value in members.items()}
    return Bounds(**read) if read else None


def _not_negative(raw: msgspec.Raw, path: str, wanted: str) -> float:
    number = _decode(_NUMBER, raw, path, wanted)
    if number < 0:
        raise _refusal(raw, path, wanted)
    return number


def _route(raw: msgspec.Raw, path: str) -> None:
    """There is one route, which `models` takes anyway."""
    _choice(raw, path, ("fallback",))


def _models(raw: msgspec.Raw, path: str) -> list[str]:
    wanted = f"a list of at most {MODELS_MAX} model ids of 1 to {MODEL_CHARS_MAX} characters"
    return _strings(raw, path, wanted, MODELS_MAX, MODEL_CHARS_MAX)


def _transforms(raw: msgspec.Raw, path: str) -> bool:
    wanted = '["middle-out"] or []'
    listed = _strings(raw, path, wanted, 1, SLUG_CHARS_MAX)
    if listed not in (["middle-out"], []):
        raise _refusal(raw, path, wanted)
    return bool(listed)


def _plugins(raw: msgspec.Raw, path: str) -> bool | None:
    """Whether the plugin `context-compression` is on; None when it is not there."""
    wanted = f"a list of at most {PLUGINS_MAX} objects"
    plugins = _decode(_LIST, raw, path, wanted)
    if len(plugins) > PLUGINS_MAX:
        raise _refusal(raw, path, wanted)
    enabled: bool | None = None
    for plugin in plugins:
        members = _decode(_OBJECT, plugin, path, wanted)
        if members.get("id") != _COMPRESSION:
            shown = _shown(members["id"]) if "id" in members else "a plugin without an `id`"
            raise BadRequest(
                f'`plugins` names {shown}, which we do not have; the only one is "context-compression"', param=path
            )
        members = _members(plugin, path, ("id", "enabled", "engine"))
        if "engine" in members:
            _choice(members["engine"], f"{path}.engine", ("middle-out",))
        enabled = _flag(members["enabled"], f"{path}.enabled") if "enabled" in members else True
    return enabled


def _debug(raw: msgspec.Raw, path: str) -> bool | None:
    members = _members(raw, path, ("echo_upstream_body",))
    return _flag(members["echo_upstream_body"], f"{path}.echo_upstream_body") if members else None


def _session_id(raw: msgspec.Raw, path: str) -> str | None:
    wanted = f"a string of at most {SESSION_CHARS_MAX} characters"
    session_id = _decode(_STRING, raw, path, wanted)
    if len(session_id) > SESSION_CHARS_MAX:
        raise BadRequest(f"`{path}` must be {wanted}, not {len(session_id)}", param=path)
    return session_id or None


def _race(raw: msgspec.Raw, path: str) -> RaceWish | None:
    members = _members(raw, path, RaceWish._fields)
    read: dict[str, Any] = {}
    if "mode" in members:
        read["mode"] = _choice(members["mode"], f"{path}.mode", get_args(RaceMode))
    if "max_extra_cost" in members:
        read["max_extra_cost"] = _usd(members["max_extra_cost"], f"{path}.max_extra_cost")
    return RaceWish(**read) if read else None


def _members(raw: msgspec.Raw, path: str, known: Collection[str]) -> _Members:
    """The members of an object that are not null. Raises BadRequest for one that is not known."""
    decoded = _decode(_OBJECT, raw, path, f"an object of {', '.join(known)}")
    members = {name: value for name, value in decoded.items() if value != _NULL}
    for name in members:
        if name not in known:
            path_there = f"{path}.{_cut(name)}"
            raise BadRequest(f"`{path_there}` is not known; `{path}` may have {', '.join(known)}", param=path_there)
    return members


def _strings(raw: msgspec.Raw, path: str, wanted: str, count_max: int, chars_max: int) -> list[str]:
    """A bounded list of strings that are not empty, without duplicates."""
    listed = _decode(_STRINGS, raw, path, wanted)
    if len(listed) > count_max or not all(0 < len(text) <= chars_max for text in listed):
        raise _refusal(raw, path, wanted)
    return list(dict.fromkeys(listed))


def _choice(raw: msgspec.Raw, path: str, allowed: tuple[str, ...]) -> str:
    text = _decode(_STRING, raw, path, _one_of(allowed))
    if text not in allowed:
        raise _refusal(raw, path, _one_of(allowed))
    return text


def _flag(raw: msgspec.Raw, path: str) -> bool:
    return _decode(_FLAG, raw, path, "true or false")


def _decode(decoder: msgspec.json.Decoder[_T], raw: msgspec.Raw, path: str, wanted: str) -> _T:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise _refusal(raw, path, wanted) from None


def _refusal(raw: msgspec.Raw, path: str, wanted: str) -> BadRequest:
    return BadRequest(f"`{path}` must be {wanted}, not {_shown(raw)}", param=path)


def _shown(raw: msgspec.Raw) -> str:
    return _cut(bytes(raw).decode("utf-8", "replace"))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}..."


def _one_of(allowed: tuple[str, ...]) -> str:
    quoted = [f'"{text}"' for text in allowed]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _starts(raw: msgspec.Raw, opening: bytes) -> bool:
    return bytes(memoryview(raw)[:1]) == opening


_EXACTO: Final = msgspec.Raw(b'"exacto"')
_COMPRESSION: Final = msgspec.Raw(b'"context-compression"')
_PREFERENCES: Final[dict[str, Callable[[msgspec.Raw, str], object]]] = {
    "order": _slugs,
    "only": _only,
    "ignore": _slugs,
    "allow_fallbacks": _flag,
    "sort": _sort,
    "require_parameters": _flag,
    "data_collection": lambda raw, path: _choice(raw, path, ("allow", "deny")),
    "zdr": _flag,
    "quantizations": _quantizations,
    "max_price": _max_price,
    "preferred_min_throughput": _bounds,
    "preferred_max_latency": _bounds,
    "enforce_distillable_text": _flag,
}
_PRICES: Final = {
    "prompt": _per_million,
    "completion": _per_million,
    "request": _usd,
    "image": _usd,
    "audio": _usd,
}
_READERS: Final[dict[str, tuple[str, Callable[[msgspec.Raw, str], object]]]] = {
    "provider": ("preferences", _preferences),
    "models": ("models", _models),
    "route": ("", _route),
    "transforms": ("middle_out", _transforms),
    "plugins": ("middle_out", _plugins),  # after `transforms`, which it overrides
    "debug": ("echo_upstream_body", _debug),
    "session_id": ("session_id", _session_id),
    "race": ("race", _race),
}
_OURS: Final = frozenset(_READERS)
