"""The daemon killed, with its writers or without, at any moment; and started again. Rows 2, 3, 10 to 15 and 17."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import omewd
from omewd.client.connection import Connection
from omewd.dataset.verify import verify
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.spec import StreamSpec
from omewd.process.faultpoints import VARIABLE
from tests.faults.support import OPTIONS, Daemons, abandon, append, entries
from tests.support.acquisitions import check_acquisition
from tests.support.daemons import DaemonProcess, KeptDaemon
from tests.support.datasets import check_dataset, read_zarr
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for

FRAMES = 96

CAMERA = """
import sys, omewd
from tests.support.frames import make_frame
socket, name, frames = sys.argv[1], sys.argv[2], int(sys.argv[3])
producer = omewd.connect(name, socket=socket)
for index in range(producer.next_index, frames):
    producer.append(make_frame(index, producer.shape, str(producer.dtype)))
    print(index, flush=True)
producer.close()
print("closed", flush=True)
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("dims", ["t:96:1:8,y:32:16:2,x:32:16:2", "t:96,y:32:16,x:32:16", "t:inf:1:8,c:2,y:16,x:16"])
def test_row_10_daemon_killed_while_frames_arrive(daemons: Daemons, dims: str) -> None:
    spec = make_spec("cam", dims, ring_slots=48)
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    for part in range(6):
        append(producer, spec, range(part * 16, part * 16 + 8))
        wait_for(lambda: daemons.now.client.status("cam")["ring"]["used"] <= 40)
        daemons.now.kill()
        append(producer, spec, range(part * 16 + 8, part * 16 + 16))  # nobody is there, and the camera does not notice
        daemons.restart()
    assert producer.close(timeout=20)["state"] == "DONE"
    assert producer.durable == FRAMES
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, FRAMES)


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
@pytest.mark.parametrize("dims", ["t:96:4:2,c:3,y:16:8,x:16", "t:inf:8,p:2,z:3,y:16,x:16"])
def test_row_10_daemon_killed_while_units_interleave(daemons: Daemons, dims: str, backend: str) -> None:
    """A unit is done, and others that began with later frames are not: its frames are not counted twice, nor never."""
    spec = make_spec("cam", dims, ring_slots=48, backend=backend)
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    plan = Plan.of(spec, BACKENDS[backend].encodes)
    complete = plan.last_frame(0) + 1  # the first unit is, and no other
    append(producer, spec, range(complete))
    wait_for(lambda: daemons.now.client.status("cam")["frames"]["written"] == plan.extents[0])
    daemons.restart()
    status = daemons.now.client.status("cam")["frames"]
    assert (status["received"], status["written"]) == (complete, plan.extents[0])
    append(producer, spec, range(complete, FRAMES))
    assert producer.close(timeout=20)["state"] == "DONE"
    frames = [make_frame(index, spec.frame_shape, spec.dtype) for index in range(FRAMES)]
    check_acquisition(daemons.now.data / "cam.ome.zarr", spec, [frames])


def test_row_10_daemon_killed_when_idle(daemons: Daemons) -> None:
    daemons.restart()
    assert daemons.now.client.status()["streams"] == []
    assert not daemons.now.shared_memory()


def test_row_10_a_full_ring_waits_for_the_daemon(daemons: Daemons) -> None:
    spec = make_spec("cam", "t:inf:1:4,y:16,x:16", ring_slots=8)
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    append(producer, spec, range(4))
    wait_for(lambda: daemons.now.client.status("cam")["frames"]["written"] == 4)
    daemons.now.kill()
    append(producer, spec, range(4, 12))
    with pytest.raises(omewd.OmewdError, match="stayed full"):
        producer.append(make_frame(12, (16, 16), "uint16"), timeout=0.3)
    daemons.restart()
    append(producer, spec, range(12, 40))
    producer.close()
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, 40)


