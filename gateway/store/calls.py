"""The record of a call: built on the event loop, rendered and written in the writer thread.

Invariants: `CallRecord`'s fields, `COLUMNS` and the table's columns are one list in one order; a record holds
no prompt, no completion and no key. `gateway.store.batch` writes a call's row together with its ledger entries.

Gen ids that begin with the time cost 4 us of CPU a row, random ones 14 and growing: each dirties a page of its own.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence

import msgspec
import orjson

from gateway.core.call import AttemptNote
from gateway.store import bulk

SqlValue = str | int | float | None
Row = tuple[SqlValue, ...]

_MODEL_CHARS_MAX = 256  # the one field whose length a caller chooses
_INT64_MAX = 2**63 - 1


class CallRecord(msgspec.Struct, gc=False):
    """One call, from its acceptance to its end. `started_at` is Unix seconds; money is pico-USD.

    Mutable, so that a stage can note what it knows; whoever `put`s it never touches it again.
    """

    gen_id: str
    request_id: str
    started_at: float
    account_id: str
    key_id: str = ""
    key_name: str = ""
    route: str = ""
    lane: str = ""
    stream: bool = False
    model: str = ""
    provider: str = ""
    upstream_model: str = ""
    attempts: tuple[AttemptNote, ...] = ()
    status: int = 0
    code: str = ""
    ended: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    usage_estimated: bool = False
    cost_pico_usd: int = 0
    provider_cost_pico_usd: int = 0
    first_content_ms: float | None = None
    total_ms: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    cache_write_tokens: int = 0
    hedge_cost_pico_usd: int = 0
    hold_pico_usd: int = 0
    finish_reason: str | None = None
    upstream_id: str = ""
    idempotency: str | None = None
    auto: str | None = None


COLUMNS: tuple[str, ...] = CallRecord.__struct_fields__
_MODEL = COLUMNS.index("model")
_ATTEMPTS = COLUMNS.index("attempts")

_ENCODE = msgspec.json.Encoder().encode
_LINE_HEAD = b'{"event":"call","level":"info",'

# What a value that no column can hold raises, across Python versions. Never a state of the file or the disk.
UNSTORABLE = (
    OverflowError,
    UnicodeEncodeError,
    ValueError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)


def values_of(record: CallRecord) -> tuple[object, ...]:
    """Return the fields of a record in the order of `COLUMNS`."""
    return msgspec.structs.astuple(record)


def row(record: CallRecord) -> Row:
    """Return the values of a record as its row. About 1 us."""
    values = list(msgspec.structs.astuple(record))
    values[_MODEL] = values[_MODEL][:_MODEL_CHARS_MAX]
    values[_ATTEMPTS] = _attempts_json(record.attempts)
    return tuple(values)


def log_line(record: CallRecord) -> bytes:
    """Render a record as one line of JSON with its newline: the structured log of the call. About 1 us."""
    if len(record.model) <= _MODEL_CHARS_MAX:
        try:
            return b"%b%b\n" % (_LINE_HEAD, _ENCODE(record)[1:])
        except (UnicodeEncodeError, OverflowError):
            pass
    return _log_line(storable(row(record)))


def _log_line(values: Row) -> bytes:
    entry: dict[str, SqlValue | orjson.Fragment] = dict(zip(COLUMNS, values, strict=True))
    entry["attempts"] = orjson.Fragment(str(values[_ATTEMPTS]))
    return _LINE_HEAD + orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)[1:]


def insert(conn: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Write rows inside the caller's transaction. Raises sqlite3.IntegrityError for one that is there already."""
    bulk.insert(conn, "calls", COLUMNS, rows)


def storable(values: Row) -> Row:
    """Bring every value into what SQLite and JSON can hold: 64-bit integers, finite floats, valid Unicode."""
    return tuple(map(_storable_value, values))


def _storable_value(value: SqlValue) -> SqlValue:
    if isinstance(value, int):
        return max(-_INT64_MAX, min(value, _INT64_MAX))
    if isinstance(value, float):
        return value if math.isfinite(value) else 0.0
    return None if value is None else str(value).encode("utf-8", "replace").decode()


def _attempts_json(attempts: tuple[AttemptNote, ...]) -> str:
    try:
        return _ENCODE(attempts).decode()
    except (UnicodeEncodeError, OverflowError):  # half a surrogate pair, or an integer past 64 bits
        return json.dumps([msgspec.to_builtins(note) for note in attempts])
