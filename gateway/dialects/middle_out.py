"""Middle-out: a conversation too long for its model loses its middle, not its beginning and its end. Pure.

What OpenRouter calls `transforms: ["middle-out"]`, now the plugin `context-compression`
(openrouter.ai/docs/guides/features/message-transforms). Messages go first, texts are cut only when that is not enough:

- Always kept: the system and developer messages at the start, the last user message and all that follows it.
- Between them whole messages are taken back from both ends in turn, the newest first, as long as they fit; a side ends
  at the first that does not. So what is dropped is one run in the middle, and the first and last live longest.
- An assistant message with tool calls and the messages that answer it stay or go together: providers answer 400 to a
  call without an answer and to an answer without a call. They are matched by their ids wherever they stand, and by
  their place: an answer belongs to what it directly follows.
- Where the gap joins two messages of one role, or an assistant's to the start, a neighbour goes too if that helps: some
  chat templates want user and assistant to alternate, the user first.
- When what is always kept is still too long, its longest texts lose their middle: all that are longer than a level are
  cut down to it, the highest level that fits. A text is a `content` that is a string, or a part of type "text" of one
  that is a list. Images, tool calls and everything else stay.

Kept messages stay byte for byte as they came, shortened ones but for the text that was cut.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from heapq import nlargest
from itertools import accumulate, groupby, islice
from typing import Final, NamedTuple

import msgspec

MESSAGES_MAX: Final = 12_000  # a longer list is not read: 32 MB can hold ten million messages
MARKER: Final = b" [...] "
TEXT_TOKENS_MIN: Final = 16  # a text is not cut to less
_CALLS_MAX: Final = 128  # calls of one message that are matched by id, and
_ALL_CALLS_MAX: Final = 65_536  # of all: the rest are by their place alone
_PARTS_MAX: Final = 128  # parts of one content, for its texts to be cut
_TEXTS_MAX: Final = 512  # the longest contents, and of them the longest texts, are those that may be cut
_LOOKS_MAX: Final = 4096  # texts looked at for the longest
_TEXT_BYTES_MIN: Final = 128  # shorter texts stay
_TRIES: Final = 8  # the estimate of a whole is not quite the sum of its parts'; the budget is corrected so often
_KEYS_MAX: Final = 4  # keys of one name looked at in a message, the one at the top among them
_PROBE: Final = b'"?"'  # shorter than any value it stands for
_ESCAPE_BYTES: Final = 6  # a backslash, u and four digits
_BACKSLASH: Final = 0x5C
_RUN: Final = b"\\" * 4096  # an even number
_SECOND: Final = re.compile(rb"\\u[dD][c-fC-F]")  # the second of two escapes that are one character (RFC 8259, 7)
_ABSENT: Final = msgspec.Raw(b"")
_STARTING: Final = frozenset({"system", "developer"})
_ANSWERS: Final = frozenset({"tool", "function"})  # "function" answers the older `function_call`
_ALTERNATING: Final = frozenset({"user", "assistant"})
_ERRORS: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class _Object(msgspec.Struct, gc=False):
    """What is read of a message, of a tool call (`id`) and of a part of a content (`type`, `text`)."""

    role: str = ""
    content: msgspec.Raw = _ABSENT
    tool_calls: msgspec.Raw = _ABSENT
    tool_call_id: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT
    type: msgspec.Raw = _ABSENT
    text: msgspec.Raw = _ABSENT


_OBJECT: Final = msgspec.json.Decoder(_Object)
_KEYS: Final = {name: re.compile(rb'"%b"[ \t\r\n]*+:[ \t\r\n]*+' % name.encode()) for name in ("content", "text")}


def middle_out(
    messages: msgspec.Raw, *, tokens_max: int, estimate: Callable[[bytes], int], messages_max: int | None = None
) -> msgspec.Raw | None:
    """Make the JSON array `messages` fit `tokens_max` by `estimate`, and `messages_max` messages.

    `messages` itself when it fits as it is; None when it cannot be made to fit, has more than `MESSAGES_MAX` messages,
    or is not an array of objects with string roles. Never raises.

    Cost: when it fits, that of the estimate. Otherwise two scans of the array and an estimate of each message kept:
    10,000 messages in 32 MB take 20 ms to fit 128,000 tokens, 45 ms if half of them are calls, and 20 ms more the first
    time. One text of 30 MB takes 40 ms; the worst found of that size, made of the smallest values, 120 ms.
    """
    if messages_max is None and estimate(bytes(messages)) <= tokens_max:
        return messages
    try:
        items = _items(messages, MESSAGES_MAX)
        if items is None:
            return None
        if messages_max is not None and len(items) <= messages_max and estimate(bytes(messages)) <= tokens_max:
            return messages
        return _fitted(_Talk(items, estimate), tokens_max, len(items) if messages_max is None else messages_max)
    except _ERRORS:
        return None


@cache
def _splitter(items_max: int) -> msgspec.json.Decoder[msgspec.Struct]:
    """A decoder of an array's first items as they are; nothing is made of those that follow. 17 ms to make, once."""
    fields = [(f"item_{n}", msgspec.Raw, _ABSENT) for n in range(items_max + 1)]
    return msgspec.json.Decoder(msgspec.defstruct("_Items", fields, array_like=True, gc=False))


