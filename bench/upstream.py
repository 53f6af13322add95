"""The fake upstream: one process, one thread, a bare epoll loop, so that it is far cheaper than what it serves.

`POST .../chat/completions` answers from bytes built beforehand (`frames.py`). What kind of answer is chosen by
the request's `"bench": {"frames": 64, "gap_ms": 20, "burst": false}` or by the model's name: `bench-chat`,
`bench-stream-64x20` (64 frames, 20 ms apart), `bench-burst-200`. In a paced stream every frame is its own HTTP
chunk and its own write on an absolute schedule; the first content leaves with the head. `GET /stats` tells what
was served.

Run: `python -m bench.upstream [--tls CERT.pem]`; prints `listening on PORT` when ready.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import re
import select
import socket
import ssl
import time
from pathlib import Path

import orjson

from bench import frames

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NAME = re.compile(r"bench-(?:stream-(\d+)x(\d+)|burst-(\d+))")
_READ_BYTES = 65_536
_BACKLOG = 1024
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_MODELS = b'{"object":"list","data":[{"id":"bench-chat","object":"model","created":1768435200,"owned_by":"bench"}]}'


def _json(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class _Conn:
    """One accepted connection: what was read, what could not be written yet, and the stream it is sending."""

    __slots__ = ("chat_id", "due", "fd", "gap_s", "index", "last", "out", "read", "sock", "usage")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.read = bytearray()
        self.out = bytearray()
        self.last = -1  # index of the stream's last frame; -1 while no stream is running
        self.index = 0
        self.gap_s = 0.0
        self.due = 0.0
        self.chat_id = b""
        self.usage = False


class Upstream:
    """The server over an already listening socket. `serve()` never returns; it ends with its process."""

    def __init__(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._tls = tls
        self._epoll = select.epoll()
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._conns: dict[int, _Conn] = {}
        self._timers: list[tuple[float, int, _Conn]] = []
        self._serial = itertools.count()
        self._answer = frames.answer()
        self._counts = {"calls": 0, "streams": 0, "streams_abandoned": 0}

    def serve(self) -> None:
        """Run the loop for ever."""
        while True:
            self._wait()
            for fd, event in self._epoll.poll(0):
                if fd == self._listener.fileno():
                    self._accept()
                elif conn := self._conns.get(fd):
                    self._ready(conn, event)
            self._send_due()

    def _wait(self) -> None:
        # epoll's own timeout is rounded up to a millisecond, which would batch the frames of many streams;
        # select's is in microseconds, and an epoll descriptor can be selected on.
        if not self._timers:
            select.select([self._epoll], [], [])
            return
        wait_s = self._timers[0][0] - time.monotonic()
        if wait_s > 0:
            select.select([self._epoll], [], [], wait_s)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            conn = _Conn(sock)
            self._conns[conn.fd] = conn
            self._epoll.register(conn.fd, select.EPOLLIN)

    def _ready(self, conn: _Conn, event: int) -> None:
        try:
            if event & select.EPOLLOUT and conn.out:
                pending, conn.out = bytes(conn.out), bytearray()
                self._epoll.modify(conn.fd, select.EPOLLIN)
                self._send(conn, pending)
            if event & ~select.EPOLLOUT:
                self._receive(conn)
        except OSError:
            self._close(conn)

    def _receive(self, conn: _Conn) -> None:
        while True:
            try:
                data = conn.sock.recv(_READ_BYTES)
            except _WOULD_BLOCK:
                break
            if not data:
                self._close(conn)
                return
            conn.read += data
            if self._tls is None and len(data) < _READ_BYTES:
                break
        self._requests(conn)

    def _requests(self, conn: _Conn) -> None:
        """Answer every whole request read so far; a running stream holds back the ones behind it."""
        while conn.last < 0:
            head_end = conn.read.find(b"\r\n\r\n")
            if head_end < 0:
                return
            length = _LENGTH.search(conn.read, 0, head_end + 2)
            end = head_end + 4 + (int(length[1]) if length else 0)
            if len(conn.read) < end:
                return
            target = bytes(conn.read[: conn.read.find(b"\r\n")])
            body = bytes(conn.read[head_end + 4 : end])
            del conn.read[:end]
            self._dispatch(conn, target, body)

    def _dispatch(self, conn: _Conn, target: bytes, body: bytes) -> None:
        if target.startswith(b"POST ") and b"/chat/completions" in target:
            self._counts["calls"] += 1
            if b'"stream"' in body:
                self._chat(conn, orjson.loads(body))
            else:
                self._send(conn, self._answer)
        elif target.startswith(b"GET /stats"):
            self._send(conn, _json(orjson.dumps({**self._counts, "cpu_s": time.process_time()})))
        elif target.startswith(b"GET ") and b"/models" in target:
            self._send(conn, _json(_MODELS))
        else:
            self._send(conn, _NOT_FOUND)

    def _chat(self, conn: _Conn, request: dict[str, object]) -> None:
        if not request.get("stream"):
            self._send(conn, self._answer)
            return
        self._counts["streams"] += 1
        count, gap_s = _shape(request)
        options = request.get("stream_options")
        conn.usage = isinstance(options, dict) and bool(options.get("include_usage"))
        conn.chat_id = b"%0*d" % (frames.ID_CHARS, next(self._serial))
        conn.gap_s, conn.last, conn.index = gap_s, count - 1, 0
        opening = frames.STREAM_HEAD + conn.chat_id.join(frames.role_chunk(usage=conn.usage))
        if gap_s == 0:
            body = b"".join(self._frame(conn, i) for i in range(count))
            conn.last = -1
            self._send(conn, opening + body)
            return
        conn.due = time.monotonic()
        self._send(conn, opening + self._frame(conn, 0))
        self._schedule(conn)

    def _frame(self, conn: _Conn, index: int) -> bytes:
        frame = conn.chat_id.join(frames.content_chunk(index, usage=conn.usage))
        if index < conn.last:
            return frame
        return frame + conn.chat_id.join(frames.closing_chunks(index + 1, usage=conn.usage))

    def _schedule(self, conn: _Conn) -> None:
        """Queue the next frame, or end the stream and take up the request that waited behind it."""
        if conn.index >= conn.last:
            conn.last = -1
            self._requests(conn)
            return
        conn.index += 1
        conn.due += conn.gap_s
        heapq.heappush(self._timers, (conn.due, next(self._serial), conn))

    def _send_due(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= time.monotonic():
            conn = heapq.heappop(timers)[2]
            if conn.fd not in self._conns or self._conns[conn.fd] is not conn:
                continue
            try:
                self._send(conn, self._frame(conn, conn.index))
                self._schedule(conn)
            except OSError:
                self._close(conn)

    def _send(self, conn: _Conn, data: bytes) -> None:
        if conn.out:
            conn.out += data
            return
        try:
            sent = conn.sock.send(data)
        except _WOULD_BLOCK:
            sent = 0
        if sent < len(data):
            conn.out += data[sent:]
            self._epoll.modify(conn.fd, select.EPOLLIN | select.EPOLLOUT)

    def _close(self, conn: _Conn) -> None:
        if self._conns.pop(conn.fd, None) is None:
            return
        if conn.last >= 0:
            self._counts["streams_abandoned"] += 1
        self._epoll.unregister(conn.fd)
        conn.sock.close()


def _shape(request: dict[str, object]) -> tuple[int, float]:
    """(frames, gap in seconds) of the stream asked for; a gap of 0 means one burst."""
    bench = request.get("bench")
    if isinstance(bench, dict):
        burst = bool(bench.get("burst"))
        return max(int(bench.get("frames", 64)), 1), 0.0 if burst else float(bench.get("gap_ms", 20)) / 1000
    name = _NAME.search(str(request.get("model")))
    if name is None:
        return 64, 0.0
    if name[3]:
        return max(int(name[3]), 1), 0.0
    return max(int(name[1]), 1), int(name[2]) / 1000


def listen(port: int = 0) -> socket.socket:
    """A listening socket on 127.0.0.1; port 0 takes a free one."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(_BACKLOG)
    return sock


def main() -> None:
    """Entry point of the upstream process."""
    parser = argparse.ArgumentParser(prog="python -m bench.upstream", description=__doc__.split("\n\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free port")
    parser.add_argument("--tls", type=Path, help="PEM file with certificate and key; serve TLS")
    options = parser.parse_args()
    tls = None
    if options.tls is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.tls)
    listener = listen(options.port)
    print(f"listening on http{'s' if tls else ''}://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    Upstream(listener, tls).serve()


if __name__ == "__main__":
    main()
