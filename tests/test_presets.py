"""Every preset: the URL, headers and quirks it builds, spelled out, and what must be true of all of them."""

from __future__ import annotations

import re
from datetime import date

import msgspec
import pytest

from gateway import __version__
from gateway.config import Drain, Provider, Quirks
from gateway.configfile import parse
from gateway.core.money import PicoUsd, parse_usd
from gateway.providers.openai import ROUTING_FIELDS, adapt_body, build_endpoint
from gateway.providers.presets import load_presets, parse_on_disconnect

PRESETS = load_presets()
FILLED = {"{resource}": "r", "{account_id}": "a", "{account}": "a", "{workspace}": "w", "{region}": "r"} | {
    "{location}": "l",
    "{project}": "p",
}

# fmt: off
URLS: list[tuple[str, str, str | None]] = [
    # the preset, where a chat completion is posted, the variable of its key
    ("openai", "https://api.openai.com/v1/chat/completions", "OPENAI_API_KEY"),
    ("anthropic", "https://api.anthropic.com/v1/chat/completions", "ANTHROPIC_API_KEY"),
    ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions", "GEMINI_API_KEY"),
    ("vertex", "https://{location}-aiplatform.googleapis.com/v1/projects/{project}/locations/{location}/endpoints/openapi/chat/completions", "VERTEX_ACCESS_TOKEN"),
    ("deepseek", "https://api.deepseek.com/chat/completions", "DEEPSEEK_API_KEY"),
    ("xai", "https://api.x.ai/v1/chat/completions", "XAI_API_KEY"),
    ("mistral", "https://api.mistral.ai/v1/chat/completions", "MISTRAL_API_KEY"),
    ("cohere", "https://api.cohere.ai/compatibility/v1/chat/completions", "COHERE_API_KEY"),
    ("perplexity", "https://api.perplexity.ai/chat/completions", "PERPLEXITY_API_KEY"),
    ("moonshot", "https://api.moonshot.ai/v1/chat/completions", "MOONSHOT_API_KEY"),
    ("moonshot-cn", "https://api.moonshot.cn/v1/chat/completions", "MOONSHOT_CN_API_KEY"),
    ("dashscope", "https://dashscope-intl.aliyuncs.com/compatible-mode/v1/chat/completions", "DASHSCOPE_API_KEY"),
    ("dashscope-us", "https://dashscope-us.aliyuncs.com/compatible-mode/v1/chat/completions", "DASHSCOPE_US_API_KEY"),
    ("dashscope-cn", "https://dashscope.aliyuncs.com/compatible-mode/v1/chat/completions", "DASHSCOPE_CN_API_KEY"),
    ("zai", "https://api.z.ai/api/paas/v4/chat/completions", "ZAI_API_KEY"),
    ("zhipu", "https://open.bigmodel.cn/api/paas/v4/chat/completions", "ZHIPUAI_API_KEY"),
    ("minimax", "https://api.minimax.io/v1/chat/completions", "MINIMAX_API_KEY"),
    ("minimax-cn", "https://api.minimaxi.com/v1/chat/completions", "MINIMAX_CN_API_KEY"),
    ("baichuan", "https://api.baichuan-ai.com/v1/chat/completions", "BAICHUAN_API_KEY"),
    ("stepfun", "https://api.stepfun.com/v1/chat/completions", "STEPFUN_API_KEY"),
    ("lingyiwanwu", "https://api.lingyiwanwu.com/v1/chat/completions", "LINGYIWANWU_API_KEY"),
    ("volcengine", "https://ark.cn-beijing.volces.com/api/v3/chat/completions", "ARK_API_KEY"),
    ("hunyuan", "https://api.hunyuan.cloud.tencent.com/v1/chat/completions", "HUNYUAN_API_KEY"),
    ("qianfan", "https://qianfan.baidubce.com/v2/chat/completions", "QIANFAN_API_KEY"),
    ("ai21", "https://api.ai21.com/studio/v1/chat/completions", "AI21_API_KEY"),
    ("upstage", "https://api.upstage.ai/v1/chat/completions", "UPSTAGE_API_KEY"),
    ("inception", "https://api.inceptionlabs.ai/v1/chat/completions", "INCEPTION_API_KEY"),
    ("sarvam", "https://api.sarvam.ai/v1/chat/completions", "SARVAM_API_KEY"),
    ("xiaomi", "https://api.xiaomimimo.com/v1/chat/completions", "XIAOMI_API_KEY"),
    ("groq", "https://api.groq.com/openai/v1/chat/completions", "GROQ_API_KEY"),
    ("together", "https://api.together.ai/v1/chat/completions", "TOGETHER_API_KEY"),
    ("fireworks", "https://api.fireworks.ai/inference/v1/chat/completions", "FIREWORKS_API_KEY"),
    ("cerebras", "https://api.cerebras.ai/v1/chat/completions", "CEREBRAS_API_KEY"),
    ("sambanova", "https://api.sambanova.ai/v1/chat/completions", "SAMBANOVA_API_KEY"),
    ("nvidia", "https://integrate.api.nvidia.com/v1/chat/completions", "NVIDIA_API_KEY"),
    ("deepinfra", "https://api.deepinfra.com/v1/openai/chat/completions", "DEEPINFRA_API_KEY"),
    ("novita", "https://api.novita.ai/openai/v1/chat/completions", "NOVITA_API_KEY"),
    ("nebius", "https://api.tokenfactory.nebius.com/v1/chat/completions", "NEBIUS_API_KEY"),
    ("hyperbolic", "https://api.hyperbolic.xyz/v1/chat/completions", "HYPERBOLIC_API_KEY"),
    ("siliconflow", "https://api.siliconflow.com/v1/chat/completions", "SILICONFLOW_API_KEY"),
    ("siliconflow-cn", "https://api.siliconflow.cn/v1/chat/completions", "SILICONFLOW_CN_API_KEY"),
    ("baseten", "https://inference.baseten.co/v1/chat/completions", "BASETEN_API_KEY"),
    ("scaleway", "https://api.scaleway.ai/v1/chat/completions", "SCW_SECRET_KEY"),
    ("ovhcloud", "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1/chat/completions", "OVH_AI_ENDPOINTS_ACCESS_TOKEN"),
    ("nscale", "https://inference.api.nscale.com/v1/chat/completions", "NSCALE_SERVICE_TOKEN"),
    ("friendli", "https://api.friendli.ai/serverless/v1/chat/completions", "FRIENDLI_TOKEN"),
    ("featherless", "https://api.featherless.ai/v1/chat/completions", "FEATHERLESS_API_KEY"),
    ("chutes", "https://llm.chutes.ai/v1/chat/completions", "CHUTES_API_KEY"),
    ("parasail", "https://api.parasail.io/v1/chat/completions", "PARASAIL_API_KEY"),
    ("inference-net", "https://api.inference.net/v1/chat/completions", "INFERENCE_API_KEY"),
    ("crusoe", "https://api.inference.crusoecloud.com/v1/chat/completions", "CRUSOE_API_KEY"),
    ("digitalocean", "https://inference.do-ai.run/v1/chat/completions", "DIGITALOCEAN_ACCESS_TOKEN"),
    ("vultr", "https://api.vultrinference.com/v1/chat/completions", "VULTR_API_KEY"),
    ("wandb", "https://api.inference.wandb.ai/v1/chat/completions", "WANDB_API_KEY"),
    ("gmicloud", "https://api.gmi-serving.com/v1/chat/completions", "GMICLOUD_API_KEY"),
    ("io-net", "https://api.intelligence.io.solutions/api/v1/chat/completions", "IOINTELLIGENCE_API_KEY"),
    ("modelscope", "https://api-inference.modelscope.cn/v1/chat/completions", "MODELSCOPE_API_KEY"),
    ("ollama-cloud", "https://ollama.com/v1/chat/completions", "OLLAMA_API_KEY"),
    ("venice", "https://api.venice.ai/api/v1/chat/completions", "VENICE_API_KEY"),
    ("azure", "https://{resource}.openai.azure.com/openai/v1/chat/completions", "AZURE_OPENAI_API_KEY"),
    ("cloudflare", "https://api.cloudflare.com/client/v4/accounts/{account_id}/ai/v1/chat/completions", "CLOUDFLARE_API_KEY"),
    ("databricks", "https://{workspace}/serving-endpoints/chat/completions", "DATABRICKS_TOKEN"),
    ("snowflake", "https://{account}.snowflakecomputing.com/api/v2/cortex/v1/chat/completions", "SNOWFLAKE_CORTEX_PAT"),
    ("watsonx", "https://{region}.ml.cloud.ibm.com/ml/gateway/v1/chat/completions", "WATSONX_TOKEN"),
    ("openrouter", "https://openrouter.ai/api/v1/chat/completions", "OPENROUTER_API_KEY"),
    ("huggingface", "https://router.huggingface.co/v1/chat/completions", "HF_TOKEN"),
    ("vercel", "https://ai-gateway.vercel.sh/v1/chat/completions", "AI_GATEWAY_API_KEY"),
    ("github", "https://models.github.ai/inference/chat/completions", "GITHUB_TOKEN"),
    ("requesty", "https://router.requesty.ai/v1/chat/completions", "REQUESTY_API_KEY"),
    ("poe", "https://api.poe.com/v1/chat/completions", "POE_API_KEY"),
    ("nano-gpt", "https://nano-gpt.com/api/v1/chat/completions", "NANO_GPT_API_KEY"),
    ("vllm", "http://127.0.0.1:8000/v1/chat/completions", "VLLM_API_KEY"),
    ("llamacpp", "http://127.0.0.1:8080/v1/chat/completions", None),
    ("ollama", "http://127.0.0.1:11434/v1/chat/completions", None),
    ("lmstudio", "http://127.0.0.1:1234/v1/chat/completions", "LMSTUDIO_API_KEY"),
    ("sglang", "http://127.0.0.1:30000/v1/chat/completions", None),
    ("tgi", "http://127.0.0.1:3000/v1/chat/completions", None),
    ("localai", "http://127.0.0.1:8080/v1/chat/completions", None),
    ("litellm", "http://127.0.0.1:4000/v1/chat/completions", "LITELLM_API_KEY"),
]
# fmt: on

