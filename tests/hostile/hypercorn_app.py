"""The server that the hostile tests attack: Hypercorn on Trio with `install()`, in a process of its own.

Prints its port, serves until SIGTERM, and counts what must stay bounded. A fault that reaches the guard of a
connection is counted and logged, never fatal: the tests demand zero of them.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import trio
from hypercorn.config import Config
from hypercorn.trio import run as hypercorn_run
from hypercorn.trio import serve

from gateway.edge.bounded_send import BoundedSendMixin, listen_options
from gateway.edge.hypercorn_fixes import install

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Scope = dict[str, Any]

FLOOD_BYTES = 500_000_000
CHUNK = b"x" * 65_536

COUNTS = {"connections": 0, "faults": 0, "running": 0, "running_peak": 0, "flooded_bytes": 0, "websockets": 0}


class GuardedServer(BoundedSendMixin):
    """What the server of the project does round Hypercorn's, reduced to its guard."""

    async def run(self) -> None:
        """Serve one connection; its faults end here."""
        COUNTS["connections"] += 1
        try:
            await super().run()
        except* Exception as faults:
            COUNTS["faults"] += 1
            await self.config.log.exception("fault of a connection: %r", faults)  # noqa: TRY401
        finally:
            COUNTS["connections"] -= 1


async def start(send: Send, status: int, content_type: bytes = b"text/plain") -> None:
    """Begin a response."""
    headers = [(b"content-type", content_type)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def body(send: Send, data: bytes, *, more: bool = False) -> None:
    """Send one part of a response body."""
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def sse(query: dict[str, list[str]], receive: Receive, send: Send) -> None:
    """`n` events, `gap_ms` apart, while the client stays."""
    await start(send, 200, b"text/event-stream")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_disconnect, receive, nursery.cancel_scope)
        for number in range(int(query["n"][0])):
            await trio.sleep(int(query["gap_ms"][0]) / 1_000)
            await body(send, b"data: %d\n\n" % number, more=True)
        nursery.cancel_scope.cancel()
    await body(send, b"")


async def flood(receive: Receive, send: Send) -> None:
    """Produce `FLOOD_BYTES` as fast as the client takes them, as an app does that never asks who listens."""
    await start(send, 200)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_on_disconnect, receive, nursery.cancel_scope)
        for _ in range(FLOOD_BYTES // len(CHUNK)):
            await body(send, CHUNK, more=True)
            COUNTS["flooded_bytes"] += len(CHUNK)
        nursery.cancel_scope.cancel()
    await body(send, b"")


async def deaf_flood(send: Send) -> None:
    """The same without looking for a disconnect."""
    await start(send, 200)
    for _ in range(FLOOD_BYTES // len(CHUNK)):
        await body(send, CHUNK, more=True)
    await body(send, b"")


async def cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    """Read until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def length(receive: Receive, send: Send) -> None:
    """Answer with the number of bytes of the request body."""
    count_bytes = 0
    while True:
        message = await receive()
        count_bytes += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await start(send, 200)
    await body(send, b"%d" % count_bytes)


async def respond(scope: Scope, receive: Receive, send: Send) -> None:
    """The routes."""
    query = parse_qs(scope["query_string"].decode())
    match scope["path"].split("/")[1:]:
        case ["sse"]:
            await sse(query, receive, send)
        case ["early", status]:
            await start(send, int(status))
            await body(send, b"refused")
        case ["raise", "first"]:
            raise RuntimeError("before the response")
        case ["raise", "mid"]:
            await start(send, 200)
            await body(send, b"half of it", more=True)
            raise RuntimeError("in the middle of the response")
        case ["return", "mid"]:
            await start(send, 200)
            await body(send, b"half of it", more=True)
        case ["bad", "header"]:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-bad", b"a\nb")]})
            await body(send, b"never seen")
        case ["flood"]:
            await flood(receive, send)
        case ["deaf-flood"]:
            await deaf_flood(send)
        case ["length"]:
            await length(receive, send)
        case ["stubborn"]:
            await trio.sleep(1.5)
            await start(send, 200)
            await body(send, b"done")
        case ["unread"]:
            await trio.sleep(0.5)
            await start(send, 200)
            await body(send, b"unread")
        case ["stats"]:
            await start(send, 200, b"application/json")
            await body(send, json.dumps(COUNTS).encode())
        case _:
            await start(send, 200)
            await body(send, scope["path"].encode())


async def lifespan(receive: Receive, send: Send) -> None:
    """Nothing to start or stop."""
    for answer in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
        await receive()
        await send({"type": answer})


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI app."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    COUNTS["websockets"] += scope["type"] == "websocket"
    COUNTS["running"] += 1
    COUNTS["running_peak"] = max(COUNTS["running_peak"], COUNTS["running"])
    try:
        await respond(scope, receive, send)
    finally:
        COUNTS["running"] -= 1


async def until_sigterm() -> None:
    """The shutdown trigger."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            return


async def main(idle_s: float) -> None:
    """Serve on a free port of the loopback interface, printed on the first line."""
    install(render_error=lambda status, request_id: json.dumps({"status": status, "id": request_id}).encode())
    setattr(hypercorn_run, "TCPServer", GuardedServer)  # noqa: B010 - the name is not exported
    listener = socket.create_server(("127.0.0.1", 0))
    listen_options(listener, 20_000)
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.h2_max_concurrent_streams = 32
    config.keep_alive_timeout = idle_s
    config.graceful_timeout = 1
    config.include_server_header = False
    setattr(config, "send_stall_s", 1.0)  # noqa: B010 - ours, unknown to Hypercorn
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await serve(partial(app), config, shutdown_trigger=until_sigterm, mode="asgi")


if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]))
