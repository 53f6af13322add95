"""The fault wall's rows: each way a provider can break, and what a caller is then owed. Pure.

`TAKEOVER`  the fault shows before the first content: the next provider answers; when both are faulty, a typed error
`BROKEN`    it shows after the first content: an error event, no `[DONE]`, no other provider asked, and the text sent
            so far is the start of the faulty provider's own. (When one read brought content and fault together, nothing
            was sent yet: then what is right for `TAKEOVER` is right, whole text and all.)
`HARMLESS`  the answer is good, if oddly put: the caller gets the first provider's whole text
`REFUSAL`   the provider says that the request is at fault: the same status as a typed error, no other provider asked
`LEFT`      the client goes away: the call ends as `client_gone`, and nothing of it stays open
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Due(Enum):
    """What a caller is owed."""

    TAKEOVER = "takeover"
    BROKEN = "broken"
    HARMLESS = "harmless"
    REFUSAL = "refusal"
    LEFT = "left"


Params = dict[str, float]
UNREACHABLE = "unreachable"  # the one fault that is no answer of the simulator's: a port where nobody listens
CLIENT_LEAVES = "client_leaves"


@dataclass(frozen=True, slots=True, eq=False)
class Fault:
    """One row, equal to itself alone. `name` is the simulator's; `*_params` are what each kind of call sends it."""

    label: str
    name: str
    stream: Due
    whole: Due
    stream_params: Params = field(default_factory=dict)
    whole_params: Params = field(default_factory=dict)
    status: int = 0  # of a REFUSAL

    def due(self, *, stream: bool) -> Due:
        """What one kind of call is owed."""
        return self.stream if stream else self.whole

    def params(self, *, stream: bool) -> Params:
        """The simulator's parameters in one kind of call."""
        return self.stream_params if stream else self.whole_params


def _both(name: str, due: Due, *, label: str = "", status: int = 0, **params: float) -> Fault:
    return Fault(label or name, name, due, due, params, params, status)


def _stream_only(name: str, due: Due, label: str = "", **params: float) -> Fault:
    """A fault that leaves answers which are not streamed as they are."""
    return Fault(label or name, name, due, Due.HARMLESS, params, {})


_T, _B, _H, _R = Due.TAKEOVER, Due.BROKEN, Due.HARMLESS, Due.REFUSAL

FAULTS: tuple[Fault, ...] = (
    _both(UNREACHABLE, _T, label="nobody listens"),
    _both("refuse", _T, label="reset before any answer"),
    _both("hang", _T, label="silent accept"),
    _both("hang_headers", _T, label="a head, then nothing"),
    _both("slow", _T, label="first token after 30 s", seconds=30.0),
    _both("status_429", _T, label="429 + Retry-After 7", retry_after=7.0),
    *(
        _both(f"status_{status}", _T, label=str(status))
        for status in (401, 402, 403, 404, 408, 500, 502, 503, 504, 529)
    ),
    *(_both(f"status_{status}", _R, label=str(status), status=status) for status in (400, 409, 413, 422)),
    _both("error_in_200", _T, label="200 with an error body"),
    _both("html_200", _T, label="200 with a web page"),
    _both("redirect_302", _T, label="302 to elsewhere"),
    _both("empty", _T, label="200 without a body"),
    _both("gzip", _T, label="gzip, not asked"),
    _both("info_1xx", _H, label="103 Early Hints 3 times", after=3.0),
    _both("info_1xx", _T, label="a flood of 103 Early Hints"),
    Fault("cut in the first frame", "cut", _T, _T, {"after": 100.0}, {"after": 100.0}),
    Fault("cut after content", "cut", _B, _T, {"after": 3500.0}, {"after": 200.0}),
    Fault("stall after the role frame", "stall", _T, _T, {"after": 1.0}, {}),
    Fault("stall after content", "stall", _B, _T, {"after": 10.0}, {}),
    _stream_only("garbage", _T, "garbage as the first frame", after=0.0),
    _stream_only("garbage", _B, "garbage after content", after=10.0),
    _stream_only("error_mid_stream", _T, "error as the first frame", after=0.0),
    _stream_only("error_mid_stream", _B, "error after content", after=10.0),
    _both("long_line", _H, label="a 5 MB line", size=5_000_000.0),
    _both("split_utf8", _H, label="UTF-8 split in every character"),
    _both("bytewise", _H, label="each byte a write"),
    _both("coalesced", _H, label="the whole body in one write"),
    _both("crlf", _H, label="CR LF line ends"),
    _both("cr", _H, label="bare CR line ends"),
    _both("comments", _H, label="a comment before every frame"),
    _both("multi_line_data", _H, label="JSON over several data lines"),
    _both("no_space", _H, label="data: without the space"),
    _both("event_lines", _H, label="event, id and retry lines"),
    _both("no_done", _H, label="no [DONE]"),
    _both("no_finish", _H, label="[DONE] without a finish_reason"),
    _both("double_finish", _H, label="the finish twice"),
    _both("usage_absent", _H, label="no usage"),
    _both("usage_zero", _H, label="usage all 0"),
    _both("usage_last", _H, label="usage in the finish frame"),
    _both("model_dated", _H, label="a dated model id"),
    _both("model_space", _H, label="JSON with spaces"),
    _both("model_quoted", _H, label="text that quotes our frames"),
    _both("close_idle", _H, label="closed after the answer"),
    Fault("the client leaves", CLIENT_LEAVES, Due.LEFT, Due.LEFT),
)
