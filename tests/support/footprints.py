"""What a daemon and its writers take while a test runs: memory, descriptors, threads, shared memory, the journal."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import psutil

from tests.support.daemons import DaemonProcess
from tests.support.shared_memory import shared_memory_names
from tests.support.trends import Trend, trend

MEMORY = ("rss", "private")
MIB = 1 << 20
# A writer's pools start threads when they first need them, maybe late in a short run.
MOST_NEW_THREADS = 16


class Footprint:
    """Samples of one daemon, its writers and, if asked, the test's own process, over the progress of a run."""

    def __init__(self, daemon: DaemonProcess, *, and_this_process: bool = False) -> None:
        self._daemon = daemon
        self.at: list[float] = []
        self.series: defaultdict[str, list[float]] = defaultdict(list)
        writers = daemon.writer_pids()
        self._pids = {"daemon": daemon.process.pid, **{f"writer {n}": pid for n, pid in enumerate(writers)}}
        if and_this_process:
            self._pids["camera"] = os.getpid()

    def sample(self, progress: float) -> None:
        """Note what there is now, ``progress`` frames, streams or messages after the start."""
        self.at.append(progress)
        for name, pid in self._pids.items():
            process = psutil.Process(pid)
            memory = process.memory_full_info()
            self.series[f"{name}: rss"].append(memory.rss)
            self.series[f"{name}: private"].append(memory.uss)
            self.series[f"{name}: descriptors"].append(process.num_fds())
            self.series[f"{name}: threads"].append(process.num_threads())
        self.series["files in /dev/shm"].append(len(self._shared_memory()))
        self.series["journal entries"].append(len(list((self._daemon.folder / "state" / "streams").iterdir())))

    def _shared_memory(self) -> list[Path]:
        """Also what is in folders there, such as the writers' scratch."""
        tops = [Path("/dev/shm") / name for name in shared_memory_names(self._daemon.instance)]
        return [*tops, *(path for top in tops for path in top.rglob("*"))]

    def trends(self, warm_up: float) -> dict[str, Trend]:
        """The trend of each series, without the first part of the run, in which caches fill."""
        start = next(n for n, at in enumerate(self.at) if at >= warm_up * self.at[-1])
        return {name: trend(self.at[start:], values[start:]) for name, values in self.series.items()}

    def check_flat(self, *, memory_bytes: int, others: float | None, warm_up: float = 0.25) -> str:
        """Check that no series rises by more than its floor, and that no process was replaced; returns a report.

        ``others``: the floor of what is neither memory nor threads; None to leave that and threads unchecked.
        """
        found = self.trends(warm_up)
        lines = [_line(name, found[name], values) for name, values in self.series.items()]
        report = f"{len(self.at)} samples over {self.at[-1]:,.0f}, without the first {warm_up:.0%}:\n" + "\n".join(
            lines
        )
        threads = None if others is None else max(others, MOST_NEW_THREADS)
        floors = {
            name: memory_bytes if name.endswith(MEMORY) else threads if name.endswith("threads") else others
            for name in found
        }
        rising = [name for name, floor in floors.items() if floor is not None and not found[name].is_flat(floor)]
        assert not rising, f"{', '.join(rising)} not flat; {report}"
        now = self._daemon.writer_pids()
        assert now == [pid for name, pid in self._pids.items() if name.startswith("writer")], "a writer was replaced"
        return report


def _line(name: str, line: Trend, values: list[float]) -> str:
    unit, suffix = (MIB, " MiB") if name.endswith(MEMORY) else (1, "")
    grown = f"{line.growth / unit:+.3f} ± {line.growth_error / unit:.3f}{suffix}"
    return f"  {name:24} {values[0] / unit:9.2f} → {values[-1] / unit:9.2f}{suffix}, trend {grown}"