def test_gaps_and_their_kinds_outlive_the_daemon(daemons: Daemons) -> None:
    spec = make_spec("cam", "t:inf:1:10,y:16,x:16", backpressure="drop", ring_slots=10)
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    append(producer, spec, range(3))
    producer.skip(2)
    append(producer, spec, range(5, 8))
    daemons.now.client.status()
    daemons.now.kill()
    append(producer, spec, range(8, 12))
    for index in range(12, 17):
        assert producer.append(make_frame(index, (16, 16), "uint16")) is None  # dropped: the ring is full
    daemons.restart()
    wait_for(lambda: daemons.now.client.status("cam")["frames"]["written"] >= 8)
    append(producer, spec, range(17, 20))
    final = producer.close()
    assert (final["frames"]["skipped"], final["frames"]["dropped"]) == (2, 5)
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, 20, gaps={3, 4, *range(12, 17)})
    rows = (daemons.now.data / "cam.ome.zarr/omewd/ledger.jsonl").read_text().split("\n")
    gaps = [row for row in map(json.loads, filter(None, rows)) if "gap" in row]
    kinds = {row["frame"] + place: row["gap"] for row in gaps for place in range(row["count"])}
    assert kinds == {**dict.fromkeys((3, 4), "skipped"), **dict.fromkeys(range(12, 17), "dropped")}


def test_row_11_writers_that_outlive_the_daemon_are_fenced(daemons: Daemons) -> None:
    """A stopped writer can't run what kills it with its daemon; it holds the lock until it is dead."""
    spec = make_spec("cam", "t:inf:1:4,y:16,x:16")
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    writers = daemons.now.writer_pids()
    for pid in writers:
        os.kill(pid, signal.SIGSTOP)
    append(producer, spec, range(12))
    daemons.restart()
    assert not any(lives(pid) for pid in writers)
    producer.close()
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, 12)


def test_row_12_all_killed_at_once(daemons: Daemons) -> None:
    spec = make_spec("cam", "t:inf:1:4,y:16,x:16")
    daemons.now.client.start_stream(spec)
    command = [sys.executable, "-c", CAMERA, str(daemons.now.socket), "cam", "1000000"]
    camera = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert camera.stdout is not None
    for line in camera.stdout:
        if int(line) >= 200:
            break
    pids = [camera.pid, *daemons.now.writer_pids(), daemons.now.process.pid]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    said, _ = camera.communicate()
    published = max([int(line) for line in said.split()], default=200)
    daemons.restart()
    final = daemons.now.client.wait("cam", timeout=20)
    assert final["ended_by"] == "the producer was lost"
    received = final["frames"]["received"]
    assert published + 1 <= received <= published + 2  # it was killed before it could say so of the last one
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, received)


def test_row_13_what_is_not_drained_in_time_waits_for_the_next_start(tmp_path: Path, daemons: Daemons) -> None:
    daemons.now.stop()
    process = daemons.now = DaemonProcess(tmp_path, "--drain-timeout", "0.3", *OPTIONS)
    spec = make_spec("cam", "t:inf:1:4,y:16,x:16")
    process.client.start_stream(spec)
    producer = process.connect("cam")
    for pid in process.writer_pids():
        os.kill(pid, signal.SIGSTOP)
    append(producer, spec, range(10))
    assert process.stop() == 5
    with pytest.raises(omewd.OmewdError, match="takes no more frames"):
        producer.append(make_frame(10, (16, 16), "uint16"))
    daemons.restart()
    assert producer.close()["state"] == "DONE"
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, 10)


@pytest.mark.parametrize("damage", ["not JSON", "{}"])
def test_rings_of_a_journal_that_can_not_be_read_are_kept(daemons: Daemons, damage: str) -> None:
    spec = make_spec("cams", "t:12:1:4,c:2,y:16,x:16", source_dimension="c")
    daemons.now.client.start_stream(spec)
    daemons.now.kill()
    rings = daemons.now.shared_memory()
    assert len(rings) == 2
    (daemons.now.folder / "state" / "streams" / "cams.json").write_text(damage)
    daemons.restart()
    assert daemons.now.shared_memory() == rings
    with pytest.raises(omewd.OmewdError, match="could not be taken over"):
        daemons.now.client.start_stream(spec)
    for ring in rings:
        (Path("/dev/shm") / ring).unlink()
    (daemons.now.folder / "state" / "streams" / "cams.json").unlink()


