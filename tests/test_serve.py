"""`gateway serve` as a process: its first run, its addresses, its exit codes, and what it leaves behind."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio

from tests.lanes import LANES, OpenLane
from tests.parity_row import CHAT
from tests.process import ROOT, GatewayProcess, ServerFailed, ServerProcess
from tests.serving import SOON_S, WORDS, ask, call, config_text, first_key, gateway, get, wait_rows
from tests.wire import Ask

READY_S = 3.0  # under 1 s on an idle machine
CANARY = "canary-prompt-7f3a9c"
PROVIDER_KEY = "provider-key-canary-51d0"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[GatewayProcess]:
    with gateway(tmp_path, config_text()) as process:
        yield process


def test_it_is_ready_soon(tmp_path: Path) -> None:
    process = gateway(tmp_path, config_text())
    began = time.monotonic()
    with process:
        assert time.monotonic() - began < READY_S


async def test_the_first_run_prints_a_key_and_a_command_that_works(served: GatewayProcess) -> None:
    printed = served.stdout()
    start = printed.index("curl -N")
    words = shlex.split(
        printed[start : printed.index("\n\n", start) if "\n\n" in printed[start:] else None].split("listening on")[0]
    )
    assert words[:2] == ["curl", "-N"]
    url = urlsplit(words[2])
    headers = tuple(
        (name.lower().encode(), value.strip().encode())
        for name, _, value in (words[at + 1].partition(":") for at, word in enumerate(words) if word == "-H")
    )
    body = words[words.index("-d") + 1].encode()
    answer = await OpenLane(LANES[0], f"http://{url.netloc}").ask(Ask("POST", url.path, headers, body))
    assert answer.status == 200
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert first_key(served) in printed


def test_the_key_is_printed_once(tmp_path: Path) -> None:
    process = gateway(tmp_path, config_text())
    with process:
        key = first_key(process)
    with process:
        assert key not in process.stdout()
        assert re.findall(r"^listening on http://127\.0\.0\.1:\d+$", process.stdout(), re.MULTILINE)
        assert "curl" not in process.stdout()


def test_a_second_serve_on_the_same_folder_exits_2(served: GatewayProcess) -> None:
    second = served.command("serve")
    assert second.returncode == 2
    assert str(served.data_dir) in second.stderr
    assert f"process {served.pid}" in second.stderr
    assert served.process.poll() is None


def test_a_taken_port_exits_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        process = gateway(tmp_path, config_text(), "--bind", bind)
        process.start()
        try:
            assert process.wait_exit(SOON_S) == 2
            assert bind in process.stderr()
            assert "Traceback" not in process.stderr()
            assert "in use" in process.stderr()
        finally:
            process.close()


async def test_two_binds_serve_both(tmp_path: Path) -> None:
    with gateway(tmp_path, config_text(), "--bind", "127.0.0.1:0", "--bind", "127.0.0.1:0") as process:
        addresses = process.addresses()
        assert len(set(addresses)) == 2
        for address in addresses:
            answer = await OpenLane(LANES[0], address).ask(get("/health"))
            assert answer.status == 200


async def test_ipv6_is_served_or_refused_in_plain_words(tmp_path: Path) -> None:
    process = gateway(tmp_path, config_text(), "--bind", "[::1]:0")
    try:
        process.start()
        if not _has_ipv6():
            assert process.wait_exit(SOON_S) == 2
            assert "[::1]:0" in process.stderr()
            return
        url = process.wait_ready()
        assert re.fullmatch(r"http://\[::1\]:\d+", url)
        assert (await OpenLane(LANES[0], url).ask(get("/health"))).status == 200
    finally:
        process.close()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_the_shipped_configuration_checks() -> None:
    command = [sys.executable, "-m", "gateway", "check", "--config", "config.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=15, check=False)
    assert done.returncode == 0, done.stderr


def test_serve_refuses_what_check_refuses(tmp_path: Path) -> None:
    process = gateway(tmp_path, config_text(server="grace = 1"))
    process.start()
    try:
        assert process.wait_exit(SOON_S) == 2
        assert f"{process.config}:" in process.stderr()
        assert "grace" in process.stderr()
    finally:
        process.close()


async def test_keys_work_within_a_second_while_serving(served: GatewayProcess) -> None:
    made = await trio.to_thread.run_sync(served.create_key)
    assert await _until(served, made.secret, 200) < 1.0
    revoked = await trio.to_thread.run_sync(lambda: served.command("keys", "revoke", made.id))
    assert revoked.returncode == 0, revoked.stderr
    assert await _until(served, made.secret, 401) < 1.0


async def test_the_command_line_beside_it_costs_no_record(served: GatewayProcess) -> None:
    """A command that closes its connection last removes the WAL, and must not think itself the last while we serve."""
    key = first_key(served)
    for number in range(1, 4):
        assert (await ask(served, call(key))).status == 200
        assert len(await wait_rows(served, number)) == number
        await trio.to_thread.run_sync(served.create_key)
        assert (served.data_dir / "gateway.db-wal").exists()


async def _until(process: GatewayProcess, key: str, status: int) -> float:
    """Seconds until a call with the key is answered so."""
    began = trio.current_time()
    with trio.fail_after(SOON_S):
        while (await ask(process, call(key))).status != status:  # noqa: ASYNC110 - it is asked each time
            await trio.sleep(0.02)
    return trio.current_time() - began


async def test_every_call_leaves_one_record(served: GatewayProcess) -> None:
    key = first_key(served)
    questions = {
        "complete": call(key),
        "stream": call(key, model=WORDS, stream=True),
        "model_not_found": call(key, model="no/such"),
        "invalid_request": call(key, messages=[]),
    }
    answers = {name: await ask(served, question) for name, question in questions.items()}
    assert (await ask(served, call("wrong"))).status == 401
    records = {row["gen_id"]: row for row in await wait_rows(served, len(questions))}
    assert len(records) == len(questions)
    for name, answer in answers.items():
        row = records[answer.header("x-generation-id") or ""]
        assert row["request_id"] == answer.header("x-request-id")
        assert row["status"] == answer.status
        assert row["total_ms"] > 0
        assert row["account_id"]
        assert row["lane"] == "express"
        good = answer.status == 200
        assert row["ended"] == ("complete" if good else name)
        assert row["bytes_out"] == (len(answer.body) if good else 0)
        assert (row["completion_tokens"] > 0) == good
        tokens_cost = row["prompt_tokens"] * 1_000_000 + row["completion_tokens"] * 2_000_000
        assert row["cost_pico_usd"] == tokens_cost
    assert served.stderr().count('"event":"call"') == len(questions)


async def test_metrics_have_their_families_and_no_prompt(served: GatewayProcess) -> None:
    key = first_key(served)
    for stream in (False, True):
        answer = await ask(served, call(key, stream=stream, messages=[{"role": "user", "content": CANARY}]))
        assert answer.status == 200
    metrics = await ask(served, get("/metrics"))
    assert metrics.status == 200, metrics.body
    text = metrics.body.decode()
    families = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert families >= {
        "gateway_calls_total", "gateway_attempts_total", "gateway_calls_in_flight", "gateway_first_content_seconds",
        "gateway_call_seconds", "gateway_request_body_bytes_total", "gateway_answer_body_bytes_total",
        "gateway_upstream_connections", "gateway_breaker_open",
    }  # fmt: skip
    assert re.search(r'gateway_calls_total\{[^}]*ended="complete"[^}]*model="sim/echo"[^}]*\} 2\.0', text)
    assert CANARY not in text
    assert key not in text


async def test_prompts_and_keys_are_found_nowhere(tmp_path: Path) -> None:
    sim = ServerProcess("sim", ["-m", "gateway.sim", "--first-token-s", "0", "--token-gap-s", "0"], tmp_path)
    with sim:
        failing = f"""
