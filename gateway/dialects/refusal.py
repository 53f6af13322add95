"""What a provider's 400, 409, 413 or 422 lets us tell the caller. Pure.

Such an answer speaks of the caller's own request ("`max_tokens` is too large"), so its `message`, `code` and `param`
are the caller's to read. Nothing else of the body goes on; our key for the provider is struck out; it is never logged.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from gateway.errors import Refused

MESSAGE_CHARS_MAX: Final = 1000
_TOKEN = re.compile(r"[A-Za-z0-9_.\[\]-]{1,80}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_SECRET = re.compile(r"\b(?:(?:sk|gsk|xai|pplx|al|nvapi|hf)[-_]|AIza)[-_A-Za-z0-9*]{11,}")


def read_refusal(status: int, body: bytes, *, provider: str, secret: str) -> Refused:
    """Read an OpenAI-shaped error body (also FastAPI's `detail`, and a bare `error` string)."""
    message, code, param = "", None, None
    try:
        report = orjson.loads(body)
    except orjson.JSONDecodeError:
        report = None
    if isinstance(report, dict):
        error = report.get("error", report)
        if isinstance(error, dict):
            message = _text(error.get("message") or error.get("detail"))
            code, param = _token(error.get("code"), secret), _token(error.get("param"), secret)
        else:
            message = _text(error)
    message = masked(message, secret)[:MESSAGE_CHARS_MAX]
    said = f": {message}" if message else f" ({status}); check the request against that provider's limits"
    return Refused(f"provider {provider} refused the request{said}", status=status, code=code, param=param)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return _CONTROL.sub(" ", text)


def masked(text: str, secret: str) -> str:
    """`text` without `secret` and without what is shaped like a key."""
    return _SECRET.sub("***", text.replace(secret, "***") if secret else text)


def _token(value: object, secret: str) -> str | None:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value) or masked(value, secret) != value:
        return None
    return value
