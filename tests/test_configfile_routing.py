"""The keys of routing: what providers, offers and models say of themselves, the race, affinity and the auto router."""

from __future__ import annotations

import pytest

from gateway.config import Auto, Config, ModelRace, Offer, Race, Routing
from gateway.configfile import ConfigError, parse
from gateway.core.money import PicoUsd, parse_usd

MODEL = """\
[providers.openai]
[[models]]
id = "openai/gpt-4o"
context_window = 128000
offers = [ { provider = "openai", model = "gpt-4o", input = "2.50", output = "10.00" } ]
"""
MODELS = """\
[providers.openai]
[[models]]
id = "openai/gpt-4o"
context_window = 1000
aliases = ["gpt-4o"]
offers = [ { provider = "openai", model = "gpt-4o", input = "1", output = "1" } ]
[[models]]
id = "openai/gpt-5"
context_window = 1000
price = "free"
offers = [ { provider = "openai", model = "gpt-5", input = "1", output = "1" } ]
[[models]]
id = "sim/words"
context_window = 1000
price = "free"
offers = [ { provider = "sim", model = "words", input = "0", output = "0" } ]
[[models]]
id = "openai/embed"
context_window = 1000
offers = [ { provider = "openai", model = "embed", input = "1", output = "0", supports = ["embeddings"] } ]
"""
LINES = MODELS.count("\n")


def good(text: str, **environ: str) -> Config:
    return parse(text, path="config.toml", environ=environ)


def offer(members: str) -> str:
    return MODEL.replace(" } ]\n", f", {members} }} ]\n")


def test_without_a_word_of_it_all_is_as_the_defaults_say() -> None:
    config = good(MODEL)
    assert (config.race, config.routing, config.auto) == (Race(), Routing(), Auto({}, {}))
    assert config.race.hedge_usd_per_day == parse_usd("1.00")
    assert (config.models["openai/gpt-4o"].balance, config.models["openai/gpt-4o"].race) == ("price", None)
    assert config.models["openai/gpt-4o"].offers == (
        Offer("openai", "gpt-4o", PicoUsd(2_500_000), PicoUsd(10_000_000)),
    )


def test_the_race_and_routing_sections_as_they_are_written() -> None:
    text = """
[race]
hedge_usd_per_day = "0"
hedge_delay_min_s = 0
retry_share_max = 0
retries_per_s_min = 0.5
[routing]
affinity_s = 0
affinity_conversations_max = 1
probe_every_s = 30
"""
    config = good(text)
    assert config.race == Race(
        hedge_usd_per_day=PicoUsd(0), hedge_delay_min_s=0.0, retry_share_max=0.0, retries_per_s_min=0.5
    )
    assert config.routing == Routing(affinity_s=0.0, affinity_conversations_max=1, probe_every_s=30.0)
    assert good('[race]\nhedge_usd_per_day = "2.5"\n').race.hedge_usd_per_day == 2_500_000_000_000


@pytest.mark.parametrize(
    ("keys", "collects_data", "zdr"),
    [
        ("", True, False),
        ("collects_data = false", False, False),
        ("collects_data = true", True, False),
        ("zdr = true", False, True),
        ("zdr = true\ncollects_data = false", False, True),
        ("zdr = false\ncollects_data = true", True, False),
    ],
)
def test_a_provider_collects_data_unless_somebody_says_otherwise(keys: str, collects_data: bool, zdr: bool) -> None:
    provider = good(f"[providers.openai]\n{keys}\n").providers["openai"]
    assert (provider.collects_data, provider.zdr) == (collects_data, zdr)


def test_the_sim_provider_keeps_nothing() -> None:
    sim = good("").providers["sim"]
    assert (sim.collects_data, sim.zdr) == (False, True)


