"""What the hostile provider says, by name. A behaviour is a coroutine on one request; `over` closes the connection."""

from __future__ import annotations

import gzip
import json
import socket
import struct
from collections.abc import Awaitable, Callable

import trio

from tests.hostile.upstream_text import ANSWER, CHUNKS, STREAM, TEXT, chunk

JSON_TYPE = b"Content-Type: application/json\r\n"
SSE_TYPE = b"Content-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
FLOOD = chunk("x" * 4_000) * 16


def length(size: int) -> bytes:
    """A Content-Length line."""
    return b"Content-Length: %d\r\n" % size


def framed(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Conversation:
    """One request and the way to answer it."""

    def __init__(self, stream: trio.SocketStream, body: bytes, port: int) -> None:
        self.stream = stream
        self.body = body
        self.port = port
        self.over = False
        self.streamed = bool(json.loads(body).get("stream")) if body else False

    async def raw(self, *parts: bytes) -> None:
        """Bytes as they are."""
        await self.stream.send_all(b"".join(parts))

    async def whole(self, body: bytes, *more: bytes) -> None:
        """An honest answer that is not a stream."""
        await self.raw(OK, JSON_TYPE, length(len(body)), *more, b"\r\n", body)

    async def good(self) -> None:
        """An honest answer, streamed when asked."""
        if self.streamed:
            await self.raw(OK, SSE_TYPE, CHUNKED, b"\r\n", framed(STREAM), b"0\r\n\r\n")
        else:
            await self.whole(ANSWER)

    async def begin(self) -> None:
        """The head of a stream and its first content."""
        await self.raw(OK, SSE_TYPE, CHUNKED, b"\r\n", framed(CHUNKS[0]), framed(CHUNKS[1]))

    async def end(self) -> None:
        """The rest of a stream begun."""
        await self.raw(*(framed(part) for part in CHUNKS[2:]), b"0\r\n\r\n")

    async def hang(self) -> None:
        """Nothing more, until the gateway leaves."""
        while await self.stream.receive_some(65_536):
            pass
        self.over = True

    def reset(self) -> None:
        """RST."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()
        self.over = True


Behaviour = Callable[[Conversation], Awaitable[None]]


async def flood(talk: Conversation) -> None:
    """A stream without end, as fast as it is taken."""
    await talk.begin()
    data = framed(FLOOD)
    while True:
        await talk.raw(data)


async def bytewise(talk: Conversation) -> None:
    """Head, chunk framing, CRLF and UTF-8 split at every byte."""
    await talk.stream.send_all(b"HTTP/1.1 200 OK\r\n")
    data = b"".join((SSE_TYPE, CHUNKED, b"\r\n", *map(framed, CHUNKS), b"0\r\n\r\n"))
    for at in range(len(data)):
        await talk.stream.send_all(data[at : at + 1])


async def comments_first(talk: Conversation) -> None:
    """Comments for ever, before any content."""
    await talk.raw(OK, SSE_TYPE, CHUNKED, b"\r\n")
    await comments(talk)


async def comments(talk: Conversation) -> None:
    """Comments for ever."""
    while True:
        await talk.raw(framed(b": still here\n\n"))
        await trio.sleep(0.05)


async def comments_after(talk: Conversation) -> None:
    """Content, then comments for ever."""
    await talk.begin()
    await comments(talk)


async def stall(talk: Conversation) -> None:
    """Content, then nothing."""
    await talk.begin()
    await talk.hang()


async def hang(talk: Conversation) -> None:
    """Nothing."""
    await talk.hang()


async def long_line(talk: Conversation) -> None:
    """One line of 8 MB, within the limit of a frame."""
    await talk.begin()
    await talk.raw(framed(chunk("y" * 8_000_000)))
    await talk.end()


async def endless_line(talk: Conversation) -> None:
    """One line without end, past the limit of a frame."""
    await talk.begin()
    await talk.raw(framed(b'data: {"x":"'))
    data = framed(b"z" * 262_144)
    while True:
        await talk.raw(data)


async def endless_answer(talk: Conversation) -> None:
    """An answer in JSON without end."""
    await talk.raw(OK, JSON_TYPE, CHUNKED, b"\r\n")
    data = framed(b" " * 262_144)
    while True:
        await talk.raw(data)


async def reset_early(talk: Conversation) -> None:
    """RST before the body."""
    await talk.raw(OK, SSE_TYPE if talk.streamed else JSON_TYPE, CHUNKED, b"\r\n")
    talk.reset()


async def reset_late(talk: Conversation) -> None:
    """RST after content."""
    await talk.begin()
    await trio.sleep(0.05)
    talk.reset()


async def redirect(talk: Conversation) -> None:
    """To our own canary."""
    place = b"Location: http://127.0.0.1:%d/canary\r\n" % talk.port
    await talk.raw(b"HTTP/1.1 302 Found\r\n", place, length(0), b"\r\n")


async def redirect_metadata(talk: Conversation) -> None:
    """To a cloud's metadata service."""
    place = b"Location: http://169.254.169.254/latest/meta-data/\r\n"
    await talk.raw(b"HTTP/1.1 307 Temporary Redirect\r\n", place, length(0), b"\r\n")


async def gzip_bomb(talk: Conversation) -> None:
    """50 MB of blanks, compressed, not asked for."""
    body = gzip.compress(b" " * 50_000_000)
    await talk.whole(body, b"Content-Encoding: gzip\r\n")


async def interim_flood(talk: Conversation) -> None:
    """1xx without end."""
    while True:
        await talk.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)


