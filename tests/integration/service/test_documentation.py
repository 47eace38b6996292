"""The worked examples of the documentation, as they stand there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import omewd
from omewd.dataset.verify import verify
from omewd.model.spec.spec import StreamSpec
from tests.support.acquisitions import check_acquisition
from tests.support.daemons import DaemonProcess
from tests.support.datasets import read_zarr
from tests.support.frames import make_spec
from tests.support.pages import example
from tests.support.places import DOCS


def run(
    page: str,
    name: str,
    process: DaemonProcess,
    folder: Path,
    *,
    beside: Path | None = None,
    before: str = "",
) -> str:
    """Run an example as a program of its own, in the folder ``beside`` if that is given; returns what it prints.

    ``before``: lines that stand for what the page takes for granted.
    """
    program = folder / f"{name}.py"
    program.write_text(before + example(DOCS / page, name))
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=beside,
        env={**os.environ, "OMEWD_SOCKET": str(process.socket)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def spec_of(dataset: Path) -> StreamSpec:
    totals = json.loads((dataset / "omewd" / "zarr.json").read_text())["attributes"]["omewd"]
    return StreamSpec.parse(totals["stream"])


def test_a_colour_camera(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    run("guide/acquisitions.md", "color", omewd_daemon, tmp_path)
    dataset = omewd_daemon.data / "color.ome.zarr"
    frames = [np.full((480, 640), index // 3, np.uint8) for index in range(30)]
    check_acquisition(dataset, spec_of(dataset), [frames])
    assert verify(dataset).problems == []


def test_a_plate(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    run("guide/acquisitions.md", "plate", omewd_daemon, tmp_path)
    dataset = omewd_daemon.data / "screen.ome.zarr"
    frames = [np.full((512, 512), index, np.uint16) for index in range(24)]
    check_acquisition(dataset, spec_of(dataset), [frames])
    assert verify(dataset).problems == []
    attributes = json.loads((dataset / "zarr.json").read_text())["attributes"]
    assert attributes["lab"] == {"operator": "Ada", "medium": "DMEM"}
    assert [well["path"] for well in attributes["ome"]["plate"]["wells"]] == ["A/1", "A/2", "B/3"]
    image = json.loads((dataset / "A/2/1/zarr.json").read_text())["attributes"]["ome"]
    assert image["omero"]["channels"][1]["emissionWave"] == 525
    assert image["multiscales"][0]["datasets"][0]["coordinateTransformations"][1]["translation"] == [
        0.0,
        0.0,
        0.0,
        650.0,
    ]
    printed = run("guide/reading.md", "ledger", omewd_daemon, tmp_path, beside=omewd_daemon.data).splitlines()
    assert printed == [
        "3 {'t': 0, 'c': 1} 0.05 a frame",
        "3.0",
        "['frame', 'image', 't', 'c', 'wall_ns', 'monotonic_ns', 'gap', 'delta_t', 'exposure_time']",
        "[1.2 1.3 1.4 1.5 1.6 1.7 1.8 1.9 2.  2.1 2.2 2.3]",
    ]
    live = run("guide/reading.md", "live", omewd_daemon, tmp_path, beside=omewd_daemon.data).splitlines()
    assert live == ["(2, 2, 512, 512) 0.5", "[[ 0  1]", " [12 13]]"]
    again = ["--dims", "t:2,p:6,c:2,y:512:256:2,x:512:256:2", "--plate", "8x12", "--wells", "A1,A2,B3"]
    again += ["--channels", "DAPI,GFP", "--scale", "t=600,y=0.65,x=0.65", "--levels", "3"]
    assert omewd_daemon.omewd("start-stream", "from-shell", *again).returncode == 0
    omewd_daemon.client.stop_stream("from-shell")
    omewd_daemon.client.wait("from-shell", timeout=20)


def test_several_cameras(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    run("guide/acquisitions.md", "multi-camera", omewd_daemon, tmp_path)
    dataset = omewd_daemon.data / "dual.ome.zarr"
    arrivals = [[np.full((512, 512), index, np.uint16) for index in range(count)] for count in (100, 60)]
    check_acquisition(dataset, spec_of(dataset), arrivals)
    assert verify(dataset).problems == []
    assert run("guide/reading.md", "view", omewd_daemon, tmp_path).split() == ["99", "99.0", "False"]


def test_a_frame(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    omewd_daemon.client.start_stream(make_spec("cam0", "t:inf,y:64,x:64"))
    frame = "import numpy as np\nframe = np.full((64, 64), 7, np.uint16)\n"
    run("guide/producers.md", "append", omewd_daemon, tmp_path, before=frame)
    assert read_zarr(omewd_daemon.data / "cam0.ome.zarr").tolist() == np.full((1, 64, 64), 7).tolist()
    [row] = omewd.open_ledger(omewd_daemon.data / "cam0.ome.zarr")
    assert row.metadata == {"exposure_time": 0.01}
    assert run("guide/reading.md", "watch", omewd_daemon, tmp_path).splitlines()[-1] == "done, 1 frames"


def test_how_channels_are_shown(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    channels = (omewd.Channel(name="DAPI"), omewd.Channel(name="GFP"))
    y, x = omewd.parse_dims("y:64,x:64")
    spec = StreamSpec(
        name="cam0",
        dimensions=(omewd.Dimension(name="t", count=1), omewd.Dimension(name="c", count=2, coords=channels), y, x),
    )
    omewd_daemon.client.start_stream(spec)
    with omewd_daemon.connect("cam0") as producer:
        for _ in range(2):
            producer.append(np.full((64, 64), 7, np.uint16))
    run("guide/metadata.md", "omero", omewd_daemon, tmp_path, before="import omewd\nclient = omewd.Client()\n")
    attributes = json.loads((omewd_daemon.data / "cam0.ome.zarr" / "zarr.json").read_text())["attributes"]
    _, shown = attributes["ome"]["omero"]["channels"]
    assert (shown["label"], shown["color"]) == ("GFP", "00FF00")
    assert (shown["window"]["start"], shown["window"]["end"]) == (100, 4000)
