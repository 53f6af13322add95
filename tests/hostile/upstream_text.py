"""The honest words of the hostile provider, and what a client must get of them."""

from __future__ import annotations

import json

UPSTREAM_MODEL = "upstream-model"
WORDS = ["Größe ", "und ", "Übermut ", "😀 ", "tun ", "selten ", "gut."]
TEXT = "".join(WORDS)
_USAGE = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}


def _dumps(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def chunk(text: str, finish: str | None = None) -> bytes:
    """One frame with content."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": UPSTREAM_MODEL}
    return b"data: " + _dumps({**base, "choices": [choice]}) + b"\n\n"


CHUNKS = [*(chunk(word) for word in WORDS), chunk("", "stop"), b"data: [DONE]\n\n"]
STREAM = b"".join(CHUNKS)
ANSWER = _dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": UPSTREAM_MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
)
