"""Mutated byte streams, from a seed: each is answered or closed, and the process answers afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest
import trio
from hpack import Encoder
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame, PriorityFrame, SettingsFrame, WindowUpdateFrame

from tests.hostile.gateway import CHAT, Target, beside_sibling, chat_body
from tests.hostile.peer import PREFACE, head
from tests.lanes import OpenLane
from tests.wire import Ask, read, write
from tests.wire_h1 import encode

SEED = 25
AT_ONCE = 150
ANSWER_S = 12.0  # past every limit of the gateway's: a head, a body, an idle connection
FRAGMENTS = (
    b"", b"\x00", b"\xff", b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"0", b"-1", b"9" * 30, b"\r\n\r\n", b"chunked",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: y\r\n", b"HTTP/2.0", b"HTTP/1.0", b"%00",
    b"\xc3\x28", b"[" * 500, b'"', b"{", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"Connection: close\r\n", b"v" * 70_000,
    b"Expect: 100-continue\r\n", b"0\r\n\r\n", b"/../..", b"Upgrade: websocket\r\nConnection: upgrade\r\n",
)  # fmt: skip


def mutate(data: bytes, random_: random.Random) -> bytes:
    """A few edits: bits, bytes, fragments, cuts and repeats."""
    out = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(out) + 1)
        end = min(len(out), at + random_.choice((0, 1, 1, 2, 8, 40)))
        match random_.randrange(5):
            case 0 if at < len(out):
                out[at] ^= 1 << random_.randrange(8)
            case 1:
                out[at:end] = random_.randbytes(random_.randint(1, 6))
            case 2:
                out[at:end] = random_.choice(FRAGMENTS)
            case 3:
                out[at:at] = out[at:end]
            case _:
                del out[at:end]
    return bytes(out)


def h1_seeds(target: Target) -> list[bytes]:
    """Valid requests."""
    body = chat_body("sim/words")
    asks = [
        target.ask(body), target.ask(chat_body("sim/words", stream=False)), Ask("GET", "/health"),
        Ask("POST", CHAT, target.headers, pieces=(body[:20], body[20:])),
        Ask("GET", "/v1/models/sim/words", target.headers),
        Ask("HEAD", "/ready"), Ask("POST", "/api" + CHAT, (), body),
    ]  # fmt: skip
    return [*map(encode, asks), encode(asks[0]) + encode(asks[2])]


def h2_seeds(target: Target) -> list[bytes]:
    """Valid connections: a preface, settings, a call and a look at the health."""
    seeds = []
    for stream in (True, False):
        encoder = Encoder()
        call = encoder.encode([*head(CHAT.encode(), b"POST"), *target.headers])
        health = encoder.encode(head(b"/health"))
        frames = [
            SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 100_000}), WindowUpdateFrame(0, 100_000),
            HeadersFrame(1, call, flags=["END_HEADERS"]), PriorityFrame(1), PingFrame(0),
            DataFrame(1, chat_body("sim/words", stream=stream), flags=["END_STREAM"]),
            HeadersFrame(3, health, flags=["END_HEADERS", "END_STREAM"]),
        ]  # fmt: skip
        seeds.append(PREFACE + b"".join(frame.serialize() for frame in frames))
    return seeds


async def answered_or_closed(lane: OpenLane, data: bytes, limiter: trio.CapacityLimiter, *, half_close: bool) -> None:
    """Send, perhaps with FIN; something must come back, or the end."""
    async with limiter:
        with trio.fail_after(ANSWER_S):
            async with lane.connect() as stream:
                await write(stream, data)
                if half_close and isinstance(stream, trio.SocketStream):
                    try:
                        await stream.send_eof()
                    except trio.BrokenResourceError:
                        return
                await read(stream)


Seeds = Callable[[Target], list[bytes]]
RUNS: list[tuple[str, str, Seeds, int]] = [
    ("clear", "express", h1_seeds, 2_000), ("hypercorn", "hypercorn-h1", h1_seeds, 700),
    ("tls", "tls-h1", h1_seeds, 300),
    ("clear", "h2", h2_seeds, 800), ("tls", "tls-h2", h2_seeds, 200),
]  # fmt: skip


@pytest.mark.parametrize(("gateway", "lane", "seeds", "count"), RUNS, ids=[run[1] for run in RUNS])
async def test_mutated_bytes_are_answered_or_closed(
    request: pytest.FixtureRequest, gateway: str, lane: str, seeds: Seeds, count: int
) -> None:
    target: Target = request.getfixturevalue(gateway)
    random_, limiter, opened = random.Random(SEED), trio.CapacityLimiter(AT_ONCE), target.lane(lane)
    valid = seeds(target)
    streams = [(mutate(random_.choice(valid), random_), random_.random() < 0.5) for _ in range(count)]

    async def assault() -> None:
        async with trio.open_nursery() as nursery:
            for data, half_close in streams:
                nursery.start_soon(partial(answered_or_closed, opened, data, limiter, half_close=half_close))

    await beside_sibling(target, assault, within_s=60)
    await target.until_quiet()
