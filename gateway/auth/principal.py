"""Who is calling: the frozen answer of authentication, carried by a call to its record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """One live API key and the account it spends for. Holds no secret and no digest."""

    key_id: str
    account_id: str
    name: str
