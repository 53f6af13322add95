"""The lexical classifier: weighted words in English and Chinese, and the shape of the request. No state, no chance.

Words of the question count double, words of its material once (`shape.py`). What a word is worth stands in `words`,
what a shape is worth stands here. All weights are whole numbers, so that sums do not depend on their order. A strong
word (weight 4 and up) is a sign by itself; weak ones are not, and what they add has a bound that shrinks with length:
a long text has some of everything.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.dialects.prompt import (
    HEAD_CHARS,
    SYSTEM_HEAD_CHARS,
    SYSTEM_TAIL_CHARS,
    TAIL_CHARS,
    TOOLS_CHARS,
    Prompt,
    clip,
)
from gateway.route.auto.lexicon import Lexicon, han_view, latin_view
from gateway.route.auto.shape import Shape, code_signs, divide, formula_signs
from gateway.route.auto.verdict import CLASSES, Verdict
from gateway.route.auto.words import CUES, DOMAINS, WORDS

STRONG: Final = 4
_WEAK_MAX: Final = {  # what weak words may add; the doubled weight of one strong word is 8 to 14
    "simple_qa": 8,
    "coding": 14,
    "math_reasoning": 16,
    "deep_analysis": 12,
    "creative": 12,
    "instruction": 10,
    "general": 4,
    "protocol": 20,
}
_CHANCE: Final = {"coding": 4, "math_reasoning": 4, "deep_analysis": 4, "creative": 4}  # one weak word alone is chance
_NAMES: Final = (*CLASSES, *CUES, *(f"weak {name}" for name in _WEAK_MAX), *(name for name, _ in DOMAINS))
_AT: Final = {name: at for at, name in enumerate(_NAMES)}
_WEAK: Final = tuple((_AT[name], _AT[f"weak {name}"], _CHANCE.get(name, 0), most) for name, most in _WEAK_MAX.items())
_TOPICS: Final = range(len(_NAMES) - len(DOMAINS), len(_NAMES))
(_TOOL, _TRIVIAL, _QA, _CODING, _MATH, _DEEP, _CREATIVE, _INSTRUCTION, _CHAT, _GENERAL) = range(len(CLASSES))
(_REFERENCE, _FRESH, _SELF, _EXPLAIN, _TIMELY, _PROTOCOL, _OWN, _TRANSLATOR, _QUANTITY, _FIGURE) = (
    _AT[cue] for cue in CUES
)
_FILES, _SEARCH, _WEAK_PROTOCOL = _AT["files"], _AT["search"], _AT["weak protocol"]
_MOST: Final = 44  # no class gains by repetition alone
_LENGTHY: Final = 30  # words above which a text is bound to have weak words of every class
_SHORT_CHARS: Final = 70  # a message that may be nothing but small talk
_FULLWIDTH_QUESTION_MARK: Final = "\N{FULLWIDTH QUESTION MARK}"
_FILE_NAME: Final = re.compile(
    r"[\w-]\.(?:py|rb|rs|go|js|jsx|ts|tsx|vue|c|h|cc|cpp|cs|sh|java|json|ya?ml|toml|csv|md|txt|log|xlsx?|pdf|docx?|html?"
    r"|css|sql|env|conf|ini)\b|\b(?:src|app|lib|tests?)/",
    re.IGNORECASE,
)


class _Reading(NamedTuple):
    """What was found in a message: the tallies of its words and what was counted of its shape."""

    tallies: list[int]
    strong: list[int]  # the same without the weak words
    shape: Shape
    words: int  # English words, and two for three Chinese signs
    material_words: int
    numbers: int
    asks: bool  # there is a question mark
    code: int
    formulas: int


class LexicalClassifier:
    """See the module. Building one takes 20 ms and 5 MB; it may be shared.

    Right on 0.88 of the half of bench/auto that nobody tuned on (`python -m bench.auto_router`).
    """

    def __init__(self) -> None:
        weighted = [
            (_AT[f"weak {name}" if weight < STRONG and name in _WEAK_MAX else name], weight, words)
            for name, weight, words in WORDS
        ]
        self._lexicon: Final = Lexicon(weighted + [(_AT[name], 1, words) for name, words in DOMAINS])

    def classify(self, prompt: Prompt) -> Verdict:
        """The class of the last user message of `prompt`: about 50 us for 2 KB."""
        scores = self._scores(prompt)
        ranked = sorted(range(len(CLASSES)), key=lambda at: (-scores[at], at))
        return Verdict(CLASSES[ranked[0]], tuple((CLASSES[at], float(scores[at])) for at in ranked))

    def _scores(self, prompt: Prompt) -> list[int]:
        text = clip(prompt.text, HEAD_CHARS, TAIL_CHARS)
        system_text = clip(prompt.system, SYSTEM_HEAD_CHARS, SYSTEM_TAIL_CHARS)
        read, system = self._read(text), self._tally(system_text)
        scores = [min(points, _MOST) for points in read.tallies[: len(CLASSES)]]
        own_files = prompt.has_tools and bool(read.tallies[_OWN] or _FILE_NAME.search(text))
        scores[_TRIVIAL] = self._trivial(text, read, prompt)
        scores[_TOOL] = self._offered(prompt, read, own_files) if prompt.has_tools else 0
        scores[_TOOL] += _called(text, read, system_text, system, prompt.has_tools)
        scores[_INSTRUCTION] += _instruction(read, system)
        scores[_CODING] += read.code * 2 + 6 * read.shape.fenced - 12 * (own_files and scores[_TOOL] >= 24)
        if scores[_DEEP] >= 20 and read.code < 3:
            scores[_CODING] -= 8  # choosing between systems, not building one
        scores[_MATH] += _math(read) - 8 * (scores[_CODING] >= 12)
        scores[_DEEP] += 4 * (read.words > 25) - 4 * (read.words < 5)
        scores[_QA] = min(scores[_QA], 16) + _simple_qa(read)
        if max(scores[_CREATIVE], scores[_INSTRUCTION], scores[_CODING], scores[_DEEP]) >= 8:
            scores[_QA] -= 8
        if read.strong[_GENERAL] >= 10:
            scores[_QA] -= 6
        # General is what is left: its words are those of everyday life, which the other classes speak of too.
        content = max(scores[at] for at in (_CODING, _MATH, _CREATIVE, _INSTRUCTION))
        scores[_GENERAL] = min(scores[_GENERAL], 24) + 5 - (8 if content >= 10 else 4 if content >= 6 else 0)
        scores[_CHAT] = 0
        if prompt.previous_user_texts >= 2:
            _weigh_chat(scores, read)
        return scores

    def _tally(self, text: str) -> list[int]:
        """The words of a text that is not the message."""
        tallies = [0] * len(_NAMES)
        if text:
            self._add(text.encode("utf-8", "replace"), tallies)
        return tallies

    def _add(self, raw: bytes, tallies: list[int]) -> bytes:
        view = latin_view(raw)
        self._lexicon.add(view, tallies)
        if not raw.isascii():
            self._lexicon.add(han_view(raw), tallies)
        return view

    def _read(self, text: str) -> _Reading:
        shape = divide(text)
        asked = [0] * len(_NAMES)
        raw = shape.ask.encode("utf-8", "replace")
        view = self._add(raw, asked)
        numbers, words, material_words = view.count(b" 0"), _words(view, raw, shape.ask), 0
        code, formulas = code_signs(raw), formula_signs(raw)
        tallies = [2 * points for points in asked]
        if shape.material:
            given = [0] * len(_NAMES)
            raw = shape.material.encode("utf-8", "replace")
            view = self._add(raw, given)
            given[_INSTRUCTION] //= 2  # what is to be done stands in the question
            tallies = [of_ask + of_material for of_ask, of_material in zip(tallies, given, strict=True)]
            material_words = _words(view, raw, shape.material)
            numbers, words = numbers + view.count(b" 0"), words + material_words
            code, formulas = code + code_signs(raw), formulas + formula_signs(raw)
        strong = tallies.copy()
        for at, weak, chance, most in _WEAK:
            points = max(0, tallies[weak] - chance)
            tallies[at] += min(points if words <= _LENGTHY else points * _LENGTHY // words, most)
        asks = "?" in text or _FULLWIDTH_QUESTION_MARK in text
        return _Reading(tallies, strong, shape, words, material_words, numbers, asks, code, formulas)

    def _trivial(self, text: str, read: _Reading, prompt: Prompt) -> int:
        if not 0 < len(text) <= _SHORT_CHARS:
            return 0
        share, opens = self._small_talk(text)
        if share >= 0.85 or _is_mash(text):
            return 60
        if share >= 0.6 or (prompt.turns > 1 and read.words <= 2 and not read.asks):
            return 16  # or picks one of what was offered
        return 12 if not read.asks and (share >= 0.45 or (opens and share >= 0.3)) else 0

    def _small_talk(self, text: str) -> tuple[float, bool]:
        """The share of a text's letters in words of small talk, 1 if it has none; whether one of them is first."""
        letters = sum(map(str.isalpha, text))
        if not letters:
            return float(len(text) < 4 or not any(map(str.isdigit, text))), False
        raw = text.encode("utf-8", "replace")
        covered, opens, effects = 0, False, self._lexicon.effects
        for view, sign_bytes in ((latin_view(raw), 1), (han_view(raw), 3)):
            mask = bytearray(len(view))
            for word, start, end in self._lexicon.find(view):
                # Single Chinese signs are small talk only where little else is: most are parts of other words.
                if (end - start > sign_bytes or letters <= 4) and any(at == _TRIVIAL for at, _ in effects[word]):
                    mask[start:end] = b"\1" * (end - start)
                    opens |= start == 1 and end - start > 6
            signs = sum(1 for sign, on in zip(view, mask, strict=True) if on and sign not in b" ^~0")
            covered += signs // sign_bytes
        return covered / letters, opens

    def _offered(self, prompt: Prompt, read: _Reading, own_files: bool) -> int:
        """How well the tools offered fit the message."""
        tally = read.tallies
        offered = self._tally(prompt.tools[:TOOLS_CHARS])
        both = [tally[at] for at in _TOPICS if offered[at] and tally[at] and at != _FILES]
        score = 10  # who offers tools mostly wants one
        if own_files and offered[_FILES]:
            score += 32
        if both:
            score += 10 + min(sum(both), 12)
        if tally[_TIMELY] and (both or offered[_SEARCH]):
            score += min(tally[_TIMELY], 10) + 6 * (not both)
        return score - min(2 * tally[_EXPLAIN], 16) - tally[_CREATIVE] // 2


