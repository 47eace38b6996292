"""Stores a stream's write units at all resolutions, with one encoder for each resolution and one sink."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from omewd.model.plan.levels import levels_of
from omewd.model.plan.shards import Flags, ShardLayout
from omewd.model.spec.backend import Backend
from omewd.model.spec.spec import StreamSpec
from omewd.store.encoders import ENCODERS
from omewd.store.encoders.base import Block, Encoder, Patchwork, Pixels, UnitArray
from omewd.store.pyramid import halve
from omewd.store.scattered import gathered
from omewd.store.sinks.base import Fence, Sink
from omewd.store.sinks.keys import KeySink
from omewd.store.sinks.publish import Publisher
from omewd.store.sinks.shards import ShardSink
from omewd.store.tools import Tools


@dataclass(frozen=True)
class Unit:
    """A write unit with pixels. ``present``: which of its frames are present (storage order), None for all."""

    number: int
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

    def put(self, source: int, units: Sequence[Unit], pixels: Sequence[Pixels]) -> Fence:
        """Put units at all resolutions; returns the fence after them, which the caller commits.

        ``pixels``: of each unit, (…, Y, X) in storage order, at the full resolution. They must not change until the
        fence is over. While other threads write one resolution, this thread makes the next one. After an error, the
        units must be put again.
        """
        layouts, encoders, sink = self._layouts[source], self.open_encoders(), self.sink
        try:
            for level, blocks in enumerate(self._at_all_resolutions(units, pixels)):
                encoder = encoders[level]
                for unit, block in zip(units, blocks, strict=True):
                    cells = encoder.encode(cast(Block, block))  # gathered, unless it takes scattered frames
                    if not isinstance(cells, Patchwork):  # they are made now
                        cells = self._tools.clock.timed("encode", cells)
                    sink.put(layouts[level], unit.number, cells)
        except BaseException:
            sink.give_up()
            raise
        return sink.fence()

    def _at_all_resolutions(self, units: Sequence[Unit], pixels: Sequence[Pixels]) -> Iterator[Iterable[Pixels]]:
        """The pixels of units at each resolution in turn."""
        clock = self._tools.clock
        if len(self._levels) == 1:
            yield pixels if self._make.takes_scattered else self._one_by_one(pixels)
            return
        with clock.stage("read"):
            blocks = [gathered(block) for block in pixels]
        yield blocks
        present = [unit.present for unit in units]
        for level in self._levels[1:]:
            with clock.stage("halve"):
                halved = [
                    halve(block, level.halved, self._spec.downsample, there)
                    for block, there in zip(blocks, present, strict=True)
                ]
            blocks, present = [block for block, _ in halved], [there for _, there in halved]
            yield blocks

    def _one_by_one(self, pixels: Iterable[Pixels]) -> Iterator[Block]:
        """Gather units one by one, when each is needed, so that only one is held at a time."""
        for block in pixels:
            with self._tools.clock.stage("read"):
                whole = gathered(block)
            yield whole

    def seal(self, source: int, below: int, since: int = 0) -> None:
        """Seal a source's shards that only hold frame indexes below ``below``, except those sealed at ``since``."""
        for layout in self._layouts[source]:
            self.sink.seal(layout, below, since)

    def close(self) -> None:
        self.sink.close()
        for encoder in self._encoders:
            encoder.close()
