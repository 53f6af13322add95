"""A string that matches a regular expression, for the `pattern` keyword of JSON Schema (ECMA-262 syntax).

Understood: literals, `.`, classes and their negation, the escapes d w s D W S t n r f v x u, groups (capturing, named
or not), alternation, the quantifiers, and anchors at the ends. Look-around, back-references, word boundaries and
Unicode properties are refused by name. Work is bounded by `STEPS_MAX` whatever the quantifiers say.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import TypeAlias

from gateway.sim.text import Dice

STEPS_MAX = 20_000
ATTEMPTS = 96
PRINTABLE = "".join(chr(code) for code in range(32, 127))
CLASSES = {
    "d": string.digits,
    "w": string.ascii_letters + string.digits + "_",
    "s": " ",
    "D": "".join(char for char in PRINTABLE if not char.isdigit()),
    "W": "".join(char for char in PRINTABLE if not char.isalnum() and char != "_"),
    "S": PRINTABLE[1:],
}
CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_COUNTS = re.compile(r"\{(\d{1,6})(,(\d{0,6}))?\}")
_GROUP = re.compile(r"\?:|\?P?<[A-Za-z_]\w*>")
_HEX = re.compile(r"x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}")


class PatternError(ValueError):
    """The pattern is malformed, uses what is not understood, or fits no string of the length asked."""


class _Run:
    """One attempt at a string: the dice, how far repeats may go past their least, and the work left."""

    def __init__(self, dice: Dice, spread: int) -> None:
        self.dice = dice
        self.spread = spread
        self._left = STEPS_MAX

    def step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise PatternError("its quantifiers ask for too long a string")


Writer: TypeAlias = Callable[[_Run], str]


def matching(pattern: str, dice: Dice, length_min: int = 0, length_max: int = 100_000) -> str:
    """A string that `pattern` matches, of a length within the bounds.

    Raises:
        PatternError: see the class.
    """
    if len(pattern) > 2_000:
        raise PatternError(f"it is {len(pattern)} characters long; at most 2000 are read")
    write = _Parser(pattern).parse()
    for attempt in range(ATTEMPTS):
        spread = (2, 0, max(2, length_min))[attempt % 3]
        text = write(_Run(dice, spread))
        if length_min <= len(text) <= length_max:
            return text
    raise PatternError(f"no string of {length_min} to {length_max} characters was found for it")


class _Parser:
    """Recursive descent from the pattern to a writer of matching strings."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def parse(self) -> Writer:
        writer = self._alternatives()
        if self._at < len(self._pattern):
            raise PatternError(f"there is an unmatched ')' at {self._at}")
        return writer

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise PatternError("it ends too soon")
        self._at += 1
        return char

    def _match(self, expression: re.Pattern[str]) -> str:
        found = expression.match(self._pattern, self._at)
        if not found:
            return ""
        self._at = found.end()
        return found.group()

    def _alternatives(self) -> Writer:
        options = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._sequence())
        return lambda run: run.dice.pick(options)(run)

    def _sequence(self) -> Writer:
        parts: list[Writer] = []
        if self._peek() == "^":
            self._at += 1
        while self._peek() not in ("", "|", ")"):
            if self._peek() == "$":
                self._at += 1
                if self._peek() not in ("", "|", ")"):
                    raise PatternError("'$' is understood only at the end")
                break
            parts.append(self._repeated(self._atom()))
        return lambda run: "".join([part(run) for part in parts])

    def _repeated(self, atom: Writer) -> Writer:
        least, most = self._counts()
        if self._peek() == "?" and (least, most) != (1, 1):
            self._at += 1  # Laziness does not change what can match.

        def write(run: _Run) -> str:
            top = least + run.spread if most is None else min(most, least + run.spread)
            made = []
            for _ in range(least + run.dice.below(top - least + 1)):
                run.step()
                made.append(atom(run))
            return "".join(made)

        return write

    def _counts(self) -> tuple[int, int | None]:
        plain = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._peek())
        if plain is not None:
            self._at += 1
            return plain
        counts = self._match(_COUNTS)
        if not counts:
            return 1, 1
        low, comma, high = counts[1:-1].partition(",")
        most = int(high) if high else None if comma else int(low)
        if most is not None and most < int(low):
            raise PatternError(f"the quantifier {counts} is empty")
        return int(low), most

    def _atom(self) -> Writer:
        char = self._take()
        if char == "(":
            return self._group()
        if char == "[":
            return _one_of(self._class())
        if char == ".":
            return _one_of(PRINTABLE)
        if char == "\\":
            return _one_of(self._escape())
        if char in "*+?^":
            raise PatternError(f"{char!r} at {self._at - 1} has nothing before it, or is not understood there")
        return _one_of(char)

    def _group(self) -> Writer:
        if self._peek() == "?" and not self._match(_GROUP):
            raise PatternError("look-around and inline flags are not understood")
        self._depth += 1
        if self._depth > 50:
            raise PatternError("its groups are nested more than 50 deep")
        inner = self._alternatives()
        if self._take() != ")":
            raise PatternError("a group is not closed")
        self._depth -= 1
        return inner

    def _escape(self) -> str:
        """The characters that the escape after a backslash stands for."""
        code = self._match(_HEX)
        if code:
            char = chr(int(code[1:], 16))
            if 0xD800 <= ord(char) <= 0xDFFF:
                raise PatternError("an escape stands for half a surrogate pair")
            return char
        char = self._take()
        if char in CLASSES:
            return CLASSES[char]
        if char in CONTROLS:
            return CONTROLS[char]
        if char.isalnum():
            raise PatternError(f"the escape \\{char} is not understood")
        return char

    def _class(self) -> str:
        negated = self._peek() == "^"
        self._at += negated
        chars = ""
        while self._peek() != "]":
            low = self._class_item()
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", "") and len(low) == 1:
                self._at += 1
                high = self._class_item()
                if len(high) != 1 or high < low:
                    raise PatternError(f"the range {low}-{high} is empty")
                low = "".join(chr(code) for code in range(ord(low), min(ord(high), ord(low) + 1000) + 1))
            chars += low
        self._at += 1
        if negated:
            chars = "".join(char for char in PRINTABLE if char not in chars)
        chars = "".join(char for char in chars if not 0xD800 <= ord(char) <= 0xDFFF)  # Half a pair is no text.
        if not chars:
            raise PatternError("a class holds no character that can be written")
        return chars

    def _class_item(self) -> str:
        char = self._take()
        if char != "\\":
            return char
        if self._peek() == "b":
            self._at += 1
            return "\b"
        return self._escape()


def _one_of(chars: str) -> Writer:
    options = tuple(chars)
    return lambda run: run.dice.pick(options)
