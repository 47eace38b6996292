"""``omewd status``: what the daemon is doing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omewd.cli.options import client, json_option, socket_option
from omewd.cli.waits import duration, slowest_stage, waits_table

if TYPE_CHECKING:
    from rich.console import RenderableType

_PIPE_WIDTH = 200


@click.command("status")
@click.argument("name", required=False)
@json_option
@click.option("--watch", is_flag=True, help="Stay, and show it anew twice a second.")
@socket_option
def command(name: str | None, as_json: bool, watch: bool, socket: Path | None) -> None:
    """Show throughput, ring fill, frames and writers; of one stream with NAME."""
    daemon = client(socket)
    if as_json:
        while True:
            print(json.dumps(daemon.status(name), indent=None if watch else 2), flush=True)
            if not watch:
                return
            time.sleep(0.5)

    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)  # who reads a pipe wants all of it
    if not watch:
        console.print(_render(daemon.status(name)))
        return
    from rich.live import Live

    with Live(_render(daemon.status(name)), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(0.5)
            live.update(_render(daemon.status(name)), refresh=True)


def _render(status: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    streams = status.get("streams", [status])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("stream", "state", "received", "written", "gaps", "in flight", "durable", "ring", "throughput"):
        table.add_column(title, justify="left" if title in ("stream", "state") else "right", no_wrap=True)
    notes: list[RenderableType] = []
    for stream in streams:
        frames, ring, throughput = stream["frames"], stream["ring"], stream["throughput"]
        declared = f"/{frames['declared']}" if frames["declared"] is not None else ""
        table.add_row(
            stream["name"],
            stream["state"],
            f"{frames['received']}{declared}",
            str(frames["written"]),
            str(frames["gaps"]),
            str(frames["in_flight"]),
            str(frames["durable"]),
            f"{ring['used']}/{ring['slots']}",
            f"{throughput['bytes_per_s'] / 1e9:.2f} GB/s, {throughput['frames_per_s']:.0f} fps",
        )
        if len(stream["sources"]) > 1:
            for source in stream["sources"]:
                table.add_row(*_source_row(source))
        if stream["error"]:
            notes.append(f"{stream['name']}: {stream['error']['message']}")
            if stream["kept_in_ring"]:
                notes.append(
                    f"{stream['name']} has frames in its ring: omewd resume-stream, or stop-stream to let them go"
                )
        elif stream["paused"]:
            notes.append(f"{stream['name']} waits: {stream['paused']['message']}. {stream['paused']['remedy']}")
        elif "streams" not in status:
            through = f"{stream['backend']}, {stream['disk']['io']}" if stream["disk"]["io"] else stream["backend"]
            notes.append(f"{stream['path']} ({through}, {stream['ended_by'] or 'open'})")
            if stream["backend_reason"]:
                notes.append(f"not the first choice of backend: {stream['backend_reason']}")
        if stream["disk"]["lasts_s"] is not None and not stream["settled"]:
            disk = stream["disk"]
            notes.append(
                f"{stream['name']}: {disk['free_bytes'] / 1e9:.1f} GB free, {_time(disk['lasts_s'])} at this rate"
            )
        if "streams" in status:
            if (stage := slowest_stage(stream["recent_waits"])) and not stream["settled"]:
                wait = duration(stream["recent_waits"][stage]["p50_ns"])
                notes.append(f"{stream['name']}: frames wait longest in {stage}, {wait}")
        else:
            live = not stream["settled"] and stream["recent_waits"]
            if waits := live or stream["waits"]:
                notes += ["", f"where frames waited {'in the last seconds' if live else 'on their way'}:"]
                notes.append(waits_table(waits))
    parts: list[RenderableType] = []
    if "streams" in status:
        memory = status["memory"]
        used = memory["ring_bytes"] + memory["writer_bytes"]
        ready = sum(writer["ready"] for writer in status["writers"])
        parts.append(
            f"omewd {status['version']}, process {status['pid']}, up {status['uptime_s']:.0f} s; "
            f"{ready} of {len(status['writers'])} writers ready; "
            f"memory {used / 2**20:.0f} of {memory['budget_bytes'] / 2**20:.0f} MiB"
            + ("; stopping" if status["stopping"] else "")
        )
    parts.append(table if streams else "no streams")
    if status.get("streams_not_shown"):
        notes.append(f"and {status['streams_not_shown']} more; name one to see it")
    return Group(*parts, *notes)


def _source_row(source: dict[str, Any]) -> list[str]:
    """One source of a stream that has several, below its stream."""
    frames, ring = source["frames"], source["ring"]
    state = source["ended_by"] or (f"process {source['producer']}" if source["producer"] else "no producer")
    declared = f"/{frames['declared']}" if frames["declared"] is not None else ""
    counts = (str(frames[key]) for key in ("written", "gaps", "in_flight", "durable"))
    return [
        f"  {source['name']}",
        state,
        f"{frames['received']}{declared}",
        *counts,
        f"{ring['used']}/{ring['slots']}",
        "",
    ]


def _time(seconds: float) -> str:
    for limit, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * limit:
            return f"{seconds / limit:.1f} {unit}"
    return f"{seconds:.0f} seconds"
