"""Reading a chat completion stream as a strict client would. Sans-IO: bytes in, a verdict out.

A stream ends in exactly one of two ways: a finish and `[DONE]`, or one error event with nothing after it.
Line ends are those of the event stream format: LF, CR LF or CR (html.spec.whatwg.org, "Parsing an event stream").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import orjson

Ending = Literal["done", "error", "unended", "both"]


class EventReader:
    """Cuts bytes into the data of events, whatever pieces they come in; comments and other fields are left out."""

    def __init__(self) -> None:
        self._held = b""
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that `data` completes."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, self._held = (self._held + data).split(b"\n\n")
        return [found for block in blocks if (found := _data_of(block)) is not None]

    @property
    def unfinished(self) -> bool:
        """Whether the stream so far ends within an event."""
        return bool(self._held.strip(b"\n"))


def _data_of(block: bytes) -> bytes | None:
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


@dataclass(slots=True)
class ChatReader:
    """What a stream has said so far. `feed` returns how many content frames it was given."""

    reader: EventReader = field(default_factory=EventReader)
    text: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)
    models: set[str] = field(default_factory=set)
    errors: list[dict[str, object]] = field(default_factory=list)
    dones: int = 0
    malformed: int = 0  # events that are no JSON object
    late: int = 0  # events after the end

    def feed(self, data: bytes) -> int:
        """Take body bytes."""
        return sum([self._event(event) for event in self.reader.feed(data)])

    @property
    def ending(self) -> Ending:
        """How the stream ended, as far as it was read. A finish without `[DONE]` is no end, nor the reverse."""
        if self.errors and self.dones:
            return "both"
        if self.errors:
            return "error" if len(self.errors) == 1 and not self.late else "both"
        return "done" if self.dones == 1 and self.finishes and not self.late else "unended"

    def problem(self) -> str:
        """What is wrong with the whole of it; empty when nothing is."""
        if self.malformed:
            return "event that is no JSON object"
        if self.reader.unfinished:
            return "ends within an event"
        if self.ending == "both":
            return "more than one ending"
        if self.ending == "unended":
            return "no [DONE]" if self.finishes else "no finish_reason"
        return ""

    def _event(self, data: bytes) -> int:
        if self.dones or self.errors:
            self.late += 1
        if data == b"[DONE]":
            self.dones += 1
            return 0
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            chunk = None
        if not isinstance(chunk, dict):
            self.malformed += 1
            return 0
        self.models.add(str(chunk.get("model")))
        if isinstance(error := chunk.get("error"), dict):
            self.errors.append(error)
            return 0
        return sum([self._choice(choice) for choice in chunk.get("choices") or ()])

    def _choice(self, choice: dict[str, object]) -> int:
        delta = choice.get("delta")
        if choice.get("finish_reason"):
            self.finishes.append(str(choice["finish_reason"]))
        if not isinstance(delta, dict):
            return 0
        calls = delta.get("tool_calls") or ()
        self.arguments += [call.get("function", {}).get("arguments") or "" for call in calls]
        content = delta.get("content")
        if content:
            self.text.append(content)
        return 1 if content or calls else 0
