"""The HTTP/1.1 server of the simulated provider: a loopback listener, one task a connection.

Invariants: no exception of a connection leaves its task; a head is at most `HEAD_BYTES_MAX`, a body `BODY_BYTES_MAX`;
every wait has a deadline except a fault that is meant to hang, which ends when the client leaves. While it paces an
answer the server reads on, so that a client that leaves (end of file, half-close included) ends its answer at once.
"""

from __future__ import annotations

import logging
import secrets
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import h11
import orjson
import trio

from gateway.config import Sim
from gateway.sim.request import ApiError
from gateway.sim.script import MODELS, Occasion, chat_script, error_reply
from gateway.sim.steps import Close, Hang, Headers, Send, Step, Wait, whole

HEAD_BYTES_MAX = 64 * 1024  # OpenAI documents 64 KiB of headers.
BODY_BYTES_MAX = 64 * 1024 * 1024  # Twice the gateway's own default, which so meets its own limit first.
PIPELINED_BYTES_MAX = 1024 * 1024
READ_BYTES = 64 * 1024
KEEP_ALIVE_S = 75.0  # Longer than the gateway's pool keeps a connection idle.
REQUEST_S = 60.0
SEND_S = 60.0
LINGER_S = 1.0

logger = logging.getLogger("gateway.sim")


class ClientGoneError(Exception):
    """The client closed its side, or takes nothing any more."""


@dataclass(frozen=True, slots=True)
class Received:
    """One whole request."""

    method: str
    path: str
    body: bytes
    keep_alive: bool
    chunked: bool


