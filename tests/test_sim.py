"""The simulated provider over real sockets: OpenAI's shapes, its pacing, every fault, and junk."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Sim
from gateway.sim import (
    FAULTS,
    MODELS,
    completion_text,
    faults,
    serve_connection,
    serve_sim,
)
from gateway.sim.damage import STATUS_CODES
from gateway.sim.keywords import SchemaUnfitError
from gateway.sim.pattern import PatternError, matching
from gateway.sim.request import ApiError
from gateway.sim.schema import SchemaTooLargeError, fit_json
from gateway.sim.text import Dice, pieces, sentences

FAST = Sim(first_token_s=0.0, token_gap_s=0.0, words_max=24)
HELLO = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}},
            "required": ["city", "unit"],
        },
    },
}


@dataclass
class Reply:
    """One answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes
    complete: bool
    raw: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)

    def data(self) -> list[bytes]:
        """The data of each frame, for streams framed as usual."""
        assert self.body.endswith(b"\n\n")
        frames = self.body[:-2].split(b"\n\n")
        assert all(frame.startswith(b"data: ") for frame in frames)
        return [frame[6:] for frame in frames]

    def chunks(self) -> list[Any]:
        return [json.loads(data) for data in self.data() if data != b"[DONE]"]

    def text(self) -> str:
        return "".join(c["choices"][0]["delta"].get("content") or "" for c in self.chunks() if c["choices"])


