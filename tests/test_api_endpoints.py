"""`GET /models/{author}/{slug}/endpoints`: who serves a model and how each is doing, told from real routing state."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import httpx
import pytest
import trio
from hypercorn.config import Config as ServerConfig
from hypercorn.trio import serve
from openrouter import OpenRouter
from openrouter.components import ListEndpointsResponse, Parameter
from openrouter.errors import OpenRouterError

from gateway.api.endpoints import Status, endpoints_of, status_of
from gateway.config import Config, Model, Offer, Price, Provider, Quirks
from gateway.core.money import PicoUsd
from gateway.route.catalog import Catalog
from gateway.route.health import FAILURES_TO_OPEN, OPEN_S, State
from gateway.route.stats import WINDOW_S
from gateway.router import Router
from tests.api_desk import Desk, FileBooks, Holder, router

MODEL, SPARE, ODD, LAST = "acme/big", "acme/spare", "acme/small:thinking", "acme/endpoints"
NOW = 1000.0
FAST, SLOW = ("fast", "big-v1"), ("slow", "big")


def provider(name: str, *keys: str, enabled: bool = True, drops: tuple[str, ...] = ()) -> Provider:
    return Provider(name, "openai", f"https://{name}.example/v1", keys, enabled, quirks=Quirks(drop_fields=drops))


def offer(name: str, model: str = "m", **terms: Any) -> Offer:
    return Offer(name, model, PicoUsd(1_000_000), PicoUsd(2_000_000), **terms)


def catalog() -> Catalog:
    fast = offer(
        "fast", "big-v1", tag="us-east5", quantization="fp8", context_window=64_000, completion_tokens_max=4096,
        cached_input=PicoUsd(100_000), parameters=frozenset({"temperature", "seed", "top_k"}),
    )  # fmt: skip
    models = (
        Model(
            MODEL, (fast, offer("off", "big"), offer("slow", "big")), 128_000, aliases=("big", "acme/x/y:z"),
            created=1_700_000_000, name="Big", description="The big one.", markup=(1, 4), completion_tokens_max=8192,
        ),
        Model(SPARE, (offer("off"),), 8192),
        Model(ODD, (offer("slow", "small"),), 8192, price="free", aliases=("acme/big/b/endpoints",)),
        Model(LAST, (offer("slow", "last"),), 8192),
    )  # fmt: skip
    providers = (provider("fast", "secret-1", "secret-2"), provider("slow", "secret-3"), provider("off", enabled=False))
    return Catalog(
        Config("test", models={each.id: each for each in models}, providers={each.name: each for each in providers})
    )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(FileBooks(tmp_path / "gateway.db"), catalog())
    yield opened
    opened.books.close()


def shown(known: Router, name: str = MODEL, now: float = NOW) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", endpoints_of(catalog().find(name), known, now)["endpoints"])


def served(*offers: Offer, providers: tuple[Provider, ...] = (provider("slow"),)) -> dict[str, Any]:
    """The answer about a model of these offers."""
    by_name = {each.name: each for each in providers}
    made = Catalog(Config("test", models={MODEL: Model(MODEL, offers, 8192)}, providers=by_name))
    return endpoints_of(made.find(MODEL), router(), NOW)


def fail(known: Router, key: int, times: int = FAILURES_TO_OPEN, at: float = NOW) -> None:
    """Failures of one key of the fast endpoint, as gateway.judge tells them."""
    for _ in range(times):
        known.health.failed((*FAST, key), at, probe=False)
        known.streams.outcome(FAST, False, at)


def test_a_model_nobody_has_called() -> None:
    data = endpoints_of(catalog().find(MODEL), router(), NOW)
    endpoints = cast("list[dict[str, Any]]", data.pop("endpoints"))
    assert data == {
        "id": MODEL, "name": "Big", "created": 1_700_000_000, "description": "The big one.",
        "architecture": {
            "modality": "text+image->text", "input_modalities": ["text", "image"], "output_modalities": ["text"],
            "tokenizer": None, "instruct_type": None,
        },
        "hedging": {"allowed": 0, "refused_share": 0, "refused_money": 0, "refused_room": 0},
    }  # fmt: skip
    assert endpoints[0] == {
        "name": "fast | acme/big", "model_id": MODEL, "model_name": "Big", "provider_name": "fast",
        "tag": "fast/us-east5", "quantization": "fp8", "context_length": 64_000, "max_completion_tokens": 4096,
        "max_prompt_tokens": None, "native_tools": {}, "service_tier": None, "supports_diarization": False,
        "pricing": {
            "prompt": "0.00000125", "completion": "0.0000025", "request": "0", "input_cache_read": "0.000000125",
        },
        "supported_parameters": ["seed", "temperature", "top_k"],
        "supports_tool_choice": {"auto": False, "function": False, "none": False, "required": False},
        "supports_implicit_caching": True, "status": 0, "breaker": ["closed", "closed"], "retry_budget": None,
        "uptime_last_5m": None, "uptime_last_30m": None, "uptime_last_1d": None,
        "latency_last_30m": None, "throughput_last_30m": None,
    }  # fmt: skip
    (slow,) = endpoints[1:]  # the disabled provider's offer is not there
    assert (slow["tag"], slow["quantization"], slow["breaker"]) == ("slow", "unknown", ["closed"])
    assert (slow["context_length"], slow["max_completion_tokens"]) == (128_000, 8192)
    assert slow["supports_tool_choice"] == {"auto": True, "function": True, "none": True, "required": True}
    assert slow["supports_implicit_caching"] is False


def test_prices_are_the_customers() -> None:
    assert shown(router(), ODD)[0]["pricing"] == {"prompt": "0", "completion": "0", "request": "0"}
    own = Model(MODEL, (offer("slow"),), 8192, price=Price(PicoUsd(3), PicoUsd(5), request=PicoUsd(7)), markup=(1, 2))
    made = Catalog(Config("test", models={MODEL: own}, providers={"slow": provider("slow")}))
    (endpoint,) = cast("list[dict[str, Any]]", endpoints_of(made.find(MODEL), router(), NOW)["endpoints"])
    assert endpoint["pricing"] == {
        "prompt": "0.000000000005", "completion": "0.000000000008", "request": "0.000000000011",
    }  # fmt: skip


def test_measurements() -> None:
    known = router()
    for number in range(1, 101):
        known.streams.first_content(FAST, number / 100, NOW)
        known.streams.throughput(FAST, float(number), NOW)
        known.streams.outcome(FAST, number % 4 != 0, NOW)
    known.streams.outcome(FAST, True, NOW)
    known.answers.first_content(SLOW, 9.0, NOW)  # of a whole answer: no time to first content
    fast, slow = shown(known)
    assert fast["latency_last_30m"] == {"p50": 500.0, "p75": 750.0, "p90": 900.0, "p99": 990.0}  # ms
    assert fast["throughput_last_30m"] == {"p50": 51.0, "p75": 26.0, "p90": 11.0, "p99": 2.0}  # what N% reached
    assert fast["uptime_last_30m"] == 75.248  # 76 of 101
    assert (slow["latency_last_30m"], slow["throughput_last_30m"], slow["uptime_last_30m"]) == (None, None, None)
    later = shown(known, now=NOW + WINDOW_S + 1)[0]
    assert (later["latency_last_30m"], later["throughput_last_30m"]) == (None, None)
    assert later["uptime_last_30m"] == 75.248


@pytest.mark.parametrize("keys", [1, 2, 3])
def test_status_of_all_states(keys: int) -> None:
    states: tuple[State, ...] = ("closed", "open", "half_open")
    for these, outage in itertools.product(itertools.product(states, repeat=keys), (False, True)):
        if set(these) == {"open"}:
            expected = Status.DOWN
        elif set(these) == {"closed"} and not outage:
            expected = Status.OK
        else:
            expected = Status.DEGRADED
        assert status_of(list(these), outage=outage) is expected


def test_breakers_and_outages() -> None:
    known = router()

    def told(now: float = NOW) -> tuple[int, list[State]]:
        fast, slow = shown(known, now=now)
        assert (slow["status"], slow["breaker"]) == (0, ["closed"])
        return fast["status"], fast["breaker"]

    fail(known, 1, times=1)
    assert told() == (-2, ["closed", "closed"])  # one failure, nothing since
    assert told(NOW + 30.0) == (0, ["closed", "closed"])
    known.streams.outcome(FAST, True, NOW)
    assert told() == (0, ["closed", "closed"])
    fail(known, 1)
    assert told() == (-2, ["closed", "open"])
    fail(known, 0)
    assert told() == (-10, ["open", "open"])
    assert told(NOW + OPEN_S) == (-2, ["half_open", "half_open"])
    assert known.health.started((*FAST, 0), NOW + OPEN_S)
    known.health.succeeded((*FAST, 0), probe=True)
    known.streams.outcome(FAST, True, NOW + OPEN_S)
    assert told(NOW + OPEN_S) == (-2, ["closed", "half_open"])
    assert told(NOW + 60.0) == (-2, ["closed", "half_open"])


def test_budgets() -> None:
    known = router()
    for _ in range(3):
        assert known.retries.spend("slow", NOW)
    assert known.hedges.allow("an account", 0, NOW)
    assert not known.hedges.allow("an account", 10**15, NOW)
    data = endpoints_of(catalog().find(MODEL), known, NOW)
    assert data["hedging"] == {"allowed": 1, "refused_share": 0, "refused_money": 1, "refused_room": 0}
    assert [each["retry_budget"] for each in cast("Any", data["endpoints"])] == [None, 97]
    assert shown(known, now=NOW + 20.0)[1]["retry_budget"] == 100


COMMON = frozenset(shown(router())[1]["supported_parameters"])
TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}


def test_the_common_parameters_are_openrouters() -> None:
    """Each is in the SDK's vocabulary, and hosts of models that do not reason take it."""
    vocabulary = {word for each in get_args(Parameter) for word in get_args(each)}
    assert vocabulary >= COMMON > {"max_tokens", "temperature", "stop", "structured_outputs", *TOOLS}
    assert not COMMON & {"reasoning", "include_reasoning", "top_k", "web_search_options"}


