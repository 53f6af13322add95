"""`/key`, `/auth/key`, `/credits` and `/usage`: what a caller can know of its own key and account.

Usage is read from sums by UTC day, which are written with the calls. What providers charge is the operator's to see.
"""

from __future__ import annotations

import sqlite3
from typing import Literal

from quart import Response

from gateway.admit.credit import Spent
from gateway.api.books import ApiControl
from gateway.api.periods import PERIODS, began, today
from gateway.api.session import Query, Session, answer
from gateway.api.shapes import iso_or_none, usd, usd_or_none
from gateway.api.spending import budget, spending
from gateway.api.terms import find_model
from gateway.config import Plan
from gateway.errors import InvalidKey, NotFound
from gateway.store import account_reads, credit, keys
from gateway.store.credit import Credit
from gateway.store.keys import KeyRow
from gateway.store.schema import OPERATOR
from gateway.store.usage import SUMS, UsageRow, usage

By = Literal["model", "key", "day"]
_BY: tuple[By, ...] = ("model", "key", "day")
_NAMES = {"model": "model", "key": "key_id", "day": "date"}
_TOKENS = tuple(name for name in SUMS if name.endswith("_tokens"))


class AccountViews:
    """The views."""

    def __init__(self, control: ApiControl) -> None:
        self._control = control

    async def key(self, session: Session) -> Response:
        """GET /key and GET /auth/key: the key that asks."""
        principal, day = session.principal, today(session.now).isoformat()

        def work(conn: sqlite3.Connection) -> tuple[KeyRow, list[UsageRow]]:
            try:
                row = keys.get(conn, principal.key_id)
            except KeyError:
                raise InvalidKey("The API key is unknown or revoked. Use another.") from None
            return row, usage(conn, by="model", since_day=day, until_day=None, account_id=principal.account_id)

        row, used = await self._control.books.read(work)
        free = sum(line.calls for line in used if self._is_free(line.name))
        books = self._control.books
        spent, limits = books.spent(principal.key_id), books.plan_limits(principal)
        balance, held = books.balance(principal.account_id)
        available = balance - held if principal.account.prepaid else None
        return answer({"data": _current_key(session, row, spent, limits, free) | {"balance": usd_or_none(available)}})

    async def credits(self, session: Session) -> Response:
        """GET /credits.

        The totals are of the committed ledger. `balance` and `held` are live, so they know of a call that ended some
        milliseconds earlier.
        """
        account = session.principal.account

        def work(conn: sqlite3.Connection) -> Credit:
            return credit.show(conn, account.id)

        sums = await self._control.books.read(work)
        balance, held = self._control.books.balance(account.id)
        data = {
            "total_credits": usd(sums.granted_pico_usd + sums.topped_up_pico_usd),
            "total_usage": usd(sums.used_pico_usd),
            "balance": usd(balance),
            "held": usd(held),
            "available": usd_or_none(balance - held if account.prepaid else None),
            "prepaid": account.prepaid,
        }
        return answer({"data": data})

    async def usage(self, session: Session) -> Response:
        """GET /usage: the account's, by model, key or day, of the present day, week, month or year."""
        query = Query("period", "by", "key_id")
        period, by = query.choice("period", PERIODS, "month"), query.choice("by", _BY, "model")
        key_id, account_id = query.text("key_id"), session.account_id
        day = today(session.now)
        first = began(period, day)
        since = None if first is None else first.isoformat()

        def work(conn: sqlite3.Connection) -> tuple[list[UsageRow], dict[str, str]]:
            names = account_reads.names(conn, account_id) if by == "key" or key_id is not None else {}
            if key_id is not None and key_id not in names:
                raise NotFound(f"there is no key {key_id[:80]!r} in this account", param="key_id")
            lines = usage(conn, by=by, since_day=since, until_day=day.isoformat(), account_id=account_id, key_id=key_id)
            return lines, names

        lines, names = await self._control.books.read(work)
        shown = [{_NAMES[by]: line.name} | _sums([line], account_id) for line in lines]
        if by == "key":
            for line in shown:
                line["name"] = names.get(str(line["key_id"]), "")
        span = {"period": period, "since": since, "until": day.isoformat(), "by": by}
        return answer({**span, "total": _sums(lines, account_id), "data": shown})

    def _is_free(self, model: str) -> bool:
        entry = find_model(self._control.catalog, model)
        return entry is not None and entry.model.price == "free"


def _current_key(session: Session, row: KeyRow, spent: Spent, limits: Plan, free_calls: int) -> dict[str, object]:
    """OpenRouter's fields, then BazaarLink's spellings and our own. -1: no limit, as OpenRouter writes it."""
    principal, account = session.principal, session.principal.account
    tier = principal.plan or account.plan
    limit, reset = principal.spend_limit, principal.limit_reset
    budgets = [] if limit is None else [budget(limit, reset, spent, session.now)]
    return {
        "label": row.prefix_hint,
        **spending(limit, reset, spent),
        "is_free_tier": tier == "free",
        "is_management_key": principal.management,
        "is_provisioning_key": principal.management,
        "creator_user_id": None,
        "organization_id": None,
        "workspace_id": account.id,
        "allowed_data_regions": ["global"],
        "budgets": budgets,
        "effective_budget": budgets[0] if budgets else None,
        "free_model_daily_requests": {"limit": -1, "remaining": -1, "used": free_calls},
        "expires_at": iso_or_none(principal.expires_at),
        "rate_limit": {
            "requests": -1 if limits.rpm is None else limits.rpm,
            "interval": "60s",
            "note": "requests a minute; -1: no limit; rate_limits has the others",
        },
        "id": row.id,
        "name": row.name,
        "keyType": row.terms.kind,
        "enabled": True,
        "status": "active",
        "rate_limit_tier": tier,
        "rate_limits": {name: getattr(limits, name) for name in ("rpm", "rpd", "tpm", "concurrency")},
        "allowed_models": None if principal.models is None else sorted(principal.models),
    }


def _sums(lines: list[UsageRow], account_id: str) -> dict[str, object]:
    """Sums over lines. `usage` is what was paid, in OpenRouter's word; the operator sees what it has cost him too."""
    shown: dict[str, object] = {
        "requests": sum(line.calls for line in lines),
        "usage": usd(sum(line.cost_pico_usd for line in lines)),
        **{name: sum(getattr(line, name) for line in lines) for name in _TOKENS},
    }
    if account_id == OPERATOR:
        shown["provider_cost"] = usd(sum(line.provider_cost_pico_usd for line in lines))
        shown["hedge_cost"] = usd(sum(line.hedge_cost_pico_usd for line in lines))
    return shown
