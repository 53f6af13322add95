"""Every kind of mistake in a configuration file: named with its file, line and key, all of them at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.configfile import ConfigError, load, parse

MODEL = """\
[providers.openai]
[[models]]
id = "openai/gpt-4o"
context_window = 128000
offers = [ { provider = "openai", model = "gpt-4o", input = "2.50", output = "10.00" } ]
"""


def problems(text: str, environ: dict[str, str] | None = None) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(text, path="config.toml", environ=environ or {})
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    assert all(str(problem).startswith("config.toml") for problem in caught.value.problems)
    return [(problem.line, problem.key, problem.message) for problem in caught.value.problems]


def model(line: str) -> str:
    """MODEL with one line replaced: `key = ...` for a key of the model, or a whole offers line."""
    key = line.partition(" ")[0]
    return "\n".join(line if old.startswith(f"{key} ") else old for old in MODEL.splitlines()) + "\n"


def offer(members: str) -> str:
    return model(f"offers = [ {{ {members} }} ]")


BAD: list[tuple[str, str, int, str, str]] = [
    # what it is, the file, the line, the key, a part of the message
    ("unknown section", "\n[serverr]\n", 2, "serverr", "unknown key; did you mean server?"),
    ("unknown key", "[server]\nbindd = []\n", 2, "server.bindd", "unknown key; did you mean bind?"),
    ("unknown key, nothing near", "[server]\nqqqq = 1\n", 2, "server.qqqq", "unknown key"),
    ("unknown top-level value", "answer = 42\n", 1, "answer", "unknown key"),
    ("section that is no table", "server = 3\n", 1, "server", "must be a table, not an integer"),
    ("text for a number", '[timeouts]\nconnect_s = "5"\n', 2, "timeouts.connect_s", "expected `float`, got `str`"),
    ("true for a number", "[timeouts]\nconnect_s = true\n", 2, "timeouts.connect_s", "expected `float`, got `bool`"),
    ("float for a count", "[server]\nheader_s = 1\nconnections_max = 2.5\n", 3, "server.connections_max", "`int`"),
    ("negative", "[timeouts]\n\nidle_s = -1\n", 3, "timeouts.idle_s", "-1 must be more than 0"),
    ("zero where there must be time", "[timeouts]\ntotal_s = 0\n", 2, "timeouts.total_s", "must be more than 0"),
    ("not a number", "[timeouts]\ntotal_s = nan\n", 2, "timeouts.total_s", "finite"),
    ("endless", "[timeouts]\ntotal_s = inf\n", 2, "timeouts.total_s", "finite"),
    ("more than a day", "[timeouts]\ntotal_s = 1e9\n", 2, "timeouts.total_s", "at most 86400 seconds"),
    ("no bytes", "[server]\ninference_body_bytes_max = 0\n", 2, "server.inference_body_bytes_max", "at least 1"),
    ("share above one", "[race]\nhedge_share_max = 1.5\n", 2, "race.hedge_share_max", "at most 1"),
    ("no attempt", "[race]\nattempts_max = 0\n", 2, "race.attempts_max", "at least 1"),
    ("bad choice", '[race]\nhedge = "always"\n', 2, "race.hedge", "invalid enum value 'always'"),
    ("bad log level", '[log]\nlevel = "loud"\n', 2, "log.level", "invalid enum value"),
    ("sim, negative pace", "[sim]\ntoken_gap_s = -0.1\n", 2, "sim.token_gap_s", "at least 0"),
    (
        "bodies that never fit",
        "[server]\nbodies_in_memory_bytes_max = 1\n",
        2,
        "server.bodies_in_memory_bytes_max",
        "fits",
    ),
    ("bind without port", '[server]\nbind = ["127.0.0.1"]\n', 2, "server.bind", "HOST:PORT"),
    ("bind, port too high", '[server]\nbind = ["127.0.0.1:65536"]\n', 2, "server.bind", "HOST:PORT"),
    ("bind, bare IPv6", '[server]\nbind = ["::1:8080"]\n', 2, "server.bind", "[::1]:8080"),
    ("bind twice", '[server]\nbind = ["a:80", "a:80"]\n', 2, "server.bind", "given twice"),
    ("bind nothing", "[server]\nbind = []\n", 2, "server.bind", "at least one"),
    ("bind is no list", '[server]\nbind = "127.0.0.1:80"\n', 2, "server.bind", "expected `array`"),
    ("empty data_dir", '[server]\ndata_dir = " "\n', 2, "server.data_dir", "must not be empty"),
    ("certfile alone", '[server]\ncertfile = "a.pem"\n', 2, "server.certfile", "without keyfile"),
    ("keyfile alone", '[server]\nkeyfile = "a.pem"\n', 2, "server.keyfile", "without certfile"),
    ("no preset", "[providers.grok]\n", 1, "providers.grok", "no preset is named 'grok'; did you mean groq?"),
    ("provider is no table", 'providers.openai = "x"\n', 1, "providers.openai", "must be a table, not a string"),
    (
        "misspelt key",
        "[providers.openai]\n# one\nbase_ur = 1\n",
        3,
        "providers.openai.base_ur",
        "did you mean base_url?",
    ),
    ("bad name", '[providers."a b"]\nbase_url = "http://h"\n', 1, 'providers."a b"', "bad provider name"),
    ("the name sim", "[providers.sim]\n", 1, "providers.sim", "set [sim] instead"),
    ("bad kind", '[providers.openai]\nkind = "grpc"\n', 2, "providers.openai.kind", "'grpc' is no adapter"),
    ("unknown preset", '[providers.a]\npreset = "opnai"\n', 2, "providers.a.preset", "did you mean openai?"),
    ("URL without scheme", '[providers.a]\nbase_url = "h/v1"\n', 2, "providers.a.base_url", "http:// or https://"),
    ("URL with user", '[providers.a]\nbase_url = "http://u:p@h"\n', 2, "providers.a.base_url", "user name"),
    ("URL with query", '[providers.a]\nbase_url = "http://h/?a=1"\n', 2, "providers.a.base_url", "query"),
    ("URL with braces", '[providers.a]\nbase_url = "http://{x}/"\n', 2, "providers.a.base_url", "braces"),
    ("URL with a line end", '[providers.a]\nbase_url = "http://h\\r\\nx: y"\n', 2, "providers.a.base_url", "control"),
    ("URL with a bad port", '[providers.a]\nbase_url = "http://h:99999"\n', 2, "providers.a.base_url", "is no URL"),
    ("URL template", "[providers.azure]\n", 1, "providers.azure", "base_url is needed"),
    (
        "both kinds of key",
        '[providers.openai]\napi_key = "a"\napi_key_env = "B"\n',
        2,
        "providers.openai.api_key",
        "not both",
    ),
    ("empty key", '[providers.openai]\napi_key = ""\n', 2, "providers.openai.api_key", "printable ASCII"),
    ("key with line end", '[providers.openai]\napi_key = "a\\nb"\n', 2, "providers.openai.api_key", "printable ASCII"),
    ("no keys", "[providers.openai]\napi_key_env = []\n", 2, "providers.openai.api_key_env", "not empty"),
    ("key is a number", "[providers.openai]\napi_key = 5\n", 2, "providers.openai.api_key", "list of strings"),
    (
        "key for a name",
        '[providers.openai]\napi_key_env = "sk-1"\n',
        2,
        "providers.openai.api_key_env",
        "no variable name",
    ),
    ("bad drain", '[providers.openai]\non_disconnect = "drain"\n', 2, "providers.openai.on_disconnect", '"cancel"'),
    (
        "float drain",
        "[providers.openai]\non_disconnect = { drain_s = 1, drain_usd = 0.05 }\n",
        2,
        "providers.openai.on_disconnect",
        "decimal string",
    ),
    (
        "endless drain",
        '[providers.openai]\non_disconnect = { drain_s = 1e9, drain_usd = "1" }\n',
        2,
        "providers.openai.on_disconnect",
        "at most 600",
    ),
    (
        "header of ours",
        '[providers.openai.headers]\nHost = "x"\n',
        2,
        "providers.openai.headers.Host",
        "set by the gateway",
    ),
    (
        "header with line end",
        '[providers.openai]\nheaders = { x-a = "1\\r\\n2" }\n',
        2,
        "providers.openai.headers.x-a",
        "ASCII",
    ),
    ("header twice", '[providers.openai.headers]\nx-a = "1"\nX-A = "2"\n', 3, "providers.openai.headers.X-A", "twice"),
    (
        "bad quirk",
        "[providers.openai.quirks]\ninclude_usage = 1\n",
        2,
        "providers.openai.quirks.include_usage",
        "`bool`",
    ),
    ("unknown quirk", "[providers.openai.quirks]\ndrop = []\n", 2, "providers.openai.quirks.drop", "unknown key"),
    (
        "bad path",
        '[providers.openai.quirks]\nchat_path = "x"\n',
        2,
        "providers.openai.quirks.chat_path",
        "begin with /",
    ),
    ("no such CA", '[providers.openai]\nca_file = "/nonexistent/ca"\n', 2, "providers.openai.ca_file", "No such file"),
    ("models is a table", "[models]\n", 1, "models", "array of tables"),
    (
        "no id",
        '[[models]]\ncontext_window = 1\noffers = [{ provider = "sim", model = "x", input = "0", output = "0" }]\n',
        1,
        "models[0]",
        "id is missing",
    ),
    ("id without author", model('id = "gpt-4o"'), 3, "models[0].id", "author/slug"),
    ("id with two slashes", model('id = "a/b/c"'), 3, "models[0].id", "author/slug"),
    ("no window", MODEL.replace("context_window", "# "), 2, "models[0]", "context_window is missing"),
    ("window zero", model("context_window = 0"), 4, "models[0].context_window", "1 to"),
    ("no offers", model("offers = []"), 5, "models[0].offers", "no offers"),
    ("offers missing", MODEL.replace("offers", "# "), 2, "models[0]", "no offers"),
    (
        "unpriced",
        offer('provider = "openai", model = "m"'),
        5,
        "models[0].offers[0]",
        "unpriced model: input and output",
    ),
    (
        "no output price",
        offer('provider = "openai", model = "m", input = "1"'),
        5,
        "models[0].offers[0]",
        "output missing",
    ),
    (
        "unknown provider",
        offer('provider = "opena", model = "m", input = "1", output = "1"'),
        5,
        "models[0].offers[0].provider",
        "did you mean openai?",
    ),
    (
        "preset that is not listed",
        offer('provider = "groq", model = "m", input = "1", output = "1"'),
        5,
        "models[0].offers[0].provider",
        "add a [providers.groq] table",
    ),
    ("no provider", offer('model = "m", input = "1", output = "1"'), 5, "models[0].offers[0]", "provider is missing"),
    (
        "float price",
        offer('provider = "openai", model = "m", input = 2.5, output = "1"'),
        5,
        "models[0].offers[0].input",
        'write "2.5" in quotes',
    ),
    (
        "negative price",
        offer('provider = "openai", model = "m", input = "-1", output = "1"'),
        5,
        "models[0].offers[0].input",
        "no price",
    ),
    (
        "price with an exponent",
        offer('provider = "openai", model = "m", input = "1e999999999", output = "1"'),
        5,
        "models[0].offers[0].input",
        "no price",
    ),
    (
        "price too fine",
        offer('provider = "openai", model = "m", input = "0.0000001", output = "1"'),
        5,
        "models[0].offers[0].input",
        "finer than one pico-USD per token",
    ),
    (
        "bad cached price",
        offer('provider = "openai", model = "m", input = "1", output = "1", cached_input = "x"'),
        5,
        "models[0].offers[0].cached_input",
        "no price",
    ),
    (
        "bad cache write price",
        offer('provider = "openai", model = "m", input = "1", output = "1", cache_write = "-1"'),
        5,
        "models[0].offers[0].cache_write",
        "no price; write USD per 1M tokens",
    ),
    (
        "float reasoning price",
        offer('provider = "openai", model = "m", input = "1", output = "1", reasoning = 1.5'),
        5,
        "models[0].offers[0].reasoning",
        'write "1.5" in quotes',
    ),
    (
        "bad price per call",
        offer('provider = "openai", model = "m", input = "1", output = "1", request = "1e3"'),
        5,
        "models[0].offers[0].request",
        "no price; write USD per call",
    ),
    (
        "integer price per call",
        offer('provider = "openai", model = "m", input = "1", output = "1", request = 1'),
        5,
        "models[0].offers[0].request",
        'write "1" in quotes',
    ),
    (
        "cache write price too fine",
        offer('provider = "openai", model = "m", input = "1", output = "1", cache_write = "0.0000001"'),
        5,
        "models[0].offers[0].cache_write",
        "finer than one pico-USD per token",
    ),
    (
        "unknown ability",
        offer('provider = "openai", model = "m", input = "1", output = "1", supports = ["tool"]'),
        5,
        "models[0].offers[0].supports",
        "did you mean tools?",
    ),
    (
        "unknown key of an offer",
        offer('provider = "openai", model = "m", input = "1", output = "1", inptu = "1"'),
        5,
        "models[0].offers[0].inptu",
        "unknown key",
    ),
    (
        "sim id elsewhere",
        model('id = "sim/x"'),
        5,
        "models[0].offers[0].provider",
        "only be offered by the sim provider",
    ),
    (
        "sim for a real model",
        offer('provider = "sim", model = "words", input = "0", output = "0"'),
        5,
        "models[0].offers[0].provider",
        "a real model never uses it",
    ),
    ("id twice", MODEL + MODEL.partition("\n")[2], 7, "models[1].id", "duplicate model id"),
    ("alias of its own id", MODEL + 'aliases = ["openai/gpt-4o"]\n', 6, "models[0].aliases", "duplicate name"),
    ("alias under sim", MODEL + 'aliases = ["sim/words"]\n', 6, "models[0].aliases", "belong to the sim provider"),
    ("bad alias", MODEL + 'aliases = ["a b"]\n', 6, "models[0].aliases", "no model name"),
    ("price of a model in text", MODEL + 'price = "3.00"\n', 6, "models[0].price", 'must be "free" or a table'),
    ("price of a model as a number", MODEL + "price = 3\n", 6, "models[0].price", 'must be "free" or a table'),
    ("unpriced price", MODEL + 'price = { input = "1" }\n', 6, "models[0].price", "unpriced model: output missing"),
    (
        "bad price of a model",
        MODEL + 'price = { input = "1", output = "x" }\n',
        6,
        "models[0].price.output",
        "no price",
    ),
    (
        "bad price per call of a model",
        MODEL + 'price = { input = "1", output = "1", request = "x" }\n',
        6,
        "models[0].price.request",
        "USD per call",
    ),
    (
        "unknown key of a price",
        MODEL + 'price = { input = "1", output = "1", cached = "1" }\n',
        6,
        "models[0].price.cached",
        "did you mean cached_input?",
    ),
    (
        "bad price in a table of its own",
        MODEL + '[models.price]\ninput = "1"\noutput = "1"\nreasoning = 2\n',
        9,
        "models[0].price.reasoning",
        'write "2" in quotes',
    ),
    ("float markup", MODEL + "markup = 0.25\n", 6, "models[0].markup", 'write "0.25" in quotes'),
    (
        "negative markup",
        MODEL + 'markup = "-0.1"\n',
        6,
        "models[0].markup",
        'no markup; write a fraction such as "0.25" for 25%',
    ),
    ("markup in percent", MODEL + 'markup = "25%"\n', 6, "models[0].markup", "no markup"),
    (
        "no answer at all",
        MODEL + "completion_tokens_max = 0\n",
        6,
        "models[0].completion_tokens_max",
        "in tokens, 1 to",
    ),
    (
        "answer in text",
        MODEL + 'completion_tokens_max = "8192"\n',
        6,
        "models[0].completion_tokens_max",
        "expected `int`",
    ),
    ("negative time", MODEL + "created = -1\n", 6, "models[0].created", "Unix time"),
    ("syntax", "[server]\nbind = \n", 2, "", "not valid TOML"),
    ("syntax at the end", "[server]\n\nbind = [1,\n\n", 3, "", "not valid TOML"),
    ("key twice", "[server]\ngrace_s = 1\ngrace_s = 2\n", 3, "", "not valid TOML"),
]


@pytest.mark.parametrize(("text", "line", "key", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_each_mistake_is_named_with_its_line_and_key(text: str, line: int, key: str, message: str) -> None:
    found = problems(text)
    assert [(where, what) for where, what, _ in found] == [(line, key)]
    assert message in found[0][2]


def test_a_problem_reads_like_a_compiler_message() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("[providers.openai]\nbase_ur = 'x'\n", path="config.toml", environ={})
    assert str(caught.value) == "config.toml:2: providers.openai.base_ur: unknown key; did you mean base_url?"


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    text = "[server]\nbindd = 1\n[timeouts]\nidle_s = -1\n" + MODEL.replace('"2.50"', "2.50").replace(
        'id = "', 'id = "/'
    )
    assert [(line, key) for line, key, _ in problems(text)] == [
        (2, "server.bindd"),
        (4, "timeouts.idle_s"),
        (7, "models[0].id"),
        (9, "models[0].offers[0].input"),
    ]


def test_two_models_may_not_share_an_alias() -> None:
    second = MODEL.partition("\n")[2].replace("gpt-4o", "gpt-5")
    text = MODEL + 'aliases = ["best"]\n' + second + 'aliases = ["best"]\n'
    assert problems(text) == [(11, "models[1].aliases", "duplicate name 'best': already another alias")]


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config.toml: cannot read it: No such file"):
        load(tmp_path / "config.toml", environ={})
    (tmp_path / "config.toml").write_bytes(b"[server]\n# \xff\n")
    with pytest.raises(ConfigError, match=r"config.toml:2: is not UTF-8"):
        load(tmp_path / "config.toml", environ={})


def test_absurd_nesting_is_a_problem_and_no_crash() -> None:
    assert problems("a = " + "[" * 100_000)[0][2].startswith("not valid TOML")


def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    text = f'[server]\ncertfile = "{cert}"\nkeyfile = "{key}"\n'
    assert [(line, key) for line, key, _ in problems(text)] == [(2, "server.certfile"), (3, "server.keyfile")]
    cert.write_text("no certificate")
    key.write_text("no key")
    found = problems(text)
    assert [(line, key) for line, key, _ in found] == [(2, "server.certfile")]
    assert "PEM" in found[0][2]


def test_no_message_repeats_a_secret() -> None:
    secret = "sk-very secret"
    text = f'[providers.openai]\napi_key = "{secret}"\n[providers.groq]\nheaders = {{ x-key = "{secret}\\n" }}\n'
    found = problems(text + "[providers.mistral]\n", {"MISTRAL_API_KEY": secret})
    assert len(found) == 3
    assert not any("secret" in message for _, _, message in found)
