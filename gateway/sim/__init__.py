"""The built-in provider `sim`: an HTTP server that behaves as OpenAI's API does, or breaks as asked.

It is reached through the same upstream client as any provider and knows nothing of the gateway around it.
`serve_sim` runs it, `completion_text` tells what it will say, `FAULTS` lists how it can break.
"""

from __future__ import annotations

from gateway.sim.faults import FAULTS
from gateway.sim.script import MODELS, completion_text
from gateway.sim.server import serve_connection, serve_sim

__all__ = ["FAULTS", "MODELS", "completion_text", "serve_connection", "serve_sim"]
