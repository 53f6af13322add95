"""The gate: may this call pass, and can it be paid? One synchronous decision over rates, credit and spend cap.

A call that is refused has consumed nothing. One that is admitted owns an `Admission`, which it must `settle` exactly
once, whatever became of it: that frees its place, trues its tokens up and turns its hold into what it cost. Pure: no
clock, no I/O. Amounts are pico-USD, `now` is monotonic seconds, `wall` Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.admit.credit import NOTHING, Meter, Periods, Purse, Spent, periods
from gateway.admit.limiter import Level, Limiter, Ticket
from gateway.admit.limits import Limits, Standing, of_plan, tightest
from gateway.config import Plan
from gateway.core.money import format_usd
from gateway.core.principal import Principal
from gateway.errors import Overloaded, PaymentRequired, SpendLimitReached


class Admission:
    """One admitted call. `hold` is its credit; 0 when its account pays afterwards and its key has no cap."""

    __slots__ = ("_meter", "_purse", "_settled", "_ticket", "hold")

    def __init__(self, purse: Purse, meter: Meter, ticket: Ticket, hold: int) -> None:
        self._purse = purse
        self._meter = meter
        self._ticket = ticket
        self.hold = hold
        self._settled = False

    def settle(self, cost: int, tokens_used: int, *, began: Periods, now: float) -> None:
        """End the call: it cost so much, and its tokens were so many. Once; the assertion is for a bug of ours."""
        assert not self._settled, "a call is settled once"
        self._settled = True
        purse, meter = self._purse, self._meter
        purse.held -= self.hold
        meter.held -= self.hold
        if cost:
            purse.balance -= cost
            meter.add(cost, began)
        self._ticket.release(tokens_used, now)

    def standing(self, now: float) -> Standing:
        """How the caller stands in rates after this call."""
        return self._ticket.standing(now)


class _Terms:
    """What a principal's limits come to under one configuration; made again when either is replaced."""

    __slots__ = ("levels", "meter", "plans", "principal", "purse")

    def __init__(
        self, principal: Principal, plans: Mapping[str, Plan], levels: tuple[Level, ...], purse: Purse, meter: Meter
    ) -> None:
        self.principal = principal
        self.plans = plans
        self.levels = levels
        self.purse = purse
        self.meter = meter


