"""From request headers to a Principal, in memory only (pure: no I/O, no clock, no randomness).

A key is known to us only as HMAC-SHA-256(pepper, secret). The index is one frozen map from that digest
to its Principal; the store builds a new one when keys change and the owner swaps the whole of it, so a
lookup never waits and never sees half a change.

Looking a digest up in a dict is not constant time, and need not be: without the pepper a caller cannot
choose the digest that its guess turns into, so timing says nothing about a stored key.

HMAC-SHA-256 costs a call 5 us in a busy process, so keys that were found are remembered for as long as their index
lives, under a shorter hash of their own (BLAKE2b, RFC 7693, keyed with the pepper): no secret is kept.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.core.principal import Principal

# Ours are 49 bytes. Longer than this is not a key and is not worth hashing.
SECRET_BYTES_MAX = 512

_REMEMBERED_MAX = 4096  # keys in use at a time, far above what one box serves; more are found the long way

_CARRIERS = frozenset((b"authorization", b"x-api-key", b"api-key"))


def digest(pepper: bytes, secret: bytes) -> bytes:
    """Return the 32 bytes under which a secret is stored and found."""
    return hmac.digest(pepper, secret, "sha256")


@dataclass(frozen=True, slots=True)
class KeyIndex:
    """Every live key, by digest. `version` is the store's `keys_version` that it was read at."""

    pepper: bytes = field(repr=False)
    principals: Mapping[bytes, Principal] = field(repr=False)
    version: int = 0
    _hash: hashlib.blake2b = field(init=False, repr=False, compare=False)
    _remembered: dict[bytes, Principal] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hashlib.blake2b(digest_size=32, key=self.pepper))

    def find(self, secret: bytes) -> Principal | None:
        """Return who holds this secret, or None when it is unknown or revoked. About 0.5 us for a known one."""
        if len(secret) > SECRET_BYTES_MAX:
            return None
        short = self._hash.copy()
        short.update(secret)
        name = short.digest()
        principal = self._remembered.get(name)
        if principal is None:
            principal = self.principals.get(hmac.digest(self.pepper, secret, "sha256"))
            if principal is not None and len(self._remembered) < _REMEMBERED_MAX:
                self._remembered[name] = principal
        return principal


def bearer(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """Return the secret a request offers, from lower-case header names; None without exactly one.

    `Authorization: Bearer X` (any case of the scheme), `x-api-key: X` and `api-key: X` are equal on every
    route, for SDKs differ by version and not by dialect. The same secret offered twice is one secret.
    Two different ones are refused, never chosen between: whichever we took, a proxy in front that looked
    at the other would have approved a different caller. An Authorization of another scheme is not ours.
    """
    found: bytes | None = None
    for secret in _offered(headers):
        if found is not None and secret != found:
            return None
        found = secret
    return found


def refusal(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """Say, for the body of a 401, why no caller was found. Never quotes a secret."""
    offers = len(set(_offered(headers)))
    if offers == 0:
        return "No API key in the request. Send it as `Authorization: Bearer YOUR_KEY` (or `x-api-key: YOUR_KEY`)."
    if offers > 1:
        return "The request carries different API keys in its headers. Send one, in one header."
    return "The API key is unknown or revoked. Check it, or make one with `gateway keys create --name NAME`."


def _offered(headers: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    for name, value in headers:
        if name not in _CARRIERS:
            continue
        secret = _after_scheme(value) if name == b"authorization" else value.strip()
        if secret:
            yield secret


def _after_scheme(value: bytes) -> bytes:
    scheme, _, secret = value.strip().partition(b" ")
    return secret.strip() if scheme.lower() == b"bearer" else b""
