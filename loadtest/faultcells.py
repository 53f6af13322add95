"""The fault wall's cells: a fault, a kind of call, and which of two providers is faulty; and what is right in each.

Pure but for the simulator's own answer to "what would you have said". Every cell has a model and two providers of its
own, so that no breaker of one cell is seen by another. Two sources must agree: what the client got, and the record.
The good first provider says seeded words, the good second one echoes the prompt: a splice of the two cannot pass.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import orjson

from gateway.config import Sim
from gateway.sim import completion_text
from loadtest.client import Reply
from loadtest.faultcases import CLIENT_LEAVES, UNREACHABLE, Due, Fault
from loadtest.servers import UPSTREAM_KEY

Where = Literal["first", "second", "both"]
Label = Literal["answered", "answered by fallback", "typed error", "client left", "WRONG"]
WHERES: tuple[Where, ...] = ("first", "second", "both")
WORDS_MAX = 40
GOOD_FIRST, GOOD_SECOND = "words", "echo"
LEAVE_FRAMES, LEAVE_S = 3, 1.5  # late enough for a first failure, before any timeout
_TAKES_OVER = (Due.TAKEOVER, Due.BROKEN)
_ALL_FAILED = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class Record:
    """What the gateway wrote down of a cell's call."""

    ended: str
    providers: tuple[str, ...]  # of the attempts, in order
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a cell came out; `why` says what was wrong."""

    label: Label
    why: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One call of the wall."""

    index: int
    fault: Fault
    stream: bool
    where: Where

    @property
    def model(self) -> str:
        """The model id the client asks for."""
        return f"wall/c{self.index}"

    @property
    def providers(self) -> tuple[str, str]:
        """The names of the two providers."""
        return f"c{self.index}-a", f"c{self.index}-b"

    @property
    def due(self) -> Due:
        """What this cell's caller is owed. A good first provider answers, whatever is behind it."""
        due = self.fault.due(stream=self.stream)
        return Due.HARMLESS if self.where == "second" and due is not Due.LEFT else due

    @property
    def unreachable(self) -> tuple[bool, bool]:
        """Which of the two providers is a port where nobody listens."""
        faulty = self.fault.name == UNREACHABLE
        return faulty and self.where != "second", faulty and self.where != "first"

    @property
    def offered(self) -> tuple[str, str]:
        """The upstream model that each provider is asked for."""
        if self.fault.name == CLIENT_LEAVES:
            return self._left_behind()
        if self.fault.name == UNREACHABLE:
            return GOOD_FIRST, GOOD_SECOND
        bad = f"fault-{self.fault.name}"
        return GOOD_FIRST if self.where == "second" else bad, GOOD_SECOND if self.where == "first" else bad

    def _left_behind(self) -> tuple[str, str]:
        """The client leaves: the first provider at its answer; the second after the first failed; a silent one."""
        speaking = GOOD_FIRST if self.stream else "fault-hang"
        return {
            "first": (speaking, GOOD_SECOND),
            "second": ("fault-status_500", speaking),
            "both": ("fault-hang", "fault-hang"),
        }[self.where]

    @property
    def leaves_after(self) -> int:
        """After how many content frames the client leaves; -1 for not by frames."""
        by_frames = self.fault.name == CLIENT_LEAVES and self.stream and self.where != "both"
        return LEAVE_FRAMES if by_frames else -1

    def body(self, model: str = "") -> bytes:
        """The request, for the gateway or as a provider gets it."""
        prompt = f"Tell me of cell {self.index}, and of walls that stand however hard one leans on them."
        request: dict[str, object] = {"model": model or self.model, "messages": [{"role": "user", "content": prompt}]}
        if self.stream:
            request["stream"] = True
        params = self.fault.params(stream=self.stream)
        if params:
            request["sim"] = {
                name: int(value) if name in {"after", "size"} else value for name, value in params.items()
            }
        return json.dumps(request).encode()

    def text_of(self, provider: int) -> str:
        """What provider 0 or 1 says when it is let finish."""
        return completion_text(self.body(self.offered[provider]), Sim(words_max=WORDS_MAX))

    @property
    def asked(self) -> tuple[str, ...]:
        """The providers that may be asked, in order: no more than these, and each of these."""
        first, second = self.providers
        if self.due is Due.LEFT:
            return (first, second) if self.where == "second" else (first,)
        return (first, second) if self.due is Due.TAKEOVER else (first,)


def judge(cell: Cell, reply: Reply | None, records: list[Record]) -> Verdict:
    """The verdict on a cell. `reply` is None when the client left before any answer."""
    label, why = _reply_verdict(cell, reply, records)
    if not why:
        why = _record_problem(cell, records)
    return Verdict("WRONG", why) if why else Verdict(label)


