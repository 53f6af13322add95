"""A scripted provider: what each of its connections does, step by step, over memory or over a real socket.

`MemoryUpstream.connect` goes into `Pool(connect=...)`; every transport it made is kept with the times at which it was
opened and closed, so a test can say when a loser was cut and that nothing stayed open. `serve` plays the same scripts
on a TCP port. A script that ran out leaves its connection open and silent, as a keep-alive server would.
"""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

import trio

from gateway.core.call import Origin
from gateway.upstream.transport import Transport, TransportBroken


@dataclass(frozen=True)
class Request:
    """Wait for one whole request (head and content-length body)."""


@dataclass(frozen=True)
class Send:
    """Send bytes."""

    data: bytes


@dataclass(frozen=True)
class Wait:
    """Let time pass."""

    seconds: float


@dataclass(frozen=True)
class Reset:
    """Break the connection: the gateway's next read or write fails."""


@dataclass(frozen=True)
class Close:
    """End the stream."""


@dataclass(frozen=True)
class Flood:
    """Send these bytes again and again, as fast as they are taken."""

    data: bytes


Step = Request | Send | Wait | Reset | Close | Flood
HANG = Wait(inf)


@dataclass(frozen=True)
class Script:
    """What one connection does. `connect_s` is how long dialling takes; `refused` how it ends."""

    steps: tuple[Step, ...] = ()
    connect_s: float = 0.0
    refused: bool = False


def script(*steps: Step, connect_s: float = 0.0) -> Script:
    return Script((Request(), *steps), connect_s)


REFUSE = Script(refused=True)


