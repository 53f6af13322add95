"""`/keys`: a management key makes, lists, changes and revokes the keys of its own account.

Nobody raises his own rights here: the account is always the caller's, the plan is the operator's to give, a key's kind
is settled when it is made, and a management key that expires neither makes nor prolongs another beyond its own end.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace

import orjson
import trio
from msgspec import UNSET
from quart import Response

from gateway.admit.credit import Spent
from gateway.api.books import ApiControl
from gateway.api.session import OWN_HEADERS, Query, Session, answer, body, encoded
from gateway.api.shapes import CHANGE, NEW_KEY, decode, iso, iso_or_none
from gateway.api.spending import spending
from gateway.api.terms import changed
from gateway.auth.principal import check_usable
from gateway.errors import BadRequest, InvalidKey, NotFound
from gateway.idempotency import Replay, find_key
from gateway.store import account_reads, accounts, keys
from gateway.store.keys import KeyRow, KeyTerms

_PAGE_KEYS = 100  # OpenRouter's page
_PAGE_KEYS_MAX = 1000
_CREATE = "POST /keys"  # one route to idempotency keys, under either prefix

Seen = tuple[KeyRow, float | None]  # a key and when it was last used


class KeyViews:
    """The views."""

    def __init__(self, control: ApiControl) -> None:
        self._control = control

    async def page(self, session: Session) -> Response:
        """GET /keys."""
        query = Query("include_disabled", "include_expired", "offset", "limit", "workspace_id")
        disabled, expired = query.flag("include_disabled"), query.flag("include_expired")
        offset = query.number("offset", default=0, least=0, most=keys.KEYS_PER_ACCOUNT_MAX)
        limit = query.number("limit", default=_PAGE_KEYS, least=1, most=_PAGE_KEYS_MAX)

        def work(conn: sqlite3.Connection) -> list[Seen]:
            rows = account_reads.page(
                conn, session.account_id, disabled=disabled, expired=expired, now=session.now, offset=offset,
                limit=limit,
            )  # fmt: skip
            used = account_reads.last_used(conn, session.account_id, rows)
            return [(row, used.get(row.id)) for row in rows]

        found = await self._control.books.read(work)
        return answer({"data": [self._shown(seen) for seen in found]})

    async def create(self, session: Session) -> Response:
        """POST /keys: the one answer that holds a secret. With an Idempotency-Key, one key however often it is sent."""
        data = await body()
        idempotency_key = find_key(session.headers)
        if idempotency_key is None:
            return encoded(await self._make(session, data), 201)
        entered = await self._control.idempotency.enter(
            session.account_id, idempotency_key, _CREATE, data, trio.current_time(), session.now
        )
        if isinstance(entered, Replay):
            return encoded(entered.body, entered.status, entered.headers)
        with entered as slot:
            # Bounded by `change` itself. A client that leaves now must not leave behind a key which its retry repeats.
            with trio.CancelScope(shield=True):
                made = await self._make(session, data)
            slot.remember(201, OWN_HEADERS, made)
            slot.complete("", trio.current_time(), session.now)
        return encoded(made, 201)

    async def show(self, session: Session, key_id: str) -> Response:
        """GET /keys/{id}."""

        def work(conn: sqlite3.Connection) -> Seen:
            with _refusals(key_id):
                row = keys.get(conn, key_id, account_id=session.account_id)
            if row.revoked_at is not None:
                raise _unknown(key_id)
            return _seen(conn, row)

        return answer({"data": self._shown(await self._control.books.read(work))})

    async def change(self, session: Session, key_id: str) -> Response:
        """PATCH /keys/{id}: all of the change or nothing."""
        asked = decode(CHANGE, await body())
        catalog = self._control.catalog

        def new(name: str, terms: KeyTerms) -> tuple[str, KeyTerms]:
            return (name if asked.name is UNSET else asked.name), changed(asked, terms, session, catalog)

        def work(conn: sqlite3.Connection, _: bytes) -> Seen:
            _check_still_manager(conn, session)
            with _refusals(key_id):
                return _seen(conn, keys.update(conn, key_id, new, account_id=session.account_id))

        return answer({"data": self._shown(await self._control.books.change(work))})

    async def revoke(self, session: Session, key_id: str) -> Response:
        """DELETE /keys/{id}."""

        def work(conn: sqlite3.Connection, _: bytes) -> bool:
            _check_still_manager(conn, session)
            with _refusals(key_id):
                return keys.revoke(conn, key_id, account_id=session.account_id)

        if not await self._control.books.change(work):
            raise _unknown(key_id)
        return answer({"deleted": True})

    async def _make(self, session: Session, data: bytes) -> bytes:
        """Make a key; the body of the answer."""
        asked = decode(NEW_KEY, data)
        terms = changed(asked, KeyTerms(kind=asked.key_type), session, self._control.catalog)

        def work(conn: sqlite3.Connection, pepper: bytes) -> tuple[str, KeyRow]:
            _check_still_manager(conn, session)
            with _refusals():
                key = keys.create(conn, pepper, asked.name, account_id=session.account_id, terms=terms)
            return key.secret, keys.get(conn, key.id)

        secret, row = await self._control.books.change(work)
        return orjson.dumps({"data": self._shown((row, None)), "key": secret})

    def _shown(self, seen: Seen) -> dict[str, object]:
        row, last_used_at = seen
        return key_object(row, self._control.books.spent(row.id), last_used_at)


def key_object(row: KeyRow, spent: Spent, last_used_at: float | None) -> dict[str, object]:
    """A key as the API shows it: OpenRouter's fields, then BazaarLink's spellings and what is our own.

    `hash` is the key's id: the digest of the secret is never shown. `workspace_id` is the account.
    """
    terms = row.terms
    return {
        "hash": row.id,
        "name": row.name,
        "label": row.prefix_hint,
        "disabled": terms.disabled,
        **spending(terms.spend_limit, terms.limit_reset, spent),
        "created_at": iso(row.created_at),
        "updated_at": iso_or_none(row.updated_at),
        "expires_at": iso_or_none(terms.expires_at),
        "last_used_at": iso_or_none(last_used_at),
        "creator_user_id": None,
        "external_user": None,
        "workspace_id": row.account_id,
        "id": row.id,
        "keyType": terms.kind,
        "enabled": not terms.disabled,
        "allowed_models": terms.models,
        "rpm": terms.rpm,
        "rpd": terms.rpd,
        "tpm": terms.tpm,
        "concurrency": terms.concurrency,
    }


def _seen(conn: sqlite3.Connection, row: KeyRow) -> Seen:
    return row, account_reads.last_used(conn, row.account_id, [row]).get(row.id)


def _check_still_manager(conn: sqlite3.Connection, session: Session) -> None:
    """Ask the database itself before a change: the index may be a quarter of a second behind a revocation.

    Without this, whoever holds a leaked key could make himself another one while it is being revoked.
    """
    principal = session.principal
    try:
        row = keys.get(conn, principal.key_id)
        suspended = accounts.find(conn, row.account_id).suspended_at is not None
    except KeyError:
        raise InvalidKey("The API key is unknown or revoked. Use another.") from None
    if row.revoked_at is not None:
        raise InvalidKey("The API key is unknown or revoked. Use another.")
    account = replace(principal.account, suspended=suspended)
    terms = row.terms
    check_usable(replace(principal, account=account, disabled=terms.disabled, expires_at=terms.expires_at), session.now)


@contextlib.contextmanager
def _refusals(key_id: str = "") -> Iterator[None]:
    """Turn what the store says of a key into what a caller is told."""
    try:
        yield
    except KeyError:
        raise _unknown(key_id) from None
    except ValueError as exc:
        raise BadRequest(str(exc)) from None


def _unknown(key_id: str) -> NotFound:
    return NotFound(f"there is no key {key_id[:80]!r}; GET /v1/keys lists the ids")
