"""Token usage of one call, read from whatever a provider calls usage. Pure.

An explicit 0 is 0. A value that is no whole number, negative or absurd (over 10^9) makes the whole report
untrusted: `parse_usage` returns None and the caller counts deltas instead, flagged `estimated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TOKENS_MAX = 10**9  # a thousand times the longest context on sale; more is a broken report


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as billed. `cached` (read from a cache) and `cache_write` (written to one) are parts of `prompt`,
    `reasoning` is part of `completion`.
    """

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0
    estimated: bool = False
    cache_write: int = 0


def parse_usage(report: object) -> Usage | None:
    """Read an OpenAI-shaped usage object (also DeepSeek's `prompt_cache_hit_tokens`). None when absent or untrusted."""
    if not isinstance(report, Mapping):
        return None
    prompt, completion = report.get("prompt_tokens", 0), report.get("completion_tokens", 0)
    if "prompt_tokens" not in report and "completion_tokens" not in report:
        return None
    cached = _detail(report, "prompt_tokens_details", "cached_tokens")
    if cached is None:
        cached = report.get("prompt_cache_hit_tokens", 0)
    reasoning = _detail(report, "completion_tokens_details", "reasoning_tokens")
    counts = (prompt, completion, cached, reasoning or 0)
    if not all(type(count) is int and 0 <= count <= TOKENS_MAX for count in counts):
        return None
    return Usage(prompt, completion, min(cached, prompt), min(counts[3], completion))


def _detail(report: Mapping[object, object], outer: str, inner: str) -> int | None:
    details = report.get(outer)
    value = details.get(inner) if isinstance(details, Mapping) else None
    return value if type(value) is int else None


def estimate_prompt_tokens(body_bytes: int) -> int:
    """Estimate prompt tokens from the size of the request: 3.5 bytes a token; cheap beats exact here."""
    return -(-body_bytes * 2 // 7)
