"""``omewd start-stream``: open a stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from omewd.cli.options import client, json_option, socket_option
from omewd.errors import OmewdError


@click.command("start-stream")
@click.argument("name", required=False)
@click.option(
    "--dims",
    "-d",
    help="name:count[:chunk[:shard]],… slowest first, the last two the frame's y, x; first count may be inf.",
)
@click.option("--dtype", help="Pixel type.  [default: uint16]")
@click.option("--output", help="Dataset, relative to the daemon's data root.  [default: NAME.ome.zarr]")
@click.option(
    "--backend", "-b", help="auto, direct, tensorstore, acquire-zarr, zarrs-python or zarr-python.  [default: auto]"
)
@click.option("--compression", "-c", help="none, blosc-lz4, blosc-zstd or zstd.  [default: none]")
@click.option("--backpressure", help="What a full ring does: block, drop or fail.  [default: block]")
@click.option("--durability", help="fsync, or none: faster, and a crash of the machine loses frames.  [default: fsync]")
@click.option(
    "--on-producer-loss",
    help="When the camera's program dies: finalize the dataset, or wait for another one.  [default: finalize]",
)
@click.option("--on-disk-full", help="wait until there is space again, or fail.  [default: wait]")
@click.option("--overwrite", is_flag=True, default=None, help="Replace a dataset that is there.")
@click.option("--ring-slots", type=int, help="Frames that the ring holds.  [default: by memory and shards]")
@click.option("--scale", help="Step of dimensions in their units, such as y=0.108,x=0.108,t=0.05.")
@click.option("--channels", help="Names of the channels, such as DAPI,GFP.")
@click.option("--settings-file", "-f", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON.")
@click.option("--wait", is_flag=True, help="Stay, with live progress, until the stream is done.")
@json_option
@socket_option
def command(
    name: str | None,
    dims: str | None,
    scale: str | None,
    channels: str | None,
    settings_file: Path | None,
    wait: bool,
    as_json: bool,
    socket: Path | None,
    **settings: Any,
) -> None:
    """Open a stream: its dataset and its ring are there when this returns.

    The settings file is a JSON object with the fields of a stream (name, dimensions or dims, dtype, …);
    options given here count more.
    """
    daemon = client(socket)
    status = daemon.start_stream(_fields(name, dims, scale, channels, settings_file, settings))
    if as_json and not wait:
        print(json.dumps(status, indent=2))
    elif not as_json:
        _print_started(status, socket)
    if wait:
        from omewd.cli.progress import follow

        final = follow(daemon, status["name"], quiet=as_json)
        if as_json:
            print(json.dumps(final, indent=2))
        _check_complete(final)


def _fields(
    name: str | None,
    dims: str | None,
    scale: str | None,
    channels: str | None,
    settings_file: Path | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The stream's fields: the file's, overridden by what the command line says."""
    from omewd.model.dimensions import parse_dims

    fields: dict[str, Any] = {}
    if settings_file is not None:
        try:
            fields = json.loads(settings_file.read_text())
        except ValueError as error:
            raise OmewdError("usage", f"{settings_file} is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise OmewdError("usage", f"{settings_file} holds no JSON object")
    dims = dims or fields.pop("dims", None)
    fields.update({k: v for k, v in {"name": name, **settings}.items() if v is not None})
    if dims:
        fields["dimensions"] = [d.model_dump(mode="json") for d in parse_dims(dims)]
    if "dimensions" not in fields:
        raise OmewdError("usage", "--dims is missing", "Such as --dims t:100,y:512,x:512")
    by_name = {d.get("name"): d for d in fields["dimensions"] if isinstance(d, dict)}
    for part in filter(None, (scale or "").split(",")):
        dimension, _, step = part.partition("=")
        if dimension not in by_name:
            raise OmewdError("usage", f"--scale: there is no dimension {dimension!r}")
        by_name[dimension]["scale"] = step
    if channels:
        channel = next((d for d in by_name.values() if d.get("type") == "channel" or d.get("name") == "c"), None)
        if channel is None:
            raise OmewdError("usage", "--channels: there is no channel dimension", "Name one c in --dims")
        channel["coords"] = channels.split(",")
    return fields


def _print_started(status: dict[str, Any], socket: Path | None) -> None:
    ring, name = status["ring"], status["name"]
    where = f", socket={str(socket)!r}" if socket else ""
    print(f"stream  {name}")
    print(f"path    {status['path']}")
    print(f"ring    {ring['slots']} slots, {ring['bytes'] / 2**20:.1f} MiB; backend {status['backend']}")
    if status["backend_reason"]:
        print(f"        not the first choice: {status['backend_reason']}")
    print(f"connect python: producer = omewd.connect({name!r}{where})")


def _check_complete(status: dict[str, Any]) -> None:
    frames = status["frames"]
    declared = frames["declared"]
    if declared is not None and frames["received"] < declared and status["ended_by"] == "the producer was lost":
        raise OmewdError(
            "incomplete",
            f"stream {status['name']!r} has {frames['received']} of {declared} frames: {status['ended_by']}",
            "What was handed over is in the dataset",
        )
