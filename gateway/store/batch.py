"""A batch of ended calls into the database: records, ledger and rollups in one transaction, each call once.

Blocks. A batch whose commit was in doubt is written again with `again`; what is there already is then left alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from gateway.store import calls, ledger, usage
from gateway.store.calls import CallRecord, Row
from gateway.store.schema import immediate


def write(conn: sqlite3.Connection, records: Sequence[CallRecord], rows: Sequence[Row], *, again: bool) -> list[str]:
    """Write calls and their rows; the gen ids of those that no repair could make storable (none known).

    Raises sqlite3.Error when the file or the disk refuses; nothing was written then, and the same may be tried again.
    """
    if again:
        records = missing(conn, records)
        wanted = {record.gen_id for record in records}
        rows = [values for values in rows if values[0] in wanted]
    try:
        with immediate(conn):
            _write_all(conn, records, rows)
    except calls.UNSTORABLE:
        return _write_singly(conn, records, rows)
    return []


def missing(conn: sqlite3.Connection, records: Sequence[CallRecord]) -> list[CallRecord]:
    """Those of the calls that have no record yet."""
    there = existing(conn, [record.gen_id for record in records])
    return [record for record in records if record.gen_id not in there]


def existing(conn: sqlite3.Connection, gen_ids: Sequence[str]) -> set[str]:
    """Those of the ids that have a record."""
    found = conn.execute(f"SELECT gen_id FROM calls WHERE gen_id IN ({', '.join('?' * len(gen_ids))})", gen_ids)
    return {row[0] for row in found}


def _write_all(conn: sqlite3.Connection, records: Sequence[CallRecord], rows: Sequence[Row]) -> None:
    calls.insert(conn, rows)
    ledger.write(conn, [entry_set for entry_set in map(ledger.of_call, records) if entry_set is not None])
    usage.add(conn, records)


def _write_singly(conn: sqlite3.Connection, records: Sequence[CallRecord], rows: Sequence[Row]) -> list[str]:
    refused: list[str] = []
    for record, values in zip(records, rows, strict=True):
        if existing(conn, [record.gen_id]):
            continue
        try:
            with immediate(conn):
                _write_all(conn, [_storable(record)], [calls.storable(values)])
        except (sqlite3.DataError, sqlite3.IntegrityError):
            refused.append(record.gen_id)
    return refused


def _storable(record: CallRecord) -> CallRecord:
    """The same call with every plain value as `calls.storable` makes it."""
    names = [name for name in CallRecord.__struct_fields__ if name != "attempts"]
    values = calls.storable(tuple(getattr(record, name) for name in names))
    return msgspec.structs.replace(record, **dict(zip(names, values, strict=True)))
