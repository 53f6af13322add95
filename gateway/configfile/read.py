"""Reading one TOML table key by key, collecting every problem with its file, line and key.

A `Table` is asked for the keys it may have; `close()` then reports the ones nobody asked for. Nothing
here raises for bad input: a bad value becomes a `Problem` and the caller gets None (or the default),
so that one run tells all that is wrong. Values that may be secrets are never put into a message.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from gateway.configfile.lines import Lines, Path, dotted

T = TypeVar("T")
Word = TypeVar("Word", bound=str)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration. `line` counts from 1; 0 means the file as a whole."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` says why, in the order of the file. `str()` has one per line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(map(str, self.problems)))


class Report:
    """Collects the problems of one file. Lines are looked up only when there is something to report."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._text = text
        self._lines: Lines | None = None
        self.problems: list[Problem] = []

    def add(self, path: Path, message: str) -> None:
        """Note that the value (or the absence) of `path` is wrong."""
        if self._lines is None:
            self._lines = Lines(self._text)
        self.problems.append(Problem(self._file, self._lines.find(path), dotted(path), message))


def did_you_mean(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`; did you mean X?` for the nearest of `known` (`cutoff`: from 0, anything, to 1, the same), else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""


class Table:
    """One table of the file, read key by key."""

    def __init__(self, report: Report, path: Path, raw: dict[str, object]) -> None:
        self.report = report
        self.path = path
        self._raw = raw
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._raw

    def problem(self, key: str | None, message: str) -> None:
        """Report `message` at `key`, or at the table itself."""
        self.report.add(self.path if key is None else (*self.path, key), message)

    def raw(self, key: str) -> object:
        """The undecoded value, None when absent (TOML has no null)."""
        self._asked.add(key)
        return self._raw.get(key)

    def get(self, key: str, kind: type[T]) -> T | None:
        """The value as `kind` (a type msgspec knows); None when absent, or reported as bad."""
        value = self.raw(key)
        if value is None:
            return None
        return self.convert(key, value, kind)

    def convert(self, key: str, value: object, kind: type[T]) -> T | None:
        """Turn `value` into `kind`, reporting a mismatch at `key`."""
        try:
            converted = msgspec.convert(value, type=kind)
        except msgspec.ValidationError as exc:
            self.problem(key, f"bad value: {_lower_first(str(exc))}")
            return None
        if isinstance(converted, float) and not math.isfinite(converted):
            self.problem(key, "bad value: must be a finite number")
            return None
        return converted

    def text(self, key: str) -> str | None:
        """A string with something in it and no control characters; None when absent or reported."""
        value = self.get(key, str)
        if value is not None and (not value.strip() or not value.isprintable()):
            self.problem(key, "bad value: must be text, not empty and without control characters")
            return None
        return value

    def choice(self, key: str, choices: Sequence[Word]) -> Word | None:
        """One of `choices`; None when absent or reported."""
        value = self.get(key, str)
        for choice in choices:
            if choice == value:
                return choice
        if value is not None:
            hint = did_you_mean(value, choices) or f"; known are {', '.join(choices)}"
            self.problem(key, f"bad value: {value[:64]!r}{hint}")
        return None

    def table(self, key: str) -> Table:
        """A sub-table; an empty one when absent or reported."""
        value = self.raw(key)
        if value is not None and not isinstance(value, dict):
            self.problem(key, f"must be a table, not {_toml_type(value)}")
            value = None
        return Table(self.report, (*self.path, key), value or {})

    def tables(self, key: str) -> list[Table]:
        """An array of tables; empty when absent or reported."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.problem(key, "must be an array of tables")
            return []
        return [Table(self.report, (*self.path, key, index), item) for index, item in enumerate(value)]

    def names(self) -> list[str]:
        """Every key of the table, for tables whose keys are names of the user's choice."""
        self._asked.update(self._raw)
        return list(self._raw)

    def close(self) -> None:
        """Report every key that was not asked for."""
        for key in self._raw:
            if key not in self._asked:
                known = sorted(self._asked - set(self._raw))
                self.problem(key, f"unknown key{did_you_mean(key, known)}")


def _toml_type(value: object) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array"}
    return names.get(type(value), "a date or time")


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
