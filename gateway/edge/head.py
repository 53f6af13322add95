"""The head of an HTTP/1.1 request: parsed by llhttp, then held to our limits. Pure.

Every HTTP/1.1 request passes here before anything else sees it, whether the express lane or Hypercorn serves it,
so that both answer the same to the same head. llhttp is lenient where RFC 9112 lets it be; what it accepts and we
refuse: a missing or second Host (section 3.2), versions other than 1.0 and 1.1, `Upgrade` to anything (it is only
ignored when not asked for by `Connection`), `Expect` other than 100-continue, Content-Length with
Transfer-Encoding (section 6.1), folded header lines (section 5.2), over 100 header lines or 64 KiB of head.
"""

from __future__ import annotations

from dataclasses import dataclass

import httptools

from gateway.errors import BadRequest, HeadTooLarge

HEAD_BYTES_MAX = 64 * 1024  # OpenAI documents 64 KiB for all headers together
HEADER_LINES_MAX = 100
Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Head:
    """One request head. Header names are lower case, values as sent without outer white space.

    `content_length` is None for a chunked body; 0 when there is none. `keep_alive` is what the client allows.
    """

    method: str
    target: bytes
    path: str
    headers: Headers
    http10: bool
    keep_alive: bool
    content_length: int | None
    expect_continue: bool


class _Collector:
    """llhttp's callbacks. `keep_alive` must be read inside `on_headers_complete`: afterwards the parser forgets."""

    __slots__ = ("complete", "headers", "keep_alive", "parser", "target")

    def __init__(self) -> None:
        self.headers: Headers = []
        self.target = b""
        self.complete = False
        self.keep_alive = False
        self.parser: httptools.HttpRequestParser | None = None

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        self.headers.append((name.lower(), value or b""))

    def on_headers_complete(self) -> None:
        self.complete = True
        self.keep_alive = self.parser is not None and self.parser.should_keep_alive()


def find_head_end(buffer: bytes | bytearray) -> int:
    """Where the head ends (after its blank line), or -1 when more bytes are needed.

    Raises HeadTooLarge past 64 KiB, and BadRequest for a bare LF at a line end, which could hide a second request.
    """
    end = buffer.find(b"\r\n\r\n")
    if end >= 0 and end + 4 <= HEAD_BYTES_MAX:
        return end + 4
    if len(buffer) > HEAD_BYTES_MAX:
        raise HeadTooLarge(f"the request head is over {HEAD_BYTES_MAX} bytes; send fewer or shorter headers")
    if buffer.find(b"\n\n") >= 0:
        raise BadRequest("the request head has a bare LF; end each line with CRLF")
    return -1


def parse_head(raw: bytes) -> Head:
    """Parse one complete head. Raises BadRequest or HeadTooLarge; the connection cannot go on after either."""
    collector = _Collector()
    parser = collector.parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        raise BadRequest("protocol upgrades are not served; send a plain HTTP/1.1 or HTTP/2 request") from None
    except httptools.HttpParserError:
        raise BadRequest("the request head is not valid HTTP/1.1") from None
    finally:
        collector.parser = None  # the parser holds the collector: break the circle, spare the collector of garbage
    if not collector.complete:
        raise BadRequest("the request head is not valid HTTP/1.1")
    version = parser.get_http_version()
    if version not in {"1.0", "1.1"}:
        raise BadRequest(f"HTTP version {version} is not served on this connection; use HTTP/1.1 or HTTP/2")
    return _check(raw, collector, parser, http10=version == "1.0")


def _check(raw: bytes, collector: _Collector, parser: httptools.HttpRequestParser, *, http10: bool) -> Head:
    headers = collector.headers
    if len(headers) > HEADER_LINES_MAX:
        raise HeadTooLarge(f"{len(headers)} header lines; at most {HEADER_LINES_MAX} are taken")
    hosts = lengths = encodings = 0
    content_length: int | None = 0
    expect_continue = False
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            lengths += 1
            content_length = _length(value)
        elif name == b"transfer-encoding":
            encodings += 1
            if value.lower() != b"chunked" or http10:
                raise BadRequest("transfer-encoding must be exactly `chunked`, on HTTP/1.1")
            content_length = None
        elif name == b"upgrade" and parser.should_upgrade():
            raise BadRequest("protocol upgrades are not served; send a plain HTTP/1.1 or HTTP/2 request")
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise BadRequest("the only Expect that is served is 100-continue")
            expect_continue = True
    if hosts != 1 and not (http10 and hosts == 0):
        raise BadRequest(f"{hosts} Host headers; send exactly one")
    if lengths + encodings > 1:
        raise BadRequest("send one Content-Length or one Transfer-Encoding: chunked, never two")
    if b"\n " in raw or b"\n\t" in raw:
        raise BadRequest("folded header lines are not served; write each header on one line")
    method = parser.get_method().decode("ascii")
    path = _path(collector.target)
    keep_alive = collector.keep_alive
    return Head(method, collector.target, path, headers, http10, keep_alive, content_length, expect_continue)


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise BadRequest("content-length must be a decimal number")
    return int(value)


def _path(target: bytes) -> str:
    """The path of an origin-form target, as sent (percent-escapes kept)."""
    try:
        path = target.partition(b"?")[0].decode("ascii")
    except UnicodeDecodeError:
        raise BadRequest("the request target has bytes outside ASCII; percent-encode them") from None
    if not path.startswith("/"):
        raise BadRequest("the request target must be a path that begins with /")
    return path
