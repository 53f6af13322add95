"""What the fake upstream says and what the generator expects to read back: pure bytes, built once.

The shapes are OpenAI's (platform.openai.com/docs/api-reference/chat, read 2026-01): a role chunk, content
chunks of about 250 bytes, a finish chunk, a usage chunk when `stream_options.include_usage` was asked, `[DONE]`.
`MODEL` is a dated id unlike the one asked, as vendors answer, so a gateway that rewrites ids has work to do.
Invariant: content piece i is `word(i)`, so a reader can prove that nothing was lost, doubled or reordered.
"""

from __future__ import annotations

import json
from functools import cache

MODEL = "bench-chat-2026-01-15"
CREATED = 1_768_435_200
FINGERPRINT = "fp_50cad350e4"
ID_CHARS = 29  # length of the variable part of `chatcmpl-...`
ANSWER_WORDS = 40  # makes the non-stream answer about 0.8 KB
PROMPT_TOKENS = 143
PACED_FRAMES, PACE_S, BURST_FRAMES = 64, 0.020, 200
CHAT, PACED, BURST = "bench-chat", "bench-stream-64x20", "bench-burst-200"  # the kinds of answer, as models
COMPLETION_TOKENS = {CHAT: ANSWER_WORDS, PACED: PACED_FRAMES, BURST: BURST_FRAMES}
LAST_CHUNK = b"0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"openai-processing-ms: 12\r\nx-request-id: req_5f0c1b9a3d6e47d0\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_WORDS = [
    "the",
    "gateway",
    "relays",
    "every",
    "whole",
    "frame",
    "as",
    "it",
    "came",
    "and",
    "nothing",
    "is",
    "lost",
    "between",
    "one",
    "socket",
    "and",
    "its",
    "twin",
]
_ID_MARK = "\x00"


def word(index: int) -> str:
    """The text of content piece `index`; neighbours differ, so loss and reordering show."""
    return f" {_WORDS[index % len(_WORDS)]}{index}"


@cache
def expected_text(frames: int) -> str:
    """The whole text of a stream of `frames` content pieces."""
    return "".join(word(i) for i in range(frames))


def request_body(model: str, *, stream: bool, body_bytes: int = 700) -> bytes:
    """A chat request of about `body_bytes`, the size the published comparisons use."""
    question = "Explain in plain words what an LLM gateway does with a stream of tokens, and where time is lost. "
    messages = [{"role": "system", "content": "You are a careful assistant. Answer in full sentences."}]
    request: dict[str, object] = {"model": model, "messages": messages, "temperature": 0.2, "max_tokens": 512}
    if stream:
        request["stream"] = True
    room = body_bytes - len(json.dumps(request)) - 40
    messages.append({"role": "user", "content": (question * (room // len(question) + 1))[: max(room, 20)].strip()})
    return json.dumps(request).encode()


def completion() -> bytes:
    """The non-stream answer, about 0.8 KB."""
    body = {
        "id": "chatcmpl-BenchAnswer00000000000000000",
        "object": "chat.completion",
        "created": CREATED,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": expected_text(ANSWER_WORDS),
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": _usage(ANSWER_WORDS),
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def answer() -> bytes:
    """The whole HTTP/1.1 response of a non-stream call."""
    body = completion()
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nopenai-processing-ms: 12\r\n"
        f"x-request-id: req_5f0c1b9a3d6e47d0\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@cache
def role_chunk(*, usage: bool) -> tuple[bytes, bytes]:
    """The opening frame, as (before the id, after the id)."""
    return _split({"role": "assistant", "content": "", "refusal": None}, None, usage=usage)


@cache
def content_chunk(index: int, *, usage: bool) -> tuple[bytes, bytes]:
    """Content frame `index` in its own HTTP chunk, as (before the id, after the id)."""
    return _split({"content": word(index)}, None, usage=usage)


@cache
def closing_chunks(frames: int, *, usage: bool) -> tuple[bytes, ...]:
    """Finish frame, usage frame when asked, `[DONE]` and the last HTTP chunk; the id goes between the parts."""
    before, after = _split({}, "stop", usage=usage)
    done = _http_chunk(b"data: [DONE]\n\n") + LAST_CHUNK
    if not usage:
        return before, after + done
    last = _envelope([], {"usage": _usage(frames)})
    usage_before, usage_after = _cut(last)
    return before, after + usage_before, usage_after + done


def _usage(tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": PROMPT_TOKENS + tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _envelope(choices: list[object], extra: dict[str, object]) -> bytes:
    chunk = {
        "id": f"chatcmpl-{_ID_MARK * ID_CHARS}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": MODEL,
        "system_fingerprint": FINGERPRINT,
        "choices": choices,
        **extra,
    }
    text = json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).replace("\\u0000", _ID_MARK)
    return _http_chunk(b"data: " + text.encode() + b"\n\n")


def _split(delta: dict[str, object], finish: str | None, *, usage: bool) -> tuple[bytes, bytes]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _cut(_envelope([choice], {"usage": None} if usage else {}))


def _cut(chunk: bytes) -> tuple[bytes, bytes]:
    before, _, after = chunk.partition(_ID_MARK.encode() * ID_CHARS)
    return before, after


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
