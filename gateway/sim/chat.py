"""A chat completion as OpenAI gives it, whole or in chunks. Pure: request and settings in, values out.

One piece of text is one token is one chunk. Every choice draws from a seed of its own, made of the messages' roles and
texts, `seed` and the choice's index, so that the same prompt gets the same answer, streamed or not.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import orjson

from gateway import __version__
from gateway.config import Sim
from gateway.sim.keywords import SchemaUnfitError
from gateway.sim.request import ApiError, ChatRequest, Tool, forced_tools
from gateway.sim.schema import fit_json
from gateway.sim.text import Dice, pieces, sentences

ECHO = "echo"
WORDS = "words"
FINGERPRINT = "fp_" + hashlib.sha256(f"gateway.sim {__version__}".encode()).hexdigest()[:10]
ALPHANUMERIC = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
JSON_OBJECT: dict[str, object] = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "count": {"type": "integer"}, "done": {"type": "boolean"}},
    "required": ["title", "count", "done"],
}

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a function (`arguments` are JSON) or of a custom tool (`input` is text)."""

    id: str
    kind: Literal["function", "custom"]
    name: str
    pieces: tuple[str, ...]

    def fragment(self, piece: str) -> Json:
        """The part of a delta that carries `piece`."""
        return {self.kind: {"arguments" if self.kind == "function" else "input": piece}}

    def opening(self, text: str) -> Json:
        """The call with its name, and `text` as what it is called with."""
        field = "arguments" if self.kind == "function" else "input"
        return {"id": self.id, "type": self.kind, self.kind: {"name": self.name, field: text}}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the `n` answers: text, or tool calls."""

    pieces: tuple[str, ...]
    calls: tuple[ToolCall, ...]
    finish_reason: str

    @property
    def tokens(self) -> int:
        """Tokens of text and of tool calls together."""
        return len(self.pieces) + sum(len(call.pieces) for call in self.calls)


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything a completion says, before it is cut into chunks."""

    id: str
    created_s: int
    model: str
    choices: tuple[Choice, ...]
    prompt_tokens: int

    def usage(self) -> Json:
        """OpenAI's `usage` object."""
        completion_tokens = sum(choice.tokens for choice in self.choices)
        return usage(self.prompt_tokens, completion_tokens)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One frame of a stream: its JSON, or raw data such as `[DONE]`; sent `wait_s` after the one before."""

    body: Json | bytes
    kind: Literal["role", "token", "finish", "usage", "done", "fault"]
    wait_s: float = 0.0


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """OpenAI's `usage` object with its details."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def answer(
    request: ChatRequest, settings: Sim, *, completion_id: str, created_s: int, content: tuple[str, ...] | None = None
) -> Answer:
    """The answer to `request`. `content`, when given, stands in for the text (faults that need a certain text).

    Raises:
        ApiError: 400 when tools or a schema ask for what cannot be made.
    """
    tools = forced_tools(request)
    texts = [message.text() for message in request.messages]
    prompt_bytes = sum(len(text.encode()) for text in texts)
    choices = []
    for index in range(request.n or 1):
        dice = Dice(_seed(request, texts, index))
        if tools and content is None:
            made = Choice((), tuple(_call(tool, dice) for tool in tools), "tool_calls")
        else:
            made = Choice(content or _stopped(_text(request, settings, dice), request.stops), (), "stop")
        choices.append(_cut(made, request.tokens_max))
    return Answer(completion_id, created_s, request.model, tuple(choices), -(-prompt_bytes // 4))


def chunks(answer: Answer, settings: Sim, *, usage_asked: bool) -> Iterator[Chunk]:
    """The stream of `answer`: role, tokens (choices in turn), finish, usage when asked, `[DONE]`."""

    def event(kind: Literal["role", "token", "finish"], index: int, delta: Json, wait_s: float = 0.0) -> Chunk:
        reason = answer.choices[index].finish_reason if kind == "finish" else None
        entry = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        body = _envelope(answer, "chat.completion.chunk") | {"choices": [entry]}
        return Chunk(body | {"usage": None} if usage_asked else body, kind, wait_s)

    wait_s = settings.first_token_s
    for index, choice in enumerate(answer.choices):
        content = None if choice.calls else ""
        yield event("role", index, {"role": "assistant", "content": content, "refusal": None}, wait_s)
        wait_s = 0.0
    for turn in itertools.zip_longest(*map(_deltas, answer.choices)):
        for index, deltas in enumerate(turn):
            for delta in deltas or ():
                yield event("token", index, delta, wait_s)
                wait_s = 0.0
        wait_s = settings.token_gap_s
    for index in range(len(answer.choices)):
        yield event("finish", index, {})
    if usage_asked:
        body = _envelope(answer, "chat.completion.chunk") | {"choices": [], "usage": answer.usage()}
        yield Chunk(body, "usage")
    yield Chunk(b"[DONE]", "done")


def completion(answer: Answer) -> Json:
    """The whole of `answer` as one object."""
    choices = []
    for index, choice in enumerate(answer.choices):
        text = None if choice.calls else "".join(choice.pieces)
        message: Json = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        if choice.calls:
            message["tool_calls"] = [call.opening("".join(call.pieces)) for call in choice.calls]
        reason = choice.finish_reason
        choices.append({"index": index, "message": message, "logprobs": None, "finish_reason": reason})
    return _envelope(answer, "chat.completion") | {"choices": choices, "usage": answer.usage()}


def whole_wait_s(answer: Answer, settings: Sim) -> float:
    """How long a completion that is not streamed takes: as long as its stream would."""
    turns = max(choice.tokens for choice in answer.choices)
    return settings.first_token_s + settings.token_gap_s * max(0, turns - 1)


def _envelope(answer: Answer, kind: str) -> Json:
    return {
        "id": answer.id,
        "object": kind,
        "created": answer.created_s,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def _seed(request: ChatRequest, texts: list[str], index: int) -> bytes:
    prompt = [[message.role, text] for message, text in zip(request.messages, texts, strict=True)]
    return hashlib.sha256(orjson.dumps([prompt, str(request.seed), index])).digest()


def _text(request: ChatRequest, settings: Sim, dice: Dice) -> str:
    form = request.response_format
    if form is not None and form.type == "json_object":
        return fit_json(JSON_OBJECT, dice)
    if form is not None and form.type == "json_schema":
        if form.json_schema is None or form.json_schema.schema is None:
            raise ApiError(400, "response_format.json_schema.schema is missing.", param="response_format")
        return _fitting(form.json_schema.schema, dice, f"response_format {form.json_schema.name!r}", "response_format")
    if request.model == ECHO:
        return next((message.text() for message in reversed(request.messages) if message.role == "user"), "")
    return sentences(dice, settings.words_max)


def _fitting(schema: object, dice: Dice, what: str, param: str) -> str:
    try:
        return fit_json(schema, dice)
    except SchemaUnfitError as exc:
        raise ApiError(400, f"Invalid schema for {what}: {exc}.", param=param) from exc


def _call(tool: Tool, dice: Dice) -> ToolCall:
    call_id = "call_" + "".join(dice.pick(ALPHANUMERIC) for _ in range(24))
    if tool.function is None:
        return ToolCall(call_id, "custom", tool.name or "", pieces(sentences(dice, 8)))
    schema = {"type": "object"} if tool.function.parameters is None else tool.function.parameters
    arguments = _fitting(schema, dice, f"function {tool.function.name!r}", "tools")
    return ToolCall(call_id, "function", tool.function.name, pieces(arguments))


def _stopped(text: str, stops: list[str]) -> tuple[str, ...]:
    ends = [text.find(stop) for stop in stops if stop in text]
    return pieces(text[: min(ends, default=len(text))])


def _cut(choice: Choice, tokens_max: int | None) -> Choice:
    """`choice` within `tokens_max`: later calls are lost, the one at the end is cut short."""
    if tokens_max is None or choice.tokens <= tokens_max:
        return choice
    left = tokens_max - len(choice.pieces[:tokens_max])
    calls = []
    for call in choice.calls:
        if left > 0:
            calls.append(ToolCall(call.id, call.kind, call.name, call.pieces[:left]))
            left -= len(call.pieces)
    return Choice(choice.pieces[:tokens_max], tuple(calls), "length")


def _deltas(choice: Choice) -> Iterator[list[Json]]:
    """The deltas of each token in turn; a call's first token is led by the fragment that names the call."""
    for piece in choice.pieces:
        yield [{"content": piece}]
    for index, call in enumerate(choice.calls):
        opening: list[Json] = [{"tool_calls": [{"index": index} | call.opening("")]}]
        for piece in call.pieces:
            yield [*opening, {"tool_calls": [{"index": index} | call.fragment(piece)]}]
            opening = []
