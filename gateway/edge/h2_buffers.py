"""What waits to be sent on one HTTP/2 connection: a bounded buffer per stream, and whose turn it is.

Hypercorn's own buffer wakes its writer whenever little was *taken*, and nothing is taken at a closed window, so a
client that never opens one makes the buffer grow without end. Here the writer sleeps until the buffer itself is
short. A reader that takes almost nothing for `stall_s` is refused (`BufferStalledError`).

Turns are plain round robin: RFC 9113 section 5.3 deprecates the priority tree, and its nodes for idle streams were
a way to fill it.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import trio
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BUFFER_LOW_WATER, BufferCompleteError, StreamBuffer
from hypercorn.typing import Event
from priority.priority import DeadlockError, MissingStreamError, PriorityTree

# Below this many bytes taken in a stall period a reader counts as stalled: one byte every nine seconds is no reader.
PROGRESS_BYTES_MIN = 1_024


class BufferStalledError(Exception):
    """The client took less than `PROGRESS_BYTES_MIN` for the whole stall period."""


class GuardedStreamBuffer(StreamBuffer):
    """The bytes of one response not yet in frames. `aborted` says that its end is a reset."""

    def __init__(self, event_class: type[Event], stall_s: float = math.inf) -> None:
        super().__init__(event_class)
        self.aborted = False
        self._stall_s = stall_s
        self._popped_bytes = 0
        self._closed = event_class()

    async def close(self) -> None:
        """Drop what is left and wake whoever waits."""
        await super().close()
        await self._closed.set()

    async def push(self, data: bytes) -> None:
        """Add `data`, then wait while the buffer is at its high-water mark.

        Raises:
            BufferCompleteError: the stream has ended.
            BufferStalledError: the client stopped reading.
        """
        if self._complete:
            raise BufferCompleteError
        self.buffer.extend(data)
        await self._is_empty.clear()
        while len(self.buffer) >= BUFFER_HIGH_WATER and not self._complete:
            await self._paused.clear()
            await self._wait(self._paused)

    async def drain(self) -> None:
        """Wait until all is in frames, and the end too if it is known. Raises BufferStalledError.

        An empty buffer is not enough at the end: END_STREAM has to be out before a stop says goodbye.
        """
        await self._wait(self._closed if self._complete else self._is_empty)

    async def pop(self, max_length: int) -> bytes:
        """Take up to `max_length` bytes; never checkpoints."""
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        self._popped_bytes += len(data)
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data

    async def _wait(self, event: Event) -> None:
        while True:
            before_bytes = self._popped_bytes
            with trio.move_on_after(self._stall_s):
                await event.wait()
                return
            if self._popped_bytes - before_bytes < PROGRESS_BYTES_MIN:
                raise BufferStalledError


class RoundRobin(PriorityTree):
    """Whose turn it is: the streams with something to send, each in its turn, whatever the client prefers."""

    def __init__(self) -> None:
        super().__init__()
        self._ready: OrderedDict[int, None] = OrderedDict()
        self._known: set[int] = set()

    def insert_stream(
        self,
        stream_id: int,
        depends_on: int | None = None,  # noqa: ARG002 - the tree's signature
        weight: int = 16,  # noqa: ARG002
        exclusive: bool = False,  # noqa: ARG002
    ) -> None:
        """Know a stream; it has no turn until it is unblocked."""
        self._known.add(stream_id)

    def reprioritize(
        self,
        stream_id: int,
        depends_on: int | None = None,
        weight: int = 16,
        exclusive: bool = False,
    ) -> None:
        """Do nothing: all streams are equal."""

    def remove_stream(self, stream_id: int) -> None:
        """Forget a stream, known or not."""
        self._known.discard(stream_id)
        self._ready.pop(stream_id, None)

    def block(self, stream_id: int) -> None:
        """Take a stream's turns away until it is unblocked."""
        self._ready.pop(stream_id, None)

    def unblock(self, stream_id: int) -> None:
        """Give a known stream its turns. Raises MissingStreamError."""
        if stream_id not in self._known:
            raise MissingStreamError(stream_id)
        self._ready.setdefault(stream_id)

    def __next__(self) -> int:
        """The next stream in turn. Raises DeadlockError when none has anything to send."""
        if not self._ready:
            raise DeadlockError
        stream_id = next(iter(self._ready))
        self._ready.move_to_end(stream_id)
        return stream_id
