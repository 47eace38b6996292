"""``omewd demo``: a daemon, a simulated camera, a dataset and a summary, in one command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from omewd.cli.options import example
from omewd.errors import OmewdError


@click.command("demo", epilog=example("omewd demo --frames 500 --size 2048"))
@click.option("--frames", type=click.IntRange(1, 9999), default=200, show_default=True)
@click.option(
    "--size", type=click.IntRange(64, 4096), default=1024, show_default=True, help="Rows and columns of a frame."
)
@click.option(
    "--fps",
    type=click.FloatRange(min=0),
    default=100.0,
    show_default=True,
    help="Frames per second; 0 is as fast as possible.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The dataset to create.  [default: the first free omewd-demo.ome.zarr, omewd-demo-2.ome.zarr, …]",
)
def command(frames: int, size: int, fps: float, output: Path | None) -> None:
    """Try omewd: start a private daemon, record a simulated camera, and read the dataset back."""
    from omewd.bench.run.private_daemon import PrivateDaemon
    from omewd.cli.service.next_steps import next_steps
    from omewd.cli.show.progress import follow
    from omewd.dataset.verify import verify
    from omewd.model.spec.dimensions import parse_dims
    from omewd.model.spec.spec import StreamSpec

    dataset = (output or _free_output()).absolute()
    if not dataset.parent.is_dir():
        raise OmewdError("usage", f"{dataset.parent} is not a folder", "Choose another --output")
    chunk = max(size // 4, 64)
    dims = f"t:{frames}:1:16,y:{size}:{chunk}:{-(-size // chunk)},x:{size}:{chunk}:{-(-size // chunk)}"
    print(f"starting a daemon for {dataset.parent}")
    with PrivateDaemon(dataset.parent, drain_timeout_s=300.0) as daemon:
        client = daemon.client
        slots = _ring_slots(frames, frame_bytes=2 * size * size)
        spec = StreamSpec(name="demo", output=str(dataset), dimensions=parse_dims(dims), ring_slots=slots)
        status = client.start_stream(spec)
        print(f"stream demo: --dims {dims}, ring of {status['ring']['slots']} slots, backend {status['backend']}")
        camera = subprocess.Popen(
            [sys.executable, "-m", "omewd.cli.service.demo_camera", "demo", str(daemon.socket), str(frames), str(fps)]
        )
        try:
            follow(client, "demo", quiet=False)
            if camera.wait(30) != 0:
                raise OmewdError("error", f"the simulated camera ended with status {camera.returncode}")
        finally:
            if camera.poll() is None:
                camera.kill()
                camera.wait()
    report = verify(dataset)
    if report.problems:
        raise OmewdError("incomplete", f"{dataset}: {report.problems[0]}")
    print(f"read back: {report.written} frames in {report.keys} shards, {report.read_bytes / 1e6:.1f} MB, all is well")
    _show_frame(dataset, frames - 1)
    print(f"dataset: {dataset}")
    print(next_steps(dataset, dims, size), end="")


def _ring_slots(frames: int, frame_bytes: int) -> int | None:
    """Slots that take half of what is free in /dev/shm, which is small in containers; None if that is no limit."""
    room = os.statvfs("/dev/shm")
    slots = room.f_bavail * room.f_frsize // 2 // frame_bytes
    return max(1, slots) if slots < frames else None


def _free_output() -> Path:
    number = 1
    while (path := Path.cwd() / (f"omewd-demo-{number}.ome.zarr" if number > 1 else "omewd-demo.ome.zarr")).exists():
        number += 1
    return path


def _show_frame(dataset: Path, index: int) -> None:
    """Show the last frame in half-block characters, if the output is a terminal."""
    if not sys.stdout.isatty():
        return
    import numpy as np
    import tensorstore
    from rich.console import Console
    from rich.text import Text

    store = {"driver": "file", "path": str(dataset / "0")}
    array: Any = tensorstore.open({"driver": "zarr3", "kvstore": store}, open=True).result()
    pixels = np.asarray(array[index].read().result()).astype(float)
    console = Console()
    columns = min(console.width - 1, 72)
    step = max(1, pixels.shape[0] // columns)
    small = pixels[: pixels.shape[0] // step * step, : pixels.shape[1] // step * step]
    small = small.reshape(small.shape[0] // step, step, -1, step).mean(axis=(1, 3))
    grey = np.clip(small / np.max(small) * 255, 0, 255).astype(int)
    text = Text()
    for top, bottom in zip(grey[0::2], grey[1::2], strict=False):
        for a, b in zip(top, bottom, strict=True):
            text.append("▀", style=f"rgb({a},{a},{a}) on rgb({b},{b},{b})")
        text.append("\n")
    console.print(text)