QUIRKS = {
    "gemini": Quirks(
        drop_fields=(
            "store",
            "logit_bias",
            "prompt_cache_key",
            "prompt_cache_retention",
            "safety_identifier",
            "verbosity",
        )
    ),
    "deepseek": Quirks(max_tokens_field="max_tokens"),
    "mistral": Quirks(
        include_usage=False,
        max_tokens_field="max_tokens",
        rename_fields={"seed": "random_seed"},
        drop_fields=(
            "logit_bias",
            "logprobs",
            "top_logprobs",
            "user",
            "store",
            "service_tier",
            "safety_identifier",
            "verbosity",
        ),
    ),
    "groq": Quirks(drop_fields=("logprobs", "logit_bias", "top_logprobs")),
    "cerebras": Quirks(drop_fields=("frequency_penalty", "logit_bias", "presence_penalty", "service_tier")),
    "azure": Quirks(auth_header="api-key"),
}

CANCEL = {
    "openai",
    "azure",
    "anthropic",
    "deepseek",
    "xai",
    "together",
    "fireworks",
    "deepinfra",
    "novita",
    "cohere",
} | {"cloudflare"}


def fill(template: str) -> str:
    for field, value in FILLED.items():
        template = template.replace(field, value)
    return template


def built(name: str, key: str = "k-1") -> Provider:
    """The provider a user gets who names the preset and sets its variable (and fills its URL in)."""
    preset = PRESETS[name]
    lines = [f"[providers.{name}]"]
    if preset.base_url_needed:
        lines.append(f'base_url = "{fill(preset.base_url)}"')
    if preset.local:
        lines.append("enabled = true")
    environ = {preset.api_key_env: key} if preset.api_key_env else {}
    return parse("\n".join(lines), path="config.toml", environ=environ).providers[name]


