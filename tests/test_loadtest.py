"""The load test measures what it says: shapes, statistics, the strict reader, the judge of the fault wall; and one run.

The real run starts a gateway with its upstreams, drives a short load and a part of the fault wall through it.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import trio

from bench.records import Verdict as RecordVerdict
from loadtest import faultwall, history, scenario, servers, thresholds, vitals
from loadtest.client import Client, Reply
from loadtest.faultcases import FAULTS, Due
from loadtest.faultcells import Cell, Record, judge
from loadtest.run import ConnectionPool, Phase, run_phase
from loadtest.shapes import Soak, Spike, Steps, Tick, arrival_times
from loadtest.sse import ChatReader, EventReader
from loadtest.stats import Sample, Stats, slope_per_s, table
from loadtest.traffic import MIXED, Site, SiteUser
from loadtest.users import User, between, constant, pacing, spread, task

# Shapes.


@pytest.mark.parametrize(
    ("run_s", "tick"),
    [(0.0, Tick(10, 40.0)), (4.9, Tick(10, 40.0)), (5.0, Tick(20, 40.0)), (14.9, Tick(30, 40.0)), (15.0, None)],
)
def test_steps_climb_and_end(run_s: float, tick: Tick | None) -> None:
    assert Steps(10, 5.0, 3).tick(run_s) == tick


def test_spike_arrivals_are_dense_only_in_the_spike() -> None:
    due = list(arrival_times(Spike(10, 100, 1.0, 2.0, 3.0)))
    assert due == sorted(due)
    assert [sum(low <= at + 1e-9 < low + 1 for at in due) for low in (0, 1, 2)] == [10, 100, 10]


def test_soak_keeps_its_rate_without_drift() -> None:
    due = list(arrival_times(Soak(25, 60)))
    assert abs(len(due) - 25 * 60) <= 1
    assert due[750] == pytest.approx(30.0)


def test_a_pause_in_an_open_shape_is_passed_over() -> None:
    due = list(arrival_times(Spike(0, 10, 1.0, 2.0, 3.0)))
    assert len(due) == pytest.approx(10, abs=1)
    assert min(due) >= 1.0 - 1e-9
    assert max(due) < 2.0


# Statistics.


def test_quantiles_and_shares_cover_right_answers_only() -> None:
    stats = Stats()
    for i in range(1, 101):
        stats.add(Sample("stream", first_content_s=i / 1000, total_s=1.0, frames=2, gaps_s=[0.02]))
    stats.add(Sample("stream", "no [DONE]", first_content_s=9.0, frames=1))
    stats.add(Sample("wrong key", recorded=False))
    first = stats.first_content("stream")
    assert (first.count, first.p50, first.p99, first.max) == (100, 0.05, 0.099, 0.1)
    assert (stats.all.calls, stats.all.wrong, stats.all.frames, stats.recorded) == (102, 1, 200, 101)
    assert stats.problems() == ["1 x stream: no [DONE]"]
    assert [row[:3] for row in stats.rows()[1:]] == [
        ["stream", "101", "1"],
        ["wrong key", "1", "0"],
        ["all", "102", "1"],
    ]


def test_a_caller_that_left_has_no_total_time() -> None:
    stats = Stats()
    stats.add(Sample("early leaver", first_content_s=0.01, total_s=0.1, left=True))
    assert (stats.left, stats.all.total_s, stats.all.first_content_s) == (1, [], [0.01])


def test_slope_is_least_squares() -> None:
    assert slope_per_s([(t, 5 + 3 * t) for t in range(10)]) == pytest.approx(3.0)
    assert slope_per_s([(0.0, 1.0)]) == 0.0
    assert slope_per_s([(1.0, 1.0), (1.0, 2.0)]) == 0.0


def test_table_aligns_its_columns() -> None:
    assert table([["task", "n"], ["stream", "100"]]) == "task      n\nstream  100"


# Users.


def test_users_are_spread_by_weight() -> None:
    names = [each.__name__ for each in spread(MIXED, 22)]
    assert {name: names.count(name) for name in names} == {
        "Reader": 10, "Asker": 5, "ToolCaller": 2, "Leaver": 2, "Stranger": 1, "LongPrompter": 2,
    }  # fmt: skip
    assert len(spread(MIXED, 7)) == 7
    assert spread(MIXED, 0) == []


def test_waits() -> None:
    dice = random.Random(1)
    assert all(1.0 <= between(1.0, 2.0).choose(dice, 9.0) <= 2.0 for _ in range(50))
    assert constant(0.5).choose(dice, 9.0) == 0.5
    assert (pacing(1.0).choose(dice, 0.25), pacing(1.0).choose(dice, 3.0)) == (0.75, 0.0)


class _Counting(User):
    wait = constant(1.0)

    @task(3)
    async def often(self, intended_at: float) -> Sample:
        await trio.sleep(0.5)
        return Sample("often", late_s=trio.current_time() - intended_at)

    @task(1)
    async def seldom(self, intended_at: float) -> Sample:
        return Sample("seldom")


async def test_a_user_draws_tasks_by_weight_and_waits(autojump_clock: trio.testing.MockClock) -> None:
    user, seen = _Counting(ConnectionPool("127.0.0.1", 1), random.Random(2)), Stats()
    began = trio.current_time()

    def note(sample: Sample) -> None:
        seen.add(sample)
        user.stopping = seen.all.calls == 400

    await user.run(note)
    often = seen.entries["often"].calls
    assert often == pytest.approx(300, abs=40)
    assert trio.current_time() - began == pytest.approx(400 * 1.0 + often * 0.5)


def test_a_task_weighs_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        task(0)


class _Slow(SiteUser):
    @task(1)
    async def call_slowly(self, intended_at: float) -> Sample:
        await trio.sleep(2.0)
        return Sample("slow", "" if trio.current_time() - intended_at < 3 else "late", total_s=2.0)


def _site(port: int = 1) -> Site:
    return Site(servers.Target(port, "k"), "m", "m", "m", None, None, 0.02)


async def test_open_arrivals_do_not_wait_for_slow_calls(autojump_clock: trio.testing.MockClock) -> None:
    phase = Phase(Soak(10, 4.0), [_Slow])
    await run_phase(phase, _site(), 1)
    assert phase.stats.all.calls == pytest.approx(40, abs=1)
    assert phase.in_flight_max == pytest.approx(20, abs=1)
    assert phase.took_s == pytest.approx(5.9, abs=0.2)


async def test_closed_arrivals_hold_the_users_of_each_step(autojump_clock: trio.testing.MockClock) -> None:
    phase = Phase(Steps(4, 4.0, 2), [_Slow])
    await run_phase(phase, _site(), 1)
    assert phase.in_flight_max == 8
    assert 20 <= phase.stats.all.calls <= 28  # 4 users for 8 s and 4 more for 4 s, 2 to 2.2 s a call


async def test_the_guard_stops_a_phase_that_is_past_saving(autojump_clock: trio.testing.MockClock) -> None:
    class Wrong(SiteUser):
        wait = constant(0.1)

        @task(1)
        async def fail(self, intended_at: float) -> Sample:
            return Sample("fail", "status 500")

    phase = Phase(Soak(100, 60.0), [Wrong])
    await run_phase(phase, _site(), 1, thresholds.past_saving)
    assert "100% of" in phase.stopped
    assert phase.took_s < 3
    assert not any(check.holds for check in thresholds.of_phase("soak", phase.stats, phase.stopped)[:2])


# The strict reader.

_ROLE = b'data: {"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
_WORD = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
_FINISH = b'data: {"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
_DONE = b"data: [DONE]\n\n"
_ERROR = b'data: {"model":"m","error":{"code":"c","message":"m"},"choices":[{"delta":{},"finish_reason":"error"}]}\n\n'


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        (_ROLE + _WORD + _FINISH + _DONE, ""),
        (_ROLE + _WORD + _ERROR, ""),
        (_ROLE + _WORD + _FINISH, "no [DONE]"),
        (_ROLE + _WORD + _DONE, "no finish_reason"),
        (_ROLE + _WORD + _ERROR + _DONE, "more than one ending"),
        (_ROLE + _WORD + _FINISH + _DONE + _WORD, "no [DONE]"),
        (_ROLE + _ERROR + _WORD, "more than one ending"),
        (_ROLE + b"data: {\n\n" + _FINISH + _DONE, "event that is no JSON object"),
        (_ROLE + _FINISH + _DONE + b"data: {", "ends within an event"),
    ],
)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_a_stream_has_exactly_one_ending_at_every_split(wire: bytes, problem: str, line_end: bytes) -> None:
    wire = wire.replace(b"\n", line_end)
    for size in (1, 7, len(wire)):
        reader = ChatReader()
        for at in range(0, len(wire), size):
            reader.feed(wire[at : at + size])
        assert bool(reader.problem()) == bool(problem)
        assert reader.problem() == problem or reader.late


def test_events_join_data_lines_and_drop_comments() -> None:
    assert EventReader().feed(b": hello\n\ndata: a\ndata:b\nid: 7\n\ndata: c") == [b"a\nb"]


async def test_the_client_times_from_the_intended_start_and_leaves(autojump_clock: trio.testing.MockClock) -> None:
    """A server that gives one frame a second; the client was meant to start 5 s ago and leaves after 3 frames."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    gone = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(head)
        for _ in range(3):
            await trio.sleep(1.0)
            await stream.send_all(b"%x\r\n%b\r\n" % (len(_WORD), _WORD))
        assert await stream.receive_some() == b""
        gone.set()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        client = Client("127.0.0.1", listeners[0].socket.getsockname()[1])
        await trio.sleep(10.0)
        reply = await client.call(b"GET / HTTP/1.1\r\n\r\n", intended_at=trio.current_time() - 5, leave_after=3)
        with trio.fail_after(60):
            await gone.wait()
        nursery.cancel_scope.cancel()
    assert (reply.left, reply.frames, reply.status, reply.broken) == (True, 3, 200, "")
    assert reply.first_content_s == pytest.approx(6.0, abs=0.1)
    assert reply.gaps_s == pytest.approx([1.0, 1.0], abs=0.1)
    assert (reply.stalls(0.05), reply.stalls(0.2)) == (2, 0)


