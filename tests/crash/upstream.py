"""A provider on a socket that does what each call's first message says: a `Script`, as JSON in the message's text."""

from __future__ import annotations

import json
import socket
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import trio

READ_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Script:
    """One call: what it asks for, and how the provider answers. `number` is the call's name, unique in a test."""

    number: int
    stream: bool = False
    frames: int = 1  # of content, in a stream
    gap_s: float = 0.0
    prompt: int = 10  # tokens reported
    completion: int = 5
    usage: bool = True  # whether it reports them
    status: int = 200
    cut_after: int | None = None  # frames, then the connection breaks
    waits: bool = False  # for `Upstream.go`, before the first byte
    waits_after: int | None = None  # frames, then for `Upstream.go`
    text_bytes: int = 4  # of an answer that is no stream

    def body(self, **fields: object) -> bytes:
        """The request body of a client."""
        message = {"role": "user", "content": json.dumps(asdict(self))}
        request: dict[str, object] = {"model": "t/paid", "max_tokens": 64, "messages": [message]}
        if self.stream:
            request["stream"] = True
        return json.dumps(request | fields).encode()


class Upstream:
    """Serves until its nursery is cancelled. `seen` counts how often each call came, `under_way` those not over."""

    def __init__(self) -> None:
        self.seen: Counter[int] = Counter()
        self.written: set[int] = set()  # answered to the last byte
        self.broken_off: set[int] = set()  # left by the gateway before that
        self.under_way = 0
        self.go = trio.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept and answer, until cancelled."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, peer: trio.SocketStream) -> None:
        buffer = b""
        try:
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = await peer.receive_some(READ_BYTES)
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                while len(buffer) < size:
                    buffer += await peer.receive_some(READ_BYTES)
                body, buffer = buffer[:size], buffer[size:]
                script = Script(**json.loads(json.loads(body)["messages"][0]["content"]))
                if not await self._attend(peer, script):
                    return
        except trio.BrokenResourceError:
            return

    async def _attend(self, peer: trio.SocketStream, script: Script) -> bool:
        """Answer one call while watching for its end; whether the connection may carry another."""
        self.seen[script.number] += 1
        self.under_way += 1
        kept = False

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_eof, peer, nursery.cancel_scope)
                kept = await self._answer(peer, script)
                nursery.cancel_scope.cancel()
        except* trio.BrokenResourceError:
            pass
        finally:
            self.under_way -= 1
            if script.number not in self.written:
                self.broken_off.add(script.number)
        return kept

    async def _answer(self, peer: trio.SocketStream, script: Script) -> bool:
        if script.waits:
            await self.go.wait()
        await trio.sleep(script.gap_s)
        if script.status != 200:
            await peer.send_all(_reply(script.status, {"error": {"message": "scripted", "type": "api_error"}}))
        elif not script.stream:
            await peer.send_all(_reply(200, _answer_of(script)))
        else:
            return await self._stream(peer, script)
        self.written.add(script.number)
        return True

    async def _stream(self, peer: trio.SocketStream, script: Script) -> bool:
        out = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        for number in range(script.frames):
            if number == script.cut_after:
                await peer.send_all(out)
                return False
            if number == script.waits_after:
                await peer.send_all(out)
                out = b""
                await self.go.wait()
            out += _frame(script, [_delta({"content": f"w{number} "}, None)])
            if script.gap_s:
                await peer.send_all(out)
                out = b""
                await trio.sleep(script.gap_s)
        out += _frame(script, [_delta({}, "stop")])
        if script.usage:
            out += _frame(script, [], usage=_usage(script))
        await peer.send_all(out + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self.written.add(script.number)
        return True


async def _until_eof(peer: trio.SocketStream, scope: trio.CancelScope) -> None:
    """The gateway sends nothing while it is answered: whatever can be read is the end of the connection."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await peer.receive_some(1)
    scope.cancel()


def _usage(script: Script) -> dict[str, int]:
    total = script.prompt + script.completion
    return {"prompt_tokens": script.prompt, "completion_tokens": script.completion, "total_tokens": total}


def _answer_of(script: Script) -> dict[str, Any]:
    message = {"role": "assistant", "content": "x" * script.text_bytes}
    return {
        "id": f"chatcmpl-{script.number}",
        "object": "chat.completion",
        "created": 1,
        "model": "upstream",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(script),
    }


def _delta(delta: dict[str, str], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _frame(script: Script, choices: list[dict[str, Any]], **more: object) -> bytes:
    head = {"id": f"chatcmpl-{script.number}", "object": "chat.completion.chunk", "created": 1, "model": "upstream"}
    return _chunk(b"data: " + json.dumps(head | {"choices": choices} | more).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _reply(status: int, answer: dict[str, Any]) -> bytes:
    body = json.dumps(answer).encode()
    head = f"HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body