@pytest.mark.parametrize(
    ("terms", "drops", "expected"),
    [
        ({}, (), COMMON),
        ({}, ("logit_bias", "logprobs", "store"), COMMON - {"logit_bias", "logprobs"}),
        ({"supports": {"stream", "tools", "json_schema"}}, (), COMMON),
        ({"supports": {"stream", "tools"}}, (), COMMON - {"structured_outputs"}),
        ({"supports": {"json_schema"}}, (), COMMON - TOOLS),
        ({"supports": set()}, (), COMMON - TOOLS - {"structured_outputs"}),
        ({"supports": {"embeddings"}}, (), frozenset()),
        ({"parameters": {"top_k", "tools"}}, (), {"top_k", "tools"}),
        ({"parameters": {"top_k", "tools"}, "supports": {"stream"}}, (), {"top_k"}),
        ({"parameters": {"top_k", "tools"}}, ("top_k",), {"tools"}),
        ({"parameters": set()}, (), frozenset()),
    ],
)
def test_supported_parameters(terms: dict[str, set[str]], drops: tuple[str, ...], expected: frozenset[str]) -> None:
    frozen: dict[str, Any] = {name: frozenset(words) for name, words in terms.items()}
    endpoint = served(offer("slow", **frozen), providers=(provider("slow", drops=drops),))["endpoints"][0]
    assert endpoint["supported_parameters"] == sorted(expected)
    assert set(endpoint["supports_tool_choice"].values()) == {"tool_choice" in expected}


