"""An HTTP/2 client without manners: hyperframe and hpack over a socket, no state machine to stop it.

It sends any frame and records what comes back per stream. It credits windows unless told not to.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Field = tuple[bytes, bytes]


@dataclass
class Answer:
    """What one stream got."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None
    credited_bytes: int = 0

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return self.ended or self.reset is not None

    @property
    def status(self) -> str | None:
        """`:status`, once there is one."""
        return self.headers.get(":status")


def head(path: bytes, method: bytes = b"GET") -> list[Field]:
    """The fields of an honest request."""
    return [(b":method", method), (b":path", path), (b":scheme", b"http"), (b":authority", b"x")]


class Peer:
    """One connection."""

    def __init__(self, stream: trio.abc.Stream, *, credit: bool) -> None:
        self.stream = stream
        self.answers: defaultdict[int, Answer] = defaultdict(Answer)
        self.settings: dict[int, int] = {}
        self.credited_bytes = 0
        self.goaway: int | None = None
        self.closed = False
        self.pongs = 0
        self._credit = credit
        self._encoder = Encoder()
        self._decoder = Decoder()
        self._unread = bytearray()

    @classmethod
    async def open(cls, port: int, *, settings: dict[int, int] | None = None, credit: bool = True) -> Peer:
        """Connect with prior knowledge and send our settings."""
        return await cls.over(await trio.open_tcp_stream("127.0.0.1", port), settings=settings, credit=credit)

    @classmethod
    async def over(
        cls, stream: trio.abc.Stream, *, settings: dict[int, int] | None = None, credit: bool = True
    ) -> Peer:
        """Begin HTTP/2 on a connection, TLS or not."""
        peer = cls(stream, credit=credit)
        await peer.stream.send_all(PREFACE + SettingsFrame(0, settings=settings or {}).serialize())
        return peer

    async def send(self, *frames: Frame) -> None:
        """Send frames in one write."""
        await self.stream.send_all(b"".join(frame.serialize() for frame in frames))

    def headers(self, stream_id: int, fields: list[Field], *, end: bool = True) -> HeadersFrame:
        """A HEADERS frame; encoding changes the shared table, so send it."""
        flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
        return HeadersFrame(stream_id, self._encoder.encode(fields), flags=flags)

    async def get(self, stream_id: int, path: bytes) -> None:
        """Send a GET."""
        await self.send(self.headers(stream_id, head(path)))

    async def post(self, stream_id: int, path: bytes, *extra: Field) -> None:
        """Send the head of a POST whose body is to come."""
        await self.send(self.headers(stream_id, [*head(path, b"POST"), *extra], end=False))

    async def until(self, done: Callable[[], bool]) -> None:
        """Read frames until `done()` or the end of the connection. The deadline is the caller's."""
        while not done() and not self.closed:
            try:
                data = await self.stream.receive_some(65_536)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                self.closed = True
            self._unread += data
            await self._take_frames()

    async def answer(self, stream_id: int) -> Answer:
        """Read until a stream is over."""
        await self.until(lambda: self.answers[stream_id].over)
        return self.answers[stream_id]

    async def _take_frames(self) -> None:
        while len(self._unread) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(bytes(self._unread[:9])))
            if len(self._unread) < 9 + length:
                return
            frame.parse_body(memoryview(bytes(self._unread[9 : 9 + length])))
            del self._unread[: 9 + length]
            await self._take(frame)

    async def _take(self, frame: Frame) -> None:
        answer = self.answers[frame.stream_id]
        if isinstance(frame, (HeadersFrame, DataFrame)) and "END_STREAM" in frame.flags:
            answer.ended = True  # before anything that can be cancelled
        match frame:
            case HeadersFrame() | ContinuationFrame():
                decoded = self._decoder.decode(bytes(frame.data))
                answer.headers.update((str(name), str(value)) for name, value in decoded)
            case DataFrame():
                answer.body += frame.data
                if self._credit and frame.flow_controlled_length:
                    await self._give_back(frame)
            case RstStreamFrame():
                answer.reset = frame.error_code
            case GoAwayFrame():
                self.goaway = frame.error_code
            case WindowUpdateFrame():
                answer.credited_bytes += frame.window_increment
            case SettingsFrame() if "ACK" not in frame.flags:
                self.settings.update(frame.settings)
            case PingFrame():
                self.pongs += 1

    async def _give_back(self, frame: DataFrame) -> None:
        updates = [WindowUpdateFrame(number, frame.flow_controlled_length) for number in (0, frame.stream_id)]
        try:
            await self.send(*updates)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.closed = True


async def exchange(port: int, request: bytes, *, deadline_s: float = math.inf) -> bytes:
    """Send raw HTTP/1.1 bytes and read until the server closes or `deadline_s` has passed."""
    reply = bytearray()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        with trio.move_on_after(deadline_s):
            while data := await stream.receive_some(65_536):
                reply += data
    return bytes(reply)
