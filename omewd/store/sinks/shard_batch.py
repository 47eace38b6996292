"""A batch of chunks for shards in progress: those put between two fences, at all resolutions.

They are written concurrently, synced together, and then recorded in the tables of their shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from omewd.model.plan.memory import PIECE_BYTES
from omewd.model.plan.shards import ShardLayout, ShardPlace
from omewd.process.faultpoints import point
from omewd.store.aligned import ALIGNMENT, lies_aligned, packed, size_of, write_all_at, write_at
from omewd.store.encoders.base import Encoded, Piece
from omewd.store.format.shard_index import Entries
from omewd.store.format.shard_table import name_of
from omewd.store.sinks.base import Batch, Steps, at_once, folder_syncs, results
from omewd.store.sinks.publish import Publisher
from omewd.store.sinks.shard_file import ShardFile
from omewd.store.tools import Tools

# Each shard takes two descriptors. A service may have 16,384; other processes may have 1,024.
_SHARDS_AT_ONCE = 192
_SHARDS_REMEMBERED = 10_000

# Which shard: (resolution, source, place).
ShardKey = tuple[int, int, ShardPlace]


def shard_file(publisher: Publisher, layout: ShardLayout, place: ShardPlace) -> ShardFile:
    """The shard in progress at a place."""
    count = layout.chunks_per_shard
    path, final = publisher.staging / name_of(layout, place), publisher.root / layout.key(place)
    return ShardFile(path, final, count, count * layout.chunk_bytes, durable=publisher.durable)


class SeenShards:
    """The shards whose names in staging are known to be on disk.

    Another writer may have created a shard and not synced its name yet. So whoever sees one for the first time does.
    Two threads share it: what either has added stays true until the shard is sealed, and nobody writes into it then.
    """

    def __init__(self) -> None:
        self._seen: set[ShardKey] = set()

    def has_all(self, shards: Iterable[ShardKey]) -> bool:
        return self._seen.issuperset(shards)

    def add(self, shards: Iterable[ShardKey]) -> None:
        if len(self._seen) >= _SHARDS_REMEMBERED:
            self._seen.clear()
        self._seen.update(shards)

    def forget(self, shards: Iterable[ShardKey]) -> None:
        self._seen.difference_update(shards)


class _Chunk(NamedTuple):
    """One chunk: its number in its shard, and its bytes."""

    number: int
    pieces: Iterable[Piece]


@dataclass
class _OpenShard:
    """A batch's part of one shard. ``waiting``: chunks to be written together. ``runs``: chunks that are written, as
    (number of the first chunk, entries).
    """

    layout: ShardLayout
    file: ShardFile
    waiting: list[_Chunk] = field(default_factory=list)
    runs: list[tuple[int, Entries]] = field(default_factory=list)

    chunks_at_once: int = 1
    # All chunks have the same size in whole blocks, so a chunk's offset follows from its number.
    has_fixed_places: bool = False

    def __post_init__(self) -> None:
        chunk_bytes = self.layout.chunk_bytes
        self.chunks_at_once = max(PIECE_BYTES // chunk_bytes, 1)
        self.has_fixed_places = self.layout.is_raw and chunk_bytes % ALIGNMENT == 0


class ShardBatch(Batch):
    """Chunks that are being written. Errors are OSError, or whatever a library raises."""

    def __init__(self, publisher: Publisher, tools: Tools, seen: SeenShards) -> None:
        self._publisher, self._tools, self._seen = publisher, tools, seen
        self._shards: dict[ShardKey, _OpenShard] = {}
        self._futures: list[Future[None]] = []
        self._committed_bytes = 0
        self._may_be_on_record = False

    def put(self, layout: ShardLayout, unit: int, cells: Iterable[Encoded], *, lasting: bool) -> None:
        """Let threads write the chunks of a unit; returns without waiting for them."""
        shards = self._open(layout, unit)
        for place, pieces in cells:
            which, number = layout.chunk_places[place]
            shard, first = shards[which]
            waiting = shard.waiting
            if waiting and waiting[-1].number + 1 != first + number:
                self._write(shard)
            shard.waiting.append(_Chunk(first + number, pieces if lasting else [bytes(piece) for piece in pieces]))
            if len(shard.waiting) >= shard.chunks_at_once:
                self._write(shard)

    def begin_to_finish(self) -> None:
        for shard in self._shards.values():
            self._write(shard)

    @property
    def is_written(self) -> bool:
        return all(future.done() for future in self._futures)

    def settle(self) -> None:
        wait(self._futures)

    def commit(self) -> Steps:
        """Sync the chunks, then record them in their shards' tables and sync these; returns the size of the chunks."""
        yield from self._commit_open_shards()
        return self._committed_bytes

    def give_up(self) -> None:
        wait(self._futures)
        self._futures.clear()  # breaks a cycle: the traceback of an error holds them, and they hold the error
        for shard in self._shards.values():
            if not self._may_be_on_record:
                with suppress(OSError):
                    shard.file.give_back()
            shard.file.close()
        self._shards.clear()
        self._may_be_on_record = False

    # -- shards -----------------------------------------------------------------------------------

    def _open(self, layout: ShardLayout, unit: int) -> list[tuple[_OpenShard, int]]:
        """Open the shards that hold a part of a unit; returns each with the number of the unit's first chunk in it."""
        parts = [((layout.level.number, layout.source, place), first) for place, first in layout.shards_of(unit)]
        new = [key for key, _ in parts if key not in self._shards]
        if new and self._shards and len(self._shards) + len(new) > _SHARDS_AT_ONCE:
            self._commit_early()
            new = [key for key, _ in parts]
        for key in new:
            shard = _OpenShard(layout, shard_file(self._publisher, layout, key[2]))
            with self._tools.clock.stage("write"):
                shard.file.open()
            self._shards[key] = shard
        return [(self._shards[key], first) for key, first in parts]

    def _commit_early(self) -> None:
        """Commit the units that were put so far, and close their shards."""
        self.begin_to_finish()
        for syncs in self._commit_open_shards():
            with self._tools.clock.stage("fsync"):
                for error in at_once(syncs, self._tools.syncs).values():
                    raise error
        self.give_up()

    def _commit_open_shards(self) -> Steps:
        if not self._shards:
            return 0
        results(self._futures)
        point("writer: chunks written")
        shards, durable = list(self._shards.values()), self._publisher.durable
        if durable:
            unseen = [] if self._seen.has_all(self._shards) else [self._publisher.staging]
            yield {shard.file.path: shard.file.sync for shard in shards} | folder_syncs(unseen)
        self._seen.add(self._shards)
        point("writer: chunks synced")
        self._may_be_on_record = True
        with self._tools.clock.stage("write"):
            for shard in shards:
                for number, entries in shard.runs:
                    shard.file.note(number, entries)
        if durable:
            yield {shard.file.table_path: shard.file.sync_table for shard in shards}
        point("writer: chunks on record")
        self._publisher.direct = all(shard.file.direct for shard in shards)
        self._committed_bytes += sum(int(entries[:, 1].sum()) for shard in shards for _, entries in shard.runs)
        return 0

    # -- chunks -----------------------------------------------------------------------------------

    def _write(self, shard: _OpenShard) -> None:
        """Let threads write the waiting chunks."""
        chunks, shard.waiting = shard.waiting, []
        if not chunks:
            return
        submit = self._tools.pieces.submit
        if not shard.has_fixed_places:
            self._futures.append(submit(self._write_anywhere, shard, chunks))
        elif shard.layout.chunk_bytes <= PIECE_BYTES:
            self._futures.append(submit(self._write_in_place, shard, chunks))
        else:
            for chunk in chunks:
                self._futures.extend(self._write_in_pieces(shard, chunk))

    def _write_in_place(self, shard: _OpenShard, chunks: list[_Chunk]) -> None:
        """Write chunks with consecutive numbers to their fixed places."""
        size, number = shard.layout.chunk_bytes, chunks[0].number
        pieces = [piece for chunk in chunks for piece in chunk.pieces]
        self._write_together(shard, number * size, pieces, len(chunks) * size)
        shard.runs.append(_fixed_entries(number, len(chunks), size))

    def _write_in_pieces(self, shard: _OpenShard, chunk: _Chunk) -> Iterator[Future[None]]:
        """Write a large chunk to its fixed place, with several threads if it can be cut into whole blocks."""
        size, submit = shard.layout.chunk_bytes, self._tools.pieces.submit
        offset = chunk.number * size
        whole = chunk.pieces[0] if isinstance(chunk.pieces, tuple) and len(chunk.pieces) == 1 else None
        if isinstance(whole, np.ndarray) and lies_aligned(whole):
            flat = whole.reshape(-1).view(np.uint8)
            for start in range(0, flat.size, PIECE_BYTES):
                piece = flat[start : start + PIECE_BYTES]
                yield submit(self._write_together, shard, offset + start, [piece], piece.nbytes)
        else:
            yield submit(self._write_stream, shard, offset, chunk.pieces)
        shard.runs.append(_fixed_entries(chunk.number, 1, size))

    def _write_stream(self, shard: _OpenShard, offset: int, pieces: Iterable[Piece]) -> None:
        """Write a large chunk piece by piece, so that it is never in memory as a whole beside the ring."""
        end = offset + shard.layout.chunk_bytes
        left = iter(pieces)
        for first in left:
            size = size_of(first)
            if size % ALIGNMENT:
                self._write_packed(shard, offset, chain([first], left), end - offset)
                return
            # Later pieces may have another size: only the first one is known to end at a whole block.
            some = [first, *islice(left, max(PIECE_BYTES // size, 1) - 1)]
            total = sum(map(size_of, some))
            if total % ALIGNMENT:
                self._write_packed(shard, offset, chain(some, left), end - offset)
                return
            self._write_together(shard, offset, some, total)
            offset += total

    def _write_together(self, shard: _OpenShard, offset: int, pieces: list[Piece], size: int) -> None:
        """Write pieces of ``size`` bytes, without a copy if the disk can take them from where they are."""
        in_place = []
        for piece in pieces:
            if not isinstance(piece, np.ndarray) or not lies_aligned(piece):
                self._write_packed(shard, offset, pieces, size)
                return
            in_place.append(piece.data.cast("B"))
        with self._tools.clock.stage("write"):
            shard.file.reserve(offset, offset + size)
            write_all_at(shard.file.descriptor, in_place, offset)

    def _write_packed(self, shard: _OpenShard, offset: int, pieces: Iterable[Piece], size: int) -> None:
        """Write pieces one after the other through a buffer. ``size``: their bytes together."""
        clock = self._tools.clock
        with clock.stage("write"):
            shard.file.reserve(offset, offset + size)
            for block, _ in clock.timed("encode", packed(pieces, self._tools.buffers)):
                write_at(shard.file.descriptor, block, offset)
                offset += len(block)

    def _write_anywhere(self, shard: _OpenShard, chunks: list[_Chunk]) -> None:
        """Encode chunks, and write them into newly granted room."""
        encoded: list[Iterable[Piece]] = [chunk.pieces for chunk in chunks]
        if shard.layout.is_raw:
            sizes = np.full(len(chunks), shard.layout.chunk_bytes, np.uint64)
        else:
            with self._tools.clock.stage("encode"):
                made = [list(pieces) for pieces in encoded]
            sizes = np.array([sum(map(size_of, pieces)) for pieces in made], np.uint64)
            encoded = list(made)
        with self._tools.clock.stage("write"):
            offset = shard.file.grant(int(sizes.sum()))
        starts = np.uint64(offset) + np.cumsum(sizes, dtype=np.uint64) - sizes
        self._write_packed(shard, offset, chain.from_iterable(encoded), int(sizes.sum()))
        shard.runs.append((chunks[0].number, np.stack([starts, sizes], axis=1)))


def _fixed_entries(number: int, count: int, size: int) -> tuple[int, Entries]:
    starts = np.arange(number, number + count, dtype=np.uint64) * np.uint64(size)
    return number, np.stack([starts, np.full(count, size, np.uint64)], axis=1)
