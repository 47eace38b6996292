"""Looking at frames while they are written: out of the ring, out of the dataset, without being noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omewd
from tests.support.daemons import DaemonProcess
from tests.support.frames import frame_index, make_frame, make_spec
from tests.support.processes import start_python, wait_for


def look(process: DaemonProcess, name: str = "cam", **options: Any) -> omewd.View:
    return omewd.view(name, socket=process.socket, **options)


@pytest.mark.parametrize("backend", ["direct", "tensorstore"])
@pytest.mark.parametrize("compression", [None, "zstd", "blosc-lz4"])
@pytest.mark.parametrize("dims", ["t:inf:2:50,y:16:8:2,x:24:8:2", "t:inf,y:16,x:24", "p:3,t:4:2:2,z:9:2,y:17:8,x:24"])
def test_every_frame_can_be_seen_once_it_is_durable(
    omewd_daemon: DaemonProcess, backend: str, compression: str | None, dims: str
) -> None:
    """Also those in shards that are not complete, and after the stream has ended."""
    spec = make_spec("cam", dims, backend=backend, compression=compression, ring_slots=100)
    omewd_daemon.client.start_stream(spec)
    with look(omewd_daemon) as viewed, omewd_daemon.connect("cam") as producer:
        assert viewed.latest() is None
        with pytest.raises(omewd.OmewdError, match="neither in the ring nor in the dataset") as refusal:
            viewed.frame(0)
        assert refusal.value.code == "no_frame"
        for index in range(108):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        if spec.dimensions[0].name == "t" and (backend == "direct" or not spec.sharded):
            wait_for(lambda: viewed.stored >= 100)
        latest = viewed.latest()
        assert latest is not None
        assert (latest.index, frame_index(latest.array)) == (107, 107)
        for index in [*range(0, viewed.stored, 7), *range(100, 108)]:
            seen = viewed.frame(index)
            assert seen.copy().tobytes() == make_frame(index, spec.frame_shape, spec.dtype).tobytes(), index
            assert seen.is_intact
            assert not seen.array.flags.writeable
        producer.close()
        assert viewed.stored == 108
        for index in range(0, 108, 5):
            assert frame_index(viewed.frame(index).copy()) == index
    with look(omewd_daemon) as viewed:  # of a stream that has ended
        newest = viewed.latest()
        assert newest is not None
        assert (newest.index, newest.in_ring) == (107, False)
        assert frame_index(newest.array) == 107
        assert frame_index(viewed.frame(3).array) == 3


def test_a_frame_of_the_ring_is_a_view_that_knows_when_it_is_gone(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:inf,y:16,x:16", ring_slots=4)
    omewd_daemon.client.start_stream(spec)
    with look(omewd_daemon) as viewed, omewd_daemon.connect("cam") as producer:
        producer.append(make_frame(0, spec.frame_shape, spec.dtype), metadata={"exposure_time": 0.25})
        seen = viewed.latest()
        assert seen is not None
        assert seen.in_ring
        assert seen.is_intact
        assert seen.metadata == {"exposure_time": 0.25}
        assert seen.wall_ns is not None
        with pytest.raises(ValueError, match="read-only"):
            seen.array[0, 0] = 1
        for index in range(1, 6):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        with pytest.raises(omewd.OmewdError) as refusal:
            seen.copy()
        assert refusal.value.code == "overwritten"
        wait_for(lambda: viewed.stored > 0)
        from_disk = viewed.frame(0)
        assert not from_disk.in_ring
        assert frame_index(from_disk.copy()) == 0
        assert isinstance(from_disk.array.base, np.memmap | memoryview) or from_disk.array.base is not None


def test_what_is_seen_is_never_half_a_frame(omewd_daemon: DaemonProcess) -> None:
    """Each copy is of one frame, while a camera runs through a small ring as fast as it can."""
    spec = make_spec("cam", "t:inf,y:64,x:64", ring_slots=6, dtype="uint16", durability="none")
    omewd_daemon.client.start_stream(spec)
    done = threading.Event()
    seen = []

    def watch() -> None:
        with look(omewd_daemon) as viewed:
            while not done.is_set():
                frame = viewed.latest()
                if frame is None:
                    continue
                try:
                    pixels = frame.copy()
                except omewd.OmewdError:
                    continue
                assert (pixels == frame.index % 60000).all(), frame.index
                seen.append(frame.index)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with omewd_daemon.connect("cam") as producer:
        for index in range(4000):
            producer.append(np.full(spec.frame_shape, index, np.uint16))
    done.set()
    watcher.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 10


def test_another_process_looks_at_a_source(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:4,c:2,y:8,x:8", source_dimension="c")
    omewd_daemon.client.start_stream(spec)
    with pytest.raises(omewd.OmewdError, match="several sources"):
        look(omewd_daemon)
    with omewd.connect("cam", source=1, socket=omewd_daemon.socket) as producer:
        producer.append(make_frame(5, spec.frame_shape, spec.dtype))
        code = (
            "import sys, omewd; print(omewd.view('cam', source=1, socket=sys.argv[1]).latest().array[0, :2].tolist())"
        )
        viewer = start_python(code, str(omewd_daemon.socket))
        assert viewer.communicate(timeout=30)[0] == "[5, 0]\n"
    omewd_daemon.client.stop_stream("cam")
    omewd_daemon.client.wait("cam", timeout=20)


def test_on_the_command_line(omewd_daemon: DaemonProcess) -> None:
    spec = make_spec("cam", "t:4,y:8,x:8")
    omewd_daemon.client.start_stream(spec)
    assert "has no frame yet" in omewd_daemon.omewd("view", "cam").stderr
    with omewd_daemon.connect("cam") as producer:
        producer.append(make_frame(0, spec.frame_shape, spec.dtype), metadata={"exposure_time": 0.5})
        shown = omewd_daemon.omewd("view", "cam")
        assert "frame 0 from the ring, 8 × 8 uint16" in shown.stdout
        assert "omewd web, then http://127.0.0.1:8420/#cam" in shown.stdout
        assert "exposure_time" in shown.stdout
        saved = json.loads(omewd_daemon.omewd("view", "cam", "--index", "0", "-o", "frame.npy", "--json").stdout)
        assert saved["index"] == 0
        assert np.load(omewd_daemon.data / "frame.npy").tobytes() == make_frame(0, (8, 8), "uint16").tobytes()
        wrong = omewd_daemon.omewd("view", "cam", "--index", "3")
        assert (wrong.returncode, "neither in the ring" in wrong.stderr) == (1, True)
    assert omewd_daemon.omewd("view", "nobody").returncode == 1


def test_a_frame_is_saved_in_the_format_of_its_suffix(omewd_daemon: DaemonProcess) -> None:
    import tifffile
    from PIL import Image

    spec = make_spec("cam", "t:4,y:20,x:30")
    *outer, y, x = spec.dimensions
    y, x = (dim.model_copy(update={"scale": scale}) for dim, scale in ((y, 0.25), (x, 0.5)))
    omewd_daemon.client.start_stream(spec.model_copy(update={"dimensions": (*outer, y, x)}))
    frame = make_frame(0, spec.frame_shape, spec.dtype)
    with omewd_daemon.connect("cam") as producer:
        producer.append(frame)
        for file in ("a.png", "a.tif", "b.ome.tiff"):
            done = omewd_daemon.omewd("view", "cam", "-o", file)
            assert done.returncode == 0, done.stderr
        wrong = omewd_daemon.omewd("view", "cam", "-o", "a.bmp")
        assert (wrong.returncode, ".npy, .png, .tif, .tiff" in wrong.stderr) == (2, True)
    for file in ("a.tif", "b.ome.tiff"):
        with tifffile.TiffFile(omewd_daemon.data / file) as saved:
            assert saved.asarray().tobytes() == frame.tobytes()
            ome = str(saved.ome_metadata)
        assert ('PhysicalSizeX="0.5"' in ome, 'PhysicalSizeY="0.25"' in ome, 'PhysicalSizeXUnit="µm"' in ome) == (
            True,
        ) * 3
        assert 'Name="cam, frame 0"' in ome
    with Image.open(omewd_daemon.data / "a.png") as picture:
        grey = np.asarray(picture)
    assert (grey.shape, str(grey.dtype), int(grey.min()), int(grey.max())) == ((20, 30), "uint8", 0, 255)
    brighter = frame[:, :-1] < frame[:, 1:]
    assert (grey[:, :-1] <= grey[:, 1:])[brighter].all()


NAPARI = """
import json, os, pathlib
shown = {}
def imshow(levels, **how):
    shown.update(how, levels=[[list(a.shape), int(a[(0,) * a.ndim].compute())] for a in levels])
    shown["corner"] = int(levels[0][-1, -1, -1, 0].compute())
