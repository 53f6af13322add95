"""An HTTP/1.1 client for tests: sends any bytes, reads answers strictly."""

from __future__ import annotations

import re

import trio

from tests.wire import HOST, Answer, Ask, Closed, Cut, Headers, read, write

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [\x20-\x7e]*")
_HEADER_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([\x20-\x7e]*)")
_SIZE_LINE = re.compile(rb"[0-9a-fA-F]{1,8}")


def encode(ask: Ask) -> bytes:
    """The request's bytes: host first, then the headers as given, then the framing."""
    lines = [f"{ask.method} {ask.path} HTTP/1.1".encode("latin-1"), b"host: " + HOST]
    lines += [name + b": " + value for name, value in ask.headers]
    if ask.pieces:
        lines.append(b"transfer-encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in ask.pieces) + b"0\r\n\r\n"
    else:
        body = ask.body or b""
        if ask.body is not None:
            lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class H1Client:
    """One connection. The caller closes the stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def ask(self, ask: Ask) -> Answer:
        """Send a request and read its answer, both at once: a refusal may come before the body was sent."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, self.stream, encode(ask))
            answer = await self.answer(ask.method)
            nursery.cancel_scope.cancel()
        return answer

    async def answer(self, method: str = "POST") -> Answer:
        """Read one answer to its end.

        Raises:
            Closed: The connection ended instead.
        """
        interim: list[int] = []
        while True:
            status, headers = await self.head()
            if status >= 200:
                break
            interim.append(status)
        answer = Answer(status, headers, interim=interim)
        if method != "HEAD" and status not in {204, 304}:
            await self._body(answer)
        return answer

    async def head(self) -> tuple[int, Headers]:
        """Read one head.

        Raises:
            Closed: The connection ended before its first byte.
            Cut: It ended in its middle.
        """
        if not self._buffer and not await self._more():
            raise Closed
        status_line = await self._line()
        match = _STATUS_LINE.fullmatch(status_line)
        assert match, f"bad status line {status_line!r}"
        headers: Headers = []
        while line := await self._line():
            found = _HEADER_LINE.fullmatch(line)
            assert found, f"bad header line {line!r}"
            headers.append((found[1].lower(), found[2]))
        return int(match[1]), headers

    async def body_bytes(self, least: int) -> bytes:
        """Wait until at least so many bytes of the body, framing included, have come; they are taken."""
        while len(self._buffer) < least:
            if not await self._more():
                raise Cut
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken

    async def closed(self) -> bool:
        """Whether the server closes now, without sending more."""
        return not self._buffer and not await self._more()

    async def _body(self, answer: Answer) -> None:
        length, encoding = answer.header("content-length"), answer.header("transfer-encoding")
        assert length is None or encoding is None, f"two framings: {answer.headers}"
        parts: list[bytes] = []
        try:
            if encoding is not None:
                assert encoding == "chunked", encoding
                await self._chunks(parts)
            elif length is not None:
                assert re.fullmatch(r"\d+", length), length
                parts.append(await self._exactly(int(length)))
            else:
                await self._rest(parts)
        except Cut:
            answer.end = "cut"
        answer.body = b"".join(parts)

    async def _chunks(self, parts: list[bytes]) -> None:
        while True:
            line = await self._line()
            assert _SIZE_LINE.fullmatch(line), f"bad chunk size {line!r}"
            size = int(line, 16)
            parts.append(await self._exactly(size))
            assert await self._line() == b"", "a chunk (or the trailer) goes on where it should end"
            if not size:
                return

    async def _rest(self, parts: list[bytes]) -> None:
        while await self._more():
            pass
        parts.append(bytes(self._buffer))
        self._buffer.clear()

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not await self._more():
                raise Cut
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if not await self._more():
                raise Cut
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def _more(self) -> bool:
        data = await read(self.stream)
        self._buffer += data
        return bool(data)
