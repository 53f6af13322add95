"""The routing members of a request: what each is read as, what each refuses, and that they reach no provider."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.jsontext import top_level
from gateway.core.routing import PLAIN, Bounds, MaxPrice, Preferences, RaceWish, Routing
from gateway.dialects.openai_chat import parse_request
from gateway.dialects.routing import parse_routing, split_suffix, with_suffix
from gateway.errors import BadRequest

MODEL = "openai/gpt-4.1"
NAMES = ("provider", "models", "route", "transforms", "plugins", "debug", "session_id", "race")
MEMBERS = (
    *("order", "only", "ignore", "allow_fallbacks", "sort", "require_parameters", "data_collection", "zdr"),
    *("quantizations", "max_price", "preferred_min_throughput", "preferred_max_latency", "enforce_distillable_text"),
)


def routing(body: str, *, stream: bool = True, model: str = MODEL) -> Routing:
    return parse_routing(top_level(body.encode()), model, stream=stream)


def preferring(**preferences: Any) -> Routing:
    return Routing(preferences=Preferences(**preferences))


def slugs(count: int) -> list[str]:
    return [f"p{index}" for index in range(count)]


PROVIDER: list[tuple[str, Routing]] = [
    ("{}", PLAIN),
    ('{"order":["openai","anthropic"]}', preferring(order=("openai", "anthropic"))),
    ('{"order":["OpenAI","Google-Vertex/US-east5","openai"]}', preferring(order=("openai", "google-vertex/us-east5"))),
    (json.dumps({"order": slugs(64)}), preferring(order=tuple(slugs(64)))),
    (json.dumps({"order": ["a" * 129]}), preferring(order=("a" * 129,))),
    ('{"order":[]}', PLAIN),
    ('{"only":["Azure"]}', preferring(only=("azure",))),
    ('{"only":[]}', PLAIN),
    ('{"ignore":["deepinfra"]}', preferring(ignore=("deepinfra",))),
    ('{"allow_fallbacks":false}', preferring(allow_fallbacks=False)),
    ('{"allow_fallbacks":true}', PLAIN),
    ('{"sort":"price"}', preferring(sort="price")),
    ('{"sort":"latency"}', preferring(sort="latency")),
    ('{"sort":"throughput"}', preferring(sort="throughput")),
    ('{"sort":{"by":"latency"}}', preferring(sort="latency")),
    ('{"sort":{"by":"throughput","partition":"none"}}', preferring(sort="throughput", partition="none")),
    ('{"sort":{"by":"price","partition":"model"}}', preferring(sort="price")),
    ('{"sort":{"by":null,"partition":"none"}}', preferring(partition="none")),
    ('{"sort":{}}', PLAIN),
    ('{"require_parameters":true}', preferring(require_parameters=True)),
    ('{"data_collection":"deny"}', preferring(data_collection="deny")),
    ('{"data_collection":"allow"}', PLAIN),
    ('{"zdr":true}', preferring(zdr=True)),
    ('{"quantizations":["fp8","bf16","fp8"]}', preferring(quantizations=frozenset({"fp8", "bf16"}))),
    ('{"quantizations":[]}', PLAIN),
    ('{"enforce_distillable_text":true}', PLAIN),
    ('{"enforce_distillable_text":false}', PLAIN),
    ('{"max_price":{"prompt":"0.075","completion":2}}', preferring(max_price=MaxPrice(75_000, 2_000_000))),  # type: ignore[arg-type]
    ('{"max_price":{"request":"0.01"}}', preferring(max_price=MaxPrice(request=10**10))),  # type: ignore[arg-type]
    ('{"max_price":{"prompt":0,"image":"0.5","audio":1}}', preferring(max_price=MaxPrice(prompt=0))),  # type: ignore[arg-type]
    ('{"max_price":{"prompt":25e-1,"completion":1E+1}}', preferring(max_price=MaxPrice(2_500_000, 10**7))),  # type: ignore[arg-type]
    ('{"max_price":{"image":1}}', PLAIN),
    ('{"max_price":{"prompt":null}}', PLAIN),
    ('{"preferred_min_throughput":50}', preferring(preferred_min_throughput=Bounds(p50=50.0))),
    ('{"preferred_min_throughput":{"p90":10.5}}', preferring(preferred_min_throughput=Bounds(p90=10.5))),
    ('{"preferred_max_latency":0.75}', preferring(preferred_max_latency=Bounds(p50=0.75))),
    (
        '{"preferred_max_latency":{"p50":1,"p75":2,"p90":3,"p99":4}}',
        preferring(preferred_max_latency=Bounds(1.0, 2.0, 3.0, 4.0)),
    ),
    ('{"preferred_max_latency":{"p50":null}}', PLAIN),
    (
        '{"order":["a"],"ignore":["b"],"sort":"price","zdr":true}',
        preferring(order=("a",), ignore=("b",), sort="price", zdr=True),
    ),
    ('{"order":["a"],"order":["b"]}', preferring(order=("b",))),
    ('{ "order" : [ "a" ] , "zdr" : null }', preferring(order=("a",))),
]


@pytest.mark.parametrize(("provider", "expected"), PROVIDER)
def test_provider(provider: str, expected: Routing) -> None:
    assert routing(f'{{"provider":{provider}}}') == expected


def test_null_members_of_provider_are_absent() -> None:
    assert routing(json.dumps({"provider": dict.fromkeys(MEMBERS, None)})) == PLAIN


OTHERS: list[tuple[str, Routing]] = [
    ("{}", PLAIN),
    ('{"models":["a/b","c/d"]}', Routing(models=("a/b", "c/d"))),
    (f'{{"models":["{MODEL}","a/b","a/b","{MODEL}"]}}', Routing(models=("a/b",))),
    (f'{{"models":["{MODEL}"]}}', PLAIN),
    ('{"models":[]}', PLAIN),
    (json.dumps({"models": slugs(16)}), Routing(models=tuple(slugs(16)))),
    ('{"models":["a/B:nitro"]}', Routing(models=("a/B:nitro",))),
    ('{"route":"fallback"}', PLAIN),
    ('{"transforms":["middle-out"]}', Routing(middle_out=True)),
    ('{"transforms":[]}', Routing(middle_out=False)),
    ('{"plugins":[{"id":"context-compression"}]}', Routing(middle_out=True)),
    ('{"plugins":[{"id":"context-compression","engine":"middle-out","enabled":true}]}', Routing(middle_out=True)),
    ('{"plugins":[{"id":"context-compression","enabled":false}]}', Routing(middle_out=False)),
    ('{"plugins":[{"id":"context-compression","enabled":null}]}', Routing(middle_out=True)),
    ('{"plugins":[]}', PLAIN),
    (
        '{"plugins":[{"id":"context-compression","enabled":false}],"transforms":["middle-out"]}',
        Routing(middle_out=False),
    ),
    ('{"plugins":[],"transforms":["middle-out"]}', Routing(middle_out=True)),
    ('{"debug":{"echo_upstream_body":true}}', Routing(echo_upstream_body=True)),
    ('{"debug":{"echo_upstream_body":false}}', PLAIN),
    ('{"debug":{}}', PLAIN),
    ('{"session_id":"s-1"}', Routing(session_id="s-1")),
    (json.dumps({"session_id": "é" * 256}), Routing(session_id="é" * 256)),
    ('{"session_id":""}', PLAIN),
    ('{"race":{"mode":"off"}}', Routing(race=RaceWish("off"))),
    ('{"race":{"mode":"hedge"}}', Routing(race=RaceWish("hedge"))),
    ('{"race":{"mode":"all","max_extra_cost":"0.02"}}', Routing(race=RaceWish("all", 2 * 10**10))),  # type: ignore[arg-type]
    ('{"race":{"max_extra_cost":0}}', Routing(race=RaceWish(None, 0))),  # type: ignore[arg-type]
    ('{"race":{"mode":null}}', PLAIN),
]


@pytest.mark.parametrize(("body", "expected"), OTHERS)
def test_other_members(body: str, expected: Routing) -> None:
    assert routing(body) == expected


REFUSED: list[tuple[str, str, str]] = [
    ('{"provider":"openai"}', "provider", "must be an object of order, only"),
    ('{"provider":[]}', "provider", "must be an object"),
    ('{"provider":false}', "provider", "not false"),
    ('{"provider":{"sorted":"price"}}', "provider.sorted", "`provider` may have order, only, ignore"),
    ('{"provider":{"options":{}}}', "provider.options", "is not known"),
    (json.dumps({"provider": {"x" * 99: 1}}), f"provider.{'x' * 40}...", "is not known"),
    ('{"provider":{"order":"openai"}}', "provider.order", 'not "openai"'),
    ('{"provider":{"order":["a",5]}}', "provider.order", "list of at most 64"),
    ('{"provider":{"order":[""]}}', "provider.order", "1 to 129 characters"),
    (json.dumps({"provider": {"order": slugs(65)}}), "provider.order", "at most 64"),
    (json.dumps({"provider": {"order": ["a" * 130]}}), "provider.order", "1 to 129 characters"),
    ('{"provider":{"only":{}}}', "provider.only", "not {}"),
    ('{"provider":{"ignore":[null]}}', "provider.ignore", "not [null]"),
    ('{"provider":{"allow_fallbacks":"true"}}', "provider.allow_fallbacks", "true or false"),
    ('{"provider":{"allow_fallbacks":1}}', "provider.allow_fallbacks", "not 1"),
    ('{"provider":{"require_parameters":0}}', "provider.require_parameters", "true or false"),
    ('{"provider":{"zdr":"yes"}}', "provider.zdr", "true or false"),
    ('{"provider":{"enforce_distillable_text":"yes"}}', "provider.enforce_distillable_text", "true or false"),
    ('{"provider":{"sort":"fastest"}}', "provider.sort", '"price", "latency" or "throughput", not "fastest"'),
    ('{"provider":{"sort":"Price"}}', "provider.sort", 'not "Price"'),
    ('{"provider":{"sort":"exacto"}}', "provider.sort", "only OpenRouter has"),
    ('{"provider":{"sort":["price"]}}', "provider.sort", "or an object of `by` and `partition`"),
    ('{"provider":{"sort":{"by":"speed"}}}', "provider.sort.by", '"price", "latency" or "throughput"'),
    ('{"provider":{"sort":{"by":"exacto"}}}', "provider.sort.by", "only OpenRouter has"),
    ('{"provider":{"sort":{"partition":"all"}}}', "provider.sort.partition", '"model" or "none"'),
    ('{"provider":{"sort":{"order":"asc"}}}', "provider.sort.order", "`provider.sort` may have by, partition"),
    ('{"provider":{"data_collection":"never"}}', "provider.data_collection", '"allow" or "deny", not "never"'),
    ('{"provider":{"data_collection":false}}', "provider.data_collection", '"allow" or "deny"'),
    ('{"provider":{"quantizations":"fp8"}}', "provider.quantizations", "a list of"),
    ('{"provider":{"quantizations":["fp8","fp7"]}}', "provider.quantizations", "has 'fp7'; it may list int4, int8"),
    ('{"provider":{"max_price":5}}', "provider.max_price", "an object of prompt, completion, request, image, audio"),
    ('{"provider":{"max_price":{"cache":1}}}', "provider.max_price.cache", "is not known"),
    ('{"provider":{"max_price":{"prompt":-1}}}', "provider.max_price.prompt", "USD per million tokens"),
    ('{"provider":{"max_price":{"prompt":"-0.5"}}}', "provider.max_price.prompt", 'not "-0.5"'),
    ('{"provider":{"max_price":{"completion":"NaN"}}}', "provider.max_price.completion", 'not "NaN"'),
    ('{"provider":{"max_price":{"completion":"Infinity"}}}', "provider.max_price.completion", "from 0 to 9000000"),
    ('{"provider":{"max_price":{"completion":""}}}', "provider.max_price.completion", 'not ""'),
    ('{"provider":{"max_price":{"completion":"$1"}}}', "provider.max_price.completion", 'not "$1"'),
    ('{"provider":{"max_price":{"completion":"\uff11"}}}', "provider.max_price.completion", 'not "\uff11"'),
    ('{"provider":{"max_price":{"completion":9000000.1}}}', "provider.max_price.completion", "from 0 to 9000000"),
    ('{"provider":{"max_price":{"completion":1e99}}}', "provider.max_price.completion", "not 1e99"),
    ('{"provider":{"max_price":{"completion":1e999999}}}', "provider.max_price.completion", "not 1e999999"),
    ('{"provider":{"max_price":{"request":true}}}', "provider.max_price.request", "an amount of USD from 0"),
    ('{"provider":{"max_price":{"image":[]}}}', "provider.max_price.image", "not []"),
    ('{"provider":{"max_price":{"audio":"x"}}}', "provider.max_price.audio", 'not "x"'),
    ('{"provider":{"preferred_max_latency":-1}}', "provider.preferred_max_latency", "at least 0"),
    ('{"provider":{"preferred_max_latency":"1"}}', "provider.preferred_max_latency", "p50, p75, p90 and p99"),
    ('{"provider":{"preferred_max_latency":1e400}}', "provider.preferred_max_latency", "not 1e400"),
    ('{"provider":{"preferred_max_latency":{"p95":1}}}', "provider.preferred_max_latency.p95", "p50, p75, p90, p99"),
    ('{"provider":{"preferred_min_throughput":{"p50":"9"}}}', "provider.preferred_min_throughput.p50", "a number"),
    ('{"provider":{"preferred_min_throughput":true}}', "provider.preferred_min_throughput", "not true"),
    ('{"models":"a/b"}', "models", "list of at most 16 model ids"),
    ('{"models":["a/b",null]}', "models", "at most 16"),
    ('{"models":[""]}', "models", "1 to 256 characters"),
    (json.dumps({"models": slugs(17)}), "models", "at most 16"),
    (json.dumps({"models": ["a" * 257]}), "models", "1 to 256 characters"),
    ('{"route":"sort"}', "route", 'must be "fallback", not "sort"'),
    ('{"route":["fallback"]}', "route", 'must be "fallback"'),
    ('{"transforms":"middle-out"}', "transforms", 'must be ["middle-out"] or []'),
    ('{"transforms":["top-out"]}', "transforms", 'not ["top-out"]'),
    ('{"transforms":["middle-out","b"]}', "transforms", 'must be ["middle-out"] or []'),
    ('{"plugins":{"id":"web"}}', "plugins", "a list of at most 16 objects"),
    ('{"plugins":["web"]}', "plugins", "a list of at most 16 objects"),
    (
        '{"plugins":[{"id":"web"}]}',
        "plugins",
        'names "web", which we do not have; the only one is "context-compression"',
    ),
    ('{"plugins":[{"id":"context-compression"},{"id":"web","enabled":false}]}', "plugins", '"web"'),
    ('{"plugins":[{}]}', "plugins", "without an `id`"),
    ('{"plugins":[{"id":null}]}', "plugins", "null, which we do not have"),
    (json.dumps({"plugins": [{"id": "context-compression"}] * 17}), "plugins", "at most 16 objects"),
    ('{"plugins":[{"id":"context-compression","engine":"x"}]}', "plugins.engine", '"middle-out"'),
    ('{"plugins":[{"id":"context-compression","enabled":1}]}', "plugins.enabled", "true or false"),
    ('{"plugins":[{"id":"context-compression","level":1}]}', "plugins.level", "is not known"),
    ('{"debug":true}', "debug", "must be an object of echo_upstream_body"),
    ('{"debug":{"verbose":true}}', "debug.verbose", "is not known"),
    ('{"debug":{"echo_upstream_body":"yes"}}', "debug.echo_upstream_body", "true or false"),
    ('{"session_id":5}', "session_id", "a string of at most 256 characters"),
    (json.dumps({"session_id": "s" * 257}), "session_id", "at most 256 characters, not 257"),
    ('{"race":"all"}', "race", "must be an object of mode, max_extra_cost"),
    ('{"race":{"mode":"every"}}', "race.mode", '"off", "hedge" or "all", not "every"'),
    ('{"race":{"max_extra_cost":-0.5}}', "race.max_extra_cost", "an amount of USD from 0"),
    ('{"race":{"budget":1}}', "race.budget", "`race` may have mode, max_extra_cost"),
    (json.dumps({"provider": {"order": ["a"], "ignore": ["b" * 65536]}}), "provider", "at most 64 KiB"),
    (json.dumps({"session_id": "s" * 65536}), "session_id", "at most 64 KiB"),
]


@pytest.mark.parametrize(("body", "param", "message"), REFUSED, ids=[row[1] + str(i) for i, row in enumerate(REFUSED)])
def test_refusals_name_the_member(body: str, param: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        routing(body)
    assert caught.value.param == param
    assert f"`{param}`" in caught.value.message
    assert message in caught.value.message


def test_the_upstream_body_is_echoed_in_streams_only() -> None:
    with pytest.raises(BadRequest, match="stream: true") as caught:
        routing('{"debug":{"echo_upstream_body":true}}', stream=False)
    assert caught.value.param == "debug.echo_upstream_body"
    assert routing('{"debug":{"echo_upstream_body":false}}', stream=False) == PLAIN


def test_the_first_of_several_mistakes_is_told() -> None:
    body = '{"race":1,"session_id":1,"debug":1,"plugins":1,"transforms":1,"route":1,"models":1,"provider":1}'
    with pytest.raises(BadRequest) as caught:
        routing(body)
    assert caught.value.param == "provider"


# The pasted examples of BazaarLink's documentation.
EXAMPLES: list[tuple[str, Routing]] = [
    (
        """{
          "model": "openai/gpt-4.1",
          "messages": [{"role": "user", "content": "Hello"}],
          "provider": {
            "order": ["openai", "anthropic"],
            "allow_fallbacks": true,
            "sort": "latency"
          }
        }""",
        preferring(order=("openai", "anthropic"), sort="latency"),
    ),
    (
        """{
          "model": "openai/gpt-4.1",
          "models": [
            "openai/gpt-4.1",
            "anthropic/claude-sonnet-4-6",
            "google/gemini-2.5-flash"
          ],
          "route": "fallback",
          "messages": [{"role": "user", "content": "Write a haiku"}]
        }""",
        Routing(models=("anthropic/claude-sonnet-4-6", "google/gemini-2.5-flash")),
    ),
    ('{"model": "auto:free", "messages": [{"role": "user", "content": "Hello"}]}', PLAIN),
]


@pytest.mark.parametrize(("body", "expected"), EXAMPLES)
def test_documented_examples(body: str, expected: Routing) -> None:
    request = parse_request(body.encode())
    assert request.routing == expected
    assert set(request.fields) == {"model", "messages"}


def test_a_request_without_wishes_is_left_alone() -> None:
    fields = top_level(b'{"model":"a/b","messages":[],"seed":1}')
    before = dict(fields)
    assert parse_routing(fields, "a/b", stream=False) is PLAIN
    assert fields == before
    assert routing(json.dumps(dict.fromkeys(NAMES))) is PLAIN


@pytest.mark.parametrize(
    ("model", "base", "suffix"),
    [
        ("openai/gpt-4o:free", "openai/gpt-4o", "free"),
        ("openai/gpt-4o:nitro", "openai/gpt-4o", "nitro"),
        ("openai/gpt-4o:floor", "openai/gpt-4o", "floor"),
        ("a/b:free:nitro", "a/b:free", "nitro"),
        ("auto:free", "auto", "free"),
        ("openai/gpt-4o", "openai/gpt-4o", None),
        ("openai/gpt-4o:online", "openai/gpt-4o:online", None),
        ("openai/gpt-4o:Nitro", "openai/gpt-4o:Nitro", None),
        ("a/b:free ", "a/b:free ", None),
        ("a/bfree", "a/bfree", None),
        ("free", "free", None),
        (":free", ":free", None),
        (":", ":", None),
        ("", "", None),
    ],
)
def test_split_suffix(model: str, base: str, suffix: str | None) -> None:
    assert split_suffix(model) == (base, suffix)


def test_a_suffix_sorts_unless_the_request_does() -> None:
    wishes = Routing(models=("a/b",), preferences=Preferences(order=("x",), partition="none"))
    assert with_suffix(wishes, "nitro") == Routing(
        models=("a/b",), preferences=Preferences(order=("x",), partition="none", sort="throughput")
    )
    assert with_suffix(PLAIN, "floor") == preferring(sort="price")
    assert with_suffix(preferring(sort="latency"), "nitro") == preferring(sort="latency")
    for suffix in ("free", None):
        assert with_suffix(wishes, suffix) is wishes


_AMOUNTS = st.decimals(0, 9_000_000, allow_nan=False, places=9) | st.decimals(0, 1, allow_nan=False, places=14)


@given(_AMOUNTS | st.floats(0, 9_000_000).map(lambda number: Decimal(repr(number))), st.booleans())
@example(Decimal("0.30000000000000004"), True)
@example(Decimal("1E-7"), True)
@example(Decimal("0.0000001"), False)
@example(Decimal("9E+6"), True)
def test_a_price_bound_admits_the_same_whole_prices_as_its_digits(amount: Decimal, as_number: bool) -> None:
    text = str(amount) if as_number else f'"{amount}"'
    body = f'{{"provider":{{"max_price":{{"prompt":{text},"request":{text}}}}}}}'
    bound = routing(body).preferences.max_price
    assert bound is not None
    assert bound.prompt is not None
    assert bound.request is not None
    for price, scale in ((bound.prompt, 10**6), (bound.request, 10**12)):
        assert Decimal(price) <= amount * scale < price + 1
        assert price < 2**63


_PARTS = "by partition prompt completion request image audio p50 p90 id enabled engine mode max_extra_cost".split()
_KEYS = st.sampled_from([*NAMES, *MEMBERS, *_PARTS, "echo_upstream_body"]) | st.text(max_size=3)
_WORDS = ["price", "exacto", "none", "deny", "fp8", "middle-out", "context-compression", "fallback", "all", "1.5", "-1"]
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(_WORDS)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=10,
)


@given(st.sampled_from(NAMES), _JSON, st.booleans(), st.booleans())
def test_any_value_is_read_or_refused_by_its_path(name: str, value: Any, stream: bool, ascii_only: bool) -> None:
    fields = top_level(json.dumps({"seed": 1, name: value}, ensure_ascii=ascii_only).encode())
    try:
        found = parse_routing(fields, MODEL, stream=stream)
    except BadRequest as refused:
        assert refused.param is not None
        assert refused.param == name or refused.param.startswith(f"{name}.")
        assert f"`{refused.param}`" in refused.message
        assert len(refused.message) < 600
        json.dumps(refused.message).encode()
    else:
        assert value is not None or found == PLAIN
        assert set(fields) == {"seed"}


def _provider_objects() -> st.SearchStrategy[dict[str, Any]]:
    listed = st.lists(st.sampled_from(["openai", "Azure", "x/y"]) | _JSON, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "order": listed,
            "only": listed,
            "ignore": listed,
            "sort": st.sampled_from(_WORDS) | st.dictionaries(st.sampled_from(["by", "partition", "x"]), _JSON),
            "max_price": st.dictionaries(st.sampled_from(["prompt", "request", "image"]), _JSON),
            "preferred_max_latency": st.floats(0, 9) | st.dictionaries(st.sampled_from(["p50", "p99"]), _JSON),
            "quantizations": st.lists(st.sampled_from(["fp8", "int4"]) | _JSON, max_size=3),
            "zdr": st.booleans() | _JSON,
        },
    )


@given(_provider_objects())
def test_nearly_right_providers_are_read_or_refused(provider: dict[str, Any]) -> None:
    try:
        preferences = routing(json.dumps({"provider": provider})).preferences
    except BadRequest as refused:
        assert (refused.param or "").startswith("provider.")
    else:
        assert all(slug == slug.lower() for slug in (*preferences.order, *preferences.ignore))
        assert preferences.only != ()
        assert preferences.sort in (None, "price", "latency", "throughput")


@pytest.mark.parametrize("name", NAMES)
def test_values_that_a_decoder_chokes_on_are_refused(name: str) -> None:
    for text in (
        b"[" * 20_000 + b"]" * 20_000,
        b'{"order":["\xff"],"id":"\xff"}',
        b'["\xff"]',
        b'"\xff"',
        b'{"\xff":1}',
    ):
        with pytest.raises(BadRequest) as caught:
            parse_routing({name: msgspec.Raw(text)}, MODEL, stream=True)
        assert (caught.value.param or "").startswith(name)
