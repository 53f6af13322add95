"""Turns errors into answers: the one place where an error gets a status line, headers and a body."""

from __future__ import annotations

from math import ceil

from gateway.dialects.openai_chat import error_body
from gateway.errors import (
    AllFailed,
    BadRequest,
    GatewayError,
    HeadTooLarge,
    Internal,
    MethodNotAllowed,
    NotFound,
    RateLimited,
)
from gateway.exchange import Headers

JSON = (b"content-type", b"application/json")


def id_headers(request_id: str) -> Headers:
    """Both names under which SDKs look for the request id."""
    value = request_id.encode()
    return [(b"x-request-id", value), (b"request-id", value)]


def error_reply(error: GatewayError, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body of an error, in the default envelope."""
    headers = [JSON, *id_headers(request_id)]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after_s))))
    if isinstance(error, RateLimited) and error.retry_after_s is not None:
        headers.append((b"retry-after-ms", b"%d" % ceil(error.retry_after_s * 1000)))  # exact; OpenAI's SDKs read it
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, AllFailed) and error.status == 502:
        headers.append(
            (b"x-should-retry", b"false")
        )  # every provider was tried: the SDK's own retry would only repeat it
    return error.status, headers, error_body(error, request_id)


def render_own(status: int, request_id: str) -> bytes:
    """The body of an answer that Hypercorn makes by itself."""
    error: GatewayError
    match status:
        case 404:
            error = NotFound("this host or path is not served")
        case 405:
            error = MethodNotAllowed("this method is not served here", allow="GET, POST")
        case 431:
            error = HeadTooLarge("the request head is too large; send fewer or shorter headers")
        case code if code < 500:
            error = BadRequest("the request is malformed; send a valid HTTP request")
        case _:
            error = Internal("the gateway failed; report the request id")
    return error_body(error, request_id)
