"""What a classifier reads of a request: the last question, how long the talk is, and what the tools are for. Pure.

Work is bounded whatever the client sends. Of a long text its beginning and its end are kept; contents that nobody asks
for are skipped at the speed of msgspec's scanner; lists of a million small things are refused before an object is made
for each. Reading 700 bytes takes 5 us, a hostile body of 30 MB about what its top level takes.
Shapes: OpenAI's chat messages and tools (platform.openai.com/docs/api-reference/chat); tools also as the Responses and
Messages APIs spell them (`name` and `description` at the top).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

HEAD_CHARS: Final = 1000  # of a long text: where the question usually is
TAIL_CHARS: Final = 400  # and where it is when the material came first
SYSTEM_HEAD_CHARS: Final = 700
SYSTEM_TAIL_CHARS: Final = 300
TOOLS_MAX: Final = 64
TOOL_CHARS: Final = 120  # of one description: what the tool is for stands in its first sentence
TOOLS_CHARS: Final = 1500
OPENING_MESSAGES: Final = 4  # where a system prompt is looked for
PARTS_READ: Final = 64  # of one message, half of them from either end
LIST_MAX: Final = 20_000  # messages of a request, parts of a message: no context window holds more
SMALL_BYTES_MAX: Final = 256 * 1024  # what is not larger cannot hold much more than `LIST_MAX` entries
_CUT = "\n"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked, and of what the question depends. Texts are without surrounding space and cut to their bounds."""

    text: str
    system: str = ""
    previous_user_texts: int = 0
    turns: int = 1  # messages of all roles
    tools: str = ""  # names and descriptions, a line each
    has_tools: bool = False
    has_images: bool = False


class _Message(msgspec.Struct, gc=False):
    role: str
    content: msgspec.Raw = msgspec.Raw(b"null")


class _Part(msgspec.Struct, gc=False):
    type: str
    text: str | None = None


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    description: str | None = None


class _Tool(_Function, gc=False):
    function: _Function | None = None


_MESSAGES = msgspec.json.Decoder(list[_Message])
_CONTENT = msgspec.json.Decoder(str | list[_Part] | None)
_TOOLS = msgspec.json.Decoder(list[_Tool])
_NONE = msgspec.Raw(b"null")
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def read_prompt(fields: dict[str, msgspec.Raw]) -> Prompt | None:
    """Read the top level of a chat request. None: its messages cannot be read, there are none, or over `LIST_MAX`.

    Where no message is the user's, the last one asks. Tools that cannot be read count as none, and so do those that
    `tool_choice` forbids.
    """
    raw = fields.get("messages", _NONE)
    if _is_crowded(raw, b'"role"'):
        return None
    try:
        messages = _MESSAGES.decode(raw)
        asked = [message for message in messages if message.role == "user"] or messages[-1:]
        if not asked:
            return None
        text, has_images = _text(asked[-1].content, HEAD_CHARS, TAIL_CHARS)
        system = _system(messages)
    except _UNREADABLE:
        return None
    has_tools, tools = _tools(fields)
    return Prompt(text, system, len(asked) - 1, len(messages), tools, has_tools, has_images)


def clip(text: str, head: int, tail: int) -> str:
    """The text without surrounding space; of one longer than both together, so many characters (1 up) of each end."""
    text = text.strip()
    if len(text) <= head + tail:
        return text
    return (text[:head] + _CUT + text[-tail:]).strip()


def _is_crowded(raw: msgspec.Raw, key: bytes) -> bool:
    """Whether a list may have over `LIST_MAX` entries with a key that decoding requires of each.

    In JSON text the key cannot occur inside a string, where its quotes would be escaped.
    """
    return len(memoryview(raw)) > SMALL_BYTES_MAX and bytes(raw).count(key) > LIST_MAX


def _text(content: msgspec.Raw, head: int, tail: int) -> tuple[str, bool]:
    """The text of a message's content, and whether it has pictures. Text parts are lines of their own."""
    if _is_crowded(content, b'"type"'):
        raise msgspec.DecodeError
    value = _CONTENT.decode(content)
    if value is None:
        return "", False
    if isinstance(value, str):
        return clip(value, head, tail), False
    has_images = any("image" in part.type for part in value)
    if len(value) > PARTS_READ:
        value = value[: PARTS_READ // 2] + value[-PARTS_READ // 2 :]
    texts = [clip(part.text, head, tail) for part in value if part.text]
    return clip(_CUT.join(texts), head, tail), has_images


def _system(messages: list[_Message]) -> str:
    texts = (
        _text(message.content, SYSTEM_HEAD_CHARS, SYSTEM_TAIL_CHARS)[0]
        for message in messages[:OPENING_MESSAGES]
        if message.role in {"system", "developer"}
    )
    return clip(_CUT.join(texts), SYSTEM_HEAD_CHARS, SYSTEM_TAIL_CHARS)


def _tools(fields: dict[str, msgspec.Raw]) -> tuple[bool, str]:
    """Whether tools are offered, and their names and descriptions; none are read of a list above `SMALL_BYTES_MAX`."""
    raw = fields.get("tools") or fields.get("functions") or _NONE
    if bytes(memoryview(fields.get("tool_choice", _NONE))[:6]) == b'"none"':
        return False, ""
    if len(memoryview(raw)) > SMALL_BYTES_MAX:
        return True, ""
    try:
        tools = _TOOLS.decode(raw)
    except _UNREADABLE:
        return False, ""
    described = (tool.function or tool for tool in tools[:TOOLS_MAX])
    lines = (f"{one.name or ''} {(one.description or '')[:TOOL_CHARS]}" for one in described)
    return bool(tools), _CUT.join(lines)[:TOOLS_CHARS].strip()
