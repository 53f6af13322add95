"""The gateways of the parity tables: one for each lane, one simulated provider for all, keys that work everywhere."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lanes import H1_LANES, LANES, Certificate, Lane, OpenLane, make_certificate
from tests.parity_faults import PACED, model
from tests.parity_row import Row
from tests.parity_table import BODY_BYTES_MAX, ROWS
from tests.process import GatewayProcess, ServerProcess

WAIT_S = 4  # for a provider that does not answer; long against the time a busy machine takes to answer
HEAD_S = 1  # for a head to arrive
BODY_S = 3  # for a body, in the table where that is waited for
PACE_S = "1"  # between the tokens of the paced provider

CONFIG = f"""
[server]
bind = ["127.0.0.1:0"]
inference_body_bytes_max = {BODY_BYTES_MAX}
header_s = {HEAD_S}
body_s = BODY
grace_s = 1

[timeouts]
first_content_s = {WAIT_S}
answer_s = {WAIT_S}
idle_s = {WAIT_S}

[sim]
first_token_s = 0
token_gap_s = 0

[providers.off]
base_url = "http://127.0.0.1:9/v1"
api_key_env = "PARITY_TESTS_LEAVE_THIS_UNSET"

[providers.closed]
base_url = "http://127.0.0.1:CLOSED/v1"
api_key = "unused"

[providers.well]
base_url = "SIM"
api_key = "unused"
"""

MODEL = """
[[models]]
id = "{id}"
context_window = 1_000_000_000
balance = "order"
aliases = [{aliases}]
offers = [{offers}]
"""


def _model(name: str, *offers: tuple[str, str], aliases: str = "", supports: str = "") -> str:
    limit = f", supports = [{supports}]" if supports else ""
    text = ", ".join(
        f'{{ provider = "{provider}", model = "{upstream}", input = "0", output = "0"{limit} }}'
        for provider, upstream in offers
    )
    return MODEL.format(id=name, aliases=aliases, offers=text)


def _routed(row: Row, where: Upstreams) -> str:
    """A model for a row, with a provider for each of its attempts."""
    providers, offers = "", []
    for number, upstream in enumerate(row.route):
        url = where.paced if upstream.startswith(PACED) else where.sim
        name = f"{row.name}-{number}"
        providers += f'\n[providers.{name}]\nbase_url = "{url}"\napi_key = "unused"\n'
        offers.append((name, upstream.removeprefix(PACED)))
    return providers + _model(model(row.name), *offers)


@dataclass(frozen=True, slots=True)
class Upstreams:
    """Where the providers are: two simulated ones, and a port where nobody listens."""

    sim: str
    paced: str
    closed_port: int


def config_text(lane: Lane, where: Upstreams, certificate: Certificate, *, body_s: int) -> str:
    """The whole configuration of a lane's gateway."""
    server = lane.server_toml.replace("CERT", str(certificate.certfile)).replace("KEY", str(certificate.keyfile))
    common = CONFIG.replace("CLOSED", str(where.closed_port)).replace("SIM", where.sim)
    common = common.replace("body_s = BODY", f"body_s = {body_s}")
    common = common.replace("grace_s = 1", f"grace_s = 1\n{server}")
    models = [
        _model("sim/words", ("sim", "words")),
        _model("sim/echo", ("sim", "echo"), aliases='"echo-alias"'),
        _model("off/model", ("off", "x")),
        _model("t/closed", ("closed", "x")),
        _model("t/closed-then-good", ("closed", "x"), ("well", "echo")),
        _model("t/embeddings", ("well", "echo"), supports='"embeddings"'),
        _model("t/no-stream", ("well", "echo"), supports='"images"'),
    ]
    return common + "".join(models) + "".join(_routed(row, where) for row in ROWS if row.route)


@dataclass(frozen=True, slots=True)
class Gateways:
    """All lanes open. `key` is good on each, `revoked` on none."""

    lanes: tuple[OpenLane, ...]
    key: bytes
    revoked: bytes
    processes: tuple[GatewayProcess, ...]


@contextmanager
def run_gateways(folder: Path, *, h1_only: bool = False) -> Iterator[Gateways]:
    """Start everything; gone at the end."""
    chosen = H1_LANES if h1_only else LANES
    certificate = make_certificate(folder)
    with ExitStack() as stack:
        unheard = stack.enter_context(socket.socket())
        unheard.bind(("127.0.0.1", 0))  # bound, never listening: connections to it are refused for as long as it lives
        sims = [stack.enter_context(_sim(name, gap_s, folder)) for name, gap_s in (("sim", "0"), ("paced", PACE_S))]
        where = Upstreams(sims[0].url, sims[1].url, unheard.getsockname()[1])
        processes = []
        for lane in chosen:
            config = folder / f"{lane.name}.toml"
            config.write_text(config_text(lane, where, certificate, body_s=BODY_S if h1_only else 60))
            processes.append(GatewayProcess(config, folder / lane.name, folder, name=lane.name))
        key, revoked = _make_keys(processes)
        for process in processes:
            stack.callback(process.close)
            process.start()
        urls = [process.wait_ready() for process in processes]
        lanes = tuple(OpenLane(lane, url, certificate) for lane, url in zip(chosen, urls, strict=True))
        yield Gateways(lanes, key, revoked, tuple(processes))


def _sim(name: str, gap_s: str, folder: Path) -> ServerProcess:
    arguments = ["-m", "gateway.sim", "--first-token-s", "0", "--token-gap-s", gap_s, "--words-max", "6"]
    return ServerProcess(name, arguments, folder)


def _make_keys(processes: list[GatewayProcess]) -> tuple[bytes, bytes]:
    """A good and a revoked key, in the data folders of all."""
    first = processes[0]
    key, revoked = first.create_key("good"), first.create_key("revoked")
    done = first.command("keys", "revoke", revoked.id)
    assert done.returncode == 0, done.stderr
    for process in processes[1:]:
        shutil.copytree(first.data_dir, process.data_dir)
    return key.secret.encode(), revoked.secret.encode()
