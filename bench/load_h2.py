"""The HTTP/2 side of the load generator: prior knowledge over cleartext, closed loop, non-stream calls.

One thread over blocking-free sockets; each connection keeps `job.streams` requests in flight. The `h2` library is
the gateway's own dependency, so a fresh machine can run this; it is slower than nghttp2 but far cheaper than a call.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from bench import verify
from bench.job import Job, Result, spread_of

_READ_BYTES = 262_144
_WINDOW_BYTES = 1 << 24  # wide, so that flow control is not what is measured


class _Connection:
    """One HTTP/2 connection with its calls in flight: stream id -> (start, status, parts)."""

    def __init__(self, job: Job) -> None:
        self.sock = socket.create_connection((job.host, job.port), timeout=5)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_WINDOW_BYTES)
        self.open: dict[int, tuple[float, list[bytes]]] = {}
        self.closed = False
        self._headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", f"{job.host}:{job.port}"),
            (":path", job.path),
            ("content-type", "application/json"),
            ("content-length", str(len(job.body.encode()))),
            *((name.lower(), value) for name, value in job.headers.items()),
        ]
        self._body = job.body.encode()

    def begin(self, now: float) -> None:
        """Queue one request; `flush()` sends it."""
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, self._headers)
        self.h2.send_data(stream, self._body, end_stream=True)
        self.open[stream] = (now, [])

    def flush(self) -> None:
        """Write what h2 has queued. The socket has a timeout, so a server that stops reading raises OSError."""
        data = self.h2.data_to_send()
        if data:
            self.sock.sendall(data)


class _Tally:
    """The counts of one run."""

    def __init__(self) -> None:
        self.sent = self.correct = 0
        self.errors: Counter[str] = Counter()
        self.sample = ""
        self.latency: list[float] = []

    def end(self, begun_at: float, parts: list[bytes]) -> None:
        """Judge one ended stream; `parts` is an HTTP/1.1-like status line, then the body."""
        raw = b"".join(parts)
        wrong = verify.check_answer(raw)
        if wrong is None:
            self.correct += 1
            self.latency.append(time.perf_counter() - begun_at)
            return
        self.errors[wrong] += 1
        self.sample = self.sample or verify.sample(raw)


def _take(connection: _Connection, tally: _Tally) -> int:
    """Feed one read to h2 and judge the streams that ended; returns how many did."""
    try:
        data = connection.sock.recv(_READ_BYTES)
        events = connection.h2.receive_data(data) if data else []
    except (OSError, h2.exceptions.ProtocolError):
        data, events = b"", []
    if not data:
        connection.closed = True
        tally.errors["connection lost"] += len(connection.open)
        connection.open.clear()
        return 0
    ended = 0
    for event in events:
        ended += _apply(connection, tally, event)
    return ended


def _apply(connection: _Connection, tally: _Tally, event: h2.events.Event) -> int:
    """Apply one h2 event; 1 when it ended a call."""
    if isinstance(event, h2.events.ResponseReceived):
        status = dict(event.headers or [])[b":status"].decode()
        connection.open[event.stream_id or 0][1].append(f"HTTP/1.1 {status}\r\n\r\n".encode())
    elif isinstance(event, h2.events.DataReceived):
        connection.open[event.stream_id or 0][1].append(event.data or b"")
        connection.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id or 0)
    elif isinstance(event, h2.events.StreamEnded):
        tally.end(*connection.open.pop(event.stream_id or 0))
        return 1
    elif isinstance(event, h2.events.StreamReset):
        connection.open.pop(event.stream_id or 0, None)
        tally.errors["stream reset"] += 1
        return 1
    return 0


def run_h2(job: Job) -> Result:
    """Drive `job` over HTTP/2 and report as the HTTP/1.1 generator does."""
    connections = {c.sock.fileno(): c for c in (_Connection(job) for _ in range(job.connections))}
    tally = _Tally()
    cpu_from, start = time.process_time(), time.perf_counter()

    def more() -> bool:
        under = not job.calls or tally.sent < job.calls
        return under and (not job.duration_s or time.perf_counter() - start < job.duration_s)

    def begin(connection: _Connection, count: int) -> None:
        for _ in range(count):
            if more():
                tally.sent += 1
                connection.begin(time.perf_counter())

    for connection in connections.values():
        begin(connection, job.streams)
        connection.flush()
    while any(c.open for c in connections.values()) and time.perf_counter() - start < job.deadline_s:
        for fd in select.select([fd for fd, c in connections.items() if not c.closed], [], [], 0.5)[0]:
            connection = connections[fd]
            begin(connection, _take(connection, tally))
            if not connection.closed:
                connection.flush()
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_from
    for connection in connections.values():
        connection.sock.close()
    return Result(
        sent=tally.sent,
        correct=tally.correct,
        errors=dict(tally.errors),
        sample=tally.sample,
        unfinished=sum(len(c.open) for c in connections.values()),
        wall_s=wall_s,
        cpu_s=cpu_s,
        latency=spread_of(tally.latency),
        first_content=spread_of([]),
        gap=spread_of([]),
        frames=0,
        stalls=0,
    )
