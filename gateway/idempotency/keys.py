"""Idempotency keys as the gateway knows them: digests, and the table of those that completed calls have used.

A digest is over the account's id and the key's text, so an account cannot meet another's keys; what a key was used for
is a digest over the route and the body's bytes. Nothing here can be turned back into a key or a prompt. The table is
bounded in number and age; past either the oldest is forgotten, and then its key runs again. Full, 200,000 keys take
about 50 MB.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import Final

import trio

from gateway.errors import BadRequest
from gateway.exchange import Headers

HEADER: Final = b"idempotency-key"
KEY_CHARS_MAX: Final = 255  # as Stripe's, whose header this is
EXPIRED_AT_ONCE: Final = 16  # looks at the oldest entries a call pays for: more than the one it may add
_DIGEST_BYTES: Final = 16
_HASHED_AT_ONCE_BYTES: Final = 1024 * 1024  # 0.8 ms of the loop; a body may have 32 MiB
_PRINTABLE: Final = frozenset(range(0x20, 0x7F))
_NO_REQUEST: Final = bytes(_DIGEST_BYTES)
_PACKED: Final = Struct(f"<d{_DIGEST_BYTES}s")


def find_key(headers: Headers) -> bytes | None:
    """The text of the request's Idempotency-Key, None without one. Raises BadRequest: several, or no usable text."""
    keys = [value for name, value in headers if name == HEADER]
    if not keys:
        return None
    if len(keys) > 1:
        raise BadRequest(f"the header Idempotency-Key came {len(keys)} times; send it once", param="Idempotency-Key")
    check_key(keys[0])
    return keys[0]


def check_key(key: bytes) -> None:
    """Raise BadRequest unless `key` is 1 to 255 printable ASCII characters."""
    if not 1 <= len(key) <= KEY_CHARS_MAX:
        raise BadRequest(
            f"the Idempotency-Key has {len(key)} characters; send 1 to {KEY_CHARS_MAX}", param="Idempotency-Key"
        )
    if not _PRINTABLE.issuperset(key):
        raise BadRequest("the Idempotency-Key holds other than printable ASCII; send a UUID", param="Idempotency-Key")


def digest_of_key(account_id: str, key: bytes) -> bytes:
    """What the gateway remembers of a key."""
    account = account_id.encode()
    return blake2b(b"%d:%b%b" % (len(account), account, key), digest_size=_DIGEST_BYTES).digest()


async def digest_of_request(route: str, body: bytes) -> bytes:
    """What the gateway remembers of the request a key was used for. Checkpoints for bodies of over 1 MiB only."""
    path = route.encode()
    hashed = blake2b(b"%d:%b" % (len(path), path), digest_size=_DIGEST_BYTES)
    hashed.update(body if len(body) <= _HASHED_AT_ONCE_BYTES else body[:_HASHED_AT_ONCE_BYTES])
    for at in range(_HASHED_AT_ONCE_BYTES, len(body), _HASHED_AT_ONCE_BYTES):
        await trio.lowlevel.checkpoint()
        hashed.update(body[at : at + _HASHED_AT_ONCE_BYTES])
    return hashed.digest()


@dataclass(frozen=True, slots=True)
class Used:
    """A key that completed a call. `request` is None when only its digest came from the store."""

    request: bytes | None
    gen_id: str


class UsedKeys:
    """The used keys in the order of use, each packed into one bytes object: 250 B a key instead of 350."""

    def __init__(self, number_max: int, keep_s: float) -> None:
        self._number_max = number_max
        self._keep_s = keep_s
        self._used: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def add(self, digest: bytes, request: bytes | None, gen_id: str, wall: float) -> None:
        """`digest` was used at `wall` (Unix seconds); the oldest makes room."""
        self._used[digest] = _PACKED.pack(wall, request or _NO_REQUEST) + gen_id.encode()
        self._used.move_to_end(digest)
        while len(self._used) > self._number_max:
            self._used.popitem(last=False)

    def find(self, digest: bytes, wall: float) -> Used | None:
        """The use of `digest`, unless it is forgotten by now."""
        packed = self._used.get(digest)
        if packed is None:
            return None
        at, request = _PACKED.unpack_from(packed)
        if wall >= at + self._keep_s:
            return None
        return Used(None if request == _NO_REQUEST else request, packed[_PACKED.size :].decode())

    def expire(self, wall: float) -> None:
        """Forget what is too old, looking at a bounded number of the oldest."""
        for _ in range(min(EXPIRED_AT_ONCE, len(self._used))):
            digest = next(iter(self._used))
            if self.find(digest, wall) is not None:
                return
            del self._used[digest]
