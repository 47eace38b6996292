"""``omewd start-stream``: open a stream."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from omewd.cli.errors import with_options
from omewd.cli.options import client, example, json_option, one_of, socket_option, to_byte_rate
from omewd.cli.settings_file import read_settings
from omewd.cli.show.units import volume
from omewd.errors import OmewdError
from omewd.model.spec.backend import HELP as BACKENDS
from omewd.model.spec.backend import NAMES as BACKEND_NAMES
from omewd.model.spec.compression import HELP as COMPRESSIONS
from omewd.model.spec.compression import NAMES as COMPRESSION_NAMES
from omewd.protocol.status import StreamStatus, read_status


@click.command(
    "start-stream",
    epilog=example("omewd start-stream cam0 --dims t:64:1:16,y:2048:256:8,x:2048:256:8 --compression blosc-lz4"),
)
@click.argument("name", required=False)
@click.option(
    "--dims",
    "-d",
    help="name:count[:chunk[:shard]],… Slowest first; the last two are the frame's y and x. The first may be inf.",
)
@click.option("--dtype", help="Pixel type.  [default: uint16]")
@click.option("--output", help="Path of the dataset, relative to the daemon's data root.  [default: NAME.ome.zarr]")
@click.option("--backend", "-b", shell_complete=one_of(*BACKEND_NAMES), help=f"{BACKENDS}  [default: auto]")
@click.option("--compression", "-c", shell_complete=one_of(*COMPRESSION_NAMES), help=f"{COMPRESSIONS}  [default: none]")
@click.option(
    "--backpressure",
    shell_complete=one_of("block", "drop", "fail"),
    help="What a full ring does to the camera: block, drop or fail.  [default: block]",
)
@click.option(
    "--durability",
    shell_complete=one_of("fsync", "none"),
    help="fsync, or none. With none, a crash of the machine loses frames.  [default: fsync]",
)
@click.option(
    "--on-producer-loss",
    shell_complete=one_of("finalize", "wait"),
    help="When the camera's program dies: finalize the dataset, or wait for another program.  [default: finalize]",
)
@click.option(
    "--on-disk-full",
    shell_complete=one_of("wait", "fail"),
    help="When the disk is full: wait until there is space again, or fail. With wait, a stream that can't fit is "
    "opened all the same.  [default: refuse what can't fit, then wait]",
)
@click.option(
    "--expect-fps",
    type=float,
    help="Frames a second of each camera: status and log tell when it stays away.  [default: by its rate so far]",
)
@click.option("--copy-to", help="Copy the dataset there meanwhile: s3://, gs://, az:// or file:///.")
@click.option("--copy-limit", callback=to_byte_rate, help="Send no more than this, as in 200MB/s.")
@click.option("--copy-live", is_flag=True, default=None, help="Let the copy be opened before it is complete.")
@click.option(
    "--evict",
    "copy_evict",
    is_flag=True,
    default=None,
    help="Remove shards from the disk once their copy is confirmed.",
)
@click.option("--overwrite", is_flag=True, default=None, help="Replace an existing dataset.")
@click.option("--ring-slots", type=int, help="Number of frames that the ring holds.  [default: by memory and shards]")
@click.option("--scale", help="Step of each dimension in its unit, such as y=0.108,x=0.108,t=0.05.")
@click.option("--channels", help="Names of the channels, such as DAPI,GFP.")
@click.option("--positions", help="Names of the positions, such as left,right.")
@click.option(
    "--position-folders", help="How the folders of positions are named: numbers or names.  [default: numbers]"
)
@click.option("--plate", help="Rows and columns of the plate, such as 8x12; needs --wells.")
@click.option(
    "--wells",
    help="The wells of the positions, such as A1,A2,B1. More positions than wells are several fields in each.",
)
@click.option(
    "--storage-order", help="Order of the axes on disk: ome, acquisition, or names such as t,c,z.  [default: ome]"
)
@click.option(
    "--source-dim", "source_dimension", help="The dimension along which several cameras feed the stream, such as c."
)
@click.option(
    "--sources",
    "own_sources",
    help="Those of its elements whose cameras are here, such as GFP; other daemons have the rest.  [default: all]",
)
@click.option(
    "--levels", type=int, help="Number of resolutions to write, each half the size of the one before.  [default: 1]"
)
@click.option(
    "--color", help="Colour frames (rgb, rgba), or the raw frames of a sensor (bayer-rggb, -grbg, -gbrg, -bggr)."
)
@click.option(
    "--downsample", help="How smaller resolutions are made: mean, min, max, or nearest for labels.  [default: mean]"
)
@click.option(
    "--settings-file", "-f", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON file of settings."
)
@click.option("--wait", is_flag=True, help="Wait until the stream is done, showing progress.")
@json_option
@socket_option
def command(
    name: str | None,
    dims: str | None,
    scale: str | None,
    channels: str | None,
    positions: str | None,
    plate: str | None,
    wells: str | None,
    settings_file: Path | None,
    wait: bool,
    as_json: bool,
    socket: Path | None,
    **settings: Any,
) -> None:
    """Open a stream. Its dataset and its ring exist when this returns.

    The settings file is a JSON object with the fields of a stream (name, dimensions or dims, dtype, …), ome-writers'
    AcquisitionSettings, or useq's MDASequence, which needs --dims for the frame. Options given here override it.
    """
    daemon = client(socket)
    scales = _scales(scale)
    fields = _fields(name, dims, settings_file, settings, scales)
    _describe(fields, scales, channels=channels, positions=positions)
    if plate or wells:
        _put_in_wells(fields, plate, wells)
    reply = daemon.start_stream(fields)
    status = read_status(StreamStatus, reply)
    if as_json and not wait:
        print(json.dumps(reply, indent=2))
    elif not as_json:
        _print_started(status, socket)
    if (warning := status.disk.warning) is not None and not as_json:
        text = with_options(f"{warning.message}. {warning.remedy}", {})
        print(f"omewd: warning: {text}", file=sys.stderr)
    if wait:
        from omewd.cli.show.progress import follow

        final = follow(daemon, status.name, quiet=as_json)
        _check_complete(final)
        if as_json:
            print(json.dumps(final.to_json(), indent=2))


def _fields(
    name: str | None,
    dims: str | None,
    settings_file: Path | None,
    settings: dict[str, Any],
    scales: dict[str, float],
) -> dict[str, Any]:
    """The stream's fields, from the file and the command line, which takes precedence."""
    from omewd.integrations.settings import fields_of

    pixel = scales.get("x") if scales.get("x") == scales.get("y") else None
    fields = fields_of(read_settings(settings_file), dims, pixel_size_um=pixel)
    fields.update({k: v for k, v in {"name": name, **settings}.items() if v is not None})
    if "dimensions" not in fields:
        raise OmewdError("usage", "--dims is missing", "Give it as in --dims t:100,y:512,x:512")
    return fields


