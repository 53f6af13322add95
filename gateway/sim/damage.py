# ruff: noqa: ARG001, D103 - hooks of one kind have one signature, and gateway.sim.faults documents every one.
"""Faults in place of an answer, before it and of its text. Pure; `gateway.sim.faults` names and documents them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from gateway.config import Sim
from gateway.sim.request import ApiError, ChatRequest, SimAsk
from gateway.sim.steps import Close, Hang, Headers, Send, Step, Wait, head, whole

JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream; charset=utf-8"
LONG_LINE_BYTES = 5_000_000
MULTIBYTE = "naïve café, 東京の朝, 😀👩‍🚀 Ünïcödé"
STATUS_CODES = {
    400: ("invalid_request_error", "invalid_value"),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "payment_required"),
    403: ("invalid_request_error", "permission_denied"),
    404: ("invalid_request_error", "model_not_found"),
    408: ("server_error", "request_timeout"),
    409: ("invalid_request_error", "conflict"),
    413: ("invalid_request_error", "request_too_large"),
    422: ("invalid_request_error", "unprocessable"),
    429: ("rate_limit_exceeded", "rate_limit_exceeded"),
    500: ("server_error", None),
    502: ("server_error", None),
    503: ("server_error", "overloaded"),
    504: ("server_error", None),
    529: ("server_error", "overloaded"),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """One request with its parameters of faults."""

    request: ChatRequest
    ask: SimAsk
    settings: Sim
    headers: Headers = ()

    @property
    def streamed(self) -> bool:
        """Whether a stream was asked."""
        return bool(self.request.stream)

    def after(self, default: int) -> int:
        """The parameter `after`."""
        return default if self.ask.after is None else self.ask.after

    def body(
        self, data: bytes, status: int = 200, content_type: str = JSON_TYPE, headers: Headers = ()
    ) -> Iterator[Step]:
        """A complete answer after the usual wait for the first token."""
        yield Wait(self.settings.first_token_s)
        yield Send(whole(status, content_type, data, self.headers + headers))


# Faults in place of the whole answer.


def refuse(scene: Scene) -> Iterator[Step]:
    yield Close(reset=True)


def hang(scene: Scene) -> Iterator[Step]:
    yield Hang()


def hang_headers(scene: Scene) -> Iterator[Step]:
    kind = SSE_TYPE if scene.streamed else JSON_TYPE
    yield Send(head(200, (*scene.headers, ("content-type", kind), ("transfer-encoding", "chunked"))))
    yield Hang()


def status(code: int) -> Callable[[Scene], Iterator[Step]]:
    """A fault that answers with an error status in OpenAI's shape."""

    def answer(scene: Scene) -> Iterator[Step]:
        kind, name = STATUS_CODES[code]
        error = ApiError(code, f"The simulated provider answers {code}, as asked.", kind=kind, code=name)
        headers: Headers = ()
        if code == 429 or scene.ask.retry_after is not None:
            headers = (("retry-after", f"{1.0 if scene.ask.retry_after is None else scene.ask.retry_after:g}"),)
        return scene.body(error.encoded(), code, headers=headers)

    return answer


def error_in_200(scene: Scene) -> Iterator[Step]:
    data = broken().encoded()
    if scene.streamed:
        return scene.body(b"data: " + data + b"\n\n", content_type=SSE_TYPE)
    return scene.body(data)


def html_200(scene: Scene) -> Iterator[Step]:
    page = b"<!doctype html>\n<title>Just a moment</title>\n<p>Checking your browser before you continue.\n"
    return scene.body(page, content_type="text/html; charset=utf-8")


def redirect_302(scene: Scene) -> Iterator[Step]:
    # Port 1 answers nobody: whoever follows it is found out.
    return scene.body(b"", 302, headers=(("location", "http://127.0.0.1:1/v1/chat/completions"),))


def empty(scene: Scene) -> Iterator[Step]:
    return scene.body(b"", content_type=SSE_TYPE if scene.streamed else JSON_TYPE)


# Faults before the answer.


def info_1xx(scene: Scene) -> Iterator[Step]:
    for _ in range(scene.after(100)):
        yield Send(b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n")


def slow(scene: Scene) -> Sim:
    seconds = 30.0 if scene.ask.seconds is None else scene.ask.seconds
    return msgspec.structs.replace(scene.settings, first_token_s=seconds)


# Faults of the text.


def quoted(scene: Scene) -> tuple[str, ...]:
    return (
        "The frame said ",
        f'{{"id":"chatcmpl-1","model":"{scene.request.model}","choices":[]}}',
        f' and "model": "{scene.request.model}"',
        ", then \n\ndata: [DONE]\n\n",
        '"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}',
        ' "error":{"message":"quoted"} and went on.',
    )


def long_line(scene: Scene) -> tuple[str, ...]:
    size = LONG_LINE_BYTES if scene.ask.size is None else scene.ask.size
    return ("Before. ", "x" * size, " After.")


def multibyte(scene: Scene) -> tuple[str, ...]:
    return tuple(MULTIBYTE.replace(" ", "\0 ").split("\0"))


def broken() -> ApiError:
    """The error that faults report inside a 200."""
    return ApiError(500, "The simulated provider broke down, as asked.", kind="server_error", code="sim_fault")
