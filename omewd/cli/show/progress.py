"""Live progress of a stream, and its summary line."""

from __future__ import annotations

import time

from omewd.cli.show.recent_rates import RecentRates
from omewd.cli.show.units import byte_rate, frame_rate, volume
from omewd.client.client import Client
from omewd.errors import OmewdError
from omewd.protocol.status import StreamStatus, read_status

_POLL_S = 0.25


def follow(daemon: Client, name: str, *, quiet: bool) -> StreamStatus:
    """Show a stream's progress until it has ended; returns its last status, raises StreamFailedError."""
    if quiet:
        return read_status(StreamStatus, daemon.wait(name))
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    rates = RecentRates()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, rate="", total=None)
        ended = False  # only a wait tells that: it raises if the stream has failed, where a status would not
        while not ended:
            try:
                status = read_status(StreamStatus, daemon.wait(name, timeout=_POLL_S))
                ended = True
            except OmewdError as error:
                if error.code != "timeout":
                    raise
                status = daemon.stream_status(name)
            frames = status.frames
            done = frames.written + frames.gaps
            known = frames.declared if status.state == "ACTIVE" else frames.received
            recent = rates.note(status, time.monotonic())
            progress.update(
                task, completed=done, total=known, rate=rate(status, recent), description=f"{name} {status.state}"
            )
    print(summary(status))
    return status


def rate(status: StreamStatus, recent: tuple[float, float] | None = None) -> str:
    """The recent (frames, bytes) a second as text, or the average since the first frame."""
    average = status.throughput.frames_per_s, status.throughput.bytes_per_s
    frames_per_s, bytes_per_s = recent or average
    return f"{byte_rate(bytes_per_s)}, {frame_rate(frames_per_s)}"


def summary(status: StreamStatus) -> str:
    """The result of a stream in one line."""
    frames, throughput = status.frames, status.throughput
    text = f"{status.name}: {status.state}, {frames.written} frames written"
    if frames.gaps:
        text += f", {frames.gaps} gaps ({frames.dropped} dropped, {frames.skipped} skipped)"
    if frames.lost:
        text += f", {frames.lost} lost"
    stored, raw = throughput.stored_bytes, throughput.written_bytes
    text += f", {volume(raw)} in {throughput.seconds:.2f} s = {rate(status)}"
    if status.compression and stored:
        text += f", compressed {raw / stored:.2f}×"
    return f"{text}, {status.path} ({status.ended_by})"
