"""One call's race from the inside: each attempt's request rendered, run to its first content, and judged.

Whoever calls `run` owns the Answer. A request is rendered when its attempt starts: its body depends on the offer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import msgspec

from gateway.core.call import Attempt, Call
from gateway.core.usage import estimate_prompt_tokens
from gateway.dialects.echo import echo_frame
from gateway.dialects.middle_out import middle_out
from gateway.dialects.openai_chat import ChatRequest
from gateway.errors import AttemptFailed, BadRequest
from gateway.judge import CallJudge
from gateway.observe.metrics import Metrics
from gateway.providers.openai import adapt_body
from gateway.race.attempt import run_attempt
from gateway.race.race import Race
from gateway.route.eligible import window_of
from gateway.router import Course, Router
from gateway.settle.settle import pricer
from gateway.snapshot import Snapshot
from gateway.upstream.answer import Answer

_ANSWER_SHARE = 4  # of a window that a shortened prompt leaves for an answer of no stated length: a quarter


@dataclass(slots=True)
class Contest:
    """What a call's attempts need. `abandon` may take an answer over whose client has left (True)."""

    call: Call
    request: ChatRequest
    course: Course
    snapshot: Snapshot
    router: Router
    metrics: Metrics
    wall_clock: Callable[[], float]
    abandon: Callable[[Answer], bool]
    _judge: CallJudge = field(init=False)

    async def run(self) -> Answer:
        """Race to the first content. Raises Refused, AllFailed, NoRoute, BadRequest (cannot be shortened enough)."""
        course = self.course
        judge = self._judge = CallJudge(self.call, course, self.router, self.metrics, self.wall_clock)
        race = Race(
            [placed.attempt for placed in course.placed], self._start, judge, hedge_delay_s=course.delay_s,
            may_hedge=judge.may_hedge, may_retry=judge.may_retry,
            pauses_s=self._pauses_s,
        )  # fmt: skip
        try:
            return await race.run()
        finally:
            judge.over()

    def _pauses_s(self) -> Iterator[float]:
        return self.router.pauses_s(self.snapshot.config)

    async def _start(self, attempt: Attempt) -> Answer:
        call, request, stream = self.call, self.request, self.request.stream
        fields = self._shortened(attempt) if request.routing.middle_out else request.fields
        body = adapt_body(fields, upstream_model=attempt.offer.model, stream=stream, quirks=attempt.quirks)
        price = pricer(call, attempt) if request.include_cost and stream else None
        answer = await run_attempt(
            self.snapshot.runner, attempt, body, model=attempt.model.id, stream=stream, usage=request.include_usage,
            price=price, sent=partial(self._judge.sent, attempt), abandon=self.abandon,
        )  # fmt: skip
        if request.routing.echo_upstream_body and answer.chat is not None:
            chat = answer.chat
            echo = echo_frame(
                body, chunk_id=chat.chunk_id, created=chat.created, model=attempt.model.id, secrets=(attempt.api_key,)
            )
            answer.pending = echo + answer.pending
        return answer

    def _shortened(self, attempt: Attempt) -> dict[str, msgspec.Raw]:
        """The request's fields with so many messages left out of their middle that the attempt's model takes them.

        Raises AttemptFailed with what the caller is told when that cannot be.
        """
        request, estimate, window = self.request, self.call.prompt_estimate, window_of(attempt)
        room = window - min(request.max_tokens or window // _ANSWER_SHARE, window)
        if estimate <= max(room, window // 2):  # a short prompt is none too long, whatever answer is hoped for
            return request.fields
        messages = request.fields["messages"]
        rest = estimate - estimate_prompt_tokens(bytes(messages))
        shortened = middle_out(messages, tokens_max=room - rest, estimate=estimate_prompt_tokens)
        if shortened is None:
            refusal = BadRequest(
                f"the prompt has about {estimate} tokens, {attempt.model.id} takes {window} with its answer, and no "
                "message can be left out; shorten the prompt or lower max_tokens",
                param="messages",
            )
            raise AttemptFailed("too_long", reach="call", refusal=refusal)
        self._judge.shortened(attempt, rest + estimate_prompt_tokens(bytes(shortened)))
        return {**request.fields, "messages": shortened}