# Targets, thresholds, history.


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:1", "http://example.com:80", "http://10.0.0.1:80", "http://127.0.0.1", "x"]
)
def test_only_loopback_is_loaded(url: str) -> None:
    with pytest.raises(servers.NotLoopback, match="this machine only"):
        servers.loopback(url, "k")


def test_loopback_targets() -> None:
    assert servers.loopback("http://localhost:81/v1", "k") == servers.Target(81, "k")
    assert servers.loopback("http://[::1]:82", "k").host == "::1"


def test_metrics_are_summed_over_labels() -> None:
    text = '# HELP x y\nx{origin="a b",state="used"} 2.0\nx{state="idle"} 3\nz 1e3\n'
    assert vitals.parse(text) == {"x": 5.0, "z": 1000.0}


def test_thresholds_break_where_they_should() -> None:
    assert thresholds.of_files(10, 12).holds
    assert not thresholds.of_files(10, 13).holds
    assert not thresholds.of_leaks(["gateway_calls_in_flight is 1"]).holds
    assert not thresholds.of_abandoned(3, 2).holds
    assert not thresholds.of_abandoned(3, 4).holds
    assert thresholds.of_memory(1e9, 5.0) == []
    assert not thresholds.of_memory(1e9, 60.0)[0].holds
    assert not thresholds.of_records(RecordVerdict(2, 1, 1, 0, 0, {}, "2 calls were sent but 1 are recorded")).holds
    assert not thresholds.of_phase("soak", Stats(), "")[0].holds


