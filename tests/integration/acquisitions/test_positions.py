"""Positions and plates: one image each, through Python and the command line, under every policy."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

import numpy as np
import pytest

import omewd
from omewd.dataset.verify import verify
from tests.support.acquisitions import Frames, check_acquisition
from tests.support.daemons import DaemonProcess, daemon
from tests.support.frames import Array, make_frame, make_spec


def feed(process: DaemonProcess, spec: omewd.StreamSpec, count: int) -> list[Array | None]:
    """Hand frames over; returns what became of each index."""
    arrivals: list[Array | None] = []
    with process.connect(spec.name) as producer:
        for index in range(count):
            frame = make_frame(index, spec.frame_shape, spec.dtype)
            arrivals.append(None if producer.append(frame) is None else frame)
    return arrivals


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
@pytest.mark.parametrize("policy", ["block", "drop"])
@pytest.mark.parametrize(
    "dims", ["t:5:2:2,p:3,z:4:2,y:20:8:2,x:24:8", "p:3,t:5:2:2,z:4:2,y:20:8:2,x:24:8", "t:inf:2,p:2,y:20,x:24"]
)
def test_each_position_is_an_image(omewd_daemon: DaemonProcess, backend: str, policy: str, dims: str) -> None:
    """With gaps, an early stop, and writers that are killed."""
    spec = make_spec("cam", dims, backend=backend, backpressure=policy, levels=2, ring_slots=40)
    omewd_daemon.client.start_stream(spec)
    arrivals: list[Array | None] = []
    with omewd_daemon.connect("cam") as producer:
        for index in range(47):
            frame = make_frame(index, spec.frame_shape, spec.dtype)
            if index in (3, 4, 20):
                producer.skip()
                arrivals.append(None)
            else:
                arrivals.append(None if producer.append(frame) is None else frame)
            if index in (10, 30):
                omewd_daemon.kill_a_writer()
                time.sleep(0.01)
    check_acquisition(omewd_daemon.data / spec.output, spec, [arrivals])
    assert verify(omewd_daemon.data / spec.output).problems == []


def test_positions_have_names_and_places(omewd_daemon: DaemonProcess) -> None:
    positions = (
        omewd.Position(name="left", x_coord=-100.0, y_coord=20.5, z_coord=3.0),
        omewd.Position(name="right", x_coord=100.0),
    )
    z = omewd.Dimension(name="z", count=2, scale=2.0, translation=10.0)
    y, x = omewd.parse_dims("y:8,x:8")
    spec = omewd.StreamSpec(
        name="cam",
        dimensions=(omewd.Dimension(name="p", count=2, coords=positions), z, y.model_copy(update={"scale": 0.5}), x),
        levels=2,
    )
    omewd_daemon.client.start_stream(spec)
    arrivals: list[Frames] = [feed(omewd_daemon, spec, 4)]
    dataset = omewd_daemon.data / spec.output
    check_acquisition(dataset, spec, arrivals)
    [left] = json.loads((dataset / "0/zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    assert left["name"] == "left"
    assert [d["coordinateTransformations"] for d in left["datasets"]] == [
        [{"type": "scale", "scale": [2.0, 0.5, 1.0]}, {"type": "translation", "translation": [13.0, 20.5, -100.0]}],
        [{"type": "scale", "scale": [2.0, 1.0, 2.0]}, {"type": "translation", "translation": [13.0, 20.75, -99.5]}],
    ]
    series = json.loads((dataset / "OME/zarr.json").read_text())["attributes"]["ome"]["series"]
    assert series == ["0", "1"]


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
@pytest.mark.parametrize("in_wells", [False, True])
@pytest.mark.parametrize("dims", ["y:20:8:2,x:24:8", "y:20:8,x:24:8"])
def test_positions_are_in_folders_of_their_names(
    omewd_daemon: DaemonProcess, backend: str, in_wells: bool, dims: str
) -> None:
    """Written, viewed, verified and mended there; with a writer that is killed."""
    wells: list[dict[str, Any]] = [
        {"plate_row": "A", "plate_column": "1"} if in_wells else {"grid_row": 0, "grid_column": column}
        for column in range(2)
    ]
    names = ("f0", "f1") if in_wells else ("left", "left")
    positions = tuple(omewd.Position(name=name, **well) for name, well in zip(names, wells, strict=True))
    t, y, x = omewd.parse_dims(f"t:6:2,{dims}")
    spec = omewd.StreamSpec(
        name="cam",
        dimensions=(t, omewd.Dimension(name="p", count=2, coords=positions), y, x),
        plate=omewd.Plate.of_size(1, 1) if in_wells else None,
        position_folders="names",
        backend=backend,
        levels=2,
    )
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        frames = [make_frame(index, spec.frame_shape, spec.dtype) for index in range(12)]
        for index, frame in enumerate(frames):
            producer.append(frame)
            if index == 5:
                omewd_daemon.kill_a_writer()
    dataset = omewd_daemon.data / spec.output
    check_acquisition(dataset, spec, [frames])
    assert verify(dataset).problems == []
    with omewd.view("cam", socket=omewd_daemon.socket) as view:
        found = [view.frame(index) for index in range(len(frames))]
        assert not any(frame.in_ring for frame in found)
        assert all(np.array_equal(have.array, frame) for have, frame in zip(found, frames, strict=True))
    second = dataset / ("A/1/f1" if in_wells else "left_0_1") / "zarr.json"
    document = second.read_text()
    second.unlink()
    assert verify(dataset).problems != []
    assert omewd_daemon.omewd("repair", str(dataset)).returncode == 0
    assert json.loads(second.read_text()) == json.loads(document)


def test_folders_of_names_on_the_command_line(omewd_daemon: DaemonProcess) -> None:
    options = ["--dims", "p:2,y:8,x:8", "--positions", "left,right", "--position-folders"]
    done = omewd_daemon.omewd("start-stream", "cam", *options, "names")
    assert done.returncode == 0, done.stderr
    with omewd_daemon.connect("cam") as producer:
        for index in range(2):
            producer.append(make_frame(index, (8, 8), "uint16"))
    dataset = omewd_daemon.data / "cam.ome.zarr"
    series = json.loads((dataset / "OME/zarr.json").read_text())["attributes"]["ome"]["series"]
    assert series == ["left", "right"]
    assert omewd_daemon.omewd("verify", str(dataset)).returncode == 0
    refused = omewd_daemon.omewd("start-stream", "other", *options, "letters")
    assert (refused.returncode, "position_folders" in refused.stderr) == (2, True)


def test_a_plate_on_the_command_line(omewd_daemon: DaemonProcess) -> None:
    options = ["--dims", "p:6,c:2,y:16:8,x:16:8", "--plate", "2x3", "--wells", "A01,B3,a2", "--channels", "DAPI,GFP"]
    done = omewd_daemon.omewd("start-stream", "plate", *options)
    assert done.returncode == 0, done.stderr
    with omewd_daemon.connect("plate") as producer:
        for index in range(12):
            producer.append(make_frame(index, (16, 16), "uint16"))
    dataset = omewd_daemon.data / "plate.ome.zarr"
    plate = json.loads((dataset / "zarr.json").read_text())["attributes"]["ome"]["plate"]
    assert [well["path"] for well in plate["wells"]] == ["A/1", "B/3", "A/2"]
    assert plate["field_count"] == 2
    totals = json.loads((dataset / "omewd/zarr.json").read_text())["attributes"]["omewd"]
    spec = omewd.StreamSpec.parse(totals["stream"])
    check_acquisition(dataset, spec, [[make_frame(i, (16, 16), "uint16") for i in range(12)]])
    shown = omewd_daemon.omewd("verify", str(dataset))
    assert shown.returncode == 0, shown.stdout


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--dims", "p:5,y:8,x:8", "--plate", "2x3", "--wells", "A1,A2"], "multiple of 2"),
        (["--dims", "p:2,y:8,x:8", "--plate", "2x3"], "--wells"),
        (["--dims", "p:2,y:8,x:8", "--wells", "A1,A2"], "--plate"),
        (["--dims", "p:2,y:8,x:8", "--plate", "00x3", "--wells", "A1,A2"], "--plate"),
        (["--dims", "t:2,y:8,x:8", "--scale", "y=0.1,x=wide"], "'x=wide' is not a step"),
        (["--dims", "p:2,y:8,x:8", "--plate", "2x3", "--wells", "A1,A2", "--positions", "l,r"], "Leave one"),
        (["--dims", "p:2,y:8,x:8", "--plate", "2x3", "--wells", "A1,7"], "'7' is not a well"),
        (["--dims", "p:2,y:8,x:8", "--plate", "2x3", "--wells", "A1,C1"], "in row 'C', which the plate lacks"),
        (["--dims", "t:2,y:8,x:8", "--positions", "a,b"], "no position dimension"),
        (["--dims", "p:2,y:8,x:8", "--positions", "a,a"], "more than one position 'a'"),
        (["--dims", "z:2,t:2,y:8,x:8", "--storage-order", "acquisition"], "use storage_order ome"),
        (["--dims", "t:2,y:8,x:8", "--levels", "9"], "ask for at most 4 levels"),
        (["--dims", "t:2,y:8,x:8", "--downsample", "median"], "downsample"),
    ],
)
def test_what_can_not_be_is_refused_in_one_line(
    omewd_daemon: DaemonProcess, options: list[str], complaint: str
) -> None:
    done = omewd_daemon.omewd("start-stream", "cam", *options)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(omewd_daemon.data.iterdir())


def test_many_positions(omewd_daemon: DaemonProcess) -> None:
    """A plate of 384 wells with two fields each: its spec is larger than a packet."""
    plate = omewd.Plate.of_size(16, 24)
    positions = tuple(
        omewd.Position(name=f"{row}{column}-{field}", plate_row=row, plate_column=column, x_coord=1.5, y_coord=field)
        for row in plate.row_names
        for column in plate.column_names
        for field in range(2)
    )
    spec = omewd.StreamSpec(
        name="plate",
        dimensions=(omewd.Dimension(name="p", count=768, coords=positions), *omewd.parse_dims("y:8,x:8")),
        plate=plate,
        dtype="uint8",
    )
    started = time.monotonic()
    omewd_daemon.client.start_stream(spec)
    arrivals = feed(omewd_daemon, spec, 768)
    assert time.monotonic() - started < 60
    found: dict[str, Any] = omewd_daemon.client.status("plate")
    assert found["images"] == 768
    from tests.support.datasets import read_zarr

    for index in (0, 1, 2, 500, 767):
        position = positions[index]
        folder = omewd_daemon.data / "plate.ome.zarr" / f"{position.plate_row}/{position.plate_column}/{index % 2}"
        stored = arrivals[index]
        assert stored is not None
        assert read_zarr(folder).tobytes() == stored.tobytes()
    assert verify(omewd_daemon.data / "plate.ome.zarr").problems == []


def test_a_job_of_many_shards_needs_few_descriptors(tmp_path: Any) -> None:
    """Of each position, at each resolution, a shard is open while it is written into."""
    limited = "import resource, os, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (700, 700)); "
    limited += "os.execvp(sys.argv[1], sys.argv[1:])"
    with daemon(tmp_path, "--memory", "512MiB", "--writers", "1", prefix=(sys.executable, "-c", limited)) as process:
        spec = make_spec("cam", "t:4:1:4,p:300,y:16:8:2,x:16:8:2", levels=3, durability="none")
        process.client.start_stream(spec)
        [writer] = process.writer_pids()
        os.kill(writer, signal.SIGSTOP)  # so that there is a job of many units
        with process.connect("cam") as producer:
            for index in range(900):
                producer.append(make_frame(index, spec.frame_shape, spec.dtype))
            os.kill(writer, signal.SIGCONT)
        assert process.client.status("cam")["retries"] == 0
        assert verify(process.data / spec.output).problems == []
