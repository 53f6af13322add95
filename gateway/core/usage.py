"""Token usage of one call: read from whatever a provider calls usage, or estimated from the request. Pure.

An explicit 0 is 0. A value that is no whole number, negative or absurd (over 10^9) makes the whole report
untrusted: `parse_usage` returns None and the caller counts deltas instead, flagged `estimated`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

TOKENS_MAX = 10**9  # a thousand times the longest context on sale; more is a broken report


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as billed. `cached` (read from a cache) and `cache_write` (written to one) are parts of `prompt`,
    `reasoning` is part of `completion`.
    """

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0
    estimated: bool = False
    cache_write: int = 0


# Where the tokens written to a cache are told: OpenAI and OpenRouter; Alibaba; LiteLLM and what is modelled on it.
_WRITE_NAMES: Final = ("cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens")


def parse_usage(report: object) -> Usage | None:
    """Read an OpenAI-shaped usage object, with the vendors' spellings of cached tokens. None when absent or untrusted.

    What is said to be cached or written beyond the prompt, or reasoned beyond the completion, is cut to it.
    """
    if not isinstance(report, dict):
        return None
    prompt, completion = report.get("prompt_tokens", 0), report.get("completion_tokens", 0)
    if "prompt_tokens" not in report and "completion_tokens" not in report:
        return None
    cached, written = _cached(report)
    reasoning = _count(report.get("completion_tokens_details"), "reasoning_tokens") or 0
    if type(prompt) is not int or type(completion) is not int:
        return None
    counts = (prompt, completion, cached, written, reasoning)
    if min(counts) < 0 or max(counts) > TOKENS_MAX:
        return None
    cached = min(cached, prompt)
    return Usage(prompt, completion, cached, min(reasoning, completion), cache_write=min(written, prompt - cached))


def _cached(report: dict[str, object]) -> tuple[int, int]:
    """Prompt tokens read from a cache and written to one: by OpenAI's names, else by another vendor's."""
    details = report.get("prompt_tokens_details")
    cached = written = None
    if isinstance(details, dict):
        cached = _count(details, "cached_tokens")
        for name in _WRITE_NAMES:
            if name in details and (written := _count(details, name)) is not None:
                break
        else:
            written = _count(details.get("cache_creation"), "cache_creation_input_tokens")  # Alibaba's older form
    if cached is None:
        cached = _count(report, "prompt_cache_hit_tokens")  # DeepSeek
    if cached is None:
        cached = _count(report, "cache_read_input_tokens")  # LiteLLM
    if written is None:
        written = _count(report, "cache_creation_input_tokens")
    return cached or 0, written or 0


def _count(table: object, name: str) -> int | None:
    value = table.get(name) if isinstance(table, dict) else None
    return value if type(value) is int else None


# The estimate made at admission. English and code come to 3.5 bytes a token or more, other scripts to 2.5 bytes of
# UTF-8 or more, digits to one or two a token. In 35ths of a token, so that nothing is rounded before the end:
_ASCII_BYTE: Final = 10
_DIGIT: Final = 20
_OTHER_BYTE: Final = 14
_ESCAPE: Final = 3 * _OTHER_BYTE  # an escape, backslash u and four digits, stands for about three bytes of UTF-8
_TOKEN: Final = 35
_ESCAPE_BYTES: Final = 6
_DIGITS: Final = b"0123456789"
_ASCII_BUT_DIGITS: Final = bytes(byte for byte in range(128) if byte not in _DIGITS)

_EXACT_BYTES_MAX: Final = 16 * 1024  # of a longer text, evenly spaced windows tell how much is what
_WINDOWS: Final = 32
_WINDOW_BYTES: Final = 512

