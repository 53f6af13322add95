"""The load generator: its own process, raw non-blocking sockets on one epoll set, HTTP/1.1 keep-alive.

Closed loop: each connection starts its next call when the last one ended. Open loop (`rate_per_s`): calls are due
on a fixed schedule whatever the server does, and latency counts from the due time, so a slow server cannot hide its
queue. A frame's time is the read that brought it. Every answer is checked whole (`verify.py`); a wrong one is an error.

Run by `python -m bench.load` with a `Job` on stdin; prints a `Result`. `job.protocol = "h2"` goes to `load_h2.py`.
"""

from __future__ import annotations

import heapq
import select
import socket
import sys
import time
from collections import Counter, deque

import msgspec

from bench import verify
from bench.job import Job, Result, spread_of

_READ_BYTES = 262_144
_RETRY_S = 0.01  # before a caller whose connection was lost starts again
_STALL_FACTOR = 10  # the published comparisons call a gap over ten times the pace a stall


class _Caller:
    """One connection and the call it is making."""

    __slots__ = ("begun_at", "busy", "last_frame_at", "parts", "seen", "sock", "tail")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.parts: list[bytes] = []
        self.begun_at = 0.0  # when the call was meant to start
        self.last_frame_at = 0.0
        self.seen = 0  # content frames so far
        self.tail = b""
        self.busy = False


