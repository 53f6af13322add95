"""The words of the lexical classifier: (what they speak for, weight, words). Data only.

A list of words is separated by commas. English words are matched whole, without regard to case or apostrophes; `*` at
the end lets a word go on (`translat*`); all digits are equal, so that `utf 0` is UTF-8 and `0am` any hour. Chinese
words match wherever their signs stand, spaces left out; where the two scripts or the two vocabularies differ a word is
given as `traditional/simplified`. `^` at the start wants a word first in its part of the message.

What words speak for is one of the ten classes, or one of the `CUES`, which `lexical.py` reads with the request's shape.
"""

from __future__ import annotations

from typing import Final

from gateway.route.auto.words import (
    en_cues,
    en_essays,
    en_talk,
    en_tasks,
    zh_cues,
    zh_essays,
    zh_talk,
    zh_tasks,
)
from gateway.route.auto.words.tools import DOMAINS

CUES: Final = (
    "reference",  # points back into the conversation
    "fresh",  # leaves it behind
    "self",  # the caller's own life
    "explain",  # wants to understand, rather than have something done
    "timely",  # can only be known by looking it up now
    "protocol",  # speaks of calling tools
    "own",  # of files and machines that a tool can reach
    "translator",  # of a system prompt to which every message is material
    "quantity",  # asks for a number
    "figure",  # a number in words
)
WORDS: Final = (
    *(*en_tasks.WORDS, *en_essays.WORDS, *en_talk.WORDS, *en_cues.WORDS),
    *(*zh_tasks.WORDS, *zh_essays.WORDS, *zh_talk.WORDS, *zh_cues.WORDS),
)

__all__ = ["CUES", "DOMAINS", "WORDS"]