def _scales(text: str | None) -> dict[str, float]:
    """The steps in ``--scale``, by dimension."""
    scales = {}
    for part in filter(None, (text or "").split(",")):
        dimension, _, step = part.strip().partition("=")
        try:
            scales[dimension] = float(step)
        except ValueError as error:
            raise OmewdError(
                "usage", f"--scale: {part.strip()!r} is not a step", "Write it as in y=0.108,x=0.108,t=5"
            ) from error
    return scales


def _describe(fields: dict[str, Any], scales: dict[str, float], *, channels: str | None, positions: str | None) -> None:
    """Give the dimensions their steps, channels and positions."""
    by_name = {str(d.get("name")): d for d in fields["dimensions"] if isinstance(d, dict)}
    for dimension, step in scales.items():
        if dimension not in by_name:
            raise OmewdError("usage", f"--scale: there is no dimension {dimension!r}")
        by_name[dimension]["scale"] = step
    for option, kind, names in (("--channels", "channel", channels), ("--positions", "position", positions)):
        if names:
            _of_type(fields, kind, option)["coords"] = [name.strip() for name in names.split(",")]


def _of_type(fields: dict[str, Any], kind: str, option: str) -> dict[str, Any]:
    """The dimension of a type; raises OmewdError ``usage`` if there is none."""
    usual = kind[0]
    dims = [d for d in fields["dimensions"] if isinstance(d, dict)]
    found = next((d for d in dims if d.get("type") == kind or d.get("name") == usual), None)
    if found is None:
        raise OmewdError("usage", f"{option}: there is no {kind} dimension", f"Add one named {usual} to --dims")
    return found


