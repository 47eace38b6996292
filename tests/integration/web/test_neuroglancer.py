"""neuroglancer itself shows a run while it is recorded, in a browser, from an address of its own.

Only if OMEWD_NEUROGLANCER names a Python that has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.browser import CHROMIUM, browser
from tests.support.daemons import DaemonProcess
from tests.support.frames import make_spec
from tests.support.processes import wait_for
from tests.support.web import web

PYTHON = os.environ.get("OMEWD_NEUROGLANCER", "")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="OMEWD_NEUROGLANCER names no Python with neuroglancer"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
]

Pixels = np.ndarray[Any, Any]
HEIGHT, WIDTH = 200, 320
# Serves neuroglancer's page, tells its address, and then saves what is on it as a grey value for each pixel.
SHOW = """
import sys, neuroglancer
source, output, (frame, height, width, origin) = sys.argv[1], sys.argv[2], map(float, sys.argv[3:])
size = [int(width), int(height)]
neuroglancer.set_server_bind_address("127.0.0.1")
viewer = neuroglancer.Viewer()
shader = "#uicontrol invlerp grey(range=[0, 255])\\nvoid main() { emitGrayscale(grey()); }"
with viewer.txn() as state:
    state.layers["cam"] = neuroglancer.ImageLayer(source=source, shader=shader)
    state.layout = "xy"
    state.show_axis_lines = state.show_scale_bar = state.show_default_annotations = False
print(viewer.get_viewer_url(), flush=True)
viewer.screenshot(size=size)  # once it is loaded, its dimensions are known
with viewer.txn() as state:
    state.display_dimensions = ["x", "y"]
    state.position = [origin + frame + 0.5, origin + height / 2, origin + width / 2]
    state.cross_section_scale = 1
open(output, "wb").write(viewer.screenshot(size=size).screenshot.image)
"""


def frame(index: int) -> Pixels:
    """A picture with steps that a shift or a wrong frame would move."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.asarray((x // 8 * 5 + y // 8 * 9 + index * 20) % 256, np.uint16)


async def shown(folder: Path, source: str, index: int, origin: float) -> Pixels:
    output = folder / "shown.png"
    asked = [PYTHON, "-c", SHOW, source, str(output), *map(str, (index, HEIGHT, WIDTH, origin))]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as process, contextlib.ExitStack() as undo:
        undo.callback(process.kill)
        assert process.stdout is not None
        address = (await asyncio.to_thread(process.stdout.readline)).strip()
        async with browser(folder, address, webgl=True):
            assert await asyncio.to_thread(process.wait, 120) == 0
    return np.asarray(Image.open(io.BytesIO(output.read_bytes())).convert("L"))


# In an image of OME-Zarr, a coordinate is that of a pixel's middle; in an array, that of its beginning.
@pytest.mark.parametrize(
    ("source", "origin"),
    [("{}/data/cam/|zarr3:", -0.5), ("zarr3://{}/data/cam/", -0.5), ("zarr3://{}/data/cam/0/", 0.0)],
)
def test_neuroglancer_shows_a_run_while_it_is_recorded(
    omewd_daemon: DaemonProcess, tmp_path: Path, source: str, origin: float
) -> None:
    spec = make_spec(
        "cam", f"t:60:2:8,y:{HEIGHT}:40:5,x:{WIDTH}:64:5", compression="blosc-zstd", levels=2, ring_slots=60
    )
    omewd_daemon.client.start_stream(spec)
    with web(tmp_path, omewd_daemon.socket) as client, omewd_daemon.connect("cam") as producer:
        for index in range(12):
            producer.append(frame(index))
        wait_for(lambda: omewd_daemon.client.stream_status("cam").frames.durable >= 12)
        address = str(client.base_url).rstrip("/")
        seen = asyncio.run(asyncio.wait_for(shown(tmp_path, source.format(address), 11, origin), 180))
        producer.close()
    assert np.abs(seen.astype(int) - frame(11)).max() <= 1, "a grey value is rounded on the way"
