"""SSE framing: whole frames out, whatever the reads were."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.sse import FrameCutter, FrameTooLarge, event_data, frame_end, last_frame, without_comments
from tests.streams import frames_of, pieces

STREAMS = {
    "lf": b"data: a\n\nevent: e\ndata: b\n\n",
    "crlf": b"data: a\r\n\r\nevent: e\r\ndata: b\r\n\r\n",
    "cr": b"data: a\r\revent: e\rdata: b\r\r",
    "bom": b"\xef\xbb\xbfdata: a\n\ndata: b\n\n",
    "utf8": "data: é漢😀\n\ndata: ß\n\n".encode(),
    "comments": b": hi\n\ndata: a\n: in\ndata: b\n\n",
    "extra blank lines": b"data: a\n\n\ndata: b\n\n\n\ndata: c\n\n",
    "crlf, extra blank lines": b"data: a\r\n\r\n\r\ndata: b\r\n\r\n",
}


def cut(parts: list[bytes], bytes_max: int = 10_000) -> tuple[list[bytes], bytes]:
    cutter = FrameCutter(bytes_max)
    return [cutter.feed(part) for part in parts], cutter.held


def as_frames(blocks: bytes) -> list[bytes]:
    return list(frames_of(blocks))


@pytest.mark.parametrize("name", STREAMS)
def test_every_split_yields_the_same_bytes(name: str) -> None:
    stream = STREAMS[name]
    expected = stream.removeprefix(b"\xef\xbb\xbf")
    for cuts in [*combinations(range(1, len(stream)), 1), *combinations(range(1, len(stream)), 2)]:
        blocks, held = cut(pieces(stream, cuts))
        assert (b"".join(blocks), held) == (expected, b""), cuts
    blocks, held = cut([bytes([byte]) for byte in stream])
    assert (b"".join(blocks), held) == (expected, b"")


@pytest.mark.parametrize("name", STREAMS)
def test_every_split_yields_whole_frames_only(name: str) -> None:
    stream = STREAMS[name]
    expected = as_frames(stream.removeprefix(b"\xef\xbb\xbf"))
    for cuts in combinations(range(1, len(stream)), 2):
        blocks, _held = cut(pieces(stream, cuts))
        frames = [frame.strip() for block in blocks for frame in as_frames(block)]
        assert frames == [frame.strip() for frame in expected], cuts


@pytest.mark.parametrize("name", STREAMS)
def test_frame_end_walks_every_block(name: str) -> None:
    """What `feed` returns can be walked frame by frame to its very end."""
    stream = STREAMS[name]
    for cuts in [(), *combinations(range(1, len(stream)), 1)]:
        for block in cut(pieces(stream, cuts))[0]:
            start = 0
            while start < len(block):
                end = frame_end(block, start)
                assert end > start
                start = end
            assert start == len(block)


def test_a_tail_is_held_until_its_blank_line() -> None:
    cutter = FrameCutter(100)
    assert cutter.feed(b"data: a\n\ndata: b") == b"data: a\n\n"
    assert cutter.held == b"data: b"
    assert cutter.feed(b"c\n") == b""
    assert cutter.feed(b"\ndata: d") == b"data: bc\n\n"
    assert cutter.held == b"data: d"


def test_a_cr_frame_does_not_wait_for_the_next_byte() -> None:
    assert FrameCutter(100).feed(b"data: a\r\r") == b"data: a\r\r"


def test_the_limit_is_on_what_is_held() -> None:
    cutter = FrameCutter(10)
    assert cutter.feed(b"0123456789") == b""
    with pytest.raises(FrameTooLarge):
        cutter.feed(b"x")


def test_the_limit_counts_one_frame_not_the_stream() -> None:
    cutter = FrameCutter(10)
    for _ in range(100):
        assert cutter.feed(b"data") == b""
        assert cutter.feed(b": a\n\n") == b"data: a\n\n"


def test_growth_is_linear() -> None:
    """A long line in small pieces: quadratic work would be 12 GB of copying here."""
    cutter = FrameCutter(10**7)
    piece = b"x" * 1000
    for _ in range(5000):
        assert cutter.feed(piece) == b""
    block = cutter.feed(b"\n\n")
    assert len(block) == 5_000_002


@given(
    st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"data: x", b": c", b"\xc3\xa9", b"id: 1"]), max_size=14),
    st.lists(st.integers(0, 60), max_size=6),
)
def test_whatever_the_bytes_the_splits_do_not_matter(tokens: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(tokens)
    blocks, held = cut(pieces(stream, cuts))
    at_once, _ = cut([stream])
    lines = b"".join(blocks) + held
    assert lines.replace(b"\r\n", b"\n").replace(b"\r", b"\n") == stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for whole, split in zip(frames_of(b"".join(at_once)), frames_of(b"".join(blocks)), strict=False):
        assert whole.strip() == split.strip()


@pytest.mark.parametrize(
    ("frame", "data", "event"),
    [
        (b"data: a\n\n", b"a", b""),
        (b"data:a\n\n", b"a", b""),
        (b"data:  a\n\n", b" a", b""),
        (b"data: a\ndata: b\n\n", b"a\nb", b""),
        (b"data\n\n", b"", b""),
        (b"event: error\r\ndata: a\r\n\r\n", b"a", b"error"),
        (b"id: 1\rretry: 5\r\r", None, b""),
        (b"dataset: a\n\n", None, b""),
        (b"\n", None, b""),
    ],
)
def test_event_data(frame: bytes, data: bytes | None, event: bytes) -> None:
    assert event_data(frame) == (data, event)


@pytest.mark.parametrize(
    ("frame", "left"),
    [
        (b": c\n\n", b""),
        (b": c\r\n: d\r\n\r\n", b""),
        (b": c\ndata: a\n\n", b"data: a\n\n"),
        (b"data: a\r: c\r\r", b"data: a\r\r"),
        (b"data: : a\n\n", b"data: : a\n\n"),
    ],
)
def test_without_comments(frame: bytes, left: bytes) -> None:
    assert without_comments(frame) == left


def test_last_frame() -> None:
    assert last_frame(b"data: a\n\n") == b"data: a\n\n"
    assert last_frame(b"data: a\n\ndata: b\n\n") == b"data: b\n\n"
