"""The money of whole calls: what is held, refused, charged and written down, and that it precedes the last byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from gateway.config import Drain, Plan, Race
from gateway.core.money import PicoUsd
from gateway.core.principal import Account, Principal
from gateway.core.usage import estimate_prompt_tokens
from gateway.errors import Overloaded
from gateway.exchange import ClientGone, Headers
from gateway.heartbeat import Heartbeat
from gateway.store.calls import CallRecord
from gateway.store.holds import OpenHold
from gateway.store.journal import LINE_BYTES_MAX, Journal, Segment
from gateway.till import COMMIT_WAIT_S
from tests.exchanges import MODEL, WALL, FakeExchange, World, build_pipeline, request_body, retimed
from tests.upstream import (
    DONE,
    FINISH,
    GOOD_STREAM,
    HANG,
    LAST_CHUNK,
    REFUSE,
    ROLE,
    SSE_HEAD,
    USAGE,
    WORD,
    Close,
    Script,
    Send,
    Wait,
    answer_body,
    chunk,
    script,
    whole,
)

INPUT, OUTPUT = 2_000_000, 10_000_000  # pico-USD a token, of every offer
COST = 3 * INPUT + 2 * OUTPUT  # of answer_body() and USAGE
RICH = 10**12
PREPAID = Principal("key-1", Account("account-1", prepaid=True), "tester")
WHOLE = script(Send(whole(answer_body())))
BURST = script(Send(GOOD_STREAM))
END_ALONE = script(
    Send(SSE_HEAD + chunk(ROLE) + chunk(WORD)), Wait(1), Send(chunk(WORD) + chunk(FINISH)), Wait(1),
    Send(chunk(USAGE)), Wait(1), Send(chunk(DONE)), Send(LAST_CHUNK),
)  # fmt: skip
BROKEN_OFF = script(Send(SSE_HEAD + chunk(ROLE) + chunk(WORD) + chunk(WORD)), Wait(1), Close())
SLOW_START = script(Wait(40), *END_ALONE.steps[1:])


@dataclass
class Told:
    """What happened, in order: `line` for the journal's, else what the exchange was told to do."""

    events: list[str] = field(default_factory=list)

    def watch(self, world: World) -> None:
        write = world.records.write_line

        def write_line(record: CallRecord) -> Segment:
            self.events.append("line")
            return write(record)

        setattr(world.records, "write_line", write_line)  # noqa: B010 - mypy will not have a method assigned


class Watched(FakeExchange):
    """A client that notes the order of what it is sent among other events."""

    def __init__(self, body: bytes, told: Told) -> None:
        super().__init__(body)
        self._told = told

    async def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self._told.events.append("last")
        await super().reply(status, headers, body)

    async def start(self, status: int, headers: Headers, first: bytes, *, last: bool = False) -> None:
        self._told.events.append("last" if last else "start")
        await super().start(status, headers, first, last=last)

    async def send(self, data: bytes) -> None:
        self._told.events.append("send")
        await super().send(data)

    async def finish(self, last: bytes = b"") -> None:
        self._told.events.append("last")
        await super().finish(last)


@dataclass(frozen=True)
class Case:
    """A kind of answer: whether it streams, and when its last byte goes. `error`: the code of its last frame."""

    provider: Script
    stream: bool
    ended_at: float
    error: str = ""
    cost: int = COST


ANSWERS = {
    "whole": Case(WHOLE, stream=False, ended_at=0),
    "whole, slow": Case(script(Wait(2), Send(whole(answer_body()))), stream=False, ended_at=2),
    "end alone": Case(END_ALONE, stream=True, ended_at=3),
    "in one piece": Case(BURST, stream=True, ended_at=0),
    "after comments": Case(SLOW_START, stream=True, ended_at=43),
    "in one piece after comments": Case(script(Wait(40), Send(GOOD_STREAM)), stream=True, ended_at=40),
    "broken off": Case(BROKEN_OFF, stream=True, ended_at=1, error="upstream_broken"),
    "error in the stream": Case(
        script(Send(SSE_HEAD + chunk(ROLE) + chunk(WORD) + chunk(WORD)), Wait(1), Send(chunk(b'data: {"error":1}\n\n'))),
        stream=True, ended_at=1, error="upstream_broken",
    ),
    "idle": Case(
        script(Send(SSE_HEAD + chunk(ROLE) + chunk(WORD) + chunk(WORD)), HANG), stream=True, ended_at=50, error="timeout"
    ),
}  # fmt: skip


