"""The faults of docs/internals/faults.md that have no file of their own; and that each has a test."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import omewd
from omewd.process.faultpoints import VARIABLE
from tests.support.daemons import DaemonProcess
from tests.support.datasets import check_dataset
from tests.support.frames import make_frame, make_spec
from tests.support.places import DOCS, REPOSITORY

# A section of the page of faults: its number, and what it says, with the tests that hold it.
SECTION = re.compile(r"^## (\d+)\. .*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)

CAMERA = """
import sys, omewd
from tests.support.frames import make_frame
producer = omewd.connect("cam", socket=sys.argv[1])
for index in range(40):
    producer.append(make_frame(index, producer.shape, str(producer.dtype)))
"""


def test_every_fault_on_the_page_has_its_tests() -> None:
    """A test is named after its section: test_row_07_…, test_rows_14_and_16_…; the section lists it."""
    found: dict[int, set[str]] = {}
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "name", None) or ""
            numbers = re.match(r"test_rows?_(\d\d)(?:_and_(\d\d))?", name)
            for number in numbers.groups() if numbers else ():
                if number:
                    found.setdefault(int(number), set()).add(name)
    page = (DOCS / "internals" / "faults.md").read_text()
    listed = {int(section[1]): set(re.findall(r"`(test_rows?_\w+)`", section[0])) for section in SECTION.finditer(page)}
    assert listed == found


def test_row_03_a_producer_killed_before_the_doorbell(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    """What was published is written all the same."""
    spec = make_spec("cam", "t:40:1:4,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    environment = {**os.environ, VARIABLE: f"producer: published;9;{tmp_path / 'died'}"}
    command = [sys.executable, "-c", CAMERA, str(omewd_daemon.socket)]
    assert subprocess.run(command, env=environment, timeout=30, check=False).returncode == -signal.SIGKILL
    final = omewd_daemon.client.wait("cam", timeout=60)
    assert (final["frames"]["received"], final["ended_by"]) == (9, "the producer was lost")
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 9)


def memory_group() -> tuple[Path, str]:
    """Where groups of limited memory are made, and the name of the limit; version 2 of control groups, or 1."""
    root = Path("/sys/fs/cgroup")
    for folder, limit in ((root, "memory.max"), (root / "memory", "memory.limit_in_bytes")):
        if (folder / "cgroup.procs").exists() and (limit == "memory.max" or (folder / limit).exists()):
            controllers = folder / "cgroup.controllers"
            if limit != "memory.max" or (controllers.exists() and "memory" in controllers.read_text()):
                return folder, limit
    pytest.skip("no control group of memory here")


@pytest.mark.root("limits the memory of a process")
def test_row_09_a_writer_killed_by_the_kernel_for_memory(omewd_daemon: DaemonProcess) -> None:
    """In a control group with next to no memory: its job is run again, and the daemon lives."""
    root, limit = memory_group()
    group = root / f"omewd-test-{os.getpid()}"
    victim = omewd_daemon.writer_pids()[0]
    group.mkdir()
    try:
        (group / limit).write_text("4194304")
        (group / "cgroup.procs").write_text(str(victim))
        spec = make_spec("cam", "t:24:1:4,y:1024:256:4,x:1024:256:4", ring_slots=8, backend="tensorstore")
        omewd_daemon.client.start_stream(spec)
        with omewd_daemon.connect("cam") as producer:
            for index in range(24):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        assert f'"pid": {victim}, "reason": "signal SIGKILL"' in omewd_daemon.log()
        check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 24)
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (root / "cgroup.procs").write_text(pid)
        group.rmdir()


def test_row_23_no_time_out_looks_at_the_wall_clock() -> None:
    """Only the time stamps of frames do."""
    users = set()
    for path in Path(omewd.__file__).parent.rglob("*.py"):
        text = path.read_text()
        if re.search(r"\btime\.time(_ns)?\(|datetime\.|\btime\.(localtime|gmtime)\(", text):
            users.add(str(path.relative_to(Path(omewd.__file__).parent)))
    # Of frames, and as people read them.
    assert users == {"producer/handover.py", "cli/datasets/ledger.py"}
    handover = (Path(omewd.__file__).parent / "producer" / "handover.py").read_text()
    assert len(re.findall(r"time\.time", handover)) == 1  # the slot's stamp


@pytest.mark.parametrize("doorbells", ["lost", "doubled", "spurious"])
def test_row_24_doorbells_cost_time_and_never_a_frame(omewd_daemon: DaemonProcess, doorbells: str) -> None:
    spec = make_spec("cam", "t:60:1:4,y:16,x:16", ring_slots=8)
    omewd_daemon.client.start_stream(spec)
    producer = omewd_daemon.connect("cam")
    ring = producer._link.ring
    rings = {"lost": lambda: None, "doubled": lambda: [ring() for _ in range(2)], "spurious": ring}
    producer._link.ring = rings[doorbells]  # type: ignore[assignment, method-assign]
    for index in range(60):
        producer.append(make_frame(index, spec.frame_shape, spec.dtype), timeout=60)
        if doorbells == "spurious":
            for _ in range(20):
                ring()
    assert producer.close()["state"] == "DONE"
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 60)
