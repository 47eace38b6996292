"""What a writer holds for one stream, and how it stores units of it at all resolutions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from omewd.dataset import dataset
from omewd.dataset.ledger import ledger
from omewd.errors import OmewdError
from omewd.model.plan.levels import Level, levels_of
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import ShardLayout, ShardPlace
from omewd.model.spec.outline import join
from omewd.model.spec.spec import DIRECT
from omewd.model.spec.stored import stored_spec
from omewd.protocol.jobs.job import StreamToOpen
from omewd.ring.segment import Segment
from omewd.store import encoders as backends
from omewd.store.encoders.base import Block, Piece, Pixels, Sink, UnitArray
from omewd.store.format.shard_table import STAGING
from omewd.store.pyramid import halve
from omewd.store.scattered import gathered
from omewd.store.sinks.batch import Batch
from omewd.store.sinks.publish import SMALL_FILE_BYTES, Folder, Publisher
from omewd.store.sinks.shards import ShardPool, Shards
from omewd.store.stopwatch import Stopwatch
from omewd.writer.ring_reader import RingReader, UnitFrames

# Each takes two descriptors; a service may have 16,384, some have 1,024.
_SHARDS_AT_ONCE = 192


@dataclass
class Tools:
    """What a writer works with, for all its streams. ``cores``: how many it may use at once."""

    cores: int
    scratch: Path
    files: ThreadPoolExecutor
    shards: ShardPool
    clock: Stopwatch = field(default_factory=Stopwatch)


@dataclass
class Resolution:
    """One resolution of a stream's images: where its chunks go.

    ``layouts`` and ``shards`` are by source; ``shards`` are empty where the write units are no chunks of shards.
    """

    level: Level
    array: UnitArray
    layouts: list[ShardLayout]
    shards: list[Shards]
    sink: Sink | None = None


class OpenStream:
    """The mapped rings, what makes the ledger's lines, the publisher, and each resolution's sink or shards."""

    def __init__(self, told: StreamToOpen, tools: Tools) -> None:
        self.number, self.epoch, self.backend, self.folder = told.stream, told.epoch, told.backend, Path(told.dataset)
        self.spec = spec = stored_spec(join(told.outline, told.details))
        self._tools = tools
        self.rings: dict[int, RingReader] = {}
        self.lines: dict[int, ledger.FrameLines] = {}
        self.publisher = Publisher(
            self.folder,
            self.folder / STAGING,
            durable=spec.durability == "fsync",
            pool=tools.files,
            clock=tools.clock,
            buffers=tools.shards.buffers,
        )
        in_shards = self.backend == DIRECT and spec.sharded
        self.resolutions = [
            Resolution(
                level,
                UnitArray.of(spec, level),
                [ShardLayout(spec, level, source) for source in range(spec.sources)],
                [
                    Shards(spec, self.publisher, tools.clock, tools.shards, level, source)
                    for source in range(spec.sources if in_shards else 0)
                ],
            )
            for level in levels_of(spec)
        ]
        self._lock: int | None = None

    def add_ring(self, source: int, segment: Segment) -> None:
        self.rings[source] = RingReader(segment, Plan.of(self.spec, self.backend, source))
        self.lines[source] = ledger.FrameLines.of(self.spec, source)

    def hold_dataset(self) -> None:
        """Lock the dataset against ``omewd repair`` while this writer has it, and see that it is open for writing.

        To be called before each job. Raises OmewdError ``dataset_replaced`` if another is in its place, or none.
        """
        if self._lock is not None and self._holds_what_is_there(self._lock):
            return
        dataset.require_own(self.folder, self.epoch)
        if self._lock is not None:
            raise dataset.replaced(f"a copy of the dataset of this stream has taken the place of {self.folder}")
        lock = ledger.hold(self.folder)
        try:
            dataset.reopen(self.spec, self.folder, self.epoch)
        except (OSError, OmewdError):
            os.close(lock)
            raise
        self._lock = lock

    def _holds_what_is_there(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.fstat(lock), os.stat(self.folder / ledger.FOLDER / ledger.FILE))  # noqa: PTH116
        except OSError:
            return False

    def open_sinks(self) -> None:
        """Have the backend open what it needs; raises whatever it does."""
        for resolution in self.resolutions:
            if not resolution.shards:
                self._sink(resolution)

    def _sink(self, resolution: Resolution) -> Sink:
        if resolution.sink is None:
            scratch = self._tools.scratch / f"{self.number}-{resolution.level.number}"
            backend = backends.BACKENDS[self.backend]
            resolution.sink = backend.open(resolution.array, threads=self._tools.cores, scratch=scratch)
        return resolution.sink

    # -- storing ----------------------------------------------------------------------------------

    def store(self, source: int, units: Sequence[UnitFrames]) -> int:
        """Store units, each with a frame at least, at all resolutions; returns the bytes that they take on disk.

        While threads write one resolution, this one makes the next.
        """
        tools, full = self._tools, self.resolutions[0]
        if full.shards:
            return sum(self._store_in_shards(source, some) for some in self._in_batches(source, units))
        lasting = self._sink(full).lasting
        several = len(units) * len(full.array.frame_keys) * len(self.resolutions) > 1
        small = several and full.array.key_bytes <= SMALL_FILE_BYTES
        pool = tools.files if small else tools.shards.threads if several and lasting else None
        folders = (
            folder
            for resolution, blocks in self._at_all_resolutions(source, units)
            for folder in self._encoded(resolution, source, blocks, at_once=small and not lasting)
        )
        return self.publisher.publish_folders(folders, pool)

    def _store_in_shards(self, source: int, units: Sequence[UnitFrames]) -> int:
        with Batch(self.publisher, self._tools.clock, self._tools.shards) as batch:
            for resolution, blocks in self._at_all_resolutions(source, units):
                batch.add(resolution.shards[source], blocks)
            return batch.finish()

    def _in_batches(self, source: int, units: Sequence[UnitFrames]) -> Iterator[Sequence[UnitFrames]]:
        """Units in as many batches as it takes for each to have few shards open at once."""
        shards: set[tuple[int, ShardPlace]] = set()
        start = 0
        for number, frames in enumerate(units):
            of_unit = {
                (resolution.level.number, place)
                for resolution in self.resolutions
                for place, _ in resolution.layouts[source].shards_of(frames.unit)
            }
            if number > start and len(shards | of_unit) > _SHARDS_AT_ONCE:
                yield units[start:number]
                start, shards = number, set()
            shards |= of_unit
        yield units[start:]

    def _at_all_resolutions(
        self, source: int, units: Sequence[UnitFrames]
    ) -> Iterator[tuple[Resolution, Iterable[tuple[int, Pixels]]]]:
        """The pixels of units, by their numbers, at each resolution in turn."""
        ring, clock = self.rings[source], self._tools.clock
        full, *smaller = self.resolutions
        numbers = [frames.unit for frames in units]
        if not smaller and not full.shards:  # what has to be gathered is so one unit at a time
            yield full, zip(numbers, self._one_by_one(ring, units), strict=True)
            return
        with clock.stage("read"):
            pixels = ring.blocks(units)
        if not smaller:
            yield full, zip(numbers, pixels, strict=True)
            return
        with clock.stage("read"):
            blocks = [gathered(block) for block in pixels]
        yield full, zip(numbers, blocks, strict=True)
        present = [frames.sequences >= 0 if frames.count < frames.sequences.size else None for frames in units]
        for resolution in smaller:
            with clock.stage("halve"):
                halved = [
                    halve(block, resolution.level.halved, self.spec.downsample, there)
                    for block, there in zip(blocks, present, strict=True)
                ]
            blocks, present = [block for block, _ in halved], [there for _, there in halved]
            yield resolution, zip(numbers, blocks, strict=True)

    def _one_by_one(self, ring: RingReader, units: Iterable[UnitFrames]) -> Iterator[Pixels]:
        for frames in units:
            with self._tools.clock.stage("read"):
                block = ring.block(frames)
                if self.backend != DIRECT:
                    block = gathered(block)
            yield block

    def _encoded(
        self, resolution: Resolution, source: int, blocks: Iterable[tuple[int, Pixels]], *, at_once: bool
    ) -> Iterator[Folder]:
        """The folder of each unit: all keys across the frame, at one place along the outer axes.

        ``at_once``: the bytes are taken out of the sink here, so that threads can still be writing them when the
        next unit is encoded; else they are valid until the next file is asked for.
        """
        sink, layout = self._sink(resolution), resolution.layouts[source]
        for unit, block in blocks:
            label = f"unit-{layout.level.number}-{layout.source}-{unit}"
            yield Folder(layout.folder(unit), label, self._keys(sink, block, at_once=at_once))

    def _keys(self, sink: Sink, block: Pixels, *, at_once: bool) -> Iterator[tuple[str, Iterable[Piece]]]:
        clock = self._tools.clock
        for key in clock.timed("encode", sink.encode(cast(Block, block))):  # gathered, but for the direct one
            pieces = clock.timed("encode", key.pieces)
            if at_once:
                pieces = iter([bytes(piece) for piece in pieces])
            yield f"{key.place[0]}/{key.place[1]}", pieces

    def seal(self, source: int, below: int) -> None:
        """Put the shards of a source in place that only have frame indexes below ``below``."""
        for resolution in self.resolutions:
            if resolution.shards:
                resolution.shards[source].seal(below)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        for resolution in self.resolutions:
            if resolution.sink is not None:
                resolution.sink.close()
        for ring in self.rings.values():
            ring.close()
