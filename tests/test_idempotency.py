"""Idempotency-Key: one run and one charge a key and request, whatever its duplicates, clients and clocks do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway import idempotency
from gateway.errors import BadRequest, Conflict, Overloaded
from gateway.exchange import ClientGone, Exchange, Headers
from gateway.idempotency import Idempotency, Replay, Slot, find_key
from gateway.idempotency.answers import ANSWER_OVERHEAD_BYTES
from gateway.idempotency.keys import UsedKeys
from tests.exchanges import FakeExchange

ROUTE = "/v1/chat/completions"
KEY = b"2f0c9a4e-retry"
BODY = b'{"model":"m"}'
WALL = 1_700_000_000.0
GEN = "gen-018bcfe5680000000000000000000001"
KIB = 1024
JSON_HEADERS: Headers = [(b"content-type", b"application/json"), (b"x-generation-id", GEN.encode())]
SSE_HEADERS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
PER_REQUEST: Headers = [
    (b"x-request-id", b"request-1"),
    (b"request-id", b"request-1"),
    (b"x-ratelimit-remaining-requests", b"19"),
    (b"date", b"Tue, 14 Nov 2023 22:13:20 GMT"),
]


def build(**more: Any) -> Idempotency:
    return Idempotency(**{"bytes_max": 1024 * KIB, "answer_bytes_max": 64 * KIB, **more})


async def enter(
    keys: Idempotency, key: bytes = KEY, body: bytes = BODY, *, account: str = "account-1", route: str = ROUTE
) -> Replay | Slot:
    return await keys.enter(account, key, route, body, trio.current_time(), WALL + trio.current_time())


async def first(keys: Idempotency, key: bytes = KEY, body: bytes = BODY, **more: Any) -> Slot:
    slot = await enter(keys, key, body, **more)
    assert isinstance(slot, Slot)
    return slot


async def replayed(keys: Idempotency, key: bytes = KEY, body: bytes = BODY, **more: Any) -> Replay:
    replay = await enter(keys, key, body, **more)
    assert isinstance(replay, Replay)
    return replay


async def conflict(keys: Idempotency, key: bytes = KEY, body: bytes = BODY, **more: Any) -> Conflict:
    with pytest.raises(Conflict) as caught:
        await enter(keys, key, body, **more)
    assert caught.value.status == 409
    return caught.value


def book(slot: Slot, gen_id: str = GEN) -> None:
    slot.complete(gen_id, trio.current_time(), WALL + trio.current_time())


async def run_once(keys: Idempotency, key: bytes = KEY, answer: bytes = b"{}", **more: Any) -> None:
    """A call that completes with `answer`."""
    with await first(keys, key, **more) as slot:
        slot.remember(200, JSON_HEADERS, answer)
        book(slot)


def cost(answer: bytes) -> int:
    return ANSWER_OVERHEAD_BYTES + sum(len(name) + len(value) for name, value in JSON_HEADERS) + len(answer)


# keys


@pytest.mark.parametrize("key", [b"a", b"x" * 255, b'"8e03978e-40d5"', b"with spaces ~"])
async def test_a_printable_key_is_taken(key: bytes) -> None:
    with await first(build(), key) as slot:
        assert len(slot.digest_hex) == 32
        assert key.hex() not in slot.digest_hex


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"caf\xc3\xa9", b"a\tb", b"\x7f", b"\x00"])
async def test_any_other_key_is_400(key: bytes) -> None:
    keys = build()
    with pytest.raises(BadRequest) as caught:
        await enter(keys, key)
    assert (caught.value.status, caught.value.param) == (400, "Idempotency-Key")
    assert keys.running == 0


def test_the_header_is_found_once_or_not_at_all() -> None:
    other = (b"accept", b"*/*")
    assert find_key([other]) is None
    assert find_key([other, (b"idempotency-key", KEY)]) == KEY
    for headers in ([(b"idempotency-key", KEY)] * 2, [(b"idempotency-key", b"")]):
        with pytest.raises(BadRequest) as caught:
            find_key([other, *headers])
        assert caught.value.param == "Idempotency-Key"


async def test_accounts_do_not_meet_and_parts_cannot_be_shifted_between_them() -> None:
    keys = build()
    names = [("account-1", KEY), ("account-2", KEY), ("a", b"bc"), ("ab", b"c"), ("1:a", b"b"), ("1", b":ab")]
    for account, key in names:
        await run_once(keys, key, account.encode(), account=account)
    for account, key in names:
        assert (await replayed(keys, key, account=account)).body == account.encode()


# one run


async def test_a_repeated_call_gets_the_first_ones_answer() -> None:
    keys = build()
    with await first(keys) as slot:
        slot.remember(201, [*JSON_HEADERS, *PER_REQUEST], b'{"id":1}')
        book(slot)
    assert keys.running == 0
    headers = [*JSON_HEADERS, (b"idempotent-replayed", b"true")]  # the first call's generation, nothing per request
    assert await replayed(keys) == Replay(201, headers, b'{"id":1}', stream=False, gen_id=GEN)


@pytest.mark.parametrize(
    ("body", "route"),
    [
        (b'{"model":"m","stream":true}', ROUTE),
        (BODY + b" ", ROUTE),
        (BODY, "/v1/keys"),
        (b"", ROUTE),
        (b"s" + BODY, ROUTE[:-1]),
    ],
)
async def test_another_request_with_the_key_is_409(body: bytes, route: str, autojump_clock: MockClock) -> None:
    keys = build()
    slot = await first(keys)
    assert (await conflict(keys, body=body, route=route)).code == "idempotency_key_reused"  # under way
    with slot:
        slot.remember(200, JSON_HEADERS, b"{}")
        book(slot)
    assert (await conflict(keys, body=body, route=route)).code == "idempotency_key_reused"  # remembered
    await trio.sleep(600)
    assert (await conflict(keys, body=body, route=route)).code == "idempotency_key_reused"  # used


async def test_fifty_at_once_run_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    keys, runs, got = build(), 0, []

    async def call() -> None:
        nonlocal runs
        entered = await enter(keys)
        if isinstance(entered, Slot):
            with entered as slot:
                runs += 1
                await trio.sleep(5)
                slot.remember(200, JSON_HEADERS, b"the answer")
                book(slot)
        else:
            got.append((trio.current_time(), entered.body, entered.gen_id))

    start = trio.current_time()
    async with trio.open_nursery() as calls:
        for _ in range(50):
            calls.start_soon(call)
    assert runs == 1
    assert got == [(start + 5, b"the answer", GEN)] * 49
    assert (keys.running, keys.waiters) == (0, 0)


async def test_when_the_first_fails_one_waiter_runs_and_the_others_wait_for_it(autojump_clock: MockClock) -> None:
    keys, log = build(), Counter[str]()

    async def call() -> None:
        entered = await enter(keys)
        if isinstance(entered, Replay):
            log["replayed"] += 1
            return
        with entered as slot:
            log["ran"] += 1
            assert keys.running == 1
            await trio.sleep(1)
            if log["ran"] < 3:
                log["failed"] += 1
                raise ClientGone
            slot.remember(200, JSON_HEADERS, b"third time")
            book(slot)

    async def told() -> None:
        try:
            await call()
        except ClientGone:
            log["told"] += 1

    start = trio.current_time()
    async with trio.open_nursery() as calls:
        for _ in range(6):
            calls.start_soon(told)
    assert log == {"ran": 3, "failed": 2, "told": 2, "replayed": 3}
    assert trio.current_time() == start + 3
    assert (keys.running, keys.waiters) == (0, 0)


async def test_a_waiter_whose_client_leaves_leaves_nothing(autojump_clock: MockClock) -> None:
    keys = build()
    slot = await first(keys)
    with trio.move_on_after(1) as scope:
        await enter(keys)
    assert scope.cancelled_caught
    assert (keys.running, keys.waiters) == (1, 0)
    with slot:
        slot.remember(200, JSON_HEADERS, b"{}")
        book(slot)
    assert (await replayed(keys)).body == b"{}"


async def test_the_key_of_a_failed_call_is_free_for_any_request() -> None:
    keys = build()
    with pytest.raises(ClientGone), await first(keys) as slot:
        slot.remember(200, JSON_HEADERS, b"half")
        raise ClientGone
    assert keys.held_bytes == 0
    with await first(keys, body=b"another"):
        pass


async def test_a_waiter_of_a_failed_call_meets_another_request_that_took_the_key(autojump_clock: MockClock) -> None:
    keys, caught = build(), []
    slot = await first(keys)

    async def wait() -> None:
        caught.append(await conflict(keys))

    async with trio.open_nursery() as calls:
        calls.start_soon(wait)
        await wait_all_tasks_blocked()
        with slot:
            pass
        with await first(keys, body=b"another"):
            await wait_all_tasks_blocked()
    assert [error.code for error in caught] == ["idempotency_key_reused"]
    assert keys.waiters == 0


# how long, how much


async def test_ten_minutes_then_a_day_then_free(autojump_clock: MockClock) -> None:
    keys = build()
    await run_once(keys)
    await trio.sleep(599.9)
    await replayed(keys)
    await trio.sleep(0.1)
    error = await conflict(keys)
    assert error.code == "idempotency_key_used"
    assert GEN in error.message
    assert KEY.decode() not in error.message
    assert keys.held_bytes == 0
    await trio.sleep(86_400 - 600 - 0.1)
    await conflict(keys)
    await trio.sleep(0.1)
    with await first(keys):
        pass


async def test_an_answer_lives_on_after_its_key_was_dropped_by_number() -> None:
    keys = build(used_max=2)
    for number in range(4):
        await run_once(keys, b"%d" % number)
    for number in range(4):
        await replayed(keys, b"%d" % number)


async def test_the_oldest_used_keys_are_forgotten_past_their_number(autojump_clock: MockClock) -> None:
    keys = build(used_max=2)
    for number in range(3):
        await run_once(keys, b"%d" % number)
        await trio.sleep(1)
    await trio.sleep(600)
    assert (await conflict(keys, b"2")).code == "idempotency_key_used"
    assert (await conflict(keys, b"1")).code == "idempotency_key_used"
    with await first(keys, b"0"):
        pass


async def test_after_a_restart_a_used_key_is_409_until_its_day_is_over(autojump_clock: MockClock) -> None:
    before = build()
    digests = []
    for number in range(3):
        with await first(before, b"%d" % number) as slot:
            digests.append(slot.digest_hex)
    keys = build(used_max=2)
    ages_s = [50_000, 86_399, 40_000]  # in no order: the oldest of three is dropped
    keys.load([(digest, WALL - age_s, f"gen-{age_s}") for digest, age_s in zip(digests, ages_s, strict=True)])
    for number in (0, 2):
        for body in (BODY, b"another: what the key was used for is not known any more"):
            error = await conflict(keys, b"%d" % number, body)
            assert error.code == "idempotency_key_used"
            assert f"gen-{ages_s[number]}" in error.message
    with await first(keys, b"1"):
        pass
    await trio.sleep(86_400 - 40_000)
    with await first(keys, b"2"):
        pass


async def test_old_entries_not_swept_yet_count_for_nothing(autojump_clock: MockClock) -> None:
    keys = build(used_max=1)
    for number in range(60):
        await run_once(keys, b"%d" % number)
    await trio.sleep(600)
    assert (await conflict(keys, b"59")).code == "idempotency_key_used"  # its answer is still held, behind others
    assert 0 < keys.held_bytes < 60 * cost(b"{}")
    await run_once(keys, b"40", b"another")  # forgotten by number, its old answer held
    assert (await replayed(keys, b"40")).body == b"another"
    for _ in range(4):
        await replayed(keys, b"40")
    assert keys.held_bytes == cost(b"another")


def test_a_key_used_again_is_the_newest() -> None:
    used = UsedKeys(2, keep_s=10)
    used.add(b"a", b"r" * 16, "gen-1", 0.0)
    used.add(b"b", b"r" * 16, "gen-2", 5.0)
    assert used.find(b"a", 10.0) is None
    used.add(b"a", b"r" * 16, "gen-3", 10.0)
    used.add(b"c", b"r" * 16, "gen-4", 11.0)
    assert [used.find(key, 11.0) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert len(used) == 2


async def test_an_answer_that_is_too_large_is_charged_once_and_not_kept(autojump_clock: MockClock) -> None:
    limit = cost(b"") + 100
    keys, caught = build(answer_bytes_max=limit), []

    async def wait() -> None:
        caught.append(await conflict(keys, b"large"))

    async with trio.open_nursery() as calls:
        with await first(keys, b"large") as slot:
            calls.start_soon(wait)
            await wait_all_tasks_blocked()
            slot.remember(200, JSON_HEADERS, b"x" * 101)
            book(slot)
    assert [error.code for error in caught] == ["idempotency_key_used"]
    assert keys.held_bytes == 0
    await run_once(keys, b"fits", b"x" * 100)
    await replayed(keys, b"fits")
    assert keys.held_bytes == limit


async def test_the_oldest_answers_make_room_and_their_keys_stay_used() -> None:
    keys = build(bytes_max=3 * cost(b"x" * 10))
    for number in range(5):
        await run_once(keys, b"%d" % number, b"x" * 10)
    assert keys.held_bytes == 3 * cost(b"x" * 10)
    for number in range(2):
        assert (await conflict(keys, b"%d" % number)).code == "idempotency_key_used"
    for number in range(2, 5):
        await replayed(keys, b"%d" % number)


async def test_a_waiter_gets_the_answer_even_when_it_was_dropped_before_it_woke() -> None:
    keys, got = build(bytes_max=cost(b"x" * 10)), []

    async def wait() -> None:
        got.append(await replayed(keys))

    async with trio.open_nursery() as calls:
        slot = await first(keys)
        calls.start_soon(wait)
        await wait_all_tasks_blocked()
        with slot:
            slot.remember(200, JSON_HEADERS, b"1234567890")
            book(slot)
        await run_once(keys, b"other", b"x" * 10)
    assert [replay.body for replay in got] == [b"1234567890"]
    assert (await conflict(keys)).code == "idempotency_key_used"


async def test_calls_under_way_alone_fill_the_bound_without_dropping_what_cannot_help() -> None:
    small = cost(b"")
    keys = build(bytes_max=3 * small + 100)
    await run_once(keys, b"kept", b"")
    one, two = await first(keys, b"one"), await first(keys, b"two")
    with one, two:
        for slot in (one, two):
            await slot.exchange(FakeExchange(BODY)).start(200, JSON_HEADERS, b"")
        exchange = two.exchange(FakeExchange(BODY))
        await exchange.send(b"x" * (small + 101))  # more than dropping every answer would free
        assert keys.held_bytes == 2 * small  # `two` is not recorded any more
        await replayed(keys, b"kept")


async def test_slots_and_waiters_are_bounded(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    monkeypatch.setattr(idempotency, "RUNNING_MAX", 2)
    monkeypatch.setattr(idempotency, "WAITERS_MAX", 3)
    monkeypatch.setattr(idempotency, "ACCOUNT_WAITERS_MAX", 2)
    keys = build()
    with await first(keys, account="a"), await first(keys, account="b"):
        with pytest.raises(Overloaded):
            await enter(keys, b"third")
        async with trio.open_nursery() as calls:
            for account in "aab":
                calls.start_soon(enter_and_leave, keys, account)
                await wait_all_tasks_blocked()
                if account == "a" and keys.waiters == 2:
                    with pytest.raises(Overloaded):  # the account's own bound
                        await enter(keys, account="a")
            with pytest.raises(Overloaded):  # the bound of all
                await enter(keys, account="b")
            assert keys.waiters == 3
            calls.cancel_scope.cancel()
    assert (keys.running, keys.waiters) == (0, 0)
    with await first(keys, b"third"):
        pass


async def enter_and_leave(keys: Idempotency, account: str) -> None:
    entered = await enter(keys, account=account)
    if isinstance(entered, Slot):
        with entered:
            pass


async def test_a_large_body_is_hashed_in_pieces_that_let_others_in() -> None:
    keys, turns = build(), 0
    body = b"x" * (5 * KIB * KIB + 3)

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await run_once(keys, body=body)
        assert turns >= 3  # five pauses, less the first and perhaps the last turn
        nursery.cancel_scope.cancel()
    await replayed(keys, body=bytes(body))
    assert (await conflict(keys, body=body[:-1] + b"y")).code == "idempotency_key_reused"


# recording an exchange


async def stream(exchange: Exchange) -> None:
    await exchange.start(200, [*SSE_HEADERS, *PER_REQUEST], b"data: 1\n\n")
    await trio.sleep(1)
    await exchange.send(b"data: 2\n\n")
    await exchange.finish(b"data: [DONE]\n\n")


async def stream_that_has_ended(exchange: Exchange) -> None:
    await exchange.start(200, SSE_HEADERS, b"data: 1\n\ndata: [DONE]\n\n", last=True)


async def whole(exchange: Exchange) -> None:
    await exchange.reply(200, JSON_HEADERS, b'{"id":1}')


@pytest.mark.parametrize(
    ("answer", "is_stream"),
    [(stream, True), (stream_that_has_ended, True), (whole, False)],
    ids=["streamed", "at once", "whole"],
)
async def test_a_waiting_duplicate_gets_every_byte_at_once(
    answer: Callable[[Exchange], Awaitable[None]], is_stream: bool, autojump_clock: MockClock
) -> None:
    keys, client, got = build(), FakeExchange(BODY), []

    async def wait() -> None:
        got.append(await replayed(keys))

    async with trio.open_nursery() as nursery:
        with await first(keys) as slot:
            nursery.start_soon(wait)
            await answer(slot.exchange(client))
            await wait_all_tasks_blocked()
            assert client.ended_at is not None
            assert not got
            book(slot)
    kept = [header for header in client.answer_headers.items() if header not in PER_REQUEST]
    assert got == [Replay(200, [*kept, (b"idempotent-replayed", b"true")], client.body, is_stream, GEN)]


async def test_the_recorder_is_the_clients_exchange_but_for_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeExchange(BODY)
    monkeypatch.setattr(client, "pump_fd", lambda: 5)
    client.bounds_sends = True
    with await first(build()) as slot:
        recorder = slot.exchange(client)
        for name in ("lane", "request_id", "method", "path", "headers", "bounds_sends"):
            assert getattr(recorder, name) is getattr(client, name)
        assert recorder.pump_fd() is None
        assert await recorder.read_body() == BODY
        with trio.CancelScope() as scope:
            recorder.watch(scope)
            assert not recorder.gone
            client.leave()
            assert recorder.gone
            await trio.sleep_forever()
        assert scope.cancelled_caught
        client.gone = False
        recorder.gone = True
        assert client.gone


@dataclass
class SocketSide:
    """What only the pump calls."""

    noted: list[object] = field(default_factory=list)

    def wire(self, data: bytes, *, last: bool) -> bytes:
        self.noted.append(("wire", data, last))
        return b"framed"

    def owe(self, wire: bytes) -> None:
        self.noted.append(("owe", wire))


async def test_what_the_pump_calls_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    client, side = FakeExchange(BODY), SocketSide()
    for name in ("wire", "owe"):
        monkeypatch.setattr(client, name, getattr(side, name))
    with await first(build()) as slot:
        recorder = slot.exchange(client)
        assert recorder.wire(b"data", last=True) == b"framed"
        recorder.owe(b"rest")
    assert side.noted == [("wire", b"data", True), ("owe", b"rest")]


async def test_a_booked_answer_whose_last_bytes_the_client_did_not_take_is_replayed() -> None:
    keys, client = build(), FakeExchange(BODY)
    with pytest.raises(ClientGone), await first(keys) as slot:
        recorder = slot.exchange(client)
        await recorder.start(200, SSE_HEADERS, b"data: 1\n\n")
        book(slot)
        client.leave()
        await recorder.finish(b"data: [DONE]\n\n")
    assert (await replayed(keys)).body == b"data: 1\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("status", [0, 200, 402, 502])
async def test_a_booked_call_without_a_whole_2xx_answer_is_used_but_not_replayed(status: int) -> None:
    keys = build()
    with await first(keys) as slot:
        recorder = slot.exchange(FakeExchange(BODY))
        if status == 200:
            await recorder.start(status, SSE_HEADERS, b"data: 1\n\n")
        elif status:
            await recorder.reply(status, JSON_HEADERS, b"{}")
        book(slot, gen_id="")
    error = await conflict(keys)
    assert error.code == "idempotency_key_used"
    assert "gen-" not in error.message
    assert keys.held_bytes == 0


async def test_a_view_uses_the_same_rules() -> None:
    keys, made = build(), 0

    async def view() -> tuple[int, Headers, bytes]:
        nonlocal made
        entered = await enter(keys, route="/v1/keys")
        if isinstance(entered, Replay):
            return entered.status, entered.headers, entered.body
        with entered as slot:
            made += 1
            answer = 201, [(b"content-type", b"application/json")], b'{"key":"gw-%d"}' % made
            slot.remember(*answer)
            book(slot, gen_id="")
            return answer

    status, headers, body = await view()
    assert await view() == (status, [*headers, (b"idempotent-replayed", b"true")], body)
    assert made == 1


# any order of everything


@dataclass(eq=False)
class Call:
    """One call of the machine: it enters, then does what it is told until it is told to leave."""

    key: int
    body: int
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    slot: Slot | None = None
    exchange: Exchange | None = None
    sent: bytes = b""
    booked_at: float | None = None
    left_at: float = 0.0
    whole: bool = False
    leave: trio.Event = field(default_factory=trio.Event)


class Machine:
    """Interprets a list of steps against one Idempotency and checks it after each."""

    BYTES_MAX = 3 * ANSWER_OVERHEAD_BYTES  # two of three keys' answers fit
    ANSWER_MAX = 2 * ANSWER_OVERHEAD_BYTES

    def __init__(self, nursery: trio.Nursery, clock: MockClock) -> None:
        self.keys = build(bytes_max=self.BYTES_MAX, answer_bytes_max=self.ANSWER_MAX, keep_s=100, used_s=1e9)
        self.nursery = nursery
        self.clock = clock
        self.live: list[Call] = []
        self.done: dict[int, Call] = {}  # by key: the one call that was booked

    async def call(self, call: Call) -> None:
        try:
            with call.scope:
                await self.entered(call)
        finally:
            self.live.remove(call)

    async def entered(self, call: Call) -> None:
        now = trio.current_time()
        try:
            entered = await enter(self.keys, b"key-%d" % call.key, b"body-%d" % call.body)
        except Conflict as error:
            holder = self.done.get(call.key) or next(c for c in self.live if c.key == call.key and c.slot is not None)
            assert error.code == ("idempotency_key_used" if holder.body == call.body else "idempotency_key_reused")
            return
        if isinstance(entered, Replay):
            original = self.done[call.key]
            assert (original.body, original.whole, original.sent) == (call.body, True, entered.body)
            assert original.booked_at is not None
            assert now < original.booked_at + 100 or now <= original.left_at  # who waited gets it however late it ended
            return
        with entered as call.slot:
            assert call.key not in self.done, "a key that was charged ran again"
            assert all(other is call or other.slot is None or other.key != call.key for other in self.live)
            try:
                await call.leave.wait()
            finally:
                call.left_at = trio.current_time()

    async def step(self, name: str, pick: int, size: int) -> None:
        if name == "enter":
            call = Call(pick % 3, size % 8 // 7)  # one in eight has another body
            self.live.append(call)
            self.nursery.start_soon(self.call, call)
        elif name == "sleep":
            self.clock.jump(size / 20)
        elif self.live:
            await self.drive(name, self.live[pick % len(self.live)], size)
        await wait_all_tasks_blocked()
        self.check()

    async def drive(self, name: str, call: Call, size: int) -> None:
        if name == "cancel":
            call.scope.cancel()
        elif call.slot is not None and not call.whole and name in ("send", "end"):
            data = b"x" * size
            if call.exchange is None:
                call.exchange = call.slot.exchange(FakeExchange(b""))
                await call.exchange.start(200, [], data, last=name == "end")
            else:
                await (call.exchange.send(data) if name == "send" else call.exchange.finish(data))
            call.sent += data
            call.whole = name == "end"
        elif call.slot is not None and name == "book":
            call.booked_at = trio.current_time()
            book(call.slot)
            self.done[call.key] = call
        elif name == "leave":
            call.leave.set()

    def check(self) -> None:
        keys = self.keys
        running = {call.key for call in self.live if call.slot is not None}
        waiting = [call for call in self.live if call.slot is None]
        assert keys.running == len(running) == sum(call.slot is not None for call in self.live)
        assert keys.waiters == len(waiting)
        assert all(call.key in running for call in waiting), "a call waits for nobody"
        kept = sum(kept.cost_bytes for kept in keys._answers._kept.values())
        recorded = sum(run.recording.cost_bytes for run in keys._running.values())
        assert keys.held_bytes == kept + recorded <= self.BYTES_MAX
        for kept_one in keys._answers._kept.values():
            assert kept_one.cost_bytes <= self.ANSWER_MAX
            names = sum(len(name) + len(value) for name, value in kept_one.replay.headers[:-1])
            assert kept_one.cost_bytes == ANSWER_OVERHEAD_BYTES + names + len(kept_one.replay.body)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "enter", "send", "end", "book", "leave", "leave", "cancel", "sleep"]),
        st.integers(0, 7),
        st.integers(0, 2 * ANSWER_OVERHEAD_BYTES),
    ),
    min_size=10,
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_any_order_runs_once_and_accounts_for_every_byte(steps: list[tuple[str, int, int]]) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            machine = Machine(nursery, clock)
            for step in steps:
                await machine.step(*step)
            nursery.cancel_scope.cancel()
        assert machine.keys.running == machine.keys.waiters == 0
        assert machine.keys.held_bytes == sum(kept.cost_bytes for kept in machine.keys._answers._kept.values())

    clock = MockClock()
    trio.run(main, clock=clock)
