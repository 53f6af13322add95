"""One request and its ASGI app, for both protocols: Hypercorn's `HTTPStream` with its answers and ends made honest.

What differs from the stock stream:
- A response that breaks off (the app raised, or returned without its last message) is sent on as `StreamAborted`,
  not as a normal end: a client must be able to tell a cut answer from a whole one.
- The app's messages after the client went are dropped at a checkpoint, so that an app which never looks cannot hold
  the thread for ever.
- The body comes through an `Inbox`; the 404 and 500 of the server itself carry JSON.
- `left` is called when the app has really gone, which is what a limit of running handlers must count.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import time
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.protocol.events import Body, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
    TaskGroup,
    WorkerContext,
)
from hypercorn.utils import suppress_body

from gateway.edge.inbox import Inbox
from gateway.edge.own_answers import OwnAnswers

Address = tuple[str, int] | None


@dataclass(frozen=True)
class StreamAborted(StreamClosed):
    """The app ended before its response did."""


@dataclass(frozen=True, slots=True)
class StreamSurroundings:
    """What every stream of one connection shares; the first seven are Hypercorn's own."""

    app: AppWrapper
    config: Config
    context: WorkerContext
    task_group: TaskGroup
    ssl: bool
    client: Address
    server: Address
    answers: OwnAnswers


def nobody_counts() -> None:
    """The `left` of a protocol with one stream."""


class GuardedHTTPStream(HTTPStream):
    """One request on one connection. `left` is called once, as the app returns, raises or is cancelled."""

    def __init__(
        self,
        around: StreamSurroundings,
        send: Callable[[Event], Awaitable[None]],
        stream_id: int,
        inbox: Inbox,
        left: Callable[[], None] = nobody_counts,
    ) -> None:
        super().__init__(
            self._run_app,
            around.config,
            around.context,
            around.task_group,
            around.ssl,
            around.client,
            around.server,
            send,
            stream_id,
        )
        self.app_put = inbox.put
        self.inbox = inbox
        self._app = around.app
        self._answers = around.answers
        self._left = left

    async def handle(self, event: Event) -> None:
        """Take one event of the protocol; a refused host ends the stream here (the stock one stays open)."""
        if not isinstance(event, Request):
            await super().handle(event)
            return
        await super().handle(event)
        if self.closed:
            self._left()
            await self.send(StreamClosed(stream_id=self.stream_id))
        else:
            self.app_put = self.inbox.put

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """The app's ASGI send; None says that the app has gone."""
        if message is None:
            if not self.closed and self.state in (ASGIHTTPState.RESPONSE, ASGIHTTPState.TRAILERS):
                await self.send(StreamAborted(stream_id=self.stream_id))
                return
        elif self.closed:
            await trio.lowlevel.checkpoint()
            return
        await super().app_send(message)

    async def _run_app(
        self,
        scope: Scope,
        receive: ASGIReceiveCallable,  # noqa: ARG002 - Hypercorn's signature; the inbox replaces its channel
        send: ASGISendCallable,
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        if scope["type"] == "http":
            scope["extensions"].pop("http.response.push", None)
        try:
            await self._app(scope, self.inbox.receive, send, sync_spawn, call_soon)
        finally:
            self._left()

    async def _send_error_response(self, status_code: int) -> None:
        answer = self._answers.answer(status_code)
        headers = answer.headers
        if self.scope["http_version"] != "2":
            headers = [*headers, (b"connection", b"close")]
        await self.send(Response(stream_id=self.stream_id, headers=headers, status_code=status_code))
        if not suppress_body(self.scope["method"], status_code):
            await self.send(Body(stream_id=self.stream_id, data=answer.body))
        await self.send(EndBody(stream_id=self.stream_id))
        self.state = ASGIHTTPState.CLOSED
        await self.config.log.access(self.scope, {"status": status_code, "headers": []}, time() - self.start_time)
