"""Reading on after the client left, for providers that bill a cancelled answer anyway: their usage report is worth it.

A service-owned nursery, bounded in number, time and money. At shutdown the drains are cut and settled as they stand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog
import trio

from gateway.config import Drain
from gateway.dialects.chat_stream import StreamFault
from gateway.dialects.openai_chat import read_answer
from gateway.upstream.answer import Answer
from gateway.upstream.http1 import BadResponse

DRAINS_MAX: Final = 256


class Drainer:
    """`run` is its service task; `take` hands an answer over."""

    def __init__(self, answer_bytes_max: int) -> None:
        self._answer_bytes_max = answer_bytes_max
        self._nursery: trio.Nursery | None = None
        self._count = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the drains until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def __len__(self) -> int:
        return self._count

    def take(self, answer: Answer, policy: Drain, model: str, drained: Callable[[], None]) -> bool:
        """Own `answer` from now on, close it in the end and call `drained` once. False: not taken, too many drain."""
        if self._nursery is None or self._count >= DRAINS_MAX:
            return False
        self._count += 1
        self._nursery.start_soon(self._drain, answer, policy, model, drained)
        return True

    async def _drain(self, answer: Answer, policy: Drain, model: str, drained: Callable[[], None]) -> None:
        try:
            with trio.move_on_after(policy.drain_s):
                if answer.chat is not None:
                    await _read_stream(answer, policy)
                else:
                    await _read_whole(answer, model, self._answer_bytes_max)
        except (StreamFault, BadResponse):
            pass  # what was seen until then is what is settled
        except Exception as exc:  # noqa: BLE001 - a bug in one drain must not end the process
            structlog.get_logger().error("drain_failed", exc_info=exc)
        finally:
            self._count -= 1
            answer.close()
            drained()


async def _read_stream(answer: Answer, policy: Drain) -> None:
    chat = answer.chat
    assert chat is not None
    price = answer.attempt.offer.output
    while not answer.ended and chat.deltas * price < policy.drain_usd:
        answer.advance(await answer.receive())
        await trio.lowlevel.checkpoint()


async def _read_whole(answer: Answer, model: str, bytes_max: int) -> None:
    parts, size = answer.parts, 0
    while not answer.reader.complete and size <= bytes_max:
        parts.append(answer.reader.feed(await answer.receive()))
        size += len(parts[-1])
        await trio.lowlevel.checkpoint()
    if answer.reader.status == 200:
        answer.whole = read_answer(b"".join(parts), model)
        answer.ended = True
