"""The shipped config.toml: loads, says the defaults, names every preset; and the lines of keys in any TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from gateway.config import (
    AUTO_CLASSES,
    Config,
    Log,
    Model,
    ModelRace,
    Offer,
    Price,
    Provider,
    Race,
    Routing,
    Server,
    Sim,
    Timeouts,
    Upstream,
)
from gateway.configfile import load, parse
from gateway.configfile.lines import Lines, dotted
from gateway.core.money import PicoUsd
from gateway.providers.presets import load_presets

SHIPPED = Path(__file__).parent.parent / "config.toml"


def test_the_shipped_file_loads_without_any_key() -> None:
    config = load(SHIPPED, environ={})
    assert [name for name, provider in config.providers.items() if provider.enabled] == ["sim"]
    assert config.models["sim/words"].offers[0].provider == "sim"
    assert config.models["sim/echo"].offers[0].input == 0


def test_the_shipped_file_states_the_defaults() -> None:
    config = load(SHIPPED, environ={})
    sections = (config.server, config.timeouts, config.race, config.routing, config.upstream, config.sim, config.log)
    assert sections == (Server(), Timeouts(), Race(), Routing(), Upstream(), Sim(), Log())
    text = SHIPPED.read_text("utf-8")
    for section in sections:
        for field in msgspec.structs.fields(section):
            assert f"\n{field.encode_name} = " in text or f"\n# {field.encode_name} = " in text


def test_the_shipped_file_enables_what_has_a_key() -> None:
    config = load(SHIPPED, environ={"OPENAI_API_KEY": "k"})
    assert [name for name, provider in config.providers.items() if provider.enabled] == ["sim", "openai"]
    every = {preset.api_key_env: "k" for preset in load_presets().values() if preset.api_key_env}
    config = load(SHIPPED, environ=every)
    assert all(provider.enabled for provider in config.providers.values())


def test_the_shipped_file_lists_every_preset_that_needs_only_a_key() -> None:
    config = load(SHIPPED, environ={})
    usable = {name for name, preset in load_presets().items() if not preset.local and not preset.base_url_needed}
    assert set(config.providers) == usable | {"sim"}
    text = SHIPPED.read_text("utf-8")
    for name in set(load_presets()) - usable:
        assert f"\n# [providers.{name}]" in text


def test_the_shipped_file_explains_every_price_with_an_example_that_loads() -> None:
    text = SHIPPED.read_text("utf-8")
    explained = text[text.index("\n# Models. ") : text.index("\n# CHECK THE PRICES")]
    for kind in (Price, Offer, Model):
        for field in msgspec.structs.fields(kind):
            assert field.encode_name in explained or f"\n{field.encode_name} = " in text, field.name
    example = explained[explained.index("\n# [[models]]") :].replace("\n# ", "\n").replace("\n#", "\n")
    config = parse("[providers.openrouter]\n" + example, path="config.toml", environ={})
    (model,) = config.models.values()
    assert isinstance(model.price, Price)
    assert (model.markup, model.completion_tokens_max, model.price.request) == ((1, 4), 16_384, 10**9)
    assert (model.offers[0].cache_write, model.offers[0].reasoning) == (3_125_000, 15_000_000)
    assert model.price.reasoning is None
    assert (model.balance, model.race) == ("order", ModelRace("hedge", PicoUsd(10**10)))
    assert (model.offers[1].tag, model.offers[1].quantization, model.offers[1].context_window) == (
        "us-east5",
        "fp8",
        64_000,
    )


def test_the_shipped_file_explains_every_key_of_a_provider() -> None:
    text = SHIPPED.read_text("utf-8")
    explained = text[text.index("\n# Providers. ") : text.index("\n[providers.openai]")]
    derived = {"name", "api_keys", "disabled_why", "quirks"}
    for key in {field.encode_name for field in msgspec.structs.fields(Provider)} - derived:
        assert f"\n#   {key} = " in explained, key


def served_by_auto(config: Config) -> dict[str, list[str]]:
    """For each class of the auto router, the models of its pool that an enabled provider serves."""
    pools = config.auto.pools
    return {
        kind: [
            name
            for name in pools.get(kind, pools["general"])
            if any(config.providers[offer.provider].enabled for offer in config.models[name].offers)
        ]
        for kind in AUTO_CLASSES
    }


def test_without_any_key_the_auto_router_answers_with_the_sim_provider() -> None:
    config = load(SHIPPED, environ={})
    assert served_by_auto(config) == {kind: ["sim/words"] for kind in AUTO_CLASSES}
    assert config.auto.free_pools == {"general": ("sim/words",)}
    assert config.models["sim/words"].price == "free"


CHAT_PROVIDERS = sorted(
    {
        offer.provider
        for model in load(SHIPPED, environ={}).models.values()
        for offer in model.offers
        if offer.provider != "sim" and "embeddings" not in (offer.supports or ())
    }
)


@pytest.mark.parametrize("name", CHAT_PROVIDERS)
def test_each_key_alone_serves_every_class_of_the_auto_router_with_real_models(name: str) -> None:
    variable = load_presets()[name].api_key_env
    config = load(SHIPPED, environ={variable or "": "k"})
    for kind, names in served_by_auto(config).items():
        assert names, kind
    assert not any("sim/words" in pool for pool in config.auto.pools.values())
    assert config.auto.free_pools == {}


_SEEDS = """
openai/gpt-4.1 openai/gpt-4o openai/gpt-4o-mini openai/gpt-5 openai/text-embedding-3-small
anthropic/claude-sonnet-4-6 anthropic/claude-opus-4-6 anthropic/claude-haiku-4-5 anthropic/claude-sonnet-4-5
anthropic/claude-3-5-sonnet-latest google/gemini-2.0-flash-001 google/gemini-2.5-pro google/gemini-2.5-flash
deepseek/deepseek-chat deepseek/deepseek-r1 meta-llama/llama-3.3-70b-instruct
qwen/qwen-2.5-72b-instruct qwen/qwen3-235b-a22b
gpt-4o gpt-4o-mini claude-3-5-sonnet claude-3-5-sonnet-20241022 claude-3-5-haiku-20241022 gemini-1.5-pro
gemini-1.5-flash gemini-2.0-flash deepseek-chat deepseek-reasoner moonshot-v1-128k kimi-k2.5
"""


@pytest.mark.parametrize("name", _SEEDS.split())
def test_the_shipped_catalogue_knows_the_models_people_ask_for(name: str) -> None:
    models = load(SHIPPED, environ={}).models
    names = set(models) | {alias for each in models.values() for alias in each.aliases}
    assert name in names


def test_lines_are_found_in_every_way_toml_can_say_a_thing() -> None:
    text = '''a = 1
b.c = """
x = 1 # no key
[no.table]
\\""" ["""
d = { e = 1, "f g".h = [1,
  2] } # k = 1
