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
from h2.settings import SettingCodes
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response
from hypercorn.typing import AppWrapper, ConnectionState, TaskGroup, WorkerContext
from hypercorn.utils import filter_pseudo_headers

from gateway.edge.asgi_stream import Address, GuardedHTTPStream, StreamSurroundings
from gateway.edge.h2_head import Refusal, read_head
from gateway.edge.h2_writer import H2Writer
from gateway.edge.inbox import Inbox
from gateway.edge.own_answers import OwnAnswers

# How much of a body is read and dropped after its answer, so that a client which sends first and reads later sees
# the answer. Past it the stream is reset with NO_ERROR (RFC 9113 section 8.1).
DISCARD_BYTES_MAX = 8_388_608


class GuardedH2Protocol(H2Writer):
    """One HTTP/2 connection."""

    answers: ClassVar[OwnAnswers] = OwnAnswers()

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
        self._around = StreamSurroundings(app, config, context, task_group, ssl, client, server, self.answers)
        self._apps_running = 0
        self._draining = False

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
        self._discarded_bytes.pop(stream_id, None)
        if stream_id in self.streams or stream_id in self.stream_buffers:
            await self._forget(stream_id)
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
