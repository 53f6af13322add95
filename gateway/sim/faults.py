"""The faults that the simulated provider shows on request, by name.

Ask for one by the model id `fault-NAME` (through the gateway `sim/fault-NAME`), which sets no parameter, or by the
top-level request field `sim`, which does not change the model: `"sim": {"fault": "cut", "after": 300}`. `fault` may
be a list: faults of different kinds add up (`["crlf", "usage_last", "cut"]`), and of several that replace the
whole answer the first counts. Parameters: `after` (bytes or frames, see the fault), `seconds`, `retry_after`
(seconds), `size` (bytes). An unknown fault or parameter is a 400 that names what there is.

Faults marked "stream" change nothing in an answer that is not streamed.

In place of the answer:
    refuse            the connection is reset (RST) before any answer
    hang              no answer, ever; the connection stays open until the client leaves
    hang_headers      a 200 head, then nothing
    status_NNN        an error in OpenAI's shape: 400 401 402 403 404 408 409 413 422 429 500 502 503 504 529.
                      429 has `Retry-After: 1`; `retry_after` sets it on any status
    error_in_200      200, and an error object as the body, or as the only frame of a stream
    html_200          200 with a web page
    redirect_302      a redirect to a port where nobody listens
    empty             200 without a body
Before the answer:
    info_1xx          `after` (100) times `103 Early Hints`, then the answer
    slow              the first token comes after `seconds` (30) instead of `first_token_s`
Text:
    model_quoted      the text quotes `"model":"..."`, `data: [DONE]`, usage and error objects
    long_line         one token of `size` (5,000,000) bytes
    split_utf8        multibyte text, each of its bytes written by itself
Chunks (stream):
    garbage           after `after` (3) frames one that is not JSON and not UTF-8, then the rest
    error_mid_stream  after `after` (3) frames an error frame, and a clean end without [DONE]
    no_done           no [DONE]
    no_finish         no chunk with a finish_reason
    double_finish     each finish chunk twice
JSON objects, streamed or not:
    usage_absent      no usage, although asked
    usage_zero        every count of usage 0
    usage_last        usage in the last finish chunk, not in a chunk of its own (stream)
    model_dated       the model is the one asked with `-2026-01-01` at its end
    model_space       JSON with spaces: `"model": "x"`
Framing (stream):
    crlf              lines end in CR LF
    cr                lines end in a bare CR
    comments          `: keep-alive` before every frame, the first too
    multi_line_data   the JSON of a frame in several data lines
    no_space          `data:{` without the space
    event_lines       event, id and retry lines in every frame
On the wire:
    cut               the connection ends (FIN) after `after` (600) bytes of body
    stall             after `after` (3) frames nothing more; not streamed: after half the body
    bytewise          each byte of the body written by itself
    coalesced         the whole body in one write
    gzip              gzip, although not asked
    close_idle        a good answer, after which the connection is closed unannounced
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gateway.config import Sim
from gateway.sim import damage, mangle
from gateway.sim.chat import Chunk, Json
from gateway.sim.damage import Scene
from gateway.sim.steps import Headers, Step

GZIP_HEADERS: Headers = (("content-encoding", "gzip"),)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: where it takes hold of the answer, and for the reader what it does."""

    description: str
    params: tuple[str, ...] = ()
    replaces: Callable[[Scene], Iterator[Step]] | None = None
    before: Callable[[Scene], Iterator[Step]] | None = None
    settings: Callable[[Scene], Sim] | None = None
    content: Callable[[Scene], tuple[str, ...]] | None = None
    chunks: Callable[[Iterator[Chunk], Scene], Iterator[Chunk]] | None = None
    body: Callable[[Json], Json] | None = None
    encode: Callable[[Json], bytes] | None = None
    frame: Callable[[bytes], bytes] | None = None
    wire: Callable[[Iterator[Step], Scene], Iterator[Step]] | None = None
    headers: Headers = ()
    closes: bool = False


