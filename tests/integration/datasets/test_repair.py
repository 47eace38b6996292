"""``omewd repair``: what it mends, and what it only says."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.runs import Run
from omewd.dataset.repair import repair
from omewd.dataset.verify import verify
from tests.support.acquisitions import check_acquisition
from tests.support.daemons import DaemonProcess
from tests.support.datasets import read_zarr
from tests.support.frames import Array, make_frame, make_spec
from tests.support.processes import wait_for

DIMS = "t:20:1:4,y:32:16:2,x:32:16:2"


def record(daemon: DaemonProcess, dims: str = DIMS) -> Path:
    spec = make_spec("cam", dims)
    daemon.client.start_stream(spec)
    with daemon.connect("cam") as producer:
        for index in range(20):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
    return daemon.data / "cam.ome.zarr"


def test_a_whole_dataset_has_nothing_to_mend(omewd_daemon: DaemonProcess) -> None:
    dataset = record(omewd_daemon)
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    done = omewd_daemon.omewd("repair", "cam.ome.zarr")
    assert (done.returncode, done.stdout) == (0, "nothing to repair\n")
    assert {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("backend", "durable"), [("tensorstore", 8), ("direct", 10)])
def test_a_dataset_that_was_never_finalized_gets_its_true_shape(tmp_path: Path, backend: str, durable: int) -> None:
    """The daemon, its rings and its journal are gone for good."""
    process = DaemonProcess(tmp_path, "--writers", "2")
    try:
        spec = make_spec("cam", "t:200:1:4,y:32:16:2,x:32:16:2", backend=backend)
        process.client.start_stream(spec)
        producer = process.connect("cam")
        for index in range(10):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        wait_for(lambda: producer.durable == durable)
        assert "is being written" in process.omewd("repair", "cam.ome.zarr").stderr
    finally:
        process.kill()
    for name in process.shared_memory():
        (Path("/dev/shm") / name).unlink()
    with pytest.raises(Exception, match="gone"):
        producer.close(timeout=0.05)
    for scratch in Path("/dev/shm").glob(f"{process.instance}-*"):
        for folder in (*scratch.iterdir(), scratch):
            folder.rmdir()
    assert process.omewd("verify", "cam.ome.zarr").returncode == 5
    done = process.omewd("repair", "cam.ome.zarr")
    dataset = process.data / "cam.ome.zarr"
    received = json.loads((dataset / "omewd/zarr.json").read_text())["attributes"]["omewd"]["received"]
    assert durable <= received <= 10  # as far as the ledger knew when the last unit was written
    assert f"wrote the shape and the totals for {received} frames" in done.stdout
    assert done.returncode == (5 if received > durable else 0), done.stdout + done.stderr
    assert process.omewd("verify", "cam.ome.zarr").returncode == done.returncode
    array = read_zarr(dataset)
    assert len(array) == received
    for index in range(durable):
        assert array[index].tobytes() == make_frame(index, spec.frame_shape, spec.dtype).tobytes()


def test_it_waits_for_the_writers_of_a_stream_that_has_ended(omewd_daemon: DaemonProcess) -> None:
    dataset = record(omewd_daemon)
    wait_for(lambda: not is_held(dataset))
    descriptor = ledger.hold(dataset)
    letting_go = threading.Timer(1.0, os.close, (descriptor,))
    letting_go.start()
    assert repair(dataset).mended == []
    letting_go.join()


def is_held(dataset: Path) -> bool:
    descriptor = ledger.hold_alone(dataset)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None


def test_what_a_failed_stream_lost_stays_on_record(omewd_daemon: DaemonProcess) -> None:
    """Its last frames are in no ledger: only the totals know of them."""
    dataset = record(omewd_daemon)
    totals = dataset / "omewd/zarr.json"
    document = json.loads(totals.read_text())
    document["attributes"]["omewd"] |= {"state": "failed", "received": 23, "lost_frames": 3, "lost": [[20, 3]]}
    totals.write_text(json.dumps(document))
    assert omewd_daemon.omewd("repair", "cam.ome.zarr").returncode == 5
    after = json.loads(totals.read_text())["attributes"]["omewd"]
    assert (after["state"], after["received"], after["lost"]) == ("failed", 23, [[20, 3]])


@pytest.mark.parametrize("damage", ["missing", "empty", "torn"])
@pytest.mark.parametrize("dims", [DIMS, "t:20,y:32:16,x:32:16"], ids=["sharded", "not sharded"])
def test_frames_that_are_gone_are_put_on_record(omewd_daemon: DaemonProcess, damage: str, dims: str) -> None:
    dataset = record(omewd_daemon, dims)
    victim = dataset / "0/c/1/0/0"
    match damage:
        case "missing":
            victim.unlink()
        case "empty":
            victim.write_bytes(b"")
        case _:
            victim.write_bytes(victim.read_bytes()[:-7])
    done = omewd_daemon.omewd("repair", "cam.ome.zarr", "--json")
    assert done.returncode == 5
    document = json.loads(done.stdout)
    assert "put the frames of 1 write units on record as lost" in document["mended"]
    lost = range(4, 8) if dims == DIMS else range(1, 2)
    [problem] = [p for p in document["after"]["problems"] if "not in the ledger" in p]
    assert problem.endswith(f": {lost[0]}-{lost[-1]}" if len(lost) > 1 else f": {lost[0]}")
    totals = json.loads((dataset / "omewd/zarr.json").read_text())["attributes"]["omewd"]
    assert (totals["state"], totals["lost"]) == ("failed", [[lost[0], len(lost)]])
    assert totals["received"] == totals["written"] + totals["lost_frames"] == 20
    victim.unlink(missing_ok=True)
    array = read_zarr(dataset)
    for index in set(range(20)) - set(lost):
        assert array[index].tobytes() == make_frame(index, (32, 32), "uint16").tobytes()
    again = omewd_daemon.omewd("repair", "cam.ome.zarr", "--json")
    assert again.returncode == 5
    problems = [p for p in json.loads(again.stdout)["after"]["problems"] if "does not belong" not in p]
    assert problems == [p for p in document["after"]["problems"] if "does not belong" not in p]


@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_a_torn_line_is_removed_from_the_ledger(omewd_daemon: DaemonProcess, where: str) -> None:
    """The dataset verifies before, as every frame has another line, and says so; and afterwards says nothing."""
    dataset = record(omewd_daemon)
    path = dataset / "omewd/ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    at = {"start": 0, "middle": 7, "end": len(lines)}[where]
    path.write_bytes(b"".join([*lines[:at], lines[3][:30] + b"\n" * (where != "end"), *lines[at:]]))
    done = omewd_daemon.omewd("verify", "cam.ome.zarr")
    assert (done.returncode, "note: 1 line of the ledger can't be read" in done.stdout) == (0, True), done.stdout
    assert "all is well" in done.stdout
    done = omewd_daemon.omewd("repair", "cam.ome.zarr")
    assert (done.returncode, done.stdout) == (0, "repaired: removed 1 torn line from the ledger\nall is well\n")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(row["frame"] for row in rows) == list(range(20))
    report = verify(dataset)
    assert (report.problems, report.notes) == ([], [])
    assert omewd_daemon.omewd("repair", "cam.ome.zarr").stdout == "nothing to repair\n"


def test_a_record_of_runs_that_does_not_fit_is_made_again(omewd_daemon: DaemonProcess) -> None:
    dataset = record(omewd_daemon)
    runs = dataset / "omewd/ledger.runs"
    whole = runs.read_bytes()
    # Both files say something that makes sense, and not the same.
    path = dataset / "omewd/ledger.jsonl"
    lines = path.read_bytes()
    path.write_bytes(lines.replace(b'"frame":3,', b'"frame":4,'))
    report = verify(dataset)
    assert report.bad_runs
    assert len(report.notes) == 1
    assert "1 received frames are not in the ledger: 3" in report.problems
    path.write_bytes(lines)
    first = next(at for at in range(48, len(whole), 48) if whole[at + 40 : at + 48] == bytes(8))  # of the first line
    runs.write_bytes(whole[:first] + Run(9, 1, 0, 1, 0, 1, 0, 0).pack() + whole[first + 48 :])
    assert "does not match the lines" in verify(dataset).notes[0]
    done = omewd_daemon.omewd("repair", "cam.ome.zarr")
    assert done.stdout == "repaired: rebuilt the ledger's record of runs from its lines\nall is well\n"
    assert (verify(dataset).problems, verify(dataset).notes) == ([], [])
    runs.unlink()
    assert (verify(dataset).problems, verify(dataset).notes) == ([], [])


def test_what_writers_left_is_removed_and_foreign_files_stay(omewd_daemon: DaemonProcess) -> None:
    dataset = record(omewd_daemon)
    (dataset / "omewd/staging/unit3/0").mkdir(parents=True)
    (dataset / "omewd/staging/unit3/0/0").write_bytes(b"half")
    (dataset / "notes.txt").write_text("mine")
    done = omewd_daemon.omewd("repair", "cam.ome.zarr")
    assert "removed leftovers of writers" in done.stdout
    assert "can't be repaired: notes.txt does not belong there" in done.stdout
    assert done.returncode == 5
    assert not (dataset / "omewd/staging").exists()
    assert (dataset / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("damage", ["removed", "cut", "swapped"])
@pytest.mark.parametrize("dims", ["p:2,t:8:1:4,z:6:2,y:20:8:2,x:24:8:2", "p:2,t:8:2,z:6:2,y:20:8,x:24:8"])
def test_smaller_resolutions_are_made_again(omewd_daemon: DaemonProcess, dims: str, damage: str) -> None:
    """The frames are there, and stay on record."""
    spec = make_spec("cam", dims, levels=3, compression="blosc-lz4", backend="direct")
    omewd_daemon.client.start_stream(spec)
    arrivals: list[Array | None] = []
    with omewd_daemon.connect("cam") as producer:
        for index in range(83):
            if index in (3, 30, 31):
                producer.skip()
                arrivals.append(None)
            else:
                frame = make_frame(index, spec.frame_shape, spec.dtype)
                arrivals.append(frame)
                producer.append(frame)
    dataset = omewd_daemon.data / spec.output
    assert verify(dataset).problems == []
    keys = sorted(path for path in (dataset / "0/1/c").rglob("*") if path.is_file())
    if damage == "removed":
        keys[0].unlink()
    elif damage == "cut":
        keys[0].write_bytes(keys[0].read_bytes()[:-7])
    else:
        other = keys[0].read_bytes()
        keys[0].write_bytes(keys[-1].read_bytes())
        keys[-1].write_bytes(other)
    report = verify(dataset)
    assert report.problems
    assert report.bad_units == {}
    assert {level for _, _, level in report.bad_levels} <= {1, 2}
    done = repair(dataset)
    assert any("lower resolutions again" in line for line in done.mended)
    assert done.after.problems == []
    check_acquisition(dataset, spec, [arrivals])


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("0/1/zarr.json", ("uint16", "int16")),
        ("1/0/zarr.json", ('"fill_value": 0', '"fill_value": 7')),
        ("1/zarr.json", ('"space"', '"time"')),
        ("OME/zarr.json", None),
        ("0/zarr.json", None),
    ],
)
def test_metadata_is_what_the_stream_makes(
    omewd_daemon: DaemonProcess, path: str, change: tuple[str, str] | None
) -> None:
    spec = make_spec("cam", "p:2,t:3,y:20,x:24", levels=2)
    omewd_daemon.client.start_stream(spec)
    frames = [make_frame(index, spec.frame_shape, spec.dtype) for index in range(6)]
    with omewd_daemon.connect("cam") as producer:
        for frame in frames:
            producer.append(frame)
    dataset = omewd_daemon.data / spec.output
    omewd_daemon.client.set_metadata("cam", "lab", {"operator": "Ada"})
    assert verify(dataset).problems == []
    if change is None:
        (dataset / path).unlink()
    else:
        text = (dataset / path).read_text()
        assert change[0] in text
        (dataset / path).write_text(text.replace(*change))
    assert any(problem.startswith(path) for problem in verify(dataset).problems)
    assert repair(dataset).after.problems == []
    check_acquisition(dataset, spec, [frames])
    assert json.loads((dataset / "zarr.json").read_text())["attributes"]["lab"] == {"operator": "Ada"}


@pytest.mark.parametrize("damage", [None, "[", '{"shape": [1]}'])
def test_resolutions_are_made_of_one_whose_metadata_is_wrong(omewd_daemon: DaemonProcess, damage: str | None) -> None:
    spec = make_spec("cam", "p:2,t:6:2,y:20:8,x:24:8", levels=3)
    omewd_daemon.client.start_stream(spec)
    frames = [make_frame(index, spec.frame_shape, spec.dtype) for index in range(12)]
    with omewd_daemon.connect("cam") as producer:
        for frame in frames:
            producer.append(frame)
    dataset = omewd_daemon.data / spec.output
    for path in dataset.glob("*/*/zarr.json"):
        path.unlink()
        if damage is not None:
            path.write_text(damage)
    shutil.rmtree(dataset / "0/1/c/2")
    shutil.rmtree(dataset / "1/2")
    report = verify(dataset)
    assert report.bad_units == {}
    assert {level for _, _, level in report.bad_levels} == {1, 2}
    assert repair(dataset).after.problems == []
    check_acquisition(dataset, spec, [frames])


def test_units_that_are_on_no_record_are_removed(omewd_daemon: DaemonProcess) -> None:
    """As a restart of the machine leaves them: in place, and the line in the ledger never written."""
    spec = make_spec("cam", "t:20:1:2,y:20:8,x:24:8", levels=2, backend="tensorstore")
    omewd_daemon.client.start_stream(spec)
    frames = [make_frame(index, spec.frame_shape, spec.dtype) for index in range(8)]
    with omewd_daemon.connect("cam") as producer:
        for frame in frames:
            producer.append(frame)
    dataset = omewd_daemon.data / spec.output
    for level in "01":
        shutil.copytree(dataset / level / "c/3", dataset / level / "c/6")
    (dataset / "0/c/6/mine.txt").write_text("mine")
    report = verify(dataset)
    assert len(report.strays) > 2
    done = omewd_daemon.omewd("repair", spec.output)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "files of frames that are not on record" in done.stdout
    assert verify(dataset).problems == ["0/c/6/mine.txt does not belong there"]
    assert not (dataset / "1/c/6").exists()
    assert sorted(path.name for path in (dataset / "0/c/6").iterdir()) == ["mine.txt"]
    shutil.rmtree(dataset / "0/c/6")
    check_acquisition(dataset, spec, [frames])
