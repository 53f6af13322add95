"""Hypercorn's HTTP/1.1 protocol, for the connections that the express lane hands on.

What differs from the stock one:
- Nothing upgrades: a websocket or h2c request is answered as the plain request it also is (RFC 9110 section 7.8).
- `100 Continue` is sent when the app first waits for a body, not before: a refusal comes without it.
- Parse errors are answered in JSON.
- The end of the connection always frees the reader; the stock one waits for ever behind a pipelined request.
- A body waits in an `Inbox` of bounded size, and an app that has gone frees the reader.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

import h11
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.events import Body, EndBody, Request
from hypercorn.protocol.h11 import STREAM_ID, H2ProtocolAssumedError, H11Protocol
from hypercorn.typing import AppWrapper, ConnectionState, H11SendableEvent, TaskGroup, WorkerContext

from gateway.edge.asgi_stream import Address, GuardedHTTPStream, StreamSurroundings
from gateway.edge.inbox import Inbox
from gateway.edge.own_answers import OwnAnswers

# What one connection may hold of a body that its app has not taken; equals a stream's window over HTTP/2.
BODY_PAUSE_BYTES = 65_536


class GuardedH11Protocol(H11Protocol):
    """One HTTP/1.1 connection."""

    answers: ClassVar[OwnAnswers] = OwnAnswers()
    connection: h11.Connection

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
        self.closed = False
        self._around = StreamSurroundings(app, config, context, task_group, ssl, client, server, self.answers)

    async def handle(self, event: Event) -> None:
        """Take bytes from the reader, or the end of the connection."""
        if isinstance(event, Closed):
            self.closed = True
            await super().handle(event)
            await self.can_read.set()
        elif not self.closed:
            await super().handle(event)

    async def _handle_events(self) -> None:
        while not self.closed:
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                    await self._send_error_response(error.error_status_hint)
                await self.send(Closed())
                return
            if event is h11.PAUSED:
                await self.can_read.clear()
                await self.can_read.wait()
            elif not await self._handle_h11_event(event):
                return

    async def _handle_h11_event(self, event: h11.Event | type[h11.NEED_DATA | h11.PAUSED]) -> bool:
        """Pass one event on; False when the reader must read again first."""
        if isinstance(event, h11.Request):
            await self.send(Updated(idle=False))
            await self._check_protocol(event)
            await self._create_stream(event)
            return True
        stream = self.stream
        if stream is None:
            return False
        if isinstance(event, h11.Data):
            await stream.handle(Body(stream_id=STREAM_ID, data=bytes(event.data)))
        elif isinstance(event, h11.EndOfMessage):
            await stream.handle(EndBody(stream_id=STREAM_ID))
        else:
            return False
        return True

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI" and event.target == b"*" and event.http_version == b"2.0":
            # HTTP/2 with prior knowledge. Its idle clock starts now: no request has opened a stream.
            await self.send(Updated(idle=True))
            raise H2ProtocolAssumedError(b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0])

    async def _create_stream(self, request: h11.Request) -> None:
        inbox = Inbox(pause_bytes=BODY_PAUSE_BYTES, wanted=self._send_continue)
        self.stream = GuardedHTTPStream(self._around, self.stream_send, STREAM_ID, inbox)
        raw = self.config.h11_pass_raw_headers
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=request.headers.raw_items() if raw else list(request.headers),
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def _send_continue(self) -> None:
        if self.connection.they_are_waiting_for_100_continue and not self.closed:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if self.connection.our_state is h11.ERROR:
            # An earlier answer broke its own framing; there is nothing left to say on this connection.
            await self.send(Closed())
            return
        await super()._send_h11_event(event)

    async def _send_error_response(self, status_code: int) -> None:
        answer = self.answers.answer(status_code)
        headers = [*answer.headers, (b"connection", b"close"), *self.config.response_headers("h11")]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=answer.body))
        await self._send_h11_event(h11.EndOfMessage())
