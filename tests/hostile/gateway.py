"""The gateway under attack, and the sibling: a stream on another connection that must lose nothing meanwhile.

An assault runs beside siblings that stream one after the other. Afterwards the process is up, `/health` answers, and
its log has no fault that a guard had to catch.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.hostile.upstream_answers import BEHAVIOURS
from tests.lanes import Certificate, Lane, OpenLane
from tests.process import GatewayProcess
from tests.wire import Answer, Ask

CHAT = "/v1/chat/completions"
DEADLINE_S = 20.0
HEADER_S = 1
BODY_S = 2
STALL_S = 2
IDLE_S = 1.5
FRAME_BYTES_MAX = 16 * 1024 * 1024
# What the log must not have: these are where a guard met an exception nobody expected.
FAULTS = ("connection_failed", "call_failed", "Traceback")
H2_STREAMS_MAX = 64

EXPRESS = Lane("express")
HYPERCORN = Lane("hypercorn-h1", express=False)
H2 = Lane("h2", h2=True)
TLS_H2 = Lane("tls-h2", h2=True, tls=True)
TLS_H1 = Lane("tls-h1", tls=True)

CONFIG = f"""
[server]
bind = ["127.0.0.1:0"]
header_s = {HEADER_S}
body_s = {BODY_S}
keep_alive_s = 3
grace_s = 1
h2_streams_max = {H2_STREAMS_MAX}
inference_body_bytes_max = 4_000_000
SERVER

[timeouts]
connect_s = 2
first_content_s = 1.5
answer_s = 2
idle_s = {IDLE_S}
client_stall_s = {STALL_S}

[upstream]
answer_bytes_max = 4_000_000
stream_frame_bytes_max = {FRAME_BYTES_MAX}

[sim]
first_token_s = 0.01
token_gap_s = 0.01
words_max = 30

[[models]]
id = "sim/words"
context_window = 1_000_000_000
balance = "order"
offers = [ {{ provider = "sim", model = "words", input = "0", output = "0" }} ]
"""

MODEL = """
[providers.p-{name}]
base_url = "{url}/{name}"
api_key = "unused"

[[models]]
id = "h/{name}"
context_window = 1_000_000_000
balance = "order"
offers = [ {{ provider = "p-{name}", model = "upstream-model", input = "1.00", output = "1.00" }} ]
"""

FALLBACK = """
[[models]]
id = "f/{name}"
context_window = 1_000_000_000
balance = "order"
offers = [
    {{ provider = "p-{name}", model = "upstream-model", input = "1.00", output = "1.00" }},
    {{ provider = "p-good", model = "upstream-model", input = "1.00", output = "1.00" }},
]
"""


def config_text(upstream_url: str, lane: Lane, certificate: Certificate) -> str:
    """A gateway with short limits: `h/NAME` has the provider that does NAME, `f/NAME` an honest one behind it."""
    server = lane.server_toml.replace("CERT", str(certificate.certfile)).replace("KEY", str(certificate.keyfile))
    models = "".join((MODEL + FALLBACK).format(name=name, url=upstream_url) for name in BEHAVIOURS if name != "good")
    good = MODEL.format(name="good", url=upstream_url)
    return CONFIG.replace("SERVER", server) + good + models


def chat_body(model: str, *, stream: bool = True, **fields: object) -> bytes:
    """A chat request."""
    return json.dumps(
        {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream, **fields}
    ).encode()


@dataclass(frozen=True, slots=True)
class Target:
    """A running gateway and the lanes into it."""

    process: GatewayProcess
    key: str
    key_id: str
    lanes: tuple[OpenLane, ...]

    @property
    def port(self) -> int:
        return int(self.lanes[0].url.rpartition(":")[2])

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The headers of a call with a good key."""
        return ((b"authorization", b"Bearer " + self.key.encode()), (b"content-type", b"application/json"))

    def ask(self, body: bytes | None, *, path: str = CHAT) -> Ask:
        """A call."""
        return Ask("POST", path, self.headers, body)

    def lane(self, name: str) -> OpenLane:
        """The lane of this name."""
        return next(lane for lane in self.lanes if lane.lane.name == name)

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]) * 4_096

    def descriptors(self) -> int:
        """Open files and sockets of the process."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def records(self, where: str = "1") -> int:
        """How many records of calls there are."""
        with closing(sqlite3.connect(f"file:{self.process.database}?mode=ro", uri=True)) as database:
            count: int = database.execute(f"select count(*) from calls where {where}").fetchone()[0]
        return count

    async def gauges(self) -> dict[str, float]:
        """The metrics, summed over their labels; `gateway_upstream_connections` apart by state."""
        answer = await self.lanes[0].ask(Ask("GET", "/metrics"))
        assert answer.status == 200, self.process.stderr()[-3000:]
        found: dict[str, float] = {}
        for line in answer.body.decode().splitlines():
            if line.startswith("#") or not line:
                continue
            name, _, value = line.rpartition(" ")
            state = next((state for state in ("used", "idle") if f'state="{state}"' in name), "")
            name = f"{name.partition('{')[0]} {state}".strip()
            found[name] = found.get(name, 0) + float(value)
        return found

    async def until_quiet(self, within_s: float = 10, connections: int = 1) -> dict[str, float]:
        """Wait until no call is under way, no provider's connection used, no body held, no record queued."""
        names = ("calls_in_flight", "upstream_connections used", "request_bodies_held_bytes", "records_queued")
        with trio.move_on_after(within_s):
            while True:
                gauges = await self.gauges()
                busy = {name: gauges.get(f"gateway_{name}", 0) for name in names}
                busy["client_connections"] = gauges["gateway_client_connections"] - connections
                if all(value <= 0 for value in busy.values()):
                    return gauges
                await trio.sleep(0.05)
        raise AssertionError(f"not quiet within {within_s} s: {busy}")


def content(answer: Answer) -> str:
    """The text of a whole stream of OpenAI chunks."""
    assert answer.status == 200, answer.body
    assert answer.end == "whole", answer.end
    lines = [line for line in answer.body.decode().split("\n") if line.startswith("data: ")]
    assert answer.body.endswith(b"data: [DONE]\n\n"), answer.body[-200:]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


Assault = Callable[[], Awaitable[None]]


async def beside_sibling(target: Target, assault: Assault, *, within_s: float = DEADLINE_S) -> None:
    """Run `assault` while another connection streams, again and again; every stream must be whole and the same."""
    ask, over = target.ask(chat_body("sim/words")), trio.Event()
    texts: list[str] = []

    async def stream() -> None:
        while not over.is_set() or not texts:
            texts.append(content(await target.lanes[0].ask(ask)))

    with trio.fail_after(within_s):
        first = content(await target.lanes[0].ask(ask))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream)
            await assault()
            over.set()
    assert set(texts) == {first}
    assert len(first) > 20
    await assert_up(target)


async def assert_up(target: Target) -> None:
    """The process lives, answers, and no guard was needed."""
    assert target.process.process.poll() is None, target.process.stderr()[-2000:]
    assert (await target.lanes[0].ask(Ask("GET", "/health"))).status == 200
    log = target.process.stderr()
    assert not any(fault in log for fault in FAULTS), log[-6000:]


async def together(assaults: Sequence[Assault]) -> None:
    """All at once."""
    async with trio.open_nursery() as nursery:
        for assault in assaults:
            nursery.start_soon(assault)
