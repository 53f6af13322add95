"""The sending half of the HTTP/2 protocol: the writer task, and the apps that wait for their client.

One buffer per stream, one frame per turn. Every way in which a stream can end passes here, and each of them frees
the app: END_STREAM when the app finished, RST_STREAM(INTERNAL_ERROR) after what an unfinished response had,
RST_STREAM(CANCEL) for a client that stopped reading, and the end of the connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import InformationalResponse, Request, Response, StreamClosed, Trailers
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.typing import AppWrapper, ConnectionState, TaskGroup, WorkerContext
from priority.priority import DeadlockError

from gateway.edge.asgi_stream import Address, GuardedHTTPStream, StreamAborted
from gateway.edge.h2_buffers import BufferStalledError, GuardedStreamBuffer, RoundRobin
from gateway.edge.h2_connection import GuardedH2Connection, stall_s_of
from gateway.edge.h2_limits import ResetWatch

# One DATA frame, whatever larger the client allows: a sibling waits for at most one of them (RFC 9113's default).
FRAME_BYTES_MAX = 16_384


class H2Writer(H2Protocol):
    """What one HTTP/2 connection sends."""

    connection: GuardedH2Connection

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        task_group: TaskGroup,
        connection_state: ConnectionState,
        ssl: bool,
        client: Address,
        server: Address,
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        super().__init__(app, config, context, task_group, connection_state, ssl, client, server, send)
        self.connection = GuardedH2Connection(config.h2_max_concurrent_streams, config.h2_max_header_list_size)
        self.priority = RoundRobin()
        self.streams: dict[int, GuardedHTTPStream] = {}  # type: ignore[assignment]
        self.stream_buffers: dict[int, GuardedStreamBuffer] = {}  # type: ignore[assignment]
        self._discarded_bytes: dict[int, int] = {}
        self._resets = ResetWatch()

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
            if isinstance(event, Trailers):
                await self._drop_buffer(stream_id)
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

    def _open_buffer(self, stream_id: int) -> GuardedStreamBuffer:
        buffer = GuardedStreamBuffer(self.context.event_class, stall_s_of(self.config))
        self.stream_buffers[stream_id] = buffer
        self.priority.insert_stream(stream_id)
        return buffer
