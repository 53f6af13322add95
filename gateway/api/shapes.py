"""What the account API reads and writes: request bodies, checked field by field, and how values look in JSON.

Invariants: a field nobody knows is refused by name; an amount never passes through a float, in or out: a request's
is taken from the digits it was sent as, an answer's is rendered from the integer.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Final, Literal, TypeVar

import msgspec
import orjson
from msgspec import UNSET, Meta, Raw, UnsetType

from gateway.core.money import PicoUsd, format_usd, parse_usd
from gateway.errors import BadRequest

Limit = Annotated[int, Meta(ge=1, lt=2**53)] | None | UnsetType  # 2**53: what every JSON reader holds exactly


class KeyChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """PATCH: the fields that a key's manager may change. Absent: as it is; null: none, or all models.

    The last three are OpenRouter's for things there are none of here: taken and not used.
    """

    name: str | UnsetType = UNSET
    limit: Raw = Raw()
    limit_reset: Literal["daily", "weekly", "monthly", "none"] | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    expires_at: Annotated[datetime, Meta(tz=True)] | UnsetType | None = UNSET
    allowed_models: tuple[str, ...] | UnsetType | None = UNSET
    rpm: Limit = UNSET
    rpd: Limit = UNSET
    tpm: Limit = UNSET
    concurrency: Limit = UNSET
    include_byok_in_limit: bool | UnsetType = UNSET
    creator_user_id: str | UnsetType | None = UNSET
    workspace_id: str | UnsetType | None = UNSET


class NewKeyBody(KeyChange, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"key_type": "keyType"}):
    """POST: the same, and what is settled once."""

    name: str
    key_type: Literal["standard", "management"] = "standard"


Body = TypeVar("Body", bound=KeyChange)

CHANGE = msgspec.json.Decoder(KeyChange)
NEW_KEY = msgspec.json.Decoder(NewKeyBody)

# `$.rpm`, or the name that msgspec quotes when a field is unknown or missing.
_FIELD = re.compile(r"\$\.(\w{1,80})|field `(.{1,80}?)`$")
# 27 digits, which decimal's 28 hold exactly, and an exponent that makes no large number of zeros.
_AMOUNT = re.compile(rb'"?(-?[0-9]{1,9}(?:\.[0-9]{1,18})?(?:[eE][+-]?[0-9]{1,2})?)"?')
_MESSAGE_CHARS_MAX: Final = 300


def decode(decoder: msgspec.json.Decoder[Body], data: bytes) -> Body:
    """Read a body. Raises BadRequest, naming the field where there is one."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as exc:
        message = str(exc)[:_MESSAGE_CHARS_MAX]
        found = _FIELD.search(message)
        raise BadRequest(f"the body is not as it must be: {message}", param=found and (found[1] or found[2])) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        why = str(exc)[:_MESSAGE_CHARS_MAX] if isinstance(exc, msgspec.DecodeError) else "text that is no UTF-8 JSON"
        raise BadRequest(f"the body must be one JSON object in UTF-8: {why}") from None


def limit_of(raw: Raw) -> PicoUsd | UnsetType | None:
    """Read a limit in USD, a number or a string of one, to the digit. Raises BadRequest."""
    text = bytes(raw).strip()
    if not text:
        return UNSET
    if text == b"null":
        return None
    found = _AMOUNT.fullmatch(text)
    if found is None or text.startswith(b'"') != text.endswith(b'"'):
        raise BadRequest(
            '`limit` must be USD as a number or a string of one, such as 5 or "2.50", or null for none', param="limit"
        )
    try:
        return parse_usd(f"{Decimal(found[1].decode()).normalize():f}")  # JSON writes 0.00001 as 1e-05, too
    except ValueError as exc:
        raise BadRequest(f"`limit`: {exc}", param="limit") from None


def usd(pico_usd: int) -> orjson.Fragment:
    """An amount as a JSON number of USD, exact."""
    return orjson.Fragment(format_usd(pico_usd))


def usd_or_none(pico_usd: int | None) -> orjson.Fragment | None:
    """The same; None stays None."""
    return None if pico_usd is None else usd(pico_usd)


def iso(unix_s: float) -> str:
    """A time as ISO 8601 of UTC, to the millisecond."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_or_none(unix_s: float | None) -> str | None:
    """The same; None stays None."""
    return None if unix_s is None else iso(unix_s)
