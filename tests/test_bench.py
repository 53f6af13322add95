"""The benchmark measures what it says: counts are exact, gaps are real, wrong answers are seen, records are judged.

The fake upstream is a real subprocess on a free port; the generator runs here. Bounds on time are wide enough for
a busy machine and narrow enough that a wrong clock, a lost frame or a batched schedule fails.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from bench import certs, frames, measure, processes, records, report, tables, verify
from bench.job import Job, spread_of
from bench.load import Generator
from bench.load_h2 import run_h2
from bench.summary import Target, summarise, targets

CHAT_PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a running fake upstream."""
    folder = tmp_path_factory.mktemp("bench")
    core = min(os.sched_getaffinity(0))
    with processes.Fleet() as fleet:
        server = fleet.spawn("upstream", [sys.executable, "-m", "bench.upstream"], core=core, folder=folder)
        yield processes.wait_listening(server, 20)


def _job(port: int, model: str, *, path: str = CHAT_PATH, **load: Any) -> Job:
    body = frames.request_body(model, stream=load.get("frames", 0) > 0).decode()
    return Job(port, path, {"Authorization": "Bearer k"}, body, **load)


def _stats(port: int) -> dict[str, float]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/stats")
        found: dict[str, float] = json.loads(connection.getresponse().read())
        return found


def test_every_call_is_counted_once(upstream: int) -> None:
    before = _stats(upstream)["calls"]
    result = Generator(_job(upstream, "bench-chat", connections=4, calls=200)).run()
    assert (result.sent, result.correct, result.errors, result.unfinished) == (200, 200, {}, 0)
    assert result.latency.count == 200
    assert _stats(upstream)["calls"] - before == 200


def test_paced_stream_gaps_and_frames_are_measured(upstream: int) -> None:
    load = _job(upstream, "bench-stream-8x20", connections=3, calls=6, frames=8, pace_s=0.02, spread_s=0.16)
    result = Generator(load).run()
    assert (result.sent, result.correct, result.errors) == (6, 6, {})
    assert result.frames == 6 * 8
    assert result.gap.count == 6 * 7
    assert 0.018 <= result.gap.p50 <= 0.040
    assert result.first_content.count == 6
    assert result.first_content.p50 < 0.018  # the first frame is not paced
    assert result.latency.p50 >= 0.138  # seven gaps
    assert 0.0 < result.cpu_share < 1.1


def test_a_gap_over_ten_times_the_pace_is_a_stall(upstream: int) -> None:
    load = _job(upstream, "bench-stream-4x20", connections=1, calls=1, frames=4, pace_s=0.001)
    assert Generator(load).run().stalls == 3


def test_burst_streams_arrive_whole(upstream: int) -> None:
    result = Generator(_job(upstream, "bench-burst-200", connections=4, calls=40, frames=200)).run()
    assert (result.correct, result.frames, result.stalls, result.errors) == (40, 8000, 0, {})


def test_request_fields_choose_the_stream(upstream: int) -> None:
    body = json.dumps({"model": "any", "stream": True, "bench": {"frames": 5, "burst": True}})
    assert Generator(Job(upstream, CHAT_PATH, {}, body, connections=1, calls=2, frames=5)).run().correct == 2


@pytest.mark.parametrize(
    ("model", "path", "expected", "error"),
    [("bench-chat", "/nowhere", 0, "status 404"), ("bench-burst-8", CHAT_PATH, 9, "wrong text")],
)
def test_wrong_answers_are_errors(upstream: int, model: str, path: str, expected: int, error: str) -> None:
    result = Generator(_job(upstream, model, path=path, connections=2, calls=6, frames=expected)).run()
    assert (result.correct, result.errors, result.latency.count) == (0, {error: 6}, 0)


def test_open_arrivals_keep_their_rate(upstream: int) -> None:
    load = _job(upstream, "bench-chat", connections=4, duration_s=0.5, rate_per_s=100.0)
    result = Generator(load).run()
    assert (result.sent, result.correct) == (50, 50)
    assert result.wall_s >= 0.48


def test_open_arrivals_count_from_the_intended_start(upstream: int) -> None:
    # Streams of 60 ms arriving every 10 ms on one connection: the fourth has waited for three.
    load = _job(upstream, "bench-stream-4x20", connections=1, calls=4, frames=4, pace_s=0.02, rate_per_s=100.0)
    assert Generator(load).run().latency.max >= 4 * 0.060 - 3 * 0.010 - 0.002


def test_upstream_notices_a_client_that_leaves(upstream: int) -> None:
    before = _stats(upstream)["streams_abandoned"]
    load = _job(upstream, "bench-stream-500x20", connections=2, calls=2, frames=500, pace_s=0.02, deadline_s=0.2)
    result = Generator(load).run()
    assert (result.sent, result.unfinished, result.correct) == (2, 2, 0)
    end = time.monotonic() + 5
    while _stats(upstream)["streams_abandoned"] < before + 2:
        assert time.monotonic() < end, "the upstream went on with streams nobody reads"


