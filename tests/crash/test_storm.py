"""Storms of clients that leave, at every stage of a call and in every way: nothing stays held, open or unrecorded.

Every stage has a key of its own, so that its records are known. The provider waits in mid-answer until it is left,
which is how it shows that the gateway closed its connection.
"""

from __future__ import annotations

import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from h2.exceptions import StreamClosedError

from gateway.core.usage import estimate_prompt_tokens
from gateway.store.keys import KeyTerms
from tests.crash.caller import call, question
from tests.crash.site import SOON_S, Site, holds_true, open_site, price_of
from tests.crash.upstream import Script
from tests.wire import Answer, Ask
from tests.wire_h1 import H1Client, encode
from tests.wire_h2 import STREAM, H2Client, pseudo_headers

EACH = 16  # clients of a stage
FRAMES = 4  # that a provider sends before it waits
BIG_BYTES = 8 * 1024 * 1024  # about what the sockets between us hold
TOO_BIG_BYTES = 32 * 1024 * 1024  # more than that
WORD = re.compile(rb'"content": ?"w\d+ ')
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s

WAITING = {"waits": True}
STREAMING = {"stream": True, "frames": 9, "waits_after": FRAMES}
SHORT = {"stream": True, "frames": FRAMES}
BIG = {"text_bytes": BIG_BYTES}


@dataclass(frozen=True, slots=True)
class Stage:
    """When and how a client leaves. `until`: body (half sent), asked (the provider has it), content, byte (the first)."""

    lane: str
    until: str
    how: str  # close, half-close, reset; on HTTP/2 also cancel: RST_STREAM
    script: dict[str, Any]

    @property
    def name(self) -> str:
        kind = "big" if self.script is BIG else "short" if self.script is SHORT else ""
        return f"{self.lane} {self.until} {self.how} {kind}".strip()


H1 = [Stage("h1", "body", how, WAITING) for how in ("close", "half-close", "reset")]
H1 += [Stage("h1", "asked", how, WAITING) for how in ("close", "half-close", "reset")]
H1 += [Stage("h1", "content", how, STREAMING) for how in ("close", "half-close", "reset")]
H1 += [Stage("h1", "byte", how, SHORT) for how in ("close", "reset")]
H1 += [Stage("h1", "byte", how, BIG) for how in ("close", "half-close", "reset")]
H2 = [Stage("h2", "body", how, WAITING) for how in ("close", "cancel")]
H2 += [Stage("h2", "asked", how, WAITING) for how in ("close", "cancel", "reset")]
H2 += [Stage("h2", "content", how, STREAMING) for how in ("close", "cancel", "reset")]
H2 += [Stage("h2", "byte", how, SHORT) for how in ("close", "cancel")]
H2 += [Stage("h2", "byte", how, BIG) for how in ("close", "cancel")]


