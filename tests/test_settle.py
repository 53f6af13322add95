"""What a call cost, written down once: by what was reported, counted or lost, and who pays for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from gateway.config import Drain, OnDisconnect, Race
from gateway.core.call import AttemptNote, Call
from gateway.core.money import PicoUsd
from gateway.core.principal import Account, Principal
from gateway.core.usage import Usage, estimate_prompt_tokens
from gateway.settle.settle import Costs, costs_of, record_of, usage_of
from gateway.store import ledger
from gateway.store.calls import COLUMNS
from tests.exchanges import FakeExchange, World, build_pipeline, request_body
from tests.upstream import (
    DONE,
    FINISH,
    GOOD_STREAM,
    HANG,
    LAST_CHUNK,
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
    frame,
    script,
    streamed,
    usage_frame,
    whole,
)

INPUT, OUTPUT = 2_000_000, 10_000_000  # pico-USD a token, of every offer
COST = 3 * INPUT + 2 * OUTPUT  # of answer_body() and USAGE
RICH = 10**12
PREPAID = Principal("key-1", Account("account-1", prepaid=True), "tester")
POSTPAID = Principal("key-1", Account("account-1"), "tester")
CAPPED = Principal("key-1", Account("account-1"), "tester", spend_limit=PicoUsd(0))
WHOLE = script(Send(whole(answer_body())))
END_ALONE = script(
    Send(SSE_HEAD + chunk(ROLE) + chunk(WORD)), Wait(1), Send(chunk(WORD) + chunk(FINISH)), Wait(1),
    Send(chunk(USAGE)), Wait(1), Send(chunk(DONE)), Send(LAST_CHUNK),
)  # fmt: skip
BROKEN_OFF = script(Send(SSE_HEAD + chunk(ROLE) + chunk(WORD) + chunk(WORD)), Wait(1), Close())


def prompt_of(**more: Any) -> int:
    return estimate_prompt_tokens(request_body(**more))


def balance(world: World) -> int:
    left, held = world.gate.balance("account-1")
    assert held == 0
    return left


def test_a_call_that_came_nowhere_cost_nothing() -> None:
    call = Call("req-1", "gen-1", "express", 10.0, 1_700_000_000.0, "acct_1", "key_1", "laptop", ended="bad_request")
    costs = costs_of(call)
    assert (usage_of(call), costs) == (Usage(0, 0), Costs(Usage(0, 0), 0, 0, 0))
    record = record_of(call, costs, 10.5, hold=7)
    assert (record.gen_id, record.account_id, record.total_ms, record.first_content_ms) == (
        "gen-1",
        "acct_1",
        500,
        None,
    )
    assert (record.provider, record.upstream_model, record.attempts, record.hold_pico_usd) == ("", "", (), 7)


def test_every_field_of_a_record_has_its_own_value() -> None:
    """The record is made by position: no two fields may be mistaken for each other."""
    call = Call("req-1", "gen-1", "express", 10.0, 1_700_000_000.0, "acct_1", "key_1", "laptop", "x/m", stream=True)
    call.status, call.code, call.ended = 201, "code", "ended"
    call.first_content_at, call.bytes_in, call.bytes_out = 10.25, 31, 32
    call.finish_reason, call.chunk_id, call.idempotency, call.auto = "stop", "chunk", "digest", "coding 3"
    used = Usage(1, 2, 3, 4, estimated=True, cache_write=5)
    record = record_of(call, Costs(used, 6, 7, 8), 10.5, hold=9)
    assert msgspec.structs.asdict(record) == {
        "gen_id": "gen-1", "request_id": "req-1", "started_at": 1_700_000_000.0, "account_id": "acct_1",
        "key_id": "key_1", "key_name": "laptop", "route": "chat", "lane": "express", "stream": True, "model": "x/m",
        "provider": "", "upstream_model": "", "attempts": (), "status": 201, "code": "code", "ended": "ended",
        "prompt_tokens": 1, "cached_tokens": 3, "completion_tokens": 2, "reasoning_tokens": 4,
        "usage_estimated": True, "cost_pico_usd": 6, "provider_cost_pico_usd": 7, "first_content_ms": 250.0,
        "total_ms": 500.0, "bytes_in": 31, "bytes_out": 32, "cache_write_tokens": 5, "hedge_cost_pico_usd": 8,
        "hold_pico_usd": 9, "finish_reason": "stop", "upstream_id": "chunk", "idempotency": "digest", "auto": "coding 3",
    }  # fmt: skip


def test_losers_are_summed_even_when_nobody_won() -> None:
    call = Call("req-1", "gen-1", "express", 10.0, 1_700_000_000.0)
    call.attempts = [AttemptNote("a", "cancelled", 0, 500.0, 300), AttemptNote("b", "cut", 200, 250.0)]
    call.attempts.append(AttemptNote("c", "cancelled", 0, 125.0, 40))
    assert costs_of(call) == Costs(Usage(0, 0), 0, 0, 340)
    record = record_of(call, costs_of(call), 11.0)
    assert record.attempts == tuple(call.attempts)
    assert record.hedge_cost_pico_usd == 340


def test_a_record_has_no_place_for_what_was_said() -> None:
    assert not {"messages", "prompt", "completion", "body", "secret"} & set(COLUMNS)


@dataclass(frozen=True)
class Used:
    """An answer, and what is charged for it. `prompt` None: as estimated."""

    body: bytes
    stream: bool
    prompt: int | None
    completion: int
    insured: bool = False


def unfinished(**report: int) -> bytes:
    body = json.loads(answer_body(text="", usage=None))
    body["choices"][0]["finish_reason"] = None
    return whole(json.dumps({**body, "usage": report}).encode())


def message_tokens(body: bytes) -> int:
    """The estimate of what a whole answer says, whatever else is in it."""
    return sum(estimate_prompt_tokens(json.dumps(choice["message"]).encode()) for choice in json.loads(body)["choices"])


def padded(**more: Any) -> bytes:
    """An answer of two choices without usage, with long members that nobody asked for."""
    body = json.loads(answer_body(text="a longer answer", usage=None))
    body["choices"] = [{**body["choices"][0], "logprobs": "y" * 4000}, json.loads(NO_USAGE)["choices"][0]]
    return json.dumps({**body, "x": "y" * 4000, **more}).encode()


NO_USAGE = answer_body(usage=None)
USAGES = {
    "reported": Used(whole(answer_body(usage=(7, 5))), stream=False, prompt=7, completion=5),
    "explicit 0": Used(whole(answer_body(usage=(0, 0))), stream=False, prompt=0, completion=0),
    "no completion, finished": Used(whole(answer_body(usage=(7, 0))), stream=False, prompt=7, completion=0),
    "no completion, unfinished": Used(
        unfinished(prompt_tokens=7, completion_tokens=0), stream=False, prompt=7, completion=0, insured=True
    ),
    "unfinished": Used(unfinished(prompt_tokens=7, completion_tokens=1), stream=False, prompt=7, completion=1),
    "missing": Used(whole(NO_USAGE), stream=False, prompt=None, completion=message_tokens(NO_USAGE)),
    "absurd": Used(
        whole(absurd := answer_body(usage=(7, 10**9 + 1))), stream=False, prompt=None, completion=message_tokens(absurd)
    ),
    "negative": Used(
        whole(negative := answer_body(usage=(7, -1))), stream=False, prompt=None, completion=message_tokens(negative)
    ),
    "missing, padded": Used(whole(padded()), stream=False, prompt=None, completion=message_tokens(padded())),
    "null, padded": Used(whole(padded(usage=None)), stream=False, prompt=None, completion=message_tokens(padded())),
    "stream": Used(GOOD_STREAM, stream=True, prompt=3, completion=2),
    "stream, explicit 0": Used(
        streamed(ROLE, WORD, FINISH, usage_frame(0, 0), DONE), stream=True, prompt=0, completion=0
    ),
    "stream, missing": Used(streamed(ROLE, WORD, WORD, WORD, FINISH, DONE), stream=True, prompt=None, completion=3),
    "stream, absurd": Used(
        streamed(ROLE, WORD, WORD, FINISH, usage_frame(10**10, 2), DONE), stream=True, prompt=None, completion=2
    ),
    "stream, absurd at last": Used(
        streamed(ROLE, WORD, WORD, FINISH, usage_frame(9, 9), usage_frame(-1, 2), DONE), stream=True, prompt=9,
        completion=9,
    ),
    "stream, in a content frame": Used(
        streamed(ROLE, WORD, frame({"content": "x"}, "stop", usage={"prompt_tokens": 4, "completion_tokens": 6}), DONE),
        stream=True, prompt=4, completion=6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", USAGES)
async def test_what_was_used_is_charged(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, name: str
) -> None:
    case = USAGES[name]
    fields: dict[str, Any] = {"stream": case.stream, "max_tokens": 100}
    world = await build_pipeline(nursery, {"a": [script(Send(case.body))]}, principal=PREPAID, balance_pico_usd=RICH)
    assert (await world.call(**fields)).status == 200
    record = world.record
    prompt = prompt_of(**fields) if case.prompt is None else case.prompt
    cost = prompt * INPUT + case.completion * OUTPUT
    assert (record.prompt_tokens, record.completion_tokens) == (prompt, case.completion)
    assert record.usage_estimated == (case.prompt is None)
    assert record.provider_cost_pico_usd == cost
    assert record.cost_pico_usd == (0 if case.insured else cost)
    assert balance(world) == RICH - record.cost_pico_usd
    assert len(world.records.lines) == (cost > 0)
    world.assert_clean()


def test_the_estimate_of_a_whole_answer_is_small_where_it_says_little() -> None:
    assert message_tokens(NO_USAGE) < 12 < message_tokens(padded()) < 30


@pytest.mark.parametrize(
    ("fields", "model", "completion_max"),
    [
        ({}, {}, 1000),  # the context window
        ({"max_tokens": 20}, {}, 1000),
        ({"max_tokens": 2000}, {}, 2000),
        ({"max_tokens": 20}, {"completion_tokens_max": 700}, 700),
        ({"max_tokens": 900}, {"completion_tokens_max": 700}, 900),
        ({"max_tokens": 20, "n": 3}, {"completion_tokens_max": 700}, 2100),
    ],
)
@pytest.mark.parametrize("beyond", ["", "prompt", "completion"])
@pytest.mark.parametrize("stream", [True, False])
async def test_usage_beyond_what_the_model_can_is_not_believed(
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    fields: dict[str, Any],
    model: dict[str, Any],
    completion_max: int,
    beyond: str,
    stream: bool,
) -> None:
    """To the last token; what the client is told is what is charged."""
    fields = {**fields, "stream": stream, "usage": {"include": True}}
    guess = prompt_of(**fields)
    prompt, completion = 1000 + 4 * guess + (beyond == "prompt"), completion_max + (beyond == "completion")
    body = answer_body(usage=(prompt, completion))
    answer = streamed(ROLE, WORD, WORD, FINISH, usage_frame(prompt, completion), DONE) if stream else whole(body)
    world = await build_pipeline(
        nursery, {"a": [script(Send(answer))]}, principal=PREPAID, balance_pico_usd=RICH, model=model
    )
    exchange = await world.call(**fields)
    record = world.record
    if beyond:
        prompt, completion = guess, 2 if stream else message_tokens(body)
    cost = prompt * INPUT + completion * OUTPUT
    assert (record.prompt_tokens, record.completion_tokens, record.usage_estimated) == (
        prompt,
        completion,
        bool(beyond),
    )
    assert (record.cost_pico_usd, record.provider_cost_pico_usd, balance(world)) == (cost, cost, RICH - cost)
    told = json.loads(exchange.frames()[-2][6:] if stream else exchange.body)["usage"]
    assert (told["prompt_tokens"], told["completion_tokens"], round(told["cost"] * 10**12)) == (
        prompt,
        completion,
        cost,
    )
    assert told.get("estimated", False) == bool(beyond)
    world.assert_clean()


async def test_what_was_used_beyond_the_hold_is_a_line_of_its_own(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    hold = prompt_of(stream=False, max_tokens=2) * INPUT + 2 * OUTPUT
    provider = script(Send(whole(answer_body(usage=(7, 500)))))
    world = await build_pipeline(nursery, {"a": [provider]}, principal=PREPAID, balance_pico_usd=hold)
    await world.call(stream=False, max_tokens=2)
    cost = 7 * INPUT + 500 * OUTPUT
    assert balance(world) == hold - cost < 0
    entries = ledger.of_call(world.record)
    assert entries is not None
    assert entries.lines[:3] == (
        ledger.Line("customer", "account-1", -hold),
        ledger.Line("customer", "account-1", hold - cost, "beyond the hold"),
        ledger.Line("revenue", "account-1", cost),
    )
    assert sum(line.amount for line in entries.lines) == 0
    refused = await world.call(stream=False, max_tokens=1)
    assert (refused.status, len(world.upstream.dialled)) == (402, 1)


@pytest.mark.parametrize("principal", [PREPAID, CAPPED])
async def test_a_free_model_costs_its_customer_nothing_and_us_what_it_costs(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, principal: Principal
) -> None:
    world = await build_pipeline(nursery, {"a": [WHOLE]}, principal=principal, model={"price": "free"})
    assert (await world.call(stream=False)).status == 200
    record = world.record
    assert (record.cost_pico_usd, record.hold_pico_usd, record.provider_cost_pico_usd) == (0, 0, COST)
    assert (balance(world), world.records.holds_opened, len(world.records.lines)) == (0, 0, 1)


async def test_who_pays_afterwards_holds_nothing(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    world = await build_pipeline(nursery, {"a": [WHOLE]}, principal=POSTPAID, model={"markup": (1, 2)})
    await world.call(stream=False)
    record = world.record
    assert (record.hold_pico_usd, world.records.holds_opened) == (0, 0)
    assert (record.cost_pico_usd, record.provider_cost_pico_usd, balance(world)) == (
        COST * 3 // 2,
        COST,
        -COST * 3 // 2,
    )


@dataclass(frozen=True)
class Left:
    """A client who leaves at a time, and what is charged."""

    provider: Script
    stream: bool
    at: float
    deltas: int
    policy: OnDisconnect = "cancel"
    tokens: tuple[int, int] | None = None


DRAIN = Drain(30.0, PicoUsd(10**12))
LEFT = {
    "before content": Left(script(Wait(5), Send(GOOD_STREAM)), stream=True, at=2, deltas=0),
    "before the whole": Left(script(Wait(5), *WHOLE.steps[1:]), stream=False, at=2, deltas=0),
    "after content": Left(END_ALONE, stream=True, at=0.5, deltas=1),
    "after more": Left(END_ALONE, stream=True, at=1.5, deltas=2),
    "after the usage": Left(END_ALONE, stream=True, at=2.5, deltas=2, tokens=(3, 2)),
    "drained": Left(END_ALONE, stream=True, at=0.5, deltas=2, policy=DRAIN, tokens=(3, 2)),
    "drained from before content": Left(
        script(Wait(5), Send(GOOD_STREAM)), stream=True, at=2, deltas=2, policy=DRAIN, tokens=(3, 2)
    ),
    "drained whole": Left(script(Wait(5), *WHOLE.steps[1:]), stream=False, at=2, deltas=1, policy=DRAIN, tokens=(3, 2)),
    "drained, too dear": Left(END_ALONE, stream=True, at=0.5, deltas=1, policy=Drain(30.0, PicoUsd(1))),
    "drained, too long": Left(END_ALONE, stream=True, at=0.5, deltas=2, policy=Drain(1.0, PicoUsd(10**12))),
    "drained, broken off": Left(BROKEN_OFF, stream=True, at=0.5, deltas=2, policy=DRAIN),
}


@pytest.mark.parametrize("name", LEFT)
async def test_who_leaves_pays_for_what_was_seen(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, name: str
) -> None:
    case = LEFT[name]
    world = await build_pipeline(
        nursery, {"a": [case.provider]}, principal=PREPAID, balance_pico_usd=RICH, on_disconnect={"a": case.policy}
    )
    exchange = FakeExchange(request_body(stream=case.stream))
    async with trio.open_nursery() as calls:
        calls.start_soon(exchange.leave_at, case.at)
        await world.pipeline.handle(exchange)
    await trio.sleep(60)
    record = world.record
    prompt, completion = case.tokens or ((prompt_of(stream=case.stream), case.deltas) if case.deltas else (0, 0))
    cost = prompt * INPUT + completion * OUTPUT
    assert record.ended == "client_gone"
    assert (record.prompt_tokens, record.completion_tokens, record.cost_pico_usd) == (prompt, completion, cost)
    assert (record.provider_cost_pico_usd, balance(world), len(world.records.lines)) == (cost, RICH - cost, bool(cost))
    world.assert_clean()


async def test_a_provider_that_bills_on_is_owed_the_cap_and_the_customer_what_he_saw(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    world = await build_pipeline(
        nursery, {"a": [END_ALONE]}, principal=PREPAID, balance_pico_usd=RICH, on_disconnect={"a": "cap"}
    )
    exchange = FakeExchange(request_body(stream=True, max_tokens=50))
    async with trio.open_nursery() as calls:
        calls.start_soon(exchange.leave_at, 0.5)
        await world.pipeline.handle(exchange)
    prompt = prompt_of(stream=True, max_tokens=50)
    assert world.record.cost_pico_usd == prompt * INPUT + OUTPUT
    assert world.record.provider_cost_pico_usd == prompt * INPUT + 50 * OUTPUT


@pytest.mark.parametrize(("usage", "owed"), [(None, message_tokens(NO_USAGE)), ((3, 2), 2)])
async def test_a_cap_is_not_for_an_answer_that_was_whole_and_could_not_be_booked(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, usage: tuple[int, int] | None, owed: int
) -> None:
    """The provider sent all of it: it bills what it sent. The customer was refused it."""
    world = await build_pipeline(
        nursery, {"a": [script(Send(whole(answer_body(usage=usage))))]}, principal=PREPAID, balance_pico_usd=RICH,
        on_disconnect={"a": "cap"},
    )  # fmt: skip
    world.records.broken = True
    assert (await world.call(stream=False, max_tokens=1000)).status == 503
    prompt = 3 if usage else prompt_of(stream=False, max_tokens=1000)
    assert (world.record.cost_pico_usd, balance(world)) == (0, RICH)
    assert world.record.provider_cost_pico_usd == prompt * INPUT + owed * OUTPUT
    world.assert_clean()


@pytest.mark.parametrize("stream", [True, False])
async def test_losers_of_a_hedge_are_on_us(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, stream: bool
) -> None:
    fast = script(Send(GOOD_STREAM if stream else whole(answer_body())))
    world = await build_pipeline(
        nursery, {"a": [script(HANG)], "b": [script(HANG)], "c": [fast]}, principal=PREPAID, balance_pico_usd=RICH,
        race=Race(hedge="delay", hedge_delay_s=1.0),
    )  # fmt: skip
    await world.call(stream=stream)
    record = world.record
    losers = 2 * prompt_of(stream=stream) * INPUT
    assert (record.provider, record.cost_pico_usd, record.provider_cost_pico_usd) == ("c", COST, COST)
    assert (record.hedge_cost_pico_usd, balance(world)) == (losers, RICH - COST)
    entries = ledger.of_call(record)
    assert entries is not None
    assert entries.lines[-2:] == (
        ledger.Line("hedge_cost", "", -losers),
        ledger.Line("provider_payable", "", losers, "losers"),
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_a_loser_that_was_sent_nothing_costs_nothing(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, stream: bool
) -> None:
    """One still dials, one waits for its answer, one dialled for long and was sent the request just before it lost."""
    fast = script(Wait(1), Send(GOOD_STREAM if stream else whole(answer_body())))
    world = await build_pipeline(
        nursery,
        {"a": [script(HANG, connect_s=5)], "b": [script(HANG)], "c": [script(HANG, connect_s=1.9)], "d": [fast]},
        principal=PREPAID, balance_pico_usd=RICH, race=Race(hedge="delay", hedge_delay_s=1.0, attempts_max=4),
    )  # fmt: skip
    await world.call(stream=stream)
    record = world.record
    assert sorted((note.provider, note.outcome) for note in record.attempts) == [
        ("a", "cancelled"), ("b", "cancelled"), ("c", "cancelled"), ("d", "won"),
    ]  # fmt: skip
    assert record.hedge_cost_pico_usd == 2 * prompt_of(stream=stream) * INPUT
    world.assert_clean()


async def test_who_failed_or_was_left_costs_no_hedge(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    world = await build_pipeline(
        nursery, {"a": [script(HANG)], "b": [script(HANG)]}, principal=PREPAID, balance_pico_usd=RICH,
        race=Race(hedge="delay", hedge_delay_s=1.0),
    )  # fmt: skip
    exchange = FakeExchange(request_body(stream=True))
    async with trio.open_nursery() as calls:
        calls.start_soon(exchange.leave_at, 5)
        await world.pipeline.handle(exchange)
    assert (world.record.hedge_cost_pico_usd, world.record.cost_pico_usd, balance(world)) == (0, 0, RICH)
    assert len(world.record.attempts) == 2
