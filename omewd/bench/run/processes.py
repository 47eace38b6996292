"""What processes have used: CPU time and memory, as the kernel counts them."""

from __future__ import annotations

import time
from pathlib import Path

from omewd.protocol.status import DaemonStatus

# Linux, clock_getcpuclockid(3): the clock that counts the CPU time of all threads of a process.
_CPUCLOCK_SCHED = 2


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, all its threads, those that ended too; raises OSError if there is none."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def roles_of(status: DaemonStatus) -> dict[int, str]:
    """What the processes of a daemon are, by process id, out of its status."""
    return {status.pid: "daemon", **{writer.pid: "writers" for writer in status.writers}}


def own_bytes(pid: int) -> int:
    """The memory that is a process's own (proc(5), RssAnon): no shared memory, no files; 0 if it is not there."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)
