"""Hostile requests against `gateway serve`, on each lane: what ended a stock server, and its family.

Every one is told what is wrong, or loses its own stream or connection; the sibling's stream and the process go on.
"""

from __future__ import annotations

import json
import re
import ssl

import pytest
import trio
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, PriorityFrame

from tests.hostile.gateway import CHAT, Target, beside_sibling, chat_body
from tests.hostile.peer import Answer, Field, Peer, head
from tests.lanes import OpenLane
from tests.wire import Ask, read, write

LANES = [
    ("shipped", "express"), ("shipped", "h2"), ("hypercorn", "hypercorn-h1"), ("tls", "tls-h1"), ("tls", "tls-h2"),
]  # fmt: skip
H1 = [lane for lane in LANES if not lane[1].endswith("h2")]
H2 = [lane for lane in LANES if lane[1].endswith("h2")]


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    """The gateway of the lane under test."""
    found: Target = request.getfixturevalue(request.param)
    return found


def on(lanes: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """Run a test on these lanes."""
    return pytest.mark.parametrize(("target", "lane"), lanes, indirect=["target"], ids=[name for _, name in lanes])


async def send_h1(lane: OpenLane, request: bytes, within_s: float = 8) -> bytes:
    """Send raw bytes; everything that comes until the server closes."""
    reply = bytearray()
    with trio.fail_after(within_s):
        async with lane.connect() as stream:
            await write(stream, request)
            while data := await read(stream):
                reply += data
    return bytes(reply)


def auth(target: Target) -> Field:
    return (b"authorization", b"Bearer " + target.key.encode())


WRONG_HEADS: list[tuple[str, list[Field], set[str | None]]] = [
    ("path-not-utf8", head(b"/\xff\xfe"), {"400"}),
    ("method-not-ascii", head(CHAT.encode(), b"G\xffT"), {"400"}),
    ("connect-without-path", [(b":method", b"CONNECT"), (b":authority", b"x:1")], {"405"}),
    ("connect-protocol", [*head(b"/\xff", b"CONNECT"), (b":protocol", b"foo")], {None}),
    ("path-missing", [field for field in head(b"/") if field[0] != b":path"], {None}),
    ("length-letters", [*head(CHAT.encode(), b"POST"), (b"content-length", b"abc")], {None}),
    ("length-endless", [*head(CHAT.encode(), b"POST"), (b"content-length", b"9" * 6_000)], {None, "400", "413", "401"}),
    ("length-superscript", [*head(CHAT.encode(), b"POST"), (b"content-length", b"\xb2")], {None, "400"}),
    ("value-newline", [*head(b"/health"), (b"a", b"b\r\nc: d")], {None}),
    ("authority-not-ascii", [*head(b"/health")[:3], (b":authority", b"\xff")], {"400"}),
]


@on(H2)
async def test_a_wrong_head_costs_its_own_stream(target: Target, lane: str) -> None:
    async def assault() -> None:
        async with target.lane(lane).connect() as stream:
            peer = await Peer.over(stream)
            for number, (name, fields, statuses) in enumerate(WRONG_HEADS):
                stream_id = 4 * number + 1
                await peer.send(peer.headers(stream_id, [*fields, auth(target)]))
                answer = await peer.answer(stream_id)
                assert answer.status in statuses, (name, answer)
                assert answer.status or answer.reset == ErrorCodes.PROTOCOL_ERROR, (name, answer)
                await peer.get(stream_id + 2, b"/health")
                assert (await peer.answer(stream_id + 2)).status == "200", name
            assert peer.goaway is None

    await beside_sibling(target, assault)


@on(H2)
@pytest.mark.parametrize("refusal", ["401", "413"])
async def test_a_body_after_its_refusal_is_dropped_and_credited(target: Target, lane: str, refusal: str) -> None:
    async def assault() -> None:
        extra: list[Field] = [(b"content-length", b"99999999")] + ([auth(target)] if refusal == "413" else [])
        async with target.lane(lane).connect() as stream:
            peer = await Peer.over(stream)
            await peer.send(peer.headers(1, [*head(CHAT.encode(), b"POST"), *extra], end=False))
            answer = await peer.answer(1)
            assert answer.status == refusal
            assert b'"error"' in answer.body
            await peer.send(*(DataFrame(1, b"x" * 1_000) for _ in range(60)))
            await peer.get(3, b"/health")
            assert (await peer.answer(3)).status == "200"
            await peer.until(lambda: peer.answers[0].credited_bytes > 0 or answer.credited_bytes > 0)
            assert not peer.closed

    await beside_sibling(target, assault)


@on(H2)
async def test_priorities_of_idle_streams_are_ignored(target: Target, lane: str) -> None:
    async def assault() -> None:
        async with target.lane(lane).connect() as stream:
            peer = await Peer.over(stream)
            await peer.send(*(PriorityFrame(number) for number in range(1, 2 * 1_900, 2)))
            await peer.get(4_001, b"/health")
            answer: Answer = await peer.answer(4_001)
            assert answer.status == "200" or peer.goaway == ErrorCodes.ENHANCE_YOUR_CALM

    await beside_sibling(target, assault)


H2C = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: %s\r\n\r\n"
WEBSOCKET = (
    b"GET /%ff%fe?%ff HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x00\x01garbage"
)
POST = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: x\r\n"
SMUGGLE = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWERED_ONCE = [
    ("h2c-not-base64", H2C % b"!!!notb64", 400), ("h2c-bad-settings", H2C % b"AAX__w__AAT_____", 400),
    ("websocket", WEBSOCKET, 400), ("smuggled", POST + b"Authorization: Bearer KEY\r\n" + SMUGGLE, 400),
    ("expect-without-key", POST + b"Content-Length: 3000000\r\nExpect: 100-continue\r\n\r\n", 401),
    ("too-large", POST + b"Authorization: Bearer KEY\r\nContent-Length: 99999999999\r\n\r\n", 413),
]  # fmt: skip


@on(H1)
async def test_a_hostile_head_is_answered_once_and_closed(target: Target, lane: str) -> None:
    async def assault() -> None:
        for name, request, status in ANSWERED_ONCE:
            reply = await send_h1(target.lane(lane), request.replace(b"KEY", target.key.encode()))
            assert reply.startswith(b"HTTP/1.1 %d " % status), (name, reply[:200])
            assert len(re.findall(rb"HTTP/1\.1 \d", reply)) == 1, (name, reply)
            assert b"\r\nx-request-id: " in reply, name

    await beside_sibling(target, assault)


async def test_tls_without_alpn_upgrades_to_nothing(tls: Target) -> None:
    async def assault() -> None:
        certificate = tls.lanes[0].certificate
        assert certificate is not None
        context = ssl.create_default_context(cafile=certificate.certfile)
        for settings in (b"!!!notb64", b"AAX__w__AAT_____"):
            raw = await trio.open_tcp_stream("127.0.0.1", tls.port)
            stream = trio.SSLStream(raw, context, server_hostname="127.0.0.1", https_compatible=True)
            await write(stream, H2C % settings)
            assert (await read(stream)).startswith(b"HTTP/1.1 400 ")
            await trio.aclose_forcefully(stream)

    await beside_sibling(tls, assault)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70_000, b""]
)
async def test_what_is_no_tls_handshake_is_closed(tls: Target, garbage: bytes) -> None:
    async def assault() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", tls.port) as stream:
            await write(stream, garbage)
            while await read(stream):
                pass

    await beside_sibling(tls, assault)


