"""What the kernel says of a process and its children: CPU time, resident memory; and how processes are pinned.

CPU comes from the process's own CPU clock (clock_getcpuclockid(3): the pid is folded into the clock's id), which is
exact to nanoseconds and includes threads that ended; /proc/PID/stat counts ticks of 10 ms and would blur short cases.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from pathlib import Path

_CPUCLOCK_SCHED = 2  # linux/posix-timers.h: the scheduler's exact runtime
_PROCESS_CLOCK_BITS = 3
_VM_RSS = re.compile(r"^VmRSS:\s+(\d+) kB", re.MULTILINE)
_FD_SOFT_WANTED = 16_384


def tree(pid: int) -> list[int]:
    """`pid` and its living descendants."""
    found = [pid]
    for current in found:
        try:
            threads = list(Path(f"/proc/{current}/task").iterdir())
            children = [(thread / "children").read_text() for thread in threads]
        except OSError:
            continue
        found.extend(int(child) for text in children for child in text.split())
    return found


def cpu_s(pid: int) -> float:
    """CPU seconds used so far by `pid`, all its threads and its living descendants."""
    total = 0.0
    for each in tree(pid):
        try:
            total += time.clock_gettime((~each << _PROCESS_CLOCK_BITS) | _CPUCLOCK_SCHED)
        except OSError:
            continue
    return total


def rss_bytes(pid: int) -> int:
    """Resident bytes of `pid` and its living descendants (shared pages counted in each)."""
    total = 0
    for each in tree(pid):
        try:
            found = _VM_RSS.search(Path(f"/proc/{each}/status").read_text())
        except OSError:
            continue
        total += int(found[1]) * 1024 if found else 0
    return total


class Cores:
    """Which core the servers under test share, and which the upstream and the generator share."""

    def __init__(self) -> None:
        usable = sorted(os.sched_getaffinity(0))
        self.server = usable[0]
        self.driver = usable[1] if len(usable) > 1 else usable[0]

    @property
    def apart(self) -> bool:
        """False on a one-core machine, where latency figures mean little."""
        return self.server != self.driver

    def describe(self) -> str:
        """One line for the report's head."""
        if not self.apart:
            return f"one core only ({self.server}): servers, upstream and generator share it; trust CPU figures alone"
        return f"servers under test on core {self.server}; fake upstream and generator together on core {self.driver}"


def busy_s(core: int) -> float:
    """Seconds `core` has spent busy since boot, whoever used it (steal by the host included)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, _, values = line.partition(" ")
        if name == f"cpu{core}":
            user, nice, system, _, _, irq, softirq, steal = (int(value) for value in values.split()[:8])
            return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return 0.0


def raise_fd_limit() -> None:
    """Lift the soft limit on open files towards the hard one; children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FD_SOFT_WANTED if hard == resource.RLIM_INFINITY else min(_FD_SOFT_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1].strip() if model else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
