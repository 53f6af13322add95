"""A gateway process with a short configuration, and questions to it: what the tests of `gateway serve` share."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from tests.lanes import LANES, OpenLane
from tests.parity_row import CHAT, ECHO, MESSAGES, dumps
from tests.process import GatewayProcess, wait_until
from tests.wire import Answer, Ask
from tests.wire_h1 import H1Client, encode

FIRST_KEY = re.compile(r"^\s+(sk-\S+)$", re.MULTILINE)
SOON_S = 5.0  # for what happens at once, on a machine with every core busy
WORDS = "sim/words"

MODELS = """
[[models]]
id = "sim/echo"
context_window = 8192
offers = [ { provider = "sim", model = "echo", input = "1.00", output = "2.00" } ]

[[models]]
id = "sim/words"
context_window = 8192
offers = [ { provider = "sim", model = "words", input = "1.00", output = "2.00" } ]
"""


def config_text(*, server: str = "", gap_s: float = 0.0, words_max: int = 64, models: str = MODELS) -> str:
    """A configuration with the simulated provider at a chosen pace."""
    return f"""
[server]
bind = ["127.0.0.1:0"]
{server}

[sim]
first_token_s = 0
token_gap_s = {gap_s}
words_max = {words_max}
{models}
"""


def gateway(folder: Path, text: str, *arguments: str, name: str = "gateway") -> GatewayProcess:
    """A gateway that is not started yet, its files in `folder`."""
    config = folder / f"{name}.toml"
    config.write_text(text)
    return GatewayProcess(config, folder / "data", folder, arguments=arguments, name=name)


def first_key(process: GatewayProcess) -> str:
    """The key that a first run has printed."""
    found = FIRST_KEY.search(process.stdout())
    assert found, process.stdout()
    return found[1]


def call(key: str, /, **fields: object) -> Ask:
    """A chat call."""
    body = dumps({"model": ECHO, "messages": MESSAGES} | fields)
    return Ask("POST", CHAT, ((b"authorization", b"Bearer " + key.encode()),), body)


async def ask(process: GatewayProcess, question: Ask) -> Answer:
    """One request on a fresh connection to the first address."""
    return await OpenLane(LANES[0], process.url).ask(question)


def get(path: str, *headers: tuple[bytes, bytes]) -> Ask:
    """A GET."""
    return Ask("GET", path, headers)


class OpenStream:
    """A streaming answer under way on a connection of its own."""

    def __init__(self, client: H1Client) -> None:
        self.client = client
        self.seen = b""

    async def begin(self, question: Ask) -> None:
        """Send the call and read until its first content."""
        await self.client.stream.send_all(encode(question))
        status, _ = await self.client.head()
        assert status == 200
        while b'"content":"' not in self.seen.replace(b'"content":""', b""):
            self.seen += await self.client.body_bytes(1)

    async def rest(self) -> bytes:
        """Everything to the end of the chunked body."""
        while not self.seen.endswith(b"0\r\n\r\n"):
            self.seen += await self.client.body_bytes(1)
        return self.seen


def rows(process: GatewayProcess) -> list[dict[str, Any]]:
    """The records, oldest first."""
    with contextlib.closing(sqlite3.connect(f"{process.database.as_uri()}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM calls ORDER BY started_at")]


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait in a thread until the condition holds, for `SOON_S` at most."""
    await trio.to_thread.run_sync(lambda: wait_until(condition, within_s=SOON_S, what=what))


async def wait_rows(process: GatewayProcess, count: int) -> list[dict[str, Any]]:
    """The records once there are at least so many."""
    await until(lambda: len(rows(process)) >= count, f"{count} records")
    return rows(process)


async def wait_stderr(process: GatewayProcess, text: str) -> None:
    """Wait until the process has said so on standard error."""
    await until(lambda: text in process.stderr(), f"{text!r} on stderr")
