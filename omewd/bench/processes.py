"""What processes have used: CPU time and memory, as the kernel counts them."""

from __future__ import annotations

import time
from pathlib import Path

# Linux, clock_getcpuclockid(3): the clock that counts the CPU time of all threads of a process.
_CPUCLOCK_SCHED = 2


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used, all its threads, those that ended too; raises OSError if there is none."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def reset_peak(pid: int) -> None:
    """Let the peak of a process begin anew at what it has now (proc(5), "clear_refs")."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident, shared memory included."""
    return _field(pid, "VmHWM")


def resident_bytes(pid: int) -> int:
    return _field(pid, "VmRSS")


def _field(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
