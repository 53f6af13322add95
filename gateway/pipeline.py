"""The life of a call, in order: auth, body, parse, plan, race, relay, settle. Every edge hands requests to `handle`.

Who owns what: the call's task owns everything, the edge gives it a scope to be cancelled in when the client leaves.
The race hands its winner over here; whoever holds an `Answer` closes it. Nothing below the parse sees bytes of the
client's again, nothing above the relay sees the provider's. A call that passed `auth` leaves exactly one record.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import structlog
import trio

from gateway.auth.keys import KeyIndex, bearer, refusal
from gateway.config import Drain
from gateway.core.call import Attempt, Call
from gateway.core.ids import IdMint
from gateway.dialects.chat_stream import StreamFault
from gateway.dialects.openai_chat import ChatRequest, error_frame, parse_request
from gateway.drain import Drainer
from gateway.edge.replies import JSON, error_reply, id_headers
from gateway.errors import (
    GatewayError,
    Internal,
    InvalidKey,
    MethodNotAllowed,
    Overloaded,
    Refused,
    ShuttingDown,
    StreamBroken,
    Timeout,
)
from gateway.exchange import ClientGone, ClientStalled, Exchange, Headers
from gateway.heartbeat import Heartbeat, Waiting
from gateway.judge import CallJudge
from gateway.observe.metrics import Metrics
from gateway.providers.openai import adapt_body
from gateway.race.attempt import run_attempt
from gateway.race.race import Race
from gateway.relay.errors import UpstreamIdle
from gateway.route.health import Health
from gateway.route.plan import plan
from gateway.settle.settle import record_of, usage_of
from gateway.snapshot import Records, Snapshot
from gateway.upstream.answer import Answer

SSE: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(slots=True, eq=False)
class _Live:
    """A call under way: what a shutdown needs of it."""

    call: Call
    scope: trio.CancelScope
    committed: bool = False
    handed_over: bool = False


class Pipeline:
    """Serves calls. `snapshot` and `keys` are swapped by their owners; `draining` is set once."""

    def __init__(
        self,
        snapshot: Snapshot,
        keys: KeyIndex,
        *,
        records: Records,
        health: Health,
        metrics: Metrics,
        drainer: Drainer,
        heartbeat: Heartbeat,
        wall_clock: Callable[[], float],
    ) -> None:
        self.snapshot = snapshot
        self.keys = keys
        self.draining = False
        self._records = records
        self._health = health
        self._metrics = metrics
        self._drainer = drainer
        self._heartbeat = heartbeat
        self._wall_clock = wall_clock
        self._ids = IdMint()
        self._live: set[_Live] = set()
        self._log = structlog.get_logger()

    async def handle(self, exchange: Exchange) -> None:
        """Serve one call from its head to its record. Raises nothing but Cancelled."""
        snapshot = self.snapshot
        now, wall = trio.current_time(), self._wall_clock()
        call = Call(exchange.request_id, self._ids.generation_id(wall), exchange.lane, now, wall)
        try:
            self._authenticate(exchange, call)
        except GatewayError as error:
            self._metrics.call("none", str(error.status), error.code).inc()
            return await self._tell(exchange, call, error)
        live = _Live(call, trio.CancelScope(deadline=now + snapshot.config.timeouts.total_s))
        self._live.add(live)
        try:
            told = await self._serve_within(exchange, snapshot, live)
            if told is not None:
                await self._tell(exchange, call, told, committed=live.committed)
        finally:
            self._live.discard(live)
            if not live.handed_over:
                self.settle(call)

    def _authenticate(self, exchange: Exchange, call: Call) -> None:
        if exchange.method != "POST":
            raise MethodNotAllowed(f"{exchange.method} is not served here; send POST", allow="POST")
        secret = bearer(exchange.headers)
        principal = self.keys.find(secret) if secret is not None else None
        if principal is None:
            raise InvalidKey(refusal(exchange.headers))
        if self.draining:
            raise ShuttingDown("the gateway is shutting down; retry against another instance", retry_after_s=5.0)
        if self._records.full:
            raise Overloaded("the gateway cannot write its records; retry later", retry_after_s=5.0)
        call.account_id, call.key_id, call.key_name = principal.account_id, principal.key_id, principal.name

    async def _serve_within(self, exchange: Exchange, snapshot: Snapshot, live: _Live) -> GatewayError | None:
        """Serve under the call's scope; what the client is still to be told, or None."""
        call = live.call
        try:
            with live.scope:
                await self._serve(exchange, snapshot, live)
                return None
            return self._why_cancelled(exchange, snapshot, call)
        except GatewayError as error:
            call.ended = "provider_refused" if isinstance(error, Refused) else error.code
            return error
        except ClientGone:
            call.ended = "client_gone"
        except ClientStalled:
            call.ended = "client_stalled"
        except StreamFault as fault:
            call.ended = f"upstream_{fault.outcome}"
            return StreamBroken("the provider broke off its answer; what came before it is incomplete")
        except UpstreamIdle:
            call.ended = "upstream_idle"
            return Timeout("the provider sent nothing for too long (timeouts.idle_s); the answer is incomplete")
        except Exception:  # noqa: BLE001 - a bug in one call must not end its connection untold
            self._log.error("call_failed", request_id=call.request_id, exc_info=True)
            call.ended = "internal_error"
            return Internal("the gateway failed; report the request id")
        return None

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
        """The stages, in order."""
        call = live.call
        body = await exchange.read_body()
        call.bytes_in = len(body)
        exchange.watch(live.scope)
        request = parse_request(body)
        call.stream, call.max_tokens = request.stream, request.max_tokens
        entry = snapshot.catalog.find(request.model)
        call.model = entry.model.id
        attempts = plan(entry, request.fields, stream=request.stream, health=self._health, now=call.started)
        answer = await self._wait_for_content(snapshot, live, request, attempts, exchange)
        try:
            call.winner, call.first_content_at, call.status = answer.attempt, trio.current_time(), 200
            await self._relay(exchange, snapshot, live, answer)
            call.ended = "complete"
        finally:
            self._note_answer(call, answer)
            if not self._abandon(exchange, live, answer):
                answer.close()

    async def _wait_for_content(
        self, snapshot: Snapshot, live: _Live, request: ChatRequest, attempts: list[Attempt], exchange: Exchange
    ) -> Answer:
        """Race; a stream that stays silent for long begins meanwhile, with comments."""
        timeouts = snapshot.config.timeouts
        if not request.stream or not timeouts.keepalive_s:
            return await self._race(snapshot, live, request, attempts, exchange)

        async def start(first: bytes) -> None:
            live.committed, live.call.status = True, 200
            await exchange.start(200, [*SSE, *self._ids_of(live.call)], first)

        waiting = Waiting(exchange, start, timeouts.keepalive_s)
        self._heartbeat.join(waiting)
        answer = None
        try:
            answer = await self._race(snapshot, live, request, attempts, exchange)
        finally:
            try:
                await self._heartbeat.leave(waiting, timeouts.client_stall_s)
            except BaseException:
                exchange.gone = exchange.gone or waiting.sent is not None  # a comment is stuck: nothing can follow it
                if answer is not None:
                    answer.close()
                raise
        return answer

    async def _race(
        self, snapshot: Snapshot, live: _Live, request: ChatRequest, attempts: list[Attempt], exchange: Exchange
    ) -> Answer:
        call = live.call

        async def start(attempt: Attempt) -> Answer:
            body = adapt_body(
                request.fields, upstream_model=attempt.offer.model, stream=request.stream, quirks=attempt.quirks
            )
            return await run_attempt(
                snapshot.runner, attempt, body, model=call.model, stream=request.stream, usage=request.include_usage,
                abandon=lambda answer: self._abandon(exchange, live, answer),
            )  # fmt: skip

        judge = CallJudge(call, self._health, self._metrics, snapshot.hedger)
        attempts = attempts[: snapshot.config.race.attempts_max]
        delay_s = snapshot.hedger.delay_s(attempts[0]) if len(attempts) > 1 else inf
        return await Race(attempts, start, judge, hedge_delay_s=delay_s, may_hedge=snapshot.hedger.allow).run()

    async def _relay(self, exchange: Exchange, snapshot: Snapshot, live: _Live, answer: Answer) -> None:
        call = live.call
        headers, begun = self._ids_of(call), live.committed
        live.committed = True
        try:
            if answer.whole is not None:
                await self._reply(exchange, snapshot, [JSON, *headers], answer.whole.body)
                call.bytes_out = len(answer.whole.body)
            else:
                call.bytes_out = await snapshot.relay.carry(answer, exchange, [*SSE, *headers], begun=begun)
        except (ClientGone, ClientStalled):
            exchange.gone = True
            raise

    async def _reply(self, exchange: Exchange, snapshot: Snapshot, headers: Headers, body: bytes) -> None:
        if exchange.bounds_sends:
            return await exchange.reply(200, headers, body)
        with trio.move_on_after(snapshot.config.timeouts.client_stall_s):
            return await exchange.reply(200, headers, body)
        raise ClientStalled

    def _ids_of(self, call: Call) -> Headers:
        return [*id_headers(call.request_id), (b"x-generation-id", call.gen_id.encode())]

    def _note_answer(self, call: Call, answer: Answer) -> None:
        """Copy what the answer knows of itself into the call."""
        chat, whole = answer.chat, answer.whole
        if chat is not None:
            with contextlib.suppress(StreamFault):  # the last frame was junk: its fault is already on its way
                chat.catch_up()
            call.usage, call.finish_reason, call.deltas = chat.usage, chat.finish_reason, chat.deltas
            call.chunk_id, call.chunk_created = chat.chunk_id, chat.created
        elif whole is not None:
            call.usage, call.finish_reason = whole.usage, whole.finish_reason
            call.deltas = -(-len(whole.body) // 4)

    def _abandon(self, exchange: Exchange, live: _Live, answer: Answer) -> bool:
        """The client left: hand the answer to the drainer when its provider bills on. False: the caller closes it."""
        policy = answer.attempt.on_disconnect
        if answer.ended or not exchange.gone or not isinstance(policy, Drain):
            return False
        call = live.call

        def drained() -> None:
            call.ended = "client_gone"
            if answer.chat is not None and answer.chat.content_seen and call.first_content_at is None:
                call.winner, call.first_content_at = answer.attempt, trio.current_time()
            if answer.whole is not None and call.winner is None:
                call.winner, call.first_content_at = answer.attempt, trio.current_time()
            self._note_answer(call, answer)
            self.settle(call)

        live.handed_over = self._drainer.take(answer, policy, call.model, drained)
        return live.handed_over

    async def _tell(self, exchange: Exchange, call: Call, error: GatewayError, *, committed: bool = False) -> None:
        """Tell the client of an error: as an answer, or as the last frame of a stream that has begun."""
        if not committed or call.status == 0:
            call.status = error.status
        call.code = error.code
        if exchange.gone:
            return
        with trio.move_on_after(self.snapshot.config.timeouts.client_stall_s):
            try:
                if committed:
                    await exchange.finish(self._last_frame(call, error) if call.stream else b"")
                else:
                    status, headers, body = error_reply(error, call.request_id)
                    await exchange.reply(status, [*headers, (b"x-generation-id", call.gen_id.encode())], body)
            except (ClientGone, ClientStalled):
                call.ended = call.ended or "client_gone"

    def _last_frame(self, call: Call, error: GatewayError) -> bytes:
        created = call.chunk_created or int(call.started_at)
        return error_frame(
            error, call.request_id, chunk_id=call.chunk_id, created=created, model=call.model, usage=usage_of(call)
        )

    def settle(self, call: Call) -> None:
        """Write the call down. Once per call: by its own task, or by the drainer it was handed to."""
        now = trio.current_time()
        call.ended = call.ended or "cancelled"
        self._records.put(record_of(call, now))
        metrics = self._metrics
        metrics.call(call.model or "none", str(call.status), call.ended).inc()
        metrics.total("true" if call.stream else "false").observe(now - call.started)
        metrics.bytes_in.inc(call.bytes_in)
        metrics.bytes_out.inc(call.bytes_out)
        if call.winner is not None and call.first_content_at is not None:
            metrics.first_content(call.winner.provider).observe(call.first_content_at - call.started)

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
