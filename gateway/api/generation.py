"""`/generation?id=`: one call of the caller's account, once it is settled and written.

Shows no prompt, no key and, but to the operator, nothing of what providers charge.
"""

from __future__ import annotations

import sqlite3

from quart import Response

from gateway.api.books import ApiControl
from gateway.api.session import Query, Session, answer
from gateway.api.shapes import iso, usd
from gateway.core.call import AttemptNote
from gateway.errors import BadRequest, NotFound
from gateway.store import generations
from gateway.store.calls import CallRecord
from gateway.store.schema import OPERATOR

_API_TYPES = {"chat": "completions", "embeddings": "embeddings"}  # our routes in OpenRouter's words
# What OpenRouter has of things that no call has here. Its SDK asks for the keys all the same.
_NONE_OF = (
    "app_id", "cache_discount", "external_user", "http_referer", "moderation_latency",
    "native_tokens_completion_images", "num_fetches", "num_input_audio_prompt", "num_media_completion",
    "num_media_prompt", "num_search_results", "preset_id", "response_cache_source_id", "router", "service_tier",
    "session_id", "user_agent", "web_search_engine",
)  # fmt: skip


class GenerationViews:
    """The view."""

    def __init__(self, control: ApiControl) -> None:
        self._control = control

    async def show(self, session: Session) -> Response:
        """GET /generation."""
        asked = Query("id").text("id")
        if asked is None:
            raise BadRequest("`id` is missing; send the X-Generation-Id of a call", param="id")
        gen_id = f"gen-{asked[4:]}" if asked.startswith("gen_") else asked

        def work(conn: sqlite3.Connection) -> CallRecord:
            try:
                return generations.find(conn, gen_id, session.account_id)
            except KeyError:
                raise NotFound(
                    f"there is no generation {asked[:80]!r}; one can be found shortly after its call has ended",
                    param="id",
                ) from None

        record = await self._control.books.read(work)
        return answer({"data": generation_object(record, operator=session.account_id == OPERATOR)})


def generation_object(record: CallRecord, *, operator: bool) -> dict[str, object]:
    """A call as the API shows it: OpenRouter's fields, then our own. Times are milliseconds.

    `latency` is the whole call; `generation_time` begins with a stream's first content.
    """
    to_first = record.first_content_ms if record.stream else None
    generating = None if record.total_ms is None else max(0.0, record.total_ms - (to_first or 0.0))
    cost = usd(record.cost_pico_usd)
    return {
        "id": record.gen_id,
        "upstream_id": record.upstream_id or None,
        "request_id": record.request_id,
        "created_at": iso(record.started_at),
        "model": record.model,
        "provider_name": record.provider or None,
        "provider_responses": [_attempt(note, record, operator=operator) for note in record.attempts],
        "api_type": _API_TYPES.get(record.route, record.route or None),
        "origin": "",
        "data_region": "global",
        "workspace_id": record.account_id,
        "streamed": record.stream,
        "cancelled": record.ended == "client_gone",
        "finish_reason": record.finish_reason,
        "native_finish_reason": record.finish_reason,
        "latency": record.total_ms,
        "generation_time": generating,
        "tokens_prompt": record.prompt_tokens,
        "tokens_completion": record.completion_tokens,
        "native_tokens_prompt": record.prompt_tokens,
        "native_tokens_completion": record.completion_tokens,
        "native_tokens_reasoning": record.reasoning_tokens,
        "native_tokens_cached": record.cached_tokens,
        "total_cost": cost,
        "usage": cost,
        "upstream_inference_cost": usd(record.provider_cost_pico_usd) if operator else None,
        "is_byok": False,
        **dict.fromkeys(_NONE_OF),
        "key_id": record.key_id,
        "status": record.status,
        "error_code": record.code or None,
        "ended": record.ended,
        "first_content_ms": record.first_content_ms,
        "tokens_cache_write": record.cache_write_tokens,
        "usage_estimated": record.usage_estimated,
        "auto": record.auto,
        **({"hedge_cost": usd(record.hedge_cost_pico_usd)} if operator else {}),
    }


def _attempt(note: AttemptNote, record: CallRecord, *, operator: bool) -> dict[str, object]:
    """One attempt: OpenRouter's members, then why and when it was made, and what it cost us."""
    shown: dict[str, object] = {
        "provider_name": note.provider,
        "status": note.status or None,
        "latency": note.ms,
        "is_byok": False,
        "model_permaslug": note.model or record.model,
        "outcome": note.outcome,
        "reason": note.reason or None,
        "delay_ms": note.at_ms,
    }
    if operator:
        shown["upstream_model"] = note.upstream_model or record.upstream_model
        shown["cost"] = usd(record.provider_cost_pico_usd if note.outcome == "won" else note.cost_pico_usd)
    return shown
