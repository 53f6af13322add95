"""Who is measured: the direct call, the gateway itself, nginx as a plain proxy. The rivals are in `peers.py`.

A contender is an address, the headers it wants, its name for each kind of answer, and the server process to weigh.
The gateway runs as shipped: the repository's `config.toml` with only the bench's provider, models and plan added,
from the command line a user would type. Its key is a tenant's, see `tenant.py`.
"""

from __future__ import annotations

import http.client
import math
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from bench import frames, tenant
from bench.frames import CHAT
from bench.processes import (
    REPOSITORY,
    Fleet,
    Server,
    StartError,
    free_port,
    wait_accepting,
    wait_listening,
)

READY_S = 20.0


@dataclass(slots=True)
class Contender:
    """One row of the report. `sent` counts every call made to it in this run."""

    name: str
    port: int
    path: str = "/v1/chat/completions"
    headers: dict[str, str] = field(default_factory=dict)
    prefix: str = ""  # before the model's name, as in `bench/bench-chat`
    server: Server | None = None  # None: the direct call has nothing to weigh
    ready_s: float = 0.0  # spawn to ready
    first_answer_s: float = 0.0  # spawn to the end of the first answer
    database: Path = Path()  # the gateway's alone: where its records are
    operator_headers: dict[str, str] = field(default_factory=dict)  # the gateway's alone: a key that nothing limits
    rate_max_s: float = math.inf  # open arrivals stay below it, or latency is only the length of a queue
    version: str = ""
    sends_done: bool = True  # False: its streams end without `[DONE]`, which the report says
    sent: int = 0
    h2: bool = False
    tls_prefix: str = ""  # the same models over a TLS upstream
    path_of_kind: dict[str, str] = field(default_factory=dict)

    def path_for(self, kind: str) -> str:
        """The path of one kind of answer; the same for all but servers with a route per model."""
        return self.path_of_kind.get(kind, self.path)

    def body(self, kind: str, *, tls: bool = False) -> bytes:
        """The request of one kind, in this contender's names."""
        prefix = self.tls_prefix if tls else self.prefix
        return frames.request_body(prefix + kind, stream=kind != CHAT)


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Where the fake upstreams listen, and the certificate of the TLS one."""

    port: int
    tls_port: int
    ca_file: Path


def direct(upstreams: Upstreams) -> Contender:
    """The yardstick: the generator talks to the fake upstream itself."""
    return Contender("direct", upstreams.port)


def start_gateway(fleet: Fleet, upstreams: Upstreams, folder: Path, core: int) -> Contender:
    """`gateway serve` with a tenant's key and an operator's, on a fresh data folder."""
    data_dir = folder / "data"
    config = folder / "config.toml"
    shipped = REPOSITORY / "config.toml"
    providers = {
        "bench": (f"http://127.0.0.1:{upstreams.port}/v1", None),
        "bench-tls": (f"https://127.0.0.1:{upstreams.tls_port}/v1", upstreams.ca_file),
    }
    config.write_text((shipped.read_text() if shipped.exists() else "") + tenant.tables(providers))
    command = [sys.executable, "-m", "gateway"]
    where = ["--config", str(config), "--data-dir", str(data_dir)]
    keys = tenant.create(command, where)
    server = fleet.spawn("gateway", [*command, "serve", *where, "--bind", "127.0.0.1:0"], core=core, folder=folder)
    contender = Contender("gateway", 0, headers=_bearer(keys.tenant), prefix="bench/", server=server)
    contender.operator_headers = _bearer(keys.operator)
    contender.port = wait_listening(server, READY_S)
    contender.version = version("gateway")
    contender.h2, contender.tls_prefix, contender.database = (True, "bench-tls/", data_dir / "gateway.db")
    return contender


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


_NGINX_CONF = """
daemon off;
master_process off;
worker_processes 1;
error_log {folder}/nginx-error.log warn;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path {folder}/nginx-body;
  proxy_temp_path {folder}/nginx-proxy;
  fastcgi_temp_path {folder}/nginx-fastcgi;
  uwsgi_temp_path {folder}/nginx-uwsgi;
  scgi_temp_path {folder}/nginx-scgi;
  upstream bench {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    location / {{
      proxy_pass http://bench;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def start_nginx(fleet: Fleet, upstreams: Upstreams, folder: Path, core: int) -> Contender:
    """nginx, one worker, no logs, no buffering: the floor of what a proxy costs. Raises StartError when absent."""
    binary = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if binary is None:
        raise StartError("nginx is not installed")
    conf, port = folder / "nginx.conf", free_port()
    conf.write_text(_NGINX_CONF.format(folder=folder, upstream=upstreams.port, port=port))
    command = [binary, "-c", str(conf), "-p", str(folder), "-e", str(folder / "nginx-error.log")]
    server = fleet.spawn("nginx", command, core=core, folder=folder)
    wait_accepting(server, port, READY_S)
    # It says its version on stderr: "nginx version: nginx/1.22.1".
    said = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True).stderr
    return Contender("nginx", port, server=server, version=said.strip().rpartition("/")[2])


def first_answer(contender: Contender, within_s: float = READY_S) -> None:
    """Note the start-up times: ready is now, then one call until it is answered. Raises StartError."""
    server = contender.server
    if server is None:
        return
    contender.ready_s = time.perf_counter() - server.started_at
    connection = http.client.HTTPConnection("127.0.0.1", contender.port, timeout=within_s)
    headers = {"Content-Type": "application/json", **contender.headers}
    try:
        contender.sent += 1
        connection.request("POST", contender.path_for(CHAT), contender.body(CHAT), headers)
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise StartError(f"{contender.name} did not answer its first call: {exc!r}\n{server.tail()}") from exc
    finally:
        connection.close()
    if response.status != 200:
        raise StartError(f"{contender.name} answered its first call with {response.status}: {text[:300]!r}")
    contender.first_answer_s = time.perf_counter() - server.started_at
