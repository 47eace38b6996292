"""Streams with rings in anonymous memory, and a record of what became of each frame index."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from omewd.daemon.datasets.dataset import Dataset
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.transitions import State
from omewd.model.plan.plan import Plan
from omewd.model.spec.dimensions import Dimension, parse_dims
from omewd.model.spec.spec import StreamSpec
from omewd.protocol.jobs.frames import WriteUnits
from omewd.ring.layout import (
    GAP_DROPPED,
    GAP_SKIPPED,
    Geometry,
)
from tests.unit.rings import Ends, open_ring

KINDS = {"skipped": GAP_SKIPPED, "dropped": GAP_DROPPED}


def dataset_at(path: str, epoch: int = 7) -> Dataset:
    """A dataset of the stream whose ring has that epoch."""
    return Dataset("s", Path(path), Path(), epoch)


class Camera:
    """A source of a stream with its ring, and a record of what became of each frame index."""

    def __init__(self, stream: Stream, ends: Ends, number: int = 0) -> None:
        self.stream = stream
        self.source = stream.sources[number]
        self.ends = ends
        self.fates: list[str] = []
        self.out: list[WriteUnits] = []
        self.done_units: set[int] = set()
        self.writers = 10**6  # so many share what is ready that a job is one unit
        self.durable_before = 0

    @property
    def room(self) -> int:
        total = self.source.plan.frames_total
        return 10**9 if total is None else total - len(self.fates)

    def publish(self, count: int = 1) -> None:
        slots = self.source.geometry.capacity - (self.ends.producer.published - self.ends.daemon.released)
        count = min(count, slots, self.room)
        self.ends.publish(count)
        self.fates += ["frame"] * count

    def gap(self, kind: str, count: int = 1) -> None:
        count = min(count, self.room)
        if count:
            self.ends.producer.add_gap(count, KINDS[kind])
            self.fates += [kind] * count

    def poll(self) -> None:
        self.stream.poll(5)

    def take(self) -> WriteUnits | None:
        if not self.stream.gives_jobs:
            return None
        job = self.source.take_job(self.writers)
        if job is not None:
            self.out.append(job)
        return job

    def frames_of(self, unit: int) -> list[int]:
        return [
            frame
            for frame, fate in enumerate(self.fates[: self.source.received])
            if fate == "frame" and self.source.plan.unit_of(frame) == unit
        ]

    def finish(self, place: int = 0) -> None:
        if self.out:
            job = self.out.pop(place % len(self.out))
            units = range(job.unit, job.unit + job.units)
            self.done_units.update(units)
            self.source.written_to_disk(job, sum(len(self.frames_of(unit)) for unit in units), stored_bytes=10)

    def work(self) -> None:
        """Write all that can be written."""
        while self.take() or self.out:
            self.finish()

    def check(self) -> None:
        source, received = self.source, self.source.received
        fates = self.fates[:received]
        lost = sum(count for _, count in source.lost)
        assert received == source.written + sum(source.gaps.values()) + source.in_flight + lost
        assert 0 <= source.in_flight <= received
        assert source.gaps == {kind: fates.count(kind) for kind in KINDS}
        durable = self.ends.producer.durable
        assert self.durable_before <= durable <= source.safe_below <= received
        self.durable_before = durable
        safe = range(source.safe_below)
        assert all(source.plan.unit_of(f) in self.done_units for f in safe if fates[f] == "frame")
        assert self.ends.daemon.released <= fates[: source.safe_below].count("frame")


@contextlib.contextmanager
def camera(plan: Plan, capacity: int = 200, dims: str = "", **fields: Any) -> Iterator[Camera]:
    spec = StreamSpec(name="s", dimensions=parse_dims(dims or "t:inf,y:2,x:3"), **fields)
    with open_ring(capacity, frames_total=plan.frames_total) as ends:
        stream = Stream.of(1, spec, "tensorstore", ends.segment.geometry, dataset_at("s.ome.zarr"), started_ns=0)
        [source] = stream.sources
        source.plan = plan
        source.ring = ends.daemon
        stream.state = State.ACTIVE
        yield Camera(stream, ends)


def camera_of(dims: str, **fields: Any) -> contextlib.AbstractContextManager[Camera]:
    capacity = fields.pop("capacity", 200)
    return camera(Plan.of(StreamSpec(name="s", dimensions=parse_dims(dims))), capacity, dims, **fields)


steps = st.lists(
    st.tuples(
        st.sampled_from(["publish", "publish", "skipped", "dropped", "poll", "take", "finish"]), st.integers(1, 9)
    ),
    max_size=60,
)


def act(it: Camera, step: str, number: int) -> None:
    match step:
        case "publish":
            it.publish(number)
        case "skipped" | "dropped":
            it.gap(step, number)
        case "poll":
            it.poll()
        case "take":
            it.take()
        case "finish":
            it.finish(number)


def check_loss(it: Camera) -> None:
    lost = [first + i for first, count in it.source.lost for i in range(count)]
    fates = it.fates[: it.source.received]
    expected = [f for f, fate in enumerate(fates) if fate == "frame" and it.source.plan.unit_of(f) not in it.done_units]
    assert lost == expected
    runs = it.source.lost
    assert all(sum(a) < b[0] for a, b in itertools.pairwise(runs)), "runs that touch are one"
    assert it.source.in_flight == 0
    assert it.source.written + len(lost) == fates.count("frame")


def spec_with_sources(dims: str, names: list[str], **fields: Any) -> StreamSpec:
    """Dimensions of which "v" has a source for each name."""
    dimensions = tuple(
        Dimension.model_validate({**d.model_dump(), "coords": names}) if d.name == "v" else d for d in parse_dims(dims)
    )
    return StreamSpec(name="s", dimensions=dimensions, source_dimension="v", **fields)


def stream_of(spec: StreamSpec, geometry: Geometry) -> Stream:
    return Stream.of(1, spec, "tensorstore", geometry, dataset_at("s.ome.zarr"), started_ns=0)


@contextlib.contextmanager
def cameras(dims: str, *names: str, capacity: int = 50, **fields: Any) -> Iterator[list[Camera]]:
    """The cameras of an active stream, one for each name."""
    spec = spec_with_sources(dims, list(names), **fields)
    with contextlib.ExitStack() as stack:
        total = Plan.of(spec).frames_total
        rings = [stack.enter_context(open_ring(capacity, frames_total=total)) for _ in names]
        stream = stream_of(spec, rings[0].segment.geometry)
        for source, ends in zip(stream.sources, rings, strict=True):
            source.ring = ends.daemon
        stream.state = State.ACTIVE
        yield [Camera(stream, ends, number) for number, ends in enumerate(rings)]
