"""The callers of a flood of races: what they ask, whether the answer is right, and how some of them leave.

Each call says `"race": {"mode": "all"}` and names a model with two offers: one answers, the other is caught in the
state that the model is named for. Money, places and the budget of second lanes belong to accounts: there are several.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import trio

from bench.tenant import PLAN_LIMITS
from gateway.config import Sim
from gateway.sim import completion_text
from loadtest import servers
from loadtest.client import Client, Reply, post
from loadtest.floodcensus import count_of, memory, series
from loadtest.servers import Target

PACE = Sim(first_token_s=0.02, token_gap_s=0.002, words_max=6)
PLAN = "bench"
IDLE_S = 1.0  # upstream.idle_s: how long the gateway keeps a warm connection
PROMPTS, CONVERSATIONS_MAX = 40, 200  # each call is a conversation of its own; so many are remembered
LEAVE_SHARE = 0.12  # of the callers; three in four in mid-race, one in mid-stream
LEAVE_S, LEAVE_FRAMES = 0.03, 2
CALL_S, STALL_S, POLL_S = 30.0, 30.0, 0.5
# How a race's loser is caught, by name: the provider it is asked of, where that is no ordinary one, and its model.
LOSERS = {
    "even": ("", "words"),  # both answer at the same moment
    "silent": ("", "fault-hang"),
    "late": ("", "fault-slow"),
    "head": ("", "fault-hang_headers"),
    "begun": ("", "fault-stall"),  # the first frame of a stream, half of a body
    "dialling": ("full", "words"),
    "handshake": ("mute", "words"),
}
MODELS = tuple(f"flood/{name}-{place}" for name in LOSERS for place in ("first", "second"))


def config(ports: Mapping[str, int]) -> str:
    """The gateway's configuration: each kind of race with its loser first, and with its loser second.

    `ports` are those of the providers a, b, full (where nobody accepts) and mute (which takes TLS and says nothing).
    """
    rest = [
        '[log]\nlevel = "error"\ncalls = false\n', "[sim]\nenabled = false\n",
        '[race]\nhedge_share_max = 1.0\nhedge_usd_per_day = "1000"\n',
        f"[plans.{PLAN}]", *(f"{name} = {value}" for name, value in PLAN_LIMITS.items()), "",
    ]  # fmt: skip
    for name, port in ports.items():
        provider = servers.provider_table(name, port)
        rest.append(provider.replace("http://", "https://") if name == "mute" else provider)
    for name, (provider, model) in LOSERS.items():
        rest.append(servers.model_table(f"flood/{name}-first", [(provider or "a", model), ("b", "words")]))
        rest.append(servers.model_table(f"flood/{name}-second", [("a", "words"), (provider or "b", model)]))
    numbers = {"upstream": {"idle_s": IDLE_S}, "routing": {"affinity_conversations_max": float(CONVERSATIONS_MAX)}}
    return servers.settings(numbers, rest)


@dataclass(slots=True)
class Sent:
    """What the callers did and got."""

    calls: int = 0
    left: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)  # calls so far, the gateway's own memory in bytes


class Flood:
    """The callers, one after another with one of the `targets`. What they sent is over when `run` returns."""

    def __init__(self, targets: Sequence[Target], sent: Sent, seed: int) -> None:
        self._targets = targets
        self._sent = sent
        self._dice = random.Random(seed)
        self._texts = [_text(prompt) for prompt in range(PROMPTS)]
        self._enough = False

    async def run(self, cancels: int, callers: int, pid: int) -> int:
        """Race until the gateway, process `pid`, has cancelled so many more lanes; how many it did.

        Gives up when it cancels none for `STALL_S`. Raises MetricsMissing.
        """
        before = at = await self._cancelled()
        self._enough, grew_at = False, trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(callers):
                nursery.start_soon(self._caller, self._targets[number % len(self._targets)])
            while at - before < cancels and trio.current_time() < grew_at + STALL_S:
                await trio.sleep(POLL_S)
                last, at = at, await self._cancelled()
                grew_at = trio.current_time() if at > last else grew_at
                self._sent.memory.append((self._sent.calls, float(memory(pid).own)))
            self._enough = True
        return await self._cancelled() - before

    async def _cancelled(self) -> int:
        return count_of(await series(self._targets[0]), "gateway_attempts_total", 'outcome="cancelled"')

    async def _caller(self, target: Target) -> None:
        client = Client(target.host, target.port)
        try:
            while not self._enough:
                with trio.move_on_after(CALL_S) as limit:
                    await self._call(client, target)
                if limit.cancelled_caught:
                    self._sent.problems[f"no end within {CALL_S:g} s"] += 1
        finally:
            client.close()

    async def _call(self, client: Client, target: Target) -> None:
        sent, dice = self._sent, self._dice
        prompt, stream, leaving = dice.randrange(PROMPTS), dice.random() < 0.5, dice.random() < LEAVE_SHARE
        model = dice.choice(MODELS)
        sent.calls += 1
        request = post(servers.CHAT_PATH, target.headers(), _body(prompt, model, f"{sent.calls}", stream=stream))
        if leaving and not (stream and dice.random() < 0.5):
            sent.left["in mid-race"] += 1
            return await _leave(target, request, dice.uniform(0, LEAVE_S))
        reply = await client.call(request, intended_at=trio.current_time(), leave_after=LEAVE_FRAMES if leaving else -1)
        if reply.left:
            sent.left["in mid-stream"] += 1
        elif problem := problem_of(reply, self._texts[prompt]):
            sent.problems[f"{model}, {'stream' if stream else 'non-stream'}: {problem}"] += 1
        return None


async def _leave(target: Target, request: bytes, after_s: float) -> None:
    """Send a whole request and go away."""
    async with await trio.open_tcp_stream(target.host, target.port) as stream:
        await stream.send_all(request)
        await trio.sleep(after_s)


def _body(prompt: int, model: str, session: str, *, stream: bool) -> bytes:
    text = f"Tell me of flood {prompt}, and of the boats that came home first."
    request = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
    return json.dumps({**request, "session_id": session, "race": {"mode": "all"}, "sim": {"after": 1}}).encode()


def _text(prompt: int) -> str:
    """What the winner says, whichever it is."""
    return completion_text(_body(prompt, "words", "", stream=False), PACE)


def problem_of(reply: Reply, text: str) -> str:
    """What is wrong with an answer; empty when nothing is."""
    if reply.broken or reply.status != 200:
        return reply.broken or f"status {reply.status}: {b''.join(reply.body)[:200]!r}"
    if reply.stream is not None:
        said, problem = "".join(reply.stream.text), reply.stream.problem()
    else:
        said, problem = json.loads(b"".join(reply.body))["choices"][0]["message"]["content"], ""
    return problem or ("" if said == text else "not the winner's text")