def head_lines(provider: Provider) -> list[str]:
    return build_endpoint(provider).head.decode("ascii").split("\r\n")


def test_the_tables_here_name_every_preset() -> None:
    assert [row[0] for row in URLS] == list(PRESETS)
    assert len(PRESETS) >= 45
    assert set(QUIRKS) <= set(PRESETS)
    assert set(PRESETS) >= CANCEL


@pytest.mark.parametrize(("name", "url", "variable"), URLS, ids=[row[0] for row in URLS])
def test_url_headers_and_quirks(name: str, url: str, variable: str | None) -> None:
    preset, provider = PRESETS[name], built(name)
    assert provider.enabled, provider.disabled_why
    assert preset.api_key_env == variable
    endpoint = build_endpoint(provider)
    scheme, _, rest = fill(url).partition("://")
    authority, _, path = rest.partition("/")
    host, _, port = authority.partition(":")
    assert (endpoint.tls, endpoint.host, endpoint.server_name) == (scheme == "https", host, host)
    assert endpoint.port == int(port or {"https": 443, "http": 80}[scheme])
    assert endpoint.path == f"/{path}".encode()
    auth = [] if variable is None else ["authorization: Bearer k-1"]
    assert head_lines(provider) == [
        f"POST /{path} HTTP/1.1",
        f"host: {authority}",
        "content-type: application/json",
        "accept: application/json, text/event-stream",
        "accept-encoding: identity",
        f"user-agent: gateway/{__version__}",
        *(["api-key: k-1"] if name == "azure" else auth),
        "content-length: ",
    ]
    assert provider.quirks == QUIRKS.get(name, Quirks())


