"""What is wrong with a daemon and its streams, by its status. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omewd.model.record import Record
from omewd.protocol.status import CopyStatus, DaemonStatus, KeptRingStatus, SourceStatus, StreamStatus


@dataclass(frozen=True)
class Problem(Record):
    """One thing that somebody should look at. ``stream``: its name, "" for the daemon. ``code``: for programs."""

    stream: str = ""
    code: str = ""
    message: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Limits:
    """What still counts as healthy.

    ``silent_s``: how long a camera may be silent between two frames. ``disk_lasts_s``: how long the disk must last.
    """

    silent_s: float = 60.0
    disk_lasts_s: float = 600.0


def problems(status: DaemonStatus | StreamStatus, limits: Limits | None = None) -> list[Problem]:
    """Everything that is wrong; empty if all is well."""
    limits = limits or Limits()
    if isinstance(status, StreamStatus):
        return list(_of_stream(status, limits))
    found = list(_of_daemon(status))
    for stream in status.streams:
        found += _of_stream(stream, limits)
    told = {(stream.path, stream.copy.url) for stream in status.streams if stream.copy is not None}
    found += [problem for copy in status.copies if (copy.path, copy.url) not in told for problem in _of_copy(copy)]
    return found


def _of_daemon(status: DaemonStatus) -> Iterator[Problem]:
    if status.stopping:
        yield Problem("", "stopping", "the daemon is stopping, and takes no new streams", "Start it again afterwards")
    writers = [writer for writer in status.writers if not writer.aside]
    if not any(writer.ready for writer in writers):
        yield Problem("", "no_writers", f"none of the {len(writers)} writers is ready", "See the daemon's log")
    for kept in status.kept_rings:
        yield _kept(kept)


def _of_copy(copy: CopyStatus) -> Iterator[Problem]:
    if copy.error is not None:
        what = "" if copy.state == "failed" else f"the copy to {copy.url} waits, and is tried again: "
        yield Problem(copy.name, copy.error.code, f"{what}{copy.error.message}", copy.error.remedy)


def _kept(kept: KeptRingStatus) -> Problem:
    return Problem(
        kept.name,
        kept.code,
        f"its ring of {kept.bytes / 2**20:.1f} MiB is kept, because it could not be taken over: {kept.reason}",
        f"omewd resume-stream {kept.name} tries again, omewd stop-stream {kept.name} discards it with its frames",
    )


def _of_stream(stream: StreamStatus, limits: Limits) -> Iterator[Problem]:
    name = stream.name
    if stream.error is not None and not stream.acknowledged:
        what = "resume-stream writes the frames in its ring, " if stream.kept_in_ring else ""
        then = "discards them" if stream.kept_in_ring else "takes note of it"
        remedy = f"{stream.error.remedy.rstrip('.')}. " if stream.error.remedy else ""
        yield Problem(name, stream.error.code, stream.error.message, f"{remedy}omewd {what}stop-stream {name} {then}")
    if stream.copy is not None:
        yield from _of_copy(stream.copy)
    if stream.settled:
        return
    if stream.paused is not None:
        yield Problem(name, stream.paused.code, f"nothing is written: {stream.paused.message}", stream.paused.remedy)
    elif (why := _why_disk_fills(stream, limits)) is not None:
        free = (stream.disk.free_bytes or 0) / 1e9
        yield Problem(
            name, "disk_nearly_full", f"{why}: {free:.2f} GB are free", "Free space on the drive of the dataset"
        )
    if stream.frames.dropped:
        yield Problem(
            name,
            "frames_dropped",
            f"{stream.frames.dropped} of {stream.frames.received} frames were dropped, because the ring was full",
            "The disk is too slow for the camera, or was stalled: see where frames wait in omewd status",
        )
    for source in stream.sources:
        yield from _of_source(stream, source, limits)


def _why_disk_fills(stream: StreamStatus, limits: Limits) -> str | None:
    """Why the disk does not suffice; None if it does, as far as that is known."""
    disk = stream.disk
    if disk.free_bytes is None or (stream.copy is not None and stream.copy.frees_space):
        return None
    if disk.needs_bytes is not None and disk.needs_bytes > disk.free_bytes and stream.compression is None:
        return f"the rest of the acquisition takes {disk.needs_bytes / 1e9:.2f} GB"
    ends_before = disk.needs_bytes is not None and disk.needs_bytes <= disk.free_bytes
    if disk.lasts_s is not None and disk.lasts_s < limits.disk_lasts_s and not ends_before:
        return f"the disk is full in {disk.lasts_s / 60:.1f} minutes at this rate"
    return None


def _of_source(stream: StreamStatus, source: SourceStatus, limits: Limits) -> Iterator[Problem]:
    """A camera that had begun and sends nothing. One that has not begun may be waiting for its experiment."""
    if not source.open or source.silent_s is None:
        return
    camera = f"camera {source.name!r}" if source.name else "the camera"
    counted = f"{source.frames.received} frames" + (f" of {source.frames.declared}" if source.frames.declared else "")
    if source.producer is None:
        yield Problem(
            stream.name,
            "no_camera",
            f"{camera} is gone after {counted}, and the stream waits for another one",
            f"Start the camera's program again, or end the stream: omewd stop-stream {stream.name}",
        )
    elif source.silent_s > limits.silent_s or (source.is_silent and stream.expect_fps is not None):
        yield Problem(
            stream.name,
            "silent_camera",
            f"{camera} has sent nothing for {source.silent_s:.{int(source.silent_s < 10)}f} s, after {counted}",
            f"Look at the program of the camera (process {source.producer}); "
            "with longer pauses between frames, give --silent",
        )
