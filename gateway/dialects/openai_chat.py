"""The OpenAI chat completions dialect, request side and errors. Pure.

A call that stays in its dialect forwards the body nearly as received: only the top level is decoded, values stay raw
bytes. What is read of them is the little the gateway needs; everything unknown survives.
Source: platform.openai.com/docs/api-reference/chat and the installed `openai` SDK's types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgspec
import orjson

from gateway.core.jsontext import has_too_many_members, model_span, top_level
from gateway.core.money import CostReport
from gateway.core.routing import PLAIN, Routing
from gateway.core.usage import Usage, estimate_prompt_tokens, parse_usage
from gateway.dialects.chat_stream import StreamFault
from gateway.dialects.costs import cost_members, without_cost
from gateway.dialects.routing import parse_routing
from gateway.errors import BadRequest, GatewayError

CHOICES_MAX = 128  # of the API reference

_T = TypeVar("_T")


@dataclass(slots=True)
class ChatRequest:
    """What the gateway reads of a request. `fields` is its whole top level, values raw."""

    fields: dict[str, msgspec.Raw]
    model: str
    stream: bool
    include_usage: bool
    max_tokens: int | None
    include_cost: bool = False
    choices: int = 1
    routing: Routing = PLAIN


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _UsageOptions(msgspec.Struct):
    """OpenRouter's request member `usage`: whether the answer says what it cost."""

    include: bool | None = None


_STRING = msgspec.json.Decoder(str)
_BOOL = msgspec.json.Decoder(bool | None)
_LIMIT = msgspec.json.Decoder(int | None)
_OPTIONS = msgspec.json.Decoder(_StreamOptions | None)
_USAGE = msgspec.json.Decoder(_UsageOptions | None)
_MISSING = msgspec.Raw(b"null")


def parse_request(body: bytes) -> ChatRequest:
    """Read a request body. Raises BadRequest naming the field and what to change.

    `null` counts as absent, as the SDKs send it for unset fields. `usage` is a wish to us, which most providers would
    refuse: it is not among the `fields`, nor are the routing wishes.
    """
    if has_too_many_members(body):
        raise BadRequest("the body has too many top-level members; send what the API reference names")
    try:
        fields = top_level(body)
    except ValueError:
        raise BadRequest("the body is not a JSON object in UTF-8; send application/json") from None
    model = _field(fields, "model", _STRING, 'a string such as "openai/gpt-4o"', required=True)
    first = bytes(memoryview(fields.get("messages", _MISSING))[:64])
    if first == b"null":
        raise BadRequest("`messages` is missing; send a list of at least one message", param="messages")
    if not first.startswith(b"[") or first[1:].lstrip().startswith(b"]"):
        raise BadRequest("`messages` must be a list of at least one message", param="messages")
    if not model:
        raise BadRequest("`model` is empty; name a model of GET /v1/models", param="model")
    stream = _field(fields, "stream", _BOOL, "true or false") or False
    options = _field(fields, "stream_options", _OPTIONS, "an object") if stream else None
    wish = _field(fields, "usage", _USAGE, 'an object such as {"include": true}') if "usage" in fields else None
    include_cost = bool(wish and wish.include)
    fields.pop("usage", None)
    include_usage = bool(options and options.include_usage) or (stream and include_cost)
    routing = parse_routing(fields, model, stream=stream)
    limit, choices = _max_tokens(fields), _choices(fields)
    return ChatRequest(fields, model, stream, include_usage, limit, include_cost, choices, routing)


def _choices(fields: dict[str, msgspec.Raw]) -> int:
    if "n" not in fields:
        return 1
    choices: int | None = _field(fields, "n", _LIMIT, f"a whole number from 1 to {CHOICES_MAX}")
    if choices is not None and not 0 < choices <= CHOICES_MAX:
        raise BadRequest(f"`n` must be a whole number from 1 to {CHOICES_MAX}", param="n")
    return choices or 1


