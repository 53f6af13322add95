"""Rows of the parity table in which providers fail, each with providers of its own.

What comes of each fault of `gateway.sim.faults`, when it is the only provider and when another follows.
"""

from __future__ import annotations

from gateway.sim import FAULTS
from tests.parity_row import Row, chat

PARAMETERS: dict[str, dict[str, object]] = {
    "long_line": {"size": 1_000_000},
    "slow": {"seconds": 60},
    "info_1xx": {"after": 8},
}
BUSY = ("hang", "hang_headers", "slow", "status_429", "status_503")
PASSED_ON = {"status_400": 400, "status_409": 409, "status_413": 413, "status_422": 422}
NO_ANSWER = ("refuse", "error_in_200", "html_200", "redirect_302", "empty", "gzip")
PACED = "paced:"  # before an upstream model: tokens come one by one, so that content was sent on before the fault
BREAKS_STREAM = ("garbage", "error_mid_stream", "cut", "stall")


def model(name: str) -> str:
    """The id of a row's own model."""
    return f"t/{name}"


def _row(fault: str, *, stream: bool) -> Row:
    name = f"fault-{fault}-{'stream' if stream else 'whole'}"
    fields: dict[str, object] = {"model": model(name), "stream": stream, "sim": _parameters(fault, stream=stream)}
    status, code, done = _outcome(fault, stream=stream)
    contains = (b'"finish_reason":"error"',) if stream and status == 200 and not done else ()
    paced = PACED if stream and fault in BREAKS_STREAM else ""
    return chat(name, fields, status, code=code, done=done, contains=contains, route=(f"{paced}fault-{fault}",))


def _parameters(fault: str, *, stream: bool) -> dict[str, object]:
    if fault == "cut":
        return {"after": 900 if stream else 200}  # past the first token of a stream, before the end of either
    return PARAMETERS.get(fault, {})


def _outcome(fault: str, *, stream: bool) -> tuple[int, str | None, bool | None]:
    if fault in PASSED_ON:
        return PASSED_ON[fault], None, None
    if fault in BUSY:
        return 503, "upstream_error", None
    if fault.startswith("status_") or fault in NO_ANSWER:
        return 502, "upstream_error", None
    if not stream:
        failed = {"cut": 502, "stall": 503}  # a broken answer is a bad one; one that never ends is a timeout
        return (failed[fault], "upstream_error", None) if fault in failed else (200, None, None)
    return 200, None, fault not in BREAKS_STREAM


def _followed(fault: str, *, stream: bool) -> Row:
    """The fault at the first provider, a good answer from the second."""
    name = f"next-{fault}-{'stream' if stream else 'whole'}"
    fields: dict[str, object] = {"model": model(name), "stream": stream}
    return chat(name, fields, done=True if stream else None, route=(f"fault-{fault}", "echo"), contains=(b"Hi",))


_NEXT = ("refuse", "error_in_200", "html_200", "empty", "status_401", "status_429", "status_500", "status_529", "hang")

FAULT_ROWS = [
    *(_row(fault, stream=stream) for fault in FAULTS for stream in (False, True)),
    *(_followed(fault, stream=stream) for fault in _NEXT for stream in (False, True)),
    chat("all-closed-port", {"model": "t/closed"}, 503, code="upstream_error", header=(("retry-after", "1"),),
         contains=(b"closed: connect_error",)),
    chat("all-closed-port-stream", {"model": "t/closed", "stream": True}, 503, code="upstream_error"),
    chat("too-many-1xx", {"model": model("too-many-1xx"), "sim": {"after": 100}}, 502, code="upstream_error",
         route=("fault-info_1xx",)),
    chat("closed-then-good", {"model": "t/closed-then-good"}, contains=(b"Hi",)),
    chat("all-429-least-wait", {"model": model("all-429-least-wait"), "sim": {"retry_after": 7}}, 503,
         code="upstream_error", header=(("retry-after", "7"), ("x-should-retry", None)),
         route=("fault-status_429", "fault-status_429")),
    chat("all-503-and-500", {"model": model("all-503-and-500")}, 502, code="upstream_error",
         header=(("retry-after", None), ("x-should-retry", "false")), route=("fault-status_503", "fault-status_500")),
    chat("refusal-stops", {"model": model("refusal-stops")}, 422, route=("fault-status_422", "echo")),
    chat("conflict-stops", {"model": model("conflict-stops"), "stream": True}, 409, route=("fault-status_409", "echo")),
]  # fmt: skip
