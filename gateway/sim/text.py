"""Words from a seed: the same seed gives the same sentences, on every machine and every Python.

Draws come from SHA-256 in counter mode rather than `random`, whose `choice` may change between releases.
All nouns and adjectives begin with a consonant, so that "a" is always right.
"""

from __future__ import annotations

import hashlib
import re
from typing import TypeVar

T = TypeVar("T")

DETERMINERS = ("the", "a", "every", "one", "that", "some")
ADJECTIVES = (
    "quiet",
    "small",
    "bright",
    "patient",
    "narrow",
    "silver",
    "distant",
    "gentle",
    "modern",
    "curious",
    "heavy",
    "hollow",
    "simple",
    "warm",
    "brave",
    "careful",
    "lucky",
    "plain",
    "rapid",
    "tidy",
)
NOUNS = (
    "river",
    "lantern",
    "garden",
    "teacher",
    "window",
    "bridge",
    "market",
    "letter",
    "mountain",
    "kettle",
    "sailor",
    "village",
    "machine",
    "picture",
    "forest",
    "harbor",
    "clock",
    "neighbor",
    "library",
    "train",
    "bakery",
    "signal",
    "cartographer",
    "weaver",
)
VERBS = (
    "carries",
    "follows",
    "remembers",
    "repairs",
    "answers",
    "finds",
    "paints",
    "measures",
    "visits",
    "describes",
    "borrows",
    "watches",
    "crosses",
    "gathers",
    "protects",
    "surprises",
)
PREPOSITIONS = ("near", "behind", "beside", "beyond", "under", "across from", "without", "before")

# A piece is what one stream chunk carries: a word with the space before it, at most 16 characters of it.
_PIECE = re.compile(r"\s?\S{1,16}|\s{1,16}")


class Dice:
    """An endless, reproducible source of draws."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0
        self._pool = b""

    def below(self, bound: int) -> int:
        """A number in `range(bound)`; `bound` is 1 to 2**32, and far smaller for an even spread."""
        if len(self._pool) < 4:
            self._pool = hashlib.sha256(self._seed + self._count.to_bytes(8, "big")).digest()
            self._count += 1
        drawn, self._pool = self._pool[:4], self._pool[4:]
        return int.from_bytes(drawn, "big") % bound

    def pick(self, options: tuple[T, ...] | list[T]) -> T:
        """One of `options`, which must not be empty."""
        return options[self.below(len(options))]


def word(dice: Dice) -> str:
    """One lower-case noun."""
    return dice.pick(NOUNS)


def sentence(dice: Dice) -> list[str]:
    """The words of one English sentence, the last with its full stop."""
    words = _noun_phrase(dice)
    words.append(dice.pick(VERBS))
    words += _noun_phrase(dice)
    if dice.below(2):
        words += dice.pick(PREPOSITIONS).split()
        words += _noun_phrase(dice)
    words[0] = words[0].capitalize()
    words[-1] += "."
    return words


def sentences(dice: Dice, words_max: int) -> str:
    """Whole sentences of between half and all of `words_max` words; one sentence is cut short when none fits."""
    goal = max(1, words_max - dice.below(words_max // 2 + 1))
    words = sentence(dice)
    if len(words) > goal:
        words = words[:goal]
        while len(words) > 1 and words[-1] not in NOUNS:
            words.pop()
        return " ".join(words) + "."
    while len(words) + len(more := sentence(dice)) <= goal:
        words += more
    return " ".join(words)


def pieces(text: str) -> tuple[str, ...]:
    """`text` cut as a stream sends it; joined they give `text` again."""
    return tuple(_PIECE.findall(text))


def _noun_phrase(dice: Dice) -> list[str]:
    phrase = [dice.pick(DETERMINERS)]
    if dice.below(2):
        phrase.append(dice.pick(ADJECTIVES))
    phrase.append(dice.pick(NOUNS))
    return phrase
