"""``omewd view``: one frame of a stream, from its ring or its dataset."""

from __future__ import annotations

import json
from pathlib import Path

import click

from omewd.cli.options import example, json_option, socket_option, stream_names
from omewd.errors import OmewdError


@click.command("view", epilog=example("omewd view cam0 --index 10 --output frame.npy"))
@click.argument("name", shell_complete=stream_names)
@click.option("--source", help="The source, by name or number, of a stream that has several.")
@click.option("--index", type=int, help="Frame index.  [default: the latest]")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Save the pixels to this .npy file."
)
@json_option
@socket_option
def command(
    name: str, source: str | None, index: int | None, output: Path | None, as_json: bool, socket: Path | None
) -> None:
    """Describe or save the latest frame of stream NAME, or that of --index. The writers do not notice."""
    import numpy as np

    from omewd.reader.view import view

    with view(name, source=source, socket=socket or click.get_current_context().find_root().obj) as looking:
        frame = looking.latest() if index is None else looking.frame(index)
        if frame is None:
            raise OmewdError("no_frame", f"stream {name!r} has no frame yet", "Wait for its camera")
        pixels = frame.copy()
        known = {
            "name": name,
            "source": looking.source,
            "index": frame.index,
            "from": "ring" if frame.in_ring else "dataset",
            "shape": list(pixels.shape),
            "dtype": str(pixels.dtype),
            "min": pixels.min().item(),
            "mean": float(pixels.mean()),
            "max": pixels.max().item(),
            "wall_ns": frame.wall_ns,
            "metadata": frame.metadata,
        }
    if output is not None:
        with output.open("wb") as file:
            np.save(file, pixels)
    if as_json:
        print(json.dumps(known))
        return
    height, width = known["shape"]
    print(
        f"{name}: frame {known['index']} from the {known['from']}, {height} × {width} {known['dtype']}, "
        f"min {known['min']}, mean {known['mean']:.1f}, max {known['max']}"
    )
    if frame.metadata:
        print(json.dumps(frame.metadata))