class Gate:
    """All accounts' credit and all keys' spending and rates. Not for threads."""

    def __init__(self, limiter: Limiter, *, wall: float) -> None:
        self.limiter = limiter
        self._at = periods(wall)
        self._purses: dict[str, Purse] = {}
        self._meters: dict[str, Meter] = {}
        self._terms: dict[str, _Terms] = {}

    def load(self, balances: Mapping[str, int], spent: Iterable[tuple[str, Spent]]) -> None:
        """Begin with what the books say. Before any call."""
        self._purses = {account_id: Purse(balance) for account_id, balance in balances.items()}
        self._meters = {key_id: Meter(self._at, amounts) for key_id, amounts in spent}

    def apply(self, account_id: str, amount: int) -> None:
        """A row of the ledger that no call made: a grant, a top-up, a correction."""
        self._purse(account_id).balance += amount

    def admit(
        self, principal: Principal, plans: Mapping[str, Plan], *, tokens: int, hold: int, now: float, wall: float
    ) -> Admission:
        """Let a call pass that may use `tokens` and cost `hold`.

        Raises PaymentRequired, SpendLimitReached, RateLimited, and Overloaded for a plan that is not configured.
        """
        terms = self._terms_of(principal, plans)
        purse, meter = terms.purse, terms.meter
        prepaid, limit = principal.account.prepaid, principal.spend_limit
        meter.observe(self._now(wall))
        if not prepaid and limit is None:
            hold = 0
        elif hold:
            if prepaid and purse.available < hold:
                raise PaymentRequired(_poor(purse, hold))
            if limit is not None:
                already = meter.against(principal.limit_reset, self._now(wall))
                if already + hold > limit:
                    raise SpendLimitReached(_capped(principal, limit, already, hold))
        ticket = self.limiter.admit(terms.levels, tokens, now, wall)
        purse.held += hold
        meter.held += hold
        return Admission(purse, meter, ticket, hold)

    def standing(self, principal: Principal, plans: Mapping[str, Plan], *, now: float, wall: float) -> Standing:
        """How a caller stands whose call was refused."""
        return self.limiter.standing(self._terms_of(principal, plans).levels, now, wall)

    def balance(self, account_id: str) -> tuple[int, int]:
        """An account's balance and how much of it is held."""
        purse = self._purses.get(account_id)
        return (0, 0) if purse is None else (purse.balance, purse.held)

    def spent(self, key_id: str, wall: float) -> Spent:
        """What a key has spent, settled calls included that are not yet on disk."""
        meter = self._meters.get(key_id)
        return NOTHING if meter is None else meter.spent(self._now(wall))

    def held(self) -> int:
        """All open holds together."""
        return sum(purse.held for purse in self._purses.values())

    def period_of(self, wall: float) -> Periods:
        """The periods of a call's beginning, for `Admission.settle`."""
        return self._now(wall)

    def _now(self, wall: float) -> Periods:
        if int(wall // 86_400) != self._at.day:
            self._at = periods(wall)
        return self._at

    def _purse(self, account_id: str) -> Purse:
        purse = self._purses.get(account_id)
        if purse is None:
            purse = self._purses[account_id] = Purse()
        return purse

    def _terms_of(self, principal: Principal, plans: Mapping[str, Plan]) -> _Terms:
        terms = self._terms.get(principal.key_id)
        if terms is None or terms.principal is not principal or terms.plans is not plans:
            terms = self._resolve(principal, plans)
        return terms

    def _resolve(self, principal: Principal, plans: Mapping[str, Plan]) -> _Terms:
        key_id, account_id = principal.key_id, principal.account_id
        meter = self._meters.get(key_id)
        if meter is None:
            meter = self._meters[key_id] = Meter(self._at)
        key, account = limits_of(principal, plans)
        levels = (Level(f"key:{key_id}", key), Level(f"account:{account_id}", account))
        terms = _Terms(principal, plans, levels, self._purse(account_id), meter)
        self._terms[key_id] = terms
        return terms


def limits_of(principal: Principal, plans: Mapping[str, Plan]) -> tuple[Limits, Limits]:
    """The limits of a key by itself, and of its account, which all its keys share.

    A key without a plan is on its account's. Raises Overloaded for a plan that the configuration does not have: better
    no service than one without its limits.
    """
    account = _plan(principal.account.plan, plans)
    own = Limits(principal.rpm, principal.rpd, principal.tpm, principal.concurrency)
    return tightest(own, account if principal.plan is None else _plan(principal.plan, plans)), account


def _plan(name: str | None, plans: Mapping[str, Plan]) -> Limits:
    if name is None:
        return Limits()
    plan = plans.get(name)
    if plan is None:
        raise Overloaded(f"plan {name!r} of this key is not configured; the operator has to add [plans.{name}]")
    return of_plan(plan)


def _poor(purse: Purse, hold: int) -> str:
    return (
        f"insufficient balance: this call may cost up to ${format_usd(hold)}, and "
        f"${format_usd(max(0, purse.available))} is available; add credit, or ask for fewer max_tokens"
    )


def _capped(principal: Principal, limit: int, already: int, hold: int) -> str:
    period = f"{principal.limit_reset} " if principal.limit_reset else ""
    return (
        f"the key's {period}spend limit of ${format_usd(limit)} is reached: this call may cost up to "
        f"${format_usd(hold)}, and ${format_usd(max(0, limit - already))} is left; raise the limit, or ask for fewer "
        "max_tokens"
    )
