"""Builds the status of streams, as the types of :mod:`omewd.protocol.status`. Pure: it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omewd.daemon.datasets.drive import Demand
from omewd.daemon.datasets.watermarks import copied_below
from omewd.errors import StreamFailedError
from omewd.model.waits import summary
from omewd.protocol.status import (
    DiskStatus,
    ErrorStatus,
    FramesStatus,
    RingStatus,
    SourceStatus,
    StreamStatus,
    Throughput,
)

if TYPE_CHECKING:
    from omewd.daemon.streams.source import Source
    from omewd.daemon.streams.stream import Stream

_RUNS_IN_STATUS = 50


def source_status(source: Source, now_ns: int, copied: int = 0) -> SourceStatus:
    gaps, newest_ns = source.gaps, source.newest_frame_ns
    return SourceStatus(
        source=source.number,
        name=source.name,
        open=source.is_open,
        frames=FramesStatus(
            declared=source.plan.frames_total,
            received=source.received,
            written=source.written,
            gaps=sum(gaps.values()),
            skipped=gaps["skipped"],
            dropped=gaps["dropped"],
            lost=source.lost_frames,
            in_flight=source.in_flight,
            durable=source.safe_below if source.spec.durability == "fsync" else 0,
            copied=copied,
        ),
        lost=source.lost[:_RUNS_IN_STATUS],
        ring=RingStatus(
            slots=source.geometry.capacity,
            used=source.ring.map.published - source.ring.released if source.ring is not None else 0,
            bytes=source.geometry.total_bytes,
            window=source.plan.window_frames,
        ),
        producer=source.producer,
        ended_by=source.ended_by,
        silent_s=None if newest_ns is None else round(max(now_ns - newest_ns, 0) / 1e9, 3),
        is_silent=source.is_silent(now_ns),
    )


def brief_status(stream: Stream, source: Source) -> dict[str, Any]:
    """What the producer of a source needs of the stream's status, as JSON values. Its cost is that of one source."""
    return {
        "id": stream.id,
        "name": stream.name,
        "state": stream.state.value,
        "samples": stream.spec.samples,
        "source": source.number,
    }


def rates_of_drives(streams: Iterable[Stream], now_ns: int) -> dict[int | None, float]:
    """The bytes a second that streams write to each drive, by its number, at their average rates."""
    rates: dict[int | None, float] = {}
    for stream in streams:
        if not stream.settled:
            rate = _fills_per_s(stream, _throughput(stream, now_ns))
            rates[stream.drive.number] = rates.get(stream.drive.number, 0.0) + rate
    return rates


def stream_status(
    stream: Stream, now_ns: int, only: Source | None = None, rates: Mapping[int | None, float] | None = None
) -> StreamStatus:
    """The status of a stream. ``now_ns``: the monotonic time for its rates. ``only``: the one source to list.

    ``rates``: of the drives (see :func:`rates_of_drives`), if other streams are to count.
    """
    spec, drive = stream.spec, stream.drive
    sources = tuple(source_status(source, now_ns, copied_below(stream, source)) for source in stream.sources)
    throughput = _throughput(stream, now_ns)
    waits, wait_counts = stream.waits.totals()
    return StreamStatus(
        id=stream.id,
        name=stream.name,
        state=stream.state.value,
        settled=stream.settled,
        path=str(stream.dataset.path),
        dtype=spec.dtype,
        frame_shape=spec.frame_shape,
        frame_bytes=spec.frame_bytes,
        samples=spec.samples,
        images=spec.images,
        levels=spec.levels,
        backend=stream.backend,
        backend_reason=stream.backend_reason,
        compression=spec.compression,
        backpressure=spec.backpressure,
        expect_fps=spec.expect_fps,
        durability=spec.durability,
        frames=_frames(sources),
        lost=tuple(run for source in sources for run in source.lost),
        kept_in_ring=stream.has_kept_frames,
        ring=_rings(sources),
        sources=sources if only is None else (sources[only.number],),
        throughput=throughput,
        paused=ErrorStatus.of(drive.paused) if drive.paused else None,
        disk=DiskStatus(
            drive.free_bytes,
            _lasts_s(drive.free_bytes, (rates or {}).get(drive.number) or _fills_per_s(stream, throughput)),
            drive.io,
            Demand.of(stream).most,
            ErrorStatus.of(drive.warning) if drive.warning else None,
        ),
        waits=waits,
        recent_waits=summary(stream.waits.recent(now_ns)),
        wait_counts=wait_counts,
        retries=stream.retries,
        producer=next((source.producer for source in sources if source.producer), None),
        ended_by=stream.ended_by,
        error=_why(stream.failure) if stream.failure else None,
        acknowledged=stream.acknowledged,
        copy=stream.dataset.copy.status() if stream.dataset.copy is not None else None,
    )


def _why(failure: StreamFailedError) -> ErrorStatus:
    return ErrorStatus(failure.cause, failure.message, failure.remedy)


def _frames(sources: Sequence[SourceStatus]) -> FramesStatus:
    of_each = [source.frames for source in sources]
    declared = [frames.declared for frames in of_each if frames.declared is not None]
    return FramesStatus(
        declared=sum(declared) if len(declared) == len(of_each) else None,
        received=sum(frames.received for frames in of_each),
        written=sum(frames.written for frames in of_each),
        gaps=sum(frames.gaps for frames in of_each),
        skipped=sum(frames.skipped for frames in of_each),
        dropped=sum(frames.dropped for frames in of_each),
        lost=sum(frames.lost for frames in of_each),
        in_flight=sum(frames.in_flight for frames in of_each),
        durable=sum(frames.durable for frames in of_each),
        copied=sum(frames.copied for frames in of_each),
    )


def _rings(sources: Sequence[SourceStatus]) -> RingStatus:
    return RingStatus(
        slots=sum(source.ring.slots for source in sources),
        used=sum(source.ring.used for source in sources),
        bytes=sum(source.ring.bytes for source in sources),
        window=sum(source.ring.window for source in sources),
    )


def _throughput(stream: Stream, now_ns: int) -> Throughput:
    end_ns = stream.ended_ns or now_ns
    first_ns = min((s.first_frame_ns for s in stream.sources if s.first_frame_ns is not None), default=end_ns)
    seconds = (end_ns - first_ns) / 1e9
    written_bytes = stream.written * stream.spec.frame_bytes
    return Throughput(
        seconds=round(seconds, 3),
        frames_per_s=round(stream.written / seconds, 1) if seconds > 0 else 0.0,
        bytes_per_s=round(written_bytes / seconds) if seconds > 0 else 0,
        written_bytes=written_bytes,
        stored_bytes=sum(source.stored_bytes for source in stream.sources),
    )


def _fills_per_s(stream: Stream, throughput: Throughput) -> float:
    """The bytes a second by which a stream fills its drive; 0 if files go again once they are copied."""
    copy = stream.dataset.copy
    if throughput.seconds <= 0 or (copy is not None and copy.status().frees_space):
        return 0.0
    return throughput.stored_bytes / throughput.seconds


def _lasts_s(free_bytes: int | None, bytes_per_s: float) -> float | None:
    """How long a drive lasts."""
    return round(free_bytes / bytes_per_s, 1) if free_bytes is not None and bytes_per_s > 0 else None
