"""Fixtures of one real path: tiny models, llama.cpp serving them, and a gateway in front.

Load with `pytest_plugins = ["tests.real.fixtures"]` in the test module, so that one session has one of each. `via` runs
a test twice, straight to llama.cpp and through the gateway: whatever holds for the one must hold for the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.process import GatewayProcess, wait_until
from tests.real import SLOT_CONTEXT_TOKENS
from tests.real.path import READY_S, TEXT, TOOLS, Llama, LlamaProcess, Route, RunningGateway, Target, TinyModels
from tests.real.tiny_gguf import write_model

SEED = 7
UPSTREAM_TEXT = "tiny-text-v7"  # Unlike the catalogue's ids, so that an id which slips through is seen.
UPSTREAM_TOOLS = "tiny-tools-v7"

CONFIG = """
[server]
bind = ["127.0.0.1:0"]

[providers.llama-text]
kind = "openai"
base_url = "{text_url}/v1"
api_key = "unused"
on_disconnect = "cancel"

[providers.llama-tools]
kind = "openai"
base_url = "{tools_url}/v1"
api_key = "unused"
on_disconnect = "cancel"

[[models]]
id = "{text}"
context_window = {context_tokens}
offers = [ {{ provider = "llama-text", model = "{upstream_text}", input = "1.00", output = "2.00" }} ]

[[models]]
id = "{tools}"
context_window = {context_tokens}
offers = [ {{ provider = "llama-tools", model = "{upstream_tools}", input = "1.00", output = "2.00" }} ]
"""


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Both models, written to a temporary folder."""
    folder = tmp_path_factory.mktemp("models")
    models = TinyModels(text=folder / "text.gguf", tools=folder / "tools.gguf")
    write_model(models.text, seed=SEED, calls_tools=False)
    write_model(models.tools, seed=SEED, calls_tools=True)
    return models


@pytest.fixture(scope="session")
def llama(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    """llama.cpp serving both models, loaded and answering."""
    logs = tmp_path_factory.mktemp("llama")
    with (
        LlamaProcess(tiny_models.text, UPSTREAM_TEXT, logs) as text,
        LlamaProcess(tiny_models.tools, UPSTREAM_TOOLS, logs) as tools,
    ):
        for server in (text, tools):
            wait_until(server.answers, within_s=READY_S, what=f"{server.name} answers")
        yield Llama(text, tools)


@pytest.fixture(scope="session")
def running_gateway(llama: Llama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """`gateway serve` with both llama.cpp servers as its providers, and a key to it."""
    folder = tmp_path_factory.mktemp("gateway")
    config = folder / "config.toml"
    settings = CONFIG.format(
        text_url=llama.text.url,
        tools_url=llama.tools.url,
        text=TEXT,
        tools=TOOLS,
        upstream_text=UPSTREAM_TEXT,
        upstream_tools=UPSTREAM_TOOLS,
        context_tokens=SLOT_CONTEXT_TOKENS,
    )
    config.write_text(settings, encoding="utf-8")
    gateway = GatewayProcess(config, folder / "data", folder)
    key = gateway.create_key().secret
    with gateway:
        yield RunningGateway(gateway, f"{gateway.url}/v1", key)


@pytest.fixture(scope="session")
def direct(llama: Llama) -> Route:
    """Straight to llama.cpp: what the gateway's answers are compared with."""
    return Route(
        Target(f"{llama.text.url}/v1", "unused", UPSTREAM_TEXT),
        Target(f"{llama.tools.url}/v1", "unused", UPSTREAM_TOOLS),
    )


@pytest.fixture(scope="session", params=["direct", "gateway"])
def via(request: pytest.FixtureRequest) -> Route:
    """Each way to the models in turn; the gateway is started only for its own half."""
    if request.param == "direct":
        route: Route = request.getfixturevalue("direct")
        return route
    gateway: RunningGateway = request.getfixturevalue("running_gateway")
    return gateway.route
