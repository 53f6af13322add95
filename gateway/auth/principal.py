"""From a request's headers to the Principal who may call with them now. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.auth.keys import KeyIndex, bearer, refusal
from gateway.core.principal import Principal
from gateway.errors import InvalidKey, PermissionDenied


def identify(keys: KeyIndex, headers: Sequence[tuple[bytes, bytes]], wall: float) -> Principal:
    """Who calls at `wall` (Unix seconds), by lower-case header names. Raises as `check_usable`, and InvalidKey."""
    secret = bearer(headers)
    principal = keys.find(secret) if secret is not None else None
    if principal is None:
        raise InvalidKey(refusal(headers))
    check_usable(principal, wall)
    return principal


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
