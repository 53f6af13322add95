"""Who calls, what the request says, and how an answer is sent: what all views of the account API share.

The caller is known before the query or the body is looked at: whoever has no key learns nothing of the routes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import orjson
from quart import Response, request

from gateway.api.books import ApiControl
from gateway.auth.principal import identify
from gateway.core.principal import Principal
from gateway.errors import BadRequest, PermissionDenied
from gateway.exchange import Headers

OWN_HEADERS: Headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]


@dataclass(frozen=True, slots=True)
class Session:
    """One request's caller. `headers` have lower-case names; `now` is Unix seconds."""

    principal: Principal
    headers: Headers
    now: float

    @property
    def account_id(self) -> str:
        """The account that everything is scoped to."""
        return self.principal.account_id


Word = TypeVar("Word", bound=str)
View = Callable[..., Awaitable[Response]]  # always async: Quart runs others in threads, away from the loop's state


class Gate:
    """Puts the check of the caller in front of views, which get a Session as their first argument."""

    def __init__(self, control: ApiControl) -> None:
        self._control = control

    def anyone(self, view: View) -> View:
        """For every usable key."""

        async def checked(**values: str) -> Response:
            return await view(session_of(self._control), **values)

        return checked

    def manager(self, view: View) -> View:
        """For management keys."""

        async def checked(**values: str) -> Response:
            session = session_of(self._control)
            if not session.principal.management:
                raise PermissionDenied(
                    "this route is for management keys, and yours is a standard one; "
                    "make one with `gateway keys create --management --name NAME`"
                )
            if request.method != "GET":
                self._control.books.admit_change(session.account_id)
            return await view(session, **values)

        return checked


def session_of(control: ApiControl) -> Session:
    """Who sends the present request. Raises InvalidKey, PermissionDenied."""
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers.items()]
    now = time.time()
    return Session(identify(control.keys, headers, now), headers, now)


class Query:
    """The query string: each parameter known and given once."""

    def __init__(self, *known: str) -> None:
        for name, values in request.args.lists():
            if name not in known:
                raise BadRequest(
                    f"query parameter {name[:80]!r} is not known here; send any of {', '.join(known)}", param=name[:80]
                )
            if len(values) > 1:
                raise BadRequest(f"query parameter {name!r} is given {len(values)} times; send it once", param=name)
        self._values = dict(request.args)

    def text(self, name: str) -> str | None:
        """As sent; None when absent or empty."""
        return self._values.get(name) or None

    def choice(self, name: str, among: tuple[Word, ...], default: Word) -> Word:
        """One of `among`. Raises BadRequest."""
        value = self._values.get(name, default)
        for word in among:
            if word == value:
                return word
        raise BadRequest(f"{name} is {value[:80]!r}; it must be one of {', '.join(among)}", param=name)

    def flag(self, name: str) -> bool:
        """A boolean, false when absent. Raises BadRequest."""
        return self.choice(name, ("true", "false", "1", "0"), "false") in {"true", "1"}

    def number(self, name: str, *, default: int, least: int, most: int) -> int:
        """A whole number in bounds. Raises BadRequest."""
        value = self._values.get(name) or str(default)
        if not (value.isascii() and value.isdigit() and len(value) <= 10 and least <= int(value) <= most):
            raise BadRequest(f"{name} is {value[:80]!r}; it must be a whole number from {least} to {most}", param=name)
        return int(value)


async def body() -> bytes:
    """The request's body, bounded by the app's limits of size and time."""
    return await request.get_data(cache=False, as_text=False, parse_form_data=False)


def answer(value: object, status: int = 200) -> Response:
    """An answer in JSON that no cache keeps: it is one account's, and may hold a secret."""
    return encoded(orjson.dumps(value), status)


def encoded(data: bytes, status: int, headers: Headers = OWN_HEADERS) -> Response:
    """The same of JSON that is rendered already."""
    response = Response(data, status)
    for name, value in headers:
        response.headers[name.decode()] = value.decode()
    return response
