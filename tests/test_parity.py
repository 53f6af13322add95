"""Every lane gives the same answer: one table over the express lane, Hypercorn's HTTP/1.1, HTTP/2, and both over TLS.

The rows run all at once, lane beside lane, before the first test looks at them: most of their time is waiting for
providers that do not answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import orjson
import pytest
import trio

from tests.lanes import OpenLane
from tests.parity_gateways import Gateways, run_gateways
from tests.parity_row import KEY, REVOKED, Row
from tests.parity_table import ROWS
from tests.wire import Answer, Ask, Closed

AT_ONCE = 12  # requests under way in each lane
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
DONE = re.compile(rb"[\r\n]data: ?\[DONE\](\n\n|\r\n\r\n|\r\r)\Z")
FRAMING = frozenset({"connection", "transfer-encoding", "date"})  # what belongs to the protocol, or to the moment
_MASKS = (
    (re.compile(UUID.pattern.encode()), b"<uuid>"),
    (re.compile(rb"gen-[0-9A-Za-z_-]{8,}"), b"<gen>"),
    (re.compile(rb"chatcmpl-(?!error)[0-9A-Za-z]{8,}"), b"<chatcmpl>"),
    (re.compile(rb'"created":\s*\d+'), b'"created":0'),
)

Answers = dict[tuple[str, str], Answer]


@dataclass(frozen=True, slots=True)
class Run:
    """All answers, by row and lane."""

    answers: Answers
    lanes: tuple[str, ...]


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    with run_gateways(tmp_path_factory.mktemp("parity")) as running:
        yield running


@pytest.fixture(scope="module")
def run(gateways: Gateways, request: pytest.FixtureRequest) -> Run:
    """The answers to the rows that this session has collected."""
    chosen = [_row_of(item) for item in request.session.items if _has_row(item)]
    answers = trio.run(_run_all, gateways, list(dict.fromkeys(chosen)))
    return Run(answers, tuple(lane.lane.name for lane in gateways.lanes))


def _row_of(item: pytest.Item) -> Row:
    assert isinstance(item, pytest.Function)
    row = item.callspec.params["row"]
    assert isinstance(row, Row)
    return row


def _has_row(item: pytest.Item) -> bool:
    return item.nodeid.partition("::")[2].startswith("test_row[") and item.path.name == "test_parity.py"


async def _run_all(gateways: Gateways, rows: list[Row]) -> Answers:
    answers: Answers = {}
    async with trio.open_nursery() as nursery:
        for lane in gateways.lanes:
            slots = trio.CapacityLimiter(AT_ONCE)
            for row in rows:
                ask = with_keys(row.ask, gateways)
                nursery.start_soon(_run_one, answers, slots, lane, row, ask)
    return answers


async def _run_one(answers: Answers, slots: trio.CapacityLimiter, lane: OpenLane, row: Row, ask: Ask) -> None:
    async with slots:
        try:
            answers[row.name, lane.lane.name] = await lane.ask(ask)
        except Closed:
            answers[row.name, lane.lane.name] = Answer(0, [], end="closed without an answer")
        except (AssertionError, trio.TooSlowError) as error:
            answers[row.name, lane.lane.name] = Answer(0, [], end=f"{type(error).__name__}: {error}")


def with_keys(ask: Ask, gateways: Gateways) -> Ask:
    """The request with real keys."""
    headers = tuple(
        (name, value.replace(KEY, gateways.key).replace(REVOKED, gateways.revoked)) for name, value in ask.headers
    )
    return replace(ask, headers=headers)


def masked(body: bytes) -> bytes:
    """A body without what is new in each answer."""
    for pattern, mask in _MASKS:
        body = pattern.sub(mask, body)
    return body


def comparable(row: Row, answer: Answer) -> dict[str, object]:
    """What must be equal on every lane."""
    names = {name.decode() for name, _ in answer.headers} - FRAMING
    headers = {name: masked((answer.header(name) or "").encode()) for name in sorted(names)}
    if not row.same_body:
        headers.pop("content-length", None)
    body = masked(answer.body) if row.same_body else b""
    return {"status": answer.status, "end": answer.end, "headers": headers, "body": body}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, run: Run) -> None:
    answers = {lane: run.answers[row.name, lane] for lane in run.lanes}
    first = comparable(row, answers[run.lanes[0]])
    for lane in run.lanes[1:]:
        assert comparable(row, answers[lane]) == first, f"{lane} differs from {run.lanes[0]}"
    for answer in answers.values():
        check_expected(row, answer)
        check_contract(row, answer)
    ids = [answer.header("x-request-id") for answer in answers.values()]
    assert len(set(ids)) == len(ids), "a request id came twice"


def check_expected(row: Row, answer: Answer) -> None:
    """What the row itself says."""
    assert answer.status == row.status, answer
    if row.code is not None and row.ask.method != "HEAD":
        assert orjson.loads(answer.body)["error"]["code"] == row.code
    for part in row.contains:
        assert part in answer.body
    for part in row.lacks:
        assert part not in answer.body
    for name, value in row.header:
        assert answer.header(name) == value, name
    if row.done is not None:
        assert bool(DONE.search(answer.body)) == row.done
        assert answer.header("content-type") == "text/event-stream; charset=utf-8"
        assert answer.header("cache-control") == "no-cache"
        assert answer.header("x-accel-buffering") == "no"


def check_contract(row: Row, answer: Answer) -> None:
    """What every answer promises."""
    assert answer.end == "whole"
    minted = answer.header("x-request-id")
    assert minted is not None
    assert UUID.fullmatch(minted)
    assert answer.header("request-id") == minted
    assert answer.header("date") is not None
    length = answer.header("content-length")
    if length is not None and row.ask.method != "HEAD":
        assert int(length) == len(answer.body)
    if row.inference and row.ask.method != "HEAD":
        assert re.fullmatch(r"gen-[0-9A-Za-z_-]{8,}", answer.header("x-generation-id") or "")
    if answer.status >= 400 and row.ask.method != "HEAD":
        check_error(answer, minted)


def check_error(answer: Answer, minted: str) -> None:
    """The error envelope."""
    assert answer.header("content-type") == "application/json"
    body = orjson.loads(answer.body)
    error = body["error"]
    assert set(body) == {"code", "message", "error"}
    assert set(error) == {"message", "type", "code", "param", "request_id"}
    assert (body["code"], body["message"]) == (answer.status, error["message"])
    assert error["request_id"] == minted
    assert answer.status != 429, "an upstream's 429 must not become the caller's"
    assert (answer.header("retry-after") is not None) == (error["code"] == "upstream_error" and answer.status == 503)
    assert (answer.header("www-authenticate") == "Bearer") == (answer.status == 401)
    assert (answer.header("allow") is not None) == (answer.status == 405)


def test_the_table_is_large_enough() -> None:
    names = [row.name for row in ROWS]
    assert len(names) >= 150
    assert len(set(names)) == len(names)
