"""The client leaves, over every lane: the provider's connection is closed within a second, and the record says why."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import trio

from tests.lanes import LANES, Lane, OpenLane, make_certificate
from tests.leaving_upstream import LeavingUpstream
from tests.process import GatewayProcess
from tests.serving import SOON_S, call, config_text, first_key, gateway, rows, wait_rows
from tests.wire import Ask
from tests.wire_h1 import H1Client, encode
from tests.wire_h2 import H2Client

LEFT_S = 1.0
ENDLESS = """
[providers.endless]
base_url = "http://127.0.0.1:PORT/v1"
api_key = "unused"
on_disconnect = "cancel"

[[models]]
id = "t/endless"
context_window = 8192
offers = [ { provider = "endless", model = "upstream", input = "1.00", output = "1.00" } ]
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway on one lane, its provider's socket, and a key."""

    lane: OpenLane
    process: GatewayProcess
    listening: socket.socket
    key: str


@pytest.fixture(scope="module", params=LANES, ids=lambda lane: lane.name)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    lane: Lane = request.param
    folder = tmp_path_factory.mktemp(lane.name)
    certificate = make_certificate(folder)
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server = lane.server_toml.replace("CERT", str(certificate.certfile)).replace("KEY", str(certificate.keyfile))
        text = config_text(server=server) + ENDLESS.replace("PORT", str(listening.getsockname()[1]))
        process = stack.enter_context(gateway(folder, text))
        yield Running(OpenLane(lane, process.url, certificate), process, listening, first_key(process))


async def _left_within(running: Running, upstream: LeavingUpstream) -> None:
    """The provider's connection ends in time, and one record says that the client went."""
    before = len(rows(running.process))
    with trio.fail_after(LEFT_S):
        await upstream.left.wait()
    found = await wait_rows(running.process, before + 1)
    assert found[-1]["ended"] == "client_gone"
    assert len(found) == before + 1


async def _begin(client: H1Client | H2Client, question: Ask, upstream: LeavingUpstream, *, stream: bool) -> None:
    """Send the call, and wait until it is under way at the provider (and its first content here)."""
    with trio.fail_after(SOON_S):
        if isinstance(client, H2Client):
            await client.send(question)
        else:
            await client.stream.send_all(encode(question))
        await upstream.asked.wait()
        if not stream:
            return
        if isinstance(client, H2Client):
            assert b"tick" in (await client.content(10)).body
        else:
            assert (await client.head())[0] == 200
            assert b"tick" in await client.body_bytes(10)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_closed_connection(running: Running, stream: bool) -> None:
    upstream = LeavingUpstream(running.listening)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: upstream.run(stream=stream))
        async with running.lane.connect() as connection:
            client = running.lane.client(connection)
            await _begin(client, call(running.key, model="t/endless", stream=stream), upstream, stream=stream)
        await _left_within(running, upstream)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_half_close_or_a_reset(running: Running, stream: bool) -> None:
    """HTTP/1.1 says it by FIN while it would still read; HTTP/2 by RST_STREAM, its connection staying open."""
    upstream = LeavingUpstream(running.listening)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: upstream.run(stream=stream))
        async with running.lane.connect() as connection:
            client = running.lane.client(connection)
            await _begin(client, call(running.key, model="t/endless", stream=stream), upstream, stream=stream)
            if isinstance(client, H2Client):
                await client.reset()
            else:
                raw = connection.transport_stream if isinstance(connection, trio.SSLStream) else connection
                assert isinstance(raw, trio.SocketStream)
                await raw.send_eof()
            await _left_within(running, upstream)


async def test_a_client_that_stays_is_not_taken_for_gone(running: Running) -> None:
    upstream = LeavingUpstream(running.listening)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: upstream.run(stream=True))
        async with running.lane.connect() as connection:
            client = running.lane.client(connection)
            await _begin(client, call(running.key, model="t/endless", stream=True), upstream, stream=True)
            with trio.move_on_after(LEFT_S) as waited:
                await upstream.left.wait()
            assert waited.cancelled_caught
        await _left_within(running, upstream)