def test_what_is_cleaned_up_does_not_take_a_new_stream_of_that_name_along(daemons: Daemons) -> None:
    """The entry of the new one stays in the journal when the old one's dataset is finalized."""
    spec = make_spec("cam", "t:12:1:4,y:16,x:16")
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    append(producer, spec, range(4))
    wait_for(lambda: daemons.now.client.status("cam")["frames"]["written"] == 4)
    daemons.now.kill()
    [ring] = daemons.now.shared_memory()
    (Path("/dev/shm") / ring).unlink()
    ledger = daemons.now.data / "cam.ome.zarr" / "omewd" / "ledger.jsonl"
    lines = ledger.read_bytes()
    ledger.unlink()
    os.mkfifo(ledger)  # whoever recovers the dataset waits for what is in it
    daemons.restart()
    abandon(producer)
    again = make_spec("cam", "t:12:1:4,y:16,x:16", output="other.ome.zarr", backend="tensorstore")
    daemons.now.client.start_stream(again)
    producer = daemons.now.connect("cam")
    append(producer, again, range(4))
    holder = os.open(ledger, os.O_RDWR)
    ledger.unlink()
    ledger.write_bytes(lines)
    os.close(holder)
    wait_for(lambda: not daemons.now.client.status()["writers"][0]["jobs"])
    time.sleep(0.3)
    daemons.now.kill()
    daemons.restart()
    append(producer, again, range(4, 12))
    assert producer.close(timeout=20)["state"] == "DONE"
    check_dataset(daemons.now.data / "other.ome.zarr", again, 12)


def test_all_cameras_learn_that_the_dataset_is_complete(daemons: Daemons) -> None:
    """The daemon dies when it has told one of them."""
    spec = make_spec("cams", "t:4,c:2,y:16,x:16", source_dimension="c")
    daemons.now.client.start_stream(spec)
    producers = [omewd.connect("cams", source=n, socket=daemons.now.socket) for n in range(2)]
    for producer in producers:
        append(producer, spec, range(4))
    wait_for(lambda: daemons.now.client.status("cams")["state"] == "DONE")
    for producer in producers:
        assert producer.close(timeout=60)["state"] == "DONE"


# -- a new producer ----------------------------------------------------------------------------------


def test_row_02_a_new_producer_goes_on_where_the_last_one_died(tmp_path: Path, daemons: Daemons) -> None:
    spec = make_spec("cam", "t:40:1:4,y:16,x:16", on_producer_loss="wait")
    daemons.now.client.start_stream(spec)
    for attempt, where in enumerate(("producer: filled", "producer: published", "producer: filled")):
        environment = {**os.environ, VARIABLE: f"{where};9;{tmp_path / f'died{attempt}'}"}
        command = [sys.executable, "-c", CAMERA, str(daemons.now.socket), "cam", "40"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        wait_for(lambda: daemons.now.client.status("cam")["producer"] is None)
        assert daemons.now.client.status("cam")["state"] == "ACTIVE"
        if attempt == 1:
            daemons.restart()
    # 8 of the first, 9 of the second (the last was published), 8 of the third
    assert daemons.now.client.status("cam")["frames"]["received"] == 25
    command = [sys.executable, "-c", CAMERA, str(daemons.now.socket), "cam", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == [*map(str, range(25, 40)), "closed"]
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, 40)


def test_a_producer_that_died_with_the_daemon_is_missed(daemons: Daemons) -> None:
    """By the lock that it held: nobody else could tell the new daemon."""
    spec = make_spec("cam", "t:inf:1:4,y:16,x:16")
    daemons.now.client.start_stream(spec)
    command = [sys.executable, "-c", CAMERA, str(daemons.now.socket), "cam", "1000000"]
    camera = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert camera.stdout is not None
    camera.stdout.readline()
    daemons.restart()
    time.sleep(0.3)
    assert daemons.now.client.status("cam")["state"] == "ACTIVE"
    os.kill(camera.pid, signal.SIGSTOP)  # alive, and not in touch with the new daemon for ever
    camera.kill()
    camera.communicate()
    final = daemons.now.client.wait("cam", timeout=60)
    assert final["ended_by"] == "the producer was lost"
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, final["frames"]["received"])