@pytest.mark.parametrize(
    ("supports", "modality"),
    [
        ([None], "text+image->text"),
        ([{"stream", "images"}], "text+image->text"),
        ([{"stream", "tools"}], "text->text"),
        ([{"stream"}, {"images"}], "text+image->text"),
        ([{"embeddings"}], "text->embeddings"),
        ([{"embeddings"}, {"stream"}], "text->text"),
    ],
)
def test_architecture(supports: list[set[str] | None], modality: str) -> None:
    offers = [
        offer("slow", f"m{number}", supports=each if each is None else frozenset(each))
        for number, each in enumerate(supports)
    ]
    architecture = served(*offers)["architecture"]
    assert architecture["modality"] == modality
    takes, gives = modality.split("->")
    assert (architecture["input_modalities"], architecture["output_modalities"]) == (takes.split("+"), [gives])


@pytest.mark.parametrize(
    ("cached_input", "cache_write", "implicit"), [(None, None, False), (1, None, True), (1, 2, False), (None, 2, False)]
)
def test_implicit_caching(cached_input: int | None, cache_write: int | None, implicit: bool) -> None:
    made = served(offer("slow", cached_input=cached_input, cache_write=cache_write))
    assert made["endpoints"][0]["supports_implicit_caching"] is implicit


NAMES = {
    MODEL: ("acme/big", "big", "acme/x/y:z", "acme%2Fbig", "acme%2Fx%2Fy%3Az"),
    ODD: ("acme/small:thinking", "acme/small%3Athinking"),
    LAST: ("acme/endpoints",),
}


