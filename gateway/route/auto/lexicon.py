"""Finds the words of the lists in a text, in one pass for each script: an Aho-Corasick automaton over UTF-8 bytes.

English and Chinese need different views of a text. For English all that is no ASCII letter or digit becomes one
space, so that ` word ` with its spaces is a whole word; letters lose their case, digits become zeros, apostrophes go.
For Chinese the signs are matched as they stand, ASCII blanked out and spaces dropped. Both views begin with `^`.
UTF-8 is self-synchronising (RFC 3629, section 1), so a match of whole signs never starts inside one.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator
from typing import Final

from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

_KEPT: Final = string.ascii_lowercase + "+#"
_LATIN: Final = bytes(
    ord("0") if chr(byte).isdigit() and byte < 0x80 else ord(chr(byte).lower()) if chr(byte).lower() in _KEPT else 0x20
    for byte in range(256)
)
_HAN: Final = bytes(byte if byte >= 0x80 else ord("~") for byte in range(256))
_CURLY_APOSTROPHE: Final = "\N{RIGHT SINGLE QUOTATION MARK}".encode()

Effects = tuple[tuple[int, int], ...]
"""What a word adds to which tallies: (index, weight)."""


def latin_view(raw: bytes) -> bytes:
    """The view in which English words are found, ` word ` each, `^` before the first."""
    if not raw.isascii():
        raw = raw.replace(_CURLY_APOSTROPHE, b"")
    return b"^ " + b" ".join(raw.translate(_LATIN, b"'^").split()) + b" "


def han_view(raw: bytes) -> bytes:
    """The view in which Chinese words are found."""
    return b"^" + raw.translate(_HAN, b" ")


class Lexicon:
    """Words and what they add to which tally; built once, read by all."""

    def __init__(self, lists: Iterable[tuple[int, int, str]]) -> None:
        """Take (tally, weight, words) lists. A word twice in a tally counts once, with its greater weight."""
        effects: dict[bytes, dict[int, int]] = {}
        for tally, weight, words in lists:
            for pattern in _patterns(words):
                of_word = effects.setdefault(pattern, {})
                of_word[tally] = max(weight, of_word.get(tally, 0))
        self.effects: Final = tuple(tuple(of_word.items()) for of_word in effects.values())
        self._automaton: Final = BytesAhoCorasick(
            list(effects), matchkind=MatchKind.Standard, implementation=Implementation.ContiguousNFA
        )

    def find(self, view: bytes) -> list[tuple[int, int, int]]:
        """All matches in a view, overlapping ones too: (word, start, end), in order of their ends."""
        return self._automaton.find_matches_as_indexes(view, overlapping=True)

    def add(self, view: bytes, tallies: list[int]) -> None:
        """Add the words found in a view to the tallies, each once."""
        effects = self.effects
        for word in {match[0] for match in self.find(view)}:
            for tally, weight in effects[word]:
                tallies[tally] += weight


def _patterns(words: str) -> Iterator[bytes]:
    for entry in words.split(","):
        word = " ".join(entry.split())
        if word.isascii():
            yield _english(word)
            continue
        start = b"^" if word.startswith("^") else b""
        for form in word.removeprefix("^").split("/"):
            yield _english(form) if form.isascii() else start + form.encode()


def _english(word: str) -> bytes:
    start, end = b"^" if word.startswith("^") else b"", b"" if word.endswith("*") else b" "
    inner = b" ".join(word.strip("^*").encode().translate(_LATIN, b"'").split())
    return start + b" " + inner + end
