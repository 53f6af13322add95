"""One task that watches many sockets: a nested epoll set, itself waited for by Trio.

A Trio task per socket costs a wake-up (about 8 us) per event; here one wake-up serves every socket that is ready. The
edge watches clients for EOF with it, the pump moves stream frames with it. Callbacks are synchronous and must not
raise. Whoever adds a socket removes it before the descriptor is closed.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final

import structlog
import trio

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
PEER_CLOSED: Final = select.EPOLLRDHUP  # EOF on read, half-close included, seen without reading
_BROKEN: Final = select.EPOLLHUP | select.EPOLLERR
EVENTS_PER_WAKE: Final = 256

Callback = Callable[[], None]


class PollSet:
    """Callbacks by descriptor and event. Level-triggered: an event that stays true is reported again."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, dict[int, Callback]] = {}
        self.now = 0.0

    def add(self, fd: int, event: int, callback: Callback) -> None:
        """Call `callback` whenever `event` holds for `fd`."""
        callbacks = self._callbacks.get(fd)
        if callbacks is None:
            self._callbacks[fd] = {event: callback}
            self._epoll.register(fd, event)
        else:
            callbacks[event] = callback
            self._epoll.modify(fd, sum(callbacks))

    def remove(self, fd: int, event: int) -> None:
        """Stop calling. Nothing happens when it was not added."""
        callbacks = self._callbacks.get(fd)
        if callbacks is None or callbacks.pop(event, None) is None:
            return
        if callbacks:
            self._epoll.modify(fd, sum(callbacks))
        else:
            del self._callbacks[fd]
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Serve until cancelled. `now` is the Trio time of the present wake-up."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self.now = trio.current_time()
                self._dispatch()
        finally:
            self._epoll.close()

    def _dispatch(self) -> None:
        for fd, happened in self._epoll.poll(0, EVENTS_PER_WAKE):
            callbacks = self._callbacks.get(fd)
            if callbacks is None:
                continue  # an earlier callback of this wake-up removed it
            try:
                if len(callbacks) == 1:
                    next(iter(callbacks.values()))()
                    continue
                for event, callback in list(callbacks.items()):
                    if happened & (event | _BROKEN):
                        callback()
            except Exception as exc:  # noqa: BLE001 - one socket's bug must not end the others
                structlog.get_logger().error("poll_callback_failed", exc_info=exc)
                for event in tuple(self._callbacks.get(fd, ())):
                    self.remove(fd, event)

    def __len__(self) -> int:
        return len(self._callbacks)