@pytest.mark.parametrize(("path", "found"), [(path, found) for found, paths in NAMES.items() for path in paths])
async def test_names(desk: Desk, path: str, found: str) -> None:
    async with desk.client() as client:
        answer = await client.get(f"/api/v1/models/{path}/endpoints")
    assert (answer.status_code, answer.json()["data"]["id"]) == (200, found)
    assert answer.headers["cache-control"] == "no-store"
    assert all(word not in answer.text for word in ("secret", "example", "big-v1"))


@pytest.mark.parametrize(("path", "found"), [("acme/endpoints", LAST), ("acme/big/b/endpoints", ODD)])
async def test_a_model_named_like_the_route_is_found_as_before(desk: Desk, path: str, found: str) -> None:
    async with desk.client() as client:
        answer = await client.get(f"/api/v1/models/{path}")
    assert (answer.status_code, answer.json()["object"], answer.json()["id"]) == (200, "model", found)


@pytest.mark.parametrize("name", ["no/such", "such", SPARE, "acme/big:free", "ACME/big"])
async def test_unknown_models(desk: Desk, name: str) -> None:
    """As `GET /models/{id}` answers them, a model that only disabled providers serve among them."""
    errors = []
    async with desk.client() as client:
        for path in (name, f"{name}/endpoints"):
            answer = await client.get(f"/api/v1/models/{path}")
            assert answer.status_code == 404
            errors.append(answer.json()["error"] | {"request_id": ""})
    assert errors[0] == errors[1]
    assert errors[0]["code"] == "model_not_found"


async def test_who_may_ask(desk: Desk) -> None:
    """The public mount anyone, the other one a key: as it is for the model itself."""
    key = desk.key()
    for holder, prefix, status in (
        (None, "/api/v1", 200),
        (Holder("", "sk-wrong", ""), "/api/v1", 200),
        (None, "/v1", 401),
        (Holder("", "sk-wrong", ""), "/v1", 401),
        (key, "/v1", 200),
    ):
        async with desk.client(holder) as client:
            for path in (MODEL, f"{MODEL}/endpoints"):
                assert (await client.get(f"{prefix}/models/{path}")).status_code == status
            assert (await client.post(f"{prefix}/models/{MODEL}/endpoints")).status_code == 405


async def test_openrouters_sdk_reads_it(desk: Desk, nursery: trio.Nursery) -> None:
    """Its models are strict: a key it requires may be null, and may not be left out."""
    config = ServerConfig()
    config.bind, config.accesslog, config.errorlog = ["127.0.0.1:0"], None, None
    bound = await nursery.start(partial(serve, desk.app, config))
    now = trio.current_time()
    desk.router.streams.first_content(FAST, 0.25, now)
    desk.router.streams.throughput(FAST, 40.0, now)
    desk.router.streams.outcome(FAST, True, now)
    fail(desk.router, 1, at=now)

    def work(author: str, slug: str) -> ListEndpointsResponse:
        with (
            httpx.Client(trust_env=False) as client,
            OpenRouter(api_key="unused", server_url=f"{bound[0]}/api/v1", client=client) as sdk,
        ):
            data: ListEndpointsResponse = sdk.endpoints.list(author=author, slug=slug).data
            return data

    with trio.fail_after(20):
        data = await trio.to_thread.run_sync(work, "acme", "big")
        assert (data.id, data.name, data.created) == (MODEL, "Big", 1_700_000_000)
        fast, slow = data.endpoints
        assert (fast.tag, fast.status, fast.pricing.prompt) == ("fast/us-east5", -2, "0.00000125")
        assert fast.latency_last_30m is not None
        assert fast.latency_last_30m.p50 == 250.0
        assert fast.throughput_last_30m is not None
        assert fast.throughput_last_30m.p99 == 40.0
        assert fast.uptime_last_30m == 16.667
        assert (slow.status, slow.latency_last_30m, slow.uptime_last_30m) == (0, None, None)
        odd = await trio.to_thread.run_sync(work, "acme", "small:thinking")
        assert (odd.id, odd.endpoints[0].pricing.completion) == (ODD, "0")
        deep = await trio.to_thread.run_sync(work, "acme", "x/y:z")
        assert deep.id == MODEL
        with pytest.raises(OpenRouterError) as caught:
            await trio.to_thread.run_sync(work, "no", "such")
        assert caught.value.status_code == 404