def raw_body(text: bytes) -> bytes:
    """A request that is honest but for one more field."""
    return b'{"model":"sim/words","messages":[{"role":"user","content":"Hi"}],' + text + b"}"


ODD_LIMITS = (b"-1", b"9223372036854775808", b"true", b'"5"')
BODIES: list[tuple[str, bytes, set[int]]] = [
    ("deep-bare", b"[" * 100_000, {400}),
    ("deep-field", raw_body(b'"x":' + b"[" * 100_000 + b"]" * 100_000), {400}),
    ("deep-messages", b'{"model":"sim/words","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {400}),
    ("digits-max-tokens", raw_body(b'"max_tokens":' + b"1" * 1_000_000), {400}),
    ("digits-unread", raw_body(b'"seed":' + b"1" * 1_000_000), {200, 400}),
    ("infinite", raw_body(b'"max_tokens":1e999'), {400}),
    ("nan", raw_body(b'"temperature":NaN'), {400}),
    ("model-twice", raw_body(b'"model":"no/such"'), {404}),
    ("surrogate-model", b'{"model":"\\ud800","messages":[{"role":"user","content":"Hi"}]}', {400}),
    ("surrogate-content", raw_body(b'"user":"\\ud800"'), {200, 400}),
    ("utf-16", chat_body("sim/words").decode().encode("utf-16"), {400}),
    ("bom", b"\xef\xbb\xbf" + chat_body("sim/words"), {200, 400}),
    ("not-utf8", raw_body(b'"user":"\xff"'), {400}),
    *((f"max-tokens-{n}", raw_body(b'"max_tokens":' + v), {400}) for n, v in enumerate(ODD_LIMITS)),
    ("max-tokens-billion", raw_body(b'"max_tokens":1000000000'), {200, 400}),
    ("stream-options-odd", raw_body(b'"stream":true,"stream_options":[1]'), {400}),
    ("nul", raw_body(b'"user":"\\u0000"'), {200}),
    ("empty", b"", {400}), ("null", b"null", {400}), ("string", b'"x"', {400}),
]  # fmt: skip


@on(LANES)
async def test_hostile_json_is_refused_by_a_rule(target: Target, lane: str) -> None:
    async def assault() -> None:
        for name, body, statuses in BODIES:
            answer = await target.lane(lane).ask(target.ask(body))
            assert answer.status in statuses, (name, answer.status, answer.body[:300])
            assert answer.end == "whole", name
            assert "error" in json.loads(answer.body) or answer.status == 200, name

    await beside_sibling(target, assault)


async def test_a_revoked_key_is_refused_within_a_second(hypercorn: Target) -> None:
    async def assault() -> None:
        created = await trio.to_thread.run_sync(hypercorn.process.create_key, "doomed")
        ask = Ask("POST", CHAT, ((b"authorization", b"Bearer " + created.secret.encode()),), chat_body("sim/words"))
        lane = hypercorn.lanes[0]
        with trio.fail_after(2):
            while (await lane.ask(ask)).status != 200:  # noqa: ASYNC110 - another process
                await trio.sleep(0.05)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(lane.ask, ask)
            done = await trio.to_thread.run_sync(hypercorn.process.command, "keys", "revoke", created.id)
            assert done.returncode == 0, done.stderr
            with trio.fail_after(1.5):  # a second, and the time of a whole answer
                while (await lane.ask(ask)).status != 401:  # noqa: ASYNC110 - another process
                    await trio.sleep(0.02)
        assert (await lane.ask(hypercorn.ask(chat_body("sim/words")))).status == 200

    await beside_sibling(hypercorn, assault)
