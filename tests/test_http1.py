"""The response reader: every framing, every split, and what may be kept alive."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.http1 import (
    HEAD_BYTES_MAX,
    INTERIM_MAX,
    BadResponse,
    ResponseReader,
    parse_retry_after_s,
)
from tests.streams import pieces

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# name: (response, body, keep alive)
COMPLETE: dict[str, tuple[bytes, bytes, bool]] = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", True),
    "length 0": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", True),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
        b"hello",
        True,
    ),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nRetry-After: 9\r\n\r\n",
        b"x",
        True,
    ),
    "closing": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
    "1.0 keep-alive": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "interim": (CONTINUE * 2 + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", True),
    "interim with fields": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"hi",
        True,
    ),
}
BY_END: dict[str, tuple[bytes, bytes]] = {
    "no framing": (b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n\r\nhello", b"hello"),
    "close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", b"hello"),
    "1.0": (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
}


def feed(parts: list[bytes]) -> tuple[ResponseReader, bytes]:
    reader = ResponseReader()
    return reader, b"".join([reader.feed(part) for part in parts])


def splits(data: bytes) -> list[list[bytes]]:
    points = range(1, len(data))
    pairs = combinations(range(1, len(data), 3), 2)
    return [
        [data],
        [bytes([b]) for b in data],
        *(pieces(data, [p]) for p in points),
        *(pieces(data, pair) for pair in pairs),
    ]


@pytest.mark.parametrize("name", COMPLETE)
def test_every_split(name: str) -> None:
    raw, body, keep_alive = COMPLETE[name]
    for parts in splits(raw):
        reader, heard = feed(parts)
        assert (heard, reader.complete, reader.keep_alive) == (body, True, keep_alive), parts
        assert reader.status == int(raw.rpartition(b"HTTP/1.")[2][2:5])
        assert reader.retry_after == b""


@pytest.mark.parametrize("name", BY_END)
def test_bodies_delimited_by_the_end(name: str) -> None:
    raw, body = BY_END[name]
    for parts in splits(raw):
        reader, heard = feed(parts)
        assert (heard, reader.complete) == (body, False)
        assert reader.feed(b"") == b""
        assert (reader.complete, reader.keep_alive) == (True, False)


@pytest.mark.parametrize("name", COMPLETE)
def test_an_end_at_any_earlier_byte_is_a_cut(name: str) -> None:
    raw, _body, _ = COMPLETE[name]
    for at in range(len(raw)):
        reader, _ = feed([raw[:at]] if at else [])
        assert not reader.complete, at
        with pytest.raises(BadResponse):
            reader.feed(b"")


def test_headers_that_matter() -> None:
    raw = (
        b"HTTP/1.1 429 Too Many\r\nCONTENT-TYPE: Text/Event-Stream; charset=UTF-8\r\nRetry-After: 7\r\n"
        b"Content-Encoding: GZIP\r\nContent-Length: 0\r\n\r\n"
    )
    for parts in splits(raw):
        reader, _ = feed(parts)
        assert reader.status == 429
        assert reader.content_type == b"text/event-stream; charset=utf-8"
        assert reader.encoding == b"gzip"
        assert reader.retry_after == b"7"


@pytest.mark.parametrize("name", ["length", "length 0", "chunked", "204", "interim"])
@pytest.mark.parametrize(
    "stray",
    [
        b"x",
        b"HT",
        b"HTTP/1.1 500 Bad\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\n",
        b"garbage\r\n\r\n",
        b"\x00",
    ],
)
def test_stray_bytes_after_the_end_never_reach_anyone(name: str, stray: bytes) -> None:
    """In the same read or a later one: the answer stands as it was, and the connection is not used again."""
    raw, body, _ = COMPLETE[name]
    for parts in ([raw + stray], [raw, stray], [raw[:-1], raw[-1:] + stray], [raw + stray[:1], stray[1:]]):
        reader, heard = feed([part for part in parts if part])
        assert heard == body
        assert reader.status == (204 if name == "204" else 200)
        assert reader.complete
        assert not reader.keep_alive, parts


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"<html>",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        CONTINUE * (INTERIM_MAX + 1),
        b"HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n",
    ],
)
def test_junk_is_refused_at_every_split(raw: bytes) -> None:
    for parts in splits(raw):
        with pytest.raises(BadResponse):
            feed([*parts, b""])


def test_a_few_interim_answers_pass() -> None:
    reader, body = feed([CONTINUE * INTERIM_MAX + COMPLETE["length"][0]])
    assert (reader.status, body) == (200, b"hello")


@pytest.mark.parametrize("step", [1000, 4096, 65536])
def test_a_head_over_the_limit_is_refused(step: int) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + b"x-filler: " + b"y" * (2 * HEAD_BYTES_MAX) + b"\r\ncontent-length: 0\r\n\r\n"
    with pytest.raises(BadResponse):
        feed(pieces(raw, range(step, len(raw), step)))


def test_a_large_body_does_not_count_as_head() -> None:
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000
    _, body = feed([raw])
    assert len(body) == 200_000


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [b"HTTP/1.1 200 OK\r\n", b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b"\r\n",
             b"3\r\nabc\r\n", b"0\r\n\r\n", b"abc", b"HTTP/1.1 100 C\r\n\r\n", b"connection: close\r\n"]
        ) | st.binary(max_size=4),
        max_size=8,
    ),
    st.lists(st.integers(0, 120), max_size=4),
)  # fmt: skip
def test_whatever_the_bytes_the_splits_do_not_matter(tokens: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(tokens)
    assert _outcome(pieces(raw, cuts) if raw else []) == _outcome([raw] if raw else [])


def _outcome(parts: list[bytes]) -> tuple[object, ...]:
    reader, body = ResponseReader(), b""
    try:
        for part in parts:
            body += reader.feed(part)
        if not reader.complete:
            body += reader.feed(b"")
    except BadResponse:
        return ("bad",)
    return reader.status, body, reader.complete


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"", None),
        (b"0", 0.0),
        (b"7", 7.0),
        (b" 7 ", 7.0),
        (b"1.5", 1.5),
        (b"-1", None),
        (b"nan", None),
        (b"inf", 86400.0),
        (b"999999999", 86400.0),
        (b"soon", None),
        (b"\xff\xfe", None),
        (b"Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        (b"Tue, 14 Nov 2023 22:13:20 GMT", 0.0),
        (b"Tue, 14 Nov 2023 22:13:10 GMT", None),
        (b"Tue, 99 Nov 2023 22:13:10 GMT", None),
        (b"Fri, 31 Dec 9999 23:59:59 -2359", 86400.0),
    ],
)
def test_retry_after(value: bytes, seconds: float | None) -> None:
    assert parse_retry_after_s(value, 1_700_000_000.0) == seconds


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=30)
    | st.lists(
        st.sampled_from(
            ["Mon,", "01", "Jan", "1", "0000", "9999", "99999", "00:00:00", "24:61:00", "GMT", "-9999", "+2400", ""]
        ),
        max_size=7,
    ).map(lambda words: " ".join(words).encode())
)
def test_retry_after_never_raises(value: bytes) -> None:
    seconds = parse_retry_after_s(value, 1_700_000_000.0)
    assert seconds is None or 0 <= seconds <= 86400
