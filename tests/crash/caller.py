"""A client that notes what it was told of each call, and what the call must cost."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import trio

from gateway.core.usage import estimate_prompt_tokens
from tests.crash.site import CHAT, SOON_S, Site, price_of
from tests.crash.upstream import Script
from tests.wire import Answer, Ask, Closed, Cut
from tests.wire_h1 import H1Client, encode
from tests.wire_h2 import H2Client

DONE = b"data: [DONE]\n\n"
_CONTENT = re.compile(rb'"content": ?"w\d+ ')
_ERROR_FRAME = re.compile(rb'^data: (\{.*"finish_reason":"error".*\})$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Told:
    """What a client knows of a call. `price` is pico-USD once the client has its last byte, else None."""

    script: Script
    status: int
    gen_id: str
    price: int | None
    frames: int  # of content that it saw


def question(secret: str, script: Script, *headers: tuple[bytes, bytes], **fields: object) -> Ask:
    """The call as a request."""
    own = ((b"authorization", b"Bearer " + secret.encode()), (b"content-type", b"application/json"))
    return Ask("POST", CHAT, (*own, *headers), script.body(**fields))


async def call(
    stream: trio.abc.Stream, secret: str, script: Script, *headers: tuple[bytes, bytes], **fields: object
) -> Told:
    """Make a call and read its answer to the end, or to where it breaks. Raises Closed when nothing came."""
    asked = question(secret, script, *headers, **fields)
    client = H1Client(stream)
    try:
        await stream.send_all(encode(asked))
        answer = await client.answer()
    except (trio.BrokenResourceError, Cut):
        raise Closed from None
    return told(script, asked, answer)


async def call_once(site: Site, secret: str, script: Script, *headers: tuple[bytes, bytes], **fields: object) -> Told:
    """A call on a connection of its own."""
    with trio.fail_after(SOON_S):
        async with await site.connect() as stream:
            return await call(stream, secret, script, *headers, **fields)


async def call_h2(stream: trio.abc.Stream, secret: str, script: Script) -> Told:
    """The same over HTTP/2, on a connection of its own."""
    asked = question(secret, script)
    return told(script, asked, await H2Client(stream).ask(asked))


def told(script: Script, asked: Ask, answer: Answer) -> Told:
    """What an answer says."""
    gen_id = answer.header("x-generation-id") or ""
    frames = len(_CONTENT.findall(answer.body))
    return Told(script, answer.status, gen_id, _price(script, asked, answer), frames)


def _price(script: Script, asked: Ask, answer: Answer) -> int | None:
    if answer.status != 200:
        return 0 if answer.end == "whole" else None
    error = _ERROR_FRAME.search(answer.body)
    if script.stream and error:  # a broken stream costs what the error frame says was used
        usage = json.loads(error[1])["usage"]
        return price_of(usage["prompt_tokens"], usage["completion_tokens"])
    if answer.body.endswith(DONE) if script.stream else answer.end == "whole":
        if script.usage:
            return price_of(script.prompt, script.completion)
        assert asked.body is not None
        return price_of(estimate_prompt_tokens(asked.body), script.frames)
    return None


async def leave(stream: trio.abc.Stream, secret: str, script: Script, *, after_frames: int) -> None:
    """Make a streaming call and go away once so many frames of content came. The caller closes the stream."""
    client = H1Client(stream)
    await stream.send_all(encode(question(secret, script)))
    seen = b""
    try:
        status, _ = await client.head()
        while status == 200 and len(_CONTENT.findall(seen)) < after_frames and not seen.endswith(b"\r\n0\r\n\r\n"):
            seen += await client.body_bytes(1)
    except (Closed, Cut):
        return