def test_tls_upstream_answers_under_its_certificate(tmp_path: Path) -> None:
    pem, ca = certs.write_self_signed(tmp_path)
    command = [sys.executable, "-m", "bench.upstream", "--tls", str(pem)]
    with processes.Fleet() as fleet:
        server = fleet.spawn("tls", command, core=min(os.sched_getaffinity(0)), folder=tmp_path)
        port = processes.wait_listening(server, 20)
        context = ssl.create_default_context(cafile=str(ca))
        for _ in range(2):
            with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)) as connection:
                connection.request("POST", CHAT_PATH, frames.request_body("bench-burst-50", stream=True))
                text = b"".join(verify.CONTENT.findall(connection.getresponse().read())).decode()
                assert text == frames.expected_text(50)


async def _asgi(
    scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    while scope["type"] == "lifespan":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": frames.completion()})


async def test_http2_generator_counts_calls(nursery: trio.Nursery) -> None:
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = config.accesslog = None
    bound: list[str] = await nursery.start(serve, _asgi, config)
    load = _job(int(bound[0].rpartition(":")[2]), "bench-chat", connections=2, streams=3, calls=30, protocol="h2")
    with trio.fail_after(20):
        result = await trio.to_thread.run_sync(run_h2, load)
    assert (result.sent, result.correct, result.errors, result.latency.count) == (30, 30, {}, 30)
    nursery.cancel_scope.cancel()


def test_verify_sees_every_cut_of_a_stream() -> None:
    chat_id = b"1" * frames.ID_CHARS
    chunks = [frames.content_chunk(i, usage=True) for i in range(3)] + [frames.closing_chunks(3, usage=True)]
    raw = frames.STREAM_HEAD + b"".join(chat_id.join(chunk) for chunk in chunks)
    assert verify.check_stream(raw, 3) is None
    assert verify.check_stream(raw, 2) == "wrong text"
    assert verify.check_stream(raw.replace(b"[DONE]", b"[GONE]"), 3) == "no [DONE]"
    assert verify.check_stream(raw.replace(b'"stop"', b'"gone"'), 3) == "no finish_reason"
    for end in range(len(frames.STREAM_HEAD), len(raw)):
        assert verify.check_stream(raw[:end], 3) is not None
        assert not verify.is_complete(raw[:end])


def test_quantiles_are_nearest_rank() -> None:
    spread = spread_of([float(i) for i in range(100, 0, -1)])
    assert (spread.count, spread.p50, spread.p90, spread.p99, spread.max) == (100, 50.0, 90.0, 99.0, 100.0)


def test_cpu_clock_of_another_process_is_its_own() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert 0.3 <= measure.cpu_s(child.pid) < 0.4
        assert measure.rss_bytes(child.pid) > 2**20
        child.communicate(b"\n")


@pytest.mark.parametrize(
    ("rows", "status", "problem"),
    [
        ([("a", 200, "done"), ("b", 502, "failed")], 0, ""),
        ([("a", 200, "done")], 0, "2 calls were sent but 1 are recorded"),
        ([("a", 200, "done"), ("a", 200, "done")], 0, "1 records share a gen_id"),
        ([("a", 200, "done"), ("b", None, "done")], 0, "1 records lack"),
        ([("a", 200, "done"), ("b", 200, "")], 0, "1 records lack"),
        ([("a", 200, "done"), ("b", 200, "done")], -9, "status -9"),
    ],
)
def test_records_must_match_the_calls(
    tmp_path: Path, rows: list[tuple[object, ...]], status: int, problem: str
) -> None:
    database = tmp_path / "gateway.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE calls (gen_id TEXT, status INTEGER, ended TEXT)")
        connection.executemany("INSERT INTO calls VALUES (?, ?, ?)", rows)
        connection.commit()
    found = records.judge(database, 2, status).problem
    assert problem in found
    assert bool(found) == bool(problem)


def test_a_missing_database_is_a_problem(tmp_path: Path) -> None:
    assert "cannot read" in records.judge(tmp_path / "none.db", 0, 0).problem


def test_added_figures_are_taken_within_a_round() -> None:
    direct = [{"first_p50_ms": 1.0, "gap_p99_ms": 20.0}, {"first_p50_ms": 9.0, "gap_p99_ms": 40.0}]
    mine = [
        {"first_p50_ms": 1.5, "gap_p99_ms": 30.0, "stalls": 1.0},
        {"first_p50_ms": 9.7, "gap_p99_ms": 44.0, "stalls": 2.0},
    ]
    found = summarise({"direct": {"paced-16": direct}, "gateway": {"paced-16": mine}})["gateway"]["paced-16"]
    assert found["added_first_p50_ms"] == pytest.approx(0.6)
    assert found["gap_ratio"] == pytest.approx(1.3)
    assert found["stalls"] == 3.0
    by_name = {target.name: target for target in targets({"gateway": {"paced-16": found}}, {}, {})}
    assert by_name["added first content p50, 16 streams"].met is True
    assert by_name["idle RSS"].met is None
    assert Target("rate", 10, "req/s", 9.0, at_least=True).met is False


def test_readme_section_is_replaced_between_its_marks(tmp_path: Path) -> None:
    found = tables.Report("c", "now", {}, "pins", 1, {}, {}, {}, {}, {}, [], {}, None)
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nthe last table\n{report.END}\nafter\n")
    report.update_readme(found, readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "the last table" not in text
    assert "pins" in text
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="has no"):
        report.update_readme(found, readme)


def test_free_port_is_free() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", processes.free_port()))
