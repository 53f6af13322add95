"""From headers to a Principal: which credentials count, which are refused, and what the index finds."""

from __future__ import annotations

import hashlib
import hmac
from types import MappingProxyType

import pytest

from gateway.auth.keys import SECRET_BYTES_MAX, KeyIndex, bearer, digest, refusal
from gateway.core.principal import Account, Principal

Headers = list[tuple[bytes, bytes]]

PEPPER = bytes(range(32))
ALICE = Principal("key_1", Account("operator"), "alice")

OFFERS: list[tuple[str, Headers, bytes | None]] = [
    ("bearer", [(b"authorization", b"Bearer sk-1")], b"sk-1"),
    ("scheme in lower case", [(b"authorization", b"bearer sk-1")], b"sk-1"),
    ("scheme in upper case", [(b"authorization", b"BEARER sk-1")], b"sk-1"),
    ("several spaces", [(b"authorization", b"  Bearer   sk-1  ")], b"sk-1"),
    ("x-api-key", [(b"x-api-key", b"sk-1")], b"sk-1"),
    ("api-key", [(b"api-key", b" sk-1 ")], b"sk-1"),
    ("among others", [(b"host", b"x"), (b"x-api-key", b"sk-1"), (b"accept", b"*/*")], b"sk-1"),
    ("the same twice", [(b"authorization", b"Bearer sk-1"), (b"x-api-key", b"sk-1")], b"sk-1"),
    ("basic beside ours", [(b"authorization", b"Basic dTpw"), (b"x-api-key", b"sk-1")], b"sk-1"),
    ("empty beside ours", [(b"authorization", b"Bearer "), (b"api-key", b"sk-1")], b"sk-1"),
    ("none", [(b"host", b"x")], None),
    ("no headers", [], None),
    ("empty bearer", [(b"authorization", b"Bearer")], None),
    ("empty value", [(b"x-api-key", b"")], None),
    ("another scheme", [(b"authorization", b"Basic sk-1")], None),
    ("no scheme", [(b"authorization", b"sk-1")], None),
    ("two authorizations", [(b"authorization", b"Bearer sk-1"), (b"authorization", b"Bearer sk-2")], None),
    ("two carriers", [(b"x-api-key", b"sk-1"), (b"api-key", b"sk-2")], None),
    ("two, first again", [(b"x-api-key", b"a"), (b"api-key", b"b"), (b"authorization", b"Bearer a")], None),
]


@pytest.mark.parametrize(("headers", "secret"), [case[1:] for case in OFFERS], ids=[case[0] for case in OFFERS])
def test_exactly_one_secret_is_taken(headers: Headers, secret: bytes | None) -> None:
    assert bearer(headers) == secret


def test_a_refusal_names_its_reason_and_no_secret() -> None:
    two = [(b"x-api-key", b"sk-gw-one"), (b"api-key", b"sk-gw-two")]
    assert "No API key" in refusal([(b"host", b"x")])
    assert "different API keys" in refusal(two)
    assert "unknown or revoked" in refusal(two[:1])
    assert "sk-gw-" not in refusal(two) + refusal(two[:1])


def test_the_digest_is_hmac_sha_256() -> None:
    assert digest(PEPPER, b"sk-1") == hmac.new(PEPPER, b"sk-1", hashlib.sha256).digest()


def test_the_index_finds_whole_secrets_only() -> None:
    index = KeyIndex(PEPPER, MappingProxyType({digest(PEPPER, b"sk-1"): ALICE}), 7)
    assert index.find(b"sk-1") is ALICE
    assert [index.find(other) for other in (b"", b"sk-", b"sk-11", b"SK-1", b"sk-1\0", b"\xff" * 64)] == [None] * 6
    assert KeyIndex(bytes(32), index.principals, 7).find(b"sk-1") is None


def test_a_key_is_remembered_without_its_secret_and_not_beyond_its_index() -> None:
    index = KeyIndex(PEPPER, {digest(PEPPER, b"sk-1"): ALICE}, 7)
    assert [index.find(b"sk-1") is ALICE for _ in range(3)] == [True] * 3
    assert index.find(b"sk-2") is None
    assert len(index._remembered) == 1
    assert not any(b"sk-1" in name for name in index._remembered)
    assert KeyIndex(PEPPER, {}, 8).find(b"sk-1") is None


def test_an_absurdly_long_secret_is_not_hashed() -> None:
    long = b"x" * (SECRET_BYTES_MAX + 1)
    assert KeyIndex(PEPPER, {digest(PEPPER, long): ALICE}).find(long) is None


def test_neither_pepper_nor_digests_are_in_the_repr() -> None:
    assert repr(KeyIndex(PEPPER, {digest(PEPPER, b"sk-1"): ALICE}, 7)) == "KeyIndex(version=7)"
