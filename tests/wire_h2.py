"""An HTTP/2 client for tests, one request a connection; h2 neither checks nor changes what it sends."""

from __future__ import annotations

import h2.connection
import h2.events
import trio
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from tests.wire import HOST, Answer, Ask, Closed, Headers, read, write

STREAM = 1
WINDOW_BYTES = 16 * 1024 * 1024


def pseudo_headers(ask: Ask, scheme: str) -> Headers:
    """The head of a request; names go in lower case, as the protocol wants them."""
    headers = [(b":method", ask.method.encode("latin-1")), (b":scheme", scheme.encode())]
    headers += [(b":authority", HOST), (b":path", ask.path.encode("latin-1"))]
    headers += [(name.lower(), value) for name, value in ask.headers]
    if ask.body is not None:
        headers.append((b"content-length", b"%d" % len(ask.body)))
    return headers


class H2Client:
    """One connection with at most one stream. The caller closes the socket."""

    def __init__(self, stream: trio.abc.Stream, scheme: str = "http") -> None:
        self.stream = stream
        self._scheme = scheme
        self._h2 = h2.connection.H2Connection(
            H2Configuration(header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False)
        )
        self._unsent: list[bytes] = []
        self._answer: Answer | None = None
        self._over = False

    async def ask(self, ask: Ask) -> Answer:
        """Send a request and read its answer to its end.

        Raises:
            Closed: The connection ended before the answer began.
        """
        await self.send(ask)
        while not self._over:
            await self._step()
        if self._answer is None:
            raise Closed
        return self._answer

    async def send(self, ask: Ask) -> None:
        """Open the connection and send the request, as far as the window goes."""
        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_BYTES})
        self._h2.increment_flow_control_window(WINDOW_BYTES)
        self._unsent = list(ask.pieces or ((ask.body,) if ask.body else ()))
        self._h2.send_headers(STREAM, pseudo_headers(ask, self._scheme), end_stream=not self._unsent)
        self._send_body()
        await self._flush()

    async def content(self, least: int) -> Answer:
        """Read until at least so many body bytes have come."""
        while not self._over and (self._answer is None or len(self._answer.body) < least):
            await self._step()
        if self._answer is None:
            raise Closed
        return self._answer

    async def reset(self) -> None:
        """Leave: RST_STREAM(CANCEL), the connection stays open."""
        self._h2.reset_stream(STREAM, ErrorCodes.CANCEL)
        await self._flush()

    async def _step(self) -> None:
        data = await read(self.stream)
        if not data:
            self._end("cut")
            return
        for event in self._h2.receive_data(data):
            self._take(event)
        self._send_body()
        await self._flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.InformationalResponseReceived():
                assert self._answer is None
            case h2.events.ResponseReceived():
                head = [(bytes(name), bytes(value)) for name, value in event.headers]
                self._answer = Answer(int(dict(head)[b":status"]), [field for field in head if field[0][:1] != b":"])
            case h2.events.DataReceived():
                assert self._answer is not None
                self._answer.body += event.data or b""
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, STREAM)
            case h2.events.StreamEnded():
                self._over = True
            case h2.events.StreamReset():
                self._end(f"reset {event.error_code}")
            case h2.events.ConnectionTerminated():
                self._end(f"goaway {event.error_code}")

    def _end(self, how: str) -> None:
        if not self._over and self._answer is not None:
            self._answer.end = how
        self._over = True

    def _send_body(self) -> None:
        while self._unsent and not self._over:
            piece = self._unsent[0]
            room = min(self._h2.local_flow_control_window(STREAM), self._h2.max_outbound_frame_size)
            if piece and room <= 0:
                return
            sent, left = piece[:room], piece[room:]
            self._unsent[:1] = [left] if left else []
            self._h2.send_data(STREAM, sent, end_stream=not self._unsent)

    async def _flush(self) -> None:
        await write(self.stream, self._h2.data_to_send())
