"""The end of a call: what was used, what it cost, written down once. Synchronous, so nothing can cut it short.

Usage is what the provider reported; an explicit 0 is 0. Without a report the deltas that went by are counted and the
prompt is estimated from the size of the request, flagged `usage_estimated`. A provider that bills on after a
cancel (`on_disconnect = "cap"`) is booked at the cap of the request, its `max_tokens`, or else at what was seen.
"""

from __future__ import annotations

from gateway.core.call import Call
from gateway.core.usage import Usage, estimate_prompt_tokens
from gateway.settle.charge import price
from gateway.store.calls import CallRecord


def usage_of(call: Call) -> Usage:
    """What the call used, reported or estimated. Zero when no provider's content was seen."""
    if call.usage is not None:
        return call.usage
    if call.winner is None or call.first_content_at is None:
        return Usage(0, 0)
    return Usage(estimate_prompt_tokens(call.bytes_in), call.deltas, estimated=True)


def record_of(call: Call, now: float) -> CallRecord:
    """The record of an ended call; `now` is monotonic seconds."""
    usage = usage_of(call)
    winner = call.winner
    cost = price(usage, winner.offer) if winner is not None else 0
    provider_cost = cost
    if winner is not None and winner.on_disconnect == "cap" and call.ended != "complete" and call.usage is None:
        cap = max(usage.completion, call.max_tokens or 0)
        provider_cost = price(Usage(usage.prompt, cap, usage.cached, estimated=True), winner.offer)
    first = call.first_content_at
    return CallRecord(
        gen_id=call.gen_id,
        request_id=call.request_id,
        started_at=call.started_at,
        account_id=call.account_id,
        key_id=call.key_id,
        key_name=call.key_name,
        route="chat",
        lane=call.lane,
        stream=call.stream,
        model=call.model,
        provider=winner.provider if winner is not None else "",
        upstream_model=winner.offer.model if winner is not None else "",
        attempts=tuple((note.provider, note.outcome, note.status, note.duration_s * 1000) for note in call.attempts),
        status=call.status,
        code=call.code,
        ended=call.ended,
        prompt_tokens=usage.prompt,
        cached_tokens=usage.cached,
        completion_tokens=usage.completion,
        reasoning_tokens=usage.reasoning,
        usage_estimated=usage.estimated,
        cost_pico_usd=cost,
        provider_cost_pico_usd=provider_cost,
        first_content_ms=None if first is None else (first - call.started) * 1000,
        total_ms=(now - call.started) * 1000,
        bytes_in=call.bytes_in,
        bytes_out=call.bytes_out,
    )
