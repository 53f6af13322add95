"""What a call cost, inside its answer: OpenRouter's members of `usage`, set without touching any other byte. Pure.

`cost`, `is_byok` and `cost_details` are what the customer pays. What a provider says of its own prices is between it
and us: its `cost` members (OpenRouter, xAI, DeepInfra, Perplexity) are taken out of every answer.
Source: openrouter.ai/docs/use-cases/usage-accounting and the schemas of its TypeScript SDK, which want both parts of
`cost_details` as numbers.
"""

from __future__ import annotations

import re
from typing import Protocol

import msgspec

from gateway.core.jsontext import TOP_LEVEL, top_level
from gateway.core.money import CostReport, format_usd
from gateway.core.usage import Usage

_USAGE = re.compile(rb'"usage"[ \t\r\n]*:[ \t\r\n]*')
_Members = dict[str, msgspec.Raw]


class PriceUsage(Protocol):
    """Says what a stream's usage is billed as, and what it costs the customer.

    `reported` is the provider's last trusted report, None when there was none: then `deltas` content deltas have gone
    by. `finished`: a finish reason has come.
    """

    def __call__(self, reported: Usage | None, deltas: int, *, finished: bool) -> tuple[Usage, CostReport]:
        """The usage (`reported`, or an estimate flagged so) and its cost."""


def with_cost(answer_body: bytes, usage: Usage, costs: CostReport) -> bytes:
    """`answer_body`, a JSON object, with what the call cost in its `usage`; every other byte stays.

    An estimated `usage` replaces whatever the provider put there. Raises ValueError for what is no JSON object.
    """
    members = top_level(answer_body)
    return _with_usage(answer_body, members, usage_text(members.get("usage"), usage, costs))


def without_cost(answer_body: bytes, members: _Members) -> bytes:
    """`answer_body`, of top-level `members`, with the provider's cost members taken out of its `usage`, and theirs."""
    report = members.get("usage")
    if report is None or b"cost" not in (was := bytes(report)):
        return answer_body
    kept = _kept(report)
    if kept is None or kept == was:
        return answer_body
    answer_body = _with_usage(answer_body, members, kept)
    members["usage"] = msgspec.Raw(kept)
    return answer_body


def usage_text(report: msgspec.Raw | None, usage: Usage, costs: CostReport) -> bytes:
    """A `usage` object with costs: the provider's `report`, or our own object when `usage` is an estimate of ours."""
    kept = None if report is None or usage.estimated else _kept(report)
    if kept is None:
        total = usage.prompt + usage.completion
        kept = b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d%b}' % (
            usage.prompt,
            usage.completion,
            total,
            b',"estimated":true' if usage.estimated else b"",
        )
    start = kept.rstrip()[:-1].rstrip()
    return b"%b%b%b}" % (start, b"" if start == b"{" else b",", cost_members(costs))


def is_cost(name: str) -> bool:
    """Whether a member of a provider's `usage` tells its prices, or whose account it is."""
    return "cost" in name or name == "is_byok"


def cost_members(costs: CostReport) -> bytes:
    """The members themselves: USD as exact decimal numbers. The provider's own cost is never told."""
    total, prompt, completion = (format_usd(amount).encode() for amount in costs)
    return (
        b'"cost":%b,"is_byok":false,"cost_details":{"upstream_inference_cost":null,'
        b'"upstream_inference_prompt_cost":%b,"upstream_inference_completions_cost":%b}' % (total, prompt, completion)
    )


def edit_frame_usage(frame: bytes, payload: bytes, bill: tuple[Usage, CostReport] | None) -> bytes:
    """One SSE frame of data `payload` with the costs of `bill` in its `usage`, without the provider's in any case."""
    members = TOP_LEVEL.decode(payload)
    if bill is None:
        edited = without_cost(payload, members)
    else:
        edited = _with_usage(payload, members, usage_text(members.get("usage"), *bill))
    at = frame.find(payload)
    if at >= 0:
        return frame[:at] + edited + frame[at + len(payload) :]
    others = [line + b"\n" for line in frame.splitlines() if line and not line.startswith(b"data")]
    return b"".join((*others, b"data: ", edited.replace(b"\n", b"\ndata: "), b"\n\n"))


def usage_frame(chunk_id: str, created: int, model: bytes, usage: Usage, costs: CostReport) -> bytes:
    """The usage chunk that a provider did not send; `model` is JSON text."""
    return b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[],"usage":%b}\n\n' % (
        msgspec.json.encode(chunk_id),
        created,
        model,
        usage_text(None, usage, costs),
    )


def _kept(report: msgspec.Raw) -> bytes | None:
    """The text of a usage object less the provider's costs; None when it is no object."""
    text = bytes(report)
    try:
        members = TOP_LEVEL.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    kept = {name: value for name, value in members.items() if not is_cost(name)}
    return text if len(kept) == len(members) else msgspec.json.encode(kept)


def _with_usage(text: bytes, members: _Members, usage: bytes) -> bytes:
    """A JSON object's text with its top-level `usage` set. When that cannot be told from another of the same value,
    or its name has escapes, the members are written anew; their values stay as they are.
    """
    old = members.get("usage")
    if old is None:
        end = text.rindex(b"}")
        return b"%b%b%b%b" % (text[:end], b'"usage":' if not members else b',"usage":', usage, text[end:])
    was = bytes(old)
    starts = [found.end() for found in _USAGE.finditer(text) if text.startswith(was, found.end())]
    if starts:
        edited = text[: starts[-1]] + usage + text[starts[-1] + len(was) :]
        if len(starts) == 1 and b"\\u" not in text:
            return edited
        if bytes(TOP_LEVEL.decode(edited)["usage"]) == usage:
            return edited
    return msgspec.json.encode({**members, "usage": msgspec.Raw(usage)})