def _words(view: bytes, raw: bytes, text: str) -> int:
    latin = view.count(b" ") - 1 if len(view) > len(b"^  ") else 0
    return latin + (len(raw) - len(text)) // 3


def _is_mash(text: str) -> bool:
    """Whether somebody hit the keys at random: one long word almost without vowels."""
    letters = text.strip(" .!?").lower()
    if not (4 < len(letters) < 40 and letters.isascii() and letters.isalpha()):
        return False
    return sum(map(letters.count, "aeiouy")) * 5 <= len(letters)


def _called(text: str, read: _Reading, system_text: str, system: list[int], has_tools: bool) -> int:
    """How plainly message or system prompt ask for a call, in words or by a signature."""
    score, protocol = 0, read.tallies[_PROTOCOL]
    if read.strong[_PROTOCOL]:
        score += 14 + protocol
    elif not has_tools and protocol >= 10 and read.strong[_CODING] <= 10 and ("_" in text or "{" in text):
        score += 12 + protocol
    if (system[_PROTOCOL] or system[_WEAK_PROTOCOL] >= 6) and ("{" in system_text or "_" in system_text):
        score += 24
    return score


def _instruction(read: _Reading, system: list[int]) -> int:
    bonus, points = 0, read.tallies[_INSTRUCTION]
    if read.shape.quoted or read.shape.fenced or read.material_words > 5:
        if points >= 10:  # changing what code does is coding
            bonus += 3 if read.code > 2 and read.tallies[_CODING] >= 8 else 10
    elif read.words < _LENGTHY:
        bonus -= 10 if read.tallies[_CODING] >= 10 else 6
    if system[_TRANSLATOR] and read.words > 2:
        bonus += min(2 * system[_TRANSLATOR], 18)
    return bonus


