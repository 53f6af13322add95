"""Start and stop the processes of a run: each in its own session, pinned, its output kept in a file.

Only processes started here are ever signalled, by their own process group.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

REPOSITORY = Path(__file__).resolve().parent.parent
_LISTENING = re.compile(r"listening on \S+?:(\d+)\s*$", re.MULTILINE)
_POLL_S = 0.002  # fine enough for a start-up figure in milliseconds
_STOP_S = 30.0  # the gateway's own grace is 20 s


class StartError(Exception):
    """A process did not come up; the message holds the end of its output."""


@dataclass(slots=True)
class Server:
    """A running process and where its output goes."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path
    started_at: float  # time.perf_counter() just before the spawn
    stopped: bool = False

    @property
    def pid(self) -> int:
        """The process's id, which is also its group's."""
        return self.process.pid

    def tail(self) -> str:
        """The last lines it printed, for error messages."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-12:])

    def stop(self) -> int:
        """SIGTERM, then SIGKILL to what is left of its own group; returns the exit status. Safe to call twice."""
        if not self.stopped:
            self.stopped = True
            self._end()
        return self.process.wait()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                sys.stderr.write(f"{self.name} did not stop within {_STOP_S:g} s of SIGTERM; killed\n")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Fleet:
    """Every server process of a run; leaving the context stops those that still run, newest first."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def spawn(
        self,
        name: str,
        command: Sequence[str],
        *,
        core: int,
        folder: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path = REPOSITORY,
    ) -> Server:
        """Start `command` on `core`; stdout and stderr go to `folder/name.log`."""
        output = folder / f"{name}.log"
        started_at = time.perf_counter()
        with output.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                # The parent has one thread, so running Python between fork and exec is safe here.
                preexec_fn=lambda: pin(core),
            )
        server = Server(name, process, output, started_at)
        self._stack.callback(server.stop)
        return server


def pin(core: int) -> None:
    """Keep the calling process, and what it starts, on `core`."""
    os.sched_setaffinity(0, {core})


def wait_listening(server: Server, within_s: float) -> int:
    """The port `server` says it listens on. Raises StartError when it ends or says nothing in time."""
    while True:
        found = _LISTENING.search(server.output.read_text(errors="replace"))
        if found:
            return int(found[1])
        _still_starting(server, within_s)


def wait_accepting(server: Server, port: int, within_s: float) -> None:
    """Wait until `port` accepts, for servers that print nothing we know. Raises StartError."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        _still_starting(server, within_s)


def _still_starting(server: Server, within_s: float) -> None:
    code = server.process.poll()
    if code is not None:
        raise StartError(f"{server.name} ended with status {code} while starting:\n{server.tail()}")
    if time.perf_counter() - server.started_at > within_s:
        raise StartError(f"{server.name} was not ready within {within_s:g} s:\n{server.tail()}")
    time.sleep(_POLL_S)


def free_port() -> int:
    """A port nobody listens on now, for servers that cannot choose their own."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def run_checked(command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path = REPOSITORY) -> str:
    """Run a short command to its end and return its stdout. Raises StartError with what it printed."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **(env or {})}
    )
    if done.returncode != 0:
        raise StartError(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