def _items(array: msgspec.Raw, items_max: int) -> Sequence[msgspec.Raw] | None:
    """The items of an array, None when there are more than `items_max`. Raises _ERRORS for what is no array."""
    found: tuple[msgspec.Raw, ...] = msgspec.structs.astuple(_splitter(items_max).decode(array))
    return None if found[-1] is not _ABSENT else found[: found.index(_ABSENT)]


class _Talk:
    """The messages of a conversation, and the `edges` between which a run of them can be dropped."""

    def __init__(self, items: Sequence[msgspec.Raw], estimate: Callable[[bytes], int]) -> None:
        self.items = items
        self.estimate = estimate
        self.messages = [_OBJECT.decode(item) for item in items]
        self._tokens: dict[int, int] = {}
        roles = [message.role for message in self.messages]
        head = next((index for index, role in enumerate(roles) if role not in _STARTING), len(roles))
        user = next((index for index in range(len(roles) - 1, head - 1, -1) if roles[index] == "user"), len(roles) - 1)
        edges = _edges(self.messages)
        self.edges = edges[bisect_left(edges, head) : bisect_right(edges, user)] or [len(roles)]

    def tokens(self, start: int, end: int, most: int) -> int:
        """The tokens of a span of messages; what is over `most` need not be all."""
        total = 0
        for index in range(start, end):
            if index not in self._tokens:
                self._tokens[index] = self.estimate(bytes(self.items[index]))
            total += self._tokens[index]
            if total > most:
                break
        return total

    def clash(self, start: int, end: int) -> str:
        """The role that stops taking turns with the one before it when what is between is gone; or an empty one."""
        if start == end or end == len(self.items):
            return ""
        first, between, role = [self.messages[n].role if n >= 0 else "system" for n in (start - 1, end - 1, end)]
        if role not in _ALTERNATING or role == between:  # they never did
            return ""
        return role if role == first or (role == "assistant" and first in _STARTING) else ""


def _edges(messages: list[_Object]) -> list[int]:
    """The indexes at which no answer is parted from its call, nor from the message it directly follows."""
    changes = [0] * (len(messages) + 1)  # by how much more links lead over this index than over the one before
    called: dict[bytes, int] = {}
    calls = 0
    for index, message in enumerate(messages):
        if message.role in _ANSWERS:
            changes[max(min(called.get(bytes(message.tool_call_id), index), index - 1), 0) + 1] += 1
            changes[index + 1] -= 1
        elif message.tool_calls is not _ABSENT and calls < _ALL_CALLS_MAX:
            with suppress(*_ERRORS):  # of malformed ones the place tells
                for call in _items(message.tool_calls, _CALLS_MAX) or ():
                    called[bytes(_OBJECT.decode(call).id)] = index
                    calls += 1
    return [index for index, links in enumerate(accumulate(changes)) if not links]


