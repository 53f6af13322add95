"""Whether a key that is known may be used now. Pure."""

from __future__ import annotations

from gateway.core.principal import Account, LimitReset, Principal
from gateway.errors import InvalidKey, PermissionDenied

__all__ = ["Account", "LimitReset", "Principal", "check_usable"]


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
