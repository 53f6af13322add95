"""What one HTTP/2 connection may cost us beside its requests: counters, no I/O, the clock passed in.

- `FrameBudget`: a token bucket over the frames that make work and carry no payload (PING, SETTINGS, PRIORITY,
  RST_STREAM, WINDOW_UPDATE, empty DATA, unknown types): CVE-2019-9512 to -9518 are floods of them.
- `ResetWatch`: rapid reset (CVE-2023-44487) and its cousin where the client provokes the server's own resets
  (CVE-2025-8671). The window and share are Envoy's edge rule: past 500 streams, more than half reset.
"""

from __future__ import annotations

from collections import deque

# A client that pings once a second and credits every DATA frame stays far below; a flood of any kind is over it at
# once. 2,000 frames in hand cost about 40 ms of one core.
BUDGET_FRAMES_MAX = 2_000
BUDGET_FRAMES_PER_S = 200.0

STREAMS_WATCHED = 500
RESETS_IN_BURST = 200
BURST_S = 1.0


class FrameBudget:
    """A token bucket in frames. Not shared: one per connection."""

    __slots__ = ("_frames", "_updated_s")

    def __init__(self, now_s: float) -> None:
        self._frames = float(BUDGET_FRAMES_MAX)
        self._updated_s = now_s

    def spend(self, count_frames: int, now_s: float) -> bool:
        """Take `count_frames`; False when the connection has overdrawn."""
        self._frames += (now_s - self._updated_s) * BUDGET_FRAMES_PER_S
        self._updated_s = now_s
        self._frames = min(self._frames, float(BUDGET_FRAMES_MAX)) - count_frames
        return self._frames >= 0

    def earn(self, count_frames: int) -> None:
        """Grant `count_frames` more, for WINDOW_UPDATEs that our own DATA will bring."""
        self._frames = min(self._frames + count_frames, float(BUDGET_FRAMES_MAX))


class ResetWatch:
    """How the last streams of a connection ended."""

    __slots__ = ("_burst", "_last", "_resets")

    def __init__(self) -> None:
        self._last: deque[bool] = deque(maxlen=STREAMS_WATCHED)
        self._resets = 0
        self._burst: deque[float] = deque(maxlen=RESETS_IN_BURST + 1)

    def completed(self) -> None:
        """A stream got its whole response."""
        self._record(was_reset=False)

    def was_reset(self, now_s: float) -> bool:
        """The client ended a stream early, or made us do so; True when that is now abuse."""
        self._record(was_reset=True)
        self._burst.append(now_s)
        burst = len(self._burst) > RESETS_IN_BURST and now_s - self._burst[0] < BURST_S
        return burst or (len(self._last) == STREAMS_WATCHED and self._resets * 2 > STREAMS_WATCHED)

    def _record(self, *, was_reset: bool) -> None:
        if len(self._last) == STREAMS_WATCHED and self._last[0]:
            self._resets -= 1
        self._last.append(was_reset)
        self._resets += was_reset