def request_bytes(body: object, *, method: str = "POST", path: str = "/v1/chat/completions", head: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = f"{method} {path} HTTP/1.1\r\nhost: sim\r\ncontent-length: {len(data)}\r\n{head}\r\n"
    return lines.encode() + data


async def read_reply(stream: trio.abc.ReceiveStream) -> Reply:
    """Reads one answer; `complete` is false when the connection ended or fell silent within it."""
    raw = b""

    def parsed() -> Reply | None:
        rest = raw
        while rest.startswith(b"HTTP/1.1 1"):
            rest = rest.partition(b"\r\n\r\n")[2]
        head, gap, body = rest.partition(b"\r\n\r\n")
        if not gap:
            return None
        lines = head.decode().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        status = int(lines[0].split()[1])
        if headers.get("transfer-encoding") == "chunked":
            body, complete = unchunked(body)
        else:
            complete = len(body) >= int(headers.get("content-length", sys.maxsize))
        return Reply(status, headers, body, complete, raw)

    while not (raw.endswith((b"\r\n0\r\n\r\n", b"}")) or b"content-length: " in raw) or not (
        (reply := parsed()) and reply.complete
    ):
        data = bytes(await stream.receive_some(1 << 20))
        if not data:
            break
        raw += data
    reply = parsed()
    if reply is None:
        raise EOFError(raw)
    return reply


def unchunked(data: bytes) -> tuple[bytes, bool]:
    body = b""
    while data:
        size, gap, rest = data.partition(b"\r\n")
        if not gap:
            break
        length = int(size, 16)
        if length == 0:
            return body, rest == b"\r\n"
        body += rest[:length]
        data = rest[length + 2 :]
    return body, False


class Peer:
    """A server and what its clients say to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.port = int(url.removesuffix("/v1").rpartition(":")[2])

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, body: object, **how: str) -> Reply:
        with trio.fail_after(5):
            async with await self.connect() as stream:
                await stream.send_all(request_bytes(body, **how))
                return await read_reply(stream)

    async def chat(self, model: str = "words", *, stream: bool = False, **fields: object) -> Reply:
        return await self.ask({"model": model, "messages": HELLO, "stream": stream, **fields})


@pytest.fixture
async def peer(nursery: trio.Nursery) -> Peer:
    return Peer(await nursery.start(serve_sim, FAST))


def whole_body(**fields: object) -> bytes:
    return json.dumps({"model": "words", "messages": HELLO, **fields}).encode()


# The shapes of OpenAI.


async def test_completion(peer: Peer) -> None:
    reply = await peer.chat()
    made = reply.json()
    choice = made["choices"][0]
    text = completion_text(whole_body(), FAST)
    assert reply.status == 200
    assert reply.headers["x-request-id"].startswith("req_")
    assert (made["object"], made["model"]) == ("chat.completion", "words")
    assert made["id"].startswith("chatcmpl-")
    assert made["system_fingerprint"].startswith("fp_")
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    assert (choice["finish_reason"], choice["logprobs"], choice["index"]) == ("stop", None, 0)
    usage = made["usage"]
    assert usage["prompt_tokens"] == 3  # 10 bytes.
    assert usage["completion_tokens"] == len(pieces(text))
    assert usage["total_tokens"] == 3 + len(pieces(text))
    assert 1 <= len(text.split()) <= 24


async def test_stream_is_role_tokens_finish_done(peer: Peer) -> None:
    reply = await peer.chat(stream=True)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.complete
    assert reply.data()[-1] == b"[DONE]"
    chunks = reply.chunks()
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert reply.text() == completion_text(whole_body(), FAST)
    assert all("usage" not in chunk and chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1


async def test_usage_chunk_only_when_asked(peer: Peer) -> None:
    reply = await peer.chat(stream=True, stream_options={"include_usage": True})
    *chunks, last = reply.chunks()
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == len(chunks) - 2


async def test_each_choice_differs_and_streams_in_turn(peer: Peer) -> None:
    texts = [choice["message"]["content"] for choice in (await peer.chat(n=3)).json()["choices"]]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for chunk in (await peer.chat(n=3, stream=True)).chunks():
        choice = chunk["choices"][0]
        streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == texts


async def test_echo_repeats_the_last_user_message(peer: Peer) -> None:
    said = "Ünïcode  with\n\nspaces 東京 " + "x" * 40 + " "
    parts = [{"type": "text", "text": said}, {"type": "image_url", "image_url": {"url": "https://example.com"}}]
    history = [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]
    assert (await peer.chat("echo", messages=history)).json()["choices"][0]["message"]["content"] == said
    assert (await peer.chat("echo", messages=history, stream=True)).text() == said


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_token_limit_finishes_with_length(peer: Peer, name: str) -> None:
    made = (await peer.ask({"model": "words", "messages": HELLO, name: 3})).json()
    assert made["choices"][0]["finish_reason"] == "length"
    assert made["usage"]["completion_tokens"] == 3
    assert made["choices"][0]["message"]["content"] == "".join(pieces(completion_text(whole_body(), FAST))[:3])


async def test_stop_sequences_are_cut_off(peer: Peer) -> None:
    said = [{"role": "user", "content": "one two three four"}]
    made = (await peer.chat("echo", messages=said, stop=["four", " three"])).json()
    assert made["choices"][0]["message"]["content"] == "one two"
    assert made["choices"][0]["finish_reason"] == "stop"


async def test_forced_tools(peer: Peer) -> None:
    other = {"type": "custom", "custom": {"name": "note"}}
    both = {"tools": [TOOL, other], "tool_choice": "required", "parallel_tool_calls": True}
    choice = (await peer.chat(**both)).json()["choices"][0]  # type: ignore[arg-type]
    function, custom = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    arguments = json.loads(function["function"]["arguments"])
    assert set(arguments) == {"city", "unit"} and arguments["unit"] in ("c", "f")
    assert (custom["type"], custom["custom"]["name"], bool(custom["custom"]["input"])) == ("custom", "note", True)

    calls: list[dict[str, Any]] = []
    for chunk in (await peer.chat(stream=True, **both)).chunks():  # type: ignore[arg-type]
        for fragment in chunk["choices"][0]["delta"].get("tool_calls", []):
            if "id" in fragment:
                assert fragment["index"] == len(calls)
                calls.append({k: v for k, v in fragment.items() if k != "index"})
            else:
                kind = calls[fragment["index"]]["type"]
                for name, piece in fragment[kind].items():
                    calls[fragment["index"]][kind][name] += piece
    assert calls == [function, custom]


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        (None, None),
        ("auto", None),
        ("none", None),
        ("required", "weather"),
        ({"type": "function", "function": {"name": "second"}}, "second"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function"}]}}, None),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "second"}}]},
            },
            "second",
        ),
    ],
)
async def test_tools_are_called_only_when_forced(peer: Peer, choice: object, called: str | None) -> None:
    tools = [TOOL, {"type": "function", "function": {"name": "second"}}]
    message = (await peer.chat(tools=tools, tool_choice=choice)).json()["choices"][0]["message"]
    assert [call["function"]["name"] for call in message.get("tool_calls", [])] == ([called] if called else [])


async def test_json_that_fits(peer: Peer) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "w", "schema": TOOL["function"]["parameters"]}}  # type: ignore[index]
    made = json.loads((await peer.chat(response_format=form, stream=True)).text())
    assert made["unit"] in ("c", "f") and isinstance(made["city"], str)
    made = json.loads(
        (await peer.chat(response_format={"type": "json_object"})).json()["choices"][0]["message"]["content"]
    )
    assert set(made) == {"title", "count", "done"}


async def test_openai_sdk(peer: Peer) -> None:
    messages: Any = HELLO

    def use() -> None:
        with openai.OpenAI(base_url=peer.url, api_key="none", max_retries=0, timeout=5) as client:
            assert [model.id for model in client.models.list()] == list(MODELS)
            made = client.chat.completions.create(model="words", messages=messages)
            assert made.choices[0].message.content == completion_text(whole_body(), FAST)
            with client.chat.completions.create(model="words", messages=messages, stream=True) as events:
                text = "".join(event.choices[0].delta.content or "" for event in events)
            assert text == made.choices[0].message.content
            with pytest.raises(openai.RateLimitError) as caught:
                client.chat.completions.create(model="fault-status_429", messages=messages)
            assert caught.value.response.headers["retry-after"] == "1"
            assert caught.value.code == "rate_limit_exceeded"

    await trio.to_thread.run_sync(use)


def test_same_prompt_same_text_other_prompt_other_text() -> None:
    again = whole_body(
        stream=True, temperature=1, messages=[{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}]
    )
    assert completion_text(whole_body(), FAST) == completion_text(again, FAST)
    assert completion_text(whole_body(), FAST) != completion_text(whole_body(seed=7), FAST)
    # The same on every machine and every Python.
    assert sentences(Dice(b"fixed"), 12) == FIXED_SENTENCE


FIXED_SENTENCE = "The machine crosses the clock."


# Requests that are wrong.


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        (b"{", 400, None, "JSON"),
        (b"", 400, None, "JSON"),
        (b"[]", 400, None, "object"),
        (b'{"model":"words","messages":[{"role":"user","content":"\xff"}]}', 400, None, "JSON"),
        (b'{"model":"words","messages":[{"role":"user","content":"\\ud800"}]}', 400, None, "JSON"),
        (b"[" * 100_000, 400, None, ""),
        (b'{"a":' * 100_000, 400, None, "JSON"),
        ({"messages": HELLO}, 400, None, "model"),
        ({"model": "words"}, 400, None, "messages"),
        ({"model": "words", "messages": []}, 400, "messages", "length"),
        ({"model": "words", "messages": [{"role": "robot"}]}, 400, "messages[0].role", "robot"),
        ({"model": "words", "messages": HELLO, "n": 0}, 400, "n", ">= 1"),
        ({"model": "words", "messages": HELLO, "max_tokens": 0}, 400, "max_tokens", ">= 1"),
        ({"model": "words", "messages": HELLO, "temperature": 3}, 400, "temperature", "<= 2"),
        ({"model": "words", "messages": HELLO, "stop": ["a"] * 5}, 400, "stop", "at most 4"),
        ({"model": "words", "messages": HELLO, "stream_options": {}}, 400, "stream_options", "stream"),
        ({"model": "words", "messages": HELLO, "tool_choice": "required"}, 400, "tool_choice", "tools"),
        ({"model": "words", "messages": HELLO, "tools": [TOOL], "tool_choice": "any"}, 400, "tool_choice", "any"),
        (
            {
                "model": "words",
                "messages": HELLO,
                "tools": [TOOL],
                "tool_choice": {"type": "function", "function": {"name": "x"}},
            },
            400,
            "tool_choice",
            "'x'",
        ),
        (
            {"model": "words", "messages": HELLO, "response_format": {"type": "json_schema"}},
            400,
            "response_format",
            "schema",
        ),
        (
            {
                "model": "words",
                "messages": HELLO,
                "response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": {"not": {}}}},
            },
            400,
            "response_format",
            "'not'",
        ),
        ({"model": "gpt-4o", "messages": HELLO}, 404, "model", "gpt-4o"),
        ({"model": "fault-none", "messages": HELLO}, 404, "model", "fault-none"),
        ({"model": "words", "messages": HELLO, "sim": {"fault": "nope"}}, 400, "sim.fault", "close_idle"),
        ({"model": "words", "messages": HELLO, "sim": {"fualt": "cut"}}, 400, "sim", "fualt"),
    ],
)
async def test_bad_request(peer: Peer, body: object, status: int, param: str | None, says: str) -> None:
    reply = await peer.ask(body)
    error = reply.json()["error"]
    assert (reply.status, error["type"], error["param"]) == (status, "invalid_request_error", param)
    assert says in error["message"]
    assert error["code"] == ("model_not_found" if status == 404 else None)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/words", 200),
        ("GET", "/v1/models/nope", 404),
        ("GET", "/v1/modelsx", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/", 404),
    ],
)
async def test_routes(peer: Peer, method: str, path: str, status: int) -> None:
    assert (await peer.ask(b"", method=method, path=path)).status == status


async def test_keep_alive_pipelining_and_slow_arrival(peer: Peer) -> None:
    async with await peer.connect() as stream:
        whole = request_bytes(whole_body(stream=True)) * 2
        await stream.send_all(whole[:-5])
        first = await read_reply(stream)
        await stream.send_all(whole[-5:])
        second = await read_reply(stream)
        assert first.complete and second.complete
        assert first.text() == second.text()
        for byte in request_bytes(whole_body()):
            await stream.send_all(bytes([byte]))
        assert (await read_reply(stream)).status == 200


async def test_connection_close_http_10_and_expect(peer: Peer) -> None:
    async with await peer.connect() as stream:
        await stream.send_all(request_bytes(whole_body(), head="connection: close\r\n"))
        assert (await read_reply(stream)).headers["connection"] == "close"
        assert await stream.receive_some(1) == b""
    async with await peer.connect() as stream:
        await stream.send_all(request_bytes(whole_body(stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        raw = b"".join([bytes(data) async for data in stream])
        assert raw.endswith(b"data: [DONE]\n\n") and b"transfer-encoding" not in raw
    async with await peer.connect() as stream:
        head, _, body = request_bytes(whole_body(), head="expect: 100-continue\r\n").partition(b"\r\n\r\n")
        await stream.send_all(head + b"\r\n\r\n")
        assert await stream.receive_some(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send_all(body)
        assert (await read_reply(stream)).status == 200


@pytest.mark.parametrize(
    ("junk", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 70_000, 431),
    ],
)
async def test_junk_gets_an_error_and_the_server_lives(peer: Peer, junk: bytes, status: int) -> None:
    async with await peer.connect() as stream:
        await stream.send_all(junk)
        assert (await read_reply(stream)).status == status
        await stream.send_eof()
    assert (await peer.chat()).status == 200


async def test_body_limit(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sim.server.BODY_BYTES_MAX", 1000)
    assert (await peer.ask(b"x" * 1001)).status == 413
    assert (await peer.ask(b"x" * 1000)).status == 400


# Time, on a virtual clock and without sockets.


async def virtual(settings: Sim, body: bytes, nursery: trio.Nursery) -> list[tuple[float, bytes]]:
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(serve_connection, theirs, settings)
    await ours.send_all(request_bytes(body))
    seen: list[tuple[float, bytes]] = []
    start = trio.current_time()
    while b"0\r\n\r\n" not in b"".join(data for _, data in seen)[-5:]:
        data = bytes(await ours.receive_some(1 << 16))
        seen.append((round(trio.current_time() - start, 6), data))
    await ours.aclose()
    return seen


async def test_pacing(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    paced = Sim(first_token_s=0.5, token_gap_s=0.25, words_max=24)
    body = json.dumps({"model": "echo", "stream": True, "messages": [{"role": "user", "content": "a b c"}]}).encode()
    times = {at for at, _ in await virtual(paced, body, nursery)}
    assert times == {0.0, 0.5, 0.75, 1.0}
    whole = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "a b c"}]}).encode()
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(serve_connection, theirs, paced)
    start = trio.current_time()
    await ours.send_all(request_bytes(whole))
    assert (await read_reply(ours)).status == 200
    assert trio.current_time() - start == pytest.approx(1.0)


async def test_slow_and_idle(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    body = whole_body(stream=True, sim={"fault": "slow", "seconds": 40})
    assert {at for at, _ in await virtual(FAST, body, nursery)} == {0.0, 40.0}
    _ours, theirs = trio.testing.memory_stream_pair()
    start = trio.current_time()
    await serve_connection(theirs, FAST)
    assert trio.current_time() - start == pytest.approx(75.0)


async def test_a_request_that_never_ends_is_answered_408(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(serve_connection, theirs, FAST)
    await ours.send_all(request_bytes(whole_body())[:-1])
    assert (await read_reply(ours)).status == 408
    await ours.aclose()


@pytest.mark.parametrize("fault", ["hang", "hang_headers", "stall", "slow"])
async def test_client_leaving_ends_the_answer(fault: str) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    body = whole_body(stream=True, sim={"fault": fault})
    with trio.fail_after(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, theirs, FAST)
            await ours.send_all(request_bytes(body))
            await trio.testing.wait_all_tasks_blocked()
            await ours.send_eof()


# Faults.


def test_every_fault_is_documented_and_has_a_model() -> None:
    assert faults.__doc__
    for name, fault in FAULTS.items():
        shown = "status_NNN" if name.startswith("status_") else name
        assert re.search(rf"^    {shown} ", faults.__doc__, re.MULTILINE), name
        assert fault.description
        assert f"fault-{name}" in MODELS
    assert set(MODELS) - {"words", "echo"} == {f"fault-{name}" for name in FAULTS}


async def faulty(peer: Peer, fault: str, *, stream: bool = True, **params: object) -> Reply:
    fields: dict[str, object] = {"stream_options": {"include_usage": True}} if stream else {}
    return await peer.chat("words", stream=stream, sim={"fault": fault, **params}, **fields)


@pytest.mark.parametrize("stream", [False, True])
async def test_refuse_resets(peer: Peer, stream: bool) -> None:
    for ask in (peer.chat("fault-refuse", stream=stream), faulty(peer, "refuse", stream=stream)):
        with pytest.raises(trio.BrokenResourceError):
            await ask


async def silent_after(body: bytes, nursery: trio.Nursery) -> bytes:
    """What comes before a silence of a quarter of an hour, on the virtual clock."""
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(serve_connection, theirs, FAST)
    await ours.send_all(request_bytes(body))
    raw = b""
    with trio.move_on_after(900) as scope:
        while data := await ours.receive_some(1 << 16):
            raw += data
    assert scope.cancelled_caught
    await ours.aclose()
    return raw


async def test_hang_headers_and_stall_send_nothing_more(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    assert await silent_after(whole_body(sim={"fault": "hang"}), nursery) == b""
    for fault, frames in (("hang_headers", 0), ("stall", 3)):
        raw = await silent_after(whole_body(stream=True, sim={"fault": fault}), nursery)
        assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
        assert raw.count(b"data: ") == frames
    raw = await silent_after(whole_body(sim={"fault": "stall"}), nursery)
    head, _, body = raw.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length
    assert len(body) == int(length.group(1)) // 2


@pytest.mark.parametrize("code", STATUS_CODES)
async def test_status(peer: Peer, code: int) -> None:
    reply = await peer.chat(f"fault-status_{code}", stream=True)
    assert reply.status == code
    assert reply.headers["x-request-id"].startswith("req_")
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert reply.headers.get("retry-after") == ("1" if code == 429 else None)
    assert (await faulty(peer, f"status_{code}", retry_after=2.5)).headers["retry-after"] == "2.5"


async def test_wrong_answers_in_place_of_a_good_one(peer: Peer) -> None:
    streamed = await faulty(peer, "error_in_200")
    assert streamed.status == 200
    assert json.loads(streamed.body.removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert (await faulty(peer, "error_in_200", stream=False)).json()["error"]["code"] == "sim_fault"
    page = await faulty(peer, "html_200")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    moved = await faulty(peer, "redirect_302")
    assert (moved.status, moved.headers["location"]) == (302, "http://127.0.0.1:1/v1/chat/completions")
    nothing = await faulty(peer, "empty")
    assert (nothing.status, nothing.body) == (200, b"")
    early = await faulty(peer, "info_1xx", after=4)
    assert early.raw.count(b"HTTP/1.1 103 Early Hints") == 4
    assert early.complete and early.status == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after", [0, 1, 100, 300])
async def test_cut(peer: Peer, stream: bool, after: int) -> None:
    reply = await faulty(peer, "cut", stream=stream, after=after)
    assert (len(reply.body), reply.complete) == (after, False)


@pytest.mark.parametrize("stream", [False, True])
async def test_texts(peer: Peer, stream: bool) -> None:
    async def content(fault: str, **params: object) -> str:
        reply = await faulty(peer, fault, stream=stream, **params)
        return reply.text() if stream else str(reply.json()["choices"][0]["message"]["content"])

    quoted = await content("model_quoted")
    assert '"model":"words"' in quoted and "\n\ndata: [DONE]\n\n" in quoted
    assert len(await content("long_line")) > 5_000_000
    assert await content("long_line", size=10) == "Before. xxxxxxxxxx After."
    assert "東京" in await content("split_utf8")


async def test_long_line_is_one_frame(peer: Peer) -> None:
    reply = await faulty(peer, "long_line")
    assert max(map(len, reply.data())) > 5_000_000


async def test_split_utf8_writes_inside_characters(peer: Peer) -> None:
    reply = await faulty(peer, "split_utf8")
    assert b"\r\n1\r\n\xe6\r\n1\r\n\x9d\r\n1\r\n\xb1\r\n" in reply.raw


async def test_garbage_and_error_mid_stream(peer: Peer) -> None:
    data = (await faulty(peer, "garbage", after=2)).data()
    with pytest.raises(ValueError, match=r"utf-8|Expecting|Unterminated"):
        json.loads(data[2])
    assert data[-1] == b"[DONE]" and json.loads(data[3])["choices"]
    reply = await faulty(peer, "error_mid_stream", after=2)
    assert reply.complete
    assert [set(chunk) == {"error"} for chunk in reply.chunks()] == [False, False, True]


async def test_ends_of_a_stream(peer: Peer) -> None:
    good = await faulty(peer, "coalesced")

    def reasons(reply: Reply) -> list[str]:
        found = [choice["finish_reason"] for chunk in reply.chunks() for choice in chunk["choices"]]
        return [reason for reason in found if reason]

    no_done = await faulty(peer, "no_done")
    assert no_done.complete and no_done.data()[-1] != b"[DONE]" and len(no_done.data()) == len(good.data()) - 1
    assert reasons(good) == ["stop"]
    assert reasons(await faulty(peer, "no_finish")) == []
    assert reasons(await faulty(peer, "double_finish")) == ["stop", "stop"]


async def test_usage(peer: Peer) -> None:
    absent = (await faulty(peer, "usage_absent")).chunks()
    assert all("usage" not in chunk for chunk in absent)
    assert "usage" not in (await faulty(peer, "usage_absent", stream=False)).json()
    zero = (await faulty(peer, "usage_zero")).chunks()
    assert zero[-1]["usage"]["total_tokens"] == 0 and zero[0]["usage"] is None
    assert (await faulty(peer, "usage_zero", stream=False)).json()["usage"]["total_tokens"] == 0
    last = (await faulty(peer, "usage_last")).chunks()
    assert last[-1]["choices"][0]["finish_reason"] == "stop"
    assert last[-1]["usage"]["prompt_tokens"] == 3


async def test_model_names(peer: Peer) -> None:
    for stream in (False, True):
        dated = await faulty(peer, "model_dated", stream=stream)
        objects = dated.chunks() if stream else [dated.json()]
        assert {made["model"] for made in objects} == {"words-2026-01-01"}
        spaced = await faulty(peer, "model_space", stream=stream)
        assert b'"model": "words"' in spaced.body and b'"model":"words"' not in spaced.body


def split_lines(body: bytes, end: bytes) -> list[bytes]:
    return [line for line in body.split(end) if line]


FRAMINGS: dict[str, Callable[[bytes], list[bytes]]] = {
    "crlf": lambda body: split_lines(body, b"\r\n\r\n"),
    "cr": lambda body: split_lines(body, b"\r\r"),
    "comments": lambda body: [line for line in split_lines(body, b"\n\n") if line != b": keep-alive"],
    "no_space": lambda body: [line.replace(b"data:", b"data: ", 1) for line in split_lines(body, b"\n\n")],
    "event_lines": lambda body: [line.split(b"\n")[3] for line in split_lines(body, b"\n\n")],
    "multi_line_data": lambda body: [
        b"data: " + b"".join(part[6:] for part in line.split(b"\n")) for line in split_lines(body, b"\n\n")
    ],
}


@pytest.mark.parametrize("fault", FRAMINGS)
async def test_framing(peer: Peer, fault: str) -> None:
    reply = await faulty(peer, fault)
    lines = FRAMINGS[fault](reply.body)
    assert all(line.startswith(b"data: ") for line in lines)
    assert lines[-1] == b"data: [DONE]"
    text = "".join(json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in lines[:-2])
    assert text == completion_text(whole_body(), FAST)
    normal = (await peer.chat(stream=True)).body
    assert {"cr": b"\n" not in reply.body, "comments": reply.body.startswith(b": keep-alive\n\n")}.get(fault, True)
    assert reply.body != normal


async def test_wire(peer: Peer) -> None:
    assert (await faulty(peer, "bytewise")).raw.count(b"\r\n1\r\n") > 1000
    assert (await faulty(peer, "bytewise", stream=False)).json()["usage"]
    together = await faulty(peer, "coalesced")
    assert re.search(rb"\r\n\r\n([0-9a-f]+)\r\n", together.raw)
    packed = await faulty(peer, "gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert zlib.decompress(packed.body, wbits=31).endswith(b"data: [DONE]\n\n")
    whole = await faulty(peer, "gzip", stream=False)
    assert json.loads(gzip.decompress(whole.body))["object"] == "chat.completion"


async def test_close_idle_and_lists_of_faults(peer: Peer) -> None:
    async with await peer.connect() as stream:
        await stream.send_all(request_bytes(whole_body(sim={"fault": "close_idle"})))
        reply = await read_reply(stream)
        assert reply.complete and "connection" not in reply.headers
        assert await stream.receive_some(1) == b""
    reply = await peer.chat("fault-crlf", stream=True, sim={"fault": ["model_dated", "no_done"]})
    assert b'"model":"fault-crlf-2026-01-01"' in reply.body
    assert b"\r\n\r\n" in reply.body and b"[DONE]" not in reply.body


@pytest.mark.parametrize("name", [name for name in FAULTS if not name.startswith(("status_", "long_line"))])
@pytest.mark.parametrize("stream", [False, True])
async def test_after_any_fault_the_server_serves_on(peer: Peer, name: str, stream: bool) -> None:
    with trio.move_on_after(0.05), contextlib.suppress(trio.BrokenResourceError, EOFError):
        await faulty(peer, name, stream=stream, seconds=0.01, after=2)
    assert (await peer.chat()).status == 200


async def test_alone_from_the_command_line() -> None:
    command = [sys.executable, "-m", "gateway.sim", "--first-token-s", "0", "--token-gap-s", "0", "--words-max", "24"]
    with trio.fail_after(10):
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = await process.stdout.receive_some()
            alone = Peer(bytes(line).decode().removeprefix("listening on ").strip())
            assert (await alone.chat(stream=True)).text() == completion_text(whole_body(), FAST)
            second = await trio.run_process(
                [*command, "--port", str(alone.port)], check=False, capture_stdout=True, capture_stderr=True
            )
            assert second.returncode == 1
            assert f"cannot listen on 127.0.0.1:{alone.port}".encode() in second.stderr
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
            await process.stdout.aclose()
            await process.stderr.aclose()


# Texts, patterns and schemas, by themselves.


@given(st.text())
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


@given(st.binary(), st.integers(1, 200))
def test_sentences_keep_their_bounds(seed: bytes, words_max: int) -> None:
    text = sentences(Dice(seed), words_max)
    assert 1 <= len(text.split()) <= words_max
    assert text.endswith(".") and text[0].isupper()


PATTERNS = [
    r"^[A-Z]{3}-\d{4}$", r"^(foo|ba[rz])+$", r"^[^a-z]*$", r"^\w+@\w+\.(com|org)$", r"^a?b{2,}c{0,3}$",
    r"^(?:x(?<y>z))?$",
    r"^[\d\-_.]+$", r"^#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})$", r"\S\s\S", r"^\x41\u0042\/$", r"", r"|^b$", r"^.*?$",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern(pattern: str) -> None:
    for seed in range(20):
        text = matching(pattern, Dice(bytes([seed])))
        assert re.search(pattern.replace("(?<", "(?P<"), text), (pattern, text)


@pytest.mark.parametrize(
    "pattern",
    ["(?=a)b", r"\bword", r"(a)\1", "a{3,2}", "(a", "a)", "[a", "[]", "*a", r"\p{L}", "a$b", r"\ud800", "(" * 99],
)
def test_pattern_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        matching(pattern, Dice(b""))


def test_pattern_work_is_bounded() -> None:
    with pytest.raises(PatternError, match="too long"):
        matching("(((a{900}){900}){900}){900}", Dice(b""))
    with pytest.raises(PatternError, match="no string"):
        matching("^a{5}$", Dice(b""), 6, 6)
    assert len(matching("^[a-z]+$", Dice(b""), 30, 40)) in range(30, 41)


def fits(value: Any, schema: Any, root: Any) -> bool:
    """A validator of its own, as plain as can be."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and not fits(
        value, root["$defs"][schema["$ref"].rpartition("/")[2]] if schema["$ref"] != "#" else root, root
    ):
        return False
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_kind = {
        "object": isinstance(value, dict), "array": isinstance(value, list), "string": isinstance(value, str),
        "boolean": isinstance(value, bool), "null": value is None, "number": is_number,
        "integer": is_number and value == int(value),
    }  # fmt: skip
    checks = [not kinds or any(is_kind[kind] for kind in kinds)]
    checks.append("enum" not in schema or value in schema["enum"])
    checks.append("const" not in schema or value == schema["const"])
    checks.append(all(fits(value, part, root) for part in schema.get("allOf", [])))
    checks.append("anyOf" not in schema or any(fits(value, part, root) for part in schema["anyOf"]))
    checks.append("oneOf" not in schema or sum(fits(value, part, root) for part in schema["oneOf"]) == 1)
    if is_number:
        checks.append(schema.get("minimum", value) <= value <= schema.get("maximum", value))
        checks.append("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
        checks.append("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        checks.append("multipleOf" not in schema or value % schema["multipleOf"] == 0)
    if isinstance(value, str):
        checks.append(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 10**9))
        checks.append(re.search(schema.get("pattern", ""), value) is not None)
    if isinstance(value, list):
        checks.append(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 10**9))
        checks.append(not schema.get("uniqueItems") or all(a != b for i, a in enumerate(value) for b in value[:i]))
        prefix = schema.get("prefixItems", [])
        checks += [fits(item, part, root) for item, part in zip(value, prefix, strict=False)]
        checks += [fits(item, schema.get("items", True), root) for item in value[len(prefix) :]]
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        checks.append(set(schema.get("required", [])) <= set(value))
        checks.append(schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", 10**9))
        rest = schema.get("additionalProperties", True)
        checks += [fits(item, properties.get(name, rest), root) for name, item in value.items()]
    return all(checks)


def bounds(low: str, high: str, most: int) -> st.SearchStrategy[dict[str, Any]]:
    pair = st.tuples(st.integers(0, most), st.integers(0, most)).map(sorted)
    return pair.map(lambda two: {low: two[0], high: two[1]}) | st.just({})


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    def build(properties: dict[str, Any], required: bool, more: Any) -> dict[str, Any]:
        names = list(properties) if required else list(properties)[:1]
        return {"type": "object", "properties": properties, "required": names, "additionalProperties": more}

    named = st.dictionaries(st.sampled_from("abcde"), inner, max_size=4)
    return st.builds(build, named, st.booleans(), st.booleans() | inner)


LEAVES = st.one_of(
    st.sampled_from(
        [True, {}, {"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {"$ref": "#/$defs/tree"}]
    ),
    st.lists(st.integers() | st.text(max_size=3) | st.none(), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
    st.integers().map(lambda value: {"const": value}),
    bounds("minLength", "maxLength", 40).map(lambda more: {"type": "string", **more}),
    st.builds(
        lambda kind, more: {"type": kind, **more},
        st.sampled_from(["integer", "number"]),
        bounds("minimum", "maximum", 50)
        | st.sampled_from(
            [{"exclusiveMinimum": -3, "exclusiveMaximum": 4}, {"multipleOf": 7, "minimum": 50}, {"maximum": -9}]
        ),
    ),
    st.sampled_from(["^[a-f]{4}$", "^x+(y|z)$"]).map(lambda pattern: {"type": "string", "pattern": pattern}),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        objects(inner),
        st.builds(
            lambda items, more: {"type": "array", "items": items, **more}, inner, bounds("minItems", "maxItems", 3)
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        inner.map(lambda part: {"allOf": [part, {}]}),
        inner.map(lambda part: {"type": "array", "prefixItems": [part, {"const": 1}], "minItems": 2}),
    ),
    max_leaves=12,
)
DEFS = {
    "tree": {
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
            "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
        },
        "required": ["value", "next", "children"],
        "additionalProperties": False,
    }
}


@settings(max_examples=150, deadline=None)
@given(SCHEMAS, st.binary(max_size=4))
def test_schema_values_fit(schema: Any, seed: bytes) -> None:
    root = {"allOf": [schema], "$defs": DEFS}
    made = json.loads(fit_json(root, Dice(seed)))
    assert fits(made, root, root), (made, schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "uniqueItems": True},
        {"oneOf": [{"type": "object", "properties": {"k": {"const": n}}, "required": ["k"]} for n in (1, 2)]},
        {"type": "object", "properties": {"a": False}, "required": []},
        {"type": "object", "minProperties": 3, "additionalProperties": {"type": "integer"}},
        {
            "type": "object",
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
            "properties": {"a": {"const": 1}, "b": {}},
        },
        {"allOf": [{"type": "number", "minimum": 3}, {"type": "integer", "maximum": 3.5}]},
        {"allOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]},
        {"anyOf": [False, {"minimum": 5, "maximum": 4}, {"type": "boolean"}]},
        {"type": "string", "format": "uuid", "minLength": 36},
        {"type": "object", "properties": {name: {"$ref": "#"} for name in "abcdefgh"}},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
        {"type": "integer", "multipleOf": 0.5, "minimum": 0.6},
    ],
)
def test_schema_corners(schema: Any) -> None:
    for seed in range(10):
        made = json.loads(fit_json(schema, Dice(bytes([seed]))))
        assert fits(made, schema, schema), made


def test_two_way_recursion_takes_the_branch_that_ends() -> None:
    term = {"$ref": "#/$defs/term"}
    pair = {"type": "object", "properties": {"left": term, "right": term}, "required": ["left", "right"]}
    leaf = {"type": "object", "properties": {"value": {"type": "integer"}}, "required": ["value"]}
    defs = {"term": {"anyOf": [{"$ref": "#/$defs/pair"}, {"$ref": "#/$defs/leaf"}]}, "pair": pair, "leaf": leaf}
    schema = {"$ref": "#/$defs/term", "$defs": defs}
    assert fits(json.loads(fit_json(schema, Dice(b""))), schema, schema)


@pytest.mark.parametrize(
    "schema",
    [
        False,
        7,
        {"$ref": "#/$defs/none"},
        {"$ref": "https://example.com/x"},
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 2},
        {"type": "array", "minItems": 1_000_000},
        {"type": "array", "minItems": 4_000, "items": {"type": "string", "minLength": 99_999}},
        {"type": "integer", "minimum": 0.1, "maximum": 0.9},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "string", "minLength": 10**12},
        {"type": "string", "pattern": "(?!a)"},
        {"type": "widget"},
        {"enum": []},
        {"not": {}},
        {"type": "array", "items": {"const": 1}, "minItems": 2, "uniqueItems": True},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "object", "required": [["a"]]},
        {"type": "number", "minimum": "3"},
        {"properties": []},
    ],
)
def test_schema_refused(schema: Any) -> None:
    with pytest.raises(SchemaUnfitError):
        fit_json(schema, Dice(b""))


def test_deeply_nested_schema_is_refused() -> None:
    schema: Any = {"type": "integer"}
    for _ in range(400):
        schema = {"type": "array", "items": schema, "minItems": 1}
    with pytest.raises(SchemaTooLargeError):
        fit_json(schema, Dice(b""))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "properties",
                        "required",
                        "items",
                        "anyOf",
                        "allOf",
                        "$ref",
                        "enum",
                        "const",
                        "minimum",
                        "maximum",
                        "minItems",
                        "multipleOf",
                        "pattern",
                        "minLength",
                        "x",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    )
)
def test_any_junk_schema_fits_or_is_refused(schema: Any) -> None:
    with contextlib.suppress(SchemaUnfitError):
        json.loads(fit_json(schema, Dice(b"")))


def test_completion_text_raises_what_the_server_answers() -> None:
    with pytest.raises(ApiError) as caught:
        completion_text(b'{"model": "gpt-4o", "messages": [{"role": "user"}]}')
    assert caught.value.status == 404
