"""A gateway process with prepaid keys on a data folder that survives it, and what its books say."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

from gateway.core.money import PICO_PER_USD, PicoUsd
from gateway.datadir import open_data_dir
from gateway.store import accounts, credit, keys
from gateway.store.keys import KeyTerms, NewKey
from gateway.store.schema import open_database
from gateway.store.verify import verify
from loadtest.vitals import parse
from tests.crash.upstream import Upstream
from tests.lanes import LANES, OpenLane
from tests.process import GatewayProcess
from tests.serving import get
from tests.wire import Ask

INPUT_PICO_USD, OUTPUT_PICO_USD = 1_000_000, 2_000_000  # a token of model t/paid
SOON_S = 10.0
CHAT = "/api/v1/chat/completions"

_CONFIG = """
[server]
bind = ["127.0.0.1:0"]
[sim]
enabled = false
[ledger]
{ledger}
[log]
{log}
[timeouts]
keepalive_s = 0
{timeouts}
[providers.scripted]
base_url = "http://127.0.0.1:{port}/v1"
api_key = "unused"
[[models]]
id = "t/paid"
context_window = 8192
offers = [ {{ provider = "scripted", model = "upstream", input = "1.00", output = "2.00" }} ]
[[models]]
id = "t/free"
price = "free"
context_window = 8192
offers = [ {{ provider = "scripted", model = "upstream", input = "1.00", output = "2.00" }} ]
"""


def price_of(prompt: int, completion: int) -> int:
    """What so many tokens of t/paid cost, pico-USD."""
    return prompt * INPUT_PICO_USD + completion * OUTPUT_PICO_USD


class Site:
    """The gateway, its folder and its provider. `process` may be started, killed and started again."""

    def __init__(
        self, folder: Path, upstream: Upstream, *, ledger: str = "", log: str = "", timeouts: str = ""
    ) -> None:
        self.upstream = upstream
        self.data = open_data_dir(folder / "data")
        config = folder / "gateway.toml"
        config.write_text(_CONFIG.format(port=upstream.port, ledger=ledger, log=log, timeouts=timeouts))
        self.process = GatewayProcess(config, folder / "data", folder)
        self.conn = open_database(self.data.db_path, self.data.pepper)

    def account(self, name: str, usd: int = 0, *, pico_usd: int = 0) -> str:
        """A prepaid account with that much credit; its id."""
        account_id = accounts.create(self.conn, name, prepaid=True).id
        if usd or pico_usd:
            credit.grant(self.conn, account_id, PicoUsd(usd * PICO_PER_USD + pico_usd))
        return account_id

    def key(self, account_id: str, name: str = "key", terms: KeyTerms = KeyTerms()) -> NewKey:  # noqa: B008 - frozen
        """A key of an account."""
        return keys.create(self.conn, self.data.pepper, name, account_id=account_id, terms=terms)

    async def start(self) -> None:
        """Start the process and wait until it listens."""
        self.process.start()
        await trio.to_thread.run_sync(self.process.wait_ready)

    async def kill(self) -> None:
        """`kill -9`, and gone."""
        self.process.process.send_signal(signal.SIGKILL)
        await trio.to_thread.run_sync(self.process.process.wait)
        self.process.close()

    async def stop(self) -> None:
        """SIGTERM; it has ended well."""
        self.process.sigterm()
        status = await trio.to_thread.run_sync(self.process.wait_exit, SOON_S)
        assert status == 0, self.process.stderr()
        self.process.close()

    async def connect(self) -> trio.SocketStream:
        """A connection to the gateway."""
        url = urlsplit(self.process.url)
        assert url.hostname, self.process.url
        assert url.port, self.process.url
        return await trio.open_tcp_stream(url.hostname, url.port)

    async def ask(self, question: Ask) -> Any:
        """One request on a connection of its own."""
        return await OpenLane(LANES[0], self.process.url).ask(question)

    async def levels(self) -> dict[str, float]:
        """What /metrics says."""
        answer = await self.ask(get("/metrics"))
        assert answer.status == 200
        return parse(answer.body.decode())

    async def at_rest(self) -> dict[str, float]:
        """Wait until no call is under way and all records are committed; the levels then."""
        with trio.fail_after(SOON_S):
            while True:
                levels = await self.levels()
                if not levels["gateway_calls_in_flight"] and not levels["gateway_records_queued"]:
                    return levels
                await trio.sleep(0.02)

    async def until_in_flight(self, calls: int) -> None:
        """Wait until so many calls are under way; a call's task ends after its last byte."""
        with trio.fail_after(SOON_S):
            while True:
                if (await self.levels())["gateway_calls_in_flight"] == calls:
                    return
                await trio.sleep(0.01)

    @contextlib.contextmanager
    def locked(self) -> Iterator[sqlite3.Connection]:
        """Hold the database's write lock, which keeps the gateway from committing; a ROLLBACK lets it go earlier."""
        with contextlib.closing(sqlite3.connect(self.data.db_path, isolation_level=None, timeout=SOON_S)) as conn:
            conn.execute("BEGIN IMMEDIATE")
            yield conn

    @contextlib.contextmanager
    def file_size_limit(self, size_bytes: int) -> Iterator[None]:
        """No file of the gateway's may be written past so many bytes: what a full disk is to it."""
        pid = self.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, before[1]))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)

    def charges(self) -> dict[str, int]:
        """What each generation was charged, pico-USD, by the ledger."""
        found = self.conn.execute(
            "SELECT entry_set, -SUM(amount_pico_usd) FROM entries WHERE kind = 'call' AND book = 'customer' "
            "GROUP BY entry_set"
        )
        return dict(found.fetchall())

    def balance(self, account_id: str) -> int:
        """An account's balance, pico-USD."""
        return accounts.find(self.conn, account_id).balance_pico_usd

    def records(self, key_id: str | None = None) -> list[dict[str, Any]]:
        """The records (of one key), oldest first."""
        where, values = ("", ()) if key_id is None else ("WHERE key_id = ?", (key_id,))
        found = self.conn.execute(f"SELECT * FROM calls {where} ORDER BY started_at, gen_id", values)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]

    def check_books(self) -> None:
        """Every sum is right, and each balance is what was granted less what was charged."""
        assert verify(self.conn) == []
        for account in accounts.list_all(self.conn):
            made = self.conn.execute(
                "SELECT COALESCE(SUM(amount_pico_usd), 0) FROM entries WHERE book = 'customer' AND owner = ? "
                "AND kind <> 'call'",
                (account.id,),
            ).fetchone()[0]
            charged = self.conn.execute(
                "SELECT COALESCE(SUM(cost_pico_usd), 0) FROM calls WHERE account_id = ?", (account.id,)
            ).fetchone()[0]
            assert account.balance_pico_usd == made - charged

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What the present process has said of such events."""
        lines = [json.loads(line) for line in self.process.stderr().splitlines() if f'"event":"{event}"' in line]
        return [line for line in lines if line["event"] == event]

    def voided(self) -> list[str]:
        """The generations whose open hold this start has found."""
        return [line["gen_id"] for line in self.lines("hold_voided")]

    def segments(self) -> list[str]:
        """The journal's files."""
        return sorted(os.listdir(self.data.db_path.with_name("journal")))


async def holds_true(condition: Callable[[], object], *, within_s: float = SOON_S) -> None:
    """Wait until the condition holds. Raises trio.TooSlowError."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 - another process makes it true
            await trio.sleep(0.002)


@asynccontextmanager
async def open_site(folder: Path, *, ledger: str = "", log: str = "", timeouts: str = "") -> AsyncIterator[Site]:
    """A site whose provider serves; its process is not started, and is gone at the end."""
    upstream = Upstream()
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.run)
        site = Site(folder, upstream, ledger=ledger, log=log, timeouts=timeouts)
        try:
            yield site
        finally:
            site.process.close()
            site.conn.close()
            nursery.cancel_scope.cancel()