def test_only_the_producer_itself_goes_on(daemons: Daemons) -> None:
    spec = make_spec("cam", "t:4,y:16,x:16")
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    append(producer, spec, range(2))
    daemons.restart()
    with pytest.raises(omewd.OmewdError, match="already has a producer"):
        daemons.now.connect("cam")
    append(producer, spec, range(2, 4))
    producer.close()
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, 4)


# -- what recovery finds -----------------------------------------------------------------------------


def journal(daemons: Daemons) -> Path:
    return daemons.folder / "state" / "streams" / "cam.json"


@pytest.mark.parametrize(
    ("backend", "compression", "durable"), [("tensorstore", None, 8), ("direct", None, 10), ("direct", "zstd", 10)]
)
def test_row_15_reboot_finalizes_to_what_is_durable(
    daemons: Daemons, backend: str, compression: str | None, durable: int
) -> None:
    """A write unit of the direct backend is a chunk: the shard in progress is sealed with those that it has."""
    spec = make_spec("cam", "t:40:1:4,y:16:8:2,x:16:8:2", backend=backend, compression=compression)
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    append(producer, spec, range(10))
    wait_for(lambda: producer.durable == durable)
    daemons.now.restart_the_machine()
    daemons.restart()
    wait_for(lambda: "finalized a dataset whose rings were gone" in daemons.now.log())
    wait_for(lambda: not entries(daemons))
    dataset = daemons.now.data / "cam.ome.zarr"
    totals = json.loads((dataset / "omewd/zarr.json").read_text())["attributes"]["omewd"]
    received = totals["received"]
    assert (totals["written"], totals["ended_by"]) == (durable, "the machine was restarted")
    assert durable <= received <= 10  # as far as the ledger knew when the last unit was written
    assert totals["lost"] == ([[durable, received - durable]] if received > durable else [])
    array = read_zarr(dataset)
    assert len(array) == received
    for index in range(durable):
        assert array[index].tobytes() == make_frame(index, (16, 16), "uint16").tobytes()
    with pytest.raises(omewd.OmewdError, match="does not go on"):
        producer.append(make_frame(10, (16, 16), "uint16"))
    abandon(producer)


@pytest.mark.parametrize("dims", ["t:40:1:4,y:16:8:2,x:16:8:2", "p:3,t:10,y:16:8,x:16"])
@pytest.mark.parametrize("state", ["whole", "empty", "torn"])
def test_row_15_reboot_leaves_no_file_of_a_unit_that_was_not_recorded(daemons: Daemons, dims: str, state: str) -> None:
    """Put in place, its line in the ledger never written; the machine may not have got all of it to the disk."""
    spec = make_spec("cam", dims, backend="tensorstore", levels=2)
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    append(producer, spec, range(8))
    wait_for(lambda: producer.durable == 8)
    daemons.now.restart_the_machine()
    dataset = daemons.now.data / "cam.ome.zarr"
    strays = [dataset / ("2" if spec.position_dimensions else "") / level / "c/5" for level in ("0", "1")]
    for stray in strays:
        written = dataset / ("0" if spec.position_dimensions else "") / stray.parts[-3] / "c/1"
        shutil.copytree(written, stray)
        for key in (path for path in stray.rglob("*") if path.is_file() and state != "whole"):
            key.write_bytes(b"" if state == "empty" else key.read_bytes()[:-9])
    daemons.restart()
    wait_for(lambda: not entries(daemons))
    check_acquisition(dataset, spec, [[make_frame(i, spec.frame_shape, spec.dtype) for i in range(8)]])
    assert verify(dataset).problems == []
    assert not any(stray.exists() for stray in strays)
    abandon(producer)


def test_a_ring_that_is_gone_leaves_what_is_durable(daemons: Daemons) -> None:
    spec = make_spec("cam", "t:40:1:4,y:16,x:16")
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    append(producer, spec, range(8))
    wait_for(lambda: producer.durable == 8)
    daemons.now.lose_the_rings()
    daemons.restart()
    wait_for(lambda: not entries(daemons))
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, 8)
    abandon(producer)


