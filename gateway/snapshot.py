"""What a call is served with: one frozen configuration and all that was built of it, and where its record goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.config import Config
from gateway.race.attempt import Runner
from gateway.relay.relay import Relay
from gateway.route.catalog import Catalog
from gateway.store.calls import CallRecord
from gateway.store.holds import OpenHold
from gateway.store.journal import Segment


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One configuration and what was built of it. A call keeps the snapshot it began with."""

    config: Config
    catalog: Catalog
    runner: Runner
    relay: Relay


class Records(Protocol):
    """Where ended calls go, and where a crash leaves those that had not ended."""

    def has_room(self, calls_under_way: int) -> bool:
        """Whether one more call can be admitted beside those and still be written down."""

    def open_hold(self, hold: OpenHold) -> int:
        """Note a hold before the call goes out; the slot for `close_hold`. Raises Overloaded."""

    def close_hold(self, slot: int) -> None:
        """The hold is settled."""

    def write_line(self, record: CallRecord) -> Segment:
        """Make a settled call durable before its last byte leaves. Raises JournalFailed."""

    def put(self, record: CallRecord, line: Segment | None = None, slot: int | None = None) -> None:
        """Take the record of an ended call, and what tells a crash of it until it is safe; never blocks."""

    async def committed(self) -> None:
        """Wait until all that was `put` is in the database."""
