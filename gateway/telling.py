"""What a call that went wrong is called in its record, and what its client is told: as an answer, or as the last frame
of a stream that has begun.
"""

from __future__ import annotations

import structlog
import trio

from gateway.core.call import Call
from gateway.dialects.chat_stream import StreamFault
from gateway.dialects.openai_chat import error_frame
from gateway.edge.replies import error_reply
from gateway.errors import GatewayError, Internal, Refused, StreamBroken, Timeout
from gateway.exchange import ClientGone, ClientStalled, Exchange, Headers
from gateway.relay.errors import UpstreamIdle
from gateway.settle.settle import usage_of


def verdict(error: Exception, call: Call) -> tuple[str, GatewayError | None]:
    """How the call ended, and what to tell its client; None when there is nobody left to tell."""
    match error:
        case GatewayError():
            return "provider_refused" if isinstance(error, Refused) else error.code, error
        case ClientGone():
            return "client_gone", None
        case ClientStalled():
            return "client_stalled", None
        case StreamFault():
            told = StreamBroken("the provider broke off its answer; what came before it is incomplete")
            return f"upstream_{error.outcome}", told
        case UpstreamIdle():
            told_idle = Timeout("the provider sent nothing for too long (timeouts.idle_s); the answer is incomplete")
            return "upstream_idle", told_idle
    structlog.get_logger().error("call_failed", request_id=call.request_id, exc_info=error)
    return "internal_error", Internal("the gateway failed; report the request id")


async def tell(
    exchange: Exchange, call: Call, error: GatewayError, headers: Headers, *, committed: bool, stall_s: float
) -> None:
    """Tell the client of an error, within `stall_s`. `headers` are the call's; `committed`: its stream has begun."""
    if not committed or call.status == 0:
        call.status = error.status
    call.code = error.code
    if exchange.gone:
        return
    with trio.move_on_after(stall_s):
        try:
            if committed:
                await exchange.finish(_last_frame(call, error) if call.stream else b"")
            else:
                status, own, body = error_reply(error, call.request_id)
                await exchange.reply(status, [*own, *(header for header in headers if header not in own)], body)
        except (ClientGone, ClientStalled):
            call.ended = call.ended or "client_gone"


def _last_frame(call: Call, error: GatewayError) -> bytes:
    created = call.chunk_created or int(call.started_at)
    return error_frame(
        error, call.request_id, chunk_id=call.chunk_id, created=created, model=call.model, usage=usage_of(call)
    )
