"""Hostile providers: each costs its own call, and no byte of it reaches another's answer.

A fault before the first content is covered by the next offer; without one it is a 502, 503 or 504 in our words. A
fault after it ends the stream with an error frame. Every behaviour has a provider of its own, but all share one
origin and so one pool: an honest call follows on the connections that the hostile one left.
"""

from __future__ import annotations

import json
from functools import partial

import pytest
import trio

from tests.hostile.gateway import IDLE_S, Target, beside_sibling, chat_body, content, together
from tests.hostile.upstream_text import ANSWER, TEXT, WORDS
from tests.wire import Answer

# Before any content, asked for a stream or not.
FAILS = [
    "chunk-letters", "chunk-overflow", "gzip-bomb", "hang", "head-flood", "head-line", "http-old", "interim-flood",
    "length-huge", "length-negative", "length-twice", "length-and-chunked", "not-http", "nothing", "redirect",
    "redirect-metadata", "reset-early", "retry-after-year", "retry-after-zone", "status-204", "status-304",
    "status-999", "switching",
]  # fmt: skip
FAILS_WHOLE = ["choices-deep", "endless-answer", "length-long", "length-short"]
STANDS_WHOLE = ["garbage-after", "late-pair", "usage-huge", "usage-infinite", "usage-negative"]
STANDS_STREAMED = ["blank-line-more", "blank-lines", "bytewise", "comment-odd", "line-ends-mixed", "long-line"]
BREAKS = [
    "endless-line", "frame-not-json", "frame-not-utf8", "frame-surrogate",
    "reset-late", "stall",
]  # fmt: skip


async def assert_honest(target: Target, model: str = "h/good") -> None:
    """The whole answer of an honest provider, streamed and not."""
    answer = await target.lanes[0].ask(target.ask(chat_body(model, stream=False)))
    assert answer.status == 200, answer.body
    assert answer.body == ANSWER.replace(b"upstream-model", model.encode())
    for lane in target.lanes:
        assert content(await lane.ask(target.ask(chat_body(model)))) == TEXT


def assert_refused(answer: Answer) -> None:
    """Our own words of a provider's fault."""
    assert answer.status in {502, 503, 504}, answer.body
    assert answer.end == "whole"
    error = json.loads(answer.body)["error"]
    assert error["code"] == "upstream_error"
    assert b"smuggled" not in answer.body


@pytest.mark.parametrize("name", FAILS)
async def test_a_fault_before_content_is_refused_or_covered(clear: Target, name: str) -> None:
    async def refused(*, stream: bool) -> None:
        assert_refused(await clear.lanes[0].ask(clear.ask(chat_body(f"h/{name}", stream=stream))))

    async def assault() -> None:
        await together([partial(refused, stream=True), partial(refused, stream=False)])
        assert content(await clear.lanes[1].ask(clear.ask(chat_body(f"f/{name}")))) == TEXT
        covered = await clear.lanes[1].ask(clear.ask(chat_body(f"f/{name}", stream=False)))
        assert covered.body == ANSWER.replace(b"upstream-model", b"f/" + name.encode())
        await assert_honest(clear)

    await beside_sibling(clear, assault)


@pytest.mark.parametrize("name", FAILS_WHOLE)
async def test_a_bad_whole_answer_is_refused_or_covered(clear: Target, name: str) -> None:
    async def assault() -> None:
        assert_refused(await clear.lanes[0].ask(clear.ask(chat_body(f"h/{name}", stream=False))))
        covered = await clear.lanes[1].ask(clear.ask(chat_body(f"f/{name}", stream=False)))
        assert covered.body == ANSWER.replace(b"upstream-model", b"f/" + name.encode())
        await assert_honest(clear)

    await beside_sibling(clear, assault)


@pytest.mark.parametrize("name", STANDS_WHOLE)
async def test_what_follows_a_whole_answer_reaches_nobody(clear: Target, name: str) -> None:
    async def assault() -> None:
        for lane in clear.lanes:
            answer = await lane.ask(clear.ask(chat_body(f"h/{name}", stream=False)))
            assert answer.status == 200, answer.body
            assert ANSWER[ANSWER.index(b'"choices"') : ANSWER.index(b'"usage"')] in answer.body
            assert b"smuggled" not in answer.body
            await trio.sleep(0.15)  # for what comes late to have come
            await assert_honest(clear)

    await beside_sibling(clear, assault)


