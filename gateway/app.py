"""The composition root: the one module that names concrete classes and owns the process's tasks.

root nursery
+-- store      records out, keys in; ends last, when nobody is left who could leave a record
+-- services
    +-- pollset    watches sockets             +-- pool      sweeps idle provider connections
    +-- pump       time limits of streams      +-- drainer   reads on for providers that bill on
    +-- sim        the built-in provider       +-- edge      ends connections that idle
    +-- heartbeat  comments in long silences   +-- lag       looks how late the loop is
                                               +-- server
                                                   +-- signals    SIGTERM, SIGINT, SIGHUP
                                                   +-- hypercorn  listeners and connections; ends first
"""

from __future__ import annotations

import gc
import os
import random
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import hypercorn.trio.run
import msgspec
import structlog
import trio
from hypercorn.config import Sockets
from hypercorn.utils import wrap_app

from gateway.auth.keys import KeyIndex
from gateway.books import LiveBooks, open_gate
from gateway.config import MIB, Config
from gateway.configfile import ConfigError, load
from gateway.core.money import PICO_PER_USD
from gateway.datadir import DataDir, DataDirError, open_data_dir
from gateway.drain import Drainer
from gateway.edge.lanes import Edge, EdgeLimits
from gateway.edge.replies import render_own
from gateway.edge.server import EdgeConfig, address_of, install
from gateway.edge.web import WebApp, build_web
from gateway.exchange import BodyBudget
from gateway.heartbeat import Heartbeat
from gateway.idempotency import Idempotency
from gateway.observe.lag import probe_loop
from gateway.observe.logs import configure
from gateway.observe.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.pollset import PollSet
from gateway.prober import Prober
from gateway.race.attempt import Runner
from gateway.relay.pump import Pump
from gateway.relay.relay import Relay
from gateway.route.auto.lazy import LazyClassifier
from gateway.route.catalog import Catalog
from gateway.router import Router
from gateway.sim.server import serve_sim
from gateway.snapshot import Snapshot
from gateway.store.db import Store
from gateway.store.ledger import Move
from gateway.till import Till
from gateway.upstream.pool import Dialer, Pool
from gateway.welcome import first_key_banner

FAREWELL_S = 3.0  # for the error events of the streams we end to be read
GRACE_S_MAX = 3600.0  # Hypercorn's own; ours (server.grace_s, which a reload may change) ends streams before it
PUMP_TICK_S = 0.25
ANSWERS_BYTES_MAX: Final = 64 * MIB  # remembered for repeated Idempotency-Keys
ANSWER_BYTES_MAX: Final = 4 * MIB
TIDY_S: Final = 30.0
OPENNESS: Final = {"closed": 0.0, "half_open": 0.5, "open": 1.0}
GC_THRESHOLD = (20_000, 20, 50)  # calls make next to no cycles; the default looks for them every few calls


