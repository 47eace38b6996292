"""Stores a stream's write units at all resolutions, with one encoder for each resolution and one sink."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omewd.model.plan.levels import levels_of
from omewd.model.plan.shards import Flags, ShardLayout
from omewd.model.spec.backend import Backend
from omewd.model.spec.spec import StreamSpec
from omewd.store.encoders import ENCODERS
from omewd.store.encoders.base import Block, Encoder, Patchwork, Pixels, RunEncoder, UnitArray
from omewd.store.pyramid import halve
from omewd.store.scattered import ScatteredFrames
from omewd.store.sinks.base import Fence, Sink
from omewd.store.sinks.keys import KeySink
from omewd.store.sinks.publish import Publisher
from omewd.store.sinks.shards import ShardSink
from omewd.store.tools import Tools


@dataclass(frozen=True)
class Units:
    """Consecutive write units of equal shape with their pixels at the full resolution.

    ``pixels``: (unit, …, Y, X) in storage order, or the scattered frames of a single unit. ``present``: which frames
    are present, (unit, …); None for all.
    """

    numbers: range
    pixels: Pixels
    present: Flags | None = None


def sink_of(spec: StreamSpec, backend: Backend, publisher: Publisher, tools: Tools) -> Sink:
    """The sink for a backend's cells: single chunks of a sharded array go into shards, all other cells are keys."""
    sink = ShardSink if backend.fills_shards(sharded=spec.sharded) else KeySink
    return sink(publisher, tools)


class UnitStore:
    """Stores the write units of a stream, in one writer. ``name``: the unique name of its scratch folders."""

    def __init__(self, spec: StreamSpec, backend: Backend, publisher: Publisher, tools: Tools, name: str) -> None:
        self._spec, self._tools, self._name = spec, tools, name
        self._make = ENCODERS[backend.name]
        self._levels = levels_of(spec)
        self._arrays = [UnitArray.of(spec, level, backend.encodes) for level in self._levels]
        self._layouts = [[ShardLayout(spec, level, n) for level in self._levels] for n in range(spec.sources)]
        self._encoders: list[Encoder] = []
        self.sink = sink_of(spec, backend, publisher, tools)

    def open_encoders(self) -> list[Encoder]:
        """Create the encoders, one for each resolution, on the first call; raises whatever the library raises."""
        for number in range(len(self._encoders), len(self._arrays)):
            scratch = self._tools.scratch / f"{self._name}-{number}"
            self._encoders.append(self._make(self._arrays[number], threads=self._tools.cores, scratch=scratch))
        return self._encoders

    def put(self, source: int, runs: Sequence[Units]) -> Fence:
        """Put units at all resolutions; returns the fence after them, which the caller commits.

        Their pixels must not change until the fence is over. While other threads write one resolution, this thread
        makes the next one. After an error, the units must be put again.
        """
        layouts, encoders = self._layouts[source], self.open_encoders()
        try:
            for level, blocks in enumerate(self._at_all_resolutions(runs)):
                for units, block in zip(runs, blocks, strict=True):
                    self._put(layouts[level], encoders[level], units.numbers, block)
        except BaseException:
            self.sink.give_up()
            raise
        return self.sink.fence()

    def _put(self, layout: ShardLayout, encoder: Encoder, numbers: range, pixels: Pixels) -> None:
        clock = self._tools.clock
        if isinstance(encoder, RunEncoder):
            self.sink.put(layout, numbers.start, encoder.encode_run(pixels))
            return
        for number, block in zip(numbers, self._one_by_one(pixels), strict=True):
            cells = encoder.encode(block)
            self.sink.put(layout, number, cells if isinstance(cells, Patchwork) else clock.timed("encode", cells))

    def _one_by_one(self, pixels: Pixels) -> Iterator[Block]:
        """The pixels of each unit, gathered when they are needed, so that only one unit is held at a time."""
        if isinstance(pixels, ScatteredFrames):
            with self._tools.clock.stage("read"):
                yield pixels.gather()
        else:
            yield from pixels

    def _at_all_resolutions(self, runs: Sequence[Units]) -> Iterator[list[Pixels]]:
        """The pixels of units at each resolution in turn."""
        clock = self._tools.clock
        if len(self._levels) == 1:
            yield [units.pixels for units in runs]
            return
        with clock.stage("read"):
            blocks = [x.pixels.gather()[None] if isinstance(x.pixels, ScatteredFrames) else x.pixels for x in runs]
        yield [*blocks]
        present = [units.present for units in runs]
        for level in self._levels[1:]:
            axes = [axis + 1 for axis in level.halved]  # after the one of units
            with clock.stage("halve"):
                halved = [
                    halve(block, axes, self._spec.downsample, there)
                    for block, there in zip(blocks, present, strict=True)
                ]
            blocks, present = [block for block, _ in halved], [there for _, there in halved]
            yield [*blocks]

    def seal(self, source: int, below: int, since: int = 0) -> None:
        """Seal a source's shards that only hold frame indexes below ``below``, except those sealed at ``since``."""
        for layout in self._layouts[source]:
            self.sink.seal(layout, below, since)

    def close(self) -> None:
        self.sink.close()
        for encoder in self._encoders:
            encoder.close()
