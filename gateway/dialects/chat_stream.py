"""The same-dialect relay of a chat completion stream: bytes in, client bytes out, usage and finish observed. Sans-IO.

Most frames of a stream differ only in their text. The first plain frame teaches two prefixes: `head`, up to the end
of the top-level `model` value, and `opening`, up to `"choices":[{`; and the `tail` `"usage":null`, which providers
send because we ask for usage and the client may not have. A block whose every newline is accounted for by frames that
begin with `opening` needs no parsing: the edits are `bytes.replace` (unescaped quotes keep it from matching inside a
string) and the bytes go on. All other frames are parsed: usage, finish, errors, `[DONE]`, comments. A client who asked
what the call costs is told in every report of usage; then a block goes unparsed only if it has none.
"""

from __future__ import annotations

import json
from itertools import repeat
from typing import Final

import msgspec
import orjson

from gateway.core.jsontext import model_span
from gateway.core.money import CostReport
from gateway.core.usage import Usage, parse_usage
from gateway.dialects.costs import PriceUsage, edit_frame_usage, is_cost, usage_frame
from gateway.dialects.sse import FrameCutter, FrameTooLarge, event_data, frame_end, last_frame, without_comments

DONE_FRAME: Final = b"data: [DONE]\n\n"
_MANY_BYTES: Final = 4096
_OPENINGS: Final = (b'"choices":[{', b'"choices": [{')
_TAILS: Final = (b',"usage":null}', b', "usage": null}')
_FINISHES: Final = (b'"finish_reason":null', b'"finish_reason": null')
_NULL_USAGES: Final = (b'"usage":null', b'"usage": null')


class StreamFault(Exception):
    """The upstream's stream cannot go on. `outcome` is a metric label; `status` an HTTP status named in the stream;
    `before` the frames for the client that came in the same bytes, ahead of the fault.
    """

    def __init__(self, outcome: str, status: int = 0) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.status = status
        self.before = b""