def test_an_offer_as_it_is_written() -> None:
    text = offer(
        'quantization = "fp8", context_window = 64_000, completion_tokens_max = 100, tag = "us-east5", '
        'parameters = ["temperature", "top_n", "temperature"]'
    )
    only = good(text).models["openai/gpt-4o"].offers[0]
    assert (only.quantization, only.context_window, only.completion_tokens_max) == ("fp8", 64_000, 100)
    assert (only.tag, only.parameters) == ("us-east5", frozenset({"temperature", "top_n"}))
    assert good(offer("parameters = []")).models["openai/gpt-4o"].offers[0].parameters == frozenset()


@pytest.mark.parametrize(
    ("line", "race"),
    [
        ('race = { mode = "off" }', ModelRace("off", None)),
        ('race = { mode = "hedge", max_extra_cost = "0.01" }', ModelRace("hedge", parse_usd("0.01"))),
        ('race = { mode = "all", max_extra_cost = "0" }', ModelRace("all", PicoUsd(0))),
        ('[models.race]\nmode = "all"', ModelRace("all", None)),
    ],
)
def test_the_race_of_a_model(line: str, race: ModelRace) -> None:
    model = good(f'{MODEL}balance = "order"\n{line}\n').models["openai/gpt-4o"]
    assert (model.balance, model.race) == ("order", race)


def test_a_pool_holds_ids_whichever_name_the_file_uses() -> None:
    text = '[auto.pools]\ngeneral = ["gpt-4o", "openai/gpt-5"]\ncoding = ["openai/gpt-5"]\n'
    auto = good(MODELS + text + '[auto.free_pools]\ngeneral = ["openai/gpt-5"]\n').auto
    assert auto.pools == {"general": ("openai/gpt-4o", "openai/gpt-5"), "coding": ("openai/gpt-5",)}
    assert auto.free_pools == {"general": ("openai/gpt-5",)}


def test_empty_tables_serve_no_auto_router() -> None:
    assert good(MODELS + "[auto.pools]\n[auto.free_pools]\n").auto == good(MODELS).auto == Auto({}, {})
    assert good(MODELS + '[auto.free_pools]\ngeneral = ["openai/gpt-5"]\n').auto.pools == {}


POOLS = """
[auto.pools]
general = ["openai/gpt-4o", "sim/words"]
coding = ["sim/words"]
[auto.free_pools]
general = ["sim/words"]
trivial = ["openai/gpt-5"]
"""


def test_the_sim_provider_leaves_the_pools_with_the_first_real_model() -> None:
    without = good(MODELS + POOLS).auto
    assert without.pools == {"general": ("openai/gpt-4o", "sim/words"), "coding": ("sim/words",)}
    assert without.free_pools == {"general": ("sim/words",), "trivial": ("openai/gpt-5",)}
    with_key = good(MODELS + POOLS, OPENAI_API_KEY="k").auto
    assert with_key.pools == {"general": ("openai/gpt-4o",)}
    assert with_key.free_pools == {}  # without a pool for general there is no router


def test_a_key_of_a_provider_without_models_leaves_the_sim_provider_in_the_pools() -> None:
    assert good("[providers.groq]\n" + MODELS + POOLS, GROQ_API_KEY="k").auto == good(MODELS + POOLS).auto