def _status(code: int) -> Fault:
    return Fault(f"answers {code} in OpenAI's shape", params=("retry_after",), replaces=damage.status(code))


FAULTS: dict[str, Fault] = {
    "refuse": Fault("the connection is reset (RST) before any answer", replaces=damage.refuse),
    "hang": Fault("no answer, ever; the connection stays open until the client leaves", replaces=damage.hang),
    "hang_headers": Fault("a 200 head, then nothing", replaces=damage.hang_headers),
    **{f"status_{code}": _status(code) for code in damage.STATUS_CODES},
    "error_in_200": Fault(
        "200, and an error object as the body, or as the only frame of a stream", replaces=damage.error_in_200
    ),
    "html_200": Fault("200 with a web page", replaces=damage.html_200),
    "redirect_302": Fault("a redirect to a port where nobody listens", replaces=damage.redirect_302),
    "empty": Fault("200 without a body", replaces=damage.empty),
    "info_1xx": Fault(
        "`after` (100) times `103 Early Hints`, then the answer", params=("after",), before=damage.info_1xx
    ),
    "slow": Fault(
        "the first token comes after `seconds` (30) instead of `first_token_s`",
        params=("seconds",),
        settings=damage.slow,
    ),
    "model_quoted": Fault(
        'the text quotes `"model":"..."`, `data: [DONE]`, usage and error objects', content=damage.quoted
    ),
    "long_line": Fault("one token of `size` (5,000,000) bytes", params=("size",), content=damage.long_line),
    "split_utf8": Fault(
        "multibyte text, each of its bytes written by itself", content=damage.multibyte, wire=mangle.split_utf8
    ),
    "garbage": Fault(
        "after `after` (3) frames one that is not JSON and not UTF-8, then the rest",
        params=("after",),
        chunks=mangle.garbage,
    ),
    "error_mid_stream": Fault(
        "after `after` (3) frames an error frame, and a clean end without [DONE]",
        params=("after",),
        chunks=mangle.error_mid_stream,
    ),
    "no_done": Fault("no [DONE]", chunks=mangle.no_done),
    "no_finish": Fault("no chunk with a finish_reason", chunks=mangle.no_finish),
    "double_finish": Fault("each finish chunk twice", chunks=mangle.double_finish),
    "usage_absent": Fault("no usage, although asked", chunks=mangle.usage_absent, body=mangle.without_usage),
    "usage_zero": Fault("every count of usage 0", body=mangle.zero_usage),
    "usage_last": Fault("usage in the last finish chunk, not in a chunk of its own (stream)", chunks=mangle.usage_last),
    "model_dated": Fault("the model is the one asked with `-2026-01-01` at its end", body=mangle.dated),
    "model_space": Fault('JSON with spaces: `"model": "x"`', encode=mangle.spaced),
    "crlf": Fault("lines end in CR LF", frame=mangle.crlf),
    "cr": Fault("lines end in a bare CR", frame=mangle.cr),
    "comments": Fault("`: keep-alive` before every frame, the first too", frame=mangle.comments),
    "multi_line_data": Fault(
        "the JSON of a frame in several data lines", encode=mangle.indented, frame=mangle.multi_line_data
    ),
    "no_space": Fault("`data:{` without the space", frame=mangle.no_space),
    "event_lines": Fault("event, id and retry lines in every frame", frame=mangle.event_lines),
    "cut": Fault("the connection ends (FIN) after `after` (600) bytes of body", params=("after",), wire=mangle.cut),
    "stall": Fault(
        "after `after` (3) frames nothing more; not streamed: after half the body", params=("after",), wire=mangle.stall
    ),
    "bytewise": Fault("each byte of the body written by itself", wire=mangle.bytewise),
    "coalesced": Fault("the whole body in one write", wire=mangle.coalesced),
    "gzip": Fault("gzip, although not asked", wire=mangle.gzipped, headers=GZIP_HEADERS),
    "close_idle": Fault("a good answer, after which the connection is closed unannounced", closes=True),
}
