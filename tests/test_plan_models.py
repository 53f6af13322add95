"""Which models a plan has, and who of them can do what is asked: fallback models, suffixes, features, windows.

Read a plan as `tests.plans` writes it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.money import PICO_PER_USD, PicoUsd
from gateway.errors import GatewayError
from tests.plans import Measured, catalog, model, offer, placed, planned, provider, slugs

TOOLS = '"tools":[{"type":"function","function":{"name":"f"}}]'
IMAGE = '"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]'
SCHEMA = '"response_format":{"type":"json_schema","json_schema":{}}'


def refusal(wishes: str, known: Any, **more: Any) -> GatewayError:
    with pytest.raises(GatewayError) as told:
        placed(wishes, known, **more)
    return told.value


# --- several models

MODELS = catalog(
    model("m", offer("alpha", 4), offer("beta", 2)),
    model("n", offer("alpha", 1, model="up-n"), offer("gamma", 3)),
    model("o", offer("delta", 5)),
    model("off", offer("absent", 1)),
    providers=[provider("absent", enabled=False)],
)
TIMED = Measured(MODELS).latency(**{"m@alpha": 0.9, "m@beta": 0.5, "n@gamma": 0.1, "o@delta": 0.7})

SEVERAL: list[tuple[str, Measured | None, str]] = [
    ('{"models":[]}', None, "beta:price alpha:fallback"),
    ('{"models":["x/m"]}', None, "beta:price alpha:fallback"),
    ('{"models":["x/nobody","gpt-4o","x/m"]}', None, "beta:price alpha:fallback"),
    ('{"models":["x/o","x/n"]}', None, "m@beta:price m@alpha:fallback o@delta:only n@alpha:price n@gamma:fallback"),
    ('{"models":["x/m","x/o","x/o"],"route":"fallback"}', None, "m@beta:price m@alpha:fallback o@delta:only"),
    ('{"models":["x/nobody","x/o"]}', None, "m@beta:price m@alpha:fallback o@delta:only"),
    ('{"model":"x/nobody","models":["x/o"]}', None, "delta:only"),
    ('{"model":"x/o","models":["x/off","x/m"]}', None, "o@delta:only m@beta:price m@alpha:fallback"),
    ('{"model":"x/off","models":["x/o"]}', None, "delta:only"),
    ('{"model":"x/off"}', None, "503 no_route"),
    ('{"model":"x/off","provider":{"only":["absent"]}}', None, "503 no_route"),
    ('{"model":"x/nobody"}', None, "404 model"),
    ('{"model":"nobody"}', None, "400 model"),
    ('{"model":"x/nobody","models":["y/nobody"]}', None, "404 model"),
    # a wish holds for each of them; a model that it leaves nobody of is passed over
    ('{"models":["x/n"],"provider":{"order":["alpha"]}}', None, "m@alpha:provider.order m@beta:fallback n@alpha:provider.order n@gamma:fallback"),
    ('{"models":["x/n","x/o"],"provider":{"only":["gamma","delta"]}}', None, "n@gamma:only o@delta:only"),
    ('{"models":["x/n"],"provider":{"only":["delta"]}}', None, "404 provider.only"),
    ('{"models":["x/n"],"provider":{"allow_fallbacks":false}}', None, "m@beta:price n@alpha:price"),
    ('{"models":["x/n"],"provider":{"sort":"price"}}', None, "m@beta:sort:price m@alpha:sort:price n@alpha:sort:price n@gamma:sort:price"),
    ('{"models":["x/n"],"provider":{"max_price":{"prompt":1}}}', None, "alpha:only"),
    # when nobody is left of any, what the first one has to say
    ('{"models":["x/off"],"provider":{"only":["delta"]}}', None, "404 provider.only"),
    ('{"model":"x/off","models":["x/m"],"provider":{"only":["delta"]}}', None, "503 no_route"),
    # partition none: the providers of all models are sorted together
    ('{"models":["x/n","x/o"],"provider":{"sort":{"by":"price","partition":"none"}}}', None,
     "n@alpha:sort:price m@beta:sort:price n@gamma:sort:price m@alpha:sort:price o@delta:sort:price"),
    ('{"models":["x/n","x/o"],"provider":{"sort":{"by":"latency","partition":"none"}}}', TIMED,
     "n@gamma:sort:latency m@beta:sort:latency o@delta:sort:latency m@alpha:sort:latency n@alpha:sort:latency"),
    ('{"models":["x/n","x/o"],"provider":{"sort":{"by":"latency","partition":"model"}}}', TIMED,
     "m@beta:sort:latency m@alpha:sort:latency n@gamma:sort:latency n@alpha:sort:latency o@delta:sort:latency"),
    ('{"models":["x/n"],"provider":{"sort":{"by":"price","partition":"none"},"allow_fallbacks":false}}', None, "alpha:sort:price"),
    ('{"models":["x/n"],"provider":{"sort":{"by":"price","partition":"none"},"ignore":["alpha"]}}', None, "m@beta:sort:price n@gamma:sort:price"),
    ('{"models":["x/n"],"provider":{"sort":{"partition":"none"}}}', None, "m@beta:price m@alpha:fallback n@alpha:price n@gamma:fallback"),
]  # fmt: skip


@pytest.mark.parametrize(("wishes", "measured", "expected"), SEVERAL)
def test_several_models(wishes: str, measured: Measured | None, expected: str) -> None:
    assert planned(wishes, MODELS, measured) == expected


def test_when_the_first_model_rests_the_next_one_serves() -> None:
    at = Measured(MODELS).open("m@alpha", "m@beta")
    assert planned('{"models":["x/o"]}', MODELS, at) == "delta:only"
    assert planned("{}", MODELS, at) == "503 upstream_error"


# --- suffixes: what costs the customer nothing, the fastest, the cheapest

NO_COST = PicoUsd(0)
SUFFIXED = catalog(
    model("m", offer("alpha", 4), offer("beta", 0), offer("gamma", 2), offer("delta", 0, request=PicoUsd(1))),
    model("paid", offer("alpha", 4)),
    model("given", offer("alpha", 4), offer("beta", 0), price="free"),
    model("sold", offer("alpha", 0), price=offer("any", 1)),
    model("call", offer("beta", 0, request=PicoUsd(PICO_PER_USD)), offer("alpha", 1)),  # a whole dollar a call
    model("odd:free", offer("alpha", 3)),
    model("details", offer("alpha", 0, reasoning=PicoUsd(1)), offer("beta", 0, cache_write=PicoUsd(1)), offer("gamma", 0)),
)  # fmt: skip
FAST = Measured(SUFFIXED).throughput(**{"m@alpha": 30.0, "m@gamma": 90.0}).latency(**{"m@alpha": 0.1})

SUFFIXES: list[tuple[str, str]] = [
    ('{"model":"x/m:free"}', "beta:only"),
    ('{"model":"x/paid:free"}', "404 model"),
    ('{"model":"x/sold:free"}', "404 model"),
    ('{"model":"x/odd:free"}', "alpha:only"),
    ('{"model":"x/odd:free:floor"}', "alpha:sort:price"),
    ('{"model":"x/details:free"}', "gamma:only"),
    ('{"model":"x/nobody:free"}', "404 model"),
    ('{"model":"x/m:thinking"}', "404 model"),
    ('{"model":"x/call:floor"}', "alpha:sort:price beta:sort:price"),
    ('{"model":"x/m:nitro"}', "gamma:sort:throughput alpha:sort:throughput beta:sort:throughput delta:sort:throughput"),
    ('{"model":"x/m:floor","provider":{"ignore":["delta"]}}', "beta:sort:price gamma:sort:price alpha:sort:price"),
    # an explicit sort is the request's own word
    ('{"model":"x/m:floor","provider":{"sort":"latency","ignore":["delta"]}}', "alpha:sort:latency beta:sort:latency gamma:sort:latency"),
    ('{"model":"x/m:nitro","provider":{"order":["alpha"],"ignore":["delta"]}}', "alpha:provider.order beta:fallback gamma:fallback"),
    ('{"model":"x/m:free","provider":{"ignore":["beta"]}}', "404 provider.ignore"),
    ('{"model":"x/paid:free","models":["x/m:free"]}', "beta:only"),
    ('{"model":"x/paid","models":["x/m:free"]}', "paid@alpha:only m@beta:only"),
]  # fmt: skip


@pytest.mark.parametrize(("wishes", "expected"), SUFFIXES)
def test_suffixes(wishes: str, expected: str) -> None:
    assert planned(wishes, SUFFIXED, FAST) == expected


def test_a_model_that_is_given_away_is_free_whoever_serves_it() -> None:
    assert sorted(slugs(placed('{"model":"x/given:free"}', SUFFIXED))) == ["alpha", "beta"]


# --- what an offer can do

SILENT = frozenset({"tools"})
PLAIN_STREAM = frozenset({"stream"})
ABLE = catalog(
    model("m", offer("alpha", 1, supports=SILENT), offer("beta", 2, supports=PLAIN_STREAM), offer("gamma", 4)),
    model("silent", offer("alpha", 1, supports=SILENT), offer("beta", 2, supports=frozenset[str]())),
    model("plain", offer("alpha", 1, supports=PLAIN_STREAM)),
    model("split", offer("alpha", 1, supports=SILENT), offer("beta", 2, supports=PLAIN_STREAM)),
    model("vectors", offer("alpha", 1, supports=frozenset({"embeddings"}))),
    model("half-vectors", offer("alpha", 1, supports=frozenset({"embeddings"})), offer("beta", 2)),
)

FEATURES: list[tuple[str, str]] = [
    ("{}", "alpha:price beta:fallback gamma:fallback"),
    ('{"stream":true}', "beta:price gamma:fallback"),
    (f"{{{TOOLS}}}", "alpha:price gamma:fallback"),
    ('{"tools":[]}', "alpha:price beta:fallback gamma:fallback"),
    (f'{{"stream":true,{TOOLS}}}', "gamma:only"),
    (f"{{{IMAGE}}}", "gamma:only"),
    (f"{{{SCHEMA}}}", "gamma:only"),
    ('{"response_format":{"type":"json_object"}}', "alpha:price beta:fallback gamma:fallback"),
    ('{"model":"x/silent"}', "alpha:price beta:fallback"),
    ('{"model":"x/silent","stream":true}', "400 stream"),
    ('{"model":"x/silent","stream":true,"models":["x/plain"]}', "alpha:only"),
    ('{"model":"x/half-vectors"}', "beta:only"),
    ('{"stream":true,"provider":{"ignore":["gamma"],"order":["alpha"]}}', "beta:fallback"),
    ('{"stream":true,"provider":{"order":["alpha"],"allow_fallbacks":false}}', "404 provider.order"),
]


@pytest.mark.parametrize(("wishes", "expected"), FEATURES)
def test_features(wishes: str, expected: str) -> None:
    assert planned(wishes, ABLE, draw=0.0) == expected


UNABLE: list[tuple[str, str | None, str]] = [
    ('{"model":"x/silent","stream":true}', "stream", "no provider of x/silent streams; send `stream: false`"),
    (f'{{"model":"x/silent","stream":true,{TOOLS}}}', "stream", "no provider of x/silent streams; send `stream: false`"),
    (f'{{"model":"x/plain","stream":true,{TOOLS}}}', "tools", "no provider of x/plain can do what the request asks for (tools)"),
    (f'{{"model":"x/plain",{TOOLS}}}', "tools", "no provider of x/plain can do what the request asks for (tools)"),
    (f'{{"model":"x/plain",{IMAGE}}}', "messages", "no provider of x/plain can do what the request asks for (images)"),
    (f'{{"model":"x/plain",{SCHEMA}}}', "response_format", "no provider of x/plain can do what the request asks for (json_schema)"),
    (f'{{"model":"x/split","stream":true,{TOOLS}}}', None, "no provider of x/split can do what the request asks for (stream or tools)"),
    ('{"model":"x/vectors"}', "model", "x/vectors is an embeddings model; it does not take chat completions"),
    ('{"model":"x/vectors","stream":true}', "model", "x/vectors is an embeddings model; it does not take chat completions"),
]  # fmt: skip


@pytest.mark.parametrize(("wishes", "param", "message"), UNABLE)
def test_what_nobody_can_do_is_400_in_plain_words(wishes: str, param: str | None, message: str) -> None:
    error = refusal(wishes, ABLE)
    assert (error.status, error.code) == (400, "invalid_request")
    assert error.message.startswith(message)
    assert param in {None, error.param} or error.param == "model"  # the member at fault, or the model that lacks it


# --- windows: an estimate is off by less than a factor of two, so what is over twice the window cannot fit

WIDE = catalog(
    model("m", offer("alpha", 1, context_window=1000), offer("beta", 4)),
    model("huge", offer("gamma", 9), context_window=1_000_000),
    model("mixed", offer("alpha", 1, context_window=1000), offer("beta", 4, supports=SILENT)),
)
MIDDLE_OUT = '"transforms":["middle-out"]'

WINDOWS: list[tuple[str, int, str]] = [
    ("{}", 1000, "alpha:price beta:fallback"),
    ("{}", 1001, "beta:fallback alpha:price"),
    ("{}", 2000, "beta:fallback alpha:price"),
    ("{}", 2001, "beta:only"),
    ("{}", 8001, "beta:only"),
    ("{}", 16_000, "beta:only"),
    ("{}", 16_001, "400 messages"),
    ('{"models":["x/huge"]}', 16_001, "gamma:only"),
    ('{"models":["x/huge"]}', 2001, "m@beta:only huge@gamma:only"),
    ('{"transforms":[]}', 16_001, "400 messages"),
    (f"{{{MIDDLE_OUT}}}", 16_001, "alpha:price beta:fallback"),
    (f"{{{MIDDLE_OUT}}}", 4000, "beta:fallback alpha:price"),
    ('{"plugins":[{"id":"context-compression"}]}', 4000, "beta:fallback alpha:price"),
    (f'{{"plugins":[{{"id":"context-compression","enabled":false}}],{MIDDLE_OUT}}}', 4000, "beta:only"),
    ('{"provider":{"order":["alpha"]}}', 1001, "beta:fallback alpha:provider.order"),
    ('{"provider":{"sort":"price"}}', 1001, "beta:sort:price alpha:sort:price"),
    ('{"provider":{"only":["alpha"]}}', 2000, "alpha:only"),
    ('{"provider":{"only":["alpha"]}}', 2001, "404 provider.only"),
]


@pytest.mark.parametrize(("wishes", "prompt_tokens", "expected"), WINDOWS)
def test_windows(wishes: str, prompt_tokens: int, expected: str) -> None:
    assert planned(wishes, WIDE, prompt_tokens=prompt_tokens, draw=0.0) == expected


def test_without_fallbacks_the_one_provider_is_not_one_that_is_too_short() -> None:
    plan = slugs(placed('{"provider":{"allow_fallbacks":false}}', WIDE, prompt_tokens=1001, draw=0.0))
    assert plan == ["beta"]


def test_a_prompt_that_is_too_long_is_told_the_longest_window() -> None:
    error = refusal("{}", WIDE, prompt_tokens=20_000)
    assert error.message.startswith("the prompt has about 20000 tokens and x/m takes 8000 with its answer")


def test_a_prompt_that_is_too_long_for_who_streams_is_told_so() -> None:
    """alpha streams and is too short, beta is long enough and does not stream: nobody lacks both."""
    error = refusal('{"model":"x/mixed","stream":true}', WIDE, prompt_tokens=3000)
    assert "no provider of x/mixed streams" not in error.message


# --- the names of a 404

TOLD: list[tuple[str, str, str]] = [
    ('{"provider":{"only":["nobody"]}}', "provider.only", "provider.only of the request"),
    ('{"model":"x/m:free","provider":{"only":["alpha"]}}', "provider.only", ":free, provider.only of the request"),
    ('{"model":"x/paid:free"}', "model", ":free of the request"),
    ('{"provider":{"only":["alpha"],"max_price":{"prompt":1}}}', "provider.max_price", "provider.max_price, provider.only of the request"),
]  # fmt: skip


@pytest.mark.parametrize(("wishes", "param", "message"), TOLD)
def test_constraints_that_leave_nobody_are_named(wishes: str, param: str, message: str) -> None:
    error = refusal(wishes, SUFFIXED)
    assert (error.status, error.code, error.param) == (404, "constraint_filtered", param)
    assert error.message.startswith(message)


# --- BazaarLink's own examples

SORTED = """{"model":"openai/gpt-4.1","messages":[{"role":"user","content":"Hello"}],
"provider":{"order":["openai","anthropic"],"allow_fallbacks":true,"sort":"latency"}}"""
FALLING_BACK = """{"model":"openai/gpt-4.1","models":["openai/gpt-4.1","anthropic/claude-sonnet-4-6",
"google/gemini-2.5-flash"],"route":"fallback","messages":[{"role":"user","content":"Write a haiku"}]}"""
GPT, CLAUDE, GEMINI = "openai/gpt-4.1", "anthropic/claude-sonnet-4-6", "google/gemini-2.5-flash"

EXAMPLES: list[tuple[str, dict[str, list[str]], list[str]]] = [
    (SORTED, {GPT: ["azure", "openai", "together"]}, ["openai", "azure", "together"]),
    (SORTED, {GPT: ["azure", "anthropic", "openai"]}, ["openai", "anthropic", "azure"]),
    (SORTED, {GPT: ["azure", "together"]}, ["azure", "together"]),
    (SORTED, {GPT: ["azure"]}, ["azure"]),
    (FALLING_BACK, {GPT: ["openai"], CLAUDE: ["anthropic"], GEMINI: ["google"]}, ["openai", "anthropic", "google"]),
    (FALLING_BACK, {GPT: ["openai"], GEMINI: ["google"]}, ["openai", "google"]),
    (FALLING_BACK, {CLAUDE: ["anthropic"], GPT: ["azure"]}, ["azure", "anthropic"]),
    (FALLING_BACK, {GEMINI: ["google"]}, ["google"]),
]


@pytest.mark.parametrize(("example", "served", "expected"), EXAMPLES)
def test_pasted_examples(example: str, served: dict[str, list[str]], expected: list[str]) -> None:
    known = catalog(*(model("", *(offer(name, 1) for name in who), id=name) for name, who in served.items()))
    assert json.loads(example)["model"] == GPT
    assert [each.attempt.slug for each in placed(example, known, draw=0.0)] == expected
