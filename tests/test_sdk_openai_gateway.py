"""What only the gateway says to the official `openai` SDK: its ids, its models, its errors and the record of a call."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid

import httpx
import openai
import pytest
from openai.types import chat

from tests.process import wait_until
from tests.real.path import TEXT, TOOLS, Llama, Route, RunningGateway, Target
from tests.real.sdk import CALL_S, ENDLESS, GREEDY, LONG, NOTICED_S, Request, client, create, say, text_of

pytest_plugins = ["tests.real.fixtures"]

# The prices of tests/real/fixtures.py, USD 1 and 2 per million tokens.
TEXT_INPUT_PICO_USD = 1_000_000
TEXT_OUTPUT_PICO_USD = 2_000_000


def query(gateway: RunningGateway, sql: str, *values: str) -> list[Request]:
    """Rows of the gateway's database, read beside it."""
    with contextlib.closing(sqlite3.connect(f"{gateway.process.database.as_uri()}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(sql, values)]


def record_of(gateway: RunningGateway, generation_id: str) -> Request:
    """The one record of a call, waited for."""
    found: list[Request] = []

    def written() -> bool:
        found[:] = query(gateway, "SELECT * FROM calls WHERE gen_id = ?", generation_id)
        return bool(found)

    wait_until(written, within_s=NOTICED_S, what=f"the record of {generation_id}")
    [record] = found
    return record


def test_a_left_stream_is_recorded_as_such(running_gateway: RunningGateway) -> None:
    target = running_gateway.route.text
    with client(target) as sdk:
        answer = sdk.chat.completions.with_raw_response.create(
            model=target.model, messages=say(), stream=True, **ENDLESS
        )
        with answer.parse() as chunks:
            assert text_of([next(chunks) for _ in range(5)])
    assert record_of(running_gateway, answer.headers["x-generation-id"])["ended"] == "client_gone"


def test_a_left_call_is_recorded_as_such(running_gateway: RunningGateway, llama: Llama) -> None:
    target = running_gateway.route.text
    before = {record["gen_id"] for record in query(running_gateway, "SELECT gen_id FROM calls")}
    with client(target, read_s=0.2) as sdk, pytest.raises(openai.APITimeoutError):
        sdk.chat.completions.create(model=target.model, messages=say(), **LONG)

    def recorded() -> bool:
        left = query(running_gateway, "SELECT gen_id FROM calls WHERE ended = 'client_gone' AND NOT stream")
        return len({record["gen_id"] for record in left} - before) == 1

    wait_until(recorded, within_s=NOTICED_S, what="the record of the call that was left")
    # This llama.cpp sees that a client left only when it next writes, so a call that is not a stream runs to its end.
    wait_until(lambda: llama.text.slots_busy() == 0, within_s=CALL_S, what="the slot is free again")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_an_answer_carries_its_ids(running_gateway: RunningGateway, streamed: bool) -> None:
    target = running_gateway.route.text
    with client(target) as sdk:
        answer = sdk.chat.completions.with_raw_response.create(
            model=target.model, messages=say(), stream=streamed, **GREEDY
        )
        parsed = answer.parse()
        body_ids = {parsed.id} if isinstance(parsed, chat.ChatCompletion) else {chunk.id for chunk in parsed}
    [body_id] = body_ids
    assert body_id.startswith("chatcmpl-"), "the body's own id stays the upstream's"
    assert answer.request_id == answer.headers["request-id"]
    assert str(uuid.UUID(answer.request_id)) == answer.request_id
    assert answer.headers["x-generation-id"].startswith("gen-")
    assert record_of(running_gateway, answer.headers["x-generation-id"])["request_id"] == answer.request_id


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_an_answer_is_recorded_with_its_usage(running_gateway: RunningGateway, direct: Route, streamed: bool) -> None:
    target = running_gateway.route.text
    usage = create(direct.text, **GREEDY).usage
    assert usage is not None
    with client(target) as sdk:
        answer = sdk.chat.completions.with_raw_response.create(
            model=target.model, messages=say(), stream=streamed, **GREEDY
        )
        parsed = answer.parse()
        if not isinstance(parsed, chat.ChatCompletion):
            assert text_of(parsed)
    record = record_of(running_gateway, answer.headers["x-generation-id"])
    assert record["ended"] != "client_gone"
    assert (record["model"], record["upstream_model"], record["status"]) == (TEXT, direct.text.model, 200)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (usage.prompt_tokens, usage.completion_tokens)
    cost = usage.prompt_tokens * TEXT_INPUT_PICO_USD + usage.completion_tokens * TEXT_OUTPUT_PICO_USD
    assert record["cost_pico_usd"] == cost


def test_models_are_listed_and_found(running_gateway: RunningGateway) -> None:
    with client(running_gateway.route.text) as sdk:
        assert sorted(model.id for model in sdk.models.list()) == [TEXT, TOOLS]
        assert sdk.models.retrieve(TEXT).id == TEXT
        with pytest.raises(openai.NotFoundError):
            sdk.models.retrieve("tiny/none")


def test_a_model_is_found_with_its_slash_as_it_is(running_gateway: RunningGateway) -> None:
    url = f"{running_gateway.base_url}/models/{TEXT}"
    answer = httpx.get(url, headers={"authorization": f"Bearer {running_gateway.key}"}, trust_env=False)
    assert answer.json()["id"] == TEXT


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_a_wrong_key(running_gateway: RunningGateway, streamed: bool) -> None:
    target = Target(running_gateway.base_url, "sk-wrong", TEXT)
    with client(target) as sdk, pytest.raises(openai.AuthenticationError) as caught:
        sdk.chat.completions.create(model=TEXT, messages=say(), stream=streamed)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id
    assert "sk-wrong" not in caught.value.message


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_an_unknown_model(running_gateway: RunningGateway, streamed: bool) -> None:
    with client(running_gateway.route.text) as sdk, pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(model="tiny/none", messages=say(), stream=streamed)
    assert caught.value.code == "model_not_found"
    assert "tiny/none" in caught.value.message
    assert caught.value.request_id


def test_missing_messages(running_gateway: RunningGateway) -> None:
    with client(running_gateway.route.text) as sdk, pytest.raises(openai.BadRequestError) as caught:
        sdk.post("/chat/completions", body={"model": TEXT}, cast_to=object)
    assert caught.value.param == "messages"
    assert "messages" in caught.value.message
