"""What a provider is sent of a call: nothing of our own members, and no more of a conversation than its model takes."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
import trio

from gateway.core.usage import estimate_prompt_tokens
from tests.exchanges import World
from tests.test_routed_calls import ONE, SEED, WINDOW, call, good, world_of
from tests.upstream import DONE, FINISH, ROLE, WORD, Send, script, streamed


def sent_to(world: World, provider: str) -> list[dict[str, Any]]:
    """The bodies a provider was sent."""
    requests = [request for transport in world.upstream.of(provider) for request in transport.requests]
    return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in requests]


async def test_no_member_of_ours_reaches_a_provider(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [good()]}, ONE)
    ours: dict[str, Any] = {
        "provider": SEED, "models": ["test/one"], "route": "fallback", "transforms": ["middle-out"],
        "plugins": [{"id": "context-compression"}], "debug": {"echo_upstream_body": False}, "session_id": "s",
        "race": {"mode": "hedge"}, "usage": {"include": True},
    }  # fmt: skip
    assert (await call(world, **ours, temperature=0.5, unknown=[1])).status == 200
    (body,) = sent_to(world, "a")
    assert set(body) == {"model", "messages", "stream", "stream_options", "temperature", "unknown"}
    assert body["model"] == "up-a"


async def test_a_stream_shows_what_was_sent_upstream(nursery: trio.Nursery, autojump_clock: object) -> None:
    """With the provider's key struck out, should the caller have guessed it."""
    world = await world_of(nursery, {"a": [good()]}, ONE)
    messages = [{"role": "user", "content": "is sk-a-0 yours?"}]
    exchange = await call(world, messages=messages, debug={"echo_upstream_body": True}, temperature=0.5)
    frames = [json.loads(frame[6:]) for frame in exchange.frames() if frame.startswith(b"data: {")]
    echo = frames[0]["debug"]["echo_upstream_body"]
    (sent,) = sent_to(world, "a")
    assert (frames[0]["choices"], frames[0]["model"]) == ([], "test/one")
    assert {**echo, "messages": None} == {**sent, "messages": None}
    assert b"sk-a-0" not in exchange.body
    assert all("debug" not in frame for frame in frames[1:])
    assert exchange.body.count(b"word") == 2


async def test_only_a_stream_shows_it(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [good()]}, ONE)
    exchange = await call(world, stream=False, debug={"echo_upstream_body": True})
    assert (exchange.status, exchange.json()["error"]["param"]) == (400, "debug.echo_upstream_body")


TALK: Final = [
    {"role": "system", "content": "Be kind."},
    *[{"role": role, "content": f"{n} " + "so it goes " * 30} for n in range(20) for role in ("user", "assistant")],
    {"role": "user", "content": "And then?"},
]


@pytest.mark.parametrize("wish", [{"transforms": ["middle-out"]}, {"plugins": [{"id": "context-compression"}]}])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_conversation_that_is_too_long_loses_its_middle(
    stream: bool, wish: dict[str, Any], nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, {"a": [good(stream)]}, ONE)
    assert (await call(world, stream=stream, messages=TALK, **wish)).status == 200
    (body,) = sent_to(world, "a")
    kept = body["messages"]
    assert (kept[0], kept[-1]) == (TALK[0], TALK[-1])
    assert 2 < len(kept) < len(TALK)
    assert estimate_prompt_tokens(json.dumps(body).encode()) <= WINDOW
    assert all(message in TALK for message in kept)


@pytest.mark.parametrize(
    "wish", [{}, {"transforms": []}, {"plugins": [{"id": "context-compression", "enabled": False}]}]
)
async def test_without_the_wish_it_is_refused(
    wish: dict[str, Any], nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await world_of(nursery, {"a": [good()]}, ONE)
    exchange = await call(world, messages=TALK, **wish)
    assert (exchange.status, exchange.json()["error"]["param"]) == (400, "messages")
    assert world.upstream.times() == []


async def test_who_says_no_usage_is_paid_for_what_was_sent(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [script(Send(streamed(ROLE, WORD, FINISH, DONE)))]}, ONE)
    assert (await call(world, messages=TALK, transforms=["middle-out"])).status == 200
    (body,) = sent_to(world, "a")
    assert world.record.usage_estimated
    assert world.record.prompt_tokens <= 1.1 * estimate_prompt_tokens(json.dumps(body).encode())


async def test_a_short_conversation_stays_as_it_is(nursery: trio.Nursery, autojump_clock: object) -> None:
    """Whatever answer it asks for: without the wish it would go to the provider too."""
    world = await world_of(nursery, {"a": [good()]}, ONE)
    assert (await call(world, messages=TALK[:1] + TALK[-1:], max_tokens=WINDOW)).status == 200
    exchange = await call(world, messages=TALK[:1] + TALK[-1:], max_tokens=WINDOW, transforms=["middle-out"])
    assert (exchange.status, sent_to(world, "a")[-1]["messages"]) == (200, TALK[:1] + TALK[-1:])


async def test_what_cannot_be_shortened_enough_is_refused(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await world_of(nursery, {"a": [good()]}, ONE)
    exchange = await call(world, messages=TALK, transforms=["middle-out"], max_tokens=WINDOW - 1)
    assert (exchange.status, exchange.json()["error"]["param"]) == (400, "messages")
    assert world.upstream.times() == []
