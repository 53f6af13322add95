"""The life of a call, in order: auth, body, parse, plan, admit, race, relay, settle. Every edge comes in at `handle`.

Who owns what: the call's task owns everything, the edge gives it a scope to be cancelled in when the client leaves.
The race hands its winner over here; whoever holds an `Answer` closes it. Nothing below the parse sees bytes of the
client's again, nothing above the relay sees the provider's. A call that passed `auth` leaves exactly one record, and
its money is settled exactly once, before its last byte leaves: see `gateway.till`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from gateway.auth.keys import KeyIndex
from gateway.auth.principal import identify
from gateway.config import Drain
from gateway.contest import Contest
from gateway.core.call import Call
from gateway.core.ids import IdMint
from gateway.core.principal import Principal
from gateway.core.usage import estimate_prompt_tokens
from gateway.dialects.costs import with_cost
from gateway.dialects.openai_chat import parse_request
from gateway.drain import Drainer
from gateway.edge.replies import JSON, id_headers
from gateway.errors import (
    GatewayError,
    MethodNotAllowed,
    Overloaded,
    PaymentRequired,
    PermissionDenied,
    RateLimited,
    ShuttingDown,
    Timeout,
)
from gateway.exchange import ClientGone, ClientStalled, Exchange, Headers
from gateway.explain import how_routed
from gateway.heartbeat import Heartbeat, Waiting
from gateway.idempotency import Idempotency, Replay, Slot, find_key
from gateway.noting import note_answer
from gateway.observe.metrics import Metrics
from gateway.router import Course, Router
from gateway.settle.settle import report_of
from gateway.snapshot import Snapshot
from gateway.telling import tell, verdict
from gateway.till import Tab, Till
from gateway.upstream.answer import Answer

ROUTE: Final = "chat"
_TO_SEND_S: Final = 1.0  # of a call's total: kept for its last bytes
SSE: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(slots=True, eq=False)
class _Live:
    """A call under way: what a shutdown needs of it."""

    call: Call
    tab: Tab
    scope: trio.CancelScope
    principal: Principal
    keys: KeyIndex  # that it was found in
    headers: Headers
    slot: Slot | None = None  # with an Idempotency-Key
    course: Course | None = None
    committed: bool = False
    handed_over: bool = False


class Pipeline:
    """Serves calls. `snapshot` and `keys` are swapped by their owners; `draining` is set once."""

    def __init__(
        self,
        snapshot: Snapshot,
        keys: KeyIndex,
        *,
        till: Till,
        idempotency: Idempotency,
        router: Router,
        metrics: Metrics,
        drainer: Drainer,
        heartbeat: Heartbeat,
        wall_clock: Callable[[], float],
    ) -> None:
        self.snapshot = snapshot
        self.keys = keys
        self.draining = False
        self._till = till
        self._idempotency = idempotency
        self._router = router
        self._metrics = metrics
        self._drainer = drainer
        self._heartbeat = heartbeat
        self._wall_clock = wall_clock
        self._ids = IdMint()
        self._live: set[_Live] = set()

    async def handle(self, exchange: Exchange) -> None:
        """Serve one call from its head to its record. Raises nothing but Cancelled."""
        snapshot = self.snapshot
        now, wall = trio.current_time(), self._wall_clock()
        call = Call(exchange.request_id, self._ids.generation_id(wall), exchange.lane, now, wall)
        headers = [*id_headers(call.request_id), (b"x-generation-id", call.gen_id.encode())]
        try:
            principal = self._authenticate(exchange, call, wall)
        except GatewayError as error:
            self._metrics.calls.by["none", str(error.status), error.code] += 1
            stall_s = snapshot.config.timeouts.client_stall_s
            return await tell(exchange, call, error, headers, committed=False, stall_s=stall_s)
        scope = trio.CancelScope(deadline=now + snapshot.config.timeouts.total_s)
        live = _Live(call, Tab(call), scope, principal, self.keys, headers)
        self._live.add(live)
        try:
            told = await self._serve_within(exchange, snapshot, live)
            if told is not None:
                await self._tell(exchange, snapshot, live, told)
        finally:
            self._live.discard(live)
            if not live.handed_over:
                self._close(live)

    def _authenticate(self, exchange: Exchange, call: Call, wall: float) -> Principal:
        if exchange.method != "POST":
            raise MethodNotAllowed(f"{exchange.method} is not served here; send POST", allow="POST")
        principal = self._find(exchange, wall)
        if self.draining:
            raise ShuttingDown("the gateway is shutting down; retry against another instance", retry_after_s=5.0)
        if not self._till.has_room(len(self._live) + len(self._drainer)):
            raise Overloaded("the gateway cannot write its records; retry later", retry_after_s=5.0)
        call.account_id, call.key_id, call.key_name = principal.account_id, principal.key_id, principal.name
        return principal

    def _find(self, exchange: Exchange, wall: float) -> Principal:
        principal = identify(self.keys, exchange.headers, wall)
        if principal.management:
            raise PermissionDenied(
                "a management key manages keys and serves no model calls; use a standard key", code="management_key"
            )
        return principal

    async def _tell(self, exchange: Exchange, snapshot: Snapshot, live: _Live, error: GatewayError) -> None:
        """An error frame is a last byte too: what came before it is settled first."""
        stall_s = snapshot.config.timeouts.client_stall_s
        live.call.code = error.code
        if live.committed:
            with contextlib.suppress(Overloaded):  # an error it is already
                self._till.book(live.tab)
                await self._till.secure(live.tab, trio.current_time() + stall_s)
        headers = [*live.headers, *self._how_routed(exchange, live)] if live.call.winner is None else live.headers
        await tell(exchange, live.call, error, headers, committed=live.committed, stall_s=stall_s)

    async def _serve_within(self, exchange: Exchange, snapshot: Snapshot, live: _Live) -> GatewayError | None:
        """Serve under the call's scope; what the client is still to be told, or None."""
        call = live.call
        try:
            with live.scope:
                await self._serve(exchange, snapshot, live)
                return None
        except Exception as error:  # noqa: BLE001 - a bug in one call must not end its connection untold
            call.ended, told = verdict(error, call)
            return told
        return self._why_cancelled(exchange, snapshot, call)

    def _why_cancelled(self, exchange: Exchange, snapshot: Snapshot, call: Call) -> GatewayError | None:
        if exchange.gone:
            call.ended = "client_gone"
            return None
        if self.draining and trio.current_time() < call.started + snapshot.config.timeouts.total_s:
            call.ended = "shutdown"
            return ShuttingDown("the gateway is shutting down; the answer is incomplete", retry_after_s=1.0)
        call.ended = "timeout"
        return Timeout("the call took longer than timeouts.total_s; ask for less, or stream")

    async def _serve(self, exchange: Exchange, snapshot: Snapshot, live: _Live) -> None:
        """Read the body; with an Idempotency-Key run it once, without one run it."""
        body = await exchange.read_body()
        live.call.bytes_in = len(body)
        if self.keys is not live.keys:  # a body can be long on its way
            live.principal = self._find(exchange, self._wall_clock())
            live.call.key_name = live.principal.name
        exchange.watch(live.scope)
        key = find_key(exchange.headers)
        if key is None:
            return await self._run(exchange, snapshot, live, body)
        now, wall = trio.current_time(), self._wall_clock()
        entered = await self._idempotency.enter(live.principal.account_id, key, ROUTE, body, now, wall)
        if isinstance(entered, Replay):
            return await self._replay(exchange, snapshot, live, entered)
        with entered as live.slot:
            return await self._run(live.slot.exchange(exchange), snapshot, live, body)

    async def _run(self, exchange: Exchange, snapshot: Snapshot, live: _Live, body: bytes) -> None:
        """The stages, in order."""
        call = live.call
        request = parse_request(body)
        call.stream, call.max_tokens = request.stream, request.max_tokens
        call.prompt_estimate = estimate_prompt_tokens(body)
        config = snapshot.config
        course = self._router.course(request, call, live.principal, exchange.headers, config, snapshot.catalog)
        live.course = course
        attempts = [placed.attempt for placed in course.placed]
        try:
            live.headers += self._till.open(live.tab, live.principal, config, request, attempts)
        except (RateLimited, PaymentRequired):
            live.headers += self._till.standing(live.principal, config)
            raise
        self._router.began(call)
        contest = Contest(
            call, request, course, snapshot, self._router, self._metrics, self._wall_clock,
            lambda answer: self._abandon(exchange, live, answer),
        )  # fmt: skip
        answer = await self._wait_for_content(exchange, live, contest)
        live.headers += self._how_routed(exchange, live)
        try:
            call.winner, call.first_content_at, call.status = answer.attempt, trio.current_time(), 200
            await self._relay(exchange, snapshot, live, answer, show_cost=request.include_cost)
        finally:
            note_answer(call, answer)
            if not self._abandon(exchange, live, answer):
                answer.close()

    async def _replay(self, exchange: Exchange, snapshot: Snapshot, live: _Live, replay: Replay) -> None:
        """Give an answer again: no attempt, no charge."""
        call = live.call
        call.status, call.stream, call.ended = replay.status, replay.stream, "replayed"
        live.committed = True
        await self._reply(exchange, snapshot, [*replay.headers, *id_headers(call.request_id)], replay.body)
        call.bytes_out = len(replay.body)

    async def _wait_for_content(self, exchange: Exchange, live: _Live, contest: Contest) -> Answer:
        """Race; a stream that stays silent for long begins meanwhile, with comments."""
        timeouts = contest.snapshot.config.timeouts
        if not contest.request.stream or not timeouts.keepalive_s:
            return await contest.run()

        async def start(first: bytes) -> None:
            live.committed, live.call.status = True, 200
            await exchange.start(200, [*SSE, *live.headers, *self._how_routed(exchange, live)], first)

        waiting = Waiting(exchange, start, timeouts.keepalive_s)
        self._heartbeat.join(waiting)
        answer = None
        try:
            answer = await contest.run()
        finally:
            try:
                await self._heartbeat.leave(waiting, timeouts.client_stall_s)
            except BaseException:
                exchange.gone = exchange.gone or waiting.sent is not None  # a comment is stuck: nothing can follow it
                if answer is not None:
                    answer.close()
                raise
        return answer

    @staticmethod
    def _how_routed(exchange: Exchange, live: _Live) -> Headers:
        if live.course is None:  # it was refused before anything was routed
            return []
        verdict = live.course.verdict
        return how_routed(live.call, exchange.headers, verdict.name if verdict is not None else None)

    async def _relay(
        self, exchange: Exchange, snapshot: Snapshot, live: _Live, answer: Answer, *, show_cost: bool
    ) -> None:
        """Carry the answer up to its end, settle the call, and only then let its last bytes go."""
        call, relay = live.call, snapshot.relay
        already = live.committed  # a comment went ahead
        begun = live.committed = already or not answer.ended
        try:
            if answer.whole is None:
                headers = [*SSE, *live.headers]
                await relay.carry(answer, exchange, headers, begun=already)
                note_answer(call, answer)
                await self._settle(live)
                live.committed = True
                await relay.finish(answer, exchange, headers, begun=begun)
            else:
                note_answer(call, answer)
                body = answer.whole.body
                if show_cost:
                    body = with_cost(body, *report_of(call))
                call.bytes_out = answer.bytes_out = len(body)
                await self._settle(live)
                live.committed = True
                await self._reply(exchange, snapshot, [JSON, *live.headers], body)
        except (ClientGone, ClientStalled):
            exchange.gone = True
            raise

    async def _settle(self, live: _Live) -> None:
        """Raises Overloaded when the charge cannot be made durable; then a client who has nothing yet owes nothing."""
        call = live.call
        call.ended = "complete"
        if live.slot is not None:
            call.idempotency = live.slot.digest_hex
        try:
            self._till.book(live.tab)
        except Overloaded:
            call.undelivered, call.idempotency = not live.committed, None
            raise
        if live.slot is not None:  # charged: from here on it never runs again
            live.slot.complete(call.gen_id, trio.current_time(), self._wall_clock())
        await self._till.secure(live.tab, live.scope.deadline - _TO_SEND_S)

    async def _reply(self, exchange: Exchange, snapshot: Snapshot, headers: Headers, body: bytes) -> None:
        if exchange.bounds_sends:
            return await exchange.reply(200, headers, body)
        with trio.move_on_after(snapshot.config.timeouts.client_stall_s):
            return await exchange.reply(200, headers, body)
        raise ClientStalled

    def _abandon(self, exchange: Exchange, live: _Live, answer: Answer) -> bool:
        """The client left: hand the answer to the drainer when its provider bills on. False: the caller closes it."""
        policy = answer.attempt.on_disconnect
        if answer.ended or not exchange.gone or not isinstance(policy, Drain):
            return False
        call = live.call

        def drained() -> None:
            call.ended, call.model = "client_gone", answer.attempt.model.id
            if answer.chat is not None and answer.chat.content_seen and call.first_content_at is None:
                call.winner, call.first_content_at = answer.attempt, trio.current_time()
            if answer.whole is not None and call.winner is None:
                call.winner, call.first_content_at = answer.attempt, trio.current_time()
            note_answer(call, answer)
            self._close(live)

        live.handed_over = self._drainer.take(answer, policy, call.model, drained)
        return live.handed_over

    def _close(self, live: _Live) -> None:
        """Write the call down. Once per call: by its own task, or by the drainer it was handed to."""
        live.call.ended = live.call.ended or "cancelled"
        if live.call.stream:
            self._router.ended(live.call, trio.current_time())
        self._till.close(live.tab)

    def begin_draining(self) -> None:
        """Refuse new calls from now on; those under way go on."""
        self.draining = True

    def end_live(self) -> None:
        """The grace is over: end every call under way with an error of its own."""
        for live in tuple(self._live):
            live.scope.cancel()

    @property
    def live(self) -> int:
        """How many calls are under way."""
        return len(self._live)
