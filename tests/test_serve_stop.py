"""How a serving process stops, and how it takes a new configuration: SIGTERM, SIGINT, SIGHUP."""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from tests.lanes import LANES, OpenLane
from tests.parity_row import MESSAGES
from tests.process import GatewayProcess
from tests.serving import (
    SOON_S,
    WORDS,
    OpenStream,
    ask,
    call,
    config_text,
    first_key,
    gateway,
    get,
    rows,
    until,
    wait_rows,
    wait_stderr,
)
from tests.wire import read
from tests.wire_h1 import H1Client

DONE = b"data: [DONE]\n\n"


async def exit_status(process: GatewayProcess) -> int:
    """Wait for its end."""
    return await trio.to_thread.run_sync(process.wait_exit, SOON_S)


async def refused(process: GatewayProcess) -> None:
    """Wait until connections are refused."""
    port = urlsplit(process.url).port
    assert port is not None
    with trio.fail_after(SOON_S):
        while True:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                return
            await stream.aclose()
            await trio.sleep(0.02)


async def test_sigterm_lets_a_stream_finish(tmp_path: Path) -> None:
    with gateway(tmp_path, config_text(server="grace_s = 20", gap_s=0.05, words_max=24)) as process:
        async with OpenLane(LANES[0], process.url).connect() as connection:
            stream = OpenStream(H1Client(connection))
            with trio.fail_after(SOON_S):
                await stream.begin(call(first_key(process), model=WORDS, stream=True))
            assert DONE not in stream.seen
            process.sigterm()
            await refused(process)
            with trio.fail_after(SOON_S):
                body = await stream.rest()
            assert DONE in body
            assert b'"error"' not in body
            assert await exit_status(process) == 0
        assert [(row["ended"], row["status"]) for row in rows(process)] == [("complete", 200)]


@pytest.mark.parametrize("lane", ["express", "hypercorn-h1"])
async def test_sigterm_ends_a_stream_when_the_grace_is_over(tmp_path: Path, lane: str) -> None:
    express = f"express_lane = {'true' if lane == 'express' else 'false'}"
    text = config_text(server=f"grace_s = 0.5\n{express}", gap_s=0.2)
    with gateway(tmp_path, text) as process:
        async with OpenLane(LANES[0], process.url).connect() as connection:
            stream = OpenStream(H1Client(connection))
            with trio.fail_after(SOON_S):
                await stream.begin(call(first_key(process), model=WORDS, stream=True))
                process.sigterm()
                body = await stream.rest()
            assert b'"code":"shutting_down"' in body
            assert b'"finish_reason":"error"' in body
            assert DONE not in body
            assert await exit_status(process) == 0
        [row] = rows(process)
        assert (row["ended"], row["status"], row["code"]) == ("shutdown", 200, "shutting_down")
        assert row["completion_tokens"] > 0


async def test_a_whole_answer_gets_the_grace_too(tmp_path: Path) -> None:
    with gateway(tmp_path, config_text(server="grace_s = 0.5", gap_s=0.2)) as process:
        key = first_key(process)
        async with OpenLane(LANES[0], process.url).connect() as connection, trio.open_nursery() as nursery:
            client = H1Client(connection)

            async def stop() -> None:
                metrics = b""
                while b"gateway_calls_in_flight 1.0" not in metrics:
                    metrics = (await ask(process, get("/metrics"))).body
                process.sigterm()

            nursery.start_soon(stop)
            with trio.fail_after(SOON_S):
                answer = await client.ask(call(key, model=WORDS))
        assert answer.status == 503
        assert b'"code":"shutting_down"' in answer.body
        assert answer.header("retry-after") is not None
        assert await exit_status(process) == 0


