"""The five ways into the gateway, each with a gateway process of its own.

A process each, because breakers and connections outlive a request: what one lane did to a provider must not show in
another's answer. All processes have copies of one data folder, so that the same keys work everywhere.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.wire import Answer, Ask
from tests.wire_h1 import H1Client
from tests.wire_h2 import H2Client

ANSWER_S = 30.0


@dataclass(frozen=True, slots=True)
class Lane:
    """One way in. `server_toml` is what its gateway has in `[server]` besides the common keys."""

    name: str
    h2: bool = False
    tls: bool = False
    express: bool = True

    @property
    def server_toml(self) -> str:
        """Lines for `[server]`; CERT and KEY are replaced by paths."""
        lines = [] if self.express else ["express_lane = false"]
        return "\n".join(lines + (['certfile = "CERT"', 'keyfile = "KEY"'] if self.tls else []))


LANES = (
    Lane("express"),
    Lane("hypercorn-h1", express=False),
    Lane("h2", h2=True),
    Lane("tls-h2", h2=True, tls=True),
    Lane("tls-h1", tls=True),
)
H1_LANES = tuple(lane for lane in LANES if not lane.h2)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A self-signed certificate of 127.0.0.1, with its key, in files."""

    certfile: Path
    keyfile: Path


def make_certificate(folder: Path) -> Certificate:
    """Write a certificate that is good for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    made.certfile.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.keyfile.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


@dataclass(frozen=True, slots=True)
class OpenLane:
    """A lane and where its gateway listens."""

    lane: Lane
    url: str
    certificate: Certificate | None = None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.abc.Stream]:
        """A fresh connection, its handshake done; closed without ceremony at the end."""
        parts = urlsplit(self.url)
        assert parts.hostname and parts.port, self.url
        stream: trio.abc.Stream = await trio.open_tcp_stream(parts.hostname, parts.port)
        raw = stream
        try:
            if self.lane.tls:
                stream = await self._wrap(raw)
            yield stream
        finally:
            await trio.aclose_forcefully(raw)

    async def _wrap(self, raw: trio.abc.Stream) -> trio.abc.Stream:
        assert self.certificate is not None
        context = ssl.create_default_context(cafile=self.certificate.certfile)
        wanted = "h2" if self.lane.h2 else "http/1.1"
        context.set_alpn_protocols([wanted])
        tls = trio.SSLStream(raw, context, server_hostname="127.0.0.1", https_compatible=True)
        await tls.do_handshake()
        assert tls.selected_alpn_protocol() == wanted
        return tls

    def client(self, stream: trio.abc.Stream) -> H1Client | H2Client:
        """The client of this lane's protocol."""
        return H2Client(stream, "https" if self.lane.tls else "http") if self.lane.h2 else H1Client(stream)

    async def ask(self, ask: Ask) -> Answer:
        """One request on a fresh connection."""
        with trio.fail_after(ANSWER_S):
            async with self.connect() as stream:
                return await self.client(stream).ask(ask)
