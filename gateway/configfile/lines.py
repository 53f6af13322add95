"""Where in a TOML text each key is: a position scanner beside `tomllib`, which gives none.

The text has already been accepted by `tomllib`; the scanner relies on that, follows the grammar far
enough to step over every value (multi-line strings, arrays and inline tables included), and never
decides what is valid. A path is the keys from the root, array elements as integers:
`("models", 3, "offers", 0, "input")`.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR_END = re.compile(r"[,\]}\n#]")
_SYNTAX_LINE = re.compile(r"at line (\d+)")
_ESCAPE = re.compile(r'\\(?:u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[btnfre"\\]|x[0-9A-Fa-f]{2})')
_SIMPLE_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b", '"': '"', "\\": "\\"}


def syntax_error_line(message: str, text: str) -> int:
    """The line a `tomllib.TOMLDecodeError` message names; the last line when it says "at end of document"."""
    found = _SYNTAX_LINE.search(message)
    return int(found[1]) if found else text.count("\n", 0, len(text.rstrip())) + 1


def dotted(path: Path) -> str:
    """Render a path as people write it: `models[3].offers[0].input`, odd keys in quotes."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            shown = part if _BARE_KEY.fullmatch(part) else '"' + part.replace('"', '\\"') + '"'
            out += f".{shown}" if out else shown
    return out


class Lines:
    """The line (from 1) of every key, table and array element of one TOML text."""

    def __init__(self, text: str) -> None:
        scanner = _Scanner(text)
        scanner.document()
        self._lines = scanner.lines

    def find(self, path: Path) -> int:
        """The line of `path`, else of its nearest ancestor that is in the text, else 1."""
        for size in range(len(path), 0, -1):
            line = self._lines.get(path[:size])
            if line is not None:
                return line
        return 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.at = 0
        self.line = 1
        self.lines: dict[Path, int] = {}
        self._elements: dict[Path, int] = {}  # array of tables -> how many so far

    def document(self) -> None:
        table: Path = ()
        while self._skip_blank():
            if self._take("[["):
                table = self._array_table(self._header(self._key()))
            elif self._take("["):
                table = self._header(self._key())
                self._note(table)
            else:
                self._pair(table)

    def _header(self, keys: tuple[str, ...]) -> Path:
        """Place a header's keys: inside an array of tables they belong to its newest element."""
        while self._take("]"):
            pass
        path: Path = ()
        for key in keys[:-1]:
            path = (*path, key)
            self._note(path)
            if path in self._elements:
                path = (*path, self._elements[path] - 1)
        return (*path, keys[-1])

    def _array_table(self, path: Path) -> Path:
        index = self._elements.get(path, 0)
        self._elements[path] = index + 1
        self._note(path)
        element = (*path, index)
        self._note(element)
        return element

    def _pair(self, table: Path) -> None:
        line = self.line
        path = table
        for key in self._key():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self._take("=")
        self._skip_blank()
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._take("["):
            self._array(path)
        elif self._take("{"):
            self._inline_table(path)
        elif self.text[self.at] in "\"'":
            self._string()
        else:
            end = _SCALAR_END.search(self.text, self.at)
            self.at = end.start() if end else len(self.text)

    def _array(self, path: Path) -> None:
        index = 0
        while self._skip_blank() and not self._take("]"):
            element = (*path, index)
            self._note(element)
            self._value(element)
            self._skip_blank()
            self._take(",")
            index += 1

    def _inline_table(self, path: Path) -> None:
        while self._skip_blank() and not self._take("}"):
            self._pair(path)
            self._skip_blank()
            self._take(",")

    def _key(self) -> tuple[str, ...]:
        keys: list[str] = []
        while True:
            self._skip_blank()
            if self.text[self.at] in "\"'":
                keys.append(self._string())
            else:
                found = _BARE_KEY.match(self.text, self.at)
                if found is None:
                    raise ValueError(f"no key at line {self.line}")
                keys.append(found[0])
                self.at = found.end()
            self._skip_blank()
            if not self._take("."):
                return tuple(keys)

    def _string(self) -> str:
        quote = self.text[self.at]
        fence = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        start = self.at = self.at + len(fence)
        while not self.text.startswith(fence, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        while len(fence) == 3 and self.text.startswith(fence, self.at + 1):
            self.at += 1  # up to two quotes may stand before the closing three
        raw = self.text[start : self.at]
        self.line += raw.count("\n")
        self.at += len(fence)
        return _ESCAPE.sub(_unescape, raw) if quote == '"' else raw

    def _skip_blank(self) -> bool:
        """Step over white space, line ends and comments; False at the end of the text."""
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif char in " \t\n":
                self.line += char == "\n"
                self.at += 1
            else:
                return True
        return False

    def _take(self, token: str) -> bool:
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def _note(self, path: Path) -> None:
        self.lines.setdefault(path, self.line)


def _unescape(found: re.Match[str]) -> str:
    code = found[0][1:]
    return _SIMPLE_ESCAPES.get(code) or chr(int(code[1:], 16))
