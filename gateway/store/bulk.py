"""Many rows to few statements.

Each step of a statement lets go of the GIL and must win it back from the loop, at up to 5 ms a time, and a row by
itself costs twice what it costs among many. So rows go by 256, 64, 16, 4 and 1: 100 calls with their 400 ledger
entries are eight steps. Blocks; inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

_SIZES: Final = (256, 64, 16, 4, 1)
_PARAMETERS_MAX: Final = 8192  # of one statement; SQLite's own bound is 32,766


def insert(conn: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    """Insert rows, each with the values of `columns`. Raises sqlite3.Error."""
    start = 0
    for size in _SIZES:
        if size > 1 and size * len(columns) > _PARAMETERS_MAX:
            continue
        while len(rows) - start >= size:
            conn.execute(_statement(table, columns, size), tuple(chain.from_iterable(rows[start : start + size])))
            start += size


@lru_cache(maxsize=64)
def _statement(table: str, columns: tuple[str, ...], size: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * size)}"
