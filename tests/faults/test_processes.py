"""Writers and producers that die or hang, disks that fill. Named after the rows of the list of faults."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import omewd
from omewd.dataset.verify import verify
from omewd.errors import RingFullError
from omewd.model.spec.backend import BACKENDS
from omewd.process.faultpoints import VARIABLE
from tests.support.daemons import DaemonProcess, daemon
from tests.support.datasets import check_dataset
from tests.support.disks import small_disk
from tests.support.frames import Array, make_frame, make_spec
from tests.support.processes import paused, start_python, wait_for

CAMERA = """
import sys, omewd
from tests.support.frames import make_frame
socket, name, frames, then = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
producer = omewd.connect(name, socket=socket)
for index in range(frames):
    producer.append(make_frame(index, producer.shape, str(producer.dtype)))
print("appended", flush=True)
if then == "fill":
    context = producer.claim()
    slot = context.__enter__()
    slot.array[:] = 77
if then == "close":
    producer.close()
else:
    sys.stdin.read()
"""


def wait_for_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def start_camera(daemon: DaemonProcess, name: str, frames: int, then: str) -> subprocess.Popen[str]:
    return start_python(CAMERA, str(daemon.socket), name, str(frames), then)


@pytest.fixture
def cameras() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("moment", ["appended", "fill"])
def test_row_01_producer_killed(omewd_daemon: DaemonProcess, cameras: list[subprocess.Popen[str]], moment: str) -> None:
    """What was published is written; a frame in the filling never becomes visible; the status says what ended it."""
    spec = make_spec("cam", "t:100:1:8,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    cameras.append(start_camera(omewd_daemon, "cam", 13, moment))
    assert wait_for_line(cameras[0]) == "appended"
    time.sleep(0.2)
    cameras[0].kill()
    final = omewd_daemon.client.wait("cam", timeout=60)
    assert final["state"] == "DONE"
    assert final["ended_by"] == "the producer was lost"
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 13)


def test_row_04_producer_stopped_harms_nobody(
    omewd_daemon: DaemonProcess, cameras: list[subprocess.Popen[str]]
) -> None:
    slow, quick = make_spec("slow", "t:100,y:16,x:16"), make_spec("quick", "t:50,y:16,x:16")
    omewd_daemon.client.start_stream(slow)
    omewd_daemon.client.start_stream(quick)
    cameras.append(start_camera(omewd_daemon, "slow", 5, "fill"))
    assert wait_for_line(cameras[0]) == "appended"
    os.kill(cameras[0].pid, signal.SIGSTOP)
    with omewd_daemon.connect("quick") as producer:
        for index in range(50):
            producer.append(make_frame(index, quick.frame_shape, quick.dtype))
    check_dataset(omewd_daemon.data / "quick.ome.zarr", quick, 50)
    omewd_daemon.client.stop_stream("slow")
    assert omewd_daemon.client.wait("slow", timeout=60)["frames"]["received"] == 5
    check_dataset(omewd_daemon.data / "slow.ome.zarr", slow, 5)


@pytest.mark.parametrize("backend", list(BACKENDS))
def test_row_06_writers_killed_in_mid_stream(omewd_daemon: DaemonProcess, backend: str) -> None:
    """Each job of a killed writer is run again; staging is swept; no scratch files stay."""
    spec = make_spec("cam", "t:120:2:2,y:128:32:2,x:128:32:4", backend=backend, ring_slots=32)
    omewd_daemon.client.start_stream(spec)
    killed: set[int] = set()
    with omewd_daemon.connect("cam") as producer:
        for index in range(120):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
            if index % 25 == 20:
                killed.add(omewd_daemon.kill_a_writer())
    wait_for(lambda: omewd_daemon.log().count("writer died") >= len(killed))
    assert omewd_daemon.log().count("writer died") == len(killed)
    check_dataset(omewd_daemon.data / "cam.ome.zarr", spec, 120)
    assert len(omewd_daemon.writer_pids()) == 2


def test_row_08_hung_writer_is_killed_and_its_job_given_away(tmp_path: Path) -> None:
    with daemon(tmp_path, "--writers", "2", "--job-timeout", "1", "--memory", "512MiB") as process:
        spec = make_spec("cam", "t:40:1:2,y:64,x:64", ring_slots=8)
        process.client.start_stream(spec)
        with process.connect("cam") as producer:
            for index in range(40):
                if index == 10:
                    hung = process.writer_pids()[0]
                    os.kill(hung, signal.SIGSTOP)
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        assert hung not in process.writer_pids()
        assert "exceeded its deadline" in process.log()
        check_dataset(process.data / "cam.ome.zarr", spec, 40)


def _hangs_in_open(pid: int) -> bool:
    """Whether a thread of a process waits for somebody to read a pipe that it opens."""
    stacks = []
    for stack in Path(f"/proc/{pid}/task").glob("*/stack"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            stacks.append(stack.read_text())
    return any("fifo_open" in stack for stack in stacks)


def test_row_07_a_job_that_kills_each_writer_fails_its_stream(omewd_daemon: DaemonProcess) -> None:
    """After a few deaths the stream is FAILED with the reason and the missing frames; others go on."""
    spec = make_spec("cam", "t:20:1:4,y:16,x:16", backend="tensorstore")
    other = make_spec("other", "t:8,y:16,x:16")
    omewd_daemon.client.start_stream(other)
    omewd_daemon.client.start_stream(spec)
    # A library that dies at this stream: its staging folder is a pipe nobody reads, so each writer hangs in open().
    producer = omewd_daemon.connect("cam")
    staging = omewd_daemon.data / "cam.ome.zarr" / "omewd" / "staging"
    (staging / "unit-0-0-0/0").mkdir(parents=True)
    os.mkfifo(staging / "unit-0-0-0/0/0")
    for index in range(4):
        producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    deadline = time.monotonic() + 30
    while omewd_daemon.client.status("cam")["state"] != "FAILED" and time.monotonic() < deadline:
        for writer in omewd_daemon.client.status()["writers"]:
            if writer["jobs"] and _hangs_in_open(writer["pid"]):
                os.kill(writer["pid"], signal.SIGKILL)
        time.sleep(0.02)
    with pytest.raises(omewd.OmewdError, match="frames are missing: 0-3") as caught:
        omewd_daemon.client.wait("cam", timeout=60)
    assert caught.value.code == "stream_failed"
    with pytest.raises(omewd.OmewdError, match="write unit 0 could not be written"):
        producer.append(make_frame(4, spec.frame_shape, spec.dtype))
    with pytest.raises(omewd.OmewdError, match="write unit 0"):
        producer.close()
    with omewd_daemon.connect("other") as fine:
        for index in range(8):
            fine.append(make_frame(index, other.frame_shape, other.dtype))
    check_dataset(omewd_daemon.data / "other.ome.zarr", other, 8)


def test_row_08_a_writer_that_hangs_before_it_is_ready_is_replaced(tmp_path: Path) -> None:
    with daemon(tmp_path, "--writers", "2", "--memory", "512MiB", "--start-timeout", "5") as process:
        first, second = process.writer_pids()
        os.kill(first, signal.SIGKILL)
        late = first
        while late in (first, second):
            late = process.client.status()["writers"][-1]["pid"]
        os.kill(late, signal.SIGSTOP)
        wait_for(lambda: "was not ready in time" in process.log())
        assert late not in process.writer_pids()


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "4m") as disk:
        yield disk


def was_taken(producer: omewd.Producer, frame: Array, is_paused: Callable[[], bool]) -> bool:
    """Whether there was room for a frame before the stream was paused; a slow disk is no full one."""
    while True:
        try:
            producer.append(frame, timeout=0.5)
        except RingFullError:
            if is_paused():
                return False
        else:
            return True


@pytest.mark.root("mounts a small disk")
@pytest.mark.parametrize("dims", ["t:40:1:2,y:256,x:256", "t:40,y:256:128,x:256:128"], ids=["sharded", "not sharded"])
@pytest.mark.parametrize("policy", ["block", "drop"])
def test_row_18_disk_full_pauses_the_stream(tmp_path: Path, small_disk: Path, dims: str, policy: str) -> None:
    """The producer feels it by its policy; when there is space again it goes on, and nothing is lost."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_500_000))
    with daemon(tmp_path / "d", "--data-root", str(small_disk), "--memory", "512MiB", "--writers", "2") as process:
        output = str(small_disk / "cam.ome.zarr")
        spec = make_spec("cam", dims, output=output, ring_slots=8, backpressure=policy, dtype="uint8")
        spec = spec.model_copy(update={"on_disk_full": "wait"})  # it does not fit, and is to be opened all the same
        process.client.start_stream(spec)
        dropped = set()
        with process.connect("cam") as producer:
            for index in range(40):
                if policy == "block":
                    frame = make_frame(index, spec.frame_shape, "uint8")
                    if was_taken(producer, frame, lambda: process.client.status("cam")["paused"] is not None):
                        continue
                    status = process.client.status("cam")
                    assert (status["state"], status["paused"]["code"]) == ("ACTIVE", "disk_full")
                    assert "waits: the disk is full" in process.omewd("status").stdout
                    ballast.unlink()
                    producer.append(frame, timeout=60)
                elif producer.append(make_frame(index, spec.frame_shape, "uint8")) is None:
                    dropped.add(index)
                    if ballast.exists() and process.client.status("cam")["paused"]:
                        ballast.unlink()
                time.sleep(0.02)
            assert not ballast.exists(), "the disk was never full"
        status = process.client.status("cam")
        assert (status["state"], status["paused"], status["retries"]) == ("DONE", None, 0)
        assert status["disk"]["free_bytes"] > 0
        check_dataset(small_disk / "cam.ome.zarr", spec, 40, gaps=dropped)