async def head_flood(talk: Conversation) -> None:
    """1 MB of header lines."""
    await talk.raw(OK, b"".join(b"X-%d: %b\r\n" % (number, b"v" * 1000) for number in range(1000)), b"\r\n")
    await talk.hang()


async def head_line(talk: Conversation) -> None:
    """One header line without end."""
    await talk.raw(OK, b"X: ")
    while True:
        await talk.raw(b"v" * 65_536)


async def late_pair(talk: Conversation) -> None:
    """A second answer, unasked, when the first has been taken."""
    await talk.good()
    await trio.sleep(0.1)
    await talk.whole(b'{"choices":[{"message":{"content":"smuggled"}}]}')


def fixed(*parts: bytes, hang_up: bool = True) -> Behaviour:
    """Always the same bytes."""

    async def behave(talk: Conversation) -> None:
        await talk.raw(*parts)
        if hang_up:
            talk.over = True
        else:
            await talk.hang()

    return behave


def frames(*parts: bytes) -> Behaviour:
    """A stream with content that goes on with these bytes in one chunk, a moment later, and then as it should."""

    async def behave(talk: Conversation) -> None:
        await talk.begin()
        await trio.sleep(0.05)
        await talk.raw(framed(b"".join(parts)))
        await trio.sleep(0.05)
        await talk.end()

    return behave


SMUGGLED = OK + JSON_TYPE + length(len(ANSWER)) + b"\r\n" + ANSWER.replace(TEXT.encode(), b"smuggled")
DEEP = b"[" * 400 + b"]" * 400
HEAD = OK + JSON_TYPE


def with_usage(usage: bytes) -> bytes:
    """The honest answer with another report of its usage."""
    body = ANSWER[: ANSWER.index(b'"usage":')] + b'"usage":' + usage + b"}"
    return HEAD + length(len(body)) + b"\r\n" + body


def retry_after(value: bytes) -> bytes:
    """A 503 that says when to come back."""
    return b"HTTP/1.1 503 Busy\r\n" + JSON_TYPE + b"Retry-After: " + value + b"\r\n" + length(2) + b"\r\n{}"


BEHAVIOURS: dict[str, Behaviour] = {
    "good": Conversation.good,
    "flood": flood, "bytewise": bytewise, "comments-first": comments_first, "comments-after": comments_after,
    "stall": stall, "hang": hang, "long-line": long_line, "endless-line": endless_line,
    "endless-answer": endless_answer, "reset-early": reset_early, "reset-late": reset_late, "redirect": redirect,
    "redirect-metadata": redirect_metadata, "gzip-bomb": gzip_bomb, "interim-flood": interim_flood,
    "head-flood": head_flood, "head-line": head_line, "late-pair": late_pair,
    "pair": fixed(HEAD, length(len(ANSWER)), b"\r\n", ANSWER, SMUGGLED, hang_up=False),
    "garbage-after": fixed(HEAD, length(len(ANSWER)), b"\r\n", ANSWER, b"\x00\xff garbage", hang_up=False),
    "length-short": fixed(HEAD, length(len(ANSWER) - 20), b"\r\n", ANSWER),
    "length-long": fixed(HEAD, length(len(ANSWER) + 20), b"\r\n", ANSWER),
    "length-negative": fixed(HEAD, b"Content-Length: -5\r\n\r\n", ANSWER),
    "length-huge": fixed(HEAD, b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", ANSWER),
    "length-twice": fixed(HEAD, length(5), length(len(ANSWER)), b"\r\n", ANSWER),
    "length-and-chunked": fixed(HEAD, length(5), CHUNKED, b"\r\n", framed(ANSWER), b"0\r\n\r\n"),
    "chunk-overflow": fixed(HEAD, CHUNKED, b"\r\n", b"f" * 17 + b"\r\n" + ANSWER),
    "chunk-letters": fixed(HEAD, CHUNKED, b"\r\nzz\r\n" + ANSWER),
    "not-http": fixed(b"SSH-2.0-OpenSSH_9.9\r\n"), "nothing": fixed(b""), "http-old": fixed(ANSWER),
    "switching": fixed(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    "status-999": fixed(b"HTTP/1.1 999 Odd\r\n", length(0), b"\r\n"),
    "status-204": fixed(b"HTTP/1.1 204 No Content\r\n\r\n"), "status-304": fixed(b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "usage-infinite": fixed(with_usage(b"1e999")),
    "usage-huge": fixed(with_usage(b'{"prompt_tokens":' + b"9" * 5000 + b"}")),
    "usage-negative": fixed(with_usage(b'{"prompt_tokens":-1,"completion_tokens":-1}')),
    "choices-deep": fixed(HEAD, length(200_012), b"\r\n", b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "retry-after-year": fixed(retry_after(b"Mon, 01 Jan 2020 99999999999999999999:00:00 GMT")),
    "retry-after-zone": fixed(retry_after(b"Mon, 01 Jan 2020 00:00:00 +99999999999999")),
    "blank-line-more": frames(chunk("") + b"\n"), "blank-lines": frames(b"\n\n\n\n\n"),
    "comment-odd": frames(b":null\n\n\n"),
    "model-number-deep": frames(b'data: {"model":5,"choices":[{"delta":{"content":"a"}}],"deep":' + DEEP + b"}\n\n"),
    "line-ends-mixed": frames(b'data: {"model":"x",\r\ndata: "choices":[]}\r\n\rd\r\n\r"error":\n\n'),
    "frame-not-utf8": frames(b"data: \xff\xfe\n\n"), "frame-not-json": frames(b"data: {\n\n"),
    "frame-surrogate": frames(b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n'),
}  # fmt: skip
