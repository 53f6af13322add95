"""What only HTTP/1.1 can say, on each lane of it: the same answer, the same close."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import orjson
import pytest
import trio

from tests.lanes import ANSWER_S, OpenLane
from tests.parity_gateways import BODY_S, HEAD_S, Gateways, run_gateways
from tests.parity_hostile import AUTH, BODY, GOOD, HEALTH, HOST, HostileRow, framing_rows, head_rows, talk_rows
from tests.parity_row import KEY
from tests.test_parity import FRAMING, UUID, masked
from tests.wire import Answer, Closed, Cut, write
from tests.wire_h1 import H1Client

AT_ONCE = 24
ROWS = [*framing_rows(), *head_rows(), *talk_rows(HEAD_S, BODY_S)]


@dataclass(slots=True)
class Heard:
    """What came of a row on one lane. `after`: "closed", or the status of one more request on the connection."""

    answers: list[Answer] = field(default_factory=list)
    after: str = ""


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    with run_gateways(tmp_path_factory.mktemp("parity-h1"), h1_only=True) as running:
        yield running


@pytest.fixture(scope="module")
def heard(gateways: Gateways, request: pytest.FixtureRequest) -> dict[tuple[str, str], Heard]:
    """What was heard of the rows that this session has collected, all run at once."""
    chosen = [_row_of(item) for item in request.session.items if _has_row(item)]

    async def run_all() -> dict[tuple[str, str], Heard]:
        found: dict[tuple[str, str], Heard] = {}
        async with trio.open_nursery() as nursery:
            for lane in gateways.lanes:
                slots = trio.CapacityLimiter(AT_ONCE)
                for row in chosen:
                    found[row.name, lane.lane.name] = Heard()
                    nursery.start_soon(_run, found[row.name, lane.lane.name], slots, lane, row, gateways.key)
        return found

    return trio.run(run_all)


def _row_of(item: pytest.Item) -> HostileRow:
    assert isinstance(item, pytest.Function)
    row = item.callspec.params["row"]
    assert isinstance(row, HostileRow)
    return row


def _has_row(item: pytest.Item) -> bool:
    return item.nodeid.partition("::")[2].startswith("test_row[") and item.path.name == "test_parity_h1.py"


async def _run(heard: Heard, slots: trio.CapacityLimiter, lane: OpenLane, row: HostileRow, key: bytes) -> None:
    async with slots, lane.connect() as stream:
        client = H1Client(stream)
        pieces = [piece.replace(KEY, key) for piece in row.pieces]
        if row.bytewise:
            pieces = [pieces[0][at : at + 1] for at in range(len(pieces[0]))]
        with trio.move_on_after(ANSWER_S) as limit:
            await _listen(heard, client, pieces, row)
        if limit.cancelled_caught:
            heard.after = f"nothing for {ANSWER_S} s"


async def send(client: H1Client, pieces: Sequence[bytes], gap_s: float) -> None:
    """Write the pieces, each by itself."""
    for piece in pieces:
        await write(client.stream, piece)
        await trio.sleep(gap_s)


async def _listen(heard: Heard, client: H1Client, pieces: Sequence[bytes], row: HostileRow) -> None:
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, client, pieces, row.gap_s)
            try:
                for _ in row.statuses:
                    heard.answers.append(await client.answer())
            except (Closed, Cut, AssertionError) as error:
                heard.after = f"{type(error).__name__}: {error}"
            nursery.cancel_scope.cancel()
        if heard.after:
            return
        if heard.answers[-1].header("connection") == "close":
            heard.after = "closed" if await client.closed() else "said close, and went on"
        else:
            await write(client.stream, HEALTH)
            heard.after = str((await client.answer("GET")).status)
    except Closed:
        heard.after = "closed"
    except (Cut, AssertionError) as error:
        heard.after = f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: HostileRow, heard: dict[tuple[str, str], Heard], gateways: Gateways) -> None:
    first = None
    for lane in gateways.lanes:
        found = heard[row.name, lane.lane.name]
        if row.h11 is not None and not lane.lane.express:
            check(replace(row, statuses=(row.h11[0],), code=row.h11[1]), found)
            continue
        check(row, found)
        answers = [comparable(answer) for answer in found.answers]
        first = first or answers
        assert answers == first, lane.lane.name


def check(row: HostileRow, heard: Heard) -> None:
    """What the row itself says."""
    assert tuple(answer.status for answer in heard.answers) == row.statuses, heard
    assert row.interim is None or heard.answers[0].interim == list(row.interim)
    assert heard.after in ({"closed"} if row.closes else {"closed", "200"}), heard.after
    for answer in heard.answers:
        assert answer.end == "whole"
        minted = answer.header("x-request-id")
        assert minted is not None
        assert UUID.fullmatch(minted)
        assert answer.header("request-id") == minted
        if row.code is not None:
            error = orjson.loads(answer.body)["error"]
            assert (error["code"], error["request_id"]) == (row.code, minted)
            assert answer.header("content-type") == "application/json"


def comparable(answer: Answer) -> dict[str, object]:
    """What must be equal on every lane."""
    names = {name.decode() for name, _ in answer.headers} - FRAMING
    headers = {name: masked((answer.header(name) or "").encode()) for name in sorted(names)}
    return {"status": answer.status, "headers": headers, "body": masked(answer.body)}  # interim answers: see `check`


async def test_pipelined_requests_are_served_or_the_connection_says_close(gateways: Gateways) -> None:
    wanted = 5
    for lane in gateways.lanes:
        with trio.fail_after(ANSWER_S):
            async with lane.connect() as stream:
                client = H1Client(stream)
                await write(stream, GOOD.replace(KEY, gateways.key) * wanted)
                answers = [await client.answer()]
                while len(answers) < wanted and answers[-1].header("connection") != "close":
                    answers.append(await client.answer())
                assert all(answer.status == 200 and b"Hi there" in answer.body for answer in answers)
                if answers[-1].header("connection") == "close":
                    assert await client.closed()
        assert len(answers) == (wanted if lane.lane.express else 1), lane.lane.name


async def test_control_and_inference_share_a_connection_or_it_is_closed(gateways: Gateways) -> None:
    good = GOOD.replace(KEY, gateways.key)
    for lane in gateways.lanes:
        for order in ((HEALTH, good), (good, HEALTH), (HEALTH, HEALTH), (good, good)):
            with trio.fail_after(ANSWER_S):
                async with lane.connect() as stream:
                    client = H1Client(stream)
                    await write(stream, order[0])
                    first = await client.answer()
                    assert first.status == 200
                    if first.header("connection") == "close":
                        assert await client.closed()
                        continue
                    await write(stream, order[1])
                    assert (await client.answer()).status == 200
                    assert order[0] is good, "a control call left a connection open that Hypercorn had"


async def test_a_refusal_never_lets_the_rest_be_a_request(gateways: Gateways) -> None:
    """CL+TE and bare-LF smuggling: whatever follows the refused head is not answered."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + AUTH.replace(KEY, gateways.key)
    smuggled = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    tries = (
        head + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
        head + b"X: 1\n\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        head + b"Transfer-Encoding: chunked\r\nX: 1\n\r\n0\r\n\r\n" + smuggled,
        head + b"Content-Length: %d\r\n\r\n" % (len(BODY) - 1) + BODY + smuggled,
    )

    async def refused(lane: OpenLane, bad: bytes) -> None:
        async with lane.connect() as stream:
            client = H1Client(stream)
            await write(stream, bad)
            assert (await client.answer()).status == 400
            with pytest.raises(Closed):
                if (await client.answer()).status == 400:
                    await client.answer()

    with trio.fail_after(ANSWER_S):
        async with trio.open_nursery() as nursery:
            for lane in gateways.lanes:
                for bad in tries:
                    nursery.start_soon(refused, lane, bad)
