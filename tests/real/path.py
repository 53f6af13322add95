"""The parts of one real path: llama.cpp serving tiny models, a gateway in front, and the addresses a client is given.

`tests/real/fixtures.py` puts them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.process import GatewayProcess, ServerProcess

TEXT = "tiny/text"
TOOLS = "tiny/tools"
READY_S = 15.0


class LlamaProcess(ServerProcess):
    """llama.cpp serving one model under one name; see `tests/real/llama_server.py`."""

    def __init__(self, model: Path, alias: str, logs: Path) -> None:
        self.alias = alias
        super().__init__(alias, ["-m", "tests.real.llama_server", str(model), "0", alias], logs)

    def answers(self) -> bool:
        """Whether a completion of one token comes back; asked until the model is loaded."""
        body = {"model": self.alias, "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=READY_S, trust_env=False)
        return answer.status_code == httpx.codes.OK

    def slots_busy(self) -> int:
        """How many generations are running now."""
        slots = httpx.get(f"{self.url}/slots", timeout=READY_S, trust_env=False).raise_for_status().json()
        return sum(slot["is_processing"] for slot in slots)


@dataclass(frozen=True, slots=True)
class TinyModels:
    """GGUF files: one that writes text and JSON, one that calls tools."""

    text: Path
    tools: Path


@dataclass(frozen=True, slots=True)
class Llama:
    """The two inference servers, one model each."""

    text: LlamaProcess
    tools: LlamaProcess


@dataclass(frozen=True, slots=True)
class Target:
    """A model behind an OpenAI-compatible address."""

    base_url: str
    api_key: str
    model: str


@dataclass(frozen=True, slots=True)
class Route:
    """A way to the two models."""

    text: Target
    tools: Target


@dataclass(frozen=True, slots=True)
class RunningGateway:
    """The gateway with its one key; `base_url` ends in `/v1`."""

    process: GatewayProcess
    base_url: str
    key: str

    @property
    def data_dir(self) -> Path:
        return self.process.data_dir

    @property
    def route(self) -> Route:
        return Route(Target(self.base_url, self.key, TEXT), Target(self.base_url, self.key, TOOLS))
