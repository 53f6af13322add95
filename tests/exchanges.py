"""The pipeline over scripted providers, and a client that notes what it is sent and when.

`World` composes what `gateway.app` composes, with memory transports, a list as records and one model, `test/model`,
offered by every scripted provider in the order given.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from gateway.admit.gate import Gate
from gateway.admit.limiter import Limiter
from gateway.auth.keys import KeyIndex, digest
from gateway.config import Auto, Config, Model, Offer, OnDisconnect, Plan, Provider, Race, Routing, Timeouts, Upstream
from gateway.core.money import PicoUsd
from gateway.core.principal import Account, Principal
from gateway.drain import Drainer
from gateway.exchange import ClientGone, Headers
from gateway.heartbeat import Heartbeat
from gateway.idempotency import Idempotency
from gateway.observe.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.pollset import PollSet
from gateway.race.attempt import Runner
from gateway.relay.pump import Pump
from gateway.relay.relay import Relay
from gateway.route.auto.lexical import LexicalClassifier
from gateway.route.catalog import Catalog
from gateway.route.health import Health
from gateway.router import Router
from gateway.snapshot import Snapshot
from gateway.store.calls import CallRecord
from gateway.store.holds import OpenHold
from gateway.store.journal import JournalFailed, Segment
from gateway.till import Till
from gateway.upstream.pool import Dialer, Pool
from tests.upstream import MemoryUpstream, Script

MODEL = "test/model"
KEY = b"gw-test"
PEPPER = b"pepper"
WALL = 1_700_000_000.0


def request_body(*, stream: bool, **more: Any) -> bytes:
    return json.dumps(
        {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **more}
    ).encode()


class FakeExchange:
    """gateway.exchange.Exchange in memory. `stall_at`: the n-th send of the answer (0: its start) never returns."""

    def __init__(self, body: bytes, *, stall_at: int | None = None, key: bytes = KEY) -> None:
        self.lane = "test"
        self.request_id = "request-1"
        self.method = "POST"
        self.path = "/v1/chat/completions"
        self.headers: Headers = [(b"authorization", b"Bearer " + key)]
        self.gone = False
        self.bounds_sends = False
        self.status = 0
        self.answer_headers: dict[bytes, bytes] = {}
        self.sent: list[tuple[float, bytes]] = []
        self.ended_at: float | None = None
        self.calls: list[str] = []
        self._body = body
        self._stall_at = stall_at
        self._scope: trio.CancelScope | None = None
        self._sent_event = trio.Event()

    # the client's side

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.sent)

    def json(self) -> Any:
        return json.loads(self.body)

    def frames(self) -> list[bytes]:
        assert self.body.endswith(b"\n\n")
        return [frame + b"\n\n" for frame in self.body[:-2].split(b"\n\n")]

    def leave(self) -> None:
        self.gone = True
        if self._scope is not None:
            self._scope.cancel()

    async def leave_at(self, when_s: float) -> None:
        await trio.sleep_until(when_s)
        self.leave()

    async def heard(self, count: int) -> None:
        """Wait until the answer has come in so many pieces."""
        while len(self.sent) < count:
            await self._sent_event.wait()

    # the gateway's side

    def watch(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        if self.gone:
            scope.cancel()

    async def read_body(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._body

    async def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self._begin("reply", status, headers)
        await self._take(body)
        self.ended_at = trio.current_time()

    async def start(self, status: int, headers: Headers, first: bytes, *, last: bool = False) -> None:
        self._begin("start", status, headers)
        await self._take(first)
        if last:
            self.ended_at = trio.current_time()

    async def send(self, data: bytes) -> None:
        self.calls.append("send")
        await self._take(data)

    async def finish(self, last: bytes = b"") -> None:
        self.calls.append("finish")
        assert self.ended_at is None, "the answer ended twice"
        await self._take(last)
        self.ended_at = trio.current_time()

    def pump_fd(self) -> int | None:
        return None

    def wire(self, data: bytes, *, last: bool) -> bytes:
        raise AssertionError("not for the pump")

    def owe(self, wire: bytes) -> None:
        raise AssertionError("not for the pump")

    def _begin(self, how: str, status: int, headers: Headers) -> None:
        assert not self.status, "the answer began twice"
        self.calls.append(how)
        self.status, self.answer_headers = status, dict(headers)

    async def _take(self, data: bytes) -> None:
        if self.gone:
            raise ClientGone
        if self._stall_at is not None and len(self.sent) >= self._stall_at:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if data:
            self.sent.append((trio.current_time(), data))
            self._sent_event.set()
            self._sent_event = trio.Event()


@dataclass
class RecordList:
    """gateway.snapshot.Records as lists. `lines` are what the journal holds; `broken` refuses them."""

    taken: list[CallRecord] = field(default_factory=list)
    full: bool = False
    broken: bool = False
    arrived: trio.Event = field(default_factory=trio.Event)
    holds: dict[int, OpenHold] = field(default_factory=dict)
    lines: list[tuple[float, CallRecord]] = field(default_factory=list)
    holds_opened: int = 0

    def has_room(self, calls_under_way: int) -> bool:
        return not self.full

    def open_hold(self, hold: OpenHold) -> int:
        self.holds_opened += 1
        self.holds[self.holds_opened] = hold
        return self.holds_opened

    def close_hold(self, slot: int) -> None:
        del self.holds[slot]

    def write_line(self, record: CallRecord) -> Segment:
        if self.broken:
            raise JournalFailed("broken")
        self.lines.append((trio.current_time(), msgspec.structs.replace(record)))
        return Segment(Path("line"), None, 0)

    def put(self, record: CallRecord, line: Segment | None = None, slot: int | None = None) -> None:
        self.taken.append(record)
        if slot is not None:
            self.close_hold(slot)
        self.arrived.set()

    async def committed(self) -> None:
        await trio.lowlevel.checkpoint()


@dataclass
class World:
    """A composed pipeline and everything a test looks at."""

    pipeline: Pipeline
    upstream: MemoryUpstream
    pool: Pool
    records: RecordList
    metrics: Metrics
    health: Health
    drainer: Drainer
    gate: Gate
    till: Till
    idempotency: Idempotency

    async def call(self, *, stream: bool = True, **more: Any) -> FakeExchange:
        """One call, to its end."""
        exchange = FakeExchange(request_body(stream=stream, **more))
        await self.pipeline.handle(exchange)
        return exchange

    @property
    def record(self) -> CallRecord:
        assert len(self.records.taken) == 1
        return self.records.taken[0]

    def outcomes(self) -> list[tuple[str, str]]:
        return [(note.provider, note.outcome) for record in self.records.taken for note in record.attempts]

    def assert_clean(self) -> None:
        """No task, no borrowed or half-open connection, nothing in flight."""
        assert self.pipeline.live == 0
        assert self.gate.held() == 0
        assert not self.records.holds
        assert "internal_error" not in {record.ended for record in self.records.taken}
        assert len(self.drainer) == 0
        assert self.upstream.dialling == 0
        used = sum(used for used, _ in self.pool.counts().values())
        idle = sum(idle for _, idle in self.pool.counts().values())
        assert used == 0
        if self.upstream.scripts:
            assert len(self.upstream.open()) == idle


async def build_pipeline(
    nursery: trio.Nursery,
    scripts: Mapping[str, Sequence[Script]],
    *,
    timeouts: Timeouts | None = None,
    race: Race | None = None,
    routing: Routing | None = None,
    retries: int = 0,
    limits: Upstream | None = None,
    keys: Mapping[str, int] | None = None,
    on_disconnect: Mapping[str, OnDisconnect] | None = None,
    ports: Mapping[str, int] | None = None,
    pump: Pump | None = None,
    heartbeat: Heartbeat | None = None,
    principal: Principal | None = None,
    plans: Mapping[str, Plan] | None = None,
    model: Mapping[str, Any] | None = None,
    models: Sequence[Model] = (),
    auto: Auto | None = None,
    balance_pico_usd: int = 0,
) -> World:
    """Compose a pipeline over memory. `keys` is the number of keys of a provider; 1 for those not named.
    `models` are there instead of `test/model`, whose settings `model` has.

    With `ports` its providers are real, on 127.0.0.1, and `scripts` only names them.
    """
    limits = limits or Upstream()
    providers = {
        name: Provider(
            name,
            "openai",
            f"http://{name}.test/v1" if ports is None else f"http://127.0.0.1:{ports[name]}/v1",
            tuple(f"sk-{name}-{index}" for index in range((keys or {}).get(name, 1))),
            enabled=True,
            on_disconnect=(on_disconnect or {}).get(name, "cancel"),
        )
        for name in scripts
    }
    offers = tuple(Offer(name, "up-model", PicoUsd(2_000_000), PicoUsd(10_000_000)) for name in scripts)
    config = Config(
        "test.toml",
        timeouts=timeouts or Timeouts(),
        race=msgspec.structs.replace(race or Race(), retries_max=retries),
        routing=routing or Routing(affinity_s=0),  # calls of a test are not one conversation, unless it says so
        upstream=limits,
        providers=providers,
        plans=dict(plans or {}),
        auto=auto or Auto(),
        models={
            each.id: each
            for each in models or [Model(MODEL, offers, 1000, **({"balance": "order"} | dict(model or {})))]
        },
    )
    upstream = MemoryUpstream(nursery, dict(scripts) if ports is None else {})
    pool = Pool(
        connections_max=limits.connections_max,
        idle_s=limits.idle_s,
        connect=upstream.connect if ports is None else Dialer(),
    )
    router = Router(config, LexicalClassifier(), random.Random(1).random)
    metrics, health, drainer, records = Metrics(), router.health, Drainer(1_000_000), RecordList()
    principal = principal or Principal("key-1", Account("account-1"), "tester")
    index = KeyIndex(PEPPER, {digest(PEPPER, KEY): principal})
    gate = Gate(Limiter(day_zone="UTC", keys_max=1000), wall=WALL)
    gate.load({principal.account_id: balance_pico_usd}, [])
    idempotency = Idempotency(bytes_max=1_000_000, answer_bytes_max=100_000)

    def wall_clock() -> float:
        return WALL + trio.current_time()

    snapshot = Snapshot(
        config,
        Catalog(config),
        Runner(pool, config.timeouts, limits, wall_clock),
        Relay(Pump(PollSet()) if pump is None else pump, config.timeouts),
    )
    till = Till(gate, records, metrics, wall_clock)
    pipeline = Pipeline(
        snapshot,
        index,
        till=till,
        idempotency=idempotency,
        router=router,
        metrics=metrics,
        drainer=drainer,
        heartbeat=heartbeat or Heartbeat(),
        wall_clock=wall_clock,
    )
    await nursery.start(_run_drainer, drainer)
    return World(pipeline, upstream, pool, records, metrics, health, drainer, gate, till, idempotency)


async def _run_drainer(drainer: Drainer, *, task_status: trio.TaskStatus[None]) -> None:
    await drainer.run(task_status=task_status)


def retimed(**values: float) -> Timeouts:
    """The default time limits but for these."""
    return msgspec.structs.replace(Timeouts(), **values)
