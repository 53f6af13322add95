"""What providers call usage, and the estimate made before there is any."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.usage import TOKENS_MAX, Usage, estimate_prompt_tokens, parse_usage


def report(prompt: object = 100, completion: object = 20, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, **more}


READ: list[tuple[str, object, Usage | None]] = [
    ("plain", report(), Usage(100, 20)),
    ("zero is zero", report(0, 0), Usage(0, 0)),
    ("one of them", {"prompt_tokens": 5}, Usage(5, 0)),
    ("cached", report(prompt_tokens_details={"cached_tokens": 60}), Usage(100, 20, 60)),
    ("deepseek", report(prompt_cache_hit_tokens=60, prompt_cache_miss_tokens=40), Usage(100, 20, 60)),
    (
        "reasoning",
        report(completion_tokens_details={"reasoning_tokens": 15}),
        Usage(100, 20, reasoning=15),
    ),
    (
        "openai, openrouter",
        report(prompt_tokens_details={"cached_tokens": 10, "cache_write_tokens": 30}),
        Usage(100, 20, 10, cache_write=30),
    ),
    (
        "alibaba",
        report(
            prompt_tokens_details={
                "cached_tokens": 0,
                "cache_creation": {"ephemeral_5m_input_tokens": 30},
                "cache_creation_input_tokens": 30,
                "cache_type": "ephemeral",
            }
        ),
        Usage(100, 20, cache_write=30),
    ),
    (
        "alibaba, nested",
        report(
            prompt_tokens_details={
                "cached_tokens": 10,
                "cache_creation": {"cache_creation_input_tokens": 30, "cache_type": "ephemeral"},
            }
        ),
        Usage(100, 20, 10, cache_write=30),
    ),
    (
        "litellm",
        report(
            prompt_tokens_details={"cached_tokens": 10, "cache_creation_tokens": 30},
            cache_creation_input_tokens=30,
            cache_read_input_tokens=10,
        ),
        Usage(100, 20, 10, cache_write=30),
    ),
    (
        "litellm, top level only",
        report(prompt_tokens_details=None, cache_creation_input_tokens=30, cache_read_input_tokens=10),
        Usage(100, 20, 10, cache_write=30),
    ),
    (
        "an explicit zero comes before another spelling",
        report(prompt_tokens_details={"cache_write_tokens": 0}, cache_creation_input_tokens=30),
        Usage(100, 20),
    ),
    (
        "more cached and written than there is",
        report(prompt_tokens_details={"cached_tokens": 80, "cache_write_tokens": 80}),
        Usage(100, 20, 80, cache_write=20),
    ),
    (
        "parts beyond the whole",
        report(
            prompt_tokens_details={"cached_tokens": 500, "cache_write_tokens": 500},
            completion_tokens_details={"reasoning_tokens": 500},
        ),
        Usage(100, 20, 100, 20),
    ),
    ("details that are none", report(prompt_tokens_details=[1], completion_tokens_details="x"), Usage(100, 20)),
    ("details of no whole number", report(prompt_tokens_details={"cache_write_tokens": "7"}), Usage(100, 20)),
    ("absent", None, None),
    ("no object", [1], None),
    ("empty", {}, None),
    ("a float", report(1.5), None),
    ("true", report(completion=True), None),
    ("negative", report(-1), None),
    ("absurd", report(TOKENS_MAX + 1), None),
    ("absurd write", report(prompt_tokens_details={"cache_write_tokens": TOKENS_MAX + 1}), None),
    ("negative write", report(prompt_tokens_details={"cache_write_tokens": -1}), None),
    ("negative cached", report(prompt_tokens_details={"cached_tokens": -1}), None),
    ("negative reasoning", report(completion_tokens_details={"reasoning_tokens": -1}), None),
]


@pytest.mark.parametrize(("said", "expected"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_usage_is_read_as_vendors_write_it(said: object, expected: Usage | None) -> None:
    assert parse_usage(said) == expected


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2 * 10**9) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from(
            [
                "prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details",
                "cached_tokens", "cache_write_tokens", "cache_creation", "cache_creation_input_tokens",
                "reasoning_tokens", "prompt_cache_hit_tokens",
            ]
        ),
        inner,
        max_size=6,
    ),
    max_leaves=12,
)  # fmt: skip


@given(_JSON)
def test_whatever_is_read_adds_up(said: object) -> None:
    usage = parse_usage(said)
    if usage is not None:
        assert 0 <= usage.cached + usage.cache_write <= usage.prompt <= TOKENS_MAX
        assert 0 <= usage.reasoning <= usage.completion <= TOKENS_MAX
        assert min(usage.cached, usage.cache_write) >= 0


def body(text: str, *, ascii_only: bool = False) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=ascii_only).encode()


EMPTY = estimate_prompt_tokens(body(""))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("seven, eight. " * 50, 200),  # 3.5 bytes of ASCII
        ("漢字" * 500, 1200),  # 2.5 bytes of UTF-8
        ("7" * 700, 400),
        ("x" * 350_000, 100_000),
        ("漢字" * 50_000, 120_000),
    ],
)
def test_bytes_per_token(text: str, tokens: int) -> None:
    assert abs(estimate_prompt_tokens(body(text)) - EMPTY - tokens) <= 2 + tokens // 500


@pytest.mark.parametrize("repeats", [1, 40, 2000])
@pytest.mark.parametrize("text", ["漢字かな한국어", "Свобода", "Fähigkeit über", "plain 😀 text"])
def test_escapes_do_not_cost_more_than_what_they_stand_for(text: str, repeats: int) -> None:
    """Clients that send ASCII only write six bytes for a character."""
    raw = estimate_prompt_tokens(body(text * repeats)) - EMPTY
    escaped = estimate_prompt_tokens(body(text * repeats, ascii_only=True)) - EMPTY
    assert raw * 0.95 - 2 <= escaped <= raw * 1.6 + 2


def parts(*content: dict[str, Any]) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": list(content)}]}).encode()


def image(size: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0K" * (size // 8)}}


AUDIO = {"type": "input_audio", "input_audio": {"data": "UklGRg" * 50_000, "format": "wav"}}
AUDIO_TURNED = {"type": "input_audio", "input_audio": {"format": "wav", "data": "UklGRg" * 50_000}}
FILE = {
    "type": "file",
    "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "JVBERi0x" * 500_000},
}
TEXT = {"type": "text", "text": "What is in here? " * 20}


@pytest.mark.parametrize(
    ("content", "low", "high"),
    [
        ((image(8),), 1600, 1700),
        ((image(400_000), TEXT), 1700, 1850),
        ((image(200_000), image(300_000), image(8), TEXT), 4900, 5100),
        ((image(4_000_000),), 15_000, 16_000),
        ((AUDIO,), 1600, 1700),
        ((AUDIO_TURNED, image(8)), 3200, 3400),
        ((FILE, TEXT), 15_000, 16_000),
        (({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},), 10, 60),
    ],
)
def test_inline_media_count_a_flat_figure_not_their_bytes(
    content: tuple[dict[str, Any], ...], low: int, high: int
) -> None:
    assert low <= estimate_prompt_tokens(parts(*content)) <= high


@pytest.mark.parametrize(
    "text",
    ["data:image/png;base64," + "word" * 50_000, '"url":"data:a/b;base64,' + "word" * 50_000, '"input_audio"' * 9000],
)
def test_text_that_looks_like_media_is_text(text: str) -> None:
    """Nobody's prompt gets cheap by its first words."""
    assert estimate_prompt_tokens(body(text)) >= len(text) / 3.5


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"{",
        b'"url":"data:a/b;base64,AAAA',
        b'{"input_audio":{"data":"AAAA',
        b";base64," * 50_000,
        b'"input_audio"' * 50_000,
        b"\\u" * 50_000,
        b"\xff\xfe" * 50_000,
        b"1\\u" * 50_000,
    ],
)
def test_odd_bodies_are_estimated_like_any(odd: bytes) -> None:
    assert 0 <= estimate_prompt_tokens(odd) <= len(odd) + 2


@given(st.binary(max_size=400) | st.text(max_size=400).map(body))
def test_an_estimate_is_within_its_bytes(data: bytes) -> None:
    tokens = estimate_prompt_tokens(data)
    assert 0 <= tokens <= len(data) + 1
    assert tokens * 10 >= len(data)
