"""napari itself shows a run while it is recorded.

Only if OMEWD_NAPARI names a Python that has it, which is large. It wants a display with OpenGL, such as that of
xvfb-run.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.daemons import DaemonProcess
from tests.support.frames import make_frame, make_spec
from tests.support.processes import wait_for
from tests.support.web import web

PYTHON = os.environ.get("OMEWD_NAPARI", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="OMEWD_NAPARI names no Python with napari")

SHAPE = (64, 96)
# In place of napari's loop, which shows the window until it is closed: what is shown at each time point, and what its
# layers hold at both resolutions.
LOOK = """
import json, sys
import napari

points = json.loads(sys.argv[1])

def run(*_, **__):
    viewer = napari.current_viewer()
    [layer] = viewer.layers
    shown, held = [], []
    for t in range(layer.data[0].shape[0]):
        viewer.dims.set_current_step(0, t)
        shown.append([int(layer.get_value((t, y, x), world=True)[1]) for y, x in points])
        held.append([[int(data[t, y >> n, x >> n]) for y, x in points] for n, data in enumerate(layer.data)])
    print("SEEN", json.dumps([layer.name, shown, held]))
    viewer.close()

napari.run = run
"""
BY_COMMAND = (
    LOOK
    + """
from omewd.cli.main import main
sys.argv = ["omewd", "view", *sys.argv[2:], "--napari"]
main()
"""
)
BY_ADDRESS = (
    LOOK
    + """
napari.Viewer(show=False).open(sys.argv[2], plugin="napari-ome-zarr")
napari.run()
"""
)
POINTS = [[0, 0], [3, 7], [40, 90], [63, 95]]


def look(script: str, *arguments: str) -> Any:
    done = subprocess.run(
        [PYTHON, "-c", script, json.dumps(POINTS), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    told = [line.removeprefix("SEEN ") for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    assert done.returncode == 0, done.stderr
    assert told, done.stdout + done.stderr
    return json.loads(told[0])


def expected(frame: int, level: int) -> list[int]:
    pixels = make_frame(frame, SHAPE, "uint16").astype(np.int64)
    for _ in range(level):
        pixels = (pixels[::2, ::2] + pixels[1::2, ::2] + pixels[::2, 1::2] + pixels[1::2, 1::2] + 2) // 4
    return [int(pixels[y >> level, x >> level]) for y, x in POINTS]


def test_napari_shows_a_run_while_it_is_recorded(omewd_daemon: DaemonProcess, tmp_path: Path) -> None:
    """Up to the frame that is durable, in a shard in progress: by omewd view, and by the address of its data."""
    spec = make_spec("cam", "t:60:2:8,y:64:32:2,x:96:32:3", compression="blosc-zstd", levels=2, ring_slots=60)
    omewd_daemon.client.start_stream(spec)
    with web(tmp_path, omewd_daemon.socket) as client, omewd_daemon.connect("cam") as producer:
        for begun, ended in ((0, 12), (12, 20)):
            for index in range(begun, ended):
                producer.append(make_frame(index, SHAPE, "uint16"))
            wait_for(lambda ended=ended: omewd_daemon.client.stream_status("cam").frames.durable >= ended)  # type: ignore[misc]
            wanted = [[expected(frame, level) for level in (0, 1)] for frame in range(ended)]
            for name, shown, held in (
                look(BY_COMMAND, "cam", "--socket", str(omewd_daemon.socket)),
                look(BY_ADDRESS, f"{client.base_url}/data/cam.ome.zarr/"),
            ):
                assert (name.split(":")[0], shown, held) == ("cam", [full for full, _ in wanted], wanted)
        producer.close()
