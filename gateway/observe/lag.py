"""A probe of the event loop: how much later than due does it wake a task?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

TICK_S: Final = 0.1


async def probe_loop(observe: Callable[[float], None]) -> None:
    """Tell `observe` the lag in seconds each tick, until cancelled."""
    while True:
        due = trio.current_time() + TICK_S
        await trio.sleep_until(due)
        observe(trio.current_time() - due)