@pytest.mark.parametrize("name", STANDS_STREAMED)
async def test_an_odd_stream_is_relayed_whole(clear: Target, name: str) -> None:
    async def assault() -> None:
        for lane in clear.lanes:
            answer = await lane.ask(clear.ask(chat_body(f"h/{name}")))
            text = content(answer)
            assert text.startswith(TEXT[:9])
            assert text.endswith(TEXT[-9:])
            assert len(text) == len(TEXT) + (8_000_000 if name == "long-line" else 0)
        await assert_honest(clear)

    await beside_sibling(clear, assault)


@pytest.mark.parametrize("name", BREAKS)
async def test_a_fault_after_content_ends_the_stream_with_an_error(clear: Target, name: str) -> None:
    async def assault() -> None:
        for lane in clear.lanes:
            answer = await lane.ask(clear.ask(chat_body(f"h/{name}")))
            assert (answer.status, answer.end) == (200, "whole")
            content_part, _, last = answer.body.rpartition(b"data: ")
            assert json.loads(last)["error"]["code"] in {"upstream_broken", "timeout"}
            assert last.endswith(b"}\n\n")
            assert WORDS[1].encode() in content_part
            assert b"[DONE]" not in answer.body
        await assert_honest(clear)

    await beside_sibling(clear, assault)


async def test_two_answers_in_one_read_are_the_first_or_none(clear: Target) -> None:
    async def assault() -> None:
        for lane in clear.lanes:
            answer = await lane.ask(clear.ask(chat_body("h/pair", stream=False)))
            assert b"smuggled" not in answer.body
            assert answer.status in {200, 502}
            await assert_honest(clear)

    await beside_sibling(clear, assault)


async def test_comments_after_content_are_no_progress(clear: Target) -> None:
    """`idle_s` is the time between two frames: a provider that only comments has stopped."""

    async def assault() -> None:
        for lane in clear.lanes:
            with trio.fail_after(IDLE_S + 3):
                answer = await lane.ask(clear.ask(chat_body("h/comments-after")))
            assert b'"code":"timeout"' in answer.body

    await beside_sibling(clear, assault)


async def test_comments_without_content_are_no_progress(clear: Target) -> None:
    async def assault() -> None:
        assert_refused(await clear.lanes[0].ask(clear.ask(chat_body("h/comments-first"))))
        assert content(await clear.lanes[1].ask(clear.ask(chat_body("f/comments-first")))) == TEXT

    await beside_sibling(clear, assault)


async def test_a_frame_that_only_a_rewrite_can_relay_breaks_its_own_stream(clear: Target) -> None:
    """Nested deeper than the encoder goes: relayed or refused, but told."""

    async def assault() -> None:
        for lane in clear.lanes:
            answer = await lane.ask(clear.ask(chat_body("h/model-number-deep")))
            assert (answer.status, answer.end) == (200, "whole")
            assert answer.body.endswith(b"data: [DONE]\n\n") or b'"upstream_broken"' in answer.body
        await assert_honest(clear)

    await beside_sibling(clear, assault)


async def test_no_redirect_is_followed(clear: Target, provider: str) -> None:
    answer = await clear.lanes[0].ask(clear.ask(chat_body("h/redirect", stream=False)))
    assert_refused(answer)
    with trio.fail_after(5):
        host, port = provider.removeprefix("http://").split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"GET /hits HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await stream.receive_some(65_536)).endswith(b"\r\n\r\n0")


async def test_no_hostile_provider_costs_memory_or_connections(clear: Target) -> None:
    before_bytes = clear.rss_bytes()

    async def assault() -> None:
        async with trio.open_nursery() as nursery:
            for name in ("endless-line", "endless-answer", "head-line", "interim-flood", "gzip-bomb", "long-line"):
                for _ in range(2):
                    ask = clear.ask(chat_body(f"h/{name}", stream=name != "endless-answer"))
                    nursery.start_soon(clear.lanes[0].ask, ask)

    await beside_sibling(clear, assault)
    await clear.until_quiet()
    grown = clear.rss_bytes() - before_bytes
    assert grown < 150_000_000, grown


@pytest.mark.parametrize("other", ["hypercorn", "tls"])
async def test_the_other_lanes_survive_the_same(request: pytest.FixtureRequest, other: str) -> None:
    target: Target = request.getfixturevalue(other)
    names = [*FAILS[:4], *STANDS_STREAMED, *BREAKS, "model-number-deep"]

    async def assault() -> None:
        async with trio.open_nursery() as nursery:
            for name in names:
                for lane in target.lanes:
                    nursery.start_soon(lane.ask, target.ask(chat_body(f"h/{name}")))
        await assert_honest(target)

    await beside_sibling(target, assault)
    await target.until_quiet()