@pytest.mark.parametrize("name", list(PRESETS))
def test_what_every_preset_owes(name: str) -> None:
    preset = PRESETS[name]
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", name)
    assert preset.title
    assert not preset.base_url.endswith("/")
    assert preset.base_url.startswith("http://127.0.0.1:" if preset.local else "https://")
    assert ("{" in preset.base_url) == preset.base_url_needed
    assert fill(preset.base_url).isascii()
    assert "{" not in fill(preset.base_url)
    assert preset.docs.startswith("https://")
    assert date(2026, 1, 1) <= date.fromisoformat(preset.checked) <= date(2026, 11, 20)
    assert preset.basis
    assert preset.api_key_env or preset.local
    assert not set(preset.quirks.drop_fields) & {"model", "messages", "stream"}
    assert all(new != old for old, new in preset.quirks.rename_fields.items())


def test_no_two_presets_read_the_same_variable() -> None:
    variables = [preset.api_key_env for preset in PRESETS.values() if preset.api_key_env]
    assert len(set(variables)) == len(variables)
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*", variable) for variable in variables)


@pytest.mark.parametrize("name", list(PRESETS))
def test_who_stops_billing_when_the_client_leaves(name: str) -> None:
    drain = Drain(drain_s=10.0, drain_usd=parse_usd("0.05"))
    assert built(name).on_disconnect == ("cancel" if name in CANCEL or PRESETS[name].local else drain)


def members(**values: object) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()}


def adapted(name: str, asked: dict[str, object], *, stream: bool = True) -> dict[str, object]:
    body = adapt_body(members(**asked), upstream_model="m", stream=stream, quirks=PRESETS[name].quirks)
    return msgspec.json.decode(body, type=dict[str, object])


