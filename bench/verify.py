"""Whether the caller got the answer: pure checks of a raw HTTP/1.1 response against what the upstream sent.

A fast wrong answer must count as an error, so every stream is checked whole: its text, its finish
and its `[DONE]`. Rivals re-encode JSON, hence the optional blank after the colon.
"""

from __future__ import annotations

import re

from bench import frames

CONTENT = re.compile(rb'"content": ?"([^"]+)"')
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_FINISH = re.compile(rb'"finish_reason": ?"stop"')
_ANSWER_TEXT = frames.expected_text(frames.ANSWER_WORDS).encode()
_SAMPLE_BYTES = 200


def dechunk(data: bytes) -> bytes | None:
    """The body inside a complete chunked coding; None when it is malformed or incomplete."""
    parts: list[bytes] = []
    at = 0
    while True:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        try:
            size = int(data[at:line_end].split(b";")[0], 16)
        except ValueError:
            return None
        at = line_end + 2
        if size == 0:
            return b"".join(parts) if data[at : at + 2] == b"\r\n" else None
        parts.append(data[at : at + size])
        at += size + 2
        if data[at - 2 : at] != b"\r\n":
            return None


def is_complete(raw: bytes) -> bool:
    """Whether `raw` holds a whole response (head and body by Content-Length or chunked coding)."""
    head_end = raw.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    head = raw[: head_end + 2]
    length = LENGTH.search(head)
    if length is not None:
        return len(raw) - head_end - 4 >= int(length[1])
    return bool(CHUNKED.search(head)) and raw.endswith(b"0\r\n\r\n") and dechunk(raw[head_end + 4 :]) is not None


def body_of(raw: bytes) -> bytes | None:
    """The decoded body of a whole response; None when its framing is broken."""
    head, _, rest = raw.partition(b"\r\n\r\n")
    return dechunk(rest) if CHUNKED.search(head + b"\r\n") else rest


def check_answer(raw: bytes) -> str | None:
    """None for the right non-stream answer, else what was wrong (a short, low-cardinality label)."""
    if not raw.startswith(b"HTTP/1.1 200"):
        return f"status {raw[9:12].decode('ascii', 'replace')}"
    return None if _ANSWER_TEXT in raw else "wrong text"


def check_stream(raw: bytes, frame_count: int, *, needs_done: bool = True) -> str | None:
    """None for the right stream of `frame_count` content frames, else what was wrong."""
    if not raw.startswith(b"HTTP/1.1 200"):
        return f"status {raw[9:12].decode('ascii', 'replace')}"
    body = body_of(raw)
    if body is None:
        return "broken chunked coding"
    if b"".join(CONTENT.findall(body)) != frames.expected_text(frame_count).encode():
        return "wrong text"
    if not _FINISH.search(body):
        return "no finish_reason"
    return None if not needs_done or body.rstrip().endswith(b"data: [DONE]") else "no [DONE]"


def sample(raw: bytes) -> str:
    """The start of a bad answer's body, for the report (our own fake text only, never a user's)."""
    return raw.partition(b"\r\n\r\n")[2][:_SAMPLE_BYTES].decode("utf-8", "replace")
