"""h2's connection state machine, with one client mistake costing one stream and floods costing the connection.

h2 ends the whole connection for a malformed head, a body of another length than announced, or one stream too many.
RFC 9113 (sections 8.1.1, 5.1.2) calls all three stream errors, and behind a proxy the other streams are other
people's. Here each is answered with RST_STREAM. What breaks the shared HPACK state stays a connection error.

h2 already refuses, and the tests hold it to that: more than 64 CONTINUATION frames, decoded header lists past
`header_list_bytes_max`, frames past 16 KiB, window overflow, DATA past a window.

Overrides underscored methods of h2; `hypercorn_fixes.RELIED_ON` lists them.
"""

from __future__ import annotations

import math

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection, _decode_headers
from h2.errors import ErrorCodes
from h2.events import Event, StreamReset
from h2.exceptions import (
    DenialOfServiceError,
    InvalidBodyLengthError,
    NoSuchStreamError,
    ProtocolError,
    TooManyStreamsError,
)
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy
from hpack import HPACKError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
)

from gateway.edge.h2_limits import FrameBudget

# The largest window a peer gets for all its streams together: Envoy's edge guide (1 MiB beside 64 KiB per stream),
# so that one stream whose app does not read cannot hold its siblings' uploads.
CONNECTION_WINDOW_BYTES = 1_048_576

# Our dynamic table. A client may allow gigabytes; response headers with fresh ids would fill them.
ENCODER_TABLE_BYTES_MAX = 4_096

_KNOWN_SETTINGS = frozenset(int(code) for code in SettingCodes)


class GuardedH2Connection(H2Connection):
    """A server's h2 connection. Synchronous like its parent; reads Trio's clock."""

    # Each closed stream is remembered so that late frames are told from wrong ones. 65,536 of them are megabytes.
    MAX_CLOSED_STREAMS = 4_096

    def __init__(self, streams_max: int, header_list_bytes_max: int) -> None:
        super().__init__(config=H2Configuration(client_side=False, header_encoding=None))
        self.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: streams_max,
                SettingCodes.MAX_HEADER_LIST_SIZE: header_list_bytes_max,
            },
        )
        self.decoder.max_header_list_size = header_list_bytes_max
        self.budget = FrameBudget(trio.current_time())

    def open_window(self) -> None:
        """Raise the connection's receive window; call once, right after `initiate_connection`."""
        self.increment_flow_control_window(CONNECTION_WINDOW_BYTES - self.local_settings.initial_window_size)

    def credit(self, stream_id: int, count_bytes: int) -> None:
        """Give back the window of received bytes, to the connection and to the stream if it still is one."""
        if count_bytes <= 0:
            return
        try:
            self.acknowledge_received_data(count_bytes, stream_id)
        except ProtocolError:
            # The connection has ended, so its windows no longer matter.
            return

    def refuse(self, stream_id: int, error_code: ErrorCodes) -> None:
        """Reset a stream; one that has already ended is left alone."""
        try:
            self.reset_stream(stream_id, error_code)
        except ProtocolError:
            return

    def announce_drain(self) -> None:
        """Send GOAWAY(NO_ERROR) and go on serving. h2's own `close_connection` would silence the open streams."""
        self._prepare_for_sending([GoAwayFrame(0, last_stream_id=self.highest_inbound_stream_id)])

    def spend(self, count_frames: int) -> bool:
        """Charge the frame budget; False when the connection has overdrawn."""
        return self.budget.spend(count_frames, trio.current_time())

    def _receive_frame(self, frame: Frame) -> list[Event]:
        if isinstance(frame, SettingsFrame):
            frame.settings = _bounded(frame.settings)
        if _is_overhead(frame) and not self.spend(1):
            msg = "the connection's frames are mostly overhead; send fewer control frames and empty DATA frames"
            raise DenialOfServiceError(msg)
        return super()._receive_frame(frame)

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        try:
            return super()._receive_headers_frame(frame)
        except TooManyStreamsError:
            return self._refuse_unseen(frame)
        except (InvalidBodyLengthError, ProtocolError) as error:
            shared = isinstance(error.__cause__, HPACKError) or isinstance(error, NoSuchStreamError)
            ours = type(error) in (ProtocolError, InvalidBodyLengthError)
            if shared or not ours or frame.stream_id not in self.streams:
                raise
            return self._stream_error(frame.stream_id)

    def _receive_data_frame(self, frame: DataFrame) -> tuple[list[Frame], list[Event]]:
        try:
            return super()._receive_data_frame(frame)
        except InvalidBodyLengthError:
            self.credit(frame.stream_id, frame.flow_controlled_length)
            return self._stream_error(frame.stream_id)

    def _stream_error(self, stream_id: int) -> tuple[list[Frame], list[Event]]:
        """End a stream from any state; h2's own `reset_stream` refuses one that its first frame left idle."""
        self.streams.pop(stream_id, None)
        reset = StreamReset(stream_id=stream_id, error_code=ErrorCodes.PROTOCOL_ERROR, remote_reset=False)
        return [self._reset_frame(stream_id, ErrorCodes.PROTOCOL_ERROR)], [reset]

    def _reset_frame(self, stream_id: int, error_code: ErrorCodes) -> RstStreamFrame:
        """The frame that ends a stream h2 does not hold, whose late frames are then expected."""
        self._closed_streams[stream_id] = StreamClosedBy.SEND_RST_STREAM
        return RstStreamFrame(stream_id, error_code=error_code)

    def _refuse_unseen(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        """Refuse a stream past the limit, decoding its head so that HPACK stays in step."""
        stream_id = frame.stream_id
        if stream_id % 2 == 0 or stream_id <= self.highest_inbound_stream_id or not self.spend(1):
            msg = f"stream {stream_id} is past the limit of open streams, or its id is not a new odd one"
            raise DenialOfServiceError(msg)
        _decode_headers(self.decoder, frame.data)
        self.highest_inbound_stream_id = stream_id
        return [self._reset_frame(stream_id, ErrorCodes.REFUSED_STREAM)], []


def _bounded(settings: dict[int, int]) -> dict[int, int]:
    """The settings worth knowing. RFC 9113 section 6.5.2 ignores unknown ones; h2 would remember every one of them."""
    known = {code: value for code, value in settings.items() if code in _KNOWN_SETTINGS}
    if SettingCodes.HEADER_TABLE_SIZE in known:
        table_bytes = known[SettingCodes.HEADER_TABLE_SIZE]
        known[SettingCodes.HEADER_TABLE_SIZE] = min(table_bytes, ENCODER_TABLE_BYTES_MAX)
    return known


def _is_overhead(frame: Frame) -> bool:
    """Whether a frame makes work without carrying a request."""
    if isinstance(frame, DataFrame):
        return not frame.data and "END_STREAM" not in frame.flags
    return not isinstance(frame, (HeadersFrame, ContinuationFrame))


def stall_s_of(config: object) -> float:
    """`config.send_stall_s`: the longest a client may take nothing, in seconds; 30 when unset."""
    stall_s = getattr(config, "send_stall_s", 30.0)
    return float(stall_s) if stall_s is not None else math.inf
