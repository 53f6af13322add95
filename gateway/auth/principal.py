"""Who is calling: the frozen answer of authentication, carried by a call to its record. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.core.money import PicoUsd
from gateway.errors import InvalidKey, PermissionDenied

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


def check_usable(principal: Principal, wall: float) -> None:
    """Raise what a key that is known, but may not be used at `wall` (Unix seconds), is answered with.

    InvalidKey 401: disabled or expired. PermissionDenied 403: its account is suspended.
    """
    if principal.disabled:
        raise InvalidKey("The API key is disabled. Enable it again, or use another.")
    if principal.expires_at is not None and wall >= principal.expires_at:
        raise InvalidKey("The API key has expired. Make a new one.")
    if principal.account.suspended:
        raise PermissionDenied("the account of this key is suspended; ask its operator", code="account_suspended")
