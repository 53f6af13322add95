"""Requests to an OpenAI-compatible endpoint, as bytes: the head rendered once, the body re-joined per call.

Pure: no sockets, no clock. A request on the wire is `head + str(len(body)) + CRLF CRLF + body`. The body
keeps every value of the client's JSON object byte for byte; only members are set, renamed or left out.
Secrets enter the head and nothing else: no message repeats a key or a header value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

from gateway import __version__
from gateway.config import Provider, Quirks

ROUTING_FIELDS = frozenset(
    {"provider", "models", "route", "transforms", "plugins", "debug", "session_id", "usage", "race"}
)
"""Members of a request that speak to the gateway. Vendors refuse them, so they never leave it."""

_NULL = b"null"
_INCLUDE_USAGE = b'{"include_usage":true}'
_encode = msgspec.json.encode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one key of one provider is called, and the request head up to and including `content-length: `."""

    host: str
    port: int
    tls: bool
    server_name: str
    path: bytes
    head: bytes = field(repr=False)  # holds the key

    def request(self, body: bytes) -> bytes:
        """The whole request for `body`."""
        return b"%b%d\r\n\r\n%b" % (self.head, len(body), body)


def build_endpoint(provider: Provider, key_index: int = 0) -> Endpoint:
    """Render the endpoint of one key. Raises ValueError for what may not stand in a request head.

    A provider without keys has one endpoint, of index 0, that sends no key.
    """
    parts = urlsplit(provider.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"provider {provider.name}: base_url has no http:// or https:// host")
    tls = parts.scheme == "https"
    default_port = 443 if tls else 80
    port = parts.port or default_port
    host = parts.hostname
    path = parts.path.rstrip("/") + provider.quirks.chat_path
    authority = f"[{host}]" if ":" in host else host
    headers = {
        "host": authority if port == default_port else f"{authority}:{port}",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "accept-encoding": "identity",
        "user-agent": f"gateway/{__version__}",
        **_auth(provider, key_index),
        **{name.lower(): value for name, value in provider.headers.items()},
    }
    lines = [f"POST {_clean(path, 'path', provider.name, spaces=False)} HTTP/1.1"]
    for name, value in headers.items():
        _clean(name, "header name", provider.name, spaces=False)
        lines.append(f"{name}: {_clean(value, f'header {name}', provider.name)}")
    head = "\r\n".join([*lines, "content-length: "]).encode("ascii")
    return Endpoint(host=host, port=port, tls=tls, server_name=host, path=path.encode("ascii"), head=head)


def models_request(head: bytes, quirks: Quirks) -> bytes:
    """A whole `GET …/models` to the endpoint and key that a chat request's `head` is for."""
    first, _, rest = head.partition(b"\r\n")
    path = first.split(b" ")[1].removesuffix(quirks.chat_path.encode("ascii")) + b"/models"
    return b"GET %b HTTP/1.1\r\n%b\r\n" % (path, rest.removesuffix(b"content-length: "))


def adapt_body(fields: dict[str, msgspec.Raw], *, upstream_model: str, stream: bool, quirks: Quirks) -> bytes:
    """The body to send for the client's top-level `fields`: our model name, our usage wish, the vendor's quirks.

    Values are copied as they came. `stream_options` that is null counts as absent. Order is kept.
    """
    skip = ROUTING_FIELDS
    names: dict[str, str] = {}
    if quirks.drop_fields or quirks.rename_fields or quirks.max_tokens_field != "keep":
        skip, names = _plan(fields, quirks)
    parts: list[bytes | msgspec.Raw] = [b'{"model":', _encode(upstream_model)]
    append = parts.append
    for name, value in fields.items():
        if name in _SPECIAL or name in skip:
            continue
        append(_member(names.get(name, name)))
        append(value)
    if quirks.include_usage:
        options = fields.get("stream_options")
        if stream:
            append(b',"stream_options":')
            append(_with_usage(options))
        elif options is not None and bytes(options) != _NULL:
            append(b',"stream_options":')
            append(options)
    append(b"}")
    return b"".join(parts)


_SPECIAL = frozenset({"model", "stream_options"})
# fmt: off
_KNOWN = (
    "messages", "stream", "temperature", "top_p", "n", "stop", "max_tokens", "max_completion_tokens",
    "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "user", "seed", "tools",
    "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "metadata", "store", "service_tier",
    "modalities", "audio", "prediction", "verbosity", "input", "dimensions", "encoding_format", "prompt_cache_key",
    "safety_identifier", "top_k", "min_p", "random_seed", "web_search_options",
)
# fmt: on
_MEMBERS = {name: f',"{name}":'.encode() for name in _KNOWN}


def _member(name: str) -> bytes:
    return _MEMBERS.get(name) or b",%b:" % _encode(name)


def _with_usage(options: msgspec.Raw | None) -> bytes:
    """The client's stream_options with include_usage on. Anything but an object is replaced by ours."""
    if options is None or bytes(options) == _NULL:
        return _INCLUDE_USAGE
    try:
        members = _decode_members(options)
    except (msgspec.DecodeError, RecursionError):
        return _INCLUDE_USAGE
    members["include_usage"] = msgspec.Raw(b"true")
    return _encode(members)


def _plan(fields: dict[str, msgspec.Raw], quirks: Quirks) -> tuple[frozenset[str], dict[str, str]]:
    """What to leave out and what to call differently. A renamed member gives way to one already so named."""
    renames = dict(quirks.rename_fields)
    if quirks.max_tokens_field == "max_tokens":
        renames["max_completion_tokens"] = "max_tokens"
    elif quirks.max_tokens_field == "max_completion_tokens":
        renames["max_tokens"] = "max_completion_tokens"
    skip = set(quirks.drop_fields)
    for old, new in renames.items():
        if old not in fields or new not in fields:
            continue
        skip.add(new if bytes(fields[new]) == _NULL else old)
    return ROUTING_FIELDS | skip, renames


def _auth(provider: Provider, key_index: int) -> dict[str, str]:
    if not provider.api_keys and key_index == 0:
        return {}
    if not 0 <= key_index < len(provider.api_keys):
        raise ValueError(
            f"provider {provider.name} has {len(provider.api_keys)} keys; there is none of index {key_index}"
        )
    key = provider.api_keys[key_index]
    name = provider.quirks.auth_header.lower()
    return {name: f"Bearer {key}" if name == "authorization" else key}


def _clean(text: str, what: str, provider: str, *, spaces: bool = True) -> str:
    """`text` if all of it is printable ASCII, so that nobody writes a second header or request through it."""
    if not text or not text.isascii() or not text.isprintable() or (not spaces and " " in text):
        raise ValueError(f"provider {provider}: {what} holds a character that a request head may not")
    return text