def _fitted(talk: _Talk, tokens_max: int, messages_max: int) -> msgspec.Raw | None:
    items, budget = talk.items, tokens_max
    fixed = [*range(talk.edges[0]), *range(talk.edges[-1], len(items))]
    if len(fixed) > messages_max:
        return None
    fixed_tokens = talk.estimate(_array([items[index] for index in fixed]))
    if fixed_tokens > tokens_max:
        return _shortened(talk, fixed, fixed_tokens, tokens_max)
    for _ in range(_TRIES):
        start, end = _gap(talk, budget - fixed_tokens, messages_max - len(fixed))
        array = _array([*items[:start], *items[end:]])
        over = talk.estimate(array) - tokens_max
        if over <= 0:
            return msgspec.Raw(array)
        budget -= max(over, budget // 50)
    return msgspec.Raw(_array([items[index] for index in fixed]))


def _array(items: Sequence[msgspec.Raw | bytes]) -> bytes:
    return b"[%b]" % b",".join(items)


def _gap(talk: _Talk, tokens: int, messages: int) -> tuple[int, int]:
    """Where the run of dropped messages starts and ends, when so much of what is between the edges may stay."""
    edges, low, high = talk.edges, 0, len(talk.edges) - 1
    before = after = True  # whether more may stay before the gap, and after it
    while (before or after) and low < high:
        forward = before and (not after or edges[low] - edges[0] < edges[-1] - edges[high])
        unit = (edges[low], edges[low + 1]) if forward else (edges[high - 1], edges[high])
        size, cost = unit[1] - unit[0], talk.tokens(*unit, tokens)
        if size <= messages and cost <= tokens:
            tokens, messages = tokens - cost, messages - size
            low, high = (low + 1, high) if forward else (low, high - 1)
        else:
            before, after = before and not forward, after and forward
    clash = talk.clash(edges[low], edges[high])
    wider = ((max(low - 1, 0), high), (low, min(high + 1, len(edges) - 1)))
    for gap in wider if clash == "user" else wider[::-1]:  # a question has lost its answer, or an answer its question
        if clash and not talk.clash(edges[gap[0]], edges[gap[1]]):
            return edges[gap[0]], edges[gap[1]]
    return edges[low], edges[high]


class _Text(NamedTuple):
    """A text that may be cut, as JSON without its quotes: of which message, and where in its bytes it starts."""

    json: bytes
    message: int
    start: int


def _shortened(talk: _Talk, kept: list[int], tokens: int, tokens_max: int) -> msgspec.Raw | None:
    """All the messages `kept`, of so many tokens, with the longest texts cut to the highest level found to fit.

    None: they do not even fit with the lowest.
    """
    texts = [(text, talk.estimate(text.json)) for text in _texts(talk, kept)]
    texts.sort(key=lambda pair: (pair[0].message, pair[0].start))
    budget = tokens_max - tokens + sum(tokens for _, tokens in texts)
    for _ in range(_TRIES):
        level = _level([tokens for _, tokens in texts], budget)
        if level < TEXT_TOKENS_MIN:
            return None
        cuts = [(text, len(text.json) * level // tokens) for text, tokens in texts if tokens > level]
        array = _cut(talk.items, kept, cuts)
        over = talk.estimate(array) - tokens_max
        if over <= 0:
            return msgspec.Raw(array)
        budget -= max(over, budget // 50)
    return None


def _cut(items: Sequence[msgspec.Raw], kept: list[int], cuts: list[tuple[_Text, int]]) -> bytes:
    """The array of the messages `kept`, with each of the texts, which are in order, cut to about so many bytes."""
    changed: dict[int, bytes] = {}
    for message, group in groupby(cuts, key=lambda pair: pair[0].message):
        item, pieces, at = memoryview(items[message]), list[bytes | memoryview](), 0
        for text, keep in group:
            pieces += (item[at : text.start], _without_middle(text.json, keep))
            at = text.start + len(text.json)
        changed[message] = b"".join((*pieces, item[at:]))
    return _array([changed.get(index, items[index]) for index in kept])


def _level(sizes: list[int], budget: int) -> int:
    """The highest level to which sizes can be cut so that they sum up to `budget` at most; 0 when there is none."""
    for rank, size in enumerate(sorted(sizes)):
        level = budget // (len(sizes) - rank)
        if level < size:
            return max(level, 0)
        budget -= size
    return 0


def _texts(talk: _Talk, kept: list[int]) -> list[_Text]:
    """The longest texts of the longest contents."""
    longest = nlargest(_TEXTS_MAX, kept, key=lambda index: len(talk.messages[index].content))
    texts = (text for n in longest for text in _texts_of(bytes(talk.items[n]), n, bytes(talk.messages[n].content)))
    return nlargest(_TEXTS_MAX, islice(texts, _LOOKS_MAX), key=lambda text: len(text.json))


def _texts_of(item: bytes, message: int, content: bytes) -> Iterator[_Text]:
    """The texts of a message that are long enough to be cut."""
    begin = _place(item, "content", content) if len(content) > _TEXT_BYTES_MIN else None
    if begin is None:
        return
    if content.startswith(b'"'):
        yield _Text(content[1:-1], message, begin + 1)
    elif content.startswith(b"["):
        at = 0
        with suppress(*_ERRORS):
            for part in map(bytes, _items(msgspec.Raw(content), _PARTS_MAX) or ()):
                at = content.index(part[0], at + 1)  # past the comma and white space
                found = _OBJECT.decode(part)
                text = bytes(found.text)
                if len(text) > _TEXT_BYTES_MIN and text.startswith(b'"') and bytes(found.type) == b'"text"':
                    start = _place(part, "text", text)
                    if start is not None:
                        yield _Text(text[1:-1], message, begin + at + start + 1)
                at += len(part) - 1


def _place(item: bytes, name: str, value: bytes) -> int | None:
    """Where in the object `item` the top-level member of that name has its `value`. None: not found.

    A key inside of another value looks the same: the right one is the one whose change shows in a decode.
    """
    for match in islice(_KEYS[name].finditer(item), _KEYS_MAX):
        start = match.end()
        if item.startswith(value, start):
            changed = _OBJECT.decode(item[:start] + _PROBE + item[start + len(value) :])
            if bytes(getattr(changed, name)) == _PROBE:
                return start
    return None


def _without_middle(text: bytes, keep: int) -> bytes:
    """The two ends of a JSON string, with its marker about `keep` bytes of it."""
    keep = max(keep - len(MARKER), 0)
    start = _boundary(text, keep - keep // 2)
    return text[:start] + MARKER + text[max(_boundary(text, len(text) - keep // 2), start) :]


def _boundary(text: bytes, at: int) -> int:
    """The greatest index of at most `at` that splits neither a UTF-8 character nor an escape nor a pair of escapes."""
    while 0 < at < len(text) and text[at] & 0xC0 == 0x80:
        at -= 1
    for start in range(at - 1, max(at - _ESCAPE_BYTES, -1), -1):
        if text[start] == _BACKSLASH and _is_escape(text, start):
            end = start + (_ESCAPE_BYTES if text[start + 1 : start + 2] == b"u" else 2)
            at = start if end > at else at
            break
    return at - _ESCAPE_BYTES if _SECOND.match(text, at) else at  # msgspec has read the first of the pair


def _is_escape(text: bytes, at: int) -> bool:
    """Whether the backslash at `at` begins an escape: it does after an even number of others."""
    while text.endswith(_RUN, 0, at):
        at -= len(_RUN)
    near = text[max(at - len(_RUN), 0) : at]
    return (len(near) - len(near.rstrip(b"\\"))) % 2 == 0
