"""``omewd view``: one frame of a stream, from its ring or its dataset."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from omewd.cli.options import example, json_option, socket_option, stream_names
from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from omewd.web.addresses import LISTEN


@click.command("view", epilog=example("omewd view cam0 --index 10 --output frame.npy"))
@click.argument("name", shell_complete=stream_names)
@click.option("--source", help="The source, by name or number, of a stream that has several.")
@click.option("--index", type=int, help="Frame index.  [default: the latest]")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Save the frame: .npy for its pixels, .tif for OME-TIFF, .png for the eye.",
)
@click.option("--napari", "viewer", flag_value="napari", help="Open all that is on disk so far in napari.")
@click.option("--ndv", "viewer", flag_value="ndv", help="Open all that is on disk so far in ndv.")
@json_option
@socket_option
def command(
    name: str,
    source: str | None,
    index: int | None,
    output: Path | None,
    viewer: str | None,
    as_json: bool,
    socket: Path | None,
) -> None:
    """Describe or save the latest frame of stream NAME, or that of --index, or open the run in a viewer.

    Viewers show the position of the frame, with what is on disk so far. The writers do not notice. Without a viewer or
    an output, it says where the browser shows the stream.
    """
    from omewd.cli.show.saved_frame import SUFFIXES, save
    from omewd.reader.view import view

    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(f"{output} must end with one of {', '.join(SUFFIXES)}", param_hint="--output")
    where = socket or click.get_current_context().find_root().obj
    with view(name, source=source, socket=where) as looking:
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
        spec = looking.stream_spec() if output is not None or viewer is not None else None
    if output is not None and spec is not None:
        save(output, pixels, spec, f"{name}, frame {frame.index}")
    if as_json:
        print(json.dumps(known))
    else:
        _describe(name, known)
        if output is None and viewer is None:
            print(f"To see it in the browser: omewd web, then http://{LISTEN}/#{name}")
    if viewer is not None and spec is not None:
        from omewd.cli.show.viewers import open_in
        from omewd.reader.keyed import KeyedReader
        from omewd.reader.zarr_store import LiveStore

        folder = spec.image_paths[Plan.of(spec, source=looking.source).image(frame.index)]
        with closing(KeyedReader.of_stream(name, socket=where)) as reader:
            open_in(viewer, LiveStore(reader), folder, name)


def _describe(name: str, known: dict[str, Any]) -> None:
    height, width = known["shape"]
    print(
        f"{name}: frame {known['index']} from the {known['from']}, {height} × {width} {known['dtype']}, "
        f"min {known['min']}, mean {known['mean']:.1f}, max {known['max']}"
    )
    if known["metadata"]:
        print(json.dumps(known["metadata"]))
