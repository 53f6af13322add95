"""The rivals: installed once into a cache folder, started in front of the same upstream on the same core.

`BENCH_PEERS_DIR` (default `.bench-peers/` in the repository) holds one folder each. Each runs as its own quick
start says, one worker, its access log off where there is a switch, so that the figures flatter nobody's logging.
A rival that does not install or start raises StartError and is reported as absent; the run goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.contenders import Contender, Upstreams
from bench.frames import COMPLETION_TOKENS
from bench.processes import REPOSITORY, Fleet, Server, StartError, free_port, wait_accepting
from bench.run import Start

READY_S = 120.0  # LiteLLM imports for many seconds, the field's complaint 11 in its own words
_INSTALL_S = 900.0
# Newer ones of @hono/node-server end Portkey's streams early.
_NODE_SERVER = "1.13.7"
_PORTKEY = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": "*"},
    "overrides": {"@hono/node-server": _NODE_SERVER},
}


def cache() -> Path:
    """Where the rivals are installed."""
    return Path(os.environ.get("BENCH_PEERS_DIR") or REPOSITORY / ".bench-peers")


def start_portkey(fleet: Fleet, upstreams: Upstreams, folder: Path, core: int) -> Contender:
    """Portkey's gateway on Node; it has no keys of its own, and the target travels in headers."""
    home = cache() / "portkey"
    script = home / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not script.exists():
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text(json.dumps(_PORTKEY))
        _install([_found("npm"), "install", "--no-audit", "--no-fund"], home)
    port = free_port()
    command = [_found("node"), str(script), f"--port={port}", "--headless"]
    env = {"NODE_ENV": "production"}
    server = fleet.spawn("portkey", command, core=core, folder=folder, env=env, cwd=home)
    wait_accepting(server, port, READY_S)
    headers = {
        "Authorization": "Bearer sk-bench-upstream",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstreams.port}/v1",
    }
    version = json.loads((script.parent.parent / "package.json").read_text())["version"]
    return Contender("portkey", port, headers=headers, server=server, version=version)


def start_litellm(fleet: Fleet, upstreams: Upstreams, folder: Path, core: int) -> Contender:
    """LiteLLM's proxy with a master key, no database, one worker."""
    binary = _venv("litellm", "litellm[proxy]") / "litellm"
    models = [
        {
            "model_name": kind,
            "litellm_params": {
                "model": f"openai/{kind}",
                "api_base": f"http://127.0.0.1:{upstreams.port}/v1",
                "api_key": "sk-bench-upstream",
            },
        }
        for kind in COMPLETION_TOKENS
    ]
    # JSON is YAML, so no YAML writer is needed.
    config = folder / "config.yaml"
    config.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": "sk-bench"}}))
    port = free_port()
    command = [str(binary), "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    # Without these it asks the network for its price list and reports home.
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}
    server = fleet.spawn("litellm", command, core=core, folder=folder, env=env, cwd=folder)
    return _contender("litellm", "litellm", server, port, {"Authorization": "Bearer sk-bench"})


def start_mlflow(fleet: Fleet, upstreams: Upstreams, folder: Path, core: int) -> Contender:
    """MLflow's gateway, one worker; no keys of its own."""
    binaries = _venv("mlflow", "mlflow[gateway]")
    endpoints = [
        {
            "name": kind,
            "endpoint_type": "llm/v1/chat",
            "model": {
                "provider": "openai",
                "name": kind,
                "config": {
                    "openai_api_key": "sk-bench-upstream",
                    "openai_api_base": f"http://127.0.0.1:{upstreams.port}/v1",
                },
            },
        }
        for kind in COMPLETION_TOKENS
    ]
    config = folder / "config.yaml"
    config.write_text(json.dumps({"endpoints": endpoints}))
    port = free_port()
    command = [str(binaries / "mlflow"), "gateway", "start", "--config-path", str(config), "--port", str(port)]
    server = fleet.spawn(
        "mlflow",
        [*command, "--host", "127.0.0.1", "--workers", "1"],
        core=core,
        folder=folder,
        env={"MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=folder,
    )
    contender = _contender("mlflow", "mlflow", server, port, {})
    contender.sends_done = False  # 3.17 ends its streams without it
    return contender


STARTS: dict[str, Start] = {"portkey": start_portkey, "litellm": start_litellm, "mlflow": start_mlflow}


def _contender(name: str, package: str, server: Server, port: int, headers: dict[str, str]) -> Contender:
    wait_accepting(server, port, READY_S)
    found = list((cache() / name).glob(f"lib/python3*/site-packages/{package}-*.dist-info"))
    version = found[0].name.removeprefix(f"{package}-").removesuffix(".dist-info") if found else ""
    return Contender(name, port, headers=headers, server=server, version=version)


def _venv(name: str, requirement: str) -> Path:
    """The `bin` folder of the rival's own virtual environment, made on first use."""
    home = cache() / name
    done = home / "installed"
    if not done.exists():
        home.mkdir(parents=True, exist_ok=True)
        _install([sys.executable, "-m", "venv", str(home)], home)
        pip = [str(home / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        _install([*pip, requirement], home)
        done.touch()
    return home / "bin"


def _install(command: Sequence[str], home: Path) -> None:
    try:
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired as exc:
        raise StartError(f"{' '.join(command)} did not end within {_INSTALL_S:g} s") from exc
    if done.returncode != 0:
        raise StartError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr[-800:]}")


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise StartError(f"{program} is not installed")
    return path
