"""The end of a call: what was used, what it cost, written down once. Pure.

Usage is what the provider reported; an explicit 0 is 0. Without a report the deltas that went by are counted and the
prompt is what was estimated at admission, flagged `usage_estimated`. A provider that bills on after a cancel
(`on_disconnect = "cap"`) is booked at the cap of the request, its `max_tokens`, or else at what was seen. The customer
pays for the winner's answer; what losers cost is the operator's.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.core.call import Attempt, Call
from gateway.core.money import CostReport
from gateway.core.usage import Usage
from gateway.dialects.costs import PriceUsage
from gateway.settle.charge import charge, costs
from gateway.store.calls import CallRecord

_NAME_CHARS_MAX = 128  # of what a provider calls things


class Costs(NamedTuple):
    """What a call used, and what it cost the customer, us, and us for the attempts that lost; pico-USD."""

    usage: Usage
    customer: int
    provider: int
    hedge: int


def usage_of(call: Call) -> Usage:
    """What the call used, reported or estimated. Zero when no provider's content was seen."""
    if call.usage is not None and believable(call, call.usage):
        return call.usage
    if call.winner is None or call.first_content_at is None:
        return Usage(0, 0)
    return Usage(call.prompt_estimate, call.deltas, estimated=True)


def believable(call: Call, usage: Usage) -> bool:
    """Whether the model could have used so much: a customer does not pay for a provider's broken counter."""
    prompt_max, completion_max = call.prompt_tokens_max, call.completion_tokens_max
    return (prompt_max is None or usage.prompt <= prompt_max) and (
        completion_max is None or usage.completion <= completion_max
    )


def costs_of(call: Call) -> Costs:
    """What an ended call cost: nothing when no attempt won."""
    usage, winner = usage_of(call), call.winner
    hedge = sum([note.cost_pico_usd for note in call.attempts])
    if winner is None:
        return Costs(usage, 0, 0, hedge)
    customer, provider = charge(usage, winner.model, winner.offer, finished=call.finish_reason is not None)
    cut = call.ended not in {"", "complete"} and not call.undelivered
    if winner.on_disconnect == "cap" and cut and call.usage is None:
        cap = max(usage.completion, call.max_tokens or 0)
        capped = Usage(usage.prompt, cap, usage.cached, estimated=True)
        provider = charge(capped, winner.model, winner.offer, finished=True).provider
    return Costs(usage, 0 if call.undelivered else customer, provider, hedge)


def pricer(call: Call, attempt: Attempt) -> PriceUsage:
    """What a stream of `attempt` shows its client as usage and cost: the same as will be charged."""

    def price_usage(reported: Usage | None, deltas: int, *, finished: bool) -> tuple[Usage, CostReport]:
        usage = reported
        if usage is None or not believable(call, usage):
            usage = Usage(call.prompt_estimate, deltas, estimated=True)
        return usage, costs(usage, attempt.model, attempt.offer, finished=finished)

    return price_usage


def report_of(call: Call) -> tuple[Usage, CostReport]:
    """The same for a whole answer, once its call has its winner."""
    winner = call.winner
    assert winner is not None
    usage = usage_of(call)
    return usage, costs(usage, winner.model, winner.offer, finished=call.finish_reason is not None)


def record_of(call: Call, total: Costs, now: float, *, hold: int = 0) -> CallRecord:
    """The record of an ended call; `now` is monotonic seconds."""
    usage, winner = total.usage, call.winner
    first = call.first_content_at
    provider, upstream_model = (winner.provider, winner.offer.model) if winner is not None else ("", "")
    # By position, in the order of its fields, as the next lines name them: names cost a call 2 us.
    return CallRecord(
        call.gen_id, call.request_id, call.started_at, call.account_id, call.key_id, call.key_name,
        "chat", call.lane, call.stream, call.model, provider, upstream_model, tuple(call.attempts),
        call.status, call.code, call.ended,
        # prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, usage_estimated
        usage.prompt, usage.cached, usage.completion, usage.reasoning, usage.estimated,
        # cost_pico_usd, provider_cost_pico_usd
        total.customer, total.provider,
        # first_content_ms, total_ms, bytes_in, bytes_out
        None if first is None else (first - call.started) * 1000, (now - call.started) * 1000,
        call.bytes_in, call.bytes_out,
        # cache_write_tokens, hedge_cost_pico_usd, hold_pico_usd, finish_reason, upstream_id, idempotency, auto
        usage.cache_write, total.hedge, hold,
        call.finish_reason and call.finish_reason[:_NAME_CHARS_MAX], call.chunk_id[:_NAME_CHARS_MAX], call.idempotency,
        call.auto,
    )  # fmt: skip