@pytest.mark.parametrize("damage", ["size", "magic", "version", "epoch", "not JSON", "no object", "no fields"])
def test_rows_14_and_16_what_does_not_fit_is_set_aside(daemons: Daemons, damage: str) -> None:
    """Refused with a clear error, and kept: there may be frames in it. The daemon serves."""
    spec = make_spec("cam", "t:40:1:4,y:16,x:16")
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    append(producer, spec, range(8))
    daemons.now.kill()
    [ring] = daemons.now.shared_memory()
    path, entry = Path("/dev/shm") / ring, json.loads(journal(daemons).read_text())
    match damage:
        case "size":
            os.truncate(path, path.stat().st_size - 4096)
        case "magic" | "version":
            with path.open("r+b") as file:
                file.seek(0 if damage == "magic" else 8)
                file.write(b"x")
        case "epoch":
            journal(daemons).write_text(json.dumps({**entry, "epoch": 1}))
        case "not JSON":
            journal(daemons).write_text("{")
        case "no object":
            journal(daemons).write_text("[]")
        case _:
            journal(daemons).write_text('{"phase": "active"}')
    daemons.restart()
    assert "can't be taken over; its ring and its journal entry are kept" in daemons.now.log()
    assert daemons.now.shared_memory() == {ring}
    assert journal(daemons).exists()
    abandon(producer)
    with pytest.raises(omewd.OmewdError, match="its ring is kept"):  # or it would be forgotten
        daemons.now.client.start_stream(spec)
    other = make_spec("other", "y:8,x:8")
    daemons.now.client.start_stream(other)
    with daemons.now.connect("other") as fine:
        append(fine, other, range(1))
    path.unlink()


def test_a_producer_that_only_hung_up_comes_back(daemons: Daemons) -> None:
    """As after a daemon that was too slow to answer it: it lives, and its stream goes on."""
    spec = make_spec("cam", "t:12:1:4,y:16,x:16")
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    append(producer, spec, range(5))
    producer._link._connection.close()
    time.sleep(0.2)
    assert daemons.now.client.status("cam")["state"] == "ACTIVE"
    append(producer, spec, range(5, 12))
    producer.close()
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, 12)


def test_a_producer_that_hung_up_is_taken_before_the_daemon_hears_of_it(daemons: Daemons) -> None:
    """Its new connection may be read before the end of the old one."""
    spec = make_spec("cam", "t:12:1:4,y:16,x:16")
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    append(producer, spec, range(5))
    old, fresh = producer._link._connection, Connection(daemons.now.socket)
    producer._link._poll.register(fresh.fileno())
    producer._link._connection = fresh
    assert producer._link.reconnect()
    old.close()
    append(producer, spec, range(5, 8))
    time.sleep(0.2)
    assert daemons.now.client.status("cam")["state"] == "ACTIVE"
    append(producer, spec, range(8, 12))
    producer.close()
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, 12)


def test_row_17_a_file_cut_short_is_written_again_while_its_frames_are_in_the_ring(daemons: Daemons) -> None:
    spec = make_spec("cam", "t:12:1:4,y:16,x:16", ring_slots=12)
    daemons.now.client.start_stream(spec)
    producer = daemons.now.connect("cam")
    for pid in daemons.now.writer_pids():
        os.kill(pid, signal.SIGSTOP)
    append(producer, spec, range(4))
    daemons.now.kill()
    shard = daemons.now.data / "cam.ome.zarr/0/c/0/0/0"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"torn")
    daemons.restart()
    append(producer, spec, range(4, 12))
    producer.close()
    check_dataset(daemons.now.data / "cam.ome.zarr", spec, 12)


# -- every step ---------------------------------------------------------------------------------------

