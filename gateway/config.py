"""The frozen configuration: what `config.toml` says, validated, with units in the names.

One `Config` is one snapshot. A call keeps the snapshot it began with; SIGHUP swaps the whole of it.
This module holds shapes and defaults only. Reading a file, finding lines, merging presets and
resolving key variables is `gateway.configfile`; nothing below reads the environment or the disk.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from gateway.core.money import PICO_PER_USD, PicoUsd
from gateway.core.routing import RaceMode

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
    """`[race]`: when a second provider may start before the first has failed (a hedge), and how often to retry.

    The retry budget is of each provider: `retry_share_max` of the calls sent to it, on top of `retries_per_s_min`. Its
    defaults are Finagle's (finagle.github.io/blog/2016/02/08/retry-budgets).
    """

    hedge: Literal["off", "delay", "adaptive"] = "off"
    hedge_delay_s: float = 1.0
    hedge_share_max: float = 0.05
    attempts_max: int = 6
    hedge_usd_per_day: PicoUsd = PicoUsd(PICO_PER_USD)  # of each account: what its losers may cost in a day
    hedge_delay_min_s: float = 0.05  # the adaptive delay is never shorter
    retry_share_max: float = 0.2
    retries_per_s_min: float = 10.0
    retries_max: int = 1  # of a call that everybody failed for the moment: the best offer once more
    retry_delay_s: float = 0.5  # the pause before it is random, up to this; doubled each time


class Routing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[routing]`: how long a conversation stays with its provider, and whether idle providers are probed."""

    affinity_s: float = 600.0  # after a conversation's last call; 0: no affinity
    affinity_conversations_max: int = 100_000  # conversations remembered at once
    probe_every_s: float = 0.0  # 0: no active probing, health is learnt from calls alone


AutoClass = Literal[
    "tool_call",
    "trivial",
    "simple_qa",
    "coding",
    "math_reasoning",
    "deep_analysis",
    "creative",
    "instruction",
    "complex_chat",
    "general",
]
AUTO_CLASSES: Final[tuple[AutoClass, ...]] = get_args(AutoClass)
"""What the auto router sorts a request into (BazaarLink's ten)."""


class Auto(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[auto]`: the models of each class, by canonical id, in the order they are tried.

    A table that is not empty has `general`, the pool of the classes it does not name. Empty: that router is not served.
    Models of the sim provider are in it only while no real model can be served at all (`gateway.configfile.auto`).
    """

    pools: dict[str, tuple[str, ...]] = {}  # of `auto`
    free_pools: dict[str, tuple[str, ...]] = {}  # of `auto:free`; every model in it has the price "free"


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
    collects_data: bool = True  # keeps prompts or learns from them, or nobody says; `data_collection: "deny"` excludes
    zdr: bool = False  # zero data retention: keeps nothing once it has answered; never with `collects_data`


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


Quantization = Literal[
    "int4", "int8", "fp4", "mxfp4", "nvfp4", "fp6", "fp8", "mxfp8", "fp16", "bf16", "fp32", "unknown"
]
"""OpenRouter's names for the precision of the weights (openrouter.ai/docs/guides/routing/provider-selection)."""


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one provider asks of us for one model, and what it can do. Prices as in `Price`."""

    provider: str
    model: str
    input: PicoUsd
    output: PicoUsd
    cached_input: PicoUsd | None = None  # None: cached prompt tokens cost what prompt tokens cost
    supports: frozenset[str] | None = None  # None: all of chat; else of SUPPORTS in gateway.configfile.offers
    cache_write: PicoUsd | None = None
    reasoning: PicoUsd | None = None
    request: PicoUsd = PicoUsd(0)
    quantization: Quantization | None = None  # None: nobody says, which is "unknown"
    context_window: int | None = None  # in tokens; None: the model's
    completion_tokens_max: int | None = None  # in tokens; None: the model's
    parameters: frozenset[str] | None = None  # request fields it takes; None: all
    tag: str = ""  # a variant or region: the offer's slug is `provider/tag`, which its base slug `provider` names too


class ModelRace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`race = { mode = "hedge", max_extra_cost = "0.01" }` of a model: what a call has that does not say its own."""

    mode: RaceMode  # "all" starts every lane at once
    max_extra_cost: PicoUsd | None = None  # of one call's losers; None: no bound but race.hedge_usd_per_day


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One catalogue entry: our id, and who can serve it."""

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
    balance: Literal["price", "order"] = "price"  # offers by the inverse square of their price, or as they are listed
    race: ModelRace | None = None  # None: as [race] has it

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
    routing: Routing = Routing()
    auto: Auto = Auto()
    upstream: Upstream = Upstream()
    sim: Sim = Sim()
    log: Log = Log()
    limits: Limits = Limits()
    ledger: Ledger = Ledger()
    plans: dict[str, Plan] = {}
    providers: dict[str, Provider] = {}
    models: dict[str, Model] = {}
