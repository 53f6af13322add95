"""A real inference server for tests: llama.cpp from the `xllamacpp` wheel, over tiny random-weight models made here."""

from __future__ import annotations

SLOTS = 4  # Generations at once, per server.
SLOT_CONTEXT_TOKENS = 16_384  # Room for a prompt of 100 KB; the caches of all slots together take 32 MiB.
