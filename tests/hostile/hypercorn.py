"""The Hypercorn under attack, and what every test of it asserts: a sibling loses nothing, no fault meets a guard."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio
from hyperframe.frame import ExtensionFrame, Frame

from tests.hostile.peer import Answer, Peer

Assault = Callable[[int], Awaitable[None]]
DEADLINE_S = 8
ROOT = Path(__file__).resolve().parents[2]
SIBLING_PATH = b"/sse?n=30&gap_ms=10"
SIBLING_BODY = b"".join(b"data: %d\n\n" % number for number in range(30))
STREAMS_MAX = 32


class Server:
    """The process under attack."""

    def __init__(self, idle_s: float = 60) -> None:
        command = [sys.executable, "-m", "tests.hostile.hypercorn_app", str(idle_s)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * 4_096

    def stop(self) -> None:
        """End the process, whatever state it is in."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


async def stats(port: int) -> dict[str, int]:
    """The server's own counts."""
    peer = await Peer.open(port)
    async with peer.stream:
        await peer.get(1, b"/stats")
        counts: dict[str, int] = json.loads((await peer.answer(1)).body)
    return counts


async def settled(port: int, done: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """The counts once they are `done`; the deadline is the caller's."""
    while not done(counts := await stats(port)):  # noqa: ASYNC110 - the counts of another process
        await trio.sleep(0.02)
    return counts


async def beside_sibling(server: Server, assault: Assault) -> None:
    """Run `assault` while another connection streams; nothing of the stream may be lost, no guard needed."""
    with trio.fail_after(DEADLINE_S):
        sibling = await Peer.open(server.port)
        async with sibling.stream:
            await sibling.get(1, SIBLING_PATH)
            await assault(server.port)
            assert (await sibling.answer(1)).body == SIBLING_BODY
        counts = await stats(server.port)
    assert counts["faults"] == 0
    assert counts["websockets"] == 0
    assert server.process.poll() is None


async def assert_alive(peer: Peer, stream_id: int) -> None:
    """The connection still serves a new stream."""
    await peer.get(stream_id, b"/alive")
    answer = await peer.answer(stream_id)
    assert (answer.status, bytes(answer.body)) == ("200", b"/alive")


def assert_own_answer(answer: Answer, status: int) -> None:
    """An answer of the server itself: JSON with one fresh request id under both names."""
    assert answer.status == str(status)
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert answer.headers["x-request-id"] == answer.headers["request-id"]
    assert uuid.UUID(answer.headers["request-id"]).version == 4
    assert json.loads(answer.body) == {"status": status, "id": answer.headers["request-id"]}


def assert_own_reply(reply: bytes, status: int) -> None:
    """The same as `assert_own_answer`, over HTTP/1.1."""
    top, _, body = reply.partition(b"\r\n\r\n")
    line, *fields = top.decode("ascii").split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    answer = Answer({":status": line.split()[1], **headers}, bytearray(body))
    assert_own_answer(answer, status)
    assert headers["connection"] == "close"


async def send_if_open(peer: Peer, *frames: Frame) -> None:
    """Send to a server that may have hung up."""
    try:
        await peer.send(*frames)
    except trio.BrokenResourceError:
        peer.closed = True


def raw_frame(kind: int, stream_id: int, body: bytes) -> Frame:
    """A frame of any type, with the flag END_HEADERS."""
    frame = ExtensionFrame(type=kind, stream_id=stream_id, flag_byte=4, body=body)
    # hyperframe leaves the length of these at zero.
    frame.body_len = len(body)
    return frame


async def wait_exit(process: subprocess.Popen[Any]) -> int:
    """The exit code, once there is one; the deadline is the caller's."""
    while (code := process.poll()) is None:  # noqa: ASYNC110 - another process
        await trio.sleep(0.02)
    return code
