"""One call's record, as its own account may read it. Blocks; takes a connection no other thread is using."""

from __future__ import annotations

import sqlite3

import msgspec

from gateway.core.call import AttemptNote
from gateway.store.calls import COLUMNS, CallRecord

_ATTEMPTS = msgspec.json.Decoder(tuple[AttemptNote, ...])


def find(conn: sqlite3.Connection, gen_id: str, account_id: str) -> CallRecord:
    """Return the record of an ended call. Raises KeyError when there is none, or it is another account's."""
    columns = ", ".join(COLUMNS)
    found = conn.execute(f"SELECT {columns} FROM calls WHERE gen_id = ? AND account_id = ?", (gen_id, account_id))
    row = found.fetchone()
    if row is None:
        raise KeyError(gen_id)
    values = dict(zip(COLUMNS, row, strict=True))
    flags = {name: bool(values[name]) for name in ("stream", "usage_estimated")}
    return CallRecord(**(values | flags | {"attempts": _ATTEMPTS.decode(values["attempts"])}))
