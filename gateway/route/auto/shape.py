"""The shape of a message: where its question ends and its material begins, and what signs it is made of. Pure.

A request such as `summarise this: ...` asks in its first words and is about the rest; words of the rest say little of
what is wanted. Texts come cut to their bounds (`gateway.dialects.prompt`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ahocorasick_rs import BytesAhoCorasick, MatchKind

_FENCE: Final = "```"
_PARAGRAPH: Final = "\n\n"
_ASK_CHARS: Final = 400  # a first paragraph above this is not only a question
_LAST_ASK_CHARS: Final = 240
_COLON_CHARS: Final = 160  # how late the colon before the material may come
_QUOTED_CHARS: Final = 7
_COLONS: Final = (("\N{FULLWIDTH COLON}", 6), (": ", 14))  # less than that behind it is no material: `urgent: call me`
_QUOTES: Final = (
    ("\N{LEFT DOUBLE QUOTATION MARK}", "\N{RIGHT DOUBLE QUOTATION MARK}"),
    ("「", "」"),
    ('"', '"'),
)
_BRACKETS: Final = b"{}();=<>[]_`\\|&$"
_MARKED_BYTES: Final = 1000  # of a part, in which marks are looked for
_CODE_DENSITY: Final = 25  # one bracket in so many bytes is more than prose has
_DENSE_MARKS: Final = 3

# The views in which marks are looked for: letters are x, digits 0; in formulas spaces are optional.
_SIGNS: Final = bytes(
    ord("0") if 0x30 <= byte <= 0x39 else ord("x") if byte < 0x80 and chr(byte).isalpha() else byte
    for byte in range(256)
)
_CODE_MARKS: Final = (
    *(b"=>", b"();", b"):", b"->", b"</", b"/>", b"!=", b"==", b"&&", b"||", b"::", b"});", b"#!/", b"${", b"+="),
    *(b"*/", b"//", b"`", b'="', b"()", b" = ", b";\n", b"__", b"{\n", b"x_x", b"xx(", b"x.xx(", b" -x ", b" -x\n"),
    *(b" --x", b" /xx", b"[0]", b"x[x", b"](", b"x=x", b"'x'", b"<x>"),
)
_FORMULA_MARKS: Final = (
    *(b"0+0", b"0*0", b"0^0", b"x^0", b"x^x", b"x+0", b"0x+", b"0x-", b"0x=", b"0x<", b"x)=", b"=0x", b"=?", b"x|"),
    *(b")/(", b"0!", b"0%x", b"0%xx0", b"%0", b"\\xxxx{", b")^0", b"(x+x)", b"x=0", b"0=", b"0/x=", b"x-0)", b")+x"),
    *(sign.encode() for sign in ("\N{MULTIPLICATION SIGN}", "\N{DIVISION SIGN}", "\N{SQUARE ROOT}", "\N{INTEGRAL}")),
    *(sign.encode() for sign in ("\N{N-ARY SUMMATION}", "\N{INFINITY}", "\N{SUPERSCRIPT TWO}", "\N{UNION}")),
)
_CODE: Final = BytesAhoCorasick(_CODE_MARKS, matchkind=MatchKind.Standard)
_FORMULAS: Final = BytesAhoCorasick(_FORMULA_MARKS, matchkind=MatchKind.Standard)


class Shape(NamedTuple):
    """A message in two parts."""

    ask: str
    material: str
    fenced: bool = False  # the material, or some of it, is in code fences
    quoted: bool = False  # it stands in quotation marks


def divide(text: str) -> Shape:
    """Divide a message into what asks and what it asks about; all of it asks when no border is found."""
    fence = text.find(_FENCE)
    if fence >= 0:
        end = text.rfind(_FENCE)
        end = end if end > fence else len(text)
        return Shape(text[:fence] + "\n" + text[end + 3 :], text[fence + 3 : end], fenced=True)
    if "\n" in text:
        return Shape(*_lines(text))
    for colon, least in _COLONS:
        at = text.find(colon, 1, _COLON_CHARS)
        if 0 < at < len(text) - least:
            return Shape(text[:at], text[at + 1 :])
    for opening, closing in _QUOTES:
        start = text.find(opening)
        end = text.rfind(closing)
        if start >= 0 and end - start > _QUOTED_CHARS:
            return Shape(text[:start] + " " + text[end + 1 :], text[start + 1 : end], quoted=True)
    return Shape(text, "")


def _lines(text: str) -> tuple[str, str]:
    """Of several paragraphs (or lines) the first asks, and the last if it is short; if the first is long, the last."""
    paragraphs = text.split(_PARAGRAPH) if _PARAGRAPH in text else text.split("\n", 1)
    first, last = paragraphs[0], paragraphs[-1]
    if len(first) > _ASK_CHARS:
        if len(last) <= _LAST_ASK_CHARS:
            return last, "\n".join(paragraphs[:-1])
        return first[:_ASK_CHARS], "\n".join((first[_ASK_CHARS:], *paragraphs[1:]))
    if len(paragraphs) > 2 and len(last) <= _LAST_ASK_CHARS:
        return first + "\n" + last, "\n".join(paragraphs[1:-1])
    return first, "\n".join(paragraphs[1:])


def code_signs(raw: bytes) -> int:
    """How much a text looks like source code: how many of the usual marks it has, more if brackets are dense."""
    raw = raw[:_MARKED_BYTES]
    marks = len({match[0] for match in _CODE.find_matches_as_indexes(raw.translate(_SIGNS), overlapping=True)})
    brackets = len(raw) - len(raw.translate(None, _BRACKETS))
    return marks + (_DENSE_MARKS if brackets > 5 and brackets * _CODE_DENSITY > len(raw) else 0)


def formula_signs(raw: bytes) -> int:
    """How many marks of formulas a text has: sums of figures, powers, equations."""
    view = raw[:_MARKED_BYTES].translate(_SIGNS, b" ")
    return len({match[0] for match in _FORMULAS.find_matches_as_indexes(view, overlapping=True)})
