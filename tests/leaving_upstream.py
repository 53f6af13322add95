"""A provider that answers slowly for ever and notes when its connection ends: who left, it knows to the millisecond."""

from __future__ import annotations

import socket

import trio

HEAD_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FRAME = (
    b'data: {"id":"chatcmpl-upstream","object":"chat.completion.chunk","created":1,"model":"upstream",'
    b'"choices":[{"index":0,"delta":{"content":"tick"},"finish_reason":null}]}\n\n'
)


class LeavingUpstream:
    """Serves one call of one connection on a listening socket that outlives it."""

    def __init__(self, listening: socket.socket) -> None:
        self._listener = trio.socket.from_stdlib_socket(listening.dup())
        self.asked = trio.Event()
        self.left = trio.Event()

    async def run(self, *, stream: bool) -> None:
        """Take a call; answer its head and one frame when it is a stream; wait for the end of the connection."""
        with self._listener:
            connection, _ = await self._listener.accept()
        async with trio.SocketStream(connection) as peer:
            received = b""
            while b'"messages"' not in received:
                received += await peer.receive_some()
            if stream:
                await peer.send_all(HEAD_STREAM + b"%x\r\n%b\r\n" % (len(FRAME), FRAME))
            self.asked.set()
            try:
                while await peer.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
            self.left.set()
