"""The response side of HTTP/1.1, sans-IO: bytes in, status, headers and body out. llhttp does the parsing.

One `ResponseReader` reads one response. Interim (1xx) responses are skipped, a few at most. A body ends by its
framing; end of stream before that is a cut, unless the body is delimited by the end itself (RFC 9112 section 6.3).
"""

from __future__ import annotations

import httptools

HEAD_BYTES_MAX = 64 * 1024
INTERIM_MAX = 8  # more 1xx answers than any server has a use for


class BadResponse(Exception):
    """The provider does not speak HTTP/1.1, or breaks our limits."""


class ResponseReader:
    """Feed it what the transport yields; it is also llhttp's callback object."""

    __slots__ = (
        "_body", "_by_end", "_head_bytes", "_interim", "_parser", "complete", "content_type", "encoding",
        "headers_done", "keep_alive", "retry_after", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._interim = 0
        self._by_end = True
        self.status = 0
        self.headers_done = False
        self.complete = False
        self.keep_alive = False
        self.content_type = b""
        self.encoding = b""
        self.retry_after = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes (b"": end of stream), return the body bytes they held. Raises BadResponse for a cut or junk."""
        if self.complete:
            self.keep_alive = self.keep_alive and not data  # bytes after the end: the connection is not to be reused
            return b""
        if not data:
            return self._end_of_stream()
        parser = self._parser
        assert parser is not None
        if not self.headers_done:
            self._head_bytes += len(data)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self.complete:  # after the last byte it is stray input: the answer stands, the connection does not
                self.close()
                raise BadResponse("not valid HTTP/1.1") from None
            self.keep_alive = False
        if not self.headers_done and self._head_bytes > HEAD_BYTES_MAX:
            raise BadResponse("response head too large")
        body = self._body
        if not body:
            return b""
        whole = body[0] if len(body) == 1 else b"".join(body)
        self._body = []
        return whole

    def close(self) -> None:
        """Let go of the parser: it and this object hold each other."""
        self._parser = None

    def _end_of_stream(self) -> bytes:
        self.keep_alive = False
        if not (self.headers_done and self._by_end):
            raise BadResponse("the connection closed inside the response")
        self.complete = True
        self.close()
        return b""

    def on_message_begin(self) -> None:
        """llhttp: a message begins. A second one was never asked for: raising ends the parsing, see `feed`."""
        if self.complete:
            raise BadResponse("bytes after the response")

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """llhttp: one header, or a trailer, which is ignored."""
        if self.headers_done:
            return
        name = name.lower()
        if name == b"content-type":
            self.content_type = (value or b"").lower()
        elif name in {b"content-length", b"transfer-encoding"}:
            self._by_end = False
        elif name == b"content-encoding":
            self.encoding = (value or b"").lower()
        elif name == b"retry-after":
            self.retry_after = value or b""

    def on_headers_complete(self) -> None:
        """llhttp: the head is complete."""
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self._interim += 1
            if self._interim > INTERIM_MAX or self.status == 101:
                raise BadResponse("too many interim responses")
            self._by_end = True
            return
        self.headers_done = True

    def on_body(self, data: bytes) -> None:
        """llhttp: some body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """llhttp: the response is complete. `should_keep_alive` is only true to the facts in here."""
        if not self.headers_done:
            return
        assert self._parser is not None
        self.complete = True
        self.keep_alive = self._parser.should_keep_alive()


def parse_retry_after_s(value: bytes, now_unix_s: float) -> float | None:
    """Read Retry-After (RFC 9110 section 10.2.3), seconds or a date. None when absent or nonsense; at most a day."""
    if not value:
        return None
    text = value.decode("latin-1").strip()
    try:
        seconds = float(text)
    except ValueError:
        seconds = _date_s(text) - now_unix_s
    return min(seconds, 86400.0) if seconds >= 0 else None


def _date_s(text: str) -> float:
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, TypeError):
        return -1.0