ASKED = {
    "model": "x",
    "messages": [],
    "stream": True,
    "seed": 7,
    "max_completion_tokens": 5,
    "logprobs": True,
    "user": "u",
}


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("openai", ASKED | {"model": "m", "stream_options": {"include_usage": True}}),
        (
            "groq",
            {key: value for key, value in ASKED.items() if key != "logprobs"}
            | {"model": "m", "stream_options": {"include_usage": True}},
        ),
        ("mistral", {"model": "m", "messages": [], "stream": True, "random_seed": 7, "max_tokens": 5}),
        (
            "deepseek",
            {"model": "m", "messages": [], "stream": True, "seed": 7, "max_tokens": 5, "logprobs": True, "user": "u"}
            | {"stream_options": {"include_usage": True}},
        ),
    ],
)
def test_the_body_a_preset_builds(name: str, sent: dict[str, object]) -> None:
    assert adapted(name, ASKED) == sent


def test_the_gateways_own_fields_stay_here() -> None:
    own: dict[str, object] = {name: {"a": 1} for name in ROUTING_FIELDS}
    assert adapted("openai", {"model": "x", "messages": []} | own) == {
        "model": "m",
        "messages": [],
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, b'{"include_usage":true}'),
        ({}, b'{"include_usage":true}'),
        ({"include_usage": False}, b'{"include_usage":true}'),
        ({"include_obfuscation": False}, b'{"include_obfuscation":false,"include_usage":true}'),
        (5, b'{"include_usage":true}'),
    ],
)
def test_usage_is_always_asked_of_a_stream(options: object, sent: bytes) -> None:
    body = adapt_body(members(model="x", stream_options=options), upstream_model="m", stream=True, quirks=Quirks())
    assert body == b'{"model":"m","stream_options":' + sent + b"}"


def test_stream_options_of_a_call_that_does_not_stream() -> None:
    assert "stream_options" not in adapted("openai", {"model": "x", "stream_options": None}, stream=False)
    assert adapted("openai", {"model": "x", "stream_options": {"a": 1}}, stream=False)["stream_options"] == {"a": 1}
    assert "stream_options" not in adapted("mistral", {"model": "x", "stream_options": {"a": 1}}, stream=False)


def test_values_are_copied_byte_for_byte_and_names_are_escaped() -> None:
    raw = (
        b'{"messages" : [ {"role":"user","content":"\\u00e9 \xc3\xa9"} ],"model":"a","n":1e0,"we\\"ird":  {"x": 1.00}}'
    )
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    body = adapt_body(fields, upstream_model='q"m', stream=False, quirks=Quirks())
    assert body == (
        b'{"model":"q\\"m","messages":[ {"role":"user","content":"\\u00e9 \xc3\xa9"} ],"n":1e0,"we\\"ird":{"x": 1.00}}'
    )


def test_a_renamed_field_gives_way_to_one_already_so_named() -> None:
    both = adapted("mistral", {"max_tokens": 1, "max_completion_tokens": 2, "seed": 3, "random_seed": 4})
    assert (both["max_tokens"], both["random_seed"]) == (1, 4)
    null = adapted("mistral", {"model": "x", "max_tokens": None, "max_completion_tokens": 2})
    assert null == {"model": "m", "max_tokens": 2}
    newer = adapt_body(
        members(model="x", max_tokens=3),
        upstream_model="m",
        stream=False,
        quirks=Quirks(max_tokens_field="max_completion_tokens"),
    )
    assert newer == b'{"model":"m","max_completion_tokens":3}'


def provider(**changes: object) -> Provider:
    plain = Provider(name="p", kind="openai", base_url="http://h:9/v1", api_keys=("a", "b"), enabled=True)
    return msgspec.structs.replace(plain, **changes)


def test_a_request_is_head_length_and_body() -> None:
    endpoint = build_endpoint(provider(headers={"User-Agent": "mine", "x-title": "t"}), 1)
    assert endpoint.request(b'{"a":1}') == (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: h:9\r\ncontent-type: application/json\r\n"
        b"accept: application/json, text/event-stream\r\naccept-encoding: identity\r\nuser-agent: mine\r\n"
        b'authorization: Bearer b\r\nx-title: t\r\ncontent-length: 7\r\n\r\n{"a":1}'
    )
    assert "Bearer" not in repr(endpoint)


