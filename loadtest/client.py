"""The streaming client: HTTP/1.1 over one raw Trio socket, keep-alive, with the times of what it read.

`call` sends one request and reads its whole answer, or leaves after so many content frames. Times count from the
intended start of the call, so a queue anywhere before it cannot hide; a frame's time is the read that brought it.
Deadlines belong to callers. Whatever goes wrong on the wire is in the `Reply`, never an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import httptools
import trio

from loadtest.sse import ChatReader

_READ_BYTES = 262_144
_STALL_FACTOR = 10  # the published comparisons call a gap over ten times the pace a stall


@dataclass(slots=True)
class Reply:
    """An answer as far as it came. `broken` says how the wire failed; empty when it did not."""

    intended_at: float
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: list[bytes] = field(default_factory=list)  # of an answer that is no stream
    stream: ChatReader | None = None
    complete: bool = False
    broken: str = ""
    left: bool = False
    first_content_s: float | None = None
    gaps_s: list[float] = field(default_factory=list)
    frames: int = 0
    total_s: float = 0.0
    last_frame_at: float = 0.0

    @property
    def gen_id(self) -> str:
        """The gateway's id of the call; empty when it gave none."""
        return self.headers.get("x-generation-id", "")

    def stalls(self, pace_s: float) -> int:
        """How many gaps between frames were over ten times the pace."""
        return sum(gap > _STALL_FACTOR * pace_s for gap in self.gaps_s) if pace_s else 0

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole: decide how to read the body."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            self.stream = ChatReader()

    def on_body(self, data: bytes) -> None:
        """Some of the body, without its framing."""
        if self.stream is None:
            self.body.append(data)
            return
        count = self.stream.feed(data)
        if count:
            self._note_frames(count)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self.complete = True

    def _note_frames(self, count: int) -> None:
        now = trio.current_time()
        if not self.frames:
            self.first_content_s = now - self.intended_at
        else:
            self.gaps_s.append(now - self.last_frame_at)
        self.gaps_s.extend([0.0] * (count - 1))
        self.frames += count
        self.last_frame_at = now


class Client:
    """One connection to `host:port`, opened at the first call and again after one that was lost."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._stream: trio.SocketStream | None = None

    async def call(self, request: bytes, *, intended_at: float, leave_after: int = -1) -> Reply:
        """Send `request`, read its answer. `leave_after` >= 0: close after so many content frames."""
        reused = self._stream is not None
        reply = await self._try(request, intended_at, leave_after)
        if reused and reply.broken and not reply.status:
            # The server closed an idle connection, which is its right; a second failure is not.
            reply = await self._try(request, intended_at, leave_after)
        reply.total_s = trio.current_time() - intended_at
        return reply

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None

    async def _try(self, request: bytes, intended_at: float, leave_after: int) -> Reply:
        reply = Reply(intended_at)
        try:
            if self._stream is None:
                self._stream = await trio.open_tcp_stream(*self._address)
            await self._stream.send_all(request)
            await self._read(self._stream, reply, leave_after)
        except (OSError, trio.BrokenResourceError) as exc:
            reply.broken = f"connection lost ({type(exc).__name__})"
        except httptools.HttpParserError:
            reply.broken = "not HTTP/1.1"
        except BaseException:
            self.close()
            raise
        if reply.broken or reply.left or reply.headers.get("connection") == "close":
            self.close()
        return reply

    async def _read(self, stream: trio.SocketStream, reply: Reply, leave_after: int) -> None:
        parser = httptools.HttpResponseParser(reply)
        while True:
            if 0 <= leave_after <= reply.frames:
                reply.left = True
                return
            if reply.complete:
                return
            data = await stream.receive_some(_READ_BYTES)
            if not data:
                reply.broken = "closed by the server within the answer" if reply.status else "closed by the server"
                return
            parser.feed_data(data)
            reply.status = parser.get_status_code()


def post(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The bytes of a POST with a JSON body."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def get(path: str) -> bytes:
    """The bytes of a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
