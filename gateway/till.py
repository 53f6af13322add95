"""The till: the money of a call, from its admission to its record. What the gate decides, made durable.

A call opens a tab before any upstream byte: its place, its hold. `book` settles the tab, once, before the call's last
byte leaves: the charge is in the journal by then, so that neither the client nor a crash can undo it. `close` writes
the record when all is said. A call that never came to a tab is closed all the same, at no cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from gateway.admit.gate import Admission, Gate
from gateway.admit.headers import ratelimit_headers
from gateway.config import Config
from gateway.core.call import Attempt, Call
from gateway.core.principal import Principal
from gateway.dialects.openai_chat import ChatRequest
from gateway.errors import Overloaded
from gateway.exchange import Headers
from gateway.observe.metrics import Metrics
from gateway.settle.charge import ceiling
from gateway.settle.settle import Costs, costs_of, record_of
from gateway.snapshot import Records
from gateway.store.calls import CallRecord
from gateway.store.holds import OpenHold
from gateway.store.journal import JournalFailed, Segment

RETRY_S: Final = 1.0
COMMIT_WAIT_S: Final = 10.0
COMMIT_WAIT_LEAST_S: Final = 0.5  # also for a call that has no time left: a healthy disk takes milliseconds
_STREAM, _WHOLE = ("true",), ("false",)  # the metric's label
_DOUBT: Final = 4  # times our estimate: a prompt that is reported longer than that and the context is no report


class Tab:
    """One call's money. `record` is there once it is booked."""

    __slots__ = ("admission", "call", "line", "record", "slot", "stored")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.admission: Admission | None = None
        self.slot: int | None = None
        self.line: Segment | None = None
        self.record: CallRecord | None = None
        self.stored = False


