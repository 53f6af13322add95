"""The chunked coding of a request body (RFC 9112 section 7.1), strict, cut at its exact end. Pure.

llhttp cannot tell where a body ended inside a buffer, so the express lane decodes by itself. Stricter than the RFC:
CRLF line ends only, no white space round the size, extensions up to 1 KiB together, trailers up to 8 KiB, ignored;
no more framing than body, beyond a start.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import BadRequest

SIZE_DIGITS_MAX: Final = 8  # 4 GiB a chunk, far over any body limit
EXTENSION_BYTES_MAX: Final = 1024
TRAILER_BYTES_MAX: Final = 8192
OVERHEAD_BYTES_MAX: Final = 128 * 1024  # of framing beyond the size of the body: a tiny chunk costs 4 us
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class ChunkDecoder:
    """Feed it bytes; it returns body bytes, and keeps what comes after the body in `rest` once `done`."""

    __slots__ = ("_buffer", "_extension_bytes", "_left", "_overhead_bytes", "_state", "_trailer_bytes", "done")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0
        self._state = "size"
        self._extension_bytes = 0
        self._trailer_bytes = 0
        self._overhead_bytes = 0
        self.done = False

    @property
    def rest(self) -> bytes:
        """What follows the body."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> bytes:
        """Take bytes, return decoded body bytes. Raises BadRequest."""
        self._buffer += data
        self._overhead_bytes += len(data)
        out = bytearray()
        while not self.done and self._step(out):
            pass
        self._overhead_bytes -= 2 * len(out)  # what is body, and as much framing again
        if self._overhead_bytes > OVERHEAD_BYTES_MAX:
            raise BadRequest("the chunks of the body are too small; send larger ones, or a Content-Length")
        return bytes(out)

    def _step(self, out: bytearray) -> bool:
        """One transition; False when more bytes are needed."""
        if self._state == "size":
            return self._size()
        if self._state == "data":
            return self._data(out)
        return self._trailer()

    def _size(self) -> bool:
        line = self._line(SIZE_DIGITS_MAX + EXTENSION_BYTES_MAX + 2)
        if line is None:
            return False
        size, semicolon, extension = line.partition(b";")
        self._extension_bytes += len(semicolon) + len(extension)
        if self._extension_bytes > EXTENSION_BYTES_MAX:
            raise BadRequest("chunk extensions are over 1 KiB")
        if not size or len(size) > SIZE_DIGITS_MAX or not _HEX.issuperset(size):
            raise BadRequest("a chunk size is not a hexadecimal number")
        self._left = int(size, 16)
        self._state = "data" if self._left else "trailer"
        return True

    def _data(self, out: bytearray) -> bool:
        if self._left:
            piece = self._buffer[: self._left]
            out += piece
            del self._buffer[: len(piece)]
            self._left -= len(piece)
            if self._left:
                return False
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise BadRequest("a chunk is longer than its size says")
        del self._buffer[:2]
        self._state = "size"
        return True

    def _trailer(self) -> bool:
        line = self._line(TRAILER_BYTES_MAX)
        if line is None:
            return False
        self._trailer_bytes += len(line)
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            raise BadRequest("the trailers of the body are over 8 KiB")
        self.done = not line
        return True

    def _line(self, bytes_max: int) -> bytes | None:
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > bytes_max:
                raise BadRequest("a chunk header line is too long")
            return None
        line = bytes(self._buffer[: end + 1])
        if not line.endswith(b"\r\n") or len(line) > bytes_max:
            raise BadRequest("a chunk header line is malformed; end each line with CRLF")
        del self._buffer[: end + 1]
        return line[:-2]