class ChatStream:
    """State of one stream. Feed it upstream bytes; forward what it returns; read the attributes when you need them."""

    __slots__ = (
        "_boundary", "_cutter", "_fast_block", "_finish_mark", "_head", "_keep_usage", "_model", "_new_head",
        "_opening", "_price", "_tail", "_told", "chunk_id", "content_seen", "created", "deltas", "done",
        "finish_reason", "usage",
    )  # fmt: skip

    def __init__(self, model: str, *, keep_usage: bool, frame_bytes_max: int, price: PriceUsage | None = None) -> None:
        """`price` for a client who asked for costs: it is told usage too, by us if the provider does not."""
        self._cutter = FrameCutter(frame_bytes_max)
        self._model = json.dumps(model).encode()
        self._keep_usage = keep_usage or price is not None
        self._price = price
        self._told: tuple[Usage, CostReport] | None = None
        self._head = self._new_head = self._opening = self._boundary = self._finish_mark = b""
        self._tail = self._fast_block = b""
        self.chunk_id = ""
        self.created = 0
        self.content_seen = False
        self.done = False
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.deltas = 0

    def feed(self, data: bytes) -> bytes:
        """Take upstream bytes; return whole frames for the client, maybe b"". Raises StreamFault; then nothing is lost
        of what earlier calls returned. After `done` everything is ignored.
        """
        if self.done:
            return b""
        try:
            block = self._cutter.feed(data)
        except FrameTooLarge:
            raise StreamFault("frame_too_large") from None
        if not block:
            return b""
        return (self._plain(block) if self._opening else b"") or self._mixed(block)

    def end(self) -> bytes:
        """The upstream's body is complete: return what closes the client's stream. Raises StreamFault for a cut."""
        if self.done:
            return b""
        if self._cutter.held:  # a last frame without its blank line is still a frame to us, never to the client
            tail = self._mixed(self._cutter.feed(b"\n\n"))
            try:
                return tail if self.done else tail + self.end()
            except StreamFault as fault:
                fault.before = tail + fault.before
                raise
        self.catch_up()
        if self.finish_reason is None:
            raise StreamFault("empty" if not self.content_seen else "cut")
        self.done = True
        return self._last_usage() + DONE_FRAME

    def catch_up(self) -> None:
        """Parse the last frame that went by unparsed: some vendors put usage into content frames."""
        if not self._fast_block:
            return
        frame, self._fast_block = last_frame(self._fast_block), b""
        at = frame.rfind(b'"usage"')
        if at < 0 or frame.startswith((b":null", b": null"), at + 7):
            return
        payload, _ = event_data(frame)
        deltas = self.deltas
        self._observe(_parse(payload or b"{}"))
        self.deltas = deltas  # it was counted as it went by

    def _plain(self, block: bytes) -> bytes:
        """The block for the client when every frame of it is a plain one, else b"": each newline belongs to the end of
        a frame that begins with `opening`, and none has a finish or an error.
        """
        opening = self._opening
        if not block.startswith(opening):
            return b""
        if self._price is not None and _reports_usage(block):
            return b""
        if len(block) > _MANY_BYTES:
            return self._plain_many(block)
        if block.find(b'"error":') >= 0 or block.find(self._finish_mark) >= 0:
            return b""
        frames, tail = block.count(self._boundary) + 1, self._tail
        if block.count(b"\n") != 2 * frames or (tail and block.count(tail + b"\n") != frames):
            return b""
        self.deltas += frames
        self._fast_block = block
        block = block.replace(self._head, self._new_head)
        return block.replace(tail + b"\n", b"}\n") if tail else block

    def _plain_many(self, block: bytes) -> bytes:
        """The same for a long block: only what differs between its frames is searched, which is a third of it."""
        opening, tail = self._opening, self._tail
        lines = block.split(b"\n")
        frames = lines[:-2:2]
        rests = list(map(bytes.removeprefix, frames, repeat(opening)))
        if tail:
            rests = list(map(bytes.removesuffix, rests, repeat(tail)))
        text = b"".join(rests)
        if len(block) != len(text) + len(frames) * (len(opening) + len(tail) + 2) or any(lines[1::2]):
            return b""  # not every frame had the opening and the tail, or a blank line is none
        if rests[-1].find(b'"error":') >= 0 or text.find(self._finish_mark) >= 0:
            return b""  # an error is the last frame of its stream
        self.deltas += len(frames)
        self._fast_block = block
        new_opening = self._new_head + opening[len(self._head) :]
        end = b"}\n\n" if tail else b"\n\n"
        return b"".join((new_opening, (end + new_opening).join(rests), end))

    def _mixed(self, block: bytes) -> bytes:
        """Frame by frame, but for the longest run of plain frames, which goes as one."""
        out, start, look = [], 0, True
        while start < len(block) and not self.done:
            if look and self._opening and block.startswith(self._opening, start):
                look = False
                end = block.rfind(self._boundary, start) + 2  # the last may be the finish
                run = self._plain(block[start:end]) if end > start + 2 else b""
                if run:
                    out.append(run)
                    start = end
                    continue
            end = frame_end(block, start)
            try:
                out.append(self._frame(block[start:end]))
            except StreamFault as fault:
                fault.before = b"".join(out)
                raise
            start = end
        return b"".join(out)

    def _frame(self, frame: bytes) -> bytes:
        if frame.startswith(b"data: ") and frame.count(b"\n") == 2 and frame.endswith(b"\n\n") and b"\r" not in frame:
            event = b""
            payload: bytes | None = frame[6:-2]
        else:
            if frame.startswith(b":") or b"\n:" in frame or b"\r:" in frame:
                frame = without_comments(frame)
            payload, event = event_data(frame)
        if payload is None:
            return frame if frame.strip() else b""
        if payload.startswith(b"[DONE]"):
            self.catch_up()
            self.done = True
            return self._last_usage() + frame
        chunk = _parse(payload)
        _refuse_error(chunk, event)
        self.catch_up()  # in the order of the stream: a later report of usage wins
        plain = self._observe(chunk)
        report = chunk.get("usage")
        if not isinstance(report, dict):
            return self._rename(frame, chunk, payload, learn=plain)
        if not chunk.get("choices") and not self._keep_usage:
            return b""
        return self._with_costs(self._rename(frame, chunk, payload, learn=plain), report)

    def _with_costs(self, frame: bytes, report: dict[str, object]) -> bytes:
        """A frame that reports usage, with what it costs the client who asked, and without what it costs us."""
        self._told = self._bill(usage) if (usage := parse_usage(report)) is not None else None
        if self._told is None and not any(map(is_cost, report)):
            return frame
        payload, _ = event_data(frame)
        try:
            return edit_frame_usage(frame, payload or b"{}", self._told)
        except (msgspec.DecodeError, RecursionError):  # nested deeper than it can be read
            raise StreamFault("bad_frame") from None

    def _last_usage(self) -> bytes:
        """The report of usage for a client who asked for costs, unless the last one he had says the same."""
        bill = self._bill(self.usage)
        if bill is None or bill == self._told:
            return b""
        return usage_frame(self.chunk_id or "chatcmpl-usage", self.created, self._model, *bill)

    def _bill(self, reported: Usage | None) -> tuple[Usage, CostReport] | None:
        """What `reported` (None: what went by) costs; None when nobody asked."""
        if self._price is None:
            return None
        return self._price(reported, self.deltas, finished=self.finish_reason is not None)

    def _observe(self, chunk: dict[str, object]) -> bool:
        """Note id, usage, finish and content. True for a plain content frame, the kind worth learning from."""
        if not self.chunk_id:
            chunk_id, created = chunk.get("id"), chunk.get("created")
            self.chunk_id = chunk_id if isinstance(chunk_id, str) else ""
            self.created = created if isinstance(created, int) else 0
        usage = parse_usage(chunk.get("usage") or _groq_usage(chunk))
        if usage is not None:
            self.usage = usage
        choices = chunk.get("choices")
        plain = False
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                raise StreamFault("bad_frame")
            plain = self._observe_choice(choice) or plain
        return plain and usage is None

    def _observe_choice(self, choice: dict[str, object]) -> bool:
        finish, delta = choice.get("finish_reason"), choice.get("delta")
        has_content = isinstance(delta, dict) and any(value for key, value in delta.items() if key != "role")
        if has_content:
            self.content_seen = True
            self.deltas += 1
        if isinstance(finish, str) and finish:
            self.content_seen = True
            self.finish_reason = finish
            return False
        return has_content

    def _rename(self, frame: bytes, chunk: dict[str, object], payload: bytes, *, learn: bool) -> bytes:
        """Set the top-level model of one frame, and learn the prefixes when the frame is a plain one."""
        if "model" not in chunk:
            return frame
        at, found = frame.find(payload), model_span(payload, has_model=isinstance(chunk["model"], str))
        if at < 0 or found is None:
            return self._rewrite(frame, chunk)
        span = at + found[0], at + found[1]
        if learn:
            self._learn(frame, span)
        frame = frame[: span[0]] + self._model + frame[span[1] :]
        return frame if self._keep_usage or chunk.get("usage", 0) is not None else _without_null_usage(frame)

    def _rewrite(self, frame: bytes, chunk: dict[str, object]) -> bytes:
        """Write a frame anew: its JSON is split over several data lines, or its model is no plain string."""
        chunk["model"] = orjson.loads(self._model)
        if not self._keep_usage and chunk.get("usage", 0) is None:
            del chunk["usage"]
        others = [line + b"\n" for line in frame.splitlines() if line and not line.startswith(b"data")]
        try:
            return b"".join((*others, b"data: ", orjson.dumps(chunk), b"\n\n"))
        except TypeError:  # nested deeper than it can be written
            raise StreamFault("bad_frame") from None

    def _learn(self, frame: bytes, span: tuple[int, int]) -> None:
        if not frame.startswith(b"data: {") or frame.count(b"\n") != 2 or b"\r" in frame:
            return
        for opening, finish in zip(_OPENINGS, _FINISHES, strict=True):
            at = frame.find(opening, span[1])
            if at >= 0:
                self._head = frame[: span[1]]
                self._new_head = frame[: span[0]] + self._model
                self._opening = frame[: at + len(opening)]
                self._boundary = b"\n\n" + self._opening
                self._finish_mark = finish.replace(b"null", b'"') if finish in frame else b'"finish_reason"'
                tails = [] if self._keep_usage else [tail for tail in _TAILS if frame.endswith(tail + b"\n\n")]
                self._tail = tails[0] if tails and frame.count(tails[0][1:-1]) == 1 else b""
                return


