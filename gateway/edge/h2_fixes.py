"""Hypercorn's HTTP/2 protocol, made to survive its clients.

Place in the path: between the connection's reader and writer (`TCPServer`) and one `GuardedHTTPStream` per request.
Three kinds of task meet here without locks, because every state change is synchronous: the reader (`handle`), the
writer (`send_task`) and the apps (`stream_send`).

Invariants:
- A frame for a stream that is unknown or has ended changes nothing but windows, which are given back.
- The reader never waits for an app. An app waits for its client only, and at most `config.send_stall_s`.
- At most `config.h2_max_concurrent_streams` apps run per connection; a reset stream counts until its app has left.
- A response ends in END_STREAM only if the app finished it; otherwise in RST_STREAM(INTERNAL_ERROR).
- No push, no websocket, no CONNECT, no upgrade; no stream sees a priority.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import ClassVar

import h2.events
import trio
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.events import Body, EndBody, InformationalResponse, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.typing import AppWrapper, ConnectionState, TaskGroup, WorkerContext
from hypercorn.utils import filter_pseudo_headers
from priority.priority import DeadlockError

from gateway.edge.asgi_stream import Address, GuardedHTTPStream, StreamAborted, StreamSurroundings
from gateway.edge.h2_buffers import BufferStalledError, GuardedStreamBuffer, RoundRobin
from gateway.edge.h2_connection import GuardedH2Connection, stall_s_of
from gateway.edge.h2_head import Refusal, read_head
from gateway.edge.h2_limits import ResetWatch
from gateway.edge.inbox import Inbox
from gateway.edge.own_answers import OwnAnswers

# One DATA frame, whatever larger the client allows: a sibling waits for at most one of them (RFC 9113's default).
FRAME_BYTES_MAX = 16_384

# How much of a body is read and dropped after its answer, so that a client which sends first and reads later sees
# the answer. Past it the stream is reset with NO_ERROR (RFC 9113 section 8.1).
DISCARD_BYTES_MAX = 8_388_608


class GuardedH2Protocol(H2Protocol):
    """One HTTP/2 connection."""

    answers: ClassVar[OwnAnswers] = OwnAnswers()
    connection: GuardedH2Connection

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        task_group: TaskGroup,
        connection_state: ConnectionState,
        ssl: bool,  # noqa: FBT001 - Hypercorn's signature
        client: Address,
        server: Address,
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        super().__init__(app, config, context, task_group, connection_state, ssl, client, server, send)
        self.connection = GuardedH2Connection(config.h2_max_concurrent_streams, config.h2_max_header_list_size)
        self.priority = RoundRobin()
        self.streams: dict[int, GuardedHTTPStream] = {}  # type: ignore[assignment]
        self.stream_buffers: dict[int, GuardedStreamBuffer] = {}  # type: ignore[assignment]
        self._around = StreamSurroundings(app, config, context, task_group, ssl, client, server, self.answers)
        self._apps_running = 0
        self._discarded_bytes: dict[int, int] = {}
        self._draining = False
        self._resets = ResetWatch()

    async def initiate(
        self,
        headers: list[tuple[bytes, bytes]] | None = None,  # noqa: ARG002 - of an upgrade, which is never accepted
        settings: bytes | None = None,  # noqa: ARG002
    ) -> None:
        """Send our settings and start the writer."""
        self.connection.initiate_connection()
        self.connection.open_window()
        await self._flush()
        self.task_group.spawn(self.send_task)

    async def handle(self, event: Event) -> None:
        """Take bytes from the reader, or the end of the connection, which frees every app that waits to send."""
        if isinstance(event, Closed):
            for stream_id in list(self.stream_buffers):
                await self._drop_buffer(stream_id)
        elif self.closed:
            return
        await super().handle(event)

    async def send_task(self) -> None:
        """Send what there is to send, stream by stream, until the connection ends."""
        while not self.closed:
            try:
                stream_id = next(self.priority)
            except DeadlockError:
                await self.has_data.wait()
                await self.has_data.clear()
                await self._flush()
            else:
                await self._send_data(stream_id)

    async def stream_send(self, event: StreamEvent) -> None:
        """Take one event of a stream; may wait for the client's window."""
        stream_id = event.stream_id
        try:
            if isinstance(event, StreamAborted):
                await self._abort(stream_id)
            elif isinstance(event, StreamClosed):
                await self._end_stream(stream_id)
            elif isinstance(event, (Response, InformationalResponse)):
                await self._send_head(event)
            elif not isinstance(event, Request):
                await super().stream_send(event)
        except BufferStalledError:
            self.connection.refuse(stream_id, ErrorCodes.CANCEL)
            await self._forget(stream_id)

    async def _send_head(self, event: Response | InformationalResponse) -> None:
        status = (b":status", b"%d" % event.status_code)
        headers = [status, *event.headers, *self.config.response_headers("h2")]
        try:
            self.connection.send_headers(event.stream_id, headers)
        except ProtocolError:
            # Either the stream has ended, or the app's header fields are illegal: then no answer can follow.
            self.connection.refuse(event.stream_id, ErrorCodes.INTERNAL_ERROR)
            await self._forget(event.stream_id)
        await self._flush()

    async def _abort(self, stream_id: int) -> None:
        """Send what the app produced, then reset."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None:
            buffer.aborted = True
            buffer.set_complete()
            self.priority.unblock(stream_id)
            await self.has_data.set()
            await buffer.drain()
        await self._end_stream(stream_id)

    async def _end_stream(self, stream_id: int) -> None:
        await self._close_stream(stream_id)
        if self.idle and self.context.terminated.is_set():
            self.connection.close_connection()
            await self._flush()
        await self.send(Updated(idle=self.idle))

    async def _close_stream(self, stream_id: int) -> None:
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            await stream.handle(StreamClosed(stream_id=stream_id))
            self.connection.credit(stream_id, stream.inbox.discard())
            await self.has_data.set()

    async def _drop_buffer(self, stream_id: int) -> None:
        self.priority.remove_stream(stream_id)
        buffer = self.stream_buffers.pop(stream_id, None)
        if buffer is not None:
            await buffer.close()

    async def _forget(self, stream_id: int) -> None:
        """Drop a stream that was reset, by whomever, and tell its app."""
        await self._drop_buffer(stream_id)
        self._discarded_bytes.pop(stream_id, None)
        await self._close_stream(stream_id)
        await self.send(Updated(idle=self.idle))

    async def _send_data(self, stream_id: int) -> None:
        buffer = self.stream_buffers.get(stream_id)
        if buffer is None:
            self.priority.remove_stream(stream_id)
            return
        try:
            await self._send_frame(stream_id, buffer)
        except ProtocolError:
            # The stream or the connection has ended meanwhile.
            await self._drop_buffer(stream_id)
        await self._flush()

    async def _send_frame(self, stream_id: int, buffer: GuardedStreamBuffer) -> None:
        connection = self.connection
        window_bytes = connection.local_flow_control_window(stream_id)
        data = await buffer.pop(max(0, min(window_bytes, connection.max_outbound_frame_size, FRAME_BYTES_MAX)))
        if not data and not buffer.complete:
            self.priority.block(stream_id)
            return
        ends = buffer.complete and not buffer.aborted
        if data or ends:
            connection.send_data(stream_id, data, end_stream=ends)
        if len(data) < window_bytes:
            # A whole frame may bring one WINDOW_UPDATE for the stream and one for the connection. A frame that
            # the client's window cut short earns none, or one-byte windows would pay for themselves.
            connection.budget.earn(2)
        if buffer.complete:
            if ends:
                self._resets.completed()
            else:
                connection.refuse(stream_id, ErrorCodes.INTERNAL_ERROR)
            await self._drop_buffer(stream_id)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        stillborn = {event.stream_id for event in events if isinstance(event, h2.events.StreamReset)}
        for event in events:
            if self.closed:
                return
            if isinstance(event, h2.events.RequestReceived):
                await self._request(event, stillborn)
            else:
                await self._handle_event(event)
        await self._flush()

    async def _handle_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.DataReceived():
                await self._data(event)
            case h2.events.StreamEnded():
                self._discarded_bytes.pop(event.stream_id, None)
                stream = self.streams.get(event.stream_id)
                if stream is not None:
                    await stream.handle(EndBody(stream_id=event.stream_id))
            case h2.events.StreamReset():
                await self._stream_reset(event.stream_id)
            case h2.events.WindowUpdated():
                await self._window_updated(event.stream_id)
            case h2.events.RemoteSettingsChanged():
                if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
                    await self._window_updated(None)
            case h2.events.ConnectionTerminated():
                await self.send(Closed())

    async def _request(self, event: h2.events.RequestReceived, stillborn: set[int]) -> None:
        stream_id = event.stream_id
        if stream_id in stillborn:
            # Its reset came in the same read; starting an app for it is what rapid reset lives on.
            await self._count_reset()
        elif self.context.terminated.is_set():
            self._drain()
            self.connection.refuse(stream_id, ErrorCodes.REFUSED_STREAM)
        elif self._apps_running >= self.config.h2_max_concurrent_streams:
            # Go's rule: a reset stream runs until its handler has returned.
            self.connection.refuse(stream_id, ErrorCodes.REFUSED_STREAM)
            if not self.connection.spend(1):
                await self._calm()
        else:
            await self._create_stream(event)

    def _drain(self) -> None:
        if not self._draining:
            self._draining = True
            self.connection.announce_drain()

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        stream_id = request.stream_id
        head = read_head(list(request.headers))
        if isinstance(head, Refusal):
            await self._refuse(stream_id, head)
            return
        self._open_buffer(stream_id)
        inbox = Inbox(pause_bytes=None, taken=partial(self._taken, stream_id))
        stream = GuardedHTTPStream(self._around, self.stream_send, stream_id, inbox, self._app_left)
        self.streams[stream_id] = stream
        self._apps_running += 1
        await self.send(Updated(idle=False))
        await stream.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(list(request.headers)),
                http_version="2",
                method=head.method,
                raw_path=head.raw_path,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()

    def _open_buffer(self, stream_id: int) -> GuardedStreamBuffer:
        buffer = GuardedStreamBuffer(self.context.event_class, stall_s_of(self.config))
        self.stream_buffers[stream_id] = buffer
        self.priority.insert_stream(stream_id)
        return buffer

    def _app_left(self) -> None:
        self._apps_running -= 1

    async def _taken(self, stream_id: int, count_bytes: int) -> None:
        """Give the window back as the app takes its body; the writer sends it."""
        if stream_id in self.streams:
            self.connection.credit(stream_id, count_bytes)
            await self.has_data.set()

    async def _refuse(self, stream_id: int, refusal: Refusal) -> None:
        """Answer a head that opens no stream, without an app and without waiting for the client to read it."""
        if refusal.status is None:
            self.connection.refuse(stream_id, ErrorCodes.PROTOCOL_ERROR)
            await self._count_reset()
            return
        answer = self.answers.answer(refusal.status)
        buffer = self._open_buffer(stream_id)
        await self._send_head(Response(stream_id=stream_id, headers=answer.headers, status_code=answer.status))
        if stream_id in self.stream_buffers:
            await buffer.push(answer.body)
            buffer.set_complete()
            self.priority.unblock(stream_id)
            await self.has_data.set()

    async def _data(self, event: h2.events.DataReceived) -> None:
        stream_id, flow_bytes = event.stream_id, event.flow_controlled_length or 0
        data = event.data or b""
        stream = self.streams.get(stream_id)
        if stream is None:
            self._discard(stream_id, flow_bytes)
            return
        self.connection.credit(stream_id, flow_bytes - len(data))
        await stream.handle(Body(stream_id=stream_id, data=data))

    def _discard(self, stream_id: int, flow_bytes: int) -> None:
        """Drop what comes after the answer, up to a bound, giving the window back."""
        self.connection.credit(stream_id, flow_bytes)
        discarded_bytes = self._discarded_bytes.get(stream_id, 0) + flow_bytes
        self._discarded_bytes[stream_id] = discarded_bytes
        if discarded_bytes > DISCARD_BYTES_MAX:
            del self._discarded_bytes[stream_id]
            self.connection.refuse(stream_id, ErrorCodes.NO_ERROR)

    async def _stream_reset(self, stream_id: int) -> None:
        """A stream was reset by the client, or by h2 for the client's mistake, which counts the same."""
        unfinished = stream_id in self.streams or stream_id in self.stream_buffers
        await self._forget(stream_id)
        if unfinished:
            await self._count_reset()

    async def _count_reset(self) -> None:
        if self._resets.was_reset(trio.current_time()):
            await self._calm()

    async def _calm(self) -> None:
        self.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
        await self._flush()
        await self.send(Closed())

    async def _priority_updated(self, event: h2.events.PriorityUpdated) -> None:
        """Do nothing: all streams are equal."""

    async def _create_server_push(self, stream_id: int, path: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Do nothing: clients have dropped push."""
