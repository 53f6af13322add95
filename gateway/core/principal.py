"""Who is calling: the frozen answer of authentication, carried by a call through its stages to its record. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.core.money import PicoUsd

LimitReset = Literal["daily", "weekly", "monthly"]


@dataclass(frozen=True, slots=True)
class Account:
    """Whose credit a key spends. `plan` names one of the configuration's; its limits hold for all keys together."""

    id: str
    name: str = ""
    plan: str | None = None
    prepaid: bool = False
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class Principal:
    """One API key and its account. Holds no secret and no digest. None of a limit: the key itself has none.

    `spend_limit` is pico-USD a period of `limit_reset` (None: of the key's life). `models` are ids; None: all.
    """

    key_id: str
    account: Account
    name: str
    management: bool = False
    plan: str | None = None
    rpm: int | None = None
    rpd: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    spend_limit: PicoUsd | None = None
    limit_reset: LimitReset | None = None
    models: frozenset[str] | None = None
    disabled: bool = False
    expires_at: float | None = None  # Unix seconds

    @property
    def account_id(self) -> str:
        """The account's id."""
        return self.account.id
