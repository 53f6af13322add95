"""Which conversation a request continues, for affinity: a key of 16 bytes, the same on each of its turns. Pure.

The order is OpenRouter's and more: the `session_id` of the body, the header `x-session-id`, the `prompt_cache_key`,
else what the conversation opens with: the first system message and the first user message. The account is part of
every key, so no account can name another's conversation; and so is the model that was asked for, as sessions use
several, and each has its own cache (OpenRouter too keeps them "per account, per model, and per conversation").

Of an opening message only what it says counts. Clients that mark cache breakpoints move `cache_control` along as the
conversation grows, and turn a string into a list of one text part to hang it on; the prefix a cache sees stays.

Cost: 1 us with a session, 4 us for the opening of a 1 KB body, 20 us for 60 KB, 40 us for an image of 30 MB, and 0.5 ms
at worst (64 KiB of tiny values): of `messages` longer than 64 KiB only the first 64 KiB are looked at, of a content
longer than 8 KiB its ends and its length. Conversations that share so much of a prefix may share a key: they share a
warm cache too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Final

import msgspec

KEY_BYTES: Final = 16
SESSION_HEADER: Final = b"x-session-id"
OPENING_BYTES_MAX: Final = 64 * 1024
_ITEMS_MAX: Final = 8  # messages looked at for the first of a user, and parts of one content
_CONTENT_END_BYTES: Final = 4096
_ABSENT: Final = msgspec.Raw(b"")
_SYSTEM_ROLES: Final = frozenset({"system", "developer"})  # OpenAI's newer name for the same


class _Message(msgspec.Struct):
    role: str | None = None
    content: msgspec.Raw = _ABSENT


class _Part(msgspec.Struct):
    text: msgspec.Raw = _ABSENT


_STRING = msgspec.json.Decoder(str)
_MESSAGE = msgspec.json.Decoder(_Message)
_PART = msgspec.json.Decoder(_Part)
# The first items of an array as they are; nothing is made of those that follow.
_ITEMS = msgspec.json.Decoder(
    msgspec.defstruct("_Items", [(f"item_{n}", msgspec.Raw, _ABSENT) for n in range(_ITEMS_MAX)], array_like=True)
)
_GAP = re.compile(r"[, \t\r\n]*")
_JSON = json.JSONDecoder()
_ERRORS: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def conversation_key(
    account_id: str,
    session_id: str | None,
    headers: Sequence[tuple[bytes, bytes]],
    fields: Mapping[str, msgspec.Raw],
) -> bytes | None:
    """The key of a request's conversation, or None when nothing tells of one. An empty name counts as none.

    `session_id` is the body's, `headers` have lower-case names, `fields` is the body's top level. What is malformed
    counts as absent: to refuse it is the dialect's business.
    """
    name = session_id.encode("utf-8", "surrogatepass") if session_id else b""
    if not name:
        for header, value in headers:
            if header == SESSION_HEADER:
                name = value
                break
    if name:
        return _key(account_id, fields, b"session", name)
    if "prompt_cache_key" in fields and (name := _string(fields["prompt_cache_key"])):
        return _key(account_id, fields, b"cache", name)
    opening = _opening(fields["messages"]) if "messages" in fields else b""
    return _key(account_id, fields, b"opening", opening) if opening else None


def _key(account_id: str, fields: Mapping[str, msgspec.Raw], kind: bytes, name: bytes) -> bytes:
    account = account_id.encode()
    model = bytes(fields.get("model", _ABSENT))
    return blake2b(
        b"%d %d %b%b%b %b" % (len(account), len(model), account, model, kind, name), digest_size=KEY_BYTES
    ).digest()


def _string(raw: msgspec.Raw) -> bytes:
    try:
        return _STRING.decode(raw).encode()
    except _ERRORS:
        return b""


def _opening(messages: msgspec.Raw) -> bytes:
    """What the first system message and the first user message say; a system message after that user is none of it."""
    said: list[bytes] = []
    text = memoryview(messages)
    for item in _items(messages) if len(text) <= OPENING_BYTES_MAX else _items_of_head(bytes(text[:OPENING_BYTES_MAX])):
        if isinstance(item, str):  # it goes on beyond the bytes looked at
            said.append(b"cut ")
            _add_ends(said, item.encode())
            break
        try:
            message = _MESSAGE.decode(item)
        except _ERRORS:
            break
        if message.role == "user":
            said.append(b"user ")
            _add_content(said, message.content)
            break
        if message.role in _SYSTEM_ROLES and not said:
            said.append(b"system ")
            _add_content(said, message.content)
    return b"".join(said)


def _items(array: msgspec.Raw) -> Sequence[msgspec.Raw]:
    """The first items of an array; none of what is no array."""
    try:
        found = msgspec.structs.astuple(_ITEMS.decode(array))
    except _ERRORS:
        return ()
    return found if found[-1] is not _ABSENT else found[: found.index(_ABSENT)]


def _items_of_head(head: bytes) -> Iterator[bytes | str]:
    """The first items of an array that goes on beyond `head`; the one that does so itself is a string."""
    text = head.decode("utf-8", "ignore")  # the end may be half a character
    if not text.startswith("["):
        return
    at = 1
    for _ in range(_ITEMS_MAX):
        gap = _GAP.match(text, at)
        at = at if gap is None else gap.end()
        try:
            _value, end = _JSON.raw_decode(text, at)
        except (ValueError, RecursionError):
            if text.startswith("{", at):
                yield text[at:]
            return
        yield text[at:end].encode()
        at = end


def _add_content(said: list[bytes], content: msgspec.Raw) -> None:
    """Add a content's text, the same for a string and for a list of that one text; of other parts the whole of them."""
    if bytes(memoryview(content)[:1]) != b"[":
        _add_ends(said, content)
        return
    for item in _items(content):
        try:
            text = _PART.decode(item).text
        except _ERRORS:
            text = _ABSENT
        _add_ends(said, item if text is _ABSENT else text)


def _add_ends(said: list[bytes], value: msgspec.Raw | bytes) -> None:
    view = memoryview(value)
    size = len(view)
    if size <= 2 * _CONTENT_END_BYTES:
        said += (b"%d:" % size, bytes(view))
    else:
        said += (b"%d:" % size, bytes(view[:_CONTENT_END_BYTES]), bytes(view[-_CONTENT_END_BYTES:]))