async def test_idle_connections_do_not_hold_the_end_up(tmp_path: Path) -> None:
    with gateway(tmp_path, config_text(server="grace_s = 20")) as process:
        key = first_key(process)
        lane = OpenLane(LANES[0], process.url)
        async with lane.connect() as silent, lane.connect() as used, lane.connect() as control:
            assert (await H1Client(used).ask(call(key))).status == 200
            assert (await H1Client(control).ask(get("/health"))).status == 200
            process.sigterm()
            with trio.fail_after(SOON_S):
                assert await read(silent) == b""
                assert await read(used) == b""
            assert await exit_status(process) == 0


async def test_a_second_sigint_ends_streams_at_once(tmp_path: Path) -> None:
    with gateway(tmp_path, config_text(server="grace_s = 60", gap_s=0.2)) as process:
        async with OpenLane(LANES[0], process.url).connect() as connection:
            stream = OpenStream(H1Client(connection))
            with trio.fail_after(SOON_S):
                await stream.begin(call(first_key(process), model=WORDS, stream=True))
                process.process.send_signal(signal.SIGINT)
                await refused(process)
                process.process.send_signal(signal.SIGINT)
                body = await stream.rest()
            assert b'"code":"shutting_down"' in body
            assert DONE not in body
            assert await exit_status(process) == 0


RENAMED = """
[[models]]
id = "sim/renamed"
context_window = 8192
offers = [ { provider = "sim", model = "words", input = "1.00", output = "2.00" } ]
"""


async def test_sighup_swaps_the_models_and_a_call_keeps_its_own(tmp_path: Path) -> None:
    with gateway(tmp_path, config_text(gap_s=0.05, words_max=24)) as process:
        key = first_key(process)
        async with OpenLane(LANES[0], process.url).connect() as connection:
            stream = OpenStream(H1Client(connection))
            with trio.fail_after(SOON_S):
                await stream.begin(call(key, model=WORDS, stream=True))
            process.config.write_text(config_text(models=RENAMED))
            process.process.send_signal(signal.SIGHUP)
            await wait_stderr(process, "config_reloaded")
            assert (await ask(process, call(key, model=WORDS))).status == 404
            assert (await ask(process, call(key, model="sim/renamed"))).status == 200
            listed = await ask(process, get("/api/v1/models"))
            assert b"sim/renamed" in listed.body
            assert b"sim/words" not in listed.body
            with trio.fail_after(SOON_S):
                body = await stream.rest()
        assert DONE in body
        assert b'"model":"sim/words"' in body
        assert b"renamed" not in body
        await wait_rows(process, 3)


async def test_a_bad_file_changes_nothing_and_says_so(tmp_path: Path) -> None:
    with gateway(tmp_path, config_text()) as process:
        key = first_key(process)
        for text in (
            config_text(models=RENAMED) + "\nnonsense = 1\n",
            "[server\n",
            config_text(models=RENAMED.replace("1.00", "x")),
        ):
            seen = process.stderr().count("config_rejected")
            process.config.write_text(text)
            process.process.send_signal(signal.SIGHUP)
            await until(lambda seen=seen: process.stderr().count("config_rejected") > seen, "config_rejected")  # type: ignore[misc]
            rejected = [line for line in process.stderr().splitlines() if "config_rejected" in line]
            assert str(process.config) in rejected[-1]
            assert (await ask(process, call(key, model=WORDS))).status == 200
            assert (await ask(process, call(key, model="sim/renamed"))).status == 404
        assert "config_reloaded" not in process.stderr()


async def test_what_needs_a_restart_is_warned_of(tmp_path: Path) -> None:
    with gateway(tmp_path, config_text()) as process:
        process.config.write_text(config_text(server='data_dir = "elsewhere"').replace("127.0.0.1:0", "127.0.0.1:1"))
        process.process.send_signal(signal.SIGHUP)
        await wait_stderr(process, "config_reloaded")
        warned = [line for line in process.stderr().splitlines() if "config_needs_restart" in line]
        assert [key for key in ("server.bind", "server.data_dir") if any(key in line for line in warned)] == [
            "server.bind",
            "server.data_dir",
        ]
        answer = await ask(process, call(first_key(process), messages=MESSAGES))
        assert answer.status == 200
