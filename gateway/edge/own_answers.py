"""The answers Hypercorn gives by itself (400, 404, 405, 431, 500), made to look like every other answer of ours.

Hypercorn's own are empty. Ours carry a JSON body in the caller's error shape, its type and length, and one fresh
request id under both names our answers use. The JSON comes from a callable, so that this package needs to know no
dialect. Pure; nothing here checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.ids import request_id

RenderError = Callable[[int, str], bytes]
"""`(status, request_id) -> JSON body`. It must not raise: it runs where the connection can answer nothing else."""

# RFC 9110 section 15.5.6 wants `allow` beside a 405; only CONNECT is refused here.
ALLOWED = b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"

_MESSAGES = {
    400: "the request is malformed; send a valid HTTP request",
    404: "this server does not serve the host that the request names",
    405: "the method CONNECT is not served; send GET or POST",
    431: "the request head is too large; send fewer or shorter headers",
    500: "the gateway failed before it could answer; retry, and report the request id",
}


def plain_error(status: int, error_request_id: str) -> bytes:
    """The JSON body used until `install` is given a better one: an OpenAI-shaped error."""
    message = _MESSAGES.get(status, "the request could not be served")
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return (
        f'{{"error":{{"message":"{message}","type":"{kind}","param":null,"code":{status},'
        f'"request_id":"{error_request_id}"}}}}'
    ).encode()


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """One answer of the server itself: the header fields and the body."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(frozen=True, slots=True)
class OwnAnswers:
    """Makes the server's own answers with `render`."""

    render: RenderError = plain_error

    def answer(self, status: int) -> OwnAnswer:
        """The answer of `status`, under a request id minted now."""
        minted = request_id()
        body = self.render(status, minted)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", minted.encode()),
            (b"request-id", minted.encode()),
        ]
        if status == 405:
            headers.append((b"allow", ALLOWED))
        return OwnAnswer(status, headers, body)
