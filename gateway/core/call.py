"""The values a call is made of, shared by the stages. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from gateway.config import Model, Offer, OnDisconnect, Quirks
from gateway.core.usage import Usage


class Origin(NamedTuple):
    """Where to connect. `ca_file` is a PEM of extra trust for this origin only."""

    host: str
    port: int
    tls: bool
    ca_file: str | None = None


Endpoint = tuple[str, str]
"""A provider's name, and its name for the model."""
Target = tuple[str, str, int]
"""An endpoint, and the index of the provider's key: what a breaker stands for, and where a prompt cache lives."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to serve a call: an offer of a provider for a model, under one of the provider's keys.

    `head` is the request head up to and including `content-length: `. `slug` is how a request names the offer.
    """

    provider: str
    key_index: int
    origin: Origin
    head: bytes = field(repr=False)  # it holds the key
    offer: Offer
    quirks: Quirks
    on_disconnect: OnDisconnect
    model: Model
    api_key: str = field(repr=False)
    collects_data: bool = True
    zdr: bool = False
    endpoint: Endpoint = field(init=False)
    target: Target = field(init=False)
    slug: str = field(init=False)

    def __post_init__(self) -> None:
        derive, offer = object.__setattr__, self.offer
        derive(self, "endpoint", (self.provider, offer.model))
        derive(self, "target", (self.provider, offer.model, self.key_index))
        derive(self, "slug", (f"{self.provider}/{offer.tag}" if offer.tag else self.provider).lower())


class AttemptNote(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What became of one attempt: for the record, the metrics and the message when all fail.

    `outcome` is `won`, `cancelled` or why it failed. `at_ms` is when it started, from the call's beginning.
    """

    provider: str
    outcome: str
    status: int  # 0: no answer
    ms: float
    cost_pico_usd: int = 0  # estimated, of one that was cancelled because another won
    model: str = ""  # ours; the winner's is in the record, and so is
    upstream_model: str = ""
    reason: str = ""  # why it stood where it did in the plan
    at_ms: float = 0.0


@dataclass(slots=True)
class Call:
    """What is known of one call so far. Mutable, owned by its own task. Times: `started` is monotonic seconds."""

    request_id: str
    gen_id: str
    lane: str
    started: float
    started_at: float
    account_id: str = ""
    key_id: str = ""
    key_name: str = ""
    model: str = ""
    stream: bool = False
    attempts: list[AttemptNote] = field(default_factory=list)
    winner: Attempt | None = None
    status: int = 0
    code: str = ""
    ended: str = ""
    usage: Usage | None = None
    finish_reason: str | None = None
    deltas: int = 0
    chunk_id: str = ""
    chunk_created: int = 0
    first_content_at: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    max_tokens: int | None = None
    prompt_estimate: int = 0
    prompt_tokens_max: int | None = None  # a report of more is not believed
    completion_tokens_max: int | None = None
    idempotency: str | None = None
    auto: str | None = None  # what the auto router made of the request: classes and scores, best first
    undelivered: bool = False  # the answer was refused to the client for a reason of ours: he owes nothing
