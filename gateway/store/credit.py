"""Credit as the operator sees it: granting it once, and what became of it.

All functions block; each takes a connection of `schema.open_database` that no other thread is using. A serving
process finds a grant in the ledger by itself (`ledger.moves_after`).
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from dataclasses import dataclass

from gateway.core.money import PICO_PER_USD, PicoUsd, format_usd
from gateway.store import ledger
from gateway.store.schema import immediate

GRANT_MAX = PicoUsd(1_000_000 * PICO_PER_USD)  # a larger one is a slip of the pen; a balance column ends at $9.2M
TEXT_CHARS_MAX = 200

_INT64_MAX = 2**63 - 1


class ReferenceUsed(ValueError):
    """The reference is of another grant. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant in the ledger. `made` is False when the same reference had made it before."""

    set_id: str
    made: bool
    balance_pico_usd: int


@dataclass(frozen=True, slots=True)
class Credit:
    """An account's credit, pico-USD: what was granted and paid in, what calls used, and what is left."""

    granted_pico_usd: int
    topped_up_pico_usd: int
    used_pico_usd: int
    balance_pico_usd: int


def grant(
    conn: sqlite3.Connection, account_id: str, amount: PicoUsd, *, reference: str | None = None, note: str = ""
) -> Grant:
    """Give an account credit. The same reference for the same account and amount is the same grant, made once.

    Raises:
        ReferenceUsed: see there.
        ValueError: a bad amount, reference or note, or no room in a balance. Nothing was written.
        sqlite3.OperationalError: the database stayed locked, or the disk is full. Nothing was written.
    """
    if not 0 < amount <= GRANT_MAX:
        raise ValueError(f"a grant must be more than $0 and at most ${format_usd(GRANT_MAX)}")
    if reference is not None and not reference.strip():
        raise ValueError("a reference needs at least one character; leave it out to grant without one")
    for what, text in (("reference", reference or ""), ("note", note)):
        if len(text) > TEXT_CHARS_MAX or not text.isprintable():
            raise ValueError(f"a {what} may have at most {TEXT_CHARS_MAX} characters, all of them printable")
    set_id = f"grant-{secrets.token_hex(8)}" if reference is None else f"grant:{reference}"
    with immediate(conn):
        made = not ledger.has(conn, set_id)
        if made:
            _check_room(conn, account_id, amount)
            ledger.write(conn, [ledger.grant(set_id, account_id, amount, time.time(), note)])
        else:
            _check_same(conn, set_id, account_id, amount)
        return Grant(set_id, made, _balance(conn, "customer", account_id))


def show(conn: sqlite3.Connection, account_id: str) -> Credit:
    """Return an account's credit as of one moment: of the ledger, so without the holds of calls under way."""
    row = conn.execute(
        "SELECT COALESCE((SELECT balance_pico_usd FROM balances WHERE book = 'customer' AND owner = :account), 0), "
        "SUM(CASE kind WHEN 'grant' THEN amount_pico_usd ELSE 0 END), SUM(amount_pico_usd) "
        "FROM entries WHERE kind <> 'call' AND book = 'customer' AND owner = :account",
        {"account": account_id},
    ).fetchone()
    balance, granted, given = (value or 0 for value in row)
    return Credit(granted, given - granted, given - balance, balance)


def _check_room(conn: sqlite3.Connection, account_id: str, amount: int) -> None:
    """Refuse what the database would refuse as well, past 64 bits, without saying which balance it was."""
    for book, change in (("customer", amount), ("grants", -amount)):
        if abs(_balance(conn, book, account_id) + change) > _INT64_MAX:
            raise ValueError(
                f"the account's balance in book {book} would pass ${format_usd(_INT64_MAX)}, the most it can hold; "
                "grant less"
            )


def _check_same(conn: sqlite3.Connection, set_id: str, account_id: str, amount: int) -> None:
    row = conn.execute(
        "SELECT owner, amount_pico_usd FROM entries WHERE entry_set = ? AND book = 'customer'", (set_id,)
    ).fetchone()
    if row != (account_id, amount):
        raise ReferenceUsed(
            f"the reference was used before, for ${format_usd(row[1])} to account {row[0]}; name another one"
        )


def _balance(conn: sqlite3.Connection, book: str, owner: str) -> int:
    row = conn.execute("SELECT balance_pico_usd FROM balances WHERE book = ? AND owner = ?", (book, owner)).fetchone()
    return 0 if row is None else int(row[0])