async def serve(
    nursery: trio.Nursery, case: Case, told: Told, *, before: Callable[[World], None] = lambda _world: None
) -> tuple[World, FakeExchange]:
    heartbeat = Heartbeat()
    nursery.start_soon(heartbeat.run)
    world = await build_pipeline(
        nursery, {"a": [case.provider]}, heartbeat=heartbeat, timeouts=retimed(idle_s=50), principal=PREPAID,
        balance_pico_usd=RICH,
    )  # fmt: skip
    before(world)
    told.watch(world)
    exchange = Watched(request_body(stream=case.stream, max_tokens=20), told)
    await world.pipeline.handle(exchange)
    return world, exchange


def break_journal(world: World) -> None:
    world.records.broken = True


def lose_power(world: World) -> None:
    world.till._power_loss = True


def do_nothing(world: World) -> None:
    pass


def commit_after(world: World, seconds: float, *, power_loss: bool) -> None:
    """Have each commit take so long."""

    async def committed() -> None:
        await trio.sleep(seconds)

    setattr(world.records, "committed", committed)  # noqa: B010 - as above
    world.till._power_loss = power_loss


def prompt_of(**more: Any) -> int:
    return estimate_prompt_tokens(request_body(**more))


def balance(world: World) -> int:
    left, held = world.gate.balance("account-1")
    assert held == 0
    return left


@pytest.mark.parametrize("name", ANSWERS)
async def test_the_last_byte_follows_the_line(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, name: str
) -> None:
    case, told = ANSWERS[name], Told()
    world, exchange = await serve(nursery, case, told)
    assert told.events.count("line") == told.events.count("last") == 1
    assert told.events[-2:] == ["line", "last"]
    assert exchange.ended_at == case.ended_at
    ((written_at, line),) = world.records.lines
    assert written_at == case.ended_at
    record = world.record
    if case.error:
        assert json.loads(exchange.frames()[-1][6:])["error"]["code"] == case.error
        assert DONE not in exchange.body
        assert record.usage_estimated
        cost = prompt_of(stream=True, max_tokens=20) * INPUT + 2 * OUTPUT
    else:
        assert exchange.body.endswith(DONE if case.stream else b"}")
        cost = case.cost
    assert (line.gen_id, line.cost_pico_usd, line.provider_cost_pico_usd) == (record.gen_id, cost, cost)
    assert (record.cost_pico_usd, record.provider_cost_pico_usd, balance(world)) == (cost, cost, RICH - cost)
    assert line.hold_pico_usd == record.hold_pico_usd > 0
    world.assert_clean()


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_broken_journal_ends_no_call_as_if_it_were_booked(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, name: str
) -> None:
    """Who has nothing yet owes nothing; a stream that has begun ends with an error, and what was sent of it is owed."""
    case = ANSWERS[name]
    world, exchange = await serve(nursery, case, Told(), before=break_journal)
    record = world.record
    assert world.records.lines == []
    assert DONE not in exchange.body
    if not case.error:
        assert (record.code, record.ended) == ("overloaded", "overloaded")
    if exchange.calls == ["reply"]:
        assert (exchange.status, exchange.json()["error"]["code"]) == (503, "overloaded")
        assert exchange.answer_headers[b"retry-after"] == b"1"
        assert (record.cost_pico_usd, balance(world)) == (0, RICH)
        assert not case.error
    else:
        assert case.stream
        assert json.loads(exchange.frames()[-1][6:])["error"]["code"] == (case.error or "overloaded")
        assert balance(world) == RICH - record.cost_pico_usd < RICH
    assert record.provider_cost_pico_usd > 0
    assert (exchange.calls == ["reply"]) == (name in {"whole", "whole, slow", "in one piece"})
    world.assert_clean()


