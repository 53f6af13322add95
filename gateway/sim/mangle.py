# ruff: noqa: ARG001, D103 - hooks of one kind have one signature, and gateway.sim.faults documents every one.
"""Faults of an answer's chunks, JSON, framing and bytes. Pure; `gateway.sim.faults` names and documents them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import replace

import orjson

from gateway.sim import chat
from gateway.sim.chat import Chunk, Json
from gateway.sim.damage import Scene, broken
from gateway.sim.steps import Close, Hang, Send, Step

# Faults of the chunks of a stream.


def garbage(chunks: Iterator[Chunk], scene: Scene) -> Iterator[Chunk]:
    return _inserted(chunks, scene.after(3), Chunk(b'{"id": "chatcmpl-, not json \xff', "fault"))


def error_mid_stream(chunks: Iterator[Chunk], scene: Scene) -> Iterator[Chunk]:
    for _, chunk in zip(range(scene.after(3)), chunks, strict=False):
        yield chunk
    yield Chunk(broken().body(), "fault")


def no_done(chunks: Iterator[Chunk], scene: Scene) -> Iterator[Chunk]:
    return (chunk for chunk in chunks if chunk.kind != "done")


def no_finish(chunks: Iterator[Chunk], scene: Scene) -> Iterator[Chunk]:
    return (chunk for chunk in chunks if chunk.kind != "finish")


def double_finish(chunks: Iterator[Chunk], scene: Scene) -> Iterator[Chunk]:
    for chunk in chunks:
        yield chunk
        if chunk.kind == "finish":
            yield chunk


def usage_absent(chunks: Iterator[Chunk], scene: Scene) -> Iterator[Chunk]:
    for chunk in chunks:
        if chunk.kind != "usage":
            yield replace(chunk, body=without_usage(chunk.body)) if isinstance(chunk.body, dict) else chunk


def usage_last(chunks: Iterator[Chunk], scene: Scene) -> Iterator[Chunk]:
    """Holds the finish chunks back until the usage chunk is seen, and puts its usage in the last of them."""
    held: list[Chunk] = []
    for chunk in chunks:
        if chunk.kind == "finish":
            held.append(chunk)
        elif chunk.kind == "usage" and held and isinstance(chunk.body, dict) and isinstance(held[-1].body, dict):
            held[-1] = replace(held[-1], body=held[-1].body | {"usage": chunk.body["usage"]})
        else:
            yield from held
            held = []
            yield chunk
    yield from held


def _inserted(chunks: Iterator[Chunk], after: int, extra: Chunk) -> Iterator[Chunk]:
    for _, chunk in zip(range(after), chunks, strict=False):
        yield chunk
    yield extra
    yield from chunks


# Faults of every JSON object, whole or chunk.


def dated(body: Json) -> Json:
    return body | {"model": f"{body['model']}-2026-01-01"} if "model" in body else body


def without_usage(body: Json) -> Json:
    return {name: value for name, value in body.items() if name != "usage"}


def zero_usage(body: Json) -> Json:
    return body | {"usage": chat.usage(0, 0)} if body.get("usage") else body


def spaced(body: Json) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(", ", ": ")).encode()


def indented(body: Json) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_INDENT_2)


# Faults of the framing: from the data of one event to its bytes.


def sse(data: bytes) -> bytes:
    """The frame as it should be."""
    return b"data: " + data + b"\n\n"


def crlf(data: bytes) -> bytes:
    return b"data: " + data + b"\r\n\r\n"


def cr(data: bytes) -> bytes:
    return b"data: " + data + b"\r\r"


def comments(data: bytes) -> bytes:
    return b": keep-alive\n\n" + sse(data)


def multi_line_data(data: bytes) -> bytes:
    return b"".join(b"data: " + line + b"\n" for line in data.split(b"\n")) + b"\n"


def no_space(data: bytes) -> bytes:
    return b"data:" + data + b"\n\n"


def event_lines(data: bytes) -> bytes:
    return b"event: message\nid: 7\nretry: 1000\n" + sse(data)


# Faults of the body on the wire, before the transfer coding.


def cut(steps: Iterator[Step], scene: Scene) -> Iterator[Step]:
    left = scene.after(600)
    for step in steps:
        if isinstance(step, Send):
            yield Send(step.data[:left])
            left -= len(step.data)
            if left <= 0:
                break
        else:
            yield step
    yield Close()


def stall(steps: Iterator[Step], scene: Scene) -> Iterator[Step]:
    left = scene.after(3)
    for step in steps:
        if isinstance(step, Send):
            if left == 0 or not scene.streamed:
                yield Send(step.data[: 0 if scene.streamed else len(step.data) // 2])
                break
            left -= 1
        yield step
    yield Hang()


def bytewise(steps: Iterator[Step], scene: Scene) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, Send):
            yield from (Send(step.data[at : at + 1]) for at in range(len(step.data)))
        else:
            yield step


def split_utf8(steps: Iterator[Step], scene: Scene) -> Iterator[Step]:
    """A write for each byte that is not ASCII, and one for each run of ASCII between."""
    for step in steps:
        if not isinstance(step, Send):
            yield step
            continue
        start = 0
        for at, byte in enumerate(step.data):
            if byte >= 0x80:
                yield Send(step.data[start:at])
                yield Send(step.data[at : at + 1])
                start = at + 1
        yield Send(step.data[start:])


def coalesced(steps: Iterator[Step], scene: Scene) -> Iterator[Step]:
    yield Send(b"".join(step.data for step in steps if isinstance(step, Send)))


def gzipped(steps: Iterator[Step], scene: Scene) -> Iterator[Step]:
    packer = zlib.compressobj(wbits=31)
    for step in steps:
        if isinstance(step, Send):
            yield Send(packer.compress(step.data) + packer.flush(zlib.Z_SYNC_FLUSH))
        else:
            yield step
    yield Send(packer.flush())