def head(status: int = 200, *headers: str, kind: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"content-type: {kind}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def whole(body: bytes, status: int = 200, *headers: str) -> bytes:
    """A response with a content-length."""
    return head(status, f"content-length: {len(body)}", *headers) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


LAST_CHUNK = b"0\r\n\r\n"
SSE_HEAD = head(200, "transfer-encoding: chunked", kind="text/event-stream")
SSE_HEAD_TO_END = head(200, "connection: close", kind="text/event-stream")


def streamed(*frames: bytes) -> bytes:
    """A whole chunked event stream, each frame its own chunk."""
    return SSE_HEAD + b"".join(map(chunk, frames)) + LAST_CHUNK


def answer_body(model: str = "up-model", text: str = "hi", usage: tuple[int, int] | None = (3, 2)) -> bytes:
    body: dict[str, Any] = {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
    }
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return json.dumps(body).encode()


def frame(delta: dict[str, Any], finish: str | None = None, model: str = "up-model", **more: Any) -> bytes:
    """One chunk frame as OpenAI writes it."""
    body = {
        "id": "chatcmpl-7",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def usage_frame(prompt: int = 3, completion: int = 2, model: str = "up-model") -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    body = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 7, "model": model, "choices": []}
    return b"data: " + json.dumps({**body, "usage": usage}, separators=(",", ":")).encode() + b"\n\n"


ROLE = frame({"role": "assistant", "content": ""})
WORD = frame({"content": "word"})
FINISH = frame({}, "stop")
USAGE = usage_frame()
DONE = b"data: [DONE]\n\n"
GOOD_STREAM = streamed(ROLE, WORD, WORD, FINISH, USAGE, DONE)


class Peer(Protocol):
    """The provider's end of a connection."""

    async def send(self, data: bytes) -> None: ...

    async def request(self) -> bytes: ...

    def close(self) -> None: ...

    def reset(self) -> None: ...


async def play(steps: Iterable[Step], peer: Peer) -> None:
    """Play a script; returns when it closed the connection, else leaves it open."""
    for step in steps:
        match step:
            case Request():
                await peer.request()
            case Send(data):
                await peer.send(data)
            case Wait(seconds):
                await trio.sleep(seconds)
            case Flood(data):
                while True:
                    await peer.send(data)
            case Reset():
                peer.reset()
                return
            case Close():
                peer.close()
                return


def _request_bytes(raw: bytes) -> int | None:
    """How long the request at the start of `raw` is, None while it is incomplete."""
    end = raw.find(b"\r\n\r\n")
    if end < 0:
        return None
    _, told, after = raw[:end].lower().rpartition(b"content-length:")
    length = int(after.split(b"\r\n")[0]) if told else 0
    return end + 4 + length if len(raw) >= end + 4 + length else None


class MemoryTransport:
    """gateway.upstream.transport.Transport over memory, and the Peer of it."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.opened_at = trio.current_time()
        self.closed_at: float | None = None
        self.requests: list[bytes] = []
        self.playing = trio.CancelScope()
        self._inbox: deque[bytes] = deque()
        self._ended = self._broken = False
        self._sent = b""
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def name(self) -> str:
        return self.origin.host.removesuffix(".test")

    # the gateway's end

    def fileno(self) -> int | None:
        return None

    async def receive(self) -> bytes:
        while (data := self.receive_now()) is None:
            await self._changed.park()
        return data

    def receive_now(self) -> bytes | None:
        if self.closed_at is not None:
            raise TransportBroken("closed")
        if self._inbox:
            data = self._inbox.popleft()
            self._changed.unpark_all()
            return data
        if self._broken:
            raise TransportBroken("reset")
        return b"" if self._ended else None

    async def send(self, parts: Sequence[bytes]) -> None:
        if self.closed_at is not None or self._broken:
            raise TransportBroken("closed")
        self._sent += b"".join(parts)
        self._changed.unpark_all()

    def is_quiet(self) -> bool:
        try:
            return self.receive_now() is None
        except TransportBroken:
            return False

    def close(self) -> None:
        if self.closed_at is None:
            self.closed_at = trio.current_time()
            self.playing.cancel()
            self._changed.unpark_all()

    # the provider's end

    async def put(self, data: bytes) -> None:
        self._inbox.append(data)
        self._changed.unpark_all()

    async def request(self) -> bytes:
        while (size := _request_bytes(self._sent)) is None:
            await self._changed.park()
        request, self._sent = self._sent[:size], self._sent[size:]
        self.requests.append(request)
        return request

    def end(self) -> None:
        self._ended = True
        self._changed.unpark_all()

    def reset(self) -> None:
        self._broken = True
        self._changed.unpark_all()


@dataclass
class _MemoryPeer:
    """The provider's methods of a transport: `send` and `close` mean the other direction there."""

    transport: MemoryTransport

    async def send(self, data: bytes) -> None:
        await self.transport.put(data)
        await trio.lowlevel.checkpoint()

    async def request(self) -> bytes:
        return await self.transport.request()

    def close(self) -> None:
        self.transport.end()

    def reset(self) -> None:
        self.transport.reset()


@dataclass
class MemoryUpstream:
    """Providers by host name. The n-th connection to a host plays its n-th script, later ones the last."""

    nursery: trio.Nursery
    scripts: dict[str, Sequence[Script]]
    transports: list[MemoryTransport] = field(default_factory=list)
    dialled: list[tuple[str, float]] = field(default_factory=list)
    dialling: int = 0

    async def connect(self, origin: Origin) -> Transport:
        name = origin.host.removesuffix(".test")
        scripts = self.scripts[name]
        chosen = scripts[min(sum(host == name for host, _ in self.dialled), len(scripts) - 1)]
        self.dialled.append((name, trio.current_time()))
        self.dialling += 1
        try:
            await trio.sleep(chosen.connect_s)
        finally:
            self.dialling -= 1
        if chosen.refused:
            raise TransportBroken("refused")
        transport = MemoryTransport(origin)
        self.transports.append(transport)
        self.nursery.start_soon(self._play, chosen, transport)
        return transport

    async def _play(self, chosen: Script, transport: MemoryTransport) -> None:
        with transport.playing:
            await play(chosen.steps, _MemoryPeer(transport))

    def open(self) -> list[MemoryTransport]:
        return [transport for transport in self.transports if transport.closed_at is None]

    def of(self, name: str) -> list[MemoryTransport]:
        return [transport for transport in self.transports if transport.name == name]

    def times(self) -> list[tuple[str, float]]:
        """(provider, when it was dialled), in order."""
        return self.dialled


class SocketPeer:
    """The provider's end of a TCP connection. `listen` reads for it, and sees the gateway leave at whatever step."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._raw = b""
        self._changed = trio.lowlevel.ParkingLot()
        self.sent_bytes = 0

    async def listen(self, scope: trio.CancelScope) -> None:
        while data := await self._stream.receive_some():
            self._raw += data
            self._changed.unpark_all()
        scope.cancel()

    async def send(self, data: bytes) -> None:
        await self._stream.send_all(data)
        self.sent_bytes += len(data)

    async def request(self) -> bytes:
        while (size := _request_bytes(self._raw)) is None:
            await self._changed.park()
        request, self._raw = self._raw[:size], self._raw[size:]
        return request

    def close(self) -> None:
        self._stream.socket.close()

    def reset(self) -> None:
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.socket.close()


@dataclass
class SocketUpstream:
    """The same scripts on 127.0.0.1. `open` and `gone` count connections; `gone` is set when the gateway left one."""

    scripts: Sequence[Script]
    port: int = 0
    served: int = 0
    open: int = 0
    peers: list[SocketPeer] = field(default_factory=list)
    left: trio.Event = field(default_factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[int]) -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(_serve_tcp, self._connection)
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started(self.port)

    async def _connection(self, stream: trio.SocketStream) -> None:
        chosen = self.scripts[min(self.served, len(self.scripts) - 1)]
        self.served += 1
        self.open += 1
        peer = SocketPeer(stream)
        self.peers.append(peer)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.listen, nursery.cancel_scope)
                await play(chosen.steps, peer)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        finally:
            stream.socket.close()
            self.open -= 1
            self.left.set()


async def _serve_tcp(
    handler: Callable[[trio.SocketStream], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]],
) -> None:
    await trio.serve_tcp(handler, 0, host="127.0.0.1", task_status=task_status)