def _max_tokens(fields: dict[str, msgspec.Raw]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        if name in fields:
            limit: int | None = _field(fields, name, _LIMIT, "a whole number of at least 1")
            if limit is not None and not 0 < limit < 2**31:
                raise BadRequest(f"`{name}` must be a whole number of at least 1, and below 2^31", param=name)
            if limit is not None:
                return limit
    return None


def _field(
    fields: dict[str, msgspec.Raw], name: str, decoder: msgspec.json.Decoder[_T], wanted: str, *, required: bool = False
) -> _T:
    raw = fields.get(name, _MISSING)
    if required and bytes(raw) == b"null":
        raise BadRequest(f"`{name}` is missing; send {wanted}", param=name)
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest(f"`{name}` must be {wanted}", param=name) from None


class ChatAnswer(msgspec.Struct, frozen=True):
    """A whole answer, ready for the client, and what it said of itself."""

    body: bytes
    usage: Usage | None
    finish_reason: str | None
    id: str = ""
    messages: tuple[msgspec.Raw, ...] = ()

    def estimate_completion(self) -> int:
        """How many tokens the answer may be, when nobody says it credibly."""
        return sum(estimate_prompt_tokens(bytes(message)) for message in self.messages)


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    message: msgspec.Raw = _MISSING


_CHOICES = msgspec.json.Decoder(list[_Choice])


def read_answer(body: bytes, model: str) -> ChatAnswer:
    """Check a provider's non-stream answer and set its model to ours; every other byte stays, but for costs of its own.

    Raises StreamFault: no JSON object, an error at 200, no choices.
    """
    try:
        fields = top_level(body)
    except ValueError:
        raise StreamFault("bad_json") from None
    error = fields.get("error")
    if error is not None and bytes(error) not in {b"null", b"false", b'""', b"{}"}:
        raise StreamFault("error_in_200")
    try:
        choices = _CHOICES.decode(fields.get("choices", _MISSING))
    except msgspec.DecodeError:
        raise StreamFault("bad_json") from None
    if not choices:
        raise StreamFault("empty")
    usage = fields.get("usage")
    body = _with_model(without_cost(body, fields), fields, model)
    report = _usage(usage)
    messages = tuple([choice.message for choice in choices])
    return ChatAnswer(body, report, choices[0].finish_reason, _id(fields.get("id")), messages)


def _id(raw: msgspec.Raw | None) -> str:
    try:
        return _STRING.decode(raw) if raw is not None else ""
    except msgspec.DecodeError:
        return ""


def _usage(report: msgspec.Raw | None) -> Usage | None:
    try:
        return parse_usage(orjson.loads(bytes(report))) if report is not None else None
    except orjson.JSONDecodeError:  # a number that no machine holds: untrusted, like any absurd report
        return None


def _with_model(body: bytes, fields: dict[str, msgspec.Raw], model: str) -> bytes:
    body = body.lstrip()  # DeepSeek sends blank lines while it queues a request
    if "model" not in fields:
        return body
    ours = orjson.dumps(model)
    span = model_span(body, has_model=bytes(fields["model"]).startswith(b'"'))
    if span is not None:
        return body[: span[0]] + ours + body[span[1] :]
    fields["model"] = msgspec.Raw(ours)
    return msgspec.json.encode(fields)


def error_body(error: GatewayError, request_id: str) -> bytes:
    """The default envelope: OpenAI's `error` object, plus top-level `code` and `message` for readers of flat errors."""
    return orjson.dumps(
        {
            "code": error.status,
            "message": error.message,
            "error": {
                "message": error.message,
                "type": error.error_type,
                "code": error.code,
                "param": error.param,
                "request_id": request_id,
            },
        }
    )


def error_frame(
    error: GatewayError,
    request_id: str,
    *,
    chunk_id: str,
    created: int,
    model: str,
    usage: Usage | None,
    costs: CostReport | None = None,
) -> bytes:
    """The frame that ends a stream which broke after its first content; no `[DONE]` follows it.

    Shape of OpenRouter's mid-stream error, which OpenAI's SDKs raise on.
    """
    frame: dict[str, object] = {
        "id": chunk_id or "chatcmpl-error",
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "error": {"code": error.code, "message": error.message, "type": error.error_type, "request_id": request_id},
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
    }
    if usage is not None:
        report: dict[str, object] = {
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
            "estimated": usage.estimated,
        }
        text = orjson.dumps(report)
        frame["usage"] = orjson.Fragment(text if costs is None else b"%b,%b}" % (text[:-1], cost_members(costs)))
    return b"data: " + orjson.dumps(frame) + b"\n\n"
