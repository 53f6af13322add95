"""What a request head over HTTP/2 must look like before any of it is decoded. Pure.

h2 has checked names, order and presence (RFC 9113 section 8.3); what it lets through and the server would stumble
over are bytes outside ASCII, methods that are no token, targets that are no path, and CONNECT.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# RFC 9110 section 5.6.2 (token); RFC 9112 section 3.2.1 and 3.2.4 (origin-form, asterisk-form).
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}")
_PATH = re.compile(rb"/[\x21-\x7e]*|\*")
# RFC 9113 section 8.3.1: the authority holds no userinfo.
_AUTHORITY = re.compile(rb"[\x21-\x3f\x41-\x7e]*")


@dataclass(frozen=True, slots=True)
class Head:
    """The two pseudo-header fields a stream is made of, both ASCII."""

    method: str
    raw_path: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a head opens no stream: the status to answer, or None to reset the stream."""

    status: int | None


def read_head(headers: list[tuple[bytes, bytes]]) -> Head | Refusal:
    """The method and path of `headers`, or what to do instead of serving them."""
    fields = {name: value for name, value in headers if name.startswith(b":") or name == b"host"}
    method = fields.get(b":method", b"")
    if b":protocol" in fields:
        # RFC 8441 section 4 needs a setting that we never send.
        return Refusal(None)
    if method.upper() == b"CONNECT":
        return Refusal(405)
    path = fields.get(b":path", b"")
    authority = fields.get(b":authority", fields.get(b"host", b""))
    if not (_METHOD.fullmatch(method) and _PATH.fullmatch(path) and _AUTHORITY.fullmatch(authority)):
        return Refusal(400)
    return Head(method.decode("ascii").upper(), path)
