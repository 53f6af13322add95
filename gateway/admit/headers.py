"""The `x-ratelimit-*` header fields of an answer, in OpenAI's formats. Pure.

Names and durations as in OpenAI's guide "Rate limits in headers" (platform.openai.com/docs/guides/rate-limits):
`60`, `59`, `1s`, `6m0s`. Durations there are Go's `time.Duration.String`, which also writes `20ms` and `8.64s`.
"""

from __future__ import annotations

from typing import Final

from gateway.admit.limits import Standing

_NAMES: Final = [
    (b"x-ratelimit-limit-" + dimension, b"x-ratelimit-remaining-" + dimension, b"x-ratelimit-reset-" + dimension)
    for dimension in (b"requests", b"tokens")
]


def ratelimit_headers(standing: Standing) -> list[tuple[bytes, bytes]]:
    """The three fields of each dimension that has a limit, requests before tokens."""
    fields = []
    for (limit, remaining, reset), allowance in zip(_NAMES, standing, strict=True):
        if allowance is not None:
            of, left, reset_ms = allowance
            fields += [(limit, b"%d" % of), (remaining, b"%d" % left), (reset, duration(reset_ms))]
    return fields


def duration(ms: int) -> bytes:
    """Milliseconds as Go writes them: `0s`, `20ms`, `8.64s`, `6m0s`, `23h59m59.5s`."""
    if 0 < ms < 1000:
        return b"%dms" % ms
    minutes, ms = divmod(ms, 60_000)
    seconds, ms = divmod(ms, 1000)
    text = (b"%d.%03d" % (seconds, ms)).rstrip(b"0") if ms else b"%d" % seconds
    hours, minutes = divmod(minutes, 60)
    if hours:
        return b"%dh%dm%ss" % (hours, minutes, text)
    return b"%dm%ss" % (minutes, text) if minutes else text + b"s"
