"""The servers of a run, started by the pieces of `bench`: a gateway on a fresh data folder, and its upstreams.

Load goes to 127.0.0.1 only: to what is started here, or to a `--url` whose host is a loopback address.
"""

from __future__ import annotations

import ipaddress
import json
import sys
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.processes import (
    Fleet,
    Server,
    free_port,
    run_checked,
    wait_accepting,
    wait_listening,
)

CHAT_PATH = "/v1/chat/completions"
READY_S = 20.0
UPSTREAM_KEY = "sk-loadtest-upstream"


class NotLoopback(ValueError):
    """A `--url` that is not on this machine."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where calls go, and with which key."""

    port: int
    key: str
    host: str = "127.0.0.1"

    def headers(self) -> dict[str, str]:
        """What every call sends."""
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway of ours."""

    server: Server
    target: Target
    data_dir: Path

    @property
    def database(self) -> Path:
        """Where it keeps its records."""
        return self.data_dir / "gateway.db"


def loopback(url: str, key: str) -> Target:
    """The target that `url` names. Raises NotLoopback for anything but http on a loopback address with a port."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
        port = parts.port
    except ValueError:
        here, port = False, None
    if parts.scheme != "http" or not here or port is None:
        raise NotLoopback(f"{url} is not http://127.0.0.1:PORT; load tests run against this machine only")
    return Target(port, key, "127.0.0.1" if host == "localhost" else host)


def start_upstream(fleet: Fleet, folder: Path, core: int) -> int:
    """The bench's fake upstream, for load; returns its port."""
    server = fleet.spawn("upstream", [sys.executable, "-m", "bench.upstream"], core=core, folder=folder)
    return wait_listening(server, READY_S)


def start_sim(fleet: Fleet, name: str, folder: Path, core: int, *options: str) -> int:
    """The gateway's simulated provider as a process of its own; returns its port."""
    port = free_port()
    command = [sys.executable, "-m", "gateway.sim", "--port", str(port), *options]
    wait_accepting(fleet.spawn(name, command, core=core, folder=folder), port, READY_S)
    return port


def start_gateway(fleet: Fleet, folder: Path, core: int, config: str) -> Gateway:
    """`gateway serve` with this configuration and a key of its own. Raises StartError."""
    path, data_dir = folder / "config.toml", folder / "data"
    path.write_text(config)
    command = [sys.executable, "-m", "gateway"]
    where = ["--config", str(path), "--data-dir", str(data_dir)]
    key = json.loads(run_checked([*command, "keys", "create", "--name", "loadtest", *where, "--json"]))["key"]
    server = fleet.spawn("gateway", [*command, "serve", *where, "--bind", "127.0.0.1:0"], core=core, folder=folder)
    return Gateway(server, Target(wait_listening(server, READY_S), key), data_dir)


def provider_table(name: str, port: int) -> str:
    """A provider of kind openai at 127.0.0.1:port."""
    return f'[providers.{name}]\nkind = "openai"\nbase_url = "http://127.0.0.1:{port}/v1"\napi_key = "{UPSTREAM_KEY}"\n'


def model_table(model_id: str, offers: Iterable[tuple[str, str]]) -> str:
    """A model with its offers, (provider, upstream model) each, in order."""
    price = 'input = "1.00", output = "2.00"'
    lines = [f'  {{ provider = "{provider}", model = "{model}", {price} }},' for provider, model in offers]
    head = ["[[models]]", f'id = "{model_id}"', "context_window = 1_000_000", 'balance = "order"']
    return "\n".join([*head, "offers = [", *lines, "]", ""])


def settings(tables: dict[str, dict[str, float]], rest: Sequence[str]) -> str:
    """A configuration file: these settings, then these tables."""
    lines = []
    for name, values in tables.items():
        lines += [f"[{name}]", *(f"{key} = {value:g}" for key, value in values.items()), ""]
    return "\n".join([*lines, *rest])
