"""The rate limiter: a call passes its key's limits and its account's together, or changes nothing. Pure.

One synchronous decision over every limit of every level: requests and tokens a minute (`gcra`), calls of a calendar day
(`days`) and calls under way. It is made on values, and written only when all limits have agreed, so a refusal has
nothing to undo. `now` is monotonic seconds, read as whole nanoseconds; `wall` is Unix seconds and used for days alone.

Tokens are an estimate at admission; `Ticket.release` trues them up. Limits come with each call: lowering one takes
effect with the next, and what is already used carries over (`gcra` says how; days and calls under way by number).
A level without limits costs one comparison and leaves no state: a call that began under none is never counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from gateway.admit import gcra
from gateway.admit.days import Days
from gateway.admit.limits import Allowance, Limits, Standing
from gateway.admit.shards import Counter, Shards, shard_of
from gateway.errors import Overloaded, RateLimited

_NS: Final = 1e9
_PLACE_S: Final = 1.0  # nobody knows when a call under way will end: ask again in a second
_ACCOUNT: Final = "account:"
_UNLIMITED: Final = Limits()


@dataclass(frozen=True, slots=True)
class Level:
    """One name with its limits: `key:ID` or `account:ID`. Build it once per key, not per call: the rest is derived."""

    name: str
    limits: Limits
    shard: int = field(init=False, compare=False)
    limited: bool = field(init=False, compare=False)
    request_ns: int = field(init=False, compare=False)  # what a request costs; 0: requests a minute are not limited
    requests_ns: int = field(init=False, compare=False)  # how deep that bucket is
    token_ns: int = field(init=False, compare=False)
    tokens_ns: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        rpm, tpm = self.limits.rpm, self.limits.tpm
        derive = object.__setattr__
        derive(self, "shard", shard_of(self.name))
        derive(self, "limited", self.limits != _UNLIMITED)
        derive(self, "request_ns", 0 if rpm is None else gcra.interval_ns(rpm))
        derive(self, "requests_ns", self.request_ns * (rpm or 0))
        derive(self, "token_ns", 0 if tpm is None else gcra.interval_ns(tpm))
        derive(self, "tokens_ns", self.token_ns * (tpm or 0))


_Hold = tuple[Counter, Level, int, int]  # with the counter's next requests_full_at_ns and tokens_full_at_ns


class Ticket:
    """One admitted call, until it is released."""

    __slots__ = ("_days", "_holds", "_released", "_tokens", "_wall_ahead_s")

    def __init__(self, holds: list[_Hold], tokens: int, days: Days, wall_ahead_s: float) -> None:
        self._holds = holds
        self._tokens = tokens
        self._days = days
        self._wall_ahead_s = wall_ahead_s
        self._released = False

    def release(self, tokens_used: int, now: float) -> None:
        """The call is over and used so many tokens. Frees its places; the first release counts, others do nothing."""
        if self._released:
            return
        self._released = True
        extra = tokens_used - self._tokens
        now_ns = int(now * _NS)
        for counter, level, _requests, _tokens in self._holds:
            counter.under_way -= 1
            if extra and level.token_ns:
                counter.tokens_full_at_ns = gcra.settle(counter.tokens_full_at_ns, extra * level.token_ns, now_ns)

    def standing(self, now: float) -> Standing:
        """What the caller has left at `now`, under the limits the call was admitted with."""
        pairs = [hold[:2] for hold in self._holds]
        return _standing(pairs, int(now * _NS), self._days, now + self._wall_ahead_s)


class Limiter:
    """All counters. Not for threads."""

    __slots__ = ("_days", "_shards")

    def __init__(self, *, day_zone: str, keys_max: int) -> None:
        """`day_zone` is an IANA name, `keys_max` how many keys and accounts are counted at once."""
        self._days = Days(day_zone)
        self._shards = Shards(keys_max)

    def configure(self, *, day_zone: str, keys_max: int) -> None:
        """Take new settings and keep what is counted. A table above a lowered `keys_max` shrinks as entries idle."""
        self._days.move(day_zone)
        self._shards.keys_max = keys_max

    def __len__(self) -> int:
        """How many keys and accounts are counted."""
        return len(self._shards)

    def memory_bytes(self) -> int:
        """What the table takes, nearly: about 225 bytes an entry when a million are there, names of 26 characters."""
        return self._shards.memory_bytes()

    def admit(self, levels: Sequence[Level], tokens: int, now: float, wall: float) -> Ticket:
        """Let a call of about `tokens` pass all levels, whose names differ.

        Raises RateLimited, or Overloaded when the table is full of live limits; then nothing was consumed.
        """
        now_ns = int(now * _NS)
        today = self._days.at(wall)
        dicts = self._shards.dicts
        holds: list[_Hold] = []
        fresh = 0
        for level in levels:
            if not level.limited:
                continue
            counter = dicts[level.shard].get(level.name)
            if counter is None:
                counter = Counter()
                fresh += 1
            hold = _claim(counter, level, tokens, now_ns, today)
            if hold is None:
                self._refuse(levels, tokens, now_ns, wall)
            holds.append(hold)
        if fresh:
            self._seat(holds, fresh, now_ns, today)
        for counter, level, requests_full_at_ns, tokens_full_at_ns in holds:
            counter.requests_full_at_ns = requests_full_at_ns
            counter.tokens_full_at_ns = tokens_full_at_ns
            counter.under_way += 1
            if level.limits.rpd is not None:
                counter.calls_today += 1
        return Ticket(holds, tokens, self._days, wall - now)

    def standing(self, levels: Iterable[Level], now: float, wall: float) -> Standing:
        """What a caller has left, without a call: for the answer to a refused one."""
        self._days.at(wall)
        return _standing(self._counted(levels), int(now * _NS), self._days, wall)

    def _counted(self, levels: Iterable[Level]) -> Iterator[tuple[Counter, Level]]:
        for level in levels:
            if level.limited:
                yield self._shards.dicts[level.shard].get(level.name) or Counter(), level

    def _seat(self, holds: list[_Hold], fresh: int, now_ns: int, today: int) -> None:
        """Put the new counters into the table. The hand must not take the call's own old ones, idle until now."""
        for hold in holds:
            hold[0].under_way += 1
        room = self._shards.make_room(fresh, now_ns, today)
        for hold in holds:
            hold[0].under_way -= 1
        if not room:
            raise Overloaded(
                f"all {self._shards.keys_max} places for rate limits are in use, so that a key without one has to "
                "wait; the operator can raise limits.keys_in_memory_max",
                retry_after_s=_PLACE_S,
            )
        for counter, level, _requests, _tokens in holds:
            if level.name not in self._shards.dicts[level.shard]:
                self._shards.add(level.shard, level.name, counter)

    def _refuse(self, levels: Sequence[Level], tokens: int, now_ns: int, wall: float) -> NoReturn:
        """Name the limit that keeps the call out for longest. Raises RateLimited."""
        found = [
            (wait_s, f"Rate limit exceeded: {what}")
            for counter, level in self._counted(levels)
            for wait_s, what in _refusals(counter, level, tokens, now_ns, self._days, wall)
        ]
        wait_s, message = max(found, key=lambda refusal: refusal[0])
        raise RateLimited(message, retry_after_s=None if math.isinf(wait_s) else wait_s)


