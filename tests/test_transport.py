"""Transports over real sockets, cleartext and TLS: whole bytes, ends, resets, refused certificates."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.core.call import Origin
from gateway.upstream.pool import Dialer
from gateway.upstream.transport import Transport, TransportBroken
from tests.lanes import Certificate, make_certificate
from tests.upstream import SocketPeer

Handler = Callable[[trio.abc.Stream], Awaitable[None]]
DEADLINE_S = 10.0
BIG = bytes(range(256)) * 8192  # 2 MiB: more than sockets hold


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def serve(nursery: trio.Nursery, handler: Handler, certificate: Certificate | None) -> Origin:
    """Serve each connection with `handler`; the origin to dial."""
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.certfile, certificate.keyfile)
        context.set_alpn_protocols(["h2", "http/1.1"])

    async def connection(stream: trio.SocketStream) -> None:
        wrapped: trio.abc.Stream = stream
        if context is not None:
            wrapped = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await handler(wrapped)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    listeners = await nursery.start(_listen, connection)
    port = listeners[0].socket.getsockname()[1]
    ca_file = None if certificate is None else str(certificate.certfile)
    return Origin("127.0.0.1", port, tls=certificate is not None, ca_file=ca_file)


async def _listen(
    connection: Callable[[trio.SocketStream], Awaitable[None]],
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]],
) -> None:
    await trio.serve_tcp(connection, 0, host="127.0.0.1", task_status=task_status)


async def read_all(transport: Transport) -> bytes:
    parts = []
    while data := await transport.receive():
        parts.append(data)
        await trio.lowlevel.checkpoint()
    return b"".join(parts)


@pytest.fixture(params=["tcp", "tls"])
def shield(request: pytest.FixtureRequest, certificate: Certificate) -> Certificate | None:
    return certificate if request.param == "tls" else None


async def test_bytes_pass_both_ways(shield: Certificate | None, nursery: trio.Nursery) -> None:
    async def echo(stream: trio.abc.Stream) -> None:
        heard = b""
        while len(heard) < len(BIG) + 2:
            heard += await stream.receive_some(65536)
        await stream.send_all(heard)

    with trio.fail_after(DEADLINE_S):
        origin = await serve(nursery, echo, shield)
        transport = await Dialer()(origin)
        await transport.send((b"a", b"", BIG, b"z"))
        assert await read_all(transport) == b"a" + BIG + b"z"
        transport.close()
        transport.close()


async def test_nothing_there_yet_is_none_and_an_end_stays_an_end(
    shield: Certificate | None, nursery: trio.Nursery
) -> None:
    go, end = trio.Event(), trio.Event()

    async def handler(stream: trio.abc.Stream) -> None:
        await stream.receive_some(10)
        await go.wait()
        await stream.send_all(b"late")
        await end.wait()

    with trio.fail_after(DEADLINE_S):
        transport = await Dialer()(await serve(nursery, handler, shield))
        await transport.send((b"hi",))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert transport.receive_now() is None
        assert transport.is_quiet()
        assert transport.fileno() is not None
        go.set()
        assert await transport.receive() == b"late"
        assert transport.is_quiet()
        end.set()
        assert await transport.receive() == b""
        assert await transport.receive() == b""
        assert transport.receive_now() == b""
        assert not transport.is_quiet()
        transport.close()


async def test_stray_bytes_disqualify_an_idle_connection(shield: Certificate | None, nursery: trio.Nursery) -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        await stream.receive_some(10)
        await stream.send_all(b"stray")
        await trio.sleep_forever()

    with trio.fail_after(DEADLINE_S):
        transport = await Dialer()(await serve(nursery, handler, shield))
        await transport.send((b"hi",))
        fd = transport.fileno()
        assert fd is not None
        while transport.is_quiet():  # TLS session tickets make it readable without data
            await trio.lowlevel.wait_readable(fd)
        transport.close()


async def test_a_reset_is_broken(shield: Certificate | None, nursery: trio.Nursery) -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        await stream.receive_some(10)
        socket_stream = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        assert isinstance(socket_stream, trio.SocketStream)
        SocketPeer(socket_stream).reset()

    with trio.fail_after(DEADLINE_S):
        transport = await Dialer()(await serve(nursery, handler, shield))
        await transport.send((b"hi",))
        with pytest.raises(TransportBroken):
            await transport.receive()
        with pytest.raises(TransportBroken):
            for _ in range(100):
                await transport.send((BIG,))
        assert not transport.is_quiet()
        transport.close()


async def test_closing_wakes_who_waits(shield: Certificate | None, nursery: trio.Nursery) -> None:
    left = trio.Event()

    async def handler(stream: trio.abc.Stream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some(10)
        left.set()

    with trio.fail_after(DEADLINE_S):
        transport = await Dialer()(await serve(nursery, handler, shield))
        async with trio.open_nursery() as inner:

            async def wait() -> None:
                with pytest.raises(TransportBroken):
                    await transport.receive()

            inner.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.01)
            transport.close()
        await left.wait()
        with pytest.raises(TransportBroken):
            await transport.receive()
        with pytest.raises(TransportBroken):
            await transport.send((b"x",))


async def test_a_peer_that_does_not_read_blocks_and_can_be_cancelled(
    shield: Certificate | None, nursery: trio.Nursery
) -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        if isinstance(stream, trio.SSLStream):
            await stream.do_handshake()
        await trio.sleep_forever()

    with trio.fail_after(DEADLINE_S):
        transport = await Dialer()(await serve(nursery, handler, shield))
        with trio.move_on_after(0.1) as scope:
            for _ in range(100):
                await transport.send((BIG,))
        assert scope.cancelled_caught
        transport.close()


async def test_nobody_listens(nursery: trio.Nursery) -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(TransportBroken), trio.fail_after(DEADLINE_S):
            await Dialer()(Origin("127.0.0.1", port, tls=False))


# TLS alone


async def wait_for_hello(stream: trio.abc.Stream) -> None:
    await stream.receive_some(10)


async def test_an_unknown_certificate_is_refused(certificate: Certificate, nursery: trio.Nursery) -> None:
    origin = await serve(nursery, wait_for_hello, certificate)
    with pytest.raises(TransportBroken, match="CERTIFICATE_VERIFY_FAILED"), trio.fail_after(DEADLINE_S):
        await Dialer()(origin._replace(ca_file=None))


async def test_a_certificate_of_another_authority_is_refused(
    certificate: Certificate, tmp_path: Path, nursery: trio.Nursery
) -> None:
    other = make_certificate(tmp_path)
    origin = await serve(nursery, wait_for_hello, certificate)
    with pytest.raises(TransportBroken, match="CERTIFICATE_VERIFY_FAILED"), trio.fail_after(DEADLINE_S):
        await Dialer()(origin._replace(ca_file=str(other.certfile)))


async def test_a_certificate_of_another_name_is_refused(certificate: Certificate, nursery: trio.Nursery) -> None:
    origin = await serve(nursery, wait_for_hello, certificate)
    with pytest.raises(TransportBroken, match="CERTIFICATE_VERIFY_FAILED"), trio.fail_after(DEADLINE_S):
        await Dialer()(origin._replace(host="localhost"))


async def test_a_cleartext_server_is_no_tls_server(certificate: Certificate, nursery: trio.Nursery) -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        await stream.receive_some(10)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    origin = await serve(nursery, handler, None)
    with pytest.raises(TransportBroken, match="TLS handshake failed"), trio.fail_after(DEADLINE_S):
        await Dialer()(origin._replace(tls=True))


async def test_an_end_inside_the_handshake(certificate: Certificate, nursery: trio.Nursery) -> None:
    origin = await serve(nursery, wait_for_hello, None)
    with pytest.raises(TransportBroken), trio.fail_after(DEADLINE_S):
        await Dialer()(origin._replace(tls=True))


async def test_a_silent_handshake_can_be_cancelled(certificate: Certificate, nursery: trio.Nursery) -> None:
    left = trio.Event()

    async def handler(stream: trio.abc.Stream) -> None:
        while await stream.receive_some(65536):
            pass
        left.set()

    origin = await serve(nursery, handler, None)
    with trio.fail_after(DEADLINE_S):
        with trio.move_on_after(0.1) as scope:
            await Dialer()(origin._replace(tls=True))
        assert scope.cancelled_caught
        await left.wait()


async def test_alpn_asks_for_http_1_only(certificate: Certificate, nursery: trio.Nursery) -> None:
    chosen: list[str | None] = []

    async def handler(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        await stream.do_handshake()
        chosen.append(stream.selected_alpn_protocol())

    with trio.fail_after(DEADLINE_S):
        transport = await Dialer()(await serve(nursery, handler, certificate))
        assert await transport.receive() == b""
        transport.close()
    assert chosen == ["http/1.1"]


async def test_tls_records_split_at_every_byte(certificate: Certificate, nursery: trio.Nursery) -> None:
    """A relay that hands the server's bytes on one at a time."""

    async def handler(stream: trio.abc.Stream) -> None:
        await stream.receive_some(10)
        for n in range(20):
            await stream.send_all(b"%02d" % n)

    target = await serve(nursery, handler, certificate)

    async def trickle(stream: trio.abc.Stream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", target.port)
        async with server, trio.open_nursery() as both:
            both.start_soon(_copy, stream, server)
            async for data in server:
                for byte in data:
                    await stream.send_all(bytes([byte]))
            both.cancel_scope.cancel()

    front = await serve(nursery, trickle, None)
    with trio.fail_after(DEADLINE_S):
        transport = await Dialer()(target._replace(port=front.port))
        await transport.send((b"hi",))
        assert await read_all(transport) == b"".join(b"%02d" % n for n in range(20))
        transport.close()


async def _copy(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
    while data := await source.receive_some(65536):
        await sink.send_all(data)


async def test_a_tampered_record_is_broken(certificate: Certificate, nursery: trio.Nursery) -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SSLStream)
        await stream.receive_some(10)
        await stream.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        await trio.sleep_forever()

    with trio.fail_after(DEADLINE_S):
        transport = await Dialer()(await serve(nursery, handler, certificate))
        await transport.send((b"hi",))
        with pytest.raises(TransportBroken, match="TLS failed"):
            await transport.receive()
        transport.close()
