"""The traffic: who calls the gateway and for what. Each task checks its answer whole.

A stream is right with status 200, every word of its text in order, one finish and one `[DONE]`; a plain answer with its
whole text; tool calls with arguments that are JSON; a wrong key with a typed 401. Long prompts are of 1K, 10K and 100K
tokens at 4 bytes each, the sizes of the field's load shape.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import orjson
import trio

from bench import frames
from loadtest.client import Reply, post
from loadtest.servers import CHAT_PATH, Target
from loadtest.stats import Sample
from loadtest.users import Connections, User, Wait, between, task

FRAMES, PACE_S = 64, 0.020  # the field's load shape
BYTES_PER_TOKEN = 4
LEAVE_FRAMES_MAX = 24
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


@dataclass(frozen=True, slots=True)
class Site:
    """What users need to know. The texts are None when the models are not ours: then any text will do."""

    target: Target
    stream_model: str
    chat_model: str
    tools_model: str
    stream_text: str | None
    chat_text: str | None
    pace_s: float

    def request(self, body: bytes, *, key: str = "") -> bytes:
        """The bytes of a call."""
        headers = {"Authorization": f"Bearer {key}"} if key else self.target.headers()
        return post(CHAT_PATH, headers, body)


class SiteUser(User):
    """A user of one site."""

    def __init__(self, connections: Connections, dice: random.Random, site: Site) -> None:
        super().__init__(connections, dice)
        self.site = site

    async def stream(self, name: str, body_bytes: int, intended_at: float) -> Sample:
        """One whole stream for a prompt of so many bytes."""
        late_s = trio.current_time() - intended_at
        body = frames.request_body(self.site.stream_model, stream=True, body_bytes=body_bytes)
        reply = await self.call(self.site.request(body), intended_at)
        return sample_of(name, reply, stream_problem(reply, self.site.stream_text), self.site, late_s)


class Reader(SiteUser):
    """Reads streams to their end."""

    weight: ClassVar[int] = 10

    @task(1)
    async def read(self, intended_at: float) -> Sample:
        """A stream with a short prompt."""
        return await self.stream("stream", 700, intended_at)


class Asker(SiteUser):
    """Asks for plain answers."""

    weight: ClassVar[int] = 5

    @task(1)
    async def ask(self, intended_at: float) -> Sample:
        """A plain answer."""
        late_s = trio.current_time() - intended_at
        body = frames.request_body(self.site.chat_model, stream=False)
        reply = await self.call(self.site.request(body), intended_at)
        return sample_of("answer", reply, answer_problem(reply, self.site.chat_text), self.site, late_s)


class ToolCaller(SiteUser):
    """Has tools called, streamed and not."""

    weight: ClassVar[int] = 2

    @task(2)
    async def streamed(self, intended_at: float) -> Sample:
        """Tool calls in a stream."""
        return await self._tools(intended_at, stream=True)

    @task(1)
    async def whole(self, intended_at: float) -> Sample:
        """Tool calls in a plain answer."""
        return await self._tools(intended_at, stream=False)

    async def _tools(self, intended_at: float, *, stream: bool) -> Sample:
        late_s = trio.current_time() - intended_at
        question = {"role": "user", "content": f"What is the weather in city {self.dice.randrange(1000)}?"}
        body = {"model": self.site.tools_model, "messages": [question], "stream": stream, "tools": [TOOL]}
        reply = await self.call(self.site.request(orjson.dumps({**body, "tool_choice": "required"})), intended_at)
        name = "tools, stream" if stream else "tools"
        return sample_of(name, reply, tools_problem(reply), self.site, late_s)


class Leaver(SiteUser):
    """Goes away in the middle of a stream."""

    weight: ClassVar[int] = 2

    @task(1)
    async def leave(self, intended_at: float) -> Sample:
        """A stream of which some frames are read."""
        late_s = trio.current_time() - intended_at
        body = frames.request_body(self.site.stream_model, stream=True)
        after = self.dice.randint(1, LEAVE_FRAMES_MAX)
        reply = await self.call(self.site.request(body), intended_at, leave_after=after)
        problem = reply.broken or ("" if reply.left else f"status {reply.status} where frames were to come")
        return sample_of("early leaver", reply, problem, self.site, late_s)


class Stranger(SiteUser):
    """Has a key that nobody made."""

    weight: ClassVar[int] = 1
    wait: ClassVar[Wait] = between(0.2, 0.6)

    @task(1)
    async def knock(self, intended_at: float) -> Sample:
        """A call that must be refused."""
        late_s = trio.current_time() - intended_at
        key = f"sk-bl-{self.dice.getrandbits(192):048x}"
        body = frames.request_body(self.site.chat_model, stream=False)
        reply = await self.call(self.site.request(body, key=key), intended_at)
        return sample_of("wrong key", reply, refusal_problem(reply, 401), self.site, late_s, recorded=False)


class LongPrompter(SiteUser):
    """Streams with long prompts."""

    weight: ClassVar[int] = 2

    @task(6)
    async def thousand(self, intended_at: float) -> Sample:
        """1K tokens."""
        return await self.stream("stream, 1K prompt", 1_000 * BYTES_PER_TOKEN, intended_at)

    @task(3)
    async def ten_thousand(self, intended_at: float) -> Sample:
        """10K tokens."""
        return await self.stream("stream, 10K prompt", 10_000 * BYTES_PER_TOKEN, intended_at)

    @task(1)
    async def hundred_thousand(self, intended_at: float) -> Sample:
        """100K tokens."""
        return await self.stream("stream, 100K prompt", 100_000 * BYTES_PER_TOKEN, intended_at)


MIXED: tuple[type[SiteUser], ...] = (Reader, Asker, ToolCaller, Leaver, Stranger, LongPrompter)
READERS: tuple[type[SiteUser], ...] = (Reader,)


def sample_of(name: str, reply: Reply, problem: str, site: Site, late_s: float, *, recorded: bool = True) -> Sample:
    """What a reply counts as."""
    return Sample(
        name,
        problem,
        first_content_s=reply.first_content_s,
        gaps_s=reply.gaps_s,
        stalls=reply.stalls(site.pace_s),
        total_s=reply.total_s,
        frames=reply.frames,
        late_s=late_s,
        recorded=recorded,
        left=reply.left,
    )


def stream_problem(reply: Reply, text: str | None) -> str:
    """What is wrong with a whole stream; empty when nothing is."""
    problem = _status_problem(reply)
    if problem or reply.stream is None:
        return problem or "no stream"
    if reply.stream.ending == "error":
        return f"error event {reply.stream.errors[0].get('code')}"
    problem = reply.stream.problem()
    if problem:
        return problem
    got = "".join(reply.stream.text)
    return "" if (got == text if text is not None else got) else "wrong text"


def answer_problem(reply: Reply, text: str | None) -> str:
    """What is wrong with a plain answer."""
    problem = _status_problem(reply)
    if problem:
        return problem
    try:
        got = orjson.loads(b"".join(reply.body))["choices"][0]["message"]["content"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return "no chat completion"
    return "" if (got == text if text is not None else got) else "wrong text"


def tools_problem(reply: Reply) -> str:
    """What is wrong with an answer that was to call a tool."""
    problem = _status_problem(reply)
    if problem:
        return problem
    try:
        if reply.stream is not None:
            problem = reply.stream.problem()
            arguments, finishes = "".join(reply.stream.arguments), reply.stream.finishes
        else:
            choice = orjson.loads(b"".join(reply.body))["choices"][0]
            arguments, finishes = choice["message"]["tool_calls"][0]["function"]["arguments"], [choice["finish_reason"]]
        fields = orjson.loads(arguments)
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return problem or "no tool call"
    if problem:
        return problem
    return "" if finishes == ["tool_calls"] and set(fields) >= {"city", "days"} else "wrong tool call"


def refusal_problem(reply: Reply, status: int) -> str:
    """What is wrong with a typed refusal."""
    if reply.broken or reply.status != status:
        return reply.broken or f"status {reply.status}, not {status}"
    try:
        error = orjson.loads(b"".join(reply.body))["error"]
        typed = error["message"] and error["type"] and error["code"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        typed = ""
    return "" if typed else "an error without message, type or code"


def _status_problem(reply: Reply) -> str:
    return reply.broken or ("" if reply.status == 200 else f"status {reply.status}")