def serve(config: Config, *, config_path: str, data_dir: Path, binds: tuple[str, ...] | None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises DataDirError when the folder cannot be used."""
    configure(config.log.level)
    folder = open_data_dir(data_dir)
    with folder.locked(), _open_store(folder, config) as store:
        app = App(config, config_path, store, list(binds or config.server.bind))
        return trio.run(app.run)


def _open_store(folder: DataDir, config: Config) -> Store:
    try:
        return Store.open(folder.db_path, folder.pepper, log_calls=config.log.calls, settings=config.ledger)
    except (sqlite3.OperationalError, OSError) as exc:
        raise DataDirError(f"{folder.db_path}: {exc}; free the disk or stop what locks the file") from exc


class App:
    """One serving process."""

    def __init__(self, config: Config, config_path: str, store: Store, binds: list[str]) -> None:
        self._config_path = config_path
        self._store = store
        self._first = config
        self._sim_url = ""
        self._router = Router(config, LazyClassifier(), random.random)
        self._metrics = Metrics()
        self._pollset = PollSet()
        self._pump = Pump(self._pollset)
        self._heartbeat = Heartbeat()
        self._drainer = Drainer(config.upstream.answer_bytes_max)
        self._stop = trio.Event()
        limits = config.upstream
        self._pool = Pool(connections_max=limits.connections_max, idle_s=limits.idle_s, connect=Dialer())
        self._bodies = BodyBudget(config.server.bodies_in_memory_bytes_max)
        self._gate = open_gate(config, store.books)
        self._till = till = Till(
            self._gate, store, self._metrics, time.time, power_loss=config.ledger.durability == "power_loss"
        )
        self.idempotency = Idempotency(bytes_max=ANSWERS_BYTES_MAX, answer_bytes_max=ANSWER_BYTES_MAX)
        self.idempotency.load(store.books.used_idempotency)
        self._pipeline = Pipeline(
            self._snapshot(config), store.keys, till=till, idempotency=self.idempotency, router=self._router,
            metrics=self._metrics, drainer=self._drainer, heartbeat=self._heartbeat, wall_clock=time.time,
        )  # fmt: skip
        self.books = LiveBooks(store, self._gate, lambda: self._pipeline.snapshot.config.plans, time.time)
        self._edge = Edge(
            EdgeLimits.of(config.server),
            self._pipeline.handle,
            self._bodies,
            self._pollset,
            express=config.server.express_lane,
        )
        self._metrics.expose_levels(self._levels)
        self._hypercorn = EdgeConfig(
            self._edge,
            binds=binds,
            client_stall_s=config.timeouts.client_stall_s,
            graceful_s=GRACE_S_MAX,
            streams_max=config.server.h2_streams_max,
        )
        self._hypercorn.certfile, self._hypercorn.keyfile = config.server.certfile, config.server.keyfile

    async def run(self) -> int:
        """Serve; the exit code."""
        try:
            sockets = self._hypercorn.open_sockets()
        except OSError as exc:
            sys.stderr.write(
                f"cannot listen on {', '.join(self._hypercorn.bind)}: {exc.strerror}; change server.bind\n"
            )
            return 2
        install(render_own)
        web = build_web(self._edge, self)
        async with trio.open_nursery() as root:
            await self._start_store(root)
            await self._serve_until_stopped(web, sockets)
            root.cancel_scope.cancel()  # the store is last: it writes the records that the others left
        return 0

    async def _start_store(self, root: trio.Nursery) -> None:
        await root.start(
            lambda task_status: self._store.run(
                on_keys=self._set_keys,
                on_moves=self._apply_moves,
                on_commit=self._metrics.commit_lag.observe,
                task_status=task_status,
            )
        )

    async def _serve_until_stopped(self, web: WebApp, sockets: Sockets) -> None:
        async with trio.open_nursery() as services:
            await self._start_services(services)
            serving = trio.CancelScope()
            with serving:
                async with trio.open_nursery() as server:
                    server.start_soon(self._signals, server, serving)
                    await server.start(self._serve_http, web, sockets, serving)
                    self._announce([*sockets.secure_sockets, *sockets.insecure_sockets])
            services.cancel_scope.cancel()

    async def _start_services(self, root: trio.Nursery) -> None:
        root.start_soon(self._pollset.run)
        root.start_soon(self._pump.run, PUMP_TICK_S)
        root.start_soon(self._pool.run)
        root.start_soon(self._edge.run)
        root.start_soon(self._heartbeat.run)
        root.start_soon(probe_loop, self._metrics.loop_lag.observe)
        root.start_soon(Prober(self._router.health, self._pool, lambda: self._pipeline.snapshot).run)
        root.start_soon(self._tidy)
        await root.start(self._drainer_run)
        if "sim" in self._first.providers:
            self._sim_url = await root.start(self._sim_run)
            self._pipeline.snapshot = self._snapshot(self._first)

    async def _tidy(self) -> None:
        """Let go of remembered answers that nobody asks for."""
        while True:
            await trio.sleep(TIDY_S)
            self.idempotency.expire(trio.current_time(), time.time())

    async def _drainer_run(self, task_status: trio.TaskStatus[None]) -> None:
        await self._drainer.run(task_status=task_status)

    async def _sim_run(self, task_status: trio.TaskStatus[str]) -> None:
        await serve_sim(self._first.sim, task_status=task_status)

    async def _serve_http(
        self, web: WebApp, sockets: Sockets, serving: trio.CancelScope, task_status: trio.TaskStatus[list[str]]
    ) -> None:
        app = wrap_app(web, self._hypercorn.wsgi_max_body_size, "asgi")
        await hypercorn.trio.run.worker_serve(
            app, self._hypercorn, sockets=sockets, shutdown_trigger=self._stop.wait, task_status=task_status
        )
        serving.cancel()

    def _announce(self, sockets: list[socket.socket]) -> None:
        scheme = "https" if self._hypercorn.ssl_enabled else "http"
        urls = [f"{scheme}://{address_of(sock)}" for sock in sockets]
        key = self._store.create_first_key()
        if key is not None:
            self._set_keys(self._store.keys)
            print(first_key_banner(key.secret, urls[0]))
        for url in urls:
            print(f"listening on {url}", flush=True)
        gc.collect()
        gc.freeze()  # what start-up made is never garbage
        gc.set_threshold(*GC_THRESHOLD)

    def _set_keys(self, keys: KeyIndex) -> None:
        self._pipeline.keys = keys

    def _apply_moves(self, moves: list[Move]) -> None:
        for move in moves:
            self._gate.apply(move.account_id, move.amount)

    async def _signals(self, nursery: trio.Nursery, serving: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            async for number in received:
                if number == signal.SIGHUP:
                    await self._reload()
                elif self._stop.is_set():
                    self._pipeline.end_live()
                else:
                    self._begin_stop()
                    nursery.start_soon(self._end_grace, serving)

    def _begin_stop(self) -> None:
        self._pipeline.begin_draining()
        self._edge.begin_draining()
        self._stop.set()
        structlog.get_logger().info("draining", calls=self._pipeline.live)

    async def _end_grace(self, serving: trio.CancelScope) -> None:
        """Give streams under way `grace_s`, then end the rest from our side, each with an error event."""
        await trio.sleep(self._pipeline.snapshot.config.server.grace_s)
        self._pipeline.end_live()
        await trio.sleep(FAREWELL_S)
        self._edge.abandon_sends()
        await trio.sleep(FAREWELL_S)
        serving.cancel()  # what still is connected now is not going to end by itself

    async def _reload(self) -> None:
        log = structlog.get_logger()
        try:
            config = await trio.to_thread.run_sync(lambda: load(self._config_path, environ=os.environ))
            snapshot = self._snapshot(config)
        except (ConfigError, ValueError, OSError) as exc:
            log.error("config_rejected", error=str(exc), kept="the configuration in use")
            return
        for key in needs_restart(self._first, config):
            log.warning("config_needs_restart", key=key)
        self._pipeline.snapshot = snapshot
        self._router.configure(config)
        limits = config.limits
        self._gate.limiter.configure(day_zone=limits.day_zone, keys_max=limits.keys_in_memory_max)
        self._edge.limits = EdgeLimits.of(config.server)
        self._bodies.bytes_max = config.server.bodies_in_memory_bytes_max
        log.info("config_reloaded", models=len(config.models))

    def _snapshot(self, config: Config) -> Snapshot:
        providers = dict(config.providers)
        sim = providers.get("sim")
        if sim is not None:
            providers["sim"] = msgspec.structs.replace(sim, base_url=self._sim_url or "http://127.0.0.1:9/v1")
        config = msgspec.structs.replace(config, providers=providers)
        runner = Runner(self._pool, config.timeouts, config.upstream, time.time)
        return Snapshot(config, Catalog(config), runner, Relay(self._pump, config.timeouts))

    @property
    def catalog(self) -> Catalog:
        """See Control."""
        return self._pipeline.snapshot.catalog

    @property
    def keys(self) -> KeyIndex:
        """See Control."""
        return self._pipeline.keys

    @property
    def router(self) -> Router:
        """See Control."""
        return self._router

    @property
    def metrics_token(self) -> str | None:
        """See Control."""
        return self._pipeline.snapshot.config.server.metrics_token

    def ready(self) -> str | None:
        """See Control."""
        if self._stop.is_set():
            return "draining"
        return None if self._store.ready() else "records cannot be written"

    def metrics(self) -> bytes:
        """See Control."""
        return self._metrics.render()

    def _levels(self) -> Iterable[tuple[str, tuple[str, ...], float]]:
        for origin, (used, idle) in self._pool.counts().items():
            name = f"{origin.host}:{origin.port}"
            yield "gateway_upstream_connections", (name, "used"), used
            yield "gateway_upstream_connections", (name, "idle"), idle
        for (provider, model, key), state in self._router.health.states(trio.current_time()).items():
            yield (
                "gateway_breaker_open",
                (provider, model, str(key)),
                {"closed": 0.0, "half_open": 0.5, "open": 1.0}[state],
            )
        yield "gateway_calls_in_flight", (), self._pipeline.live
        yield "gateway_client_connections", (), self._edge.open_connections
        yield "gateway_request_bodies_held_bytes", (), self._bodies.held_bytes
        yield "gateway_records_queued", (), self._store.queued
        yield "gateway_streams_pumped", (), len(self._pump)
        yield "gateway_drains", (), len(self._drainer)
        for side, amount in self._till.costs_pico_usd.items():
            yield "gateway_cost_usd_total", (side,), amount / PICO_PER_USD
        yield "gateway_credit_held_usd", (), self._gate.held() / PICO_PER_USD
        hedges = self._router.hedges.levels()
        yield "gateway_hedges_total", ("allowed",), hedges.allowed
        yield "gateway_hedges_total", ("refused_share",), hedges.refused_share
        yield "gateway_hedges_total", ("refused_money",), hedges.refused_money
        for provider, left in self._router.retries.levels(trio.current_time()).items():
            yield "gateway_retry_budget", (provider,), left
        yield "gateway_limiter_entries", (), len(self._gate.limiter)


RELOADED = frozenset(
    {"grace_s", "inference_body_bytes_max", "bodies_in_memory_bytes_max", "header_s", "body_s", "keep_alive_s"}
    | {"connections_max", "metrics_token", "answer_bytes_max", "stream_frame_bytes_max"}
)


def needs_restart(running: Config, wanted: Config) -> list[str]:
    """The keys of the sections that belong to the process, not to a snapshot, that differ."""
    found = []
    for section in ("server", "upstream", "sim", "log", "ledger"):
        before, after = getattr(running, section), getattr(wanted, section)
        names = [name for name in before.__struct_fields__ if name not in RELOADED]
        found += [f"{section}.{name}" for name in names if getattr(before, name) != getattr(after, name)]
    return found


__all__ = ["App", "DataDirError", "serve"]
