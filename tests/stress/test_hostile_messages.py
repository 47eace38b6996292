"""Row 25, from a grammar: many clients send what no client should, and nobody else notices.

A short run by default; the long one:
``OMEWD_MESSAGES=100000 python -m pytest tests/stress/test_hostile_messages.py -s``, and ``OMEWD_SEED`` for other
messages. ``OMEWD_APART=1`` gives the daemon a core of its own, as the latency of ``status`` is measured, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import omewd
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.footprints import Footprint
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for

MESSAGES = int(os.environ.get("OMEWD_MESSAGES", "4000"))
SEED = int(os.environ.get("OMEWD_SEED", "20261128"))
APART = "OMEWD_APART" in os.environ
ATTACKERS = 4
CLIENTS = 24  # of each attacker
# What the daemon may do between a request for the status and its reply, in seconds of a processor: far more than it
# does, and it is no matter how loaded the machine is.
MOST_COST_S = 1.0
# Memory goes up in steps: ended streams are kept with their details, up to 16 MiB. One step in the middle of a
# run makes the line uncertain by more than its height. 100,000 messages at 320 bytes would exceed this.
MEMORY_FLOOR = 32 << 20
# A short run fits into the warm-up of Python and its libraries.
LONG = MESSAGES >= 50_000
SHORT_RUN_BYTES = 48 << 20


class Attackers:
    """Processes of hostile clients, each of which sends its part of the messages."""

    def __init__(self, socket: Path) -> None:
        self._said = [0] * ATTACKERS
        self.codes: dict[str, int] = {}
        command = [sys.executable, "-m", "tests.stress.hostile_client", str(socket)]
        self.processes = [
            subprocess.Popen(
                [*command, str(SEED + number), str(MESSAGES // ATTACKERS), str(CLIENTS)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(ATTACKERS)
        ]
        self._threads = [threading.Thread(target=self._read, args=(number,)) for number in range(ATTACKERS)]
        for thread in self._threads:
            thread.start()

    def _read(self, number: int) -> None:
        output = self.processes[number].stdout
        assert output is not None
        for line in output:
            said: dict[str, Any] = json.loads(line)
            self._said[number] = said["sent"]
            for code, count in said.get("codes", {}).items():
                self.codes[code] = self.codes.get(code, 0) + count

    @property
    def sent(self) -> int:
        return sum(self._said)

    @property
    def are_at_work(self) -> bool:
        return any(process.poll() is None for process in self.processes)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for thread, process in zip(self._threads, self.processes, strict=True):
            thread.join()
            assert process.stdout is not None
            process.stdout.close()


def cpu_s(pid: int) -> float:
    """What a process has had of the processors so far: what it does, however loaded the machine is."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def in_ms(what: str, seconds: list[float]) -> str:
    ms = np.array(seconds) * 1e3
    shares = ", ".join(f"{share} %: {np.percentile(ms, share):.2f}" for share in (50, 90, 99, 99.9, 100))
    return f"{what}, {len(ms)} times, in ms: {shares}"


def keep_apart(daemon: DaemonProcess) -> None:
    """Give the daemon the last core, and all others the rest; the attackers inherit that."""
    *rest, own = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(daemon.process.pid, {own})
    for pid in (0, *daemon.writer_pids()):
        os.sched_setaffinity(pid, rest)


@pytest.mark.alone
@pytest.mark.stress
@pytest.mark.timeout(180 + MESSAGES // 50)
def test_row_25_messages_from_a_grammar(omewd_daemon: DaemonProcess) -> None:
    cores = os.sched_getaffinity(0)
    if APART:
        keep_apart(omewd_daemon)
    spec = make_spec("good", "t:inf:1:5,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    footprint = Footprint(omewd_daemon)
    daemon = psutil.Process(omewd_daemon.process.pid)
    memory_before, descriptors_before = daemon.memory_info().rss, daemon.num_fds()
    attackers = Attackers(omewd_daemon.socket)
    latencies: list[float] = []
    costs: list[float] = []
    frames = 0
    try:
        with omewd_daemon.connect("good") as producer:
            while attackers.are_at_work:
                producer.append(make_frame(frames, spec.frame_shape, spec.dtype), timeout=60)
                frames += 1
                started, before = time.perf_counter(), cpu_s(omewd_daemon.process.pid)
                assert omewd_daemon.client.status("good")["state"] == "ACTIVE"
                latencies.append(time.perf_counter() - started)
                costs.append(cpu_s(omewd_daemon.process.pid) - before)
                if attackers.sent >= len(footprint.at) * MESSAGES / 60:
                    footprint.sample(attackers.sent)
                time.sleep(0.002)
            assert [process.wait() for process in attackers.processes] == [0] * ATTACKERS
    finally:
        attackers.end()
        os.sched_setaffinity(0, cores)
    check_dataset(omewd_daemon.data / "good.ome.zarr", spec, frames)
    wait_for(lambda: _ended(omewd_daemon))
    wait_for(lambda: daemon.num_fds() <= descriptors_before)
    assert "this is a bug" not in omewd_daemon.log()
    assert daemon.memory_info().rss - memory_before < SHORT_RUN_BYTES
    report = footprint.check_flat(memory_bytes=MEMORY_FLOOR, others=None) if LONG else ""
    print(f"\n{attackers.sent:,} messages, {attackers.codes}, {frames} frames beside them; {report}")
    print(in_ms("status", latencies))
    print(in_ms("processor time of the daemon from a request for the status to its reply", costs))
    assert max(costs) < MOST_COST_S


def _ended(daemon: DaemonProcess) -> bool:
    """Stop the streams that the attackers have started, whatever their names; returns whether none is open."""
    left = [s for s in daemon.client.status()["streams"] if s["state"] not in ("DONE", "FAILED") or s["kept_in_ring"]]
    for stream in left:
        with contextlib.suppress(omewd.OmewdError):
            daemon.client.stop_stream(stream["name"])
    return not left
