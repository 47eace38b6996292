"""``/metrics``: the status of all daemons for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from omewd.model.waits import OCTAVES, StageCounts
from omewd.protocol.status import CopyStatus, SourceStatus, StreamStatus
from omewd.web.daemons import Daemon, Daemons

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_STATES = ("STARTING", "ACTIVE", "DRAINING", "FINALIZING", "DONE", "FAILED")
# Name, whether it only grows, help, and its value.
_OF_SOURCES: list[tuple[str, bool, str, Callable[[SourceStatus], float]]] = [
    ("omewd_frames_received", True, "Frames handed over by the camera, gaps included", lambda s: s.frames.received),
    ("omewd_frames_written", True, "Frames written to the dataset", lambda s: s.frames.written),
    ("omewd_frames_lost", True, "Frames of a failed stream that are not in the dataset", lambda s: s.frames.lost),
    ("omewd_frames_in_flight", False, "Frames received and not written yet", lambda s: s.frames.in_flight),
    ("omewd_frames_copied", True, "Frame indexes below the copied watermark: in the store", lambda s: s.frames.copied),
    ("omewd_ring_slots", False, "Slots of the ring", lambda s: s.ring.slots),
    ("omewd_ring_used_slots", False, "Slots with frames that are not stored yet", lambda s: s.ring.used),
]
# Of the ended streams, so many have histograms, which are 240 series for a stream.
_ENDED_WITH_STAGES = 8
_OF_STREAMS: list[tuple[str, bool, str, Callable[[StreamStatus], float]]] = [
    ("omewd_written_bytes", True, "Pixels written, before compression", lambda s: s.throughput.written_bytes),
    ("omewd_stored_bytes", True, "Pixels written, as they are on disk", lambda s: s.throughput.stored_bytes),
    ("omewd_job_retries", True, "Jobs that had to be run again", lambda s: s.retries),
    ("omewd_stream_paused", False, "1 while no frames are written, as on a full disk", lambda s: s.paused is not None),
    (
        "omewd_copy_failing",
        False,
        "1 while the copy waits after an error, or has failed",
        lambda s: _is_failing(s.copy),
    ),
]


def _is_failing(copy: CopyStatus | None) -> bool:
    return copy is not None and copy.error is not None


class _Statuses(Collector):
    def __init__(self, daemons: Daemons) -> None:
        self._daemons = daemons

    def collect(self) -> Iterator[Metric]:
        yield from self._of_daemons()
        streams = [
            (daemon, stream)
            for daemon in self._daemons.all
            if daemon.status is not None
            for stream in _newest(daemon.status.streams)
        ]
        for name, grows, text, value in _OF_STREAMS:
            family = _family(name, text, ["daemon", "stream"], grows=grows)
            for daemon, stream in streams:
                family.add_metric(_labels(daemon, stream), value(stream))
            yield family
        for name, grows, text, of_source in _OF_SOURCES:
            family = _family(name, text, ["daemon", "stream", "source"], grows=grows)
            for daemon, stream in streams:
                for source in stream.sources:
                    family.add_metric([*_labels(daemon, stream), _name(source)], of_source(source))
            yield family
        yield from _details(streams)

    def _of_daemons(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("omewd_up", "Whether the daemon answers", labels=["daemon"])
        deaths = CounterMetricFamily(
            "omewd_writer_deaths", "Writer processes that have gone since omewd web was started", labels=["daemon"]
        )
        ready = GaugeMetricFamily("omewd_writers_ready", "Writer processes that are ready", labels=["daemon"])
        budget = GaugeMetricFamily("omewd_memory_budget_bytes", "The daemon's memory budget", labels=["daemon"])
        rings = GaugeMetricFamily("omewd_memory_ring_bytes", "What rings take of the budget", labels=["daemon"])
        for daemon in self._daemons.all:
            label = [str(daemon.number)]
            up.add_metric(label, daemon.status is not None)
            deaths.add_metric(label, daemon.history.writer_deaths)
            if daemon.status is not None:
                ready.add_metric(label, sum(writer.ready for writer in daemon.status.writers))
                budget.add_metric(label, daemon.status.memory.budget_bytes)
                rings.add_metric(label, daemon.status.memory.ring_bytes)
        yield from (up, deaths, ready, budget, rings)


def _details(streams: list[tuple[Daemon, StreamStatus]]) -> Iterator[Metric]:
    """What has more labels, or is not known of all streams."""
    of_stream = ["daemon", "stream"]
    gaps = CounterMetricFamily(
        "omewd_gap_frames", "Frame indexes without a frame", labels=[*of_stream, "source", "kind"]
    )
    silent = GaugeMetricFamily("omewd_silent_seconds", "Time since the newest frame", labels=[*of_stream, "source"])
    state = GaugeMetricFamily("omewd_stream_state", "1 for the state of the stream", labels=[*of_stream, "state"])
    lag = GaugeMetricFamily(
        "omewd_durable_lag_frames",
        "Frame indexes received beyond those that are safely on disk",
        labels=[*of_stream, "source"],
    )
    free = GaugeMetricFamily("omewd_disk_free_bytes", "Free space for the dataset", labels=of_stream)
    left = GaugeMetricFamily("omewd_disk_left_seconds", "Time until the disk is full", labels=of_stream)
    waits = HistogramMetricFamily(
        "omewd_stage_seconds", "How long frames waited in each stage", labels=[*of_stream, "stage"]
    )
    ended = 0
    for daemon, stream in streams:
        labels = _labels(daemon, stream)
        for name in _STATES:
            state.add_metric([*labels, name], stream.state == name)
        if stream.disk.free_bytes is not None:
            free.add_metric(labels, stream.disk.free_bytes)
        if stream.disk.lasts_s is not None:
            left.add_metric(labels, stream.disk.lasts_s)
        ended += stream.settled
        for stage, counted in stream.wait_counts.items() if ended <= _ENDED_WITH_STAGES else ():
            waits.add_metric([*labels, stage], _buckets(counted), counted.sum_ns / 1e9)
        for source in stream.sources:
            of_source = [*labels, _name(source)]
            gaps.add_metric([*of_source, "skipped"], source.frames.skipped)
            gaps.add_metric([*of_source, "dropped"], source.frames.dropped)
            if stream.durability == "fsync":  # else nothing is known to be safe
                lag.add_metric(of_source, max(source.frames.received - source.frames.durable, 0))
            if source.silent_s is not None:
                silent.add_metric(of_source, source.silent_s)
    yield from (gaps, silent, lag, state, free, left, waits)


def _buckets(counted: StageCounts) -> list[tuple[str, float]]:
    """The upper limit of each bucket in seconds, and how many frames are below it."""
    limits = [f"{2**octave / 1e9:.6g}" for octave in OCTAVES] + ["+Inf"]
    return list(zip(limits, accumulate(counted.counts), strict=False))


def _family(name: str, text: str, labels: list[str], *, grows: bool) -> CounterMetricFamily | GaugeMetricFamily:
    return (CounterMetricFamily if grows else GaugeMetricFamily)(name, text, labels=labels)


def _newest(streams: tuple[StreamStatus, ...]) -> Iterator[StreamStatus]:
    """Each name once: a series may not be there twice. The open streams come first, then the last ended ones."""
    seen: set[str] = set()
    for stream in streams:
        if stream.name not in seen:
            seen.add(stream.name)
            yield stream


def _labels(daemon: Daemon, stream: StreamStatus) -> list[str]:
    return [str(daemon.number), stream.name]


def _name(source: SourceStatus) -> str:
    return source.name or str(source.source)


def metrics(daemons: Daemons) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Statuses(daemons))
    return generate_latest(registry)