[t . "u.v"]
w = [
  # comment, with a ] in it
  { x = "]" }, { x = '}' },
]
[[m]]
n = 1
[[m.o]]
p = 1
[[m]]
n = 2
[m.q]
r = 1979-05-27 07:32:00
[[m.o]]
p = \'\'\'a
''\'\'\'
s = 1
'''.replace("2] }", "2] }")
    tomllib.loads(text)
    lines = Lines(text)
    expected = {
        ("a",): 1, ("b", "c"): 2, ("d",): 6, ("d", "e"): 6, ("d", "f g", "h"): 6, ("d", "f g", "h", 1): 7,
        ("t", "u.v"): 8, ("t", "u.v", "w"): 9, ("t", "u.v", "w", 1, "x"): 11, ("m", 0, "n"): 14,
        ("m", 0, "o", 0, "p"): 16, ("m", 1): 17, ("m", 1, "n"): 18, ("m", 1, "q", "r"): 20,
        ("m", 1, "o", 0): 21, ("m", 1, "o", 0, "s"): 24,
    }  # fmt: skip
    assert {path: lines.find(path) for path in expected} == expected
    assert lines.find(("m", 1, "o", 0, "absent", "deeper")) == 21
    assert lines.find(("absent",)) == 1
    assert dotted(("t", "u.v", "w", 1, "x")) == 't."u.v".w[1].x'


def test_every_key_of_the_shipped_file_is_found_on_a_line_that_holds_it() -> None:
    text = SHIPPED.read_text("utf-8")
    source = text.splitlines()
    lines = Lines(text)
    checked = 0
    stack: list[tuple[tuple[str | int, ...], object]] = [((), tomllib.loads(text))]
    while stack:
        path, value = stack.pop()
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            stack.append(((*path, key), inner))
            if isinstance(key, str) and path:
                assert key in source[lines.find((*path, key)) - 1]
                checked += 1
    assert checked > 500