OFFER = "models[0].offers[0]"
BAD: list[tuple[str, str, int, str, str]] = [
    # what it is, the file, the line, the key, a part of the message
    ("data policy in words", '[providers.openai]\ncollects_data = "no"\n', 2, "providers.openai.collects_data", "`bool`"),
    ("data policy misspelt", "[providers.openai]\ncollect_data = true\n", 2, "providers.openai.collect_data", "did you mean collects_data?"),
    ("zdr as a number", "[providers.openai]\nzdr = 1\n", 2, "providers.openai.zdr", "`bool`"),
    ("keeps nothing and collects", "[providers.openai]\nzdr = true\ncollects_data = true\n", 2, "providers.openai.zdr", "nothing is kept"),
    ("unknown quantization", offer('quantization = "fp7"'), 5, f"{OFFER}.quantization", "'fp7'; did you mean fp"),
    ("far from any quantization", offer('quantization = "QQQ"'), 5, f"{OFFER}.quantization", "known are int4, int8"),
    ("quantization as a number", offer("quantization = 8"), 5, f"{OFFER}.quantization", "expected `str`"),
    ("no window of an offer", offer("context_window = 0"), 5, f"{OFFER}.context_window", "in tokens, 1 to"),
    ("window of an offer in text", offer('context_window = "8k"'), 5, f"{OFFER}.context_window", "expected `int`"),
    ("no answer of an offer", offer("completion_tokens_max = -1"), 5, f"{OFFER}.completion_tokens_max", "in tokens, 1 to"),
    ("parameter misspelt", offer('parameters = ["temprature"]'), 5, f"{OFFER}.parameters", "did you mean temperature?"),
    ("parameter in capitals", offer('parameters = ["Top_P"]'), 5, f"{OFFER}.parameters", "did you mean top_p?"),
    ("parameter that is none", offer('parameters = ["top p"]'), 5, f"{OFFER}.parameters", "no field of a request"),
    ("parameters in one text", offer('parameters = "seed"'), 5, f"{OFFER}.parameters", "expected `array`"),
    ("tag in capitals", offer('tag = "US"'), 5, f"{OFFER}.tag", "a-z, 0-9"),
    ("tag with a slash", offer('tag = "a/b"'), 5, f"{OFFER}.tag", "a-z, 0-9"),
    ("empty tag", offer('tag = ""'), 5, f"{OFFER}.tag", "not empty"),
    ("two tags of one offer", offer('tag = "a" }, { provider = "openai", model = "gpt-4o", input = "1", output = "1", tag = "b"'), 5, "models[0].offers[1]", "duplicate offer"),
    ("unknown balance", MODEL + 'balance = "prices"\n', 6, "models[0].balance", "did you mean price?"),
    ("balance as a flag", MODEL + "balance = true\n", 6, "models[0].balance", "expected `str`"),
    ("race in a word", MODEL + 'race = "all"\n', 6, "models[0].race", "must be a table, not a string"),
    ("race without mode", MODEL + 'race = { max_extra_cost = "1" }\n', 6, "models[0].race", "mode is missing: one of off, hedge, all"),
    ("empty race", MODEL + "race = {}\n", 6, "models[0].race", "mode is missing"),
    ("unknown race", MODEL + 'race = { mode = "hedged" }\n', 6, "models[0].race.mode", "did you mean hedge?"),
    ("cost as a float", MODEL + 'race = { mode = "all", max_extra_cost = 0.01 }\n', 6, "models[0].race.max_extra_cost", 'write "0.01" in quotes'),
    ("cost below nothing", MODEL + 'race = { mode = "all", max_extra_cost = "-1" }\n', 6, "models[0].race.max_extra_cost", "write USD, such as"),
    ("unknown key of a race", MODEL + 'race = { mode = "all", max_cost = "1" }\n', 6, "models[0].race.max_cost", "did you mean max_extra_cost?"),
    ("hedge budget as a number", "[race]\nhedge_usd_per_day = 1\n", 2, "race.hedge_usd_per_day", 'write "1" in quotes'),
    ("hedge budget in words", '[race]\nhedge_usd_per_day = "1 USD"\n', 2, "race.hedge_usd_per_day", "write USD, such as"),
    ("hedge budget too fine", '[race]\nhedge_usd_per_day = "0.0000000000001"\n', 2, "race.hedge_usd_per_day", "write USD, such as"),
    ("floor below nothing", "[race]\nhedge_delay_min_s = -1\n", 2, "race.hedge_delay_min_s", "at least 0 and at most 86400 seconds"),
    ("retry share above one", "[race]\nretry_share_max = 20\n", 2, "race.retry_share_max", "at most 1"),
    ("retries below nothing", "[race]\nretries_per_s_min = -0.5\n", 2, "race.retries_per_s_min", "at least 0"),
    ("endless retries", "[race]\nretries_per_s_min = inf\n", 2, "race.retries_per_s_min", "finite"),
    ("more retries than can be", "[race]\nretries_per_s_min = 1e7\n", 2, "race.retries_per_s_min", "at most 1000000 a second"),
    ("race misspelt", "[race]\nretry_share = 1\n", 2, "race.retry_share", "did you mean retry_share_max?"),
    ("affinity below nothing", "[routing]\naffinity_s = -1\n", 2, "routing.affinity_s", "at least 0"),
    ("affinity beyond a day", "[routing]\naffinity_s = 1e6\n", 2, "routing.affinity_s", "at most 86400 seconds"),
    ("affinity of none", "[routing]\naffinity_conversations_max = 0\n", 2, "routing.affinity_conversations_max", "at least 1"),
    ("half a conversation", "[routing]\naffinity_conversations_max = 1.5\n", 2, "routing.affinity_conversations_max", "`int`"),
    ("probing below nothing", "[routing]\nprobe_every_s = -1\n", 2, "routing.probe_every_s", "at least 0"),
    ("routing misspelt", "[routing]\naffinity = 5\n", 2, "routing.affinity", "did you mean affinity_s?"),
    ("alias of the auto router", MODEL + 'aliases = ["auto"]\n', 6, "models[0].aliases", "'auto' names the auto router"),
    ("alias of the free one", MODEL + 'aliases = ["auto:free"]\n', 6, "models[0].aliases", "names the auto router"),
    ("id of the auto router", MODEL.replace("openai/gpt-4o", "auto"), 3, "models[0].id", "must be author/slug"),
    ("auto is no table", "auto = true\n", 1, "auto", "must be a table, not a boolean"),
    ("auto misspelt", "[auto.pool]\n", 1, "auto.pool", "did you mean pools?"),
]  # fmt: skip
BAD_POOLS: list[tuple[str, str, int, str, str]] = [
    # the same; the lines follow those of MODELS
    ("unknown class", '[auto.pools]\ngeneral = ["gpt-4o"]\ncodeing = ["gpt-4o"]\n', 3, "auto.pools.codeing", "did you mean coding?"),
    ("class far from any", '[auto.pools]\ngeneral = ["gpt-4o"]\nqq = ["gpt-4o"]\n', 3, "auto.pools.qq", "known are tool_call, trivial"),
    ("no general", '[auto.pools]\ncoding = ["gpt-4o"]\n', 1, "auto.pools", "general is missing"),
    ("no general for nothing", '[auto.free_pools]\ncoding = ["openai/gpt-5"]\n', 1, "auto.free_pools", "general is missing"),
    ("empty pool", "[auto.pools]\n\ngeneral = []\n", 3, "auto.pools.general", "at least one model"),
    ("pool in one text", '[auto.pools]\ngeneral = "gpt-4o"\n', 2, "auto.pools.general", "expected `array`"),
    ("pools in a list", "[auto]\npools = []\n", 2, "auto.pools", "must be a table, not an array"),
    ("unknown model", '[auto.pools]\ngeneral = [\n  "gpt-4o",\n  "openai/gpt-6",\n]\n', 4, "auto.pools.general[1]", "'openai/gpt-6' is no model of this file; did you mean openai/gpt-5?"),
    ("auto itself", '[auto.pools]\ngeneral = ["auto"]\n', 2, "auto.pools.general[0]", "no model of this file"),
    ("model twice", '[auto.pools]\ngeneral = ["gpt-4o", "openai/gpt-4o"]\n', 2, "auto.pools.general[1]", "given twice"),
    ("embeddings", '[auto.pools]\ngeneral = ["openai/embed"]\n', 2, "auto.pools.general[0]", "embeddings model"),
    ("not free", '[auto.free_pools]\ngeneral = ["openai/gpt-5", "gpt-4o"]\n', 2, "auto.free_pools.general[1]", "'openai/gpt-4o' is not free"),
]  # fmt: skip
ROWS = BAD + [(name, MODELS + text, LINES + line, key, part) for name, text, line, key, part in BAD_POOLS]


@pytest.mark.parametrize(("text", "line", "key", "message"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_each_mistake_is_named_with_its_line_and_key(text: str, line: int, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        good(text)
    assert [(problem.line, problem.key) for problem in caught.value.problems] == [(line, key)]
    assert message in caught.value.problems[0].message
