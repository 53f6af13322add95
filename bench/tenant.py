"""Whose calls are measured: a tenant with prepaid credit, on a plan, with a key that has limits and a spend cap.

Every limit is set and none is ever reached, every model has a price: each call is admitted, held, settled, journaled
and entered in the ledger. The operator's key beside it pays afterwards and has no limits: what admission itself costs
is the difference. Both are made with the commands a user would type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import frames
from bench.processes import run_checked
from gateway.core.money import parse_price_per_million

ACCOUNT = "bench-tenant"
INPUT, OUTPUT = "2.50", "10.00"  # USD per 1M tokens
CREDIT_USD = "100000"
KEY_LIMIT_USD = "50000"
PLAN_LIMITS = {"rpm": 10**9, "rpd": 10**11, "tpm": 10**12, "concurrency": 10**6}
KEY_LIMITS = {"rpm": 10**8, "rpd": 10**10, "tpm": 10**11, "concurrency": 10**5}


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets of both keys."""

    tenant: str
    operator: str


def tables(providers: Mapping[str, tuple[str, Path | None]]) -> str:
    """The bench's plan, providers and models, to be put after the shipped configuration.

    `providers` are name to base URL and the certificate to trust, if any; each has every model.
    """
    lines = ["\n[plans.bench]", *(f"{name} = {value}" for name, value in PLAN_LIMITS.items())]
    for provider, (base_url, ca_file) in providers.items():
        lines += [f"\n[providers.{provider}]", 'kind = "openai"', f'base_url = "{base_url}"']
        lines += ['api_key = "sk-bench-upstream"', *([] if ca_file is None else [f'ca_file = "{ca_file}"'])]
    for provider in providers:
        for kind in frames.COMPLETION_TOKENS:
            offer = f'{{ provider = "{provider}", model = "{kind}", input = "{INPUT}", output = "{OUTPUT}" }}'
            lines += ["\n[[models]]", f'id = "{provider}/{kind}"', "context_window = 128000", f"offers = [ {offer} ]"]
    return "\n".join(lines) + "\n"


def create(command: Sequence[str], where: Sequence[str]) -> Keys:
    """Make the account, its credit and both keys. `command` is the gateway's, `where` its folder. Raises StartError."""

    def run(*words: str) -> str:
        return run_checked([*command, *words, *where, "--json"])

    run("accounts", "create", "--name", ACCOUNT, "--plan", "bench", "--prepaid")
    run("credits", "grant", "--account", ACCOUNT, "--usd", CREDIT_USD, "--reference", "bench")
    limits = [word for name, value in KEY_LIMITS.items() for word in (f"--{name}", str(value))]
    cap = ("--limit", KEY_LIMIT_USD, "--limit-reset", "monthly")
    tenant = json.loads(run("keys", "create", "--name", "bench", "--account", ACCOUNT, *limits, *cap))
    operator = json.loads(run("keys", "create", "--name", "bench-operator"))
    return Keys(tenant["key"], operator["key"])


def price_pico_usd(kind: str) -> int:
    """What one whole answer of a kind costs the tenant."""
    prompt, completion = parse_price_per_million(INPUT), parse_price_per_million(OUTPUT)
    return frames.PROMPT_TOKENS * prompt + frames.COMPLETION_TOKENS[kind] * completion
