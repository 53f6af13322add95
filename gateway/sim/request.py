"""The body of `POST /v1/chat/completions`, decoded narrowly, and the errors OpenAI answers a bad one with.

Unknown fields are ignored and null counts as absent, as in the real API. Pure.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias

import msgspec
import orjson

PositiveInt: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Schema: TypeAlias = dict[str, object] | bool

_AT = re.compile(r" - at `\$\.?(.*)`$")


class ApiError(Exception):
    """An answer with an error status, in OpenAI's shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code

    def body(self) -> dict[str, object]:
        """`{"error": {...}}`."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def encoded(self) -> bytes:
        """The same as JSON."""
        return orjson.dumps(self.body())


class Part(msgspec.Struct):
    """One content part; only its text is read."""

    type: str
    text: str | None = None
    refusal: str | None = None


class Message(msgspec.Struct):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    def text(self) -> str:
        """The text of all its parts."""
        if isinstance(self.content, list):
            return "".join(part.text or part.refusal or "" for part in self.content)
        return self.content or ""


class Function(msgspec.Struct):
    """A function tool."""

    name: str
    parameters: Schema | None = None


class Named(msgspec.Struct):
    """A custom tool, or the name of a tool in `tool_choice`."""

    name: str


class Tool(msgspec.Struct):
    """One of `tools`, or a named `tool_choice`, which has the same shape but for `parameters`."""

    type: str
    function: Function | None = None
    custom: Named | None = None

    @property
    def name(self) -> str | None:
        """The tool's name; None for a type that cannot be called here."""
        tool = self.function or self.custom
        return tool.name if tool else None


class AllowedTools(msgspec.Struct):
    """`tool_choice.allowed_tools`."""

    mode: Literal["auto", "required"]
    tools: list[Tool]


class ToolChoice(Tool):
    """The object form of `tool_choice`."""

    allowed_tools: AllowedTools | None = None


class JsonSchema(msgspec.Struct):
    """`response_format.json_schema`."""

    name: str
    schema: Schema | None = None


class ResponseFormat(msgspec.Struct):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(msgspec.Struct):
    """`stream_options`."""

    include_usage: bool | None = None


class SimAsk(msgspec.Struct, forbid_unknown_fields=True):
    """Our own top-level field `sim`: which faults to show, and their parameters (see `gateway.sim.faults`)."""

    fault: str | list[str] | None = None
    after: Annotated[int, msgspec.Meta(ge=0)] | None = None
    seconds: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | None = None
    retry_after: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | None = None
    size: Annotated[int, msgspec.Meta(ge=1, le=64 * 1024 * 1024)] | None = None


class ChatRequest(msgspec.Struct):
    """The fields of a chat completion request that change the answer."""

    model: str
    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: str | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    sim: SimAsk | None = None

    @property
    def tokens_max(self) -> int | None:
        """The most tokens a choice may have."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        """The stop sequences that are not empty."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in given if stop]

    @property
    def usage_asked(self) -> bool:
        """Whether a stream is to end with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


_DECODER = msgspec.json.Decoder(ChatRequest)


def parse(body: bytes) -> ChatRequest:
    """The request in `body`.

    Raises:
        ApiError: 400, naming the field that is wrong.
    """
    try:
        request = _DECODER.decode(body)
    except msgspec.ValidationError as exc:
        found = _AT.search(str(exc))
        raise ApiError(400, str(exc), param=found.group(1) or None if found else None) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ApiError(400, f"The body is not JSON: {type(exc).__name__}.") from exc
    if isinstance(request.stop, list) and len(request.stop) > 4:
        raise ApiError(400, f"stop has {len(request.stop)} sequences; give at most 4.", param="stop")
    if request.stream_options and not request.stream:
        raise ApiError(400, "stream_options is only allowed when stream is true.", param="stream_options")
    return request


def forced_tools(request: ChatRequest) -> list[Tool]:
    """The tools that the answer must call, in the order of `tools`; empty when it may answer with text.

    `required` calls the first tool, or with `parallel_tool_calls: true` each one.

    Raises:
        ApiError: 400 when the choice cannot be met.
    """
    tools = [tool for tool in request.tools or [] if tool.name is not None]
    choice = request.tool_choice
    if choice is None or choice in ("auto", "none"):
        return []
    if not tools:
        raise ApiError(400, "tool_choice is only allowed when tools has a tool to call.", param="tool_choice")
    if isinstance(choice, ToolChoice) and choice.allowed_tools is not None:
        if choice.allowed_tools.mode == "auto":
            return []
        allowed = {tool.name for tool in choice.allowed_tools.tools}
        tools = [tool for tool in tools if tool.name in allowed]
    elif isinstance(choice, ToolChoice):
        return _named(tools, choice.name)
    elif choice != "required":
        raise ApiError(400, f"tool_choice is {choice!r}; give none, auto, required or an object.", param="tool_choice")
    if not tools:
        raise ApiError(400, "tool_choice.allowed_tools names none of the tools.", param="tool_choice")
    return tools if request.parallel_tool_calls else tools[:1]


def _named(tools: list[Tool], name: str | None) -> list[Tool]:
    chosen = [tool for tool in tools if tool.name == name]
    if not chosen:
        raise ApiError(400, f"tool_choice names {name!r}, which is not among tools.", param="tool_choice")
    return chosen[:1]
