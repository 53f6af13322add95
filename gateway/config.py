"""The frozen configuration: what `config.toml` says, validated, with units in the names.

One `Config` is one snapshot. A call keeps the snapshot it began with; SIGHUP swaps the whole of it.
This module holds shapes and defaults only. Reading a file, finding lines, merging presets and
resolving key variables is `gateway.configfile`; nothing below reads the environment or the disk.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.core.money import PicoUsd

MIB = 1024 * 1024


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[server]`: sockets, folders and the limits of a request. Bind, TLS and data_dir need a restart."""

    bind: tuple[str, ...] = ("127.0.0.1:8080",)
    data_dir: str = "data"
    grace_s: float = 20.0
    inference_body_bytes_max: int = 32 * MIB
    bodies_in_memory_bytes_max: int = 256 * MIB
    header_s: float = 10.0
    body_s: float = 60.0
    keep_alive_s: float = 75.0
    connections_max: int = 8192
    h2_streams_max: int = 128
    certfile: str | None = None
    keyfile: str | None = None
    express_lane: bool = True
    metrics_token: str | None = None


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[timeouts]`: each is one named cancel scope on the path of a call."""

    connect_s: float = 5.0
    first_content_s: float = 60.0
    answer_s: float = 300.0
    idle_s: float = 60.0
    total_s: float = 600.0
    client_stall_s: float = 30.0
    keepalive_s: float = 15.0


class Race(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[race]`: when a second provider may start before the first has failed (a hedge)."""

    hedge: Literal["off", "delay", "adaptive"] = "off"
    hedge_delay_s: float = 1.0
    hedge_share_max: float = 0.05
    attempts_max: int = 6


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[upstream]`: the warm pool of each origin, and how much one answer may hold."""

    connections_max: int = 1024
    idle_s: float = 30.0
    answer_bytes_max: int = 64 * MIB
    stream_frame_bytes_max: int = 16 * MIB


class Drain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`on_disconnect = { drain_s = 10, drain_usd = "0.05" }`: read on after the client left, within both bounds."""

    drain_s: float
    drain_usd: PicoUsd


OnDisconnect = Literal["cancel", "cap"] | Drain


class Quirks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one vendor's OpenAI-compatible endpoint wants done differently. Data, never code per vendor."""

    chat_path: str = "/chat/completions"
    auth_header: str = "authorization"  # "authorization" sends `Bearer KEY`; any other name sends the bare key
    include_usage: bool = True  # false: the endpoint refuses `stream_options`
    max_tokens_field: Literal["keep", "max_tokens", "max_completion_tokens"] = "keep"
    drop_fields: tuple[str, ...] = ()  # top-level request fields the endpoint refuses with 4xx
    rename_fields: dict[str, str] = {}


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream account: where it is, its secret keys, and its quirks. Disabled when its key is missing."""

    name: str
    kind: Literal["openai", "sim"]
    base_url: str
    api_keys: tuple[str, ...]
    enabled: bool
    disabled_why: str = ""
    on_disconnect: OnDisconnect = "cancel"
    headers: dict[str, str] = {}
    quirks: Quirks = Quirks()
    ca_file: str | None = None


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What tokens cost: pico-USD per token (USD per 1M tokens x 10^6); `request` is pico-USD per call.

    None means: priced like the kind of token it is a part of (`input` for prompt tokens, `output` for reasoning).
    """

    input: PicoUsd
    output: PicoUsd
    cached_input: PicoUsd | None = None
    cache_write: PicoUsd | None = None
    reasoning: PicoUsd | None = None
    request: PicoUsd = PicoUsd(0)


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one provider asks of us for one model. Prices as in `Price`."""

    provider: str
    model: str
    input: PicoUsd
    output: PicoUsd
    cached_input: PicoUsd | None = None  # None: cached prompt tokens cost what prompt tokens cost
    supports: frozenset[str] | None = None  # None: all of chat; else of SUPPORTS in gateway.configfile.models
    cache_write: PicoUsd | None = None
    reasoning: PicoUsd | None = None
    request: PicoUsd = PicoUsd(0)


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One catalogue entry: our id, and who can serve it, in order of preference."""

    id: str
    offers: tuple[Offer, ...]
    context_window: int
    aliases: tuple[str, ...] = ()
    created: int = 0
    name: str = ""
    description: str = ""
    price: Price | Literal["free"] | None = None  # what a customer pays; None: what the provider asks, and the markup
    markup: tuple[int, int] = (0, 1)  # a fraction, numerator and denominator: "0.25" is (1, 4)
    completion_tokens_max: int | None = None  # what the model can answer with at most, when the vendor says

    @property
    def owned_by(self) -> str:
        """The author part of `author/slug`."""
        return self.id.partition("/")[0]


class Sim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[sim]`: the built-in provider: whether it is there, and its pacing in seconds and words."""

    enabled: bool = True
    first_token_s: float = 0.05
    token_gap_s: float = 0.01
    words_max: int = 64


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[log]`: one JSON line a call on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    calls: bool = True


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[plans.NAME]`: limits of a key or an account on that plan. None: no such limit."""

    rpm: int | None = None  # requests a minute
    rpd: int | None = None  # requests a calendar day of limits.day_zone
    tpm: int | None = None  # tokens a minute
    concurrency: int | None = None  # calls at once
    completion_tokens_default: int | None = None  # held for a call that names no max_tokens


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[limits]`: what all plans share."""

    day_zone: str = "UTC"  # an IANA zone: where the days of `rpd` begin
    completion_tokens_default: int = 4096
    keys_in_memory_max: int = 1_000_000
    headers: bool = True  # x-ratelimit-* on inference answers


class Ledger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[ledger]`: how durable a settled call is before its last byte leaves."""

    durability: Literal["crash", "power_loss"] = "crash"
    journal_segment_bytes: int = 16 * MIB


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole snapshot."""

    path: str
    server: Server = Server()
    timeouts: Timeouts = Timeouts()
    race: Race = Race()
    upstream: Upstream = Upstream()
    sim: Sim = Sim()
    log: Log = Log()
    limits: Limits = Limits()
    ledger: Ledger = Ledger()
    plans: dict[str, Plan] = {}
    providers: dict[str, Provider] = {}
    models: dict[str, Model] = {}