class Till:
    """Opens, books and closes tabs."""

    def __init__(
        self,
        gate: Gate,
        records: Records,
        metrics: Metrics,
        wall_clock: Callable[[], float],
        *,
        power_loss: bool = False,
    ) -> None:
        self.gate = gate
        self._records = records
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._power_loss = power_loss
        self.costs_pico_usd = {"customer": 0, "provider": 0, "hedge": 0}  # of this process, by who pays

    def has_room(self, calls_under_way: int) -> bool:
        """Whether one more call could be written down, whatever the disk does."""
        return self._records.has_room(calls_under_way)

    def open(
        self,
        tab: Tab,
        principal: Principal,
        config: Config,
        request: ChatRequest,
        attempts: Sequence[Attempt],
    ) -> Headers:
        """Admit the call with a hold of the most that these attempts can cost; the headers that tell its limits.

        The prompt is as long as `call.prompt_estimate` says.

        Raises PaymentRequired, SpendLimitReached, RateLimited, Overloaded; the call has consumed nothing then.
        """
        call, prompt = tab.call, tab.call.prompt_estimate
        offers = [(attempt.model, attempt.offer) for attempt in attempts]
        window = longest = 0
        for model, _offer in offers:
            window = max(window, model.context_window)
            longest = max(longest, model.completion_tokens_max or model.context_window)
        completion = request.choices * min(_completion_tokens(request, principal, config), longest)
        call.prompt_tokens_max = window + _DOUBT * prompt
        call.completion_tokens_max = request.choices * max(longest, request.max_tokens or 0)
        hold = ceiling(offers, prompt, completion)
        now, wall = trio.current_time(), self._wall_clock()
        admission = self.gate.admit(principal, config.plans, tokens=prompt + completion, hold=hold, now=now, wall=wall)
        tab.admission = admission
        if admission.hold:
            tab.slot = self._records.open_hold(_open_hold(call, admission.hold))
        return ratelimit_headers(admission.standing(now)) if config.limits.headers else []

    def standing(self, principal: Principal, config: Config) -> Headers:
        """The headers that tell the limits of a caller who was refused."""
        if not config.limits.headers:
            return []
        now, wall = trio.current_time(), self._wall_clock()
        return ratelimit_headers(self.gate.standing(principal, config.plans, now=now, wall=wall))

    def book(self, tab: Tab) -> None:
        """Settle the tab: what the call used is fixed from here on. Idempotent.

        Raises Overloaded when the charge cannot be made durable; the tab is open then.
        """
        if tab.record is not None:
            return
        now = trio.current_time()
        costs, record = self._bill(tab, now)
        if _lasting(record):
            try:
                tab.line = self._records.write_line(record)
            except JournalFailed as exc:
                raise Overloaded("the gateway cannot write its records; retry later", retry_after_s=RETRY_S) from exc
        self._settle(tab, costs, record, now)

    async def secure(self, tab: Tab, deadline: float) -> None:
        """Before the last byte leaves: wait until the booking would survive what the operator wants it to survive.

        A disk that does not take it until `deadline` (Trio's clock) is told of in the log, and the call goes on: the
        charge is in the journal, and the client has waited long enough for his answer.
        """
        if not self._power_loss or tab.record is None or not _lasting(tab.record):
            return
        now = trio.current_time()
        self._store(tab, now)
        with trio.move_on_at(max(min(deadline, now + COMMIT_WAIT_S), now + COMMIT_WAIT_LEAST_S)) as waiting:
            await self._records.committed()
        if waiting.cancelled_caught:
            structlog.get_logger().error("commit_late", gen_id=tab.call.gen_id)

    def close(self, tab: Tab) -> None:
        """The call is over: book it if it is not, and hand its record to the writer. Once."""
        call = tab.call
        if tab.record is None:
            try:
                self.book(tab)
            except Overloaded:
                self._book_anyway(tab)
        now = trio.current_time()
        self._store(tab, now)
        assert tab.record is not None
        self._observe(call, tab.record, now)

    def _book_anyway(self, tab: Tab) -> None:
        """The journal is full or broken: the record, which waits in memory for the disk, is all there is."""
        now = trio.current_time()
        self._settle(tab, *self._bill(tab, now), now)
        structlog.get_logger().error("charge_not_journaled", gen_id=tab.call.gen_id)

    def _bill(self, tab: Tab, now: float) -> tuple[Costs, CallRecord]:
        costs = costs_of(tab.call)
        hold = tab.admission.hold if tab.admission else 0
        return costs, record_of(tab.call, costs, now, hold=hold)

    def _settle(self, tab: Tab, costs: Costs, record: CallRecord, now: float) -> None:
        tab.record = record
        admission = tab.admission
        if admission is not None:
            began = self.gate.period_of(tab.call.started_at)
            tokens = costs.usage.prompt + costs.usage.completion
            admission.settle(costs.customer, tokens, began=began, now=now)
        if tab.slot is not None and tab.line is not None:  # else it goes with the record's commit
            self._records.close_hold(tab.slot)
            tab.slot = None

    def _store(self, tab: Tab, now: float) -> None:
        """Hand the record over, with how the call ended; once."""
        record, call = tab.record, tab.call
        assert record is not None
        if tab.stored:
            return
        tab.stored = True
        record.status, record.code, record.ended = call.status, call.code, call.ended
        record.bytes_out, record.total_ms = call.bytes_out, (now - call.started) * 1000
        self._records.put(record, tab.line, tab.slot)

    def _observe(self, call: Call, record: CallRecord, now: float) -> None:
        metrics = self._metrics
        self.costs_pico_usd["customer"] += record.cost_pico_usd
        self.costs_pico_usd["provider"] += record.provider_cost_pico_usd
        self.costs_pico_usd["hedge"] += record.hedge_cost_pico_usd
        metrics.calls.by[call.model or "none", str(call.status), call.ended] += 1
        metrics.total.observe(_STREAM if call.stream else _WHOLE, now - call.started)
        metrics.bytes_in.by[()] += call.bytes_in
        metrics.bytes_out.by[()] += call.bytes_out
        if call.winner is not None and call.first_content_at is not None:
            metrics.first_content.observe((call.winner.provider,), call.first_content_at - call.started)


def _completion_tokens(request: ChatRequest, principal: Principal, config: Config) -> int:
    """How long an answer may be: what the request says, else the plan."""
    if request.max_tokens is not None:
        return request.max_tokens
    plan = config.plans.get(principal.plan or principal.account.plan or "")
    return (plan.completion_tokens_default if plan else None) or config.limits.completion_tokens_default


def _lasting(record: CallRecord) -> bool:
    """Whether a crash may not lose it: money moved, or a key must not be used again."""
    cost = record.cost_pico_usd or record.provider_cost_pico_usd or record.hedge_cost_pico_usd
    return bool(cost or record.idempotency)


def _open_hold(call: Call, hold: int) -> OpenHold:
    return OpenHold(
        call.gen_id, call.request_id, call.started_at, call.account_id, hold, call.key_id, call.key_name[:64], "chat",
        call.lane, call.stream, call.model[:128],
    )  # fmt: skip
