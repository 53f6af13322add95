"""How much beyond one attempt a call may cost: hedges by share and by money, retries and fallbacks by rate. Pure.

**Hedges**, per account, so that no customer spends what another has earned. Every call earns `share_max` of a hedge,
every hedge costs one, ten may be saved up, and a day begins with ten: gRPC's throttle turned round (proposal A6,
"Throttling Retry Attempts and Hedged RPCs"), counted by calls and not by failures. What its loser is thought to cost
counts against a sum for each day of UTC; `settle` corrects that. So of an account's calls on one day at most
10 + `share_max` x calls are hedged, and what its hedges cost is over the sum only by what one cost over its estimate.

**Further attempts**, that is retries and fallbacks, per provider that would get them: Finagle's RetryBudget (deposits
for calls, withdrawals for retries, a reserve for each second, all of them forgotten after a while; its defaults), with
two changes. Deposits come from calls to any provider: a standby gets no first attempts, and would have no budget when
it is needed. And an attempt that brings content is given back: load that a provider carries well is a failover, and
what has to be bounded is attempts at one that fails or hangs. So in any ten seconds (`WINDOW_S`, in whole ones) of one
provider's further attempts at most 100 + a fifth of all calls that began in them have failed or are without content.
A healthy standby takes over at any rate; a dying one gets a fifth on top of its own calls, however many providers
died before it; a small team's fallbacks are never refused. A hedge is none of these attempts: its own budget holds.

Amounts are integers: shares in millionths, money in pico-USD; no rounding ever gives away an attempt.
Cost: 0.2 us to earn, for a call each of both; 0.3 us for a hedge, 2 us for a further attempt that is given back.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

BURST: Final = 10  # hedges that may run ahead of their share
ACCOUNTS_MAX: Final = 65_536  # that hedge on one day: 14 MB, freed at its end in 2 ms; one more has to do without
SHARE: Final = 0.2  # Finagle's and Envoy's default
RESERVE_PER_S: Final = 10  # Finagle's default
WINDOW_S: Final = 10  # Finagle's default
_ONE: Final = 1_000_000
_DAY_S: Final = 86_400


class _Account(msgspec.Struct, gc=False):
    """What an account has left. One without an entry has everything, so calls that never hedge leave no entry."""

    tokens: int = BURST * _ONE
    spent_pico_usd: int = 0


class HedgeLevels(NamedTuple):
    """Counts since the start: hedges that were allowed and refused, by reason; and accounts that hedged today."""

    allowed: int
    refused_share: int
    refused_money: int
    refused_room: int
    accounts: int


class HedgeBudget:
    """Which hedges the accounts may still start. `wall` is Unix seconds.

    A clock set back over midnight goes on with the day it had begun, so nobody has a day's money twice; set back by
    more than a day it had been wrong, and is believed.
    """

    __slots__ = (
        "_accounts",
        "_accounts_max",
        "_allowed",
        "_day",
        "_earned",
        "_money",
        "_no_money",
        "_no_room",
        "_no_share",
    )

    def __init__(self, share_max: float, pico_usd_per_day: int | None, accounts_max: int = ACCOUNTS_MAX) -> None:
        """`share_max` is read to a millionth, and 0 allows no hedge at all; None: no limit by money."""
        self._accounts_max = accounts_max
        self._accounts: dict[str, _Account] = {}
        self._day = 0
        self._allowed = self._no_share = self._no_money = self._no_room = 0
        self.configure(share_max, pico_usd_per_day)

    def configure(self, share_max: float, pico_usd_per_day: int | None) -> None:
        """Take new settings; what was earned and spent stays."""
        self._earned = round(share_max * _ONE)
        self._money = pico_usd_per_day

    def earn(self, account: str) -> None:
        """A call of the account begins."""
        entry = self._accounts.get(account)
        if entry is not None:
            entry.tokens = min(BURST * _ONE, entry.tokens + self._earned)

    def allow(self, account: str, cost_pico_usd: int, wall: float) -> bool:
        """Whether the account may hedge now, the loser being estimated at this cost; spends when True."""
        self._turn(wall)
        entry = self._accounts.get(account)
        tokens, spent = (BURST * _ONE, 0) if entry is None else (entry.tokens, entry.spent_pico_usd)
        if tokens < _ONE or not self._earned:
            self._no_share += 1
            return False
        if self._money is not None and spent + cost_pico_usd > self._money:
            self._no_money += 1
            return False
        if entry is None:
            if len(self._accounts) >= self._accounts_max:
                self._no_room += 1
                return False
            entry = self._accounts[account] = _Account()
        entry.tokens = tokens - _ONE
        entry.spent_pico_usd = spent + cost_pico_usd
        self._allowed += 1
        return True

    def settle(self, account: str, estimated: int, actual: int, wall: float) -> None:
        """What an allowed hedge cost in truth. `wall` is the one `allow` was told: money counts on the hedge's day.

        A hedge that is never settled counts as estimated. One of an earlier day changes nothing today.
        """
        entry = self._accounts.get(account)
        if entry is not None and int(wall // _DAY_S) == self._day:
            entry.spent_pico_usd = max(0, entry.spent_pico_usd + actual - estimated)

    def levels(self) -> HedgeLevels:
        """For metrics."""
        return HedgeLevels(self._allowed, self._no_share, self._no_money, self._no_room, len(self._accounts))

    def _turn(self, wall: float) -> None:
        day = int(wall // _DAY_S)
        if day != self._day and day != self._day - 1:
            self._day = day
            self._accounts = {}


class _Seconds:
    """A count for each of the last `WINDOW_S` whole seconds, the running one included."""

    __slots__ = ("_counts", "_seconds")

    def __init__(self) -> None:
        self._seconds = [-1] * WINDOW_S  # which second a place counts
        self._counts = [0] * WINDOW_S

    def add(self, now: float) -> None:
        """Count one; not one of before the window, as of a call whose body was long on its way."""
        second = int(now)
        place = second % WINDOW_S
        if self._seconds[place] != second:
            if self._seconds[place] > second:
                return
            self._seconds[place] = second
            self._counts[place] = 0
        self._counts[place] += 1

    def take(self, at: float) -> None:
        """Uncount one that was counted at `at`, if it still counts."""
        second = int(at)
        place = second % WINDOW_S
        if self._seconds[place] == second and self._counts[place]:
            self._counts[place] -= 1

    def total(self, now: float) -> int:
        """How many there were."""
        first = int(now) - WINDOW_S
        return sum(count for second, count in zip(self._seconds, self._counts, strict=True) if second > first)


class RetryBudget:
    """Which further attempts the providers may still get. Bounded by the configuration: one entry a provider."""

    __slots__ = ("_calls", "_earned", "_reserve", "_spent")

    def __init__(self, share: float = SHARE, reserve_per_s: float = RESERVE_PER_S) -> None:
        """`share` and `reserve_per_s` are read to a millionth."""
        self._calls = _Seconds()
        self._spent: dict[str, _Seconds] = {}
        self.configure(share, reserve_per_s)

    def configure(self, share: float, reserve_per_s: float = RESERVE_PER_S) -> None:
        """Take new settings; what was earned and spent stays."""
        self._earned = round(share * _ONE)
        self._reserve = round(reserve_per_s * _ONE) * WINDOW_S

    def earn(self, now: float) -> None:
        """A call makes its first attempt, at whichever provider. `now` may be when the call began."""
        self._calls.add(now)

    def spend(self, provider: str, now: float) -> bool:
        """Whether `provider` may get a further attempt of a call now; spends when True."""
        spent = self._spent.get(provider)
        if spent is None:
            spent = self._spent[provider] = _Seconds()
        if self._left(spent, now) < 1:
            return False
        spent.add(now)
        return True

    def give_back(self, provider: str, spent_at: float) -> None:
        """The further attempt that began at `spent_at` brought content. Not for one that failed or was cancelled."""
        spent = self._spent.get(provider)
        if spent is not None:
            spent.take(spent_at)

    def levels(self, now: float) -> dict[str, int]:
        """How many further attempts each provider may get now, for metrics; of those that ever were to get one."""
        return {provider: max(0, self._left(spent, now)) for provider, spent in self._spent.items()}

    def _left(self, spent: _Seconds, now: float) -> int:
        return (self._reserve + self._calls.total(now) * self._earned) // _ONE - spent.total(now)
