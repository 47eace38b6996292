"""The direct backend's shards: chunks out of the ring, through threads, into shards in progress."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from omewd.model.plan.levels import Level
from omewd.model.plan.memory import INDEXES_AT_ONCE_BYTES, PIECE_BYTES, PIECES_AT_ONCE
from omewd.model.plan.shards import ShardLayout, ShardPlace, Written
from omewd.model.spec.spec import StreamSpec
from omewd.process.faultpoints import point
from omewd.store.aligned import (
    ALIGNMENT,
    Buffers,
    lies_aligned,
    packed,
    size_of,
    write_all_at,
    write_at,
)
from omewd.store.encoders.base import Block, Piece, Pixels, UnitArray
from omewd.store.encoders.direct import DirectSink
from omewd.store.format.shard_index import ENTRY_BYTES, Entries
from omewd.store.format.shard_table import in_staging, name_of
from omewd.store.scattered import planes_of
from omewd.store.sinks.publish import Publisher
from omewd.store.sinks.shard_file import ShardFile
from omewd.store.stopwatch import Stopwatch

_SHARDS_REMEMBERED = 10_000
# One that is cut off has at least put the ones before in place.
_SEALED_AT_ONCE = 256

Result = TypeVar("Result")


@dataclass(frozen=True)
class _Chunk:
    """One chunk of a job: its number in its shard, and its pixels, shorter than the chunk at a ragged end."""

    number: int
    pixels: Pixels


@dataclass
class ShardsPart:
    """What a job has for one shard: the chunks, and once they are written, (number, entries) in runs."""

    place: ShardPlace
    file: ShardFile
    chunks: list[_Chunk] = field(default_factory=list)
    runs: list[tuple[int, Entries]] = field(default_factory=list)


class ShardPool:
    """What a writer writes all its shards with. ``cores``: how many may encode at once."""

    def __init__(self, cores: int = 1) -> None:
        self.threads = ThreadPoolExecutor(PIECES_AT_ONCE, thread_name_prefix="shards")
        self.cores = cores
        self.buffers = Buffers()

    def close(self) -> None:
        self.threads.shutdown()


class Shards:
    """Writes chunks of one source at one resolution, for a :class:`~omewd.store.sinks.batch.Batch`, and seals shards.

    ``pool``: threads to write with, each with a buffer of its own. Errors are OSError, or what a library raises.
    """

    def __init__(
        self,
        spec: StreamSpec,
        publisher: Publisher,
        clock: Stopwatch,
        pool: ShardPool,
        level: Level | None = None,
        source: int = 0,
    ) -> None:
        self.layout = ShardLayout(spec, level, source)
        array = UnitArray.of(spec, level)
        self._sink = DirectSink(array, pool.cores)
        # All chunks have the same size, whole blocks: a chunk's offset follows from its number.
        self._has_fixed_places = array.compression is None and self.layout.chunk_bytes % ALIGNMENT == 0
        self._publisher = publisher
        self._clock = clock
        self._pool, self._buffers = pool.threads, pool.buffers
        self._seen: set[ShardPlace] = set()

    def _file(self, place: ShardPlace) -> ShardFile:
        layout, count = self.layout, self.layout.chunks_per_shard
        path, final = self._publisher.staging / name_of(layout, place), self._publisher.root / layout.key(place)
        return ShardFile(path, final, count, count * layout.chunk_bytes, durable=self._publisher.durable)

    # -- chunks -----------------------------------------------------------------------------------

    def parts(self, blocks: Iterable[tuple[int, Pixels]]) -> list[ShardsPart]:
        """Units of chunks, (number, pixels as (…, Y, X) in storage order), by the shards that they are in."""
        parts: dict[ShardPlace, ShardsPart] = {}
        for unit, block in blocks:
            for place, first in self.layout.shards_of(unit):
                part = parts.get(place) or parts.setdefault(place, ShardsPart(place, self._file(place)))
                for number, pixels in self.layout.chunks_of(place):
                    part.chunks.append(_Chunk(first + number, block[(..., *pixels)]))
        return list(parts.values())

    def write(self, part: ShardsPart) -> Iterator[Future[None]]:
        """Write the chunks of a part, whose file is open, in threads."""
        for chunks in _runs(part.chunks, max(PIECE_BYTES // self.layout.chunk_bytes, 1)):
            if not self._has_fixed_places:
                yield self._pool.submit(self._write_anywhere, part, chunks)
            elif len(chunks) > 1 or self.layout.chunk_bytes <= PIECE_BYTES:
                yield self._pool.submit(self._write_in_place, part, chunks)
            else:
                yield from self._write_in_pieces(part, chunks[0])

    def sees_first(self, parts: Iterable[ShardsPart]) -> bool:
        """Whether any of these shards has not been seen before; see :meth:`has_seen`."""
        return not self._seen.issuperset(part.place for part in parts)

    def has_seen(self, parts: Iterable[ShardsPart]) -> None:
        """The names of these shards are on disk."""
        if len(self._seen) >= _SHARDS_REMEMBERED:
            self._seen.clear()
        self._seen.update(part.place for part in parts)

    def _write_in_place(self, part: ShardsPart, chunks: list[_Chunk]) -> None:
        """Write chunks with consecutive numbers to their fixed places."""
        size = self.layout.chunk_bytes
        self._write_arrays(part, chunks[0].number * size, [self._sink.array_of(chunk.pixels) for chunk in chunks])
        part.runs.append(_fixed_entries(chunks[0].number, len(chunks), size))

    def _write_in_pieces(self, part: ShardsPart, chunk: _Chunk) -> Iterator[Future[None]]:
        """Write a large chunk to its fixed place: several threads at once, if it can be cut into whole blocks."""
        offset, pixels = chunk.number * self.layout.chunk_bytes, chunk.pixels
        if isinstance(pixels, np.ndarray) and pixels.shape == self.layout.chunk_shape and lies_aligned(pixels):
            flat = pixels.reshape(-1).view(np.uint8)
            for start in range(0, flat.size, PIECE_BYTES):
                piece = flat[start : start + PIECE_BYTES]
                yield self._pool.submit(self._write_arrays, part, offset + start, [piece])
        else:
            yield self._pool.submit(self._write_planes, part, offset, pixels)
        part.runs.append(_fixed_entries(chunk.number, 1, self.layout.chunk_bytes))

    def _write_planes(self, part: ShardsPart, offset: int, pixels: Pixels) -> None:
        """Write a large chunk plane by plane, so that it is never in memory beside the ring."""
        planes = planes_of(pixels, self.layout.chunk_shape)
        plane_bytes = self.layout.chunk_bytes // math.prod(self.layout.chunk_shape[:-2])
        at_once = max(PIECE_BYTES // plane_bytes, 1) if plane_bytes % ALIGNMENT == 0 else 0
        if not at_once:
            self._write_pieces(part, offset, planes, self.layout.chunk_bytes)
            return
        while some := list(islice(planes, at_once)):
            self._write_arrays(part, offset, some)
            offset += len(some) * plane_bytes

    def _write_arrays(self, part: ShardsPart, offset: int, arrays: list[Block]) -> None:
        """Write arrays one after the other: straight from where they are, if the disk can take them from there."""
        size = sum(array.nbytes for array in arrays)
        if not all(lies_aligned(array) for array in arrays):
            self._write_pieces(part, offset, arrays, size)
            return
        with self._clock.stage("write"):
            part.file.reserve(offset, offset + size)
            write_all_at(part.file.descriptor, [array.data.cast("B") for array in arrays], offset)

    def _write_pieces(self, part: ShardsPart, offset: int, pieces: Iterable[Piece], size: int) -> None:
        """Write pieces one after the other through a buffer; ``size``: bytes of all."""
        with self._clock.stage("write"):
            part.file.reserve(offset, offset + size)
            for block, _ in self._clock.timed("encode", packed(pieces, self._buffers)):
                write_at(part.file.descriptor, block, offset)
                offset += len(block)

    def _write_anywhere(self, part: ShardsPart, chunks: list[_Chunk]) -> None:
        """Encode chunks, and write them where there is room."""
        with self._clock.stage("encode"):
            encoded = [self._sink.chunk(chunk.pixels) for chunk in chunks]
        if self._sink.array.compression is None:
            sizes = np.full(len(chunks), self.layout.chunk_bytes, np.uint64)
        else:
            sizes = np.array([sum(map(size_of, pieces)) for pieces in encoded], np.uint64)
        with self._clock.stage("write"):
            offset = part.file.grant(int(sizes.sum()))
        starts = np.uint64(offset) + np.cumsum(sizes, dtype=np.uint64) - sizes
        self._write_pieces(part, offset, chain.from_iterable(encoded), int(sizes.sum()))
        part.runs.append((chunks[0].number, np.stack([starts, sizes], axis=1)))

    # -- shards -----------------------------------------------------------------------------------

    def seal(self, below: int | None = None, written: Written | None = None) -> None:
        """Put shards that get no more frames in place: those that only have frame indexes below ``below``, or all.

        Nobody may be writing into them. With ``written``, chunks without a frame that is written are left out. Running
        it again, after it was cut off anywhere, does the rest.
        """
        layout, publisher = self.layout, self._publisher
        places = [
            place
            for place in in_staging(publisher.staging, layout)
            if below is None or layout.keys.last_frame(place.unit) < below
        ]

        def finish(place: ShardPlace) -> tuple[Path | None, ShardFile]:
            file = self._file(place)
            return file.finish(None if written is None else layout.with_frames(place, written)), file

        at_once = max(1, min(_SEALED_AT_ONCE, INDEXES_AT_ONCE_BYTES // (layout.chunks_per_shard * ENTRY_BYTES)))
        for some in (places[start : start + at_once] for start in range(0, len(places), at_once)):
            with self._clock.stage("write"):
                finished = results([self._pool.submit(finish, place) for place in some])
            point("writer: shards finished")
            publisher.put_in_place(
                [(path, file.final) for path, file in finished if path is not None],
                [file.final for path, file in finished if path is None and file.final.exists()],
            )
            point("writer: shards in place")
            for _, file in finished:
                file.forget()
            self._seen.difference_update(some)


def results(futures: list[Future[Result]]) -> list[Result]:
    """What tasks return, or the first error; none of them is at work any more either way."""
    wait(futures)
    try:
        return [future.result() for future in futures]
    finally:
        futures.clear()  # an error's traceback holds them, they hold the error, and it the frames of the ring


def _fixed_entries(number: int, count: int, size: int) -> tuple[int, Entries]:
    starts = np.arange(number, number + count, dtype=np.uint64) * np.uint64(size)
    return number, np.stack([starts, np.full(count, size, np.uint64)], axis=1)


def _runs(chunks: list[_Chunk], most: int) -> Iterator[list[_Chunk]]:
    """Chunks in runs of consecutive numbers, ``most`` at most."""
    run: list[_Chunk] = []
    for chunk in chunks:
        if run and (chunk.number != run[-1].number + 1 or len(run) == most):
            yield run
            run = []
        run.append(chunk)
    if run:
        yield run
