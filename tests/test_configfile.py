"""The configuration file: what each key does, what a preset gives, and how the environment enables providers."""

from __future__ import annotations

import msgspec

from gateway.config import Config, Drain, Log, Race, Server, Timeouts, Upstream
from gateway.configfile import parse
from gateway.core.money import parse_usd
from gateway.providers.presets import load_presets

MODEL = """\
[providers.openai]
[[models]]
id = "openai/gpt-4o"
context_window = 128000
offers = [ { provider = "openai", model = "gpt-4o", input = "2.50", output = "10.00" } ]
"""


def good(text: str, **environ: str) -> Config:
    return parse(text, path="config.toml", environ=environ)


def test_the_smallest_file_is_all_defaults() -> None:
    config = good("")
    assert (config.server, config.timeouts, config.race) == (Server(), Timeouts(), Race())
    assert list(config.providers) == ["sim"]
    assert config.providers["sim"].enabled
    assert config.models == {}


def test_every_key_of_the_flat_sections_is_read() -> None:
    text = """
[server]
bind = ["[::1]:0", "localhost:8443"]
grace_s = 0
express_lane = false
metrics_token = "t"
[timeouts]
keepalive_s = 0
[race]
hedge = "adaptive"
[upstream]
idle_s = 1.5
[sim]
enabled = false
[log]
calls = false
"""
    config = good(text)
    assert config.server == Server(
        bind=("[::1]:0", "localhost:8443"), grace_s=0.0, express_lane=False, metrics_token="t"
    )
    assert isinstance(config.server.grace_s, float)
    assert config.timeouts == Timeouts(keepalive_s=0.0)
    assert config.race == Race(hedge="adaptive")
    assert config.upstream == Upstream(idle_s=1.5)
    assert config.log == Log(calls=False)
    assert (config.providers["sim"].enabled, config.providers["sim"].disabled_why) == (False, "[sim] enabled = false")


def test_a_provider_is_enabled_by_its_variable() -> None:
    text = "[providers.groq]\n"
    off = good(text).providers["groq"]
    assert (off.enabled, off.disabled_why, off.api_keys) == (False, "GROQ_API_KEY is not set", ())
    assert not good(text, GROQ_API_KEY=" \n").providers["groq"].enabled
    on = good(text, GROQ_API_KEY="gsk-1\n").providers["groq"]
    assert (on.enabled, on.disabled_why, on.api_keys) == (True, "", ("gsk-1",))


def test_several_keys_from_several_variables() -> None:
    text = '[providers.groq]\napi_key_env = ["A", "B", "C"]\n'
    assert good(text, A="1", C="3").providers["groq"].api_keys == ("1", "3")
    assert good(text, A="1", B="1").providers["groq"].api_keys == ("1",)
    assert good(text).providers["groq"].disabled_why == "A and B and C are not set"
    assert good('[providers.groq]\napi_key = ["1", "2"]\n').providers["groq"].api_keys == ("1", "2")


def test_what_the_user_writes_comes_before_the_preset() -> None:
    text = """
[providers.second]
preset = "mistral"
base_url = "https://proxy.example/v1/"
api_key_env = "SECOND_KEY"
on_disconnect = "cap"
headers = { X-Title = "me" }
quirks = { include_usage = true }
"""
    provider = good(text, SECOND_KEY="k").providers["second"]
    preset = load_presets()["mistral"]
    assert provider.name == "second"
    assert provider.base_url == "https://proxy.example/v1"
    assert provider.api_keys == ("k",)
    assert provider.on_disconnect == "cap"
    assert provider.headers == {"x-title": "me"}
    assert provider.quirks == msgspec.structs.replace(preset.quirks, include_usage=True)


def test_local_servers_are_off_until_asked_for() -> None:
    assert (
        good("[providers.vllm]\n", VLLM_API_KEY="k").providers["vllm"].disabled_why.startswith("a server of your own")
    )
    on = good("[providers.vllm]\nenabled = true\n").providers["vllm"]
    assert (on.enabled, on.base_url, on.api_keys) == (True, "http://127.0.0.1:8000/v1", ())
    assert good('[providers.vllm]\nbase_url = "http://gpu:8000/v1"\n', VLLM_API_KEY="k").providers["vllm"].api_keys == (
        "k",
    )
    assert not good('[providers.vllm]\nbase_url = "http://gpu/v1"\nenabled = false\n').providers["vllm"].enabled


def test_a_server_no_preset_knows_needs_no_key_unless_it_names_one() -> None:
    text = '[providers.mine]\nbase_url = "http://10.0.0.5:9000"\n'
    assert good(text).providers["mine"].enabled
    assert not good(text + 'api_key_env = "MINE"\n').providers["mine"].enabled
    assert good(text + 'on_disconnect = { drain_s = 10, drain_usd = "0.05" }\n').providers[
        "mine"
    ].on_disconnect == Drain(10.0, parse_usd("0.05"))


def test_enabled_false_wins_over_a_key() -> None:
    provider = good("[providers.openai]\nenabled = false\n", OPENAI_API_KEY="k").providers["openai"]
    assert (provider.enabled, provider.disabled_why) == (False, "enabled = false")


def test_a_model_as_it_is_written() -> None:
    text = MODEL.replace(" } ]", ', cached_input = "1.25", supports = ["stream", "tools"] } ]')
    read = good(text + 'name = "GPT-4o"\ndescription = "d"\ncreated = 5\naliases = ["gpt-4o", "oa/4o"]\n').models[
        "openai/gpt-4o"
    ]
    assert (read.name, read.description, read.created, read.aliases) == ("GPT-4o", "d", 5, ("gpt-4o", "oa/4o"))
    assert (read.owned_by, read.context_window) == ("openai", 128_000)
    only = read.offers[0]
    assert (only.input, only.output, only.cached_input) == (2_500_000, 10_000_000, 1_250_000)
    assert only.supports == frozenset({"stream", "tools"})
