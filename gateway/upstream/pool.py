"""Warm connections to providers, per origin. One call in flight per connection; one that ends badly closes its own.

The pool is bounded by its own limiter: a call over the limit of an origin waits under the caller's deadline, and a
waiter that is cancelled leaves nothing behind. Idle connections are kept newest first and closed after `idle_s`.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from gateway.core.call import Origin
from gateway.upstream.http1 import BadResponse, ResponseReader
from gateway.upstream.transport import SocketTransport, TlsTransport, Transport, TransportBroken

SWEEP_S: Final = 5.0


Connect = Callable[[Origin], Awaitable[Transport]]


@dataclass(slots=True)
class _Idle:
    transport: Transport
    since: float
    reader: ResponseReader | None  # of an answer that was over for us before its last bytes came

    def is_fit(self) -> bool:
        """Whether the connection can carry another request: open, silent, its last response complete."""
        if self.reader is None:
            return self.transport.is_quiet()
        try:
            data = self.transport.receive_now()
            if data is None or data == b"":
                return False
            self.reader.feed(data)
        except (TransportBroken, BadResponse):
            return False
        return self.reader.complete and self.reader.keep_alive and self.transport.is_quiet()


@dataclass(slots=True)
class _Bucket:
    limiter: trio.CapacityLimiter
    idle: list[_Idle] = field(default_factory=list)


class Lease:
    """One borrowed connection. Give it back with `release` (fit for another call) or `close`; `close` is idempotent."""

    __slots__ = ("_bucket", "_pool", "reused", "transport")

    def __init__(self, pool: Pool, bucket: _Bucket, transport: Transport, *, reused: bool) -> None:
        self._pool = pool
        self._bucket: _Bucket | None = bucket
        self.transport = transport
        self.reused = reused

    def release(self, reader: ResponseReader | None = None) -> None:
        """Put the connection back to be used again. `reader` when the last bytes of its response are still to come."""
        bucket, self._bucket = self._bucket, None
        if bucket is not None:
            bucket.limiter.release_on_behalf_of(self)
            self._pool.put_back(bucket, self.transport, reader)

    def close(self) -> None:
        """Close the connection: the provider sees it at once."""
        bucket, self._bucket = self._bucket, None
        if bucket is not None:
            bucket.limiter.release_on_behalf_of(self)
            self.transport.close()


class Pool:
    """All warm connections of the process. `run` is its one service task."""

    def __init__(
        self, *, connections_max: int, idle_s: float, connect: Connect, clock: Callable[[], float] = trio.current_time
    ) -> None:
        self._connections_max = connections_max
        self._idle_s = idle_s
        self._connect = connect
        self._clock = clock
        self._buckets: dict[Origin, _Bucket] = {}

    def acquire_warm(self, origin: Origin) -> Lease | None:
        """Borrow an idle connection, at once or not at all."""
        bucket = self._bucket(origin)
        while bucket.idle:
            idle = bucket.idle.pop()
            if not idle.is_fit():
                idle.transport.close()
                continue
            lease = Lease(self, bucket, idle.transport, reused=True)
            try:
                bucket.limiter.acquire_on_behalf_of_nowait(lease)
            except trio.WouldBlock:
                bucket.idle.append(idle)
                return None
            return lease
        return None

    async def acquire(self, origin: Origin) -> Lease:
        """Borrow a fresh connection. The caller's deadline bounds the wait for a place and the dialling.

        Raises TransportBroken when the origin cannot be reached.
        """
        bucket = self._bucket(origin)
        lease = Lease(self, bucket, _NO_TRANSPORT, reused=False)
        await bucket.limiter.acquire_on_behalf_of(lease)
        while bucket.idle:  # whoever made room left a warm connection, or the limit would only count those in use
            idle = bucket.idle.pop()
            if idle.is_fit():
                lease.transport, lease.reused = idle.transport, True
                return lease
            idle.transport.close()
        try:
            lease.transport = await self._connect(origin)
        except BaseException:
            lease.close()
            raise
        return lease

    def is_full(self, origin: Origin) -> bool:
        """Whether every place of an origin is taken."""
        return self._bucket(origin).limiter.available_tokens == 0

    def _bucket(self, origin: Origin) -> _Bucket:
        bucket = self._buckets.get(origin)
        if bucket is None:
            bucket = self._buckets[origin] = _Bucket(trio.CapacityLimiter(self._connections_max))
        return bucket

    def put_back(self, bucket: _Bucket, transport: Transport, reader: ResponseReader | None) -> None:
        """Called by Lease.release."""
        bucket.idle.append(_Idle(transport, self._clock(), reader))

    async def run(self) -> None:
        """Close connections that idled too long or were closed by the provider. Cancel it to close all that idle."""
        try:
            while True:
                await trio.sleep(min(SWEEP_S, self._idle_s))
                self.sweep(self._clock())
        finally:
            self.close_idle()

    def sweep(self, now: float) -> None:
        """Close what idled past `idle_s` or went away."""
        for bucket in self._buckets.values():
            keep = []
            for idle in bucket.idle:
                if now - idle.since < self._idle_s and idle.is_fit():
                    idle.reader = None
                    keep.append(idle)
                else:
                    idle.transport.close()
            bucket.idle = keep

    def close_idle(self) -> None:
        """Close every idle connection."""
        for bucket in self._buckets.values():
            for idle in bucket.idle:
                idle.transport.close()
            bucket.idle = []

    def counts(self) -> dict[Origin, tuple[int, int]]:
        """(in use, idle) per origin, for metrics."""
        return {origin: (int(b.limiter.borrowed_tokens), len(b.idle)) for origin, b in self._buckets.items()}


class _NoTransport:
    """Stands in a lease until its connection is there."""

    def fileno(self) -> int | None:
        return None

    async def receive(self) -> bytes:
        raise TransportBroken("not connected")

    def receive_now(self) -> bytes | None:
        raise TransportBroken("not connected")

    async def send(self, parts: Sequence[bytes]) -> None:
        del parts
        raise TransportBroken("not connected")

    def is_quiet(self) -> bool:
        return False

    def close(self) -> None:
        pass


_NO_TRANSPORT: Final = _NoTransport()


class Dialer:
    """Opens real connections: TCP by happy eyeballs (RFC 8305), then TLS 1.2 or newer with ALPN http/1.1."""

    def __init__(self) -> None:
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._context(None)  # 20 ms that no call should wait for

    async def __call__(self, origin: Origin) -> Transport:
        """Connect. Raises TransportBroken; the caller's deadline bounds it."""
        try:
            stream = await trio.open_tcp_stream(origin.host, origin.port)
        except OSError as exc:
            raise TransportBroken(exc.strerror or "connection failed") from exc
        if not origin.tls:
            return SocketTransport(stream)
        try:
            transport = TlsTransport(stream, self._context(origin.ca_file), origin.host)
            await transport.handshake()
        except OSError as exc:
            stream.socket.close()
            raise TransportBroken("the CA file cannot be read") from exc
        except BaseException:
            stream.socket.close()
            raise
        return transport

    def _context(self, ca_file: str | None) -> ssl.SSLContext:
        context = self._contexts.get(ca_file)
        if context is None:
            context = ssl.create_default_context()
            if ca_file is not None:
                context.load_verify_locations(ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
            self._contexts[ca_file] = context
        return context
