"""One attempt: borrow a connection, send the request, read until the first content (or the whole body), or fail.

Everything up to here is invisible to the client, so each failure is an `AttemptFailed` with what it means for the
other attempts. A failed or cancelled attempt has closed its socket by the time it returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from gateway.config import Timeouts, Upstream
from gateway.core.call import Attempt
from gateway.dialects.chat_stream import ChatStream, StreamFault
from gateway.dialects.costs import PriceUsage
from gateway.dialects.openai_chat import ChatAnswer, read_answer
from gateway.dialects.refusal import read_refusal
from gateway.errors import AttemptFailed
from gateway.upstream.answer import Answer
from gateway.upstream.http1 import BadResponse, ResponseReader, parse_retry_after_s
from gateway.upstream.pool import Lease, Pool
from gateway.upstream.transport import TransportBroken

READS_PER_CHECKPOINT: Final = 32  # a socket that is always ready must not starve the other tasks
ERROR_BODY_BYTES_MAX: Final = 64 * 1024
ERROR_BODY_S: Final = 2.0  # to read why a provider said no
_CALL_STATUSES: Final = frozenset({400, 409, 413, 422})  # the request is at fault: no other attempt can help
_KEY_STATUSES: Final = frozenset({401, 402, 403, 429})  # our key is at fault: another key may do


@dataclass(frozen=True, slots=True)
class Runner:
    """What attempts need of the process and of the snapshot."""

    pool: Pool
    timeouts: Timeouts
    limits: Upstream
    wall_clock: Callable[[], float]


async def run_attempt(
    runner: Runner,
    attempt: Attempt,
    body: bytes,
    *,
    model: str,
    stream: bool,
    usage: bool,
    price: PriceUsage | None = None,
    sent: Callable[[], None] = lambda: None,
    abandon: Callable[[Answer], bool] = lambda _answer: False,
) -> Answer:
    """Run one attempt to its first content. `model` is our id; `usage` whether the client asked for the usage chunk,
    `price` when it asked for the cost. `sent` is called when the request is on its way.

    When it is cancelled, `abandon` may take the answer over (True) to read on; else its socket is closed.
    Raises AttemptFailed.
    """
    lease = runner.pool.acquire_warm(attempt.origin) or await _connect(runner, attempt)
    chat = None
    if stream:
        frame_bytes_max = runner.limits.stream_frame_bytes_max
        chat = ChatStream(model, keep_usage=usage, frame_bytes_max=frame_bytes_max, price=price)
    answer = Answer(attempt, lease, ResponseReader(), chat)
    limit_s = runner.timeouts.first_content_s if stream else runner.timeouts.answer_s
    try:
        with trio.move_on_after(limit_s):
            raw = await _send_and_hear(runner, answer, body, sent)
            await _read_answer(runner, answer, raw, model)
            return answer
        raise AttemptFailed("first_content_timeout" if stream else "answer_timeout")
    except trio.Cancelled:
        if not abandon(answer):
            answer.close()
        raise
    except BaseException:
        answer.close()
        raise


async def _connect(runner: Runner, attempt: Attempt) -> Lease:
    try:
        with trio.fail_after(runner.timeouts.connect_s):
            return await runner.pool.acquire(attempt.origin)
    except trio.TooSlowError:
        full = runner.pool.is_full(attempt.origin)
        raise AttemptFailed("pool_full" if full else "connect_timeout") from None
    except TransportBroken:
        raise AttemptFailed("connect_error") from None


async def _send_and_hear(runner: Runner, answer: Answer, body: bytes, sent: Callable[[], None]) -> bytes:
    """Send the request, return the first bytes heard. A warm connection that turns out dead is replaced once."""
    head = b"%b%d\r\n\r\n" % (answer.attempt.head, len(body))
    while True:
        transport = answer.lease.transport
        raw = b""
        try:
            try:
                await transport.send((head, body))
                sent()
            except TransportBroken:
                pass  # a refusal may have come before the body was read
            raw = await transport.receive()
        except TransportBroken:
            pass
        if raw:
            return raw
        if not answer.lease.reused:
            raise AttemptFailed("no_answer")
        answer.lease.close()
        answer.lease = await _connect(runner, answer.attempt)


async def _read_answer(runner: Runner, answer: Answer, raw: bytes, model: str) -> None:
    reader = answer.reader
    try:
        first = reader.feed(raw)
        while not reader.headers_done:
            first = reader.feed(await answer.lease.transport.receive())
    except (BadResponse, TransportBroken):
        raise AttemptFailed("bad_response") from None
    if not 200 <= reader.status < 300:
        await _fail_status(runner, answer, first)
    if reader.encoding not in {b"", b"identity"}:
        raise AttemptFailed("content_encoding", status=reader.status)
    if answer.chat is None or not reader.content_type.startswith(b"text/event-stream"):
        body = await _read_body(answer, first, runner.limits.answer_bytes_max)
        answer.whole = _whole(body, model, reader.status)
        if answer.chat is not None:
            raise AttemptFailed("not_a_stream", status=reader.status)
        answer.ended = True
    else:
        await _read_to_content(answer, answer.chat, first, runner.limits.stream_frame_bytes_max)


def _whole(body: bytes, model: str, status: int) -> ChatAnswer:
    try:
        return read_answer(body, model)
    except StreamFault as fault:
        raise AttemptFailed(fault.outcome, status=status) from None


async def _read_to_content(answer: Answer, chat: ChatStream, first: bytes, pending_bytes_max: int) -> None:
    """The commit gate: hold every frame back until one has content; until then another provider can take over."""
    out, reads, pending = [], 0, 0
    try:
        piece = chat.feed(first) if first else b""
        if chat.done or answer.reader.complete:
            piece += chat.end()
            answer.ended = True
        while True:
            out.append(piece)
            pending += len(piece)
            if chat.content_seen:
                break
            if answer.ended:
                raise AttemptFailed("empty", status=200)
            if pending > pending_bytes_max:
                raise AttemptFailed("frame_too_large", status=200)
            reads += 1
            if reads % READS_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
            piece = answer.advance(await answer.receive())
    except StreamFault as fault:
        raise AttemptFailed(fault.outcome, status=fault.status or 200) from None
    answer.pending = b"".join(out)


async def _read_body(answer: Answer, first: bytes, bytes_max: int) -> bytes:
    answer.parts = parts = [first]  # kept where a drain finds them
    size, reads = len(first), 0
    reader, transport = answer.reader, answer.lease.transport
    try:
        while not reader.complete:
            piece = reader.feed(await transport.receive())
            parts.append(piece)
            size += len(piece)
            if size > bytes_max:
                raise AttemptFailed("answer_too_large", status=reader.status)
            reads += 1
            if reads % READS_PER_CHECKPOINT == 0:
                await trio.lowlevel.checkpoint()
    except (BadResponse, TransportBroken):
        raise AttemptFailed("cut", status=reader.status) from None
    return first if len(parts) == 1 else b"".join(parts)


async def _fail_status(runner: Runner, answer: Answer, first: bytes) -> None:
    """Turn an error status into what it means for the race. Raises AttemptFailed, always."""
    reader = answer.reader
    status = reader.status
    outcome = f"status_{status}"
    retry_after_s = parse_retry_after_s(reader.retry_after, runner.wall_clock())
    text = b""
    with trio.move_on_after(ERROR_BODY_S):
        try:
            text = await _read_body(answer, first, ERROR_BODY_BYTES_MAX)
            answer.ended = True  # a complete answer: the connection is as good as before
        except AttemptFailed:
            text = b""
    answer.close()
    if status in _CALL_STATUSES:
        refusal = read_refusal(status, text, provider=answer.attempt.provider, secret=answer.attempt.api_key)
        raise AttemptFailed(outcome, status=status, reach="call", refusal=refusal)
    reach = "key" if status in _KEY_STATUSES else "provider"
    raise AttemptFailed(outcome, status=status, reach=reach, retry_after_s=retry_after_s)
