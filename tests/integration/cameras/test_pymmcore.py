"""The acquisition engine of pymmcore-plus streams into a daemon: each frame is at its event's place, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq

from omewd.dataset.verify import verify
from omewd.errors import OmewdError
from omewd.integrations.pymmcore import OmewdHandler
from omewd.integrations.useq import event_grid
from omewd.model.plan.plan import Plan
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from tests.support.daemons import DaemonProcess
from tests.support.datasets import ledger_rows
from tests.support.frames import Array
from tests.support.pages import example
from tests.support.places import DOCS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")

SHAPE = (48, 64)


@pytest.fixture
def core() -> Iterator[Any]:
    """Micro-Manager with a demo camera, stages and channels; each frame has a number in it."""
    import mm_test_adapters
    from pymmcore_plus import CMMCorePlus

    core = CMMCorePlus(mm_test_adapters.device_adapter_path())
    for label, device in (("Camera", "DCam"), ("XY", "DXYStage"), ("Z", "DStage"), ("Filter", "DWheel")):
        core.loadDevice(label, "DemoCamera", device)
        core.initializeDevice(label)
    core.setCameraDevice("Camera")
    core.setXYStageDevice("XY")
    core.setFocusDevice("Z")
    core.setProperty("Camera", "OnCameraCCDXSize", SHAPE[1])
    core.setProperty("Camera", "OnCameraCCDYSize", SHAPE[0])
    core.setProperty("Camera", "PixelType", "16bit")
    core.setProperty("Camera", "DisplayImageNumber", 1)
    core.setProperty("Camera", "Mode", "Noise")
    for number, channel in enumerate(("DAPI", "FITC")):
        core.defineConfig("Channel", channel, "Filter", "State", str(number))
    core.definePixelSizeConfig("px", "Camera", "Binning", "1")
    core.setPixelSizeUm("px", 0.25)
    core.setExposure(0.1)
    core.setAutoShutter(False)
    yield core
    core.unloadAllDevices()


class Keeping:
    """A second output: what the engine gave, in order."""

    def __init__(self) -> None:
        self.frames: list[tuple[dict[str, int], Array]] = []
        self.pixel_size_um = 0.0
        self.at: dict[int, Any] = {}

    def sequenceStarted(self, sequence: Any, meta: Any) -> None:  # noqa: ARG002, N802
        self.pixel_size_um = meta["image_infos"][0]["pixel_size_um"]

    def frameReady(self, image: Array, event: Any, meta: Any) -> None:  # noqa: ARG002, N802
        self.frames.append((dict(event.index), image.copy()))
        if len(self.frames) in self.at:
            self.at[len(self.frames)]()


def record(core: Any, events: Any, handler: OmewdHandler, keeping: Keeping | None = None) -> Keeping:
    keeping = keeping or Keeping()
    core.run_mda(events, output=[handler, keeping], block=True)
    return keeping


def metadata_of(dataset: Path) -> dict[int, Any]:
    """What the ledger has of each frame."""
    rows = {row["frame"]: row["metadata"] for row in ledger_rows(dataset) if row is not None and "gap" not in row}
    return dict(sorted(rows.items()))


def check(handler: OmewdHandler, kept: Keeping, indexes: list[int] | None = None) -> StreamSpec:
    """All that the engine gave is in the dataset, where the frame indexes say; everything else is empty."""
    import zarr

    spec = handler.spec
    assert spec is not None
    dataset = Path(str(handler.path))
    assert verify(dataset).problems == []
    plan, paths = Plan.of(spec), spec.image_paths
    images = {path: np.asarray(zarr.open_array(str(dataset / path / "0"), mode="r")[...]) for path in paths}
    indexes = list(range(len(kept.frames))) if indexes is None else indexes
    rows = metadata_of(dataset)
    assert list(rows) == indexes
    for index, (event, frame) in zip(indexes, kept.frames, strict=True):
        image = images[paths[plan.image(index) if len(paths) > 1 else 0]]
        stored = image[plan.place(index)]
        assert stored.tobytes() == frame.tobytes(), f"frame {index} differs"
        stored[...] = 0
        assert rows[index]["event"]["index"] == event
        assert rows[index]["exposure_time"] in (0.0, 0.0001)  # 0: Multi Camera does not say
        assert rows[index]["delta_t"] >= 0
    assert not any(image.any() for image in images.values())
    return spec


def indexes_of(sequence: useq.MDASequence) -> list[int]:
    """The frame index of each event, by its place among all that the axes could have, counted out."""
    grid = event_grid(sequence)
    return [grid.frame_index(event.index) for event in sequence if isinstance(event.action, useq.AcquireImage)]


TWO = ["DAPI", "FITC"]
STAGES = [{"x": 0, "y": 0, "z": 1, "name": "home"}, {"x": 20, "y": 10, "z": 2}]
SEQUENCES: dict[str, tuple[dict[str, Any], str]] = {
    "tcz": (
        {"time_plan": {"interval": 0, "loops": 3}, "channels": TWO, "z_plan": {"range": 2, "step": 1}},
        "t:3 c:2 z:3",
    ),
    "triggered": ({"time_plan": {"interval": 0, "loops": 40}}, "t:40"),
    "ptc": (
        {"time_plan": {"interval": 0.01, "loops": 3}, "channels": TWO, "stage_positions": STAGES, "axis_order": "ptc"},
        "p:2 t:3 c:2",
    ),
    "grid": ({"stage_positions": STAGES, "grid_plan": {"rows": 2, "columns": 2}, "channels": TWO}, "p:8 c:2"),
    "edges": ({"grid_plan": {"top": 20, "left": 0, "bottom": 0, "right": 30}}, "p:4"),
    "plate": (
        {
            "stage_positions": {
                "plate": {"rows": 4, "columns": 6, "well_spacing": 0.02, "well_size": 0.01},  # mm; stages are slow
                "a1_center_xy": (0, 0),
                "selected_wells": ((0, 1), (0, 2)),
                "well_points_plan": {"rows": 1, "columns": 2},
            },
            "channels": TWO,
        },
        "p:4 c:2",
    ),
    "ragged": (
        {
            "time_plan": {"interval": 0, "loops": 4},
            "channels": ["DAPI", {"config": "FITC", "acquire_every": 3, "do_stack": False}],
            "z_plan": {"range": 2, "step": 1},
        },
        "t:4 c:2 z:3",
    ),
    "own_plans": (
        {
            "stage_positions": [
                STAGES[0],
                {"x": 5, "y": 5, "sequence": {"grid_plan": {"rows": 1, "columns": 3}}},
                {"x": 9, "y": 9, "z": 0, "sequence": {"z_plan": {"range": 3, "step": 1}}},
            ],
            "channels": ["FITC"],
        },
        "p:5 c:1 z:4",
    ),
}


def test_sequences(omewd_daemon: DaemonProcess, core: Any) -> None:
    """One after the other, all that a sequence can have, with one daemon."""
    for name, (plans, expected) in SEQUENCES.items():
        sequence = useq.MDASequence(**plans)
        chunks = {"y": 16, "x": 32}
        handler = OmewdHandler(name, socket=omewd_daemon.socket, chunks=chunks, levels=2)
        kept = record(core, sequence, handler)
        final = handler.wait(60)
        spec = check(handler, kept, indexes_of(sequence))
        assert " ".join(f"{d.name}:{d.count}" for d in spec.dimensions[:-2]) == expected
        assert spec.chunk_shape[-2:] == (16, 32)
        assert [d.scale for d in spec.dimensions[-2:]] == [0.25, 0.25]
        assert (handler.status["state"], handler.status["complete"]) == ("done", True)
        assert final["frames"]["received"] == Plan.of(spec).frames_total
        assert final["frames"]["skipped"] == final["frames"]["received"] - len(kept.frames)


def test_what_the_engine_tells_is_kept(omewd_daemon: DaemonProcess, core: Any) -> None:
    handler = OmewdHandler(socket=omewd_daemon.socket, dtype="uint16", compression="zstd", output="kept/told.ome.zarr")
    sequence = useq.MDASequence(stage_positions=STAGES, channels=TWO, metadata={"who": "me", "when": np.float32(1)})
    record(core, sequence, handler)
    assert handler.wait()["name"] == "stream1" == handler.name
    assert handler.path == str(omewd_daemon.data / "kept" / "told.ome.zarr")
    attributes = json.loads((Path(handler.path) / "zarr.json").read_text())["attributes"]
    summary = attributes["pymmcore_plus"]["summary_metadata"]
    assert summary["image_infos"][0]["plane_shape"] == list(SHAPE)
    assert {device["label"] for device in summary["devices"]} >= {"Camera", "XY", "Z"}
    assert useq.MDASequence(**summary["mda_sequence"]).channels == sequence.channels
    rows = list(metadata_of(Path(handler.path)).values())
    places = [row[f"position_{axis}"] for row in rows for axis in "xyz"]
    assert places == pytest.approx([0, 0, 1, 0, 0, 1, 20, 10, 2, 20, 10, 2], abs=0.02)
    assert [row["event"]["channel"]["config"] for row in rows] == TWO * 2
    assert rows[-1]["event"]["x_pos"] == 20
    assert rows[0]["camera_device"] == "Camera"
    assert rows[0]["property_values"] == [{"dev": "Filter", "prop": "State", "val": "0"}]


def test_metadata_that_is_too_large_is_kept_in_part(omewd_daemon: DaemonProcess, core: Any) -> None:
    frame_metadata = core.mda.engine.get_frame_metadata
    core.mda.engine.get_frame_metadata = lambda *given, **named: {
        **frame_metadata(*given, **named),
        "camera_metadata": {"temperature": float("nan"), "rows": list(range(20))},
        "position": {"x": np.float32(1.5), "y": float("inf")},
        "extra": {"everything": "x" * 5000},
    }
    handler = OmewdHandler("large", socket=omewd_daemon.socket)
    kept = record(core, useq.MDASequence(channels=TWO, z_plan={"range": 2, "step": 1}), handler)
    handler.wait()
    check(handler, kept)
    rows = metadata_of(Path(str(handler.path))).values()
    assert all("extra" not in row and row["camera_device"] == "Camera" for row in rows)
    assert all(row["position_x"] == 1.5 and "position_y" not in row for row in rows)


def test_a_cancelled_run_ends_early(omewd_daemon: DaemonProcess, core: Any) -> None:
    keeping = Keeping()
    keeping.at[11] = core.mda.cancel
    core.mda.engine.use_hardware_sequencing = False
    plans = {"time_plan": {"interval": 0.002, "loops": 5000}, "channels": TWO, "z_plan": {"range": 2, "step": 1}}
    handler = OmewdHandler("cancelled", socket=omewd_daemon.socket)
    record(core, useq.MDASequence(**plans), handler, keeping)
    final = handler.wait()
    assert 11 <= final["frames"]["received"] == len(keeping.frames) < 1000
    assert final["frames"]["gaps"] == 0
    check(handler, keeping)
    status = handler.status
    assert (status["state"], status["cancelled"], status["complete"]) == ("done", True, False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_that_fails_ends_early(omewd_daemon: DaemonProcess, core: Any) -> None:
    """The engine raises; what has come by then is in a valid dataset, and the handler says that it is not all."""
    core.mda.engine.use_hardware_sequencing = False
    setup = core.mda.engine.setup_event

    def fail_at_t4(event: useq.MDAEvent) -> None:
        if event.index["t"] == 4:
            raise RuntimeError("the stage is stuck")
        setup(event)

    core.mda.engine.setup_event = fail_at_t4
    handler = OmewdHandler("stuck", socket=omewd_daemon.socket)
    kept = record(core, useq.MDASequence(time_plan={"interval": 0, "loops": 9}, channels=TWO), handler)
    assert handler.wait()["frames"]["received"] == len(kept.frames) == 8
    check(handler, kept)
    assert handler.status["complete"] is False


def test_errors_are_told_and_end_the_run(
    omewd_daemon: DaemonProcess, core: Any, caplog: pytest.LogCaptureFixture
) -> None:
    long = useq.MDASequence(time_plan={"interval": 0.005, "loops": 2000}, channels=TWO)
    first = OmewdHandler("twice", socket=omewd_daemon.socket)
    record(core, useq.MDASequence(channels=TWO), first)
    first.wait()

    again = OmewdHandler("twice", socket=omewd_daemon.socket)
    kept = record(core, long, again)
    with pytest.raises(OmewdError, match="overwrite") as caught:
        again.wait()
    assert caught.value is again.error
    assert "overwrite" in caplog.text
    assert len(kept.frames) < 1000
    status = again.status
    assert (status["state"], status["frames_taken"], status["stream"]) == ("failed", 0, None)
    assert status["frames_lost"] == len(kept.frames)
    assert "overwrite" in str(status["error"])

    replaced = OmewdHandler("twice", socket=omewd_daemon.socket, overwrite=True)
    check_kept = record(core, useq.MDASequence(channels=TWO), replaced)
    replaced.wait()
    check(replaced, check_kept)

    own_grid = {"x": 0, "y": 0, "sequence": {"grid_plan": {"rows": 2, "columns": 2}}}
    no_grid = OmewdHandler("grid", socket=omewd_daemon.socket)
    record(core, useq.MDASequence(stage_positions=[own_grid, *STAGES], channels=TWO), no_grid)
    with pytest.raises(OmewdError, match="can't go back"):
        no_grid.wait()
    assert {s["name"] for s in omewd_daemon.client.status()["streams"]} == {"twice"}

    sources = OmewdHandler("sources", socket=omewd_daemon.socket, source_dimension="c")
    record(core, useq.MDASequence(channels=TWO), sources)
    with pytest.raises(OmewdError, match="source"):
        sources.wait()
    assert omewd_daemon.client.wait("sources", timeout=60)["frames"]["received"] == 0

    anyway = OmewdHandler(
        "anyway", socket=omewd_daemon.socket, dimensions=parse_dims(f"t:inf,y:{SHAPE[0]},x:{SHAPE[1]}")
    )
    kept = record(core, useq.MDASequence(stage_positions=[own_grid, *STAGES], channels=TWO), anyway)
    anyway.wait()
    check(anyway, kept)


def test_a_frame_of_another_shape_ends_the_stream_with_what_it_has(omewd_daemon: DaemonProcess, core: Any) -> None:
    core.mda.engine.use_hardware_sequencing = False
    events = [useq.MDAEvent(index={"t": t}, roi=(0, 0, 32, 24) if t == 3 else None) for t in range(6)]
    handler = OmewdHandler("shapes", socket=omewd_daemon.socket, cancel_on_error=False)
    kept = record(core, events, handler)
    with pytest.raises(OmewdError, match=r"takes frames of \(48, 64\)"):
        handler.wait()
    assert len(kept.frames) == 6
    assert (handler.frames_taken, handler.frames_lost) == (3, 2)
    del kept.frames[3:]
    check(handler, kept)


def test_a_stream_that_is_stopped_ends_the_run(omewd_daemon: DaemonProcess, core: Any) -> None:
    core.mda.engine.use_hardware_sequencing = False
    keeping = Keeping()
    keeping.at[5] = lambda: omewd_daemon.client.stop_stream("stopped")
    handler = OmewdHandler("stopped", socket=omewd_daemon.socket)
    record(core, useq.MDASequence(time_plan={"interval": 0.005, "loops": 2000}), handler, keeping)
    with pytest.raises(OmewdError, match="stopped"):
        handler.wait()
    assert len(keeping.frames) < 1000
    del keeping.frames[handler.frames_taken :]
    check(handler, keeping)


def test_events_one_by_one(omewd_daemon: DaemonProcess, core: Any) -> None:
    """Nobody knows how many a generator has: times without end."""
    handler = OmewdHandler("generated", socket=omewd_daemon.socket, chunks={"t": 2})
    kept = record(core, (useq.MDAEvent(index={"k": 7 * n}, exposure=0.1) for n in range(5)), handler)
    assert handler.wait()["frames"]["received"] == len(kept.frames) == 5
    spec = check(handler, kept)
    assert spec.dimensions[0].count is None
    assert handler.status["complete"] is None


def test_several_cameras(omewd_daemon: DaemonProcess, core: Any) -> None:
    """Each event gives an image of each camera: they are channels."""
    core.loadDevice("Second", "DemoCamera", "DCam")
    core.initializeDevice("Second")
    for name, value in (("OnCameraCCDXSize", SHAPE[1]), ("OnCameraCCDYSize", SHAPE[0]), ("PixelType", "16bit")):
        core.setProperty("Second", name, value)
    core.setProperty("Second", "Mode", "Noise")
    core.loadDevice("Multi", "Utilities", "Multi Camera")
    core.initializeDevice("Multi")
    core.setProperty("Multi", "Physical Camera 1", "Camera")
    core.setProperty("Multi", "Physical Camera 2", "Second")
    core.setCameraDevice("Multi")
    core.mda.engine.use_hardware_sequencing = False
    plans = {"time_plan": {"interval": 0, "loops": 3}, "channels": TWO}
    for name, events, indexes in (
        ("both", useq.MDASequence(**plans), list(range(12))),
        ("alone", useq.MDASequence(time_plan=plans["time_plan"]), list(range(6))),
        ("endless", (useq.MDAEvent(index={"t": t}) for t in range(3)), list(range(6))),
    ):
        handler = OmewdHandler(name, socket=omewd_daemon.socket)
        kept = record(core, events, handler)
        handler.wait()
        spec = check(handler, kept, indexes)
        assert spec.dimensions[1].labels[-1].endswith("camera 2")


def test_a_colour_camera_is_refused(omewd_daemon: DaemonProcess, core: Any) -> None:
    core.setProperty("Camera", "PixelType", "32bitRGB")
    handler = OmewdHandler("colours", socket=omewd_daemon.socket)
    record(core, useq.MDASequence(channels=TWO), handler)
    with pytest.raises(OmewdError, match="grey"):
        handler.wait()


def test_a_runner_that_forgets_the_end(omewd_daemon: DaemonProcess) -> None:
    """Its thread can stop just before it would pass the end on: who waits ends the stream then."""
    handler = OmewdHandler(socket=omewd_daemon.socket)
    sequence = useq.MDASequence(time_plan={"interval": 0, "loops": 2})
    frame = np.ones(SHAPE, np.uint16)

    def run() -> None:
        handler.sequenceStarted(sequence, {})
        for event in sequence:
            handler.frameReady(frame, event, {})

    for number in (1, 2):  # the next run ends the one before, too
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert (handler.status["state"], handler.name) == ("recording", f"stream{number}")
    assert omewd_daemon.client.wait("stream1", timeout=60)["frames"]["received"] == 2
    assert handler.wait(60)["frames"]["received"] == 2
    assert handler.status["complete"] is True


def test_waiting_for_what_does_not_begin(omewd_daemon: DaemonProcess) -> None:
    handler = OmewdHandler("never", socket=omewd_daemon.socket)
    assert handler.status["state"] == "waiting"
    with pytest.raises(OmewdError, match="no sequence has started") as caught:
        handler.wait(0.05)
    assert caught.value.code == "not_started"
    with pytest.raises(OmewdError, match="no field 'chunk'"):
        OmewdHandler("never", chunk=3)


def test_the_example_of_the_page(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    """The program of docs/guide/micro-manager.md, as it stands there."""
    block = example(DOCS / "guide" / "micro-manager.md", "pymmcore-mda")
    program = tmp_path / "example.py"
    program.write_text(block)
    environment = {**os.environ, "OMEWD_SOCKET": str(omewd_daemon.socket)}
    command = [sys.executable, str(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("written 40 frames, 20 gaps")
    dataset = omewd_daemon.data / "embryo.ome.zarr"
    assert verify(dataset).problems == []


@pytest.mark.parametrize("channels", [[], ["DAPI"]])
def test_a_colour_camera(core: Any, omewd_daemon: DaemonProcess, channels: list[str]) -> None:
    """Micro-Manager's 32bitRGB is BGRA in memory, and pymmcore-plus makes RGB of it."""
    core.setProperty("Camera", "PixelType", "32bitRGB")
    core.setProperty("Camera", "Mode", "Color Test Pattern")
    seen: list[Array] = []
    core.mda.events.frameReady.connect(lambda image, *_: seen.append(np.array(image)))
    handler = OmewdHandler("color", socket=omewd_daemon.socket)
    sequence = useq.MDASequence(time_plan={"interval": 0, "loops": 3}, channels=channels)
    core.run_mda(sequence, output=handler, block=True)
    status = handler.wait(timeout=60)
    assert (status["state"], handler.complete, handler.frames_taken) == ("DONE", True, 3)
    assert status["samples"] == 3
    import tensorstore

    dataset = Path(status["path"])
    store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(dataset / "0")}}
    stored = tensorstore.open(store, open=True, read=True).result().read().result()
    assert stored.dtype == np.uint8
    assert stored.shape == (3, 3, *SHAPE)
    assert len(seen) == 3
    for index, image in enumerate(seen):
        assert image.shape == (*SHAPE, 3)
        assert len({plane.tobytes() for plane in np.moveaxis(image, -1, 0)}) > 1
        np.testing.assert_array_equal(stored[index], np.moveaxis(image, -1, 0))
    shown = json.loads((dataset / "zarr.json").read_text())["attributes"]["ome"]["omero"]["channels"]
    assert [(c["label"], c["window"]["end"]) for c in shown] == [("Red", 255), ("Green", 255), ("Blue", 255)]
    assert verify(dataset).problems == []
