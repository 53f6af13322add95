"""What is known of real OpenAI-compatible endpoints: `presets.toml`, read and typed.

A preset is data: where the endpoint is, which variable its vendor documents for the key, how it wants
requests changed, whether it goes on billing after a client has left, and the page all that was taken
from. Nothing here reads the environment; `gateway.configfile.providers` merges a preset with what the user wrote.
"""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Mapping

import msgspec

from gateway.config import Drain, OnDisconnect, Quirks
from gateway.core.money import PicoUsd, parse_usd

DRAIN_S_MAX = 600.0


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of `presets.toml`."""

    title: str
    base_url: str  # no trailing slash; with `{field}`s when `base_url_needed`
    docs: str  # the vendor's page
    checked: str  # the day `docs` or the source in `basis` was last read, YYYY-MM-DD
    basis: str  # what was read: "vendor docs", a catalogue, or only common use
    api_key_env: str | None = None
    local: bool = False  # a server of the user's own: off until they give base_url or enabled = true
    base_url_needed: bool = False  # the URL holds the user's account, region or resource
    on_disconnect: str | dict[str, str | int | float] = "cancel"
    headers: dict[str, str] = {}
    quirks: Quirks = Quirks()
    note: str = ""

    @property
    def disconnect(self) -> OnDisconnect:
        """`on_disconnect`, typed."""
        return parse_on_disconnect(self.on_disconnect)


@functools.cache
def load_presets() -> Mapping[str, Preset]:
    """Every preset by name. Read once; a broken data file is a bug and raises."""
    text = importlib.resources.files("gateway.providers").joinpath("presets.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), type=dict[str, Preset])


def parse_on_disconnect(value: object) -> OnDisconnect:
    """Read "cancel", "cap" or `{ drain_s, drain_usd }`. Raises ValueError saying what was wrong."""
    match value:
        case "cancel":
            return "cancel"
        case "cap":
            return "cap"
        case {"drain_s": int() | float() as seconds, "drain_usd": str() as usd, **rest} if not rest:
            if isinstance(seconds, bool) or not 0 < seconds <= DRAIN_S_MAX:
                raise ValueError(f"drain_s must be seconds, more than 0 and at most {DRAIN_S_MAX:g}")
            return Drain(drain_s=float(seconds), drain_usd=_parse_drain_usd(usd))
        case _:
            raise ValueError(
                'must be "cancel", "cap" or { drain_s = 10, drain_usd = "0.05" }, drain_usd a decimal string'
            )


def _parse_drain_usd(text: str) -> PicoUsd:
    try:
        return parse_usd(text)
    except ValueError as exc:
        raise ValueError(f"drain_usd: {exc}") from None
