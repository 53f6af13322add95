"""A provider that means harm: one process, one behaviour per path, each written byte by byte as it goes on the wire.

`POST /NAME/chat/completions` shows the behaviour NAME of `upstream_answers`. `GET /canary` must never be asked:
redirects point there, and `GET /hits` counts. Run: `python -m tests.hostile.upstream`; prints `listening on URL`.
"""

from __future__ import annotations

import re
import sys
from functools import partial

import trio

from tests.hostile.upstream_answers import BEHAVIOURS, Conversation

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Hits:
    """What was asked of this provider besides completions."""

    canary = 0


async def read_request(stream: trio.SocketStream, buffer: bytearray) -> tuple[str, bytes] | None:
    """One request as (path, body); None at the end of the connection."""
    while True:
        end = buffer.find(b"\r\n\r\n")
        if end >= 0:
            length = _LENGTH.search(buffer, 0, end + 2)
            total = end + 4 + (int(length[1]) if length else 0)
            if len(buffer) >= total:
                path, body = bytes(buffer).split(b" ", 2)[1].decode(), bytes(buffer[end + 4 : total])
                del buffer[:total]
                return path, body
        data = await stream.receive_some(65_536)
        if not data:
            return None
        buffer += data


async def serve(port: int, stream: trio.SocketStream) -> None:
    """One connection. A gateway that hangs up is what most behaviours are for."""
    buffer = bytearray()
    try:
        async with stream:
            while (request := await read_request(stream, buffer)) is not None:
                path, body = request
                talk = Conversation(stream, body, port)
                if path == "/hits":
                    await talk.whole(b"%d" % Hits.canary)
                elif path.endswith("/chat/completions"):
                    await BEHAVIOURS[path.split("/")[1]](talk)
                else:
                    Hits.canary += 1
                    await talk.whole(b"{}")
                if talk.over:
                    return
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return


async def main() -> None:
    """Serve on a free port until killed."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    sys.stdout.write(f"listening on http://127.0.0.1:{port}\n")
    sys.stdout.flush()
    await trio.serve_listeners(partial(serve, port), listeners)


if __name__ == "__main__":
    trio.run(main)
