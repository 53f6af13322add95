"""Puts our protocols into Hypercorn. The one place that replaces a name of another package.

Only two names are replaced (`SEAMS`); the rest is subclassing, and `RELIED_ON` lists what the subclasses override
or call. `tests/test_hypercorn_seams.py` holds both against the pinned version.
"""

from __future__ import annotations

from importlib import import_module

from gateway.edge.h1_fixes import GuardedH11Protocol
from gateway.edge.h2_fixes import GuardedH2Protocol
from gateway.edge.own_answers import OwnAnswers, RenderError, plain_error

SEAMS: dict[tuple[str, str], type] = {
    ("hypercorn.protocol", "H2Protocol"): GuardedH2Protocol,
    ("hypercorn.protocol", "H11Protocol"): GuardedH11Protocol,
}
"""(module, attribute) -> what `install` puts there. `ProtocolWrapper` looks both up when a connection begins."""

RELIED_ON: dict[str, dict[str, tuple[str, ...]]] = {
    "hypercorn.protocol.h2:H2Protocol": {
        "initiate": ("headers", "settings"),
        "handle": ("event",),
        "send_task": (),
        "stream_send": ("event",),
        "_send_data": ("stream_id",),
        "_handle_events": ("events",),
        "_flush": (),
        "_window_updated": ("stream_id",),
        "_priority_updated": ("event",),
        "_create_stream": ("request",),
        "_create_server_push": ("stream_id", "path", "headers"),
        "_close_stream": ("stream_id",),
    },
    "hypercorn.protocol.h2:StreamBuffer": {
        "push": ("data",),
        "pop": ("max_length",),
        "drain": (),
        "set_complete": (),
        "close": (),
    },
    "hypercorn.protocol.h11:H11Protocol": {
        "handle": ("event",),
        "stream_send": ("event",),
        "_handle_events": (),
        "_check_protocol": ("event",),
        "_create_stream": ("request",),
        "_send_h11_event": ("event",),
        "_send_error_response": ("status_code",),
        "_close_stream": (),
        "_maybe_recycle": (),
    },
    "hypercorn.protocol.http_stream:HTTPStream": {
        "handle": ("event",),
        "app_send": ("message",),
        "_send_error_response": ("status_code",),
    },
    "hypercorn.trio.tcp_server:TCPServer": {
        "run": (),
        "protocol_send": ("event",),
        "_read_data": (),
        "_close": (),
        "_idle_timeout": (),
        "_initiate_server_close": (),
    },
    "h2.connection:H2Connection": {
        "_receive_frame": ("frame",),
        "_receive_headers_frame": ("frame",),
        "_receive_data_frame": ("frame",),
        "_prepare_for_sending": ("frames",),
    },
}
"""`module:class` -> method -> its parameters after self, as the pinned versions have them."""


def install(*, render_error: RenderError = plain_error) -> None:
    """Replace the names of `SEAMS`; connections made afterwards use them. May be called again, the last call counts.

    `render_error(status, request_id)` gives the JSON body of the answers that Hypercorn itself makes.
    """
    answers = OwnAnswers(render_error)
    GuardedH2Protocol.answers = answers
    GuardedH11Protocol.answers = answers
    for (module, attribute), replacement in SEAMS.items():
        setattr(import_module(module), attribute, replacement)
