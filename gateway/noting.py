"""What a provider's answer says of itself, copied into its call: usage, finish reason, ids, size."""

from __future__ import annotations

import contextlib

from gateway.core.call import Call
from gateway.dialects.chat_stream import StreamFault
from gateway.settle.settle import believable
from gateway.upstream.answer import Answer


def note_answer(call: Call, answer: Answer) -> None:
    """Copy what is known so far; what is not told credibly is counted. May be asked again as more comes."""
    chat, whole = answer.chat, answer.whole
    call.bytes_out = answer.bytes_out + len(answer.pending)
    if chat is not None:
        with contextlib.suppress(StreamFault):  # the last frame was junk: its fault is already on its way
            chat.catch_up()
        call.usage, call.finish_reason, call.deltas = chat.usage, chat.finish_reason, chat.deltas
        call.chunk_id, call.chunk_created = chat.chunk_id, chat.created
    elif whole is not None:
        call.usage, call.finish_reason, call.chunk_id = whole.usage, whole.finish_reason, whole.id
        if whole.usage is None or not believable(call, whole.usage):
            call.deltas = whole.estimate_completion()
