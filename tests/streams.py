"""What a chat stream should look like after the gateway, done slowly and obviously: the reference of the stream tests.

It splits the whole stream into frames by the SSE rules, walks each JSON object with `json`, and swaps the bytes of the
top-level model value. Nothing here is shared with the code under test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gateway.dialects.chat_stream import ChatStream, StreamFault

MODEL = "openai/gpt-4o"
OURS = json.dumps(MODEL).encode()
FRAME_BYTES_MAX = 1 << 20
_EOL = re.compile(rb"\r\n|\r|\n")
_SPACE = re.compile(r"[ \t\r\n]*")


def frames_of(stream: bytes) -> Iterator[bytes]:
    """Whole frames with their blank line; leading blank lines belong to nobody and are left out."""
    start = at = 0
    blank = True
    for line_end in _EOL.finditer(stream):
        if line_end.start() == at:
            if not blank:
                yield stream[start : line_end.end()]
            start, blank = line_end.end(), True
        else:
            blank = False
        at = line_end.end()


def data_of(frame: bytes) -> bytes | None:
    lines = [line[5:] for line in _EOL.split(frame) if line.startswith(b"data:")]
    return b"\n".join(line.removeprefix(b" ") for line in lines) if lines else None


def model_spans(text: str) -> list[tuple[int, int]]:
    """Where the values of the top-level `model` members of a JSON object are."""
    decode, spans = json.JSONDecoder().raw_decode, []
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = decode(text, at)
        at = _skip(text, _skip(text, at) + 1)
        start = at
        _, at = decode(text, at)
        if name == "model":
            spans.append((start, at))
        at = _skip(text, at)
        if text[at] == ",":
            at = _skip(text, at + 1)
    return spans


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def renamed(payload: bytes) -> bytes:
    text = payload.decode()
    spans = model_spans(text)
    if not spans:
        return payload
    start, end = spans[-1]
    return text[:start].encode() + OURS + text[end:].encode()


def reference(stream: bytes, *, keep_usage: bool) -> bytes:
    """What the client gets of a stream without faults, closing frame excluded."""
    out = []
    for frame in frames_of(stream.removeprefix(b"\xef\xbb\xbf")):
        kept = _without_comments(frame)
        payload = data_of(kept)
        if payload is None:
            out.append(kept if kept.strip() else b"")
            continue
        if payload == b"[DONE]":
            return b"".join((*out, kept))
        chunk = json.loads(payload)
        if chunk.get("usage") and not chunk.get("choices") and not keep_usage:
            continue
        kept = kept.replace(payload, renamed(payload), 1)
        out.append(kept if keep_usage or chunk.get("usage", 0) is not None else _without_null_usage(kept))
    return b"".join(out)


def _without_null_usage(frame: bytes) -> bytes:
    """`usage` that is null is there because the gateway asked; where it stands as vendors write it, it is hidden."""
    for member in (b',"usage":null', b', "usage": null'):
        if frame.count(member) == 1:
            return frame.replace(member, b"")
    return frame


def _without_comments(frame: bytes) -> bytes:
    lines = re.findall(rb"[^\r\n]*(?:\r\n|\r|\n)", frame)
    return b"".join(line for line in lines if not line.startswith(b":"))


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` cut at the given positions."""
    points = sorted({cut for cut in cuts if 0 < cut < len(data)})
    return [data[a:b] for a, b in zip([0, *points], [*points, len(data)], strict=True)]


@dataclass
class Heard:
    """What came of feeding a stream."""

    out: bytes
    fault: StreamFault | None
    chat: ChatStream
    outs: list[bytes] = field(default_factory=list)


def run(parts: Iterable[bytes], *, keep_usage: bool = True, frame_bytes_max: int = FRAME_BYTES_MAX) -> Heard:
    """Feed a ChatStream, piece by piece, then end it."""
    chat = ChatStream(MODEL, keep_usage=keep_usage, frame_bytes_max=frame_bytes_max)
    outs: list[bytes] = []
    fault = None
    try:
        for part in parts:
            outs += [chat.feed(part)]
        outs.append(chat.end())
    except StreamFault as exc:
        fault = exc
        outs.append(getattr(exc, "before", b""))
    return Heard(b"".join(outs), fault, chat, outs)