class Generator:
    """Runs one job over HTTP/1.1; `run()` blocks until every call ended or the deadline passed."""

    def __init__(self, job: Job) -> None:
        self._job = job
        head = f"POST {job.path} HTTP/1.1\r\nHost: {job.host}:{job.port}\r\nContent-Type: application/json\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in job.headers.items())
        self._request = f"{head}Content-Length: {len(job.body.encode())}\r\n\r\n{job.body}".encode()
        self._epoll = select.epoll()
        self._callers: dict[int, _Caller] = {}
        self._due: list[tuple[float, int]] = []  # (when, descriptor): first calls, spread out
        self._free: deque[_Caller] = deque()
        self._arrivals = 0
        self.sent = self.correct = self.frames = self.stalls = 0
        self.errors: Counter[str] = Counter()
        self.sample = ""
        self.latency: list[float] = []
        self.first_content: list[float] = []
        self.gaps: list[float] = []

    def run(self) -> Result:
        """Connect, drive the load, close."""
        for _ in range(self._job.connections):
            self._connect()
        cpu_from, self._start = time.process_time(), time.perf_counter()
        self._begin_schedule()
        end = self._start + self._job.deadline_s
        while time.perf_counter() < end and (self._pending() or any(c.busy for c in self._callers.values())):
            self._step(end)
        wall_s, cpu_s = (time.perf_counter() - self._start, time.process_time() - cpu_from)
        unfinished = sum(c.busy for c in self._callers.values())
        for caller in self._callers.values():
            caller.sock.close()
        return Result(
            sent=self.sent,
            correct=self.correct,
            errors=dict(self.errors),
            sample=self.sample,
            unfinished=unfinished,
            wall_s=wall_s,
            cpu_s=cpu_s,
            latency=spread_of(self.latency),
            first_content=spread_of(self.first_content),
            gap=spread_of(self.gaps),
            frames=self.frames,
            stalls=self.stalls,
        )

    def _connect(self) -> _Caller:
        sock = socket.create_connection((self._job.host, self._job.port), timeout=5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        caller = self._callers[sock.fileno()] = _Caller(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return caller

    def _begin_schedule(self) -> None:
        callers = list(self._callers)
        if self._job.rate_per_s:
            self._free.extend(self._callers.values())
            return
        step = self._job.spread_s / len(callers)
        self._due = [(self._start + i * step, fd) for i, fd in enumerate(callers)]

    def _more(self, now: float) -> bool:
        """Whether another call may still start."""
        job = self._job
        if job.calls and self.sent >= job.calls:
            return False
        return not job.duration_s or now - self._start < job.duration_s

    def _pending(self) -> bool:
        if self._job.rate_per_s:
            return bool(self._callers) and self._more(self._arrival_at())
        return bool(self._due)

    def _arrival_at(self) -> float:
        return self._start + self._arrivals / self._job.rate_per_s

    def _next_at(self) -> float | None:
        """When the next scheduled start is due, if one can start then."""
        if self._due:
            return self._due[0][0]
        if self._job.rate_per_s and self._free and self._pending():
            return self._arrival_at()
        return None

    def _step(self, end: float) -> None:
        next_at = self._next_at()
        wait_s = (end if next_at is None else min(next_at, end)) - time.perf_counter()
        # select sleeps in microseconds where epoll_wait rounds to milliseconds.
        if wait_s > 0:
            select.select([self._epoll], [], [], wait_s)
        for fd, _ in self._epoll.poll(0):
            if caller := self._callers.get(fd):
                self._readable(caller)
        now = time.perf_counter()
        while self._due and self._due[0][0] <= now:
            due, fd = heapq.heappop(self._due)
            if fd in self._callers and self._more(now):
                self._begin(self._callers[fd], due)
        if self._job.rate_per_s:
            self._begin_arrived(now)

    def _begin_arrived(self, now: float) -> None:
        while self._free and self._pending() and (due := self._arrival_at()) <= now:
            self._arrivals += 1
            self._begin(self._free.popleft(), due)

    def _begin(self, caller: _Caller, due: float) -> None:
        caller.parts.clear()
        caller.tail = b""
        caller.begun_at, caller.seen, caller.busy = due, 0, True
        self.sent += 1
        try:
            if caller.sock.send(self._request) != len(self._request):
                self._lose(caller, "request not taken whole")
        except OSError:
            self._lose(caller, "connection lost")

    def _readable(self, caller: _Caller) -> None:
        try:
            data = caller.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.perf_counter()
        if not data:
            self._lose(caller, "closed by server")
            return
        caller.parts.append(data)
        if self._job.frames:
            self._note_frames(caller, data, now)
            caller.tail = (caller.tail + data)[-5:]
            if caller.tail != b"0\r\n\r\n" and not self._failed_whole(caller):
                return
        elif not verify.is_complete(data if len(caller.parts) == 1 else b"".join(caller.parts)):
            return
        self._finish(caller, now)

    def _failed_whole(self, caller: _Caller) -> bool:
        """Whether a non-200 answer, which may have a Content-Length, has arrived whole."""
        return not caller.parts[0].startswith(b"HTTP/1.1 200") and verify.is_complete(b"".join(caller.parts))

    def _note_frames(self, caller: _Caller, data: bytes, now: float) -> None:
        if not caller.seen:
            found = len(verify.CONTENT.findall(data))
            if not found:
                return
            self.first_content.append(now - caller.begun_at)
            caller.seen = found
        else:
            arrived = min(data.count(b"\n\n"), self._job.frames - caller.seen)
            if not arrived:
                return
            gap = now - caller.last_frame_at
            self.gaps.append(gap)
            self.gaps.extend([0.0] * (arrived - 1))
            self.stalls += bool(self._job.pace_s) and gap > _STALL_FACTOR * self._job.pace_s
            caller.seen += arrived
        caller.last_frame_at = now

    def _finish(self, caller: _Caller, now: float) -> None:
        raw = b"".join(caller.parts)
        frames = self._job.frames
        wrong = (
            verify.check_stream(raw, frames, needs_done=self._job.needs_done) if frames else verify.check_answer(raw)
        )
        if wrong is None:
            self.correct += 1
            self.frames += frames
            self.latency.append(now - caller.begun_at)
        else:
            self.errors[wrong] += 1
            self.sample = self.sample or verify.sample(raw)
        caller.busy = False
        if self._job.rate_per_s:
            self._free.append(caller)
        elif self._more(now):
            self._begin(caller, now)

    def _lose(self, caller: _Caller, why: str) -> None:
        """Replace a connection that ended. An idle close is a server's right; one during a call is an error."""
        fd = caller.sock.fileno()
        self._epoll.unregister(fd)
        del self._callers[fd]
        caller.sock.close()
        if caller.busy:
            self.errors[why] += 1
            self.sample = self.sample or verify.sample(b"".join(caller.parts))
        elif self._job.rate_per_s:
            self._free.remove(caller)
        try:
            fresh = self._connect()
        except OSError:
            self.errors["cannot connect"] += 1
            return
        if self._job.rate_per_s:
            self._free.append(fresh)
        elif caller.busy:
            heapq.heappush(self._due, (time.perf_counter() + _RETRY_S, fresh.sock.fileno()))


def main() -> None:
    """Entry point of the generator process."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    if job.protocol == "h2":
        from bench.load_h2 import run_h2

        result = run_h2(job)
    else:
        result = Generator(job).run()
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main()