[providers.failing]
base_url = "{sim.url}"
api_key = "{PROVIDER_KEY}"
""" + "".join(
            f"""
[[models]]
id = "t/{fault}"
context_window = 8192
offers = [ {{ provider = "failing", model = "fault-{fault}", input = "0", output = "0" }} ]
"""
            for fault in ("status_401", "status_400", "status_500", "error_in_200", "html_200")
        )
        text = config_text() + failing
        with gateway(tmp_path, text) as process:
            key = first_key(process)
            answers = await _with_canaries(process, key)
            database = b"".join(path.read_bytes() for path in process.data_dir.iterdir() if path.is_file())
        for place in (database, process.stderr().encode(), *answers, *_files(process.data_dir)):
            for secret in (CANARY, key, key + "wrong", PROVIDER_KEY):
                assert secret.encode() not in place, secret


def _files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir() if path.is_file()]


async def _with_canaries(process: GatewayProcess, key: str) -> list[bytes]:
    """The bodies of answers that are errors, to calls with the prompt in every place that is one."""
    prompt = [{"role": "user", "content": CANARY}]
    good = call(key, messages=prompt)
    body = good.body or b""
    questions = [
        good, call(key, messages=prompt, stream=True), call(key + "wrong", messages=prompt),
        call(key, messages=CANARY), call(key, messages=prompt, max_tokens=-1),
        call(key, messages=prompt, stream=CANARY), Ask("POST", "/v1/x", good.headers, body),
        Ask("POST", CHAT, good.headers, body[:-1]), Ask("POST", CHAT, good.headers, body + b"x"),
        Ask("POST", CHAT, good.headers, body.replace(b"canary", b"\xffcanary")),
        Ask("PUT", CHAT, good.headers, body),
        *(call(key, model=f"t/{fault}", messages=prompt, stream=stream) for stream in (False, True)
          for fault in ("status_401", "status_400", "status_500", "error_in_200", "html_200")),
    ]  # fmt: skip
    answers = [await ask(process, question) for question in questions]
    assert [answer.status for answer in answers[:2]] == [200, 200]
    assert all(answer.status >= 400 for answer in answers[2:])
    await wait_rows(process, 15)
    return [answer.body for answer in answers if answer.status >= 400]


def test_a_start_that_fails_is_told_apart(tmp_path: Path) -> None:
    """The harness itself: a gateway that exits is not waited for."""
    with pytest.raises(ServerFailed), gateway(tmp_path, "[server]\nbind = 7\n"):
        pass