def test_history_compares_with_the_last_of_its_size(tmp_path: Path) -> None:
    path = tmp_path / "out" / "history.jsonl"
    for size, value in (("quick", 2.0), ("default", 8.0)):
        history.append({"size": size, "figures": {"cpu_ratio": value}}, path)
    with path.open("a") as file:
        file.write('{"size": "qui')  # a run that was killed
    last = history.last_like(history.read(path), "quick")
    assert history.compare({"cpu_ratio": 3.0, "new": 1.0}, last)[1:] == [
        ["cpu_ratio", "3", "2", "+50%"],
        ["new", "1", "-", "-"],
    ]
    assert history.read(tmp_path / "none") == []


# The judge of the fault wall.


def _cell(label: str, where: str, *, stream: bool = True) -> Cell:
    fault = next(fault for fault in FAULTS if fault.label == label)
    return Cell(3, fault, stream, where)  # type: ignore[arg-type] # parametrised by plain strings


def _streamed(cell: Cell, text: str, tail: bytes) -> Reply:
    reply = Reply(0.0, status=200, headers={"x-request-id": "r", "x-generation-id": "g"}, complete=True)
    reply.stream = ChatReader()
    chunk = {"model": cell.model, "choices": [{"delta": {"content": text}}]}
    reply.stream.feed(
        b"data: " + json.dumps(chunk).encode() + b"\n\n" + tail.replace(b'"m"', json.dumps(cell.model).encode(), 1)
    )
    return reply


_TYPED = b'data: {"model":"m","error":{"code":"c","message":"m","type":"t","request_id":"r"},"choices":[]}\n\n'


