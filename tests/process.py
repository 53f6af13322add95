"""Servers as subprocesses, for tests that need the real thing: `python -m gateway serve`, and any that print alike.

A server counts as started when it has printed `listening on http://HOST:PORT`. Its output goes to files, never to
pipes, so that it cannot stall on a reader and all of it is there when it dies. Every wait has a deadline. The calls
block: a Trio test runs them in a thread (`trio.to_thread.run_sync`).
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]
LISTENING = re.compile(r"^listening on (https?://\S+)[^\n]*\n", re.MULTILINE)
START_S = 15.0  # A start takes under 1 s; the rest is for a machine with every core busy.
STOP_S = 5.0
POLL_S = 0.01
TAIL_CHARACTERS = 4000


class ServerFailed(AssertionError):
    """A server exited, or missed a deadline; the message ends with what it last wrote to standard error."""


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """What `gateway keys create --json` printed; `secret` is shown by the gateway this once."""

    id: str
    secret: str


def wait_until(condition: Callable[[], bool], *, within_s: float, what: str) -> None:
    """Block until `condition` holds.

    Raises:
        AssertionError: It did not hold within `within_s` seconds; `what` names it in the message.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(POLL_S)


class ServerProcess:
    """One server process; as a context manager it starts, waits until ready, and is gone at the end.

    Args:
        arguments: What follows `python` on its command line; run in the repository's root.
        logs: An existing folder; receives the files `NAME.stdout` and `NAME.stderr`.
        environment: Variables to set on top of this process's own.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], logs: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._command = [sys.executable, *arguments]
        self._environment = {**os.environ, **(environment or {})}
        self._stdout = logs / f"{name}.stdout"
        self._stderr = logs / f"{name}.stderr"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the process, with empty logs; returns before it is ready. A closed server may be started again."""
        assert self._process is None, f"{self.name} is running already"
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,  # Held open: a server may take its end as word that this test run is over.
                stdout=stdout,
                stderr=stderr,
            )

    def wait_ready(self, within_s: float = START_S) -> str:
        """Block until the server listens; returns its first address.

        Raises:
            ServerFailed: It exited, or said nothing within `within_s` seconds.
        """
        deadline = time.monotonic() + within_s
        while not self.addresses():
            if (status := self.process.poll()) is not None:
                raise ServerFailed(self._report(f"exited with {status} before it was ready"))
            if time.monotonic() > deadline:
                raise ServerFailed(self._report(f"not ready within {within_s} s"))
            time.sleep(POLL_S)
        return self.url

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process itself, running or exited."""
        assert self._process is not None, f"{self.name} has not been started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        """The first address it listens on, without a final slash."""
        return self.addresses()[0]

    def addresses(self) -> list[str]:
        """All addresses printed so far, in order; empty until the server is ready."""
        return [address.rstrip("/") for address in LISTENING.findall(self.stdout())]

    def stdout(self) -> str:
        return self._stdout.read_text(encoding="utf-8", errors="replace")

    def stderr(self) -> str:
        return self._stderr.read_text(encoding="utf-8", errors="replace")

    def sigterm(self) -> None:
        """Ask it to drain and stop; returns at once."""
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self, within_s: float) -> int:
        """Block until it exits; returns the exit status, negative for a signal.

        Raises:
            ServerFailed: It still runs after `within_s` seconds.
        """
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired as error:
            raise ServerFailed(self._report(f"still running {within_s} s after it was to stop")) from error

    def close(self) -> None:
        """End the process: standard input closed and SIGTERM, then SIGKILL after `STOP_S`. Keeps the logs."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _report(self, what: str) -> str:
        return f"{self.name}: {what}; standard error ends with:\n{self.stderr()[-TAIL_CHARACTERS:]}"


class GatewayProcess(ServerProcess):
    """`gateway serve` on a config file and a data folder, and the subcommands that work on the same two.

    Args:
        arguments: More options of `serve`, as `["--bind", "127.0.0.1:0"]`.
    """

    def __init__(
        self,
        config: Path,
        data_dir: Path,
        logs: Path,
        *,
        arguments: Sequence[str] = (),
        name: str = "gateway",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.data_dir = data_dir
        self._where = ["--config", str(config), "--data-dir", str(data_dir)]
        super().__init__(name, ["-m", "gateway", "serve", *self._where, *arguments], logs, environment=environment)

    @property
    def database(self) -> Path:
        """The SQLite file of records; it exists once the gateway has started."""
        return self.data_dir / "gateway.db"

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `gateway WORDS...` on this config and data folder, served or not; any exit status is returned."""
        command = [sys.executable, "-m", "gateway", *words, *self._where]
        return subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=START_S, check=False
        )

    def create_key(self, name: str = "test") -> CreatedKey:
        """Create an API key; a gateway that is serving accepts it within 1 s."""
        done = self.command("keys", "create", "--name", name, "--json")
        assert done.returncode == 0, f"`gateway keys create` exited with {done.returncode}: {done.stderr}"
        created = json.loads(done.stdout)
        return CreatedKey(id=created["id"], secret=created["key"])