DAEMON_POINTS = {
    "daemon: ring made": 1,
    "daemon: entry aside": 2,
    "daemon: journal changed": 3,
    "daemon: journal written": 1,
    "daemon: ring formatted": 1,
    "daemon: dataset made": 1,
    "daemon: noted active": 1,
    "daemon: report taken": 3,
    "daemon: ring stopped": 1,
    "daemon: dataset finalized": 1,
    "daemon: ring done": 1,
    "daemon: ring removed": 1,
    "daemon: sweep due": 1,
}
WRITER_POINTS = {
    "writer: dataset made aside": 1,
    "writer: old dataset aside": 1,
    "writer: dataset in place": 1,
    "writer: job begun": 3,
    "writer: ledger written to": 2,
    "writer: ledger synced": 4,
    "writer: ledger appended": 3,
    "writer: reported": 4,
    "writer: file renamed": 1,
    "writer: finalized": 1,
}
KEY_POINTS = {"writer: files written": 3, "writer: files synced": 3, "writer: folder renamed": 3}
CHUNK_POINTS = {
    "writer: chunks written": 3,
    "writer: chunks synced": 3,
    "writer: chunks on record": 3,
    "writer: shards finished": 2,
    "writer: shards in place": 2,
}
SHARDED, PLAIN = "t:24:1:4,y:16:8:2,x:16:8:2", "t:24,y:16:8,x:16:8"
# What is acquired, how, and the steps that are taken then.
WAYS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "direct": (
        SHARDED,
        {"backend": "direct"},
        {
            **DAEMON_POINTS,
            **WRITER_POINTS,
            **CHUNK_POINTS,
            "writer: file laid out": 5,
            "writer: file renamed": 6,
        },
    ),
    "direct, not sharded": (PLAIN, {"backend": "direct"}, {**DAEMON_POINTS, **WRITER_POINTS, **KEY_POINTS}),
    "tensorstore": (SHARDED, {"backend": "tensorstore"}, {**WRITER_POINTS, **KEY_POINTS}),
    "positions and resolutions": (
        "p:2,t:12:2:3,y:16:8:2,x:16:8:2",
        {"backend": "direct", "levels": 2},
        {**CHUNK_POINTS, "writer: job begun": 3, "writer: file renamed": 9, "writer: finalized": 1},
    ),
}
STEPS = [
    (way, where, n + 1) for way, (_, _, steps) in WAYS.items() for where, most in steps.items() for n in range(most)
]


@pytest.mark.parametrize(("way", "where", "passing"), STEPS)
def test_rows_06_and_10_killed_at_each_step(tmp_path: Path, way: str, where: str, passing: int) -> None:
    """Whatever step a writer or the daemon dies at: the dataset is whole, and what it replaces is gone."""
    died, data = tmp_path / "died", tmp_path / "data"
    dims, fields, _ = WAYS[way]
    spec = make_spec("cam", dims, overwrite=True, ring_slots=8, **fields)
    (data / "cam.ome.zarr").mkdir(parents=True)
    (data / "cam.ome.zarr/zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    kept = KeptDaemon(tmp_path, *OPTIONS, env={VARIABLE: f"{where};{passing};{died}"})
    try:
        client = kept.now.client
        kept.ask(lambda: _start(client, spec))
        producer = kept.ask(lambda: kept.now.connect("cam"))
        append(producer, spec, range(24))
        producer.close(timeout=30)
        wait_for(lambda: sorted(path.name for path in data.iterdir()) == ["cam.ome.zarr"])
        wait_for(lambda: not list((tmp_path / "state" / "streams").iterdir()))
    finally:
        kept.end()
    assert died.exists(), "it never got there"
    assert died.stat().st_size >= passing, "it did not get there often enough"
    assert kept.starts == 1 + where.startswith("daemon")
    check_acquisition(data / "cam.ome.zarr", spec, [[make_frame(i, spec.frame_shape, spec.dtype) for i in range(24)]])
    strays = {path.name for path in (data / "cam.ome.zarr").rglob("*") if path.name.startswith((".", "unit", "shard"))}
    assert not strays


def _start(client: omewd.Client, spec: StreamSpec) -> None:
    """Start a stream, or find that it was started before the daemon could say so."""
    try:
        client.start_stream(spec)
    except omewd.OmewdError as error:
        if error.code != "stream_exists":
            raise