_WELL = re.compile(r"([A-Z]+)([0-9]+)")


def _put_in_wells(fields: dict[str, Any], plate: str | None, wells: str | None) -> None:
    """Put the positions into wells as fields: the first ones into the first well, and so on."""
    from omewd.model.spec.dimensions import Plate

    size = re.fullmatch(r"([1-9][0-9]{0,2})x([1-9][0-9]{0,2})", plate or "")
    if size is None or not wells:
        raise OmewdError(
            "usage",
            "a plate needs both --plate ROWSxCOLUMNS and --wells",
            "Give them as in --plate 8x12 --wells A1,A2",
        )
    found = [_WELL.fullmatch(well.strip().upper()) for well in wells.split(",")]
    if None in found:
        bad = wells.split(",")[found.index(None)]
        raise OmewdError("usage", f"--wells: {bad!r} is not a well", "Write the row's letter and the column, as in B3")
    fields["plate"] = Plate.of_size(int(size[1]), int(size[2])).model_dump(mode="json")
    dim = _of_type(fields, "position", "--wells")
    if dim.get("coords"):
        raise OmewdError(
            "usage", "the positions have names already, and --wells names them, too", "Leave one of them out"
        )
    count = dim.get("count")
    each, rest = divmod(count if isinstance(count, int) else 0, len(found))
    if rest or not each:
        raise OmewdError(
            "usage",
            f"{dim.get('count')} positions can't be shared equally among {len(found)} wells",
            f"Make the count of {dim.get('name')} a multiple of {len(found)}",
        )
    dim["coords"] = [
        {"name": f"{match[0]}-{number}", "plate_row": match[1], "plate_column": match[2].lstrip("0")}
        for match in found
        if match is not None
        for number in range(each)
    ]


def _print_started(status: StreamStatus, socket: Path | None) -> None:
    ring, name = status.ring, status.name
    where = f", socket={str(socket)!r}" if socket else ""
    print(f"stream  {name}")
    print(f"path    {status.path}")
    sources = status.sources
    of_each = f" in {len(sources)} rings" if len(sources) > 1 else ""
    print(f"ring    {ring.slots} slots{of_each}, {ring.bytes / 2**20:.1f} MiB; backend {status.backend}")
    if status.backend_reason:
        print(f"        not the first choice: {status.backend_reason}")
    if status.disk.needs_bytes is not None:
        free = f"; {volume(status.disk.free_bytes)} are free" if status.disk.free_bytes is not None else ""
        before = " before compression" if status.compression else ""
        print(f"takes   up to {volume(status.disk.needs_bytes)}{before}{free}")
    for source in sources:
        which = f", source={source.name!r}" if source.name else ""
        print(f"connect python: producer = omewd.connect({name!r}{which}{where})")


def _check_complete(status: StreamStatus) -> None:
    frames = status.frames
    declared = frames.declared
    if declared is not None and frames.received < declared and "the producer was lost" in status.ended_by:
        raise OmewdError(
            "incomplete",
            f"stream {status.name!r} has {frames.received} of {declared} frames: {status.ended_by}",
            "All frames that were handed over are in the dataset",
        )
