"""Proofs about money on real processes: `kill -9` under load, full disks, locked databases, storms of leaving clients.

`site.py` is a gateway process with prepaid keys on a data folder, `upstream.py` the provider it calls (in the test's own
loop), `caller.py` a client that notes what it was told. `KILLS=200 pytest tests/crash` runs the long form.
"""

from __future__ import annotations

import os
from typing import Final

KILLS: Final = int(os.environ.get("KILLS", "2"))
"""How often the gateway is killed under load; each kill is 1 to 2 s."""
