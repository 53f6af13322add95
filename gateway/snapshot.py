"""What a call is served with: one frozen configuration and all that was built of it, and where its record goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.config import Config
from gateway.judge import Hedger
from gateway.race.attempt import Runner
from gateway.relay.relay import Relay
from gateway.route.catalog import Catalog
from gateway.store.calls import CallRecord


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One configuration and what was built of it. A call keeps the snapshot it began with."""

    config: Config
    catalog: Catalog
    runner: Runner
    relay: Relay
    hedger: Hedger


class Records(Protocol):
    """Where records go. `full` refuses calls rather than lose their records."""

    @property
    def full(self) -> bool:
        """Whether no more can be taken."""

    def put(self, record: CallRecord) -> None:
        """Take one; never blocks."""
