"""CPU time and memory of processes, as the kernel counts them."""

from __future__ import annotations

import time
from pathlib import Path

from omewd.protocol.status import DaemonStatus

# Linux, clock_getcpuclockid(3): the clock that counts the CPU time of all threads of a process.
_CPUCLOCK_SCHED = 2


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process, including threads that have ended; raises OSError if there is no such process."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def roles_of(status: DaemonStatus) -> dict[int, str]:
    """The roles of a daemon's processes, by process id, from its status."""
    return {status.pid: "daemon", **{writer.pid: "writers" for writer in status.writers}}


def own_bytes(pid: int) -> int:
    """A process's own memory (proc(5), RssAnon), without shared memory and files; 0 if there is no such process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)