def _claim(counter: Counter, level: Level, tokens: int, now_ns: int, today: int) -> _Hold | None:
    """What to write when the call passes this level; None when a limit of it refuses."""
    limits = level.limits
    most, rpd = limits.concurrency, limits.rpd
    if most is not None and counter.under_way >= most:
        return None
    if rpd is not None:
        if counter.day != today:
            counter.turn(today)
        if counter.calls_today >= rpd:
            return None
    requests: int | None = counter.requests_full_at_ns
    if level.request_ns:
        requests = gcra.take(counter.requests_full_at_ns, level.request_ns, level.requests_ns, now_ns)
        if requests is None:
            return None
    after: int | None = counter.tokens_full_at_ns
    if level.token_ns:
        after = gcra.take(counter.tokens_full_at_ns, tokens * level.token_ns, level.tokens_ns, now_ns)
    return None if requests is None or after is None else (counter, level, requests, after)


def _refusals(
    counter: Counter, level: Level, tokens: int, now_ns: int, days: Days, wall: float
) -> Iterator[tuple[float, str]]:
    """Each limit of a level that keeps the call out: for how many seconds (infinity: for ever), and its name."""
    rpm, rpd, tpm, concurrency = level.limits
    whose = " for all keys of the account together" if level.name.startswith(_ACCOUNT) else ""
    if rpm is not None:
        wait_ns = gcra.wait_ns(counter.requests_full_at_ns, level.request_ns, level.requests_ns, now_ns)
        if wait_ns:
            yield wait_ns / _NS, f"{rpm} RPM{whose}"
    if rpd is not None:
        counter.turn(days.today)
        if counter.calls_today >= rpd:
            yield days.rest_s(wall), f"{rpd} RPD{whose}"
    if tpm is not None:
        wait_ns = gcra.wait_ns(counter.tokens_full_at_ns, tokens * level.token_ns, level.tokens_ns, now_ns)
        if tokens > tpm:
            advice = f"this call alone may use {tokens} tokens and can never pass: shorten it or lower max_tokens"
            yield math.inf, f"{tpm} TPM{whose}; {advice}"
        elif wait_ns:
            yield wait_ns / _NS, f"{tpm} TPM{whose}"
    if concurrency is not None and counter.under_way >= concurrency:
        yield _PLACE_S, f"{concurrency} concurrent call{'s' if concurrency > 1 else ''}{whose}"


def _standing(pairs: Iterable[tuple[Counter, Level]], now_ns: int, days: Days, wall: float) -> Standing:
    requests: _Left | None = None
    tokens: _Left | None = None
    for counter, level in pairs:
        rpm, rpd, tpm, _concurrency = level.limits
        if rpm is not None:
            requests = _less(requests, _left(counter.requests_full_at_ns - now_ns, level.request_ns, rpm))
        if rpd is not None:
            if counter.day != days.today:
                counter.turn(days.today)
            rest_ms = math.ceil(days.rest_s(wall) * 1000) if counter.calls_today else 0
            requests = _less(requests, (max(0, rpd - counter.calls_today), -rest_ms, rpd))
        if tpm is not None:
            tokens = _less(tokens, _left(counter.tokens_full_at_ns - now_ns, level.token_ns, tpm))
    return Standing(_allowance(requests), _allowance(tokens))


_Left = tuple[int, int, int]  # what remains, less the milliseconds until it is whole again, and the limit: least first


def _left(missing_ns: int, unit_ns: int, limit: int) -> _Left:
    if missing_ns <= 0:
        return limit, 0, limit
    return max(0, limit - -(-missing_ns // unit_ns)), -missing_ns // gcra.NS_PER_MS, limit


def _less(least: _Left | None, left: _Left) -> _Left:
    return left if least is None or left < least else least


def _allowance(left: _Left | None) -> Allowance | None:
    return None if left is None else Allowance(left[2], left[0], -left[1])
