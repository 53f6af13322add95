"""From the body of a chat request to what the server does: the answer, with the faults asked worked in. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce

import orjson

from gateway.config import Sim
from gateway.sim import chat, mangle
from gateway.sim.chat import Chunk, Json
from gateway.sim.damage import JSON_TYPE, SSE_TYPE, Scene
from gateway.sim.faults import FAULTS, Fault
from gateway.sim.request import ApiError, ChatRequest, SimAsk, parse
from gateway.sim.steps import Close, Headers, Send, Step, Wait, chunked, head, whole

FAULT_PREFIX = "fault-"
MODELS = (chat.WORDS, chat.ECHO, *(FAULT_PREFIX + name for name in FAULTS))


@dataclass(frozen=True, slots=True)
class Occasion:
    """What of an answer does not follow from its request."""

    completion_id: str
    created_s: int
    headers: Headers = ()
    chunked: bool = True  # false for an HTTP/1.0 client: a stream then ends where its connection does


def chat_script(body: bytes, settings: Sim, occasion: Occasion) -> Iterator[Step]:
    """The steps that answer `POST /v1/chat/completions`."""
    try:
        request = parse(body)
        faults = _faults(request)
        scene = _scene(request, faults, settings, occasion.headers)
        replaced = next((fault.replaces for fault in faults if fault.replaces), None)
        answer = None if replaced else _answer(scene, faults, occasion)
    except ApiError as error:
        yield Send(error_reply(error, occasion.headers))
        return
    for fault in faults:
        if fault.before:
            yield from fault.before(scene)
    if replaced:
        yield from replaced(scene)
    elif answer and request.stream:
        yield from _stream(answer, scene, faults, occasion)
    elif answer:
        yield from _whole(answer, scene, faults, occasion)
    if any(fault.closes for fault in faults):
        yield Close()


def completion_text(request_body: bytes, settings: Sim | None = None) -> str:
    """The text that the first choice of the answer to `request_body` holds; empty when it calls tools.

    Raises:
        ApiError: the request is one that is answered with an error.
    """
    request = parse(request_body)
    faults = _faults(request)
    scene = _scene(request, faults, settings or Sim(), ())
    return "".join(_answer(scene, faults, Occasion("", 0)).choices[0].pieces)


def error_reply(error: ApiError, headers: Headers = ()) -> bytes:
    """`error` as a complete answer."""
    return whole(error.status, JSON_TYPE, error.encoded(), headers)


def _faults(request: ChatRequest) -> list[Fault]:
    """The faults that the model and the field `sim` ask.

    Raises:
        ApiError: 404 for an unknown model, 400 for an unknown fault.
    """
    if request.model not in MODELS:
        message = f"The model `{request.model}` does not exist or you do not have access to it."
        raise ApiError(404, message, param="model", code="model_not_found")
    asked = request.sim.fault if request.sim else None
    names = [asked] if isinstance(asked, str) else list(asked or ())
    unknown = next((name for name in names if name not in FAULTS), None)
    if unknown is not None:
        raise ApiError(400, f"sim.fault {unknown!r} is unknown; there are {', '.join(FAULTS)}.", param="sim.fault")
    if request.model.startswith(FAULT_PREFIX):
        names.insert(0, request.model.removeprefix(FAULT_PREFIX))
    return [FAULTS[name] for name in names]


def _scene(request: ChatRequest, faults: list[Fault], settings: Sim, headers: Headers) -> Scene:
    scene = Scene(request, request.sim or SimAsk(), settings, headers)
    for fault in faults:
        if fault.settings:
            scene = replace(scene, settings=fault.settings(scene))
    return scene


def _answer(scene: Scene, faults: list[Fault], occasion: Occasion) -> chat.Answer:
    content = next((fault.content(scene) for fault in faults if fault.content), None)
    return chat.answer(
        scene.request,
        scene.settings,
        completion_id=occasion.completion_id,
        created_s=occasion.created_s,
        content=content,
    )


def _stream(answer: chat.Answer, scene: Scene, faults: list[Fault], occasion: Occasion) -> Iterator[Step]:
    chunks = chat.chunks(answer, scene.settings, usage_asked=scene.request.usage_asked)
    for fault in faults:
        if fault.chunks:
            chunks = fault.chunks(chunks, scene)
    frame = next((fault.frame for fault in faults if fault.frame), mangle.sse)
    headers: Headers = (*_headers(faults, occasion), ("content-type", SSE_TYPE), ("cache-control", "no-cache"))
    if occasion.chunked:
        headers += (("transfer-encoding", "chunked"),)
    yield Send(head(200, headers))
    steps = _wired(_framed(chunks, faults, frame), scene, faults)
    yield from chunked(steps) if occasion.chunked else steps


def _framed(chunks: Iterator[Chunk], faults: list[Fault], frame: Callable[[bytes], bytes]) -> Iterator[Step]:
    for chunk in chunks:
        if chunk.wait_s:
            yield Wait(chunk.wait_s)
        yield Send(frame(_encoded(chunk.body, faults) if isinstance(chunk.body, dict) else chunk.body))


def _whole(answer: chat.Answer, scene: Scene, faults: list[Fault], occasion: Occasion) -> Iterator[Step]:
    yield Wait(chat.whole_wait_s(answer, scene.settings))
    data = _encoded(chat.completion(answer), faults)
    headers = (*_headers(faults, occasion), ("content-type", JSON_TYPE))
    packing = [fault for fault in faults if fault.headers]  # gzip: the length is known only afterwards.
    data = b"".join(step.data for step in _wired(iter([Send(data)]), scene, packing) if isinstance(step, Send))
    yield Send(head(200, (*headers, ("content-length", str(len(data))))))
    yield from _wired(iter([Send(data)]), scene, [fault for fault in faults if fault not in packing])


def _wired(steps: Iterator[Step], scene: Scene, faults: list[Fault]) -> Iterator[Step]:
    for fault in faults:
        if fault.wire:
            steps = fault.wire(steps, scene)
    return steps


def _encoded(body: Json, faults: list[Fault]) -> bytes:
    body = reduce(lambda made, fault: fault.body(made) if fault.body else made, faults, body)
    encode = next((fault.encode for fault in faults if fault.encode), orjson.dumps)
    return encode(body)


def _headers(faults: list[Fault], occasion: Occasion) -> Headers:
    return occasion.headers + tuple(header for fault in faults for header in fault.headers)