def _math(read: _Reading) -> int:
    tally = read.tallies
    numbers = read.numbers + tally[_FIGURE] // 2
    reasons = tally[_DEEP] >= 12
    bonus = 3 * min(read.formulas, 4) - 6 * reasons
    if numbers > 1 and (read.strong[_MATH] or read.formulas or tally[_QUANTITY]):
        bonus += 4 + 2 * (numbers > 2)
    if numbers > 1 and tally[_QUANTITY] and not reasons and not (read.words > 50 and tally[_SELF]):
        bonus += 8
    return bonus - 4 * (numbers == 0 and read.formulas == 0)


def _simple_qa(read: _Reading) -> int:
    words, tally = read.words, read.tallies
    bonus = 8 if words <= 9 else 5 if words <= 15 else 2 if words <= 20 else 0 if words <= 30 else -10
    bonus += 2 * read.asks - 6 * min(read.formulas, 2) - 3 * (read.numbers > 1) - 6 * (read.strong[_QA] == 0)
    return bonus - min(tally[_SELF], 8) - min(tally[_EXPLAIN], 8)


def _weigh_chat(scores: list[int], read: _Reading) -> None:
    """Weigh a late message of a long talk: what points back makes it part of the talk, whatever it is about."""
    refers = min(read.tallies[_REFERENCE], 16)
    brief = 6 if read.words <= 8 else 4 if read.words <= 16 else 0
    scores[_CHAT] = 14 + refers + brief - 30 * bool(read.tallies[_FRESH]) - max(0, read.words - 30) // 2
    for at in (_GENERAL, _QA, _DEEP):
        scores[at] -= 8
    for at in (_CREATIVE, _CODING, _MATH, _INSTRUCTION, _TOOL):
        scores[at] -= refers // 2