@pytest.mark.root("mounts a small disk")
def test_row_18_disk_full_is_told(tmp_path: Path, small_disk: Path) -> None:
    """A stream that is not to wait fails with the reason; what is on disk reads back; the producer hears of it."""
    with daemon(tmp_path / "d", "--data-root", str(small_disk), "--memory", "512MiB", "--writers", "1") as process:
        spec = make_spec("cam", "t:inf:1:2,y:512,x:512", output=str(small_disk / "cam.ome.zarr"), ring_slots=8)
        spec = spec.model_copy(update={"on_disk_full": "fail"})
        process.client.start_stream(spec)
        producer = process.connect("cam")
        with pytest.raises(omewd.OmewdError, match="disk is full") as caught:
            for index in range(100):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        assert isinstance(caught.value, omewd.StreamFailedError)
        assert caught.value.cause == "disk_full"
        with pytest.raises(omewd.StreamFailedError, match="Free space") as at_close:
            producer.close()
        assert at_close.value.cause == "disk_full"
        status = process.client.status("cam")
        assert [list(run) for run in at_close.value.lost] == status["lost"]
        frames = status["frames"]
        assert status["error"]["code"] == "disk_full"
        assert frames["lost"] > 0
        assert frames["received"] == frames["written"] + frames["lost"]
        # A small job may have found the last of the space that was too little for a larger one before it.
        assert frames["durable"] == status["lost"][0][0] <= frames["written"]