def _reports_usage(block: bytes) -> bool:
    """Whether a block may hold a usage that is not null."""
    return block.count(b'"usage"') > sum(map(block.count, _NULL_USAGES))


def _without_null_usage(frame: bytes) -> bytes:
    """Drop `"usage":null`, which the provider sends because we asked for usage, where it can be told by its bytes."""
    for tail in _TAILS:
        if frame.count(tail[:-1]) == 1:
            return frame.replace(tail[:-1], b"")
    return frame


def _parse(payload: bytes) -> dict[str, object]:
    try:
        chunk = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise StreamFault("bad_frame") from None
    if not isinstance(chunk, dict):
        raise StreamFault("bad_frame")
    return chunk


def _refuse_error(chunk: dict[str, object], event: bytes) -> None:
    """Raise for an in-stream error: OpenAI's and OpenRouter's `error`, vLLM's `object: error`, an `event: error`."""
    error = chunk.get("error")
    if error or chunk.get("object") == "error" or event == b"error":
        code = error.get("code") if isinstance(error, dict) else chunk.get("code")
        raise StreamFault("error_frame", code if isinstance(code, int) and 400 <= code < 600 else 0)


def _groq_usage(chunk: dict[str, object]) -> object:
    extra = chunk.get("x_groq")
    return extra.get("usage") if isinstance(extra, dict) else None