def run():
    pathlib.Path("shown.json").write_text(json.dumps(shown))
"""


def test_a_viewer_is_given_the_run_so_far(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    """All resolutions of the position of the frame; a stand-in takes what napari would be given."""
    spec = make_spec("cam", "t:6:2,p:2,c:2,y:32,x:24", levels=2)
    omewd_daemon.client.start_stream(spec)
    (tmp_path / "napari.py").write_text(NAPARI)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "OMEWD_SOCKET": str(omewd_daemon.socket), "PYTHONPATH": path}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "omewd", "view", "cam", *arguments]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    with omewd_daemon.connect("cam") as producer:
        producer.append(make_frame(0, spec.frame_shape, spec.dtype))
        empty = run("--napari")
        assert (empty.returncode, "nothing on disk yet" in empty.stderr) == (1, True)
        for index in range(1, 11):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        wait_for(lambda: producer.durable == 8)
        done = run("--napari", "--index", "7")  # t1, of the second position, c1
        assert done.returncode == 0, done.stderr
        shown = json.loads((tmp_path / "shown.json").read_text())
        # Of the second position, t0 and t1 are whole.
        assert [shape for shape, _ in shown["levels"]] == [[2, 2, 32, 24], [2, 2, 16, 12]]
        assert shown["levels"][0][1] == 2
        assert shown["corner"] == make_frame(7, spec.frame_shape, spec.dtype)[-1, 0]
        assert (shown["multiscale"], shown["channel_axis"], shown["scale"]) == (True, 1, [1.0, 1.0, 1.0])
        missing = run("--ndv")
        assert (missing.returncode, "pip install ndv" in missing.stderr) == (1, True)


def test_what_is_not_there_is_not_black(omewd_daemon: DaemonProcess) -> None:
    """Lost frames, a dataset that has gone or was replaced, a file that is damaged: an error, not zeros."""
    spec = make_spec("cam", "t:inf:1:4,y:16:8:2,x:16:8:2", compression="zstd")
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam") as producer:
        for index in range(10):
            producer.append(make_frame(index, spec.frame_shape, spec.dtype))
        producer.skip(3)
    dataset = omewd_daemon.data / spec.output
    with look(omewd_daemon) as viewed:
        latest = viewed.latest()
        assert latest is not None
        assert (latest.index, frame_index(latest.array)) == (9, 9)
        assert not viewed.frame(12).array.any()  # a gap
        shard = dataset / "0/c/1/0/0"
        good = shard.read_bytes()
        index_bytes = 16 * 16 + 4
        shard.write_bytes(bytes(len(good) - index_bytes) + good[-index_bytes:])
        with pytest.raises(omewd.OmewdError, match="does not decode") as refusal:
            viewed.frame(4)
        assert refusal.value.code == "not_stored"
        shard.unlink()
        with pytest.raises(omewd.OmewdError, match="it lacks frame 4"):
            viewed.frame(4)
        shard.write_bytes(good)
        assert frame_index(viewed.frame(4).array) == 4
        again = make_spec("again", "t:inf,y:16,x:16", output=spec.output, overwrite=True)
        omewd_daemon.client.start_stream(again)
        with pytest.raises(omewd.OmewdError, match="another stream has replaced it"):
            viewed.frame(4)
        omewd_daemon.client.stop_stream("again")
        omewd_daemon.client.wait("again", timeout=20)
        dataset.rename(dataset.with_name("moved.ome.zarr"))
        with pytest.raises(omewd.OmewdError, match="no longer exists"):
            viewed.latest()
