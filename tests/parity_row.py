"""One row of the parity tables: a request, what must be answered, and how it is made short to write.

A row's answer is compared over all lanes, whole; what a row itself expects is the contract, so that five lanes which
agree on something wrong are not taken for right.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from tests.wire import Ask

CHAT = "/v1/chat/completions"
ECHO = "sim/echo"
KEY = b"{key}"  # in header values: replaced by a key that is good
REVOKED = b"{revoked}"  # by one that was
AUTH = (b"authorization", b"Bearer " + KEY)
JSON_TYPE = (b"content-type", b"application/json")
MESSAGES = [{"role": "user", "content": "Hi there"}]


@dataclass(frozen=True, slots=True)
class Row:
    """`code` is the body's `error.code`; `header` names and values (None: absent); `done` whether [DONE] ends a stream.

    `route` makes a model of its own for the row, one provider for each upstream model named, so that no breaker is
    shared. `same_body` is false where the body differs from one moment to the next.
    """

    name: str
    ask: Ask
    status: int = 200
    code: str | None = None
    contains: tuple[bytes, ...] = ()
    lacks: tuple[bytes, ...] = ()
    header: tuple[tuple[str, str | None], ...] = ()
    done: bool | None = None
    route: tuple[str, ...] = ()
    same_body: bool = True

    @property
    def inference(self) -> bool:
        """Whether it goes to an inference route."""
        return self.ask.path.partition("?")[0] in {CHAT, "/api" + CHAT}


def dumps(value: object) -> bytes:
    """JSON as clients send it."""
    return json.dumps(value, ensure_ascii=False).encode()


def raw(name: str, body: bytes | None, status: int, code: str | None = None, **expected: Any) -> Row:
    """A row of POST chat completions with any body."""
    row = Row(name, Ask("POST", CHAT, (AUTH, JSON_TYPE), body), status, code)
    return replace(row, **expected)


def bad(name: str, body: object) -> Row:
    """A row whose body is refused with 400."""
    return raw(name, body if isinstance(body, bytes) else dumps(body), 400, "invalid_request")


def chat(name: str, fields: dict[str, object] | None = None, status: int = 200, **expected: Any) -> Row:
    """A row of a chat call to the echoing model; `fields` come on top, and replace."""
    body = dumps({"model": ECHO, "messages": MESSAGES} | (fields or {}))
    return replace(raw(name, body, status), **expected)


def bad_field(name: str, fields: dict[str, object]) -> Row:
    """A row refused with 400 because of one field."""
    return chat(name, fields, 400, code="invalid_request")


def with_headers(row: Row, name: str, *headers: tuple[bytes, bytes], **expected: Any) -> Row:
    """The same request with other headers, its key among them only when given."""
    return replace(row, name=name, ask=replace(row.ask, headers=headers), **expected)


def at(row: Row, name: str, *, method: str | None = None, path: str | None = None, **expected: Any) -> Row:
    """The same request with another method or path."""
    ask = replace(row.ask, method=method or row.ask.method, path=path or row.ask.path)
    return replace(row, name=name, ask=ask, **expected)
