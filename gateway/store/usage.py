"""Usage by day: the table `usage_daily`, summed up as calls are written and read by the API and the command line.

Invariants: a row is the sum over the rows of `calls` of one UTC day (of their start), account, key and model, changed
in the same transaction as they; `verify.py` proves it. A day's text is `YYYY-MM-DD`, so that its order is time's.
All functions block; each takes a connection no other thread is using.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the command line reads usage without loading what renders records
    from gateway.store.calls import CallRecord

DAY_S = 86_400
SUMS = (
    "prompt_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "cost_pico_usd",
    "provider_cost_pico_usd",
    "hedge_cost_pico_usd",
)

_MODEL_CHARS_MAX = 256  # as `calls.row` cuts it: what is summed is what is stored
_INT64_MAX = 2**63 - 1
_COLUMNS = {"model": "model", "key": "key_id", "day": "day"}


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Sums over calls. `name` is a model id, a key id or a day, as asked for; money is pico-USD.

    `cached_tokens` and `cache_write_tokens` are part of the prompt's, `reasoning_tokens` of the completion's.
    """

    name: str
    calls: int
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost_pico_usd: int
    provider_cost_pico_usd: int
    hedge_cost_pico_usd: int


def usage(
    conn: sqlite3.Connection,
    *,
    by: Literal["model", "key", "day"],
    since_day: str | None,
    until_day: str | None,
    account_id: str | None = None,
    key_id: str | None = None,
) -> list[UsageRow]:
    """Sum up by model, key or day, both days included; None leaves that side open.

    Days come in order, models and keys by falling cost.
    """
    bounds = {"day >= ?": since_day, "day <= ?": until_day, "account_id = ?": account_id, "key_id = ?": key_id}
    wanted = {test: value for test, value in bounds.items() if value is not None}
    where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
    sums = ", ".join(f"SUM({column}) AS {column}" for column in ("calls", *SUMS))
    order = "name" if by == "day" else "cost_pico_usd DESC, calls DESC, name"
    found = conn.execute(
        f"SELECT {_COLUMNS[by]} AS name, {sums} FROM usage_daily {where} GROUP BY name ORDER BY {order}",
        tuple(wanted.values()),
    )
    return [UsageRow(*row) for row in found]


def add(conn: sqlite3.Connection, records: Sequence[CallRecord]) -> None:
    """Add calls to their days, inside the transaction that stores them; each call exactly once.

    No value of a record makes this fail: what no column can hold is replaced, as `calls.storable` does.
    Raises sqlite3.Error when the file or the disk refuses.
    """
    groups: dict[tuple[int, str, str, str], list[tuple[int, ...]]] = {}
    for record in records:
        group = (int(record.started_at // DAY_S), record.account_id, record.key_id, record.model)
        values = _values(record)
        if group in groups:
            groups[group].append(values)
        else:
            groups[group] = [values]
    conn.executemany(
        _ADD,
        [
            (day_text(day), account, key, _storable(model), len(calls), *map(_sum, zip(*calls, strict=True)))
            for (day, account, key, model), calls in groups.items()
        ],
    )


def day_of(started_at: float) -> str:
    """Return the UTC day of a Unix time, `YYYY-MM-DD`."""
    return day_text(int(started_at // DAY_S))


@lru_cache(maxsize=64)
def day_text(day: int) -> str:
    """Return the day that began that many days after 1970-01-01, `YYYY-MM-DD`."""
    return datetime.fromtimestamp(day * DAY_S, UTC).strftime("%Y-%m-%d")


_values = attrgetter(*SUMS)


def _sum(values: tuple[int, ...]) -> int:
    return min(sum(values), _INT64_MAX)


def _storable(model: str) -> str:
    return model[:_MODEL_CHARS_MAX].encode("utf-8", "replace").decode()


_ADD = (
    f"INSERT INTO usage_daily (day, account_id, key_id, model, calls, {', '.join(SUMS)}) "
    f"VALUES ({', '.join('?' * (5 + len(SUMS)))}) "
    "ON CONFLICT (account_id, day, key_id, model) DO UPDATE SET "
    + ", ".join(f"{column} = {column} + excluded.{column}" for column in ("calls", *SUMS))
)
