"""The race flood sees what it says it sees: each kind of leak, wrong records, wrong answers; and one short flood."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest import raceflood
from loadtest.client import Reply
from loadtest.floodcalls import MODELS, config, problem_of
from loadtest.floodcensus import GAUGES, Census, Memory, Tally, count_of, descriptors, held, left_behind, rows
from loadtest.raceflood import Outcome
from loadtest.sse import ChatReader

REST = Census(
    descriptors=Counter({"files": 11, "listening sockets": 2}),
    connections={"a": 0, "b": 0},
    tasks=Counter({"App.run": 1, "Pool.run": 1}),
    gauges=dict.fromkeys(GAUGES, 0.0),
    pool=(0, 0),
    threads=2,
    blocks=300_000,
    memory=Memory(1 << 26, 1 << 24),
)


def _with(kind: str, count: int) -> Counter[str]:
    return REST.descriptors + Counter({kind: count})


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (REST, []),
        (replace(REST, threads=4, descriptors=_with("files", 2)), []),
        (replace(REST, connections={"a": 0, "b": 2}), ["2 connections are open at provider b"]),
        (
            replace(REST, tasks=REST.tasks + Counter({"lane": 3})),
            ["a task more than before: lane (3)"],
        ),
        (replace(REST, tasks=REST.tasks + Counter({"Pool.run": 1})), ["a task more than before: Pool.run (1)"]),
        (replace(REST, descriptors=_with("files", 3)), ["descriptors more than before: files (3)"]),
        (replace(REST, descriptors=_with("other sockets", 1)), ["descriptors more than before: other sockets (1)"]),
        (replace(REST, blocks=305_000), []),
        (replace(REST, blocks=305_001), ["305001 blocks of Python's memory, 300000 before"]),
        (replace(REST, threads=5), ["5 threads, 2 before"]),
        (
            replace(REST, descriptors=_with("provider sockets", 1)),
            ["1 provider sockets, but 0 in the pool", "descriptors more than before: provider sockets (1)"],
        ),
        (
            replace(REST, pool=(1, 0)),
            ["1 provider connections are in use", "0 provider sockets, but 1 in the pool"],
        ),
        *(
            (replace(REST, gauges={**REST.gauges, name: 1.0}), [f"{name} is 1"])
            for name in GAUGES
        ),
    ],
)  # fmt: skip
def test_each_kind_of_leak_is_told(after: Census, found: list[str]) -> None:
    assert left_behind(REST, after) == found


def test_a_warm_pool_is_held_by_nobody_and_gone_at_rest() -> None:
    warm = replace(REST, pool=(0, 3), descriptors=_with("provider sockets", 3), connections={"a": 1, "b": 2})
    assert held(warm) == []
    assert len(left_behind(REST, warm)) == 3


def test_censuses_side_by_side() -> None:
    lines = {row[0]: row[1:] for row in rows({"before": REST, "after": replace(REST, descriptors=_with("pipe", 2))})}
    assert lines[""] == ["before", "after"]
    assert lines["gateway: pipe"] == ["0", "2"]
    assert lines["gateway: tasks"] == ["2", "2"]
    assert lines["gateway: own memory, MiB"] == ["64", "64"]
    assert set(GAUGES) < set(lines)


def test_descriptors_by_kind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        before = descriptors(os.getpid(), port, frozenset({port}))
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0]:
            as_caller = descriptors(os.getpid(), 0, frozenset({port})) - before
            as_gateway = descriptors(os.getpid(), port, frozenset()) - before
    assert before["listening sockets"] >= 1
    assert as_caller == {"provider sockets": 1, "other sockets": 1}
    assert as_gateway == {"client sockets": 1, "other sockets": 1}


def test_a_metric_is_summed_over_the_labels_named() -> None:
    levels = {'tries_total{outcome="won"}': 3.0, 'tries_total{outcome="cancelled",provider="a"}': 4.0}
    levels['tries_total{outcome="cancelled",provider="b"}'] = 5.0
    assert count_of(levels, "tries_total", 'outcome="cancelled"') == 9
    assert count_of(levels, "tries", 'outcome="cancelled"') == 0


def _attempt(provider: str, outcome: str) -> dict[str, object]:
    return {"provider": provider, "outcome": outcome}


@pytest.mark.parametrize(
    ("ended", "provider", "outcomes", "right"),
    [
        ("complete", "a", ["won", "cancelled"], True),
        ("client_gone", "", ["cancelled", "cancelled"], True),
        ("client_gone", "", [], True),
        ("client_gone", "a", ["won", "cancelled"], True),
        ("complete", "b", ["won", "cancelled"], False),  # the winner is another than the record says
        ("complete", "", ["cancelled", "cancelled"], False),
        ("complete", "a", ["won", "won"], False),
        ("client_gone", "a", ["won", "won"], False),
    ],
)
def test_a_record_has_one_winner_or_none(ended: str, provider: str, outcomes: list[str], right: bool) -> None:
    tally = Tally()
    tally.add(ended, provider, [_attempt(name, outcome) for name, outcome in zip("ab", outcomes)])  # noqa: B905
    assert (tally.mistakes == []) == right
    assert tally.losers == (outcomes.count("cancelled") if "won" in outcomes else 0)


def test_what_is_wrong_with_a_flood() -> None:
    outcome = Outcome(cancelled=9)
    outcome.tally.records = 3
    outcome.sent.calls = 4
    outcome.refused = 2
    outcome.sent.problems["a: status 500"] += 1
    outcome.leaks.append("at rest: 5 threads, 2 before")
    assert outcome.wrong(10) == [
        "1 x a: status 500", "at rest: 5 threads, 2 before", "9 lanes were cancelled, not 10", "3 records of 4 calls",
        "2 second lanes were refused by their budget",
    ]  # fmt: skip


def test_memory_is_judged_by_its_later_half_and_only_in_a_long_flood() -> None:
    outcome = Outcome(cancelled=10)
    outcome.sent.memory = [(n * 1000.0, 1e9 if n < 20 else 1e6 + 300.0 * n * 1000) for n in range(40)]
    assert outcome.growth_bytes == pytest.approx(3_000_000)
    assert outcome.wrong(10) == []
    outcome.sent.calls = outcome.tally.records = 80_000
    assert outcome.wrong(10) == ["memory grows by 2930 KiB for 10,000 calls"]


def _reply(text: str, *, stream: bool, status: int = 200) -> Reply:
    reply = Reply(0.0, status=status, complete=True)
    if stream:
        reply.stream = ChatReader()
        chunk = {"model": "m", "choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}
        reply.stream.feed(b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n")
    else:
        reply.body = [json.dumps({"choices": [{"message": {"content": text}}]}).encode()]
    return reply


@pytest.mark.parametrize("stream", [True, False])
def test_answers_are_checked_whole(stream: bool) -> None:
    assert problem_of(_reply("two words", stream=stream), "two words") == ""
    assert problem_of(_reply("two", stream=stream), "two words") == "not the winner's text"
    assert problem_of(Reply(0.0, broken="closed by the server"), "two words") == "closed by the server"
    assert problem_of(_reply("x", stream=False, status=503), "two words").startswith("status 503")


def test_every_kind_of_race_is_configured_both_ways() -> None:
    text = config({"a": 1, "b": 2, "full": 3, "mute": 4})
    assert all(f'id = "{model}"' in text for model in MODELS)
    assert text.count("https://127.0.0.1:4/") == text.count("https://") == 1


def test_a_short_flood_leaves_nothing_behind(tmp_path: Path) -> None:
    outcome = raceflood.run(tmp_path, cancels=300, callers=16, seed=1)
    assert outcome.wrong(300) == []
    assert list(outcome.censuses) == ["before", "after the last call", "at rest"]
    assert outcome.tally.losers > 200
    assert outcome.tally.winners.total() == outcome.sent.calls
    assert outcome.tally.outcomes.keys() == {"won", "cancelled"}
    assert outcome.sent.left.keys() == {"in mid-race", "in mid-stream"}
    assert any("pool" in name.lower() for name in outcome.censuses["at rest"].tasks)
    assert "lost to a winner" in raceflood.told(outcome)