# An image costs up to 1,445 (OpenAI, high detail) or 1,600 tokens (Anthropic, largest size) whatever its bytes. A file
# can be long: PDFs, audio and video come to no more than a token for 256 characters of base64.
_MEDIA_TOKENS: Final = 1600
_MEDIA_BYTES_PER_TOKEN: Final = 256
_MEDIA_MAX: Final = 1000  # marks looked at in one body; what comes after them counts as text
_URL_MARK: Final = b";base64,"
_URL_BYTES_MAX: Final = 160  # of the member's name and the media type before that mark
_URL = re.compile(rb'"(?:url|file_data)"[ \t\r\n]*:[ \t\r\n]*"data:[^",]*;base64,\Z')
_AUDIO_MARK: Final = b'"input_audio"'
_AUDIO = re.compile(
    rb'"input_audio"[ \t\r\n]*:[ \t\r\n]*\{[ \t\r\n]*'
    rb'(?:"format"[ \t\r\n]*:[ \t\r\n]*"[^"]{0,20}"[ \t\r\n]*,[ \t\r\n]*)?"data"[ \t\r\n]*:[ \t\r\n]*"'
)


def estimate_prompt_tokens(body: bytes) -> int:
    """Estimate the prompt tokens of a request from its bytes: seldom too few, cheap before exact.

    Inline images, audio and files count a flat figure instead of their base64 where a content part has them; the same
    bytes in a message's text are text.
    """
    if len(body) > _EXACT_BYTES_MAX and not any(map(_is_like_base64, _windows(body))):
        return _text_tokens(body)  # whatever media there is, is small beside the text
    if (b";" not in body or _URL_MARK not in body) and _AUDIO_MARK not in body:  # one byte is found ten times as fast
        return _text_tokens(body)
    texts, tokens = _cut(body, _data_urls(body))
    for text in texts:
        inner, media = _cut(text, _audio(text))
        tokens += media + sum(map(_text_tokens, inner))
    return tokens


def _cut(text: bytes, spans: Iterable[tuple[int, int]]) -> tuple[list[bytes], int]:
    """What is outside of `spans`, and the tokens of the media inside of them."""
    texts, tokens, at = [], 0, 0
    for start, end in spans:
        texts.append(text[at:start])
        tokens += max(_MEDIA_TOKENS, -(-(end - start) // _MEDIA_BYTES_PER_TOKEN))
        at = end
    return [*texts, text[at:]], tokens


def _windows(text: bytes) -> list[bytes]:
    starts = range(0, len(text) - _WINDOW_BYTES, len(text) // _WINDOWS)
    return [text[at : at + _WINDOW_BYTES] for at in starts]


def _is_like_base64(text: bytes) -> bool:
    return b" " not in text and b"\\" not in text and text.isascii()


def _data_urls(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the base64 of each data URL begins and ends."""
    at = 0
    for _ in range(_MEDIA_MAX):
        at = body.find(_URL_MARK, at) + len(_URL_MARK)
        if at < len(_URL_MARK):
            return
        if _URL.search(body[max(at - _URL_BYTES_MAX, 0) : at]):
            start, at = at, body.find(b'"', at)
            if at < 0:
                return
            yield start, at


def _audio(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the base64 of each `input_audio` part begins and ends."""
    at = 0
    for _ in range(_MEDIA_MAX):
        mark = body.find(_AUDIO_MARK, at)
        if mark < 0:
            return
        at = mark + len(_AUDIO_MARK)
        if found := _AUDIO.match(body, mark):
            at = body.find(b'"', found.end())
            if at < 0:
                return
            yield found.end(), at


def _text_tokens(text: bytes) -> int:
    size = len(text)
    if not size:
        return 0
    sample = text if size <= _EXACT_BYTES_MAX else b"".join(_windows(text))
    escapes = sample.count(b"\\u") if b"\\" in sample else 0
    rest = sample.translate(None, _ASCII_BUT_DIGITS)
    other = 0 if rest.isascii() else len(rest.translate(None, _DIGITS))
    digits = max(len(rest) - other - 4 * escapes, 0)
    letters = max(len(sample) - other - digits - _ESCAPE_BYTES * escapes, 0)
    parts = _ASCII_BYTE * letters + _DIGIT * digits + _OTHER_BYTE * other + _ESCAPE * escapes
    return -(-parts * size // (_TOKEN * len(sample)))