async def test_a_journal_that_is_well_again_takes_the_next_call(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    world, _ = await serve(
        nursery,
        replace(ANSWERS["whole"], provider=script(*WHOLE.steps[1:], *WHOLE.steps)),
        Told(),
        before=break_journal,
    )
    world.records.broken = False
    exchange = await world.call(stream=False)
    assert exchange.status == 200
    assert balance(world) == RICH - COST
    assert len(world.records.lines) == 1


@pytest.mark.parametrize("name", ANSWERS)
async def test_with_power_loss_the_last_byte_follows_the_commit(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, name: str
) -> None:
    case, told = ANSWERS[name], Told()

    def wait_for_the_commit(world: World) -> None:
        async def committed() -> None:
            assert world.record.cost_pico_usd == RICH - balance(world) > 0
            await trio.sleep(5)
            told.events.append("committed")

        setattr(world.records, "committed", committed)  # noqa: B010 - as above
        world.till._power_loss = True

    world, exchange = await serve(nursery, case, told, before=wait_for_the_commit)
    assert told.events[-3:] == ["line", "committed", "last"]
    assert exchange.ended_at == case.ended_at + 5
    assert len(world.records.lines) == len(world.records.taken) == 1
    world.assert_clean()


@pytest.mark.parametrize("name", ANSWERS)
async def test_with_power_loss_a_record_says_what_it_says_without(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, name: str
) -> None:
    """It is handed over before the last byte leaves, and says how that byte and what comes before it are."""
    case, records = ANSWERS[name], []
    for power_loss in (False, True):
        async with trio.open_nursery() as services:
            began = trio.current_time()
            world, exchange = await serve(services, case, Told(), before=lose_power if power_loss else do_nothing)
            assert exchange.ended_at == began + case.ended_at
            services.cancel_scope.cancel()
        records.append(world.record)
    before, after = records
    assert (after.code, after.status, after.ended, after.bytes_out) == (
        before.code, before.status, before.ended, before.bytes_out,
    )  # fmt: skip
    assert after.code == case.error
    assert after.bytes_out > 0 or case.error
    assert msgspec.structs.replace(after, gen_id=before.gen_id, started_at=before.started_at) == before


@pytest.mark.parametrize(("power_loss", "waited_s"), [(False, 0), (True, 5)])
@pytest.mark.parametrize(
    ("usage", "model", "idempotent", "lasting"),
    [
        ((3, 2), {}, False, True),
        ((3, 2), {"price": "free"}, False, True),  # its provider is owed all the same
        ((0, 0), {}, False, False),
        ((0, 0), {}, True, True),
        ((0, 0), {"price": "free"}, True, True),
    ],
)
async def test_what_has_to_last_is_written_down_and_waited_for(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    power_loss: bool,
    waited_s: float,
    usage: tuple[int, int],
    model: dict[str, Any],
    idempotent: bool,
    lasting: bool,
) -> None:
    """Where money moved, or an Idempotency-Key was used: a crash that forgot it would let the call run again."""
    provider = script(Send(whole(answer_body(usage=usage))))
    world = await build_pipeline(nursery, {"a": [provider]}, principal=PREPAID, balance_pico_usd=RICH, model=model)
    commit_after(world, 5, power_loss=power_loss)
    exchange = FakeExchange(request_body(stream=False))
    if idempotent:
        exchange.headers.append((b"idempotency-key", b"one"))
    await world.pipeline.handle(exchange)
    assert (exchange.status, exchange.ended_at) == (200, waited_s * lasting)
    assert len(world.records.lines) == lasting
    assert (world.record.idempotency is not None) == idempotent
    world.assert_clean()


@pytest.mark.parametrize(
    ("total_s", "waited_s"), [(600.0, COMMIT_WAIT_S), (COMMIT_WAIT_S + 50, COMMIT_WAIT_S), (8.0, 7.0)]
)
@pytest.mark.parametrize("name", ["whole", "in one piece"])
async def test_a_disk_that_is_stuck_delays_an_answer_and_does_not_take_it_away(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, name: str, total_s: float, waited_s: float
) -> None:
    """What is charged is delivered: the line is in the journal, and only a power cut could undo it."""
    world = await build_pipeline(
        nursery, {"a": [ANSWERS[name].provider]}, principal=PREPAID, balance_pico_usd=RICH,
        timeouts=retimed(total_s=total_s),
    )  # fmt: skip
    commit_after(world, inf, power_loss=True)
    exchange = await world.call(stream=ANSWERS[name].stream)
    assert (exchange.status, exchange.ended_at) == (200, waited_s)
    assert (world.record.ended, world.record.cost_pico_usd, balance(world)) == ("complete", COST, RICH - COST)
    assert len(world.records.lines) == 1
    world.assert_clean()


class Leaver(FakeExchange):
    """A client who leaves before the last byte, and after the call was booked."""

    async def reply(self, status: int, headers: Headers, body: bytes) -> None:
        self.gone = True
        raise ClientGone

    async def finish(self, last: bytes = b"") -> None:
        self.gone = True
        raise ClientGone


@pytest.mark.parametrize("name", ["whole", "end alone"])
async def test_a_charged_call_with_an_idempotency_key_is_not_run_again(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, name: str
) -> None:
    case = ANSWERS[name]
    world = await build_pipeline(nursery, {"a": [case.provider]}, principal=PREPAID, balance_pico_usd=RICH)
    body = request_body(stream=case.stream)
    for exchange in (Leaver(body), FakeExchange(body), FakeExchange(body)):
        exchange.headers.append((b"idempotency-key", b"one"))
        await world.pipeline.handle(exchange)
    first, *again = world.records.taken
    assert (first.ended, first.cost_pico_usd) == ("client_gone", COST)
    assert [(record.ended, record.cost_pico_usd) for record in again] == [("replayed", 0)] * 2
    assert (exchange.status, exchange.answer_headers[b"idempotent-replayed"]) == (200, b"true")
    assert (balance(world), len(world.records.lines), len(world.upstream.dialled)) == (RICH - COST, 1, 1)
    assert [record.idempotency is not None for record in world.records.taken] == [True, False, False]


async def test_a_failed_call_with_an_idempotency_key_may_run_again(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    world = await build_pipeline(nursery, {"a": [REFUSE, WHOLE]}, principal=PREPAID, balance_pico_usd=RICH)
    for status in (503, 200):
        exchange = FakeExchange(request_body(stream=False))
        exchange.headers.append((b"idempotency-key", b"one"))
        await world.pipeline.handle(exchange)
        assert exchange.status == status
    assert balance(world) == RICH - COST
    assert [record.idempotency is not None for record in world.records.taken] == [False, True]


async def test_a_cost_that_no_line_can_hold_is_refused_and_leaves_nothing_held(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    """Prices past all reason. The customer gets no answer and owes nothing; the provider's bill is ours."""
    world = await build_pipeline(
        nursery, {"a": [WHOLE]}, principal=replace(key(), spend_limit=PicoUsd(10**30)), balance_pico_usd=RICH,
        model={"markup": (10**13, 1)},
    )  # fmt: skip
    log = Journal(tmp_path, 4 * LINE_BYTES_MAX)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(world.records, "write_line", log.write)
        exchange = await world.call(stream=False)
    assert (exchange.status, exchange.json()["error"]["code"]) == (503, "overloaded")
    assert (world.record.cost_pico_usd, world.record.provider_cost_pico_usd, balance(world)) == (0, COST, RICH)
    assert log._current.uncommitted == 0
    log.close()
    world.assert_clean()


@dataclass(frozen=True)
class Refusal:
    """Who is refused, and how."""

    principal: Principal
    status: int
    code: str
    recorded: bool = False


def key(**terms: Any) -> Principal:
    return Principal("key-1", Account("account-1"), "tester", **terms)


@pytest.mark.parametrize(
    "case",
    [
        Refusal(key(management=True), 403, "management_key"),
        Refusal(Principal("key-1", Account("account-1", suspended=True), "tester"), 403, "account_suspended"),
        Refusal(key(disabled=True), 401, "invalid_api_key"),
        Refusal(key(expires_at=WALL), 401, "invalid_api_key"),
        Refusal(key(models=frozenset({"other/model"})), 403, "model_denied", recorded=True),
        Refusal(key(models=frozenset()), 403, "model_denied", recorded=True),
        Refusal(PREPAID, 402, "insufficient_balance", recorded=True),
        Refusal(key(spend_limit=PicoUsd(1)), 402, "spend_limit_reached", recorded=True),
        Refusal(key(plan="gone"), 503, "overloaded", recorded=True),
        Refusal(key(tpm=10), 429, "rate_limit_exceeded", recorded=True),
    ],
    ids=lambda case: case.code,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_who_is_refused_calls_no_provider_and_holds_nothing(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, case: Refusal, stream: bool
) -> None:
    world = await build_pipeline(nursery, {"a": [WHOLE]}, principal=case.principal)
    exchange = await world.call(stream=stream)
    assert (exchange.status, exchange.json()["error"]["code"]) == (case.status, case.code)
    assert (world.upstream.dialled, world.records.holds_opened, world.records.lines) == ([], 0, [])
    costs = [
        (record.cost_pico_usd, record.provider_cost_pico_usd, record.hold_pico_usd) for record in world.records.taken
    ]
    assert costs == [(0, 0, 0)] * case.recorded
    assert [record.code for record in world.records.taken] == [case.code] * case.recorded
    world.assert_clean()


async def test_a_key_is_good_until_it_expires(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    principal = key(expires_at=WALL + 10, models=frozenset({MODEL}))
    world = await build_pipeline(nursery, {"a": [WHOLE, WHOLE]}, principal=principal)
    await trio.sleep(9.999)
    assert (await world.call(stream=False)).status == 200
    await trio.sleep(0.001)
    assert (await world.call(stream=False)).status == 401


def limits_told(exchange: FakeExchange) -> dict[str, str]:
    return {
        name.removeprefix(b"x-ratelimit-").decode(): value.decode()
        for name, value in exchange.answer_headers.items()
        if name.startswith(b"x-ratelimit-") or name == b"retry-after"
    }


async def test_limits_are_told_in_every_answer(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    provider = script(Send(whole(answer_body())), *WHOLE.steps, *WHOLE.steps)
    world = await build_pipeline(nursery, {"a": [provider]}, principal=key(rpm=2, tpm=6000))
    used = prompt_of(stream=False, max_tokens=20) + 20
    first = await world.call(stream=False, max_tokens=20)
    assert limits_told(first) == {
        "limit-requests": "2", "remaining-requests": "1", "reset-requests": "30s",
        "limit-tokens": "6000", "remaining-tokens": f"{6000 - used}", "reset-tokens": f"{used * 10}ms",
    }  # fmt: skip
    second = await world.call(stream=False, max_tokens=20)
    assert limits_told(second)["remaining-tokens"] == f"{6000 - 5 - used}", "trued up to what was used"
    await trio.sleep(10)
    third = await world.call(stream=False, max_tokens=20)
    assert (third.status, third.json()["error"]["message"]) == (429, "Rate limit exceeded: 2 RPM")
    assert limits_told(third) == {
        "limit-requests": "2", "remaining-requests": "0", "reset-requests": "50s", "retry-after": "20",
        "limit-tokens": "6000", "remaining-tokens": "6000", "reset-tokens": "0s",
    }  # fmt: skip
    await trio.sleep(19.999)
    assert (await world.call(stream=False, max_tokens=20)).status == 429
    await trio.sleep(0.002)
    assert (await world.call(stream=False, max_tokens=20)).status == 200
    assert len(world.upstream.dialled) == 1, "and the refused called nobody"


async def test_a_402_tells_the_limits_too(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    world = await build_pipeline(nursery, {"a": [WHOLE]}, principal=replace(PREPAID, rpm=7))
    exchange = await world.call(stream=False)
    assert (exchange.status, limits_told(exchange)) == (
        402,
        {"limit-requests": "7", "remaining-requests": "7", "reset-requests": "0s"},
    )


@pytest.mark.parametrize(
    ("fields", "plans", "model", "completion"),
    [
        ({"max_tokens": 20}, {}, {}, 20),
        ({"max_completion_tokens": 30, "max_tokens": 20}, {}, {}, 30),
        ({}, {}, {}, 1000),  # 4096 by default, and the model's context is 1000
        ({}, {}, {"completion_tokens_max": 700}, 700),
        ({"max_tokens": 2**31 - 1}, {}, {}, 1000),
        ({"max_tokens": 800}, {}, {"completion_tokens_max": 700}, 700),
        ({}, {"small": Plan(completion_tokens_default=40)}, {}, 40),
        ({"max_tokens": 50}, {"small": Plan(completion_tokens_default=40)}, {}, 50),
        ({"max_tokens": 20, "n": 5}, {}, {}, 100),
        ({"max_tokens": 20, "n": 1}, {}, {}, 20),
        ({"max_tokens": 20, "n": 128}, {}, {}, 20 * 128),
        ({"max_tokens": 20, "n": None}, {}, {}, 20),
    ],
)
async def test_the_most_that_a_call_can_cost_is_held(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    fields: dict[str, Any],
    plans: dict[str, Plan],
    model: dict[str, Any],
    completion: int,
) -> None:
    hold = prompt_of(stream=False, **fields) * INPUT + completion * OUTPUT
    principal = replace(PREPAID, plan=next(iter(plans), None))
    for short in (1, 0):
        world = await build_pipeline(
            nursery, {"a": [WHOLE]}, principal=principal, plans=plans, model=model, balance_pico_usd=hold - short
        )
        exchange = await world.call(stream=False, **fields)
        assert exchange.status == (402 if short else 200)
    assert (world.record.hold_pico_usd, world.records.holds_opened, world.records.holds) == (hold, 1, {})
    assert balance(world) == hold - COST


async def test_the_hold_is_written_down_before_any_provider_is_called(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    world = await build_pipeline(nursery, {"a": [script(HANG)]}, principal=PREPAID, balance_pico_usd=RICH)
    async with trio.open_nursery() as calls:
        exchange = FakeExchange(request_body(stream=True, max_tokens=20))
        calls.start_soon(world.pipeline.handle, exchange)
        await trio.sleep(1)
        (hold,) = world.records.holds.values()
        assert (hold.account_id, hold.key_id, hold.model, hold.started_at) == ("account-1", "key-1", MODEL, WALL)
        assert hold.hold_pico_usd == world.gate.held() == world.gate.balance("account-1")[1] > 0
        exchange.leave()
    assert (world.record.gen_id, world.record.hold_pico_usd) == (hold.gen_id, hold.hold_pico_usd)
    assert balance(world) == RICH
    world.assert_clean()


@pytest.mark.parametrize(
    ("broken", "usage", "noted"), [(False, (3, 2), False), (False, (0, 0), True), (True, (3, 2), True)]
)
async def test_a_hold_stays_noted_until_a_line_or_the_record_tells_of_its_call(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, broken: bool, usage: tuple[int, int], noted: bool
) -> None:
    """A crash in between finds one of them. What is noted is no longer held."""
    provider = script(Send(whole(answer_body(usage=usage))))
    world = await build_pipeline(nursery, {"a": [provider]}, principal=PREPAID, balance_pico_usd=RICH)
    world.records.broken = broken
    handed_over: list[tuple[bool, list[int], int]] = []

    def put(record: CallRecord, line: Segment | None = None, slot: int | None = None) -> None:
        handed_over.append((line is not None, [] if slot is None else [slot], world.gate.held()))
        assert list(world.records.holds) == handed_over[0][1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(world.records, "put", put)
        await world.call(stream=False)
    assert handed_over == [(not noted, [1] * noted, 0)]


DRAIN = Drain(30.0, PicoUsd(10**12))


async def test_a_deadline_settles_what_was_seen(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    world = await build_pipeline(
        nursery, {"a": [END_ALONE]}, principal=PREPAID, balance_pico_usd=RICH, timeouts=retimed(total_s=1.5)
    )
    told = Told()
    told.watch(world)
    exchange = Watched(request_body(stream=True), told)
    await world.pipeline.handle(exchange)
    assert told.events[-2:] == ["line", "last"]
    assert world.record.ended == "timeout"
    assert balance(world) == RICH - prompt_of(stream=True) * INPUT - 2 * OUTPUT
    world.assert_clean()


async def test_with_credit_for_seven_of_two_hundred_calls_seven_pass(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    hold = prompt_of(stream=True, max_tokens=2) * INPUT + 2 * OUTPUT
    world = await build_pipeline(nursery, {"a": [END_ALONE]}, principal=PREPAID, balance_pico_usd=8 * hold - 1)
    exchanges = [FakeExchange(request_body(stream=True, max_tokens=2)) for _ in range(200)]
    async with trio.open_nursery() as calls:
        for exchange in exchanges:
            calls.start_soon(world.pipeline.handle, exchange)
    assert sorted(exchange.status for exchange in exchanges) == [200] * 7 + [402] * 193
    assert len(world.upstream.dialled) == 7
    assert balance(world) == 8 * hold - 1 - 7 * COST
    world.assert_clean()


async def test_calls_under_way_and_drains_are_what_must_have_room(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Both have yet to be written down. Those whose bodies are still being read count before they hold anything."""
    provider = script(*END_ALONE.steps[1:], Close())
    world = await build_pipeline(
        nursery, {"a": [provider]}, principal=PREPAID, balance_pico_usd=RICH, on_disconnect={"a": DRAIN}
    )
    asked: list[int] = []

    def has_room(calls_under_way: int) -> bool:
        asked.append(calls_under_way)
        return calls_under_way < 5

    setattr(world.records, "has_room", has_room)  # noqa: B010 - as above
    async with trio.open_nursery() as calls:
        exchanges = [FakeExchange(request_body(stream=True)) for _ in range(7)]
        for exchange in exchanges:
            calls.start_soon(world.pipeline.handle, exchange)
            calls.start_soon(exchange.leave_at, 0.5)
    assert asked == [0, 1, 2, 3, 4, 5, 5]
    assert (len(world.drainer), world.pipeline.live, len(world.records.holds)) == (5, 0, 5)
    refused = await world.call(stream=True)
    assert (asked[-1], refused.status, refused.answer_headers[b"retry-after"]) == (5, 503, b"5")
    assert sorted(exchange.status for exchange in exchanges) == [200] * 5 + [503] * 2
    await trio.sleep(10)
    assert (await world.call(stream=True)).status == 200
    assert (asked[-1], world.records.holds_opened) == (0, 6)
    world.assert_clean()


async def test_without_a_place_to_note_a_hold_a_call_is_refused_and_costs_nothing(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    world = await build_pipeline(
        nursery, {"a": [WHOLE]}, principal=replace(PREPAID, concurrency=1), balance_pico_usd=RICH
    )

    def open_hold(_hold: OpenHold) -> int:
        raise Overloaded("too many calls hold credit at once; retry shortly", retry_after_s=1.0)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(world.records, "open_hold", open_hold)
        for _ in range(3):
            refused = await world.call(stream=False)
            assert (refused.status, refused.answer_headers[b"retry-after"]) == (503, b"1")
    assert (world.upstream.dialled, balance(world), world.records.lines) == ([], RICH, [])
    assert [(record.code, record.cost_pico_usd) for record in world.records.taken] == [("overloaded", 0)] * 3
    assert (await world.call(stream=False)).status == 200, "the place of the refused is free"
    assert balance(world) == RICH - COST
    world.assert_clean()


class CutAt(trio.abc.Instrument):
    """Calls `cut` just before the n-th task step."""

    def __init__(self, step: int, cut: Callable[[], None]) -> None:
        self.left = step
        self._cut = cut

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self._cut()


async def cut_run(scripts: Mapping[str, Sequence[Script]], step: int, how: str, more: Mapping[str, Any]) -> bool:
    """One call, cut just before its n-th step; whether the cut came before its end."""
    async with trio.open_nursery() as services:
        world = await build_pipeline(services, scripts, principal=PREPAID, balance_pico_usd=RICH, **more)
        exchange, outer = FakeExchange(request_body(stream="whole" not in how)), trio.CancelScope()
        cut = CutAt(step, exchange.leave if how.startswith("leave") else outer.cancel)
        with outer:
            trio.lowlevel.add_instrument(cut)
            try:
                await world.pipeline.handle(exchange)
            finally:
                trio.lowlevel.remove_instrument(cut)
        await trio.sleep(100)
        record = world.record
        assert balance(world) == RICH - record.cost_pico_usd
        assert [line.cost_pico_usd for _, line in world.records.lines] == [record.cost_pico_usd] * bool(
            record.cost_pico_usd or record.provider_cost_pico_usd or record.hedge_cost_pico_usd
        )
        assert record.cost_pico_usd <= record.hold_pico_usd
        assert world.gate.spent("key-1", WALL).total == record.cost_pico_usd
        if exchange.ended_at is not None and exchange.status == 200:
            assert world.records.lines[0][0] <= exchange.ended_at
        world.assert_clean()
        services.cancel_scope.cancel()
    return cut.left <= 0


@pytest.mark.parametrize("how", ["leave", "cancel", "leave whole", "cancel whole"])
@pytest.mark.parametrize("policy", ["cancel", "drain", "hedged"])
def test_cut_at_every_step_no_hold_is_left(how: str, policy: str) -> None:
    slow = (
        script(Send(whole(answer_body())[:40]), Wait(1), Send(whole(answer_body())[40:]))
        if "whole" in how
        else END_ALONE
    )
    scripts: dict[str, Sequence[Script]] = {"a": [slow]}
    more: dict[str, Any] = {"on_disconnect": {"a": DRAIN}} if policy == "drain" else {}
    if policy == "hedged":
        scripts = {"b": [script(HANG)], "a": [slow]}
        more = {"race": Race(hedge="delay", hedge_delay_s=1.0)}
    step = 1
    while trio.run(cut_run, scripts, step, how, more, clock=trio.testing.MockClock(autojump_threshold=0)):
        step += 1
        assert step < 1000
    assert step > 5