def _reply_verdict(cell: Cell, reply: Reply | None, records: list[Record]) -> tuple[Label, str]:
    if cell.due is Due.LEFT:
        return "client left", "" if reply is None or reply.left else f"answered {reply.status} before the client left"
    if reply is None:
        return "WRONG", "no answer before the deadline"
    if reply.broken:
        return "WRONG", reply.broken
    if not reply.headers.get("x-request-id") or not reply.gen_id:
        return "WRONG", "an answer without its ids"
    if cell.due is Due.BROKEN and not _uncommitted(cell, records):
        return "typed error", _broken_problem(reply, cell.text_of(0))
    if cell.due is Due.BROKEN and cell.where == "both" and reply.status == 200:
        return "typed error", _broken_problem(reply, cell.text_of(1))
    if cell.due is Due.REFUSAL:
        return "typed error", _error_problem(reply, frozenset({cell.fault.status}))
    if cell.due in _TAKES_OVER and cell.where == "both":
        return "typed error", _error_problem(reply, _ALL_FAILED) or _wait_problem(cell, reply)
    if cell.due in _TAKES_OVER:
        return "answered by fallback", _answer_problem(cell, reply, cell.text_of(1))
    return "answered", _answer_problem(cell, reply, cell.text_of(0))


def _uncommitted(cell: Cell, records: list[Record]) -> bool:
    """Whether the fault came before anything was sent to the client, so that another provider was rightly asked.

    A broken stream that had been sent and then spliced would show in its text, which must be one provider's alone.
    """
    return len(records) == 1 and records[0].providers == cell.providers


def _answer_problem(cell: Cell, reply: Reply, text: str) -> str:
    """A whole good answer: the text of one provider, our model id, one ending."""
    if reply.status != 200:
        return f"status {reply.status}: {_told(reply)}"
    if not cell.stream:
        body = orjson.loads(b"".join(reply.body))
        got, models = body["choices"][0]["message"]["content"], {body.get("model")}
    elif reply.stream is None:
        return "no stream"
    else:
        got, models = "".join(reply.stream.text), reply.stream.models
        problem = reply.stream.problem()
        if problem and not (
            problem == "no finish_reason" and cell.fault.name == "no_finish" and reply.stream.dones == 1
        ):
            return problem
        if reply.stream.errors:
            return "an error event in a good answer"
    if got != text:
        return f"the text is not that of one provider ({len(got)} characters for {len(text)})"
    return "" if models == {cell.model} else f"the model is told as {sorted(map(str, models))}"


def _broken_problem(reply: Reply, whole: str) -> str:
    """A stream that broke: an error event last, no [DONE], and the start of one provider's text alone."""
    chat = reply.stream
    if reply.status != 200 or chat is None:
        return f"status {reply.status} where a stream had begun"
    if chat.ending != "error":
        return f"the stream's ending is {chat.ending!r}, not one error event"
    error = chat.errors[0]
    if not all(error.get(name) for name in ("code", "message", "type", "request_id")):
        return "the error event lacks code, message, type or request_id"
    text = "".join(chat.text)
    if not text or not whole.startswith(text) or text == whole:
        return "the text before the error is not the start of the faulty provider's"
    return _leak_problem(str(error))


def _error_problem(reply: Reply, statuses: frozenset[int]) -> str:
    """A typed error in place of an answer."""
    if reply.status not in statuses:
        return f"status {reply.status}, not {' or '.join(map(str, sorted(statuses)))}: {_told(reply)}"
    try:
        body = orjson.loads(b"".join(reply.body))
        error = body["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "the error's body is not the JSON envelope"
    if body.get("code") != reply.status or not all(error.get(name) for name in ("message", "type", "code")):
        return "the error lacks code, message or type"
    if error.get("request_id") != reply.headers["x-request-id"]:
        return "the error's request_id is not the header's"
    return _leak_problem(str(body))


def _wait_problem(cell: Cell, reply: Reply) -> str:
    """A 503 says when to come back: for a provider's own Retry-After that, never less."""
    wait = reply.headers.get("retry-after")
    if reply.status == 503 and (wait is None or int(wait) < cell.fault.stream_params.get("retry_after", 1)):
        return f"503 with Retry-After {wait}"
    return ""


def _leak_problem(text: str) -> str:
    return "the error quotes a provider's key" if UPSTREAM_KEY in text else ""


def _told(reply: Reply) -> str:
    return b"".join(reply.body)[:200].decode("utf-8", "replace")


def _record_problem(cell: Cell, records: list[Record]) -> str:
    """The record: one, with the attempts that were right to make, in order."""
    if len(records) != 1:
        return f"{len(records)} records of the call"
    record = records[0]
    asked = cell.providers if cell.due is Due.BROKEN and _uncommitted(cell, records) else cell.asked
    if record.providers != asked:
        return f"asked {', '.join(record.providers) or 'nobody'}, not {', '.join(asked)}"
    answered = cell.due is Due.HARMLESS or (len(asked) == 2 and cell.where == "first")
    if answered != (record.ended == "complete"):
        return f"recorded as {record.ended}"
    if cell.due is Due.LEFT and record.ended != "client_gone":
        return f"recorded as {record.ended}, though the client left"
    return _token_problem(cell, record) if answered else ""


def _token_problem(cell: Cell, record: Record) -> str:
    """An explicit 0 is 0; what was not told is counted."""
    told_zero = cell.fault.name == "usage_zero" and cell.where != "second"
    if told_zero != (record.completion_tokens == 0):
        return f"{record.completion_tokens} completion tokens are recorded"
    return ""