class HalfH2(H2Client):
    """Can stop in the middle of a body."""

    async def send_half(self, ask: Ask) -> None:
        assert ask.body is not None
        self._h2.initiate_connection()
        self._h2.send_headers(STREAM, pseudo_headers(ask, "http"))
        self._h2.send_data(STREAM, ask.body[: len(ask.body) // 2])
        await self._flush()


async def _leave(site: Site, stage: Stage, secret: str, script: Script) -> int:
    """One client; how many frames of content it saw."""
    asked = question(secret, script)
    stream = await site.connect()
    try:
        if stage.lane == "h2":
            return await _leave_h2(site, stage, stream, asked, script)
        return await _leave_h1(site, stage, stream, asked, script)
    finally:
        if stage.how == "reset":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        with trio.CancelScope(shield=True):
            await stream.aclose()


async def _leave_h1(site: Site, stage: Stage, stream: trio.SocketStream, asked: Ask, script: Script) -> int:
    seen = b""
    if stage.until == "body":
        asked = replace(asked, headers=(*asked.headers, (b"expect", b"100-continue")))
        head, end, body = encode(asked).partition(b"\r\n\r\n")
        await stream.send_all(head + end)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(body[: len(body) // 2])
    else:
        await stream.send_all(encode(asked))
    if stage.until == "asked":
        await holds_true(lambda: site.upstream.seen[script.number])
    elif stage.until != "body":
        while not (len(WORD.findall(seen)) >= FRAMES if stage.until == "content" else seen):
            seen += await stream.receive_some()
    if stage.how == "half-close":
        await stream.send_eof()
        with suppress(trio.BrokenResourceError):
            while data := await stream.receive_some():
                seen += data if stage.script is not BIG else b""
    return len(WORD.findall(seen))


async def _leave_h2(site: Site, stage: Stage, stream: trio.SocketStream, asked: Ask, script: Script) -> int:
    client, answer = HalfH2(stream), None
    if stage.until == "body":
        await client.send_half(asked)
    else:
        await client.send(asked)
    if stage.until == "asked":
        await holds_true(lambda: site.upstream.seen[script.number])
    elif stage.until == "byte":
        answer = await client.content(1)
    while stage.until == "content" and (answer is None or len(WORD.findall(answer.body)) < FRAMES):
        answer = await client.content(1 if answer is None else len(answer.body) + 1)
    if stage.how == "cancel":  # the connection stays open until that alone has had its effect
        with suppress(StreamClosedError):
            await client.reset()
        if stage.until in {"asked", "content"}:
            await holds_true(lambda: script.number in site.upstream.broken_off)
    return 0 if answer is None else len(WORD.findall(answer.body))


def _check_record(stage: Stage, record: dict[str, Any], estimates: set[int], seen: int) -> None:
    """What was charged is what was seen: nothing before content, deltas in a stream, what was reported of a whole."""
    used = record["prompt_tokens"], record["completion_tokens"]
    assert record["hold_pico_usd"] > 0 or stage.until == "body"
    if stage.until in {"body", "asked"}:
        assert (record["ended"], record["cost_pico_usd"], used) == ("client_gone", 0, (0, 0))
        return
    assert record["cost_pico_usd"] == price_of(*used)
    if record["usage_estimated"]:
        assert record["ended"] == "client_gone"
        assert used[0] in estimates
        assert max(1, seen) <= used[1] <= FRAMES
    else:
        assert stage.until == "byte"
        assert used == (10, 5)
    if stage.until == "content":
        assert used[1] == FRAMES


async def _storm(site: Site, stages: list[Stage]) -> None:
    account = site.account("acme", usd=1000)
    keys = {stage.name: site.key(account, stage.name, KeyTerms(concurrency=EACH)) for stage in stages}
    scripts = {
        stage.name: [Script(1000 + 100 * at + n, **stage.script) for n in range(EACH)]
        for at, stage in enumerate(stages)
    }
    seen: dict[str, list[int]] = {stage.name: [] for stage in stages}
    await site.start()

    async def one(stage: Stage, script: Script) -> None:
        seen[stage.name].append(await _leave(site, stage, keys[stage.name].secret, script))

    with trio.fail_after(6 * SOON_S):
        async with trio.open_nursery() as nursery:
            for number in range(EACH):
                for stage in stages:
                    nursery.start_soon(one, stage, scripts[stage.name][number])
        await holds_true(lambda: not site.upstream.under_way)
    levels = await site.at_rest()
    for name in ("credit_held_usd", "streams_pumped", "request_bodies_held_bytes", "drains"):
        assert levels[f"gateway_{name}"] == 0, name
    for stage in stages:
        records = site.records(keys[stage.name].id)
        # A stream that is reset in the same read as it is opened never becomes a call.
        assert len(records) == EACH or (stage.lane, stage.until) == ("h2", "body"), stage.name
        assert len(records) <= EACH, stage.name
        estimates = {estimate_prompt_tokens(script.body()) for script in scripts[stage.name]}
        for record in records:
            _check_record(stage, record, estimates, min(seen[stage.name]))
    site.check_books()
    spent = sum(record["cost_pico_usd"] for record in site.records())
    assert site.balance(account) == 1000 * 10**12 - spent
    assert spent > 0
    await _all_places_are_free(site, [key.secret for key in keys.values()])
    await site.stop()


async def _all_places_are_free(site: Site, secrets: list[str]) -> None:
    """Each key may have as many calls at once as before, and they go well."""
    statuses: list[int] = []

    async def one(secret: str, number: int) -> None:
        async with await site.connect() as stream:
            statuses.append((await call(stream, secret, Script(number))).status)

    with trio.fail_after(3 * SOON_S):
        for secret in secrets:
            async with trio.open_nursery() as nursery:
                for number in range(EACH):
                    nursery.start_soon(one, secret, number)
    assert statuses == [200] * EACH * len(secrets)


@pytest.mark.parametrize("stages", [H1, H2], ids=["h1", "h2"])
async def test_a_storm_of_leaving_clients(tmp_path: Path, stages: list[Stage]) -> None:
    async with open_site(tmp_path) as site:
        await _storm(site, stages)


@pytest.mark.parametrize("leaves", [True, False], ids=["at the last bytes", "never"])
async def test_a_retry_with_the_same_idempotency_key_is_not_charged_again(tmp_path: Path, leaves: bool) -> None:
    """The client lost its connection while the end of the answer was on its way: the case the header is for."""
    key_header = (b"idempotency-key", b"order-17")
    async with open_site(tmp_path) as site:
        key = site.key(site.account("acme", usd=1))
        script = Script(1, text_bytes=TOO_BIG_BYTES)
        asked = question(key.secret, script, key_header)
        await site.start()
        async with await site.connect() as stream:
            if leaves:
                await stream.send_all(encode(asked))
                await stream.receive_some(1000)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            else:
                assert (await H1Client(stream).ask(asked)).status == 200
        await site.at_rest()
        assert [record["ended"] for record in site.records()] == ["client_gone" if leaves else "complete"]
        assert sum(site.charges().values()) == price_of(10, 5)
        with trio.fail_after(SOON_S):
            async with await site.connect() as stream:
                again: Answer = await H1Client(stream).ask(asked)
        assert again.status in {200, 409}
        assert site.upstream.seen == {1: 1}
        await site.at_rest()
        assert sum(site.charges().values()) == price_of(10, 5)
