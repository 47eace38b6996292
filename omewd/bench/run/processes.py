"""CPU time and memory of processes, as the kernel counts them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from pathlib import Path

from omewd.protocol.status import DaemonStatus

# Linux, clock_getcpuclockid(3): the clock that counts the CPU time of all threads of a process.
_CPUCLOCK_SCHED = 2
# Processes are idle if they had nothing to do at so many looks, one after the other.
_IDLE_LOOKS = 5
_LOOK_S = 0.01


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process, including threads that have ended; raises OSError if there is no such process."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def wait_until_idle(pids: Collection[int], timeout_s: float = 60.0) -> None:
    """Wait until processes have nothing to do any more, such as mapping a ring; not longer than ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    looks = 0
    while looks < _IDLE_LOOKS and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        looks = 0 if any(map(_has_work, pids)) else looks + 1


def _has_work(pid: int) -> bool:
    """Whether a thread of a process runs, waits for a core, or waits for the disk (proc(5), stat)."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the thread has ended
            if stat.read_text().rpartition(")")[2].split()[0] in "RD":
                return True
    return False


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
