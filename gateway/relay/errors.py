"""How a relay can end badly, besides a fault of the stream itself and the client's leaving."""

from __future__ import annotations


class ClientStalled(Exception):
    """The client read nothing for `client_stall_s`."""


class UpstreamIdle(Exception):
    """The provider sent nothing for `idle_s`."""