@pytest.mark.parametrize(
    ("text", "tail", "asked", "label"),
    [
        ("start", _TYPED, 1, "typed error"),
        ("start", _TYPED + _DONE, 1, "WRONG"),
        ("start", _FINISH + _DONE, 1, "WRONG"),
        ("splice", _FINISH + _DONE, 2, "WRONG"),
        ("splice", _TYPED, 1, "WRONG"),
        ("second", _FINISH + _DONE, 2, "answered by fallback"),
        ("whole", _TYPED, 1, "WRONG"),
    ],
)
def test_a_cut_after_content_is_an_error_event_or_a_clean_takeover(
    text: str, tail: bytes, asked: int, label: str
) -> None:
    cell = _cell("cut after content", "first")
    whole, second = cell.text_of(0), cell.text_of(1)
    texts = {"start": whole[:40], "splice": whole[:40] + second, "second": second, "whole": whole}
    ended = "complete" if b"DONE" in tail else "upstream_cut"
    verdict = judge(cell, _streamed(cell, texts[text], tail), [Record(ended, cell.providers[:asked], 9)])
    assert verdict.label == label, verdict.why


def test_records_must_agree() -> None:
    cell = _cell("CR LF line ends", "first")
    good = _streamed(cell, cell.text_of(0), _FINISH + _DONE)
    right = Record("complete", cell.providers[:1], 9)
    assert judge(cell, good, [right]).label == "answered"
    for records in (
        [],
        [right, right],
        [Record("complete", cell.providers, 9)],
        [Record("cut", cell.providers[:1], 9)],
    ):
        assert judge(cell, good, records).label == "WRONG"
    assert judge(cell, good, [Record("complete", cell.providers[:1], 0)]).why == "0 completion tokens are recorded"


def test_when_both_fail_the_error_is_typed_and_tells_when_to_return() -> None:
    cell = _cell("429 + Retry-After 7", "both", stream=False)
    told = {"message": "m", "type": "t", "code": "c", "request_id": "r"}
    headers = {"x-request-id": "r", "x-generation-id": "g", "retry-after": "7"}
    record = Record("upstream_error", cell.providers, 0)
    for status, wait, key, label in (
        (503, "7", "", "typed error"),
        (503, "1", "", "WRONG"),
        (429, "7", "", "WRONG"),
        (503, "7", servers.UPSTREAM_KEY, "WRONG"),
    ):
        body = json.dumps({"code": status, "message": key, "error": told}).encode()
        reply = Reply(0.0, status=status, headers={**headers, "retry-after": wait}, body=[body], complete=True)
        assert judge(cell, reply, [record]).label == label


def test_every_fault_of_the_simulator_is_on_the_wall() -> None:
    from gateway.sim import FAULTS as SIMULATED

    assert set(SIMULATED) <= {fault.name for fault in FAULTS}
    assert len({fault.label for fault in FAULTS}) == len(FAULTS)
    assert all(cell.due is not Due.BROKEN for cell in faultwall.cells() if cell.where == "second")


def test_the_matrix_goes_between_its_marks(tmp_path: Path) -> None:
    cell = _cell("500", "first")
    wall = faultwall.Wall({cell: judge(cell, None, [])})
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- faultwall:begin -->\nold\n<!-- faultwall:end -->\nz\n")
    faultwall.update_readme(wall, readme)
    text = readme.read_text()
    assert "| 500 | WRONG |" in text
    assert "old" not in text
    assert text.startswith("a\n") and text.endswith("\nz\n")
    assert wall.wrong == ["500, stream, first faulty: no answer before the deadline"]


# The real thing.


def test_a_short_load_against_a_real_gateway(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    size = scenario.Size(
        "test",
        Soak(20, 0.5),
        Soak(10, 0.5),
        {"steps": Steps(6, 1.0, 1), "spike": Spike(5, 30, 0.3, 0.6, 1.0), "soak": Soak(15, 1.0)},
    )
    outcome = scenario.run(tmp_path, size, 1, lambda _text: None)
    timed = ("p99 to first content", "stalls")  # a busy machine's business, not this test's
    assert [f"{c.name}: {c.told}" for c in outcome.broken if not c.name.endswith(timed)] == []
    assert {"one record per accepted call", "descriptors at rest"} <= {check.name for check in outcome.checks}
    assert os.sched_getaffinity(0) == cores
    assert sum(phase.stats.all.calls for phase in outcome.phases.values()) > 30
    assert outcome.figures["first_content_p50_ratio"] > 0


def test_a_part_of_the_wall_against_a_real_gateway(tmp_path: Path) -> None:
    chosen = tuple(
        fault for fault in FAULTS if fault.label in {"nobody listens", "500", "409", "cut after content", "no usage"}
    )
    wall = faultwall.run(tmp_path, chosen)
    assert wall.wrong == []
    labels = {(cell.fault.label, cell.stream, cell.where): verdict.label for cell, verdict in wall.verdicts.items()}
    assert labels["500", True, "first"] == "answered by fallback"
    assert labels["500", True, "both"] == "typed error"
    assert labels["409", False, "first"] == "typed error"
    assert labels["no usage", True, "first"] == "answered"