async def serve_sim(
    settings: Sim, *, port: int = 0, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serves on 127.0.0.1 until cancelled; reports its base URL, `http://127.0.0.1:PORT/v1`, when it listens.

    Raises:
        OSError: the port is taken.
    """

    async def handle(stream: trio.SocketStream) -> None:
        await serve_connection(stream, settings)

    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    bound = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handle, listeners)
        task_status.started(f"http://127.0.0.1:{bound}/v1")


async def serve_connection(stream: trio.abc.Stream, settings: Sim) -> None:
    """Answers requests on `stream` until either side ends it, and closes it. Never raises but for cancellation."""
    connection = _Connection(stream, settings)
    try:
        async with stream:
            while await connection.exchange():
                pass
    except (ClientGoneError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    except Exception as exc:  # noqa: BLE001 - one bad connection must not end the server that its task belongs to.
        # Only the type: a message could quote a prompt.
        logger.error("simulated provider: a connection failed with %s", type(exc).__name__)


class _Connection:
    """One client connection: what was received and not yet read, and the answer under way."""

    def __init__(self, stream: trio.abc.Stream, settings: Sim) -> None:
        self._stream = stream
        self._settings = settings
        self._unread = b""

    async def exchange(self) -> bool:
        """One request and its answer; whether the connection is still good for another."""
        try:
            request = await self._receive()
        except ApiError as error:
            await self._send(error_reply(error, (("connection", "close"),)))
            await self._linger()
            return False
        if request is None:
            return False
        finished = await self._perform(self._answer(request))
        return finished and request.keep_alive

    async def _receive(self) -> Received | None:
        """The next request, or None when the client is done or has been silent for too long.

        Raises:
            ApiError: 400, 413 or 431; the connection cannot be used further.
        """
        if not self._unread:
            with trio.move_on_after(KEEP_ALIVE_S):
                self._unread = bytes(await self._stream.receive_some(READ_BYTES))
        if not self._unread:
            return None
        with trio.move_on_after(REQUEST_S):
            return await self._read_request()
        raise ApiError(408, f"The request did not arrive within {REQUEST_S:g} s.", code="request_timeout")

    async def _read_request(self) -> Received:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        parser.receive_data(self._unread)
        self._unread = b""
        request: h11.Request | None = None
        parts: list[bytes] = []
        size = 0
        invited = False
        while True:
            event = _next_event(parser)
            if event is h11.NEED_DATA:
                if parser.they_are_waiting_for_100_continue and not invited:
                    await self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
                    invited = True
                data = await self._stream.receive_some(READ_BYTES)
                if not data:
                    raise ClientGoneError
                parser.receive_data(bytes(data))
            elif isinstance(event, h11.Request):
                request = event
                if not event.http_version.startswith(b"1."):
                    raise ApiError(400, f"HTTP/{event.http_version.decode()} is not spoken here; use HTTP/1.1.")
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                size += len(event.data)
                if size > BODY_BYTES_MAX:
                    raise ApiError(413, f"The body is above {BODY_BYTES_MAX} bytes.", code="request_too_large")
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                self._unread = parser.trailing_data[0]
                return _received(request, b"".join(parts), keep_alive=parser.their_state is h11.DONE)
            else:
                raise ClientGoneError

    def _answer(self, request: Received) -> Iterator[Step]:
        headers: Headers = (("x-request-id", f"req_{secrets.token_hex(16)}"), ("openai-version", "2020-10-01"))
        if not request.keep_alive:
            headers += (("connection", "close"),)
        if request.path == "/v1/chat/completions" and request.method == "POST":
            completion_id = f"chatcmpl-{secrets.token_hex(14)}"
            occasion = Occasion(completion_id, int(time.time()), headers, request.chunked)
            return chat_script(request.body, self._settings, occasion)
        return iter([Send(_other(request, headers))])

    async def _perform(self, steps: Iterator[Step]) -> bool:
        """Does the steps in turn; false when one of them ended the connection."""
        for step in steps:
            match step:
                case Send(data):
                    if data:
                        await self._send(data)
                case Wait(seconds):
                    await self._wait(seconds)
                case Hang():
                    await self._wait(float("inf"))
                case Close(reset):
                    if reset and isinstance(self._stream, trio.SocketStream):
                        # A linger of 0 s makes close() send RST.
                        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return False
        return True

    async def _wait(self, seconds: float) -> None:
        """Passes the time with reading, which notices the client leaving; keeps what a pipelining client sends."""
        with trio.move_on_after(seconds):
            while len(self._unread) < PIPELINED_BYTES_MAX:
                data = await self._stream.receive_some(READ_BYTES)
                if not data:
                    raise ClientGoneError
                self._unread += data
            raise ClientGoneError

    async def _send(self, data: bytes) -> None:
        with trio.move_on_after(SEND_S):
            await self._stream.send_all(data)
            return
        raise ClientGoneError

    async def _linger(self) -> None:
        """Reads on for a while: closing over unread bytes would reset the connection (RFC 9112, 9.6)."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        with trio.move_on_after(LINGER_S):
            while await self._stream.receive_some(READ_BYTES):
                pass


def _next_event(parser: h11.Connection) -> object:
    try:
        return parser.next_event()
    except h11.RemoteProtocolError as exc:
        code = 431 if exc.error_status_hint == 431 else 400
        raise ApiError(code, f"The request is not HTTP/1.1: {exc}.") from exc


def _received(request: h11.Request, body: bytes, *, keep_alive: bool) -> Received:
    path = request.target.decode("latin-1").partition("?")[0]
    modern = request.http_version >= b"1.1"
    return Received(request.method.decode("latin-1"), path, body, keep_alive and modern, modern)


def _other(request: Received, headers: Headers) -> bytes:
    """The answer to everything that is not a chat completion."""
    path, _, model = request.path.partition("/models")
    if request.path == "/v1/chat/completions":
        error = ApiError(405, f"Not allowed to {request.method} on {request.path}; use POST.")
        return error_reply(error, (*headers, ("allow", "POST")))
    if path != "/v1" or (model and not model.startswith("/")):
        return error_reply(ApiError(404, f"Unknown request URL: {request.method} {request.path}."), headers)
    if request.method != "GET":
        error = ApiError(405, f"Not allowed to {request.method} on {request.path}; use GET.")
        return error_reply(error, (*headers, ("allow", "GET")))
    if not model:
        listed = {"object": "list", "data": [_model(name) for name in MODELS]}
        return whole(200, "application/json", orjson.dumps(listed), headers)
    if model[1:] not in MODELS:
        error = ApiError(404, f"The model `{model[1:]}` does not exist.", param="model", code="model_not_found")
        return error_reply(error, headers)
    return whole(200, "application/json", orjson.dumps(_model(model[1:])), headers)


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "sim"}
