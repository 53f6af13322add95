"""Calendar days of one time zone, in Unix seconds. Pure, but for the zone's rules, which are read once.

A day is a number (`date.toordinal`). It lasts from its first midnight to the next day's first midnight, so a day of a
clock change has 23 or 25 hours, days never overlap, and a later instant never has an earlier day, even where the hour
that is repeated spans midnight. Where midnight is skipped, the day begins at the change.

A clock that is set back over midnight goes on with the day it had begun: nobody is given a day twice, whatever became
of his counter. A clock set back by more than a day had been wrong, and is believed at once.
"""

from __future__ import annotations

from datetime import date, datetime, time
from zoneinfo import ZoneInfo


class Days:
    """Which day it is. Remembers the bounds of that day, so that most questions are two comparisons."""

    __slots__ = ("_end", "_start", "_zone", "today")

    def __init__(self, zone: str) -> None:
        """`zone` is an IANA name. Raises ZoneInfoNotFoundError (a KeyError) for one that is not known."""
        self._zone = ZoneInfo(zone)
        self.today = 0  # as of the last call of `at`
        self._start = self._end = 0.0

    def move(self, zone: str) -> None:
        """Go by another zone from the next question on. Raises ZoneInfoNotFoundError."""
        self._zone = ZoneInfo(zone)
        self._start = self._end = 0.0

    def at(self, wall: float) -> int:
        """The day to count for at `wall`, in Unix seconds."""
        if not self._start <= wall < self._end:
            self._turn(wall)
        return self.today

    def rest_s(self, wall: float) -> float:
        """How many seconds today still has; 0 when it is over."""
        return max(0.0, self._end - wall)

    def _turn(self, wall: float) -> None:
        day = datetime.fromtimestamp(wall, self._zone).toordinal()
        while wall >= self._midnight(day + 1):
            day += 1
        while wall < self._midnight(day):
            day -= 1
        self._start = self._midnight(day)
        if day != self.today - 1:
            self.today = day
        self._end = self._midnight(self.today + 1)

    def _midnight(self, day: int) -> float:
        return datetime.combine(date.fromordinal(day), time(), self._zone).timestamp()
