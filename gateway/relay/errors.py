"""How a relay can end badly, besides a fault of the stream itself and what the client does."""

from __future__ import annotations


class UpstreamIdle(Exception):
    """The provider sent nothing for `idle_s`."""