def test_row_21_dataset_removed_in_mid_stream(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:100,y:16,x:16", ring_slots=8)
    omewd_daemon.client.start_stream(spec)
    producer = omewd_daemon.connect("cam")
    producer.append(make_frame(0, spec.frame_shape, spec.dtype))
    while producer.durable < 1:  # or rm meets a writer that makes folders
        time.sleep(0.01)
    subprocess.run(["rm", "-rf", str(omewd_daemon.data / "cam.ome.zarr")], check=True)
    with pytest.raises(omewd.OmewdError, match="no longer exists") as caught:
        for index in range(1, 100):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
            time.sleep(0.01)
    assert isinstance(caught.value, omewd.StreamFailedError)
    assert caught.value.cause == "dataset_replaced"
    with pytest.raises(omewd.OmewdError):
        producer.close()


@pytest.mark.parametrize(("backend", "durable"), [("tensorstore", 4), ("direct", 6)])
@pytest.mark.parametrize("restart", [False, True], ids=["same daemon", "next daemon"])
def test_row_21_the_ring_is_kept_and_the_stream_resumed(
    tmp_path: Path, restart: bool, backend: str, durable: int
) -> None:
    """Until somebody says what to do; once the dataset is back nothing is lost."""
    options = ("--memory", "512MiB", "--writers", "2")
    process = DaemonProcess(tmp_path, *options)
    try:
        spec = make_spec("cam", "t:inf:1:4,y:16,x:16", ring_slots=16, backend=backend)
        process.client.start_stream(spec)
        producer = process.connect("cam")
        for index in range(6):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        wait_for(lambda: producer.durable == durable)
        dataset, elsewhere = process.data / "cam.ome.zarr", process.data / "elsewhere"
        with paused(process.writer_pids()):  # all are handed over before a writer finds it gone
            dataset.rename(elsewhere)
            for index in range(6, 15):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        with pytest.raises(omewd.OmewdError, match=f"frames are missing: {durable}-14"):
            producer.close()
        status = process.client.status("cam")
        assert (status["state"], status["kept_in_ring"], status["frames"]["in_flight"]) == ("FAILED", True, 0)
        with pytest.raises(omewd.OmewdError, match="is open"):
            process.client.start_stream(spec)
        elsewhere.rename(dataset)
        if restart:
            process.kill()
            process = DaemonProcess(tmp_path, *options)
            wait_for(lambda: process.client.status("cam")["settled"])
        done = process.omewd("resume-stream", "cam")
        assert done.returncode == 0, done.stderr
        assert "cam: DONE, 15 frames written" in done.stdout
        check_dataset(dataset, spec, 15)
        assert "there is nothing to resume" in process.omewd("resume-stream", "cam").stderr
        assert process.stop() == 0
    finally:
        process.kill()


def test_row_07_a_failed_stream_s_ring_is_let_go_when_told(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:inf:1:4,y:16,x:16")
    omewd_daemon.client.start_stream(spec)
    producer = omewd_daemon.connect("cam")
    with paused(omewd_daemon.writer_pids()):  # all are handed over before a writer finds it gone
        (omewd_daemon.data / "cam.ome.zarr").rename(omewd_daemon.data / "elsewhere")
        for index in range(6):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    with pytest.raises(omewd.OmewdError, match="frames are missing: 0-5"):
        producer.close()
    assert omewd_daemon.client.status()["memory"]["ring_bytes"] > 0
    assert omewd_daemon.omewd("stop-stream", "cam").returncode == 5
    assert omewd_daemon.client.status()["memory"]["ring_bytes"] == 0
    assert omewd_daemon.client.status("cam")["kept_in_ring"] is False
    assert not omewd_daemon.shared_memory()


SMALL_SHARED_MEMORY = 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"'


@pytest.mark.root("gives a daemon a small /dev/shm")
def test_row_22_shared_memory_too_small(tmp_path: Path) -> None:
    """Within the budget but not within /dev/shm: a clean refusal, nothing left behind."""
    prefix = ("unshare", "--mount", "sh", "-c", SMALL_SHARED_MEMORY, "sh")
    with daemon(tmp_path, "--memory", "1GiB", "--writers", "1", prefix=prefix) as process:
        with pytest.raises(omewd.OmewdError, match="MiB are free") as caught:
            process.client.start_stream(make_spec("cam", "t:inf,y:512,x:512", ring_slots=32))
        assert caught.value.code == "no_shared_memory"
        assert not (process.data / "cam.ome.zarr").exists()
        assert process.client.status()["memory"]["ring_bytes"] == 0
        spec = make_spec("cam", "t:4,y:16,x:16")
        process.client.start_stream(spec)
        with process.connect("cam") as producer:
            for index in range(4):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        check_dataset(process.data / "cam.ome.zarr", spec, 4)


def test_a_daemon_that_can_not_start_logs_the_status_that_it_exits_with(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "omewd", "serve", "--log-format", "json", "--start-timeout", "0.1"]
    command += ["--data-root", str(tmp_path), "--socket", str(tmp_path / "s"), "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3, done.stderr
    *log, told = done.stderr.splitlines()
    assert told.startswith("omewd: no writer process could be started")
    stopped = [line for line in map(json.loads, log) if line["event"] == "stopped"]
    assert [line["exit_status"] for line in stopped] == [3]


def test_row_22_more_than_the_machine_has(tmp_path: Path) -> None:
    """A budget over the memory of the machine ends in the kernel's hands; it is refused at the start."""
    command = [sys.executable, "-m", "omewd", "serve", "--memory", "100TB", "--data-root", str(tmp_path)]
    command += ["--socket", str(tmp_path / "s"), "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert "the machine has" in done.stderr


def test_row_13_sigterm_drains(tmp_path: Path) -> None:
    with daemon(tmp_path, "--writers", "1") as process:
        spec = make_spec("cam", "t:inf:1:8,y:64,x:64")
        process.client.start_stream(spec)
        producer = process.connect("cam")
        for index in range(50):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        assert process.stop() == 0
        with pytest.raises(omewd.OmewdError, match="takes no more frames"):
            producer.append(make_frame(50, spec.frame_shape, spec.dtype))
        assert producer.close()["state"] == "DONE"
        check_dataset(process.data / "cam.ome.zarr", spec, 50)


def is_durable(producer: omewd.Producer, index: int) -> bool:
    return producer.durable > index


def test_row_06_a_writer_killed_in_the_middle_of_a_line_of_the_ledger(tmp_path: Path) -> None:
    """What it has left of its lines is gone when the next one appends. The kernel lets the file grow so far only."""
    spec = make_spec("cam", "t:60,y:4,x:4", backend="tensorstore")
    env = {VARIABLE: f"writer: ledger written to;41;{tmp_path / 'died'}"}
    with daemon(tmp_path, "--writers", "1", "--memory", "256MiB", env=env) as process:
        process.client.start_stream(spec)
        producer = process.connect("cam")
        for index in range(60):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype), metadata={"index": index, "x": "x" * 400})
            if index < 40:  # a job each
                wait_for(partial(is_durable, producer, index))
            if index == 39:
                [writer] = process.writer_pids()
                limit = (process.data / "cam.ome.zarr/omewd/ledger.jsonl").stat().st_size + 100
                resource.prlimit(writer, resource.RLIMIT_FSIZE, (limit, limit))
        producer.close()
        assert process.writer_pids() != [writer]
        dataset = process.data / "cam.ome.zarr"
        check_dataset(dataset, spec, 60)
        report = verify(dataset)
        assert (report.problems, report.notes) == ([], [])
        rows = [json.loads(line) for line in (dataset / "omewd/ledger.jsonl").read_text().splitlines()]
        assert [(row["frame"], row["metadata"]["index"]) for row in rows] == [(n, n) for n in range(60)]