@pytest.mark.parametrize(
    ("base_url", "host", "port", "tls", "line"),
    [
        ("https://[::1]:8443", "::1", 8443, True, b"host: [::1]:8443"),
        ("https://h:443/a", "h", 443, True, b"host: h\r\n"),
        ("http://h", "h", 80, False, b"host: h\r\n"),
        ("http://H.example:443", "h.example", 443, False, b"host: h.example:443"),
    ],
)
def test_the_host_header(base_url: str, host: str, port: int, tls: bool, line: bytes) -> None:
    endpoint = build_endpoint(provider(base_url=base_url))
    assert (endpoint.host, endpoint.port, endpoint.tls) == (host, port, tls)
    assert line in endpoint.head


@pytest.mark.parametrize(
    "changes",
    [
        {"api_keys": ("secret\r\nx: y",)},
        {"api_keys": ("secret\x00",)},
        {"api_keys": ("secr\u00e9t",)},
        {"api_keys": ("secret\x7f",)},
        {"headers": {"x-secret": "secret\n"}},
        {"headers": {"x\r\ny": "secret"}},
        {"headers": {"": "secret"}},
        {"quirks": Quirks(chat_path="/secret path")},
        {"quirks": Quirks(chat_path="/secret\r\n")},
        {"base_url": "http://ho\u00dft/secret"},
        {"base_url": "ftp://h/secret"},
        {"base_url": ""},
    ],
)
def test_nothing_can_write_a_second_header(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="^provider p: ") as caught:
        build_endpoint(provider(**changes))
    assert "secret" not in str(caught.value).replace("header x-secret", "")


def test_there_is_one_endpoint_for_each_key() -> None:
    assert b"Bearer a\r\n" in build_endpoint(provider()).head
    assert b"authorization" not in build_endpoint(provider(api_keys=())).head
    for keys, index in ((("a", "b"), 2), (("a",), -1), ((), 1)):
        with pytest.raises(ValueError, match="there is none of index"):
            build_endpoint(provider(api_keys=keys), index)


@pytest.mark.parametrize(
    "value",
    ["drain", 5, {}, {"drain_s": 1}, {"drain_s": 1, "drain_usd": 0.05}, {"drain_s": 1, "drain_usd": "1", "x": 1}],
)
def test_a_disconnect_rule_that_is_none(value: object) -> None:
    with pytest.raises(
        ValueError, match=r'^must be "cancel", "cap" or \{ drain_s = 10, drain_usd = "0\.05" \}, drain_usd a'
    ):
        parse_on_disconnect(value)


@pytest.mark.parametrize("seconds", [True, 0, -1, 1e9, float("nan"), float("inf")])
def test_a_time_to_drain_that_makes_no_sense(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"^drain_s must be seconds, more than 0 and at most "):
        parse_on_disconnect({"drain_s": seconds, "drain_usd": "1"})


@pytest.mark.parametrize(
    "usd", ["-1", "+1", "1e3", "1_000", " 1", "1\n", "", ".5", "1.", "NaN", "Infinity", "\u0661", "1" * 14]
)
def test_an_amount_to_drain_that_is_none_is_named(usd: str) -> None:
    with pytest.raises(
        ValueError, match=r"^drain_usd: '.*' is not a decimal number of at least 0; write it as a string"
    ):
        parse_on_disconnect({"drain_s": 1, "drain_usd": usd})


def test_an_amount_to_drain_is_no_finer_than_one_pico_usd() -> None:
    with pytest.raises(ValueError, match=r"^drain_usd: '0\.0000000000001' is finer than one pico-USD; round it$"):
        parse_on_disconnect({"drain_s": 1, "drain_usd": "0.0000000000001"})
    assert parse_on_disconnect({"drain_s": 0.5, "drain_usd": "0.000000000001"}) == Drain(0.5, PicoUsd(1))
