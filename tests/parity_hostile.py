"""The second parity table: what only HTTP/1.1 can say, and how it must not be said. It runs over the three h1 lanes.

A row is written in pieces; the answers it draws, and whether the connection is closed after them, must be the same on
each lane. `statuses` are those of the answers in their order; a connection left open is asked once more, and answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.parity_row import CHAT, KEY, dumps

BODY = dumps({"model": "sim/echo", "messages": [{"role": "user", "content": "Hi there"}]})
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
LINE = b"POST " + CHAT.encode() + b" HTTP/1.1\r\n"
HOST = b"Host: gateway.test\r\n"
AUTH = b"Authorization: Bearer " + KEY + b"\r\n"
GOOD = LINE + HOST + AUTH + LENGTH + b"\r\n" + BODY
HEALTH = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
SMUGGLED = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = LINE + HOST + AUTH + b"Transfer-Encoding: chunked\r\n\r\n"
AS_CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)


@dataclass(frozen=True, slots=True)
class HostileRow:
    """`pieces` are sent one after the other, `gap_s` apart; `closes` None where lanes may choose.

    `interim` are the 1xx statuses before the first answer, None where Quart may or may not ask for the body first.
    """

    name: str
    pieces: tuple[bytes, ...]
    statuses: tuple[int, ...]
    closes: bool | None = True
    code: str | None = None
    gap_s: float = 0.0
    interim: tuple[int, ...] | None = ()
    bytewise: bool = False  # one piece, sent byte by byte
    h11: tuple[int, str] | None = None  # status and code where h11 decodes the chunks; the wording is its own too


def _refused(name: str, *pieces: bytes, status: int = 400, code: str = "invalid_request") -> HostileRow:
    return HostileRow(name, pieces, (status,), code=code)


def _bad_chunks(name: str, sent: bytes, h11: tuple[int, str] = (400, "invalid_request")) -> HostileRow:
    return HostileRow(name, (sent,), (400,), code="invalid_request", h11=h11)


def _served(name: str, *pieces: bytes, times: int = 1, closes: bool | None = None) -> HostileRow:
    return HostileRow(name, pieces, (200,) * times, closes=closes)


def _head(*lines: bytes, first: bytes = LINE, body: bytes = BODY) -> bytes:
    return first + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def framing_rows() -> list[HostileRow]:
    """Bodies whose end two servers could see in different places."""
    host, auth = HOST.strip(), AUTH.strip()
    length, chunked = LENGTH.strip(), b"Transfer-Encoding: chunked"
    return [
        _refused("length-and-chunked", _head(host, auth, b"Content-Length: 5", chunked, body=b"0\r\n\r\n" + SMUGGLED)),
        _refused("chunked-and-length", _head(host, auth, chunked, b"Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED)),
        _refused("two-lengths", _head(host, auth, length, b"Content-Length: 3")),
        _refused("two-equal-lengths", _head(host, auth, length, length)),
        _refused("length-list", _head(host, auth, length + b", %d" % len(BODY))),
        _refused("length-plus", _head(host, auth, b"Content-Length: +%d" % len(BODY))),
        _refused("length-negative", _head(host, auth, b"Content-Length: -1")),
        _refused("length-hex", _head(host, auth, b"Content-Length: 0x10")),
        _refused("length-empty", _head(host, auth, b"Content-Length:")),
        _refused("length-huge", _head(host, auth, b"Content-Length: " + b"9" * 40)),
        _refused("length-letters", _head(host, auth, b"Content-Length: 5 5")),
        _refused("chunked-twice", _head(host, auth, chunked, chunked, body=AS_CHUNK)),
        _refused("chunked-identity", _head(host, auth, b"Transfer-Encoding: identity")),
        _refused("chunked-gzip", _head(host, auth, b"Transfer-Encoding: gzip, chunked", body=AS_CHUNK)),
        _refused("chunked-list", _head(host, auth, b"Transfer-Encoding: chunked, identity", body=AS_CHUNK)),
        _refused("chunked-tab", _head(host, auth, b"Transfer-Encoding: \x0bchunked", body=AS_CHUNK)),
        _refused("chunked-space-name", _head(host, auth, b"Transfer-Encoding : chunked", body=AS_CHUNK)),
        _refused("chunked-1.0", _head(host, auth, chunked, first=LINE.replace(b"1.1", b"1.0"), body=AS_CHUNK)),
        _bad_chunks("chunk-size-letters", CHUNKED + b"zz\r\n"),
        _bad_chunks("chunk-size-negative", CHUNKED + b"-1\r\n"),
        _bad_chunks("chunk-size-huge", CHUNKED + b"fffffffff\r\n", (408, "request_timeout")),
        _bad_chunks("chunk-size-space", CHUNKED + b" 5\r\nhello\r\n"),
        _bad_chunks("chunk-size-prefix", CHUNKED + b"0x5\r\nhello\r\n"),
        _bad_chunks("chunk-size-empty", CHUNKED + b"\r\n"),
        _bad_chunks("chunk-too-long", CHUNKED + b"3\r\nhello\r\n0\r\n\r\n"),
        _bad_chunks("chunk-bare-lf", CHUNKED + b"5\nhello\r\n0\r\n\r\n"),
        _bad_chunks("chunk-extension-long", CHUNKED + b"5;" + b"x" * 1_500 + b"\r\nhello\r\n", (408,
            "request_timeout")),
        _bad_chunks("chunk-size-endless", CHUNKED + b"0" * 20_000, (408, "request_timeout")),
        _served("chunk-extension", CHUNKED + AS_CHUNK.replace(b"\r\n", b";a=b\r\n", 1) + b"0\r\n\r\n"),
        _served("chunk-upper", CHUNKED.replace(b"chunked",
            b"Chunked") + AS_CHUNK.upper()[:2] + AS_CHUNK[2:] + b"0\r\n\r\n"),
        _served("chunk-trailer", CHUNKED + AS_CHUNK + b"0\r\nX-Trailer: 1\r\n\r\n"),
        _bad_chunks("chunk-trailer-endless", CHUNKED + AS_CHUNK + b"0\r\nX-Trailer: " + b"x" * 100_000, (431,
            "headers_too_large")),
        HostileRow("empty-body", (_head(host, auth, b"Content-Length: 0", body=b""),), (400,), closes=None),
    ]  # fmt: skip


def head_rows() -> list[HostileRow]:
    """Heads that are not what RFC 9112 says, or that we do not serve."""
    host, auth, length = HOST.strip(), AUTH.strip(), LENGTH.strip()
    ask = (host, auth, length)
    return [
        _refused("no-host", _head(auth, length)), _refused("two-hosts", _head(host, b"Host: other.test", auth, length)),
        _refused("bare-lf", GOOD.replace(b"\r\n", b"\n", 3)),
        _refused("all-bare-lf", _head(*ask).replace(b"\r\n", b"\n")),
        _refused("bare-lf-end", LINE + HOST + AUTH + LENGTH + b"\n" + BODY),
        _refused("bare-cr", _head(*ask, b"X: a\rb")), _refused("nul", _head(*ask, b"X: a\x00b")),
        _refused("fold", _head(*ask, b"X: a", b" folded")), _refused("fold-tab", _head(*ask, b"X: a", b"\tfolded")),
        _refused("fold-first", _head(b" Host: gateway.test", *ask)),
        _refused("name-space", _head(*ask, b"X Y: a")), _refused("name-space-colon", _head(*ask, b"X : a")),
        _refused("name-empty", _head(*ask, b": a")), _refused("no-colon", _head(*ask, b"nonsense")),
        _refused("name-non-ascii", _head(*ask, b"X\xff: a")),
        _refused("http-1.2", _head(*ask, first=LINE.replace(b"1.1", b"1.2"))),
        _refused("http-2.0", _head(*ask, first=LINE.replace(b"1.1", b"2.0"))),
        _refused("http-0.9", b"POST " + CHAT.encode() + b"\r\n\r\n"),
        _refused("http-bad-version", _head(*ask, first=LINE.replace(b"1.1", b"1.11"))),
        _refused("http-lower", _head(*ask, first=LINE.replace(b"HTTP", b"http"))),
        _refused("method-lower", _head(*ask, first=LINE.replace(b"POST", b"post"))),
        _refused("method-junk", _head(*ask, first=LINE.replace(b"POST", b"P\x01ST"))),
        _refused("method-endless", b"A" * 1000, status=408, code="request_timeout"),
        _refused("target-absolute", _head(*ask, first=LINE.replace(b"/v1", b"http://gateway.test/v1"))),
        _refused("target-star", _head(*ask, first=b"OPTIONS * HTTP/1.1\r\n")),
        _refused("target-space", _head(*ask, first=LINE.replace(b"/chat", b"/ch at"))),
        _refused("target-non-ascii", _head(*ask, first=LINE.replace(b"/chat", b"/ch\xffat"))),
        _refused("target-no-slash", _head(*ask, first=LINE.replace(b"/v1", b"v1"))),
        _refused("connect", b"CONNECT gateway.test:443 HTTP/1.1\r\n" + HOST + b"\r\n"),
        _refused("upgrade-websocket", _head(*ask, b"Connection: upgrade", b"Upgrade: websocket")),
        _refused("upgrade-h2c", _head(*ask, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c",
            b"HTTP2-Settings: AAA")),
        _refused("upgrade-health", HEALTH[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
        _refused("expect-other", _head(*ask, b"Expect: 200-ok")),
        _refused("tls-hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, status=408,
            code="request_timeout"),
        _refused("binary", bytes(range(256)), status=408, code="request_timeout"),
        _refused("garbage-line", b"\x00\xff\xfe\r\n\r\n"),
        _refused("ssh", b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
        _refused("lines-101", _head(*ask, *(b"X-%d: v" % number for number in range(98))), status=431,
            code="headers_too_large"),
        _refused("head-over-64-kb", _head(*ask, b"X: " + b"v" * 66_000), status=431, code="headers_too_large"),
        _refused("head-endless", LINE + b"X: " + b"v" * 70_000, status=431, code="headers_too_large"),
        _refused("target-endless", b"GET /" + b"v" * 70_000, status=431, code="headers_too_large"),
        _served("lines-100", _head(*ask, *(b"X-%d: v" % number for number in range(97)))),
        _served("upgrade-not-asked", _head(*ask, b"Upgrade: websocket")),
        _served("blank-lines-first", b"\r\n\r\n" + GOOD), _served("names-upper", GOOD.replace(b"Host", b"HOST")),
        _served("space-round-values", GOOD.replace(b"Host: gateway.test", b"Host: \t gateway.test \t")),
        _served("no-space-values", GOOD.replace(b": ", b":", 3)),
        _served("http-1.0", GOOD.replace(b"1.1", b"1.0", 1), closes=True),
        _served("http-1.0-no-host", _head(auth, length, first=LINE.replace(b"1.1", b"1.0")), closes=True),
        _served("close", _head(*ask, b"Connection: close"), closes=True),
    ]  # fmt: skip


def talk_rows(header_s: float, body_s: float) -> list[HostileRow]:
    """What needs more than one write: split requests, pipelines, slow clients, 100-continue."""
    expect = LINE + HOST + AUTH + LENGTH + b"Expect: 100-continue\r\n\r\n"
    unknown = expect.replace(KEY, b"wrong")
    bad = LINE + HOST + AUTH + b"Content-Length: 1\r\n\r\n{"
    return [
        HostileRow("expect-continue", (expect, BODY), (200,), closes=None, gap_s=0.2, interim=(100,)),
        HostileRow("expect-no-key", (unknown,), (401,), code="invalid_api_key"),
        HostileRow("expect-other-path", (expect.replace(b"/v1/chat", b"/v1/chut"),), (404,), code="not_found",
            interim=None),
        HostileRow("split-at-each-byte", (GOOD,), (200,), closes=None, bytewise=True),
        HostileRow("split-in-head", (GOOD[:20], GOOD[20:]), (200,), closes=None, gap_s=0.1),
        HostileRow("split-before-body", (GOOD[: -len(BODY)], BODY), (200,), closes=None, gap_s=0.1),
        HostileRow("slow-head", (LINE + HOST,), (408,), code="request_timeout"),
        HostileRow("slow-first-line", (b"PO",), (408,), code="request_timeout"),
        HostileRow("slow-head-trickle", tuple(b"X: %d\r\n" % n if n else LINE + HOST for n in range(20)), (408,),
                   code="request_timeout", gap_s=header_s / 5),
        HostileRow("slow-body", (GOOD[:-5],), (408,), code="request_timeout"),
        HostileRow("slow-chunk", (CHUNKED + b"5\r\nhe",), (408,), code="request_timeout"),
        HostileRow("slow-body-trickle", (GOOD[:-90], *(b" " for _ in range(60))), (408,), code="request_timeout",
                   gap_s=body_s / 20),
        HostileRow("bad-json-then-good", (bad,), (400,), closes=None, code="invalid_request"),
    ]  # fmt: skip
