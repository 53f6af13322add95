"""The processes that the hostile tests share: what one test breaks, the next one sees.

Except a gateway that died or logged a fault, which has failed its test: the next one gets it started anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hostile.gateway import EXPRESS, FAULTS, H2, HYPERCORN, TLS_H1, TLS_H2, Target, config_text
from tests.hostile.hypercorn import Server
from tests.lanes import Certificate, Lane, OpenLane, make_certificate
from tests.process import ROOT, CreatedKey, GatewayProcess, ServerProcess


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    """Hypercorn with our fixes and an app that misbehaves on request."""
    running = Server()
    yield running
    running.stop()


@pytest.fixture(scope="package")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """The certificate of the TLS lanes."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="package")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the hostile provider."""
    with ServerProcess("provider", ["-m", "tests.hostile.upstream"], tmp_path_factory.mktemp("provider")) as process:
        yield process.url


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway process for many tests."""

    process: GatewayProcess
    key: CreatedKey
    certificate: Certificate
    lanes: tuple[Lane, ...]

    def target(self) -> Target:
        """The process as it is, or anew when a test has broken it."""
        broken = self.process.process.poll() is not None or any(fault in self.process.stderr() for fault in FAULTS)
        if broken:
            self.process.close()
            self.process.start()
            self.process.wait_ready()
        lanes = tuple(OpenLane(lane, self.process.url, self.certificate) for lane in self.lanes)
        return Target(self.process, self.key.secret, self.key.id, lanes)


RunHostile = Callable[..., AbstractContextManager[Running]]


@contextmanager
def _running(folder: Path, config: Path, certificate: Certificate, lanes: tuple[Lane, ...]) -> Iterator[Running]:
    process = GatewayProcess(config, folder / "data", folder, arguments=["--bind", "127.0.0.1:0"])
    key = process.create_key()
    with process:
        yield Running(process, key, certificate, lanes)


@pytest.fixture(scope="package")
def run_hostile(tmp_path_factory: pytest.TempPathFactory, provider: str, certificate: Certificate) -> RunHostile:
    """Run a gateway in front of the hostile provider, with these lanes; the first one says how it is configured."""

    def run(*lanes: Lane) -> AbstractContextManager[Running]:
        folder = tmp_path_factory.mktemp(lanes[0].name)
        config = folder / "config.toml"
        config.write_text(config_text(provider, lanes[0], certificate), encoding="utf-8")
        return _running(folder, config, certificate, lanes)

    return run


@pytest.fixture(scope="package")
def clear_running(run_hostile: RunHostile) -> Iterator[Running]:
    with run_hostile(EXPRESS, H2) as running:
        yield running


@pytest.fixture(scope="package")
def hypercorn_running(run_hostile: RunHostile) -> Iterator[Running]:
    with run_hostile(HYPERCORN) as running:
        yield running


@pytest.fixture(scope="package")
def tls_running(run_hostile: RunHostile) -> Iterator[Running]:
    with run_hostile(TLS_H1, TLS_H2) as running:
        yield running


@pytest.fixture(scope="package")
def shipped_running(tmp_path_factory: pytest.TempPathFactory, certificate: Certificate) -> Iterator[Running]:
    with _running(tmp_path_factory.mktemp("shipped"), ROOT / "config.toml", certificate, (EXPRESS, H2)) as running:
        yield running


@pytest.fixture
def clear(clear_running: Running) -> Target:
    """Cleartext: the express lane, and HTTP/2 by prior knowledge."""
    return clear_running.target()


@pytest.fixture
def hypercorn(hypercorn_running: Running) -> Target:
    """HTTP/1.1 through Hypercorn."""
    return hypercorn_running.target()


@pytest.fixture
def tls(tls_running: Running) -> Target:
    """TLS, with HTTP/1.1 and HTTP/2 by ALPN."""
    return tls_running.target()


@pytest.fixture
def shipped(shipped_running: Running) -> Target:
    """Cleartext, with the configuration of the repository."""
    return shipped_running.target()
