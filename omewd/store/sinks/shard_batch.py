"""A batch of chunks for shards in progress: those put between two fences, at all resolutions.

They are written concurrently, synced together, and then recorded in the tables of their shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from omewd.model.plan.memory import BUFFER_BYTES, OPEN_SHARDS, PIECE_BYTES
from omewd.model.plan.shards import ShardLayout, ShardPlace
from omewd.process.faultpoints import point
from omewd.store.aligned import aligned, lies_aligned, packed, size_of, write_all_at, write_at
from omewd.store.encoders.base import Block, Cells, Patch, Patchwork, Piece, Sizes
from omewd.store.format.shard_index import Entries
from omewd.store.format.shard_table import has_fixed_places, name_of
from omewd.store.sinks.base import Batch, Steps, at_once, folder_syncs
from omewd.store.sinks.publish import Publisher
from omewd.store.sinks.shard_file import ShardFile
from omewd.store.sinks.tasks import Tasks
from omewd.store.tools import Tools

# Of one batch, which several jobs in flight may have beside each other.
_SHARDS_AT_ONCE = OPEN_SHARDS // 2
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


class _Made(Patch):
    """A chunk that a library has made. Its bytes are kept, as the library may overwrite them."""

    is_exact = True

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = [bytes(piece) for piece in pieces]
        self.room_bytes = sum(map(len, self._pieces))

    def pieces(self) -> Iterable[Piece]:
        return self._pieces

    def encode_into(self, out: Block) -> Sizes:
        out[: self.room_bytes] = np.frombuffer(b"".join(self._pieces), np.uint8)
        return np.array([self.room_bytes], np.uint64)


@dataclass
class _OpenShard:
    """A batch's part of one shard. ``waiting``: chunks that are to be written together; ``first`` and ``after``: the
    numbers of the first one, and of the one after the last. ``runs``: chunks that are written, as (number of the first
    one, entries).
    """

    layout: ShardLayout
    file: ShardFile
    waiting: list[Patch] = field(default_factory=list)
    first: int = 0
    after: int = 0
    runs: list[tuple[int, Entries]] = field(default_factory=list)

    chunks_at_once: int = 1
    has_fixed_places: bool = False

    def __post_init__(self) -> None:
        chunk_bytes = self.layout.chunk_bytes
        self.chunks_at_once = max(PIECE_BYTES // chunk_bytes, 1)
        self.has_fixed_places = has_fixed_places(self.layout)

    def take(self) -> tuple[int, list[Patch]]:
        """Take what is waiting, as (number of the first chunk, patches)."""
        taken, self.waiting = self.waiting, []
        return self.first, taken


class ShardBatch(Batch):
    """Chunks that are being written. Errors are OSError, or whatever a library raises."""

    def __init__(self, publisher: Publisher, tools: Tools, seen: SeenShards) -> None:
        self._publisher, self._tools, self._seen = publisher, tools, seen
        self._shards: dict[ShardKey, _OpenShard] = {}
        self._tasks = Tasks(tools.clock)
        self._committed_bytes = 0
        self._may_be_on_record = False

    def put(self, layout: ShardLayout, unit: int, cells: Cells) -> None:
        """Let threads make and write the chunks of units; returns without waiting for them."""
        if isinstance(cells, Patchwork):
            done = 0
            while done < cells.units:
                run = range(done, min(done + layout.run(unit + done), cells.units))
                self._put_run(layout, unit + done, run, cells)
                done = run.stop
        else:
            shards = self._open(layout, unit)
            for place, pieces in cells:
                which, number = layout.chunk_places[place]
                shard, first = shards[which]
                self._add(shard, first + number, _Made(pieces))

    def _put_run(self, layout: ShardLayout, unit: int, run: range, cells: Patchwork) -> None:
        """Put units from ``unit`` on, which are ``run`` of the cells, and whose chunks are consecutive."""
        shards = self._open(layout, unit)
        for which, number, rows, columns in layout.patches:
            shard, first = shards[which]
            at_once = max(1, shard.chunks_at_once // (len(rows) * len(columns)))
            for start in range(run.start, run.stop, at_once):
                units = range(start, min(start + at_once, run.stop))
                place = first + number + (start - run.start) * layout.chunks_of_unit
                self._add(shard, place, cells.patch(units, rows, columns))

    def _add(self, shard: _OpenShard, number: int, patch: Patch) -> None:
        if shard.waiting and (number != shard.after or number + patch.count - shard.first > shard.chunks_at_once):
            self._write(shard)
        if not shard.waiting:
            shard.first = number
        shard.waiting.append(patch)
        shard.after = number + patch.count
        if shard.after - shard.first >= shard.chunks_at_once:
            self._write(shard)

    def begin_to_finish(self) -> None:
        for shard in self._shards.values():
            self._write(shard)

    @property
    def is_written(self) -> bool:
        return self._tasks.are_done

    def settle(self) -> None:
        self._tasks.settle()

    def commit(self) -> Steps:
        """Sync the chunks, then record them in their shards' tables and sync these; returns the size of the chunks."""
        yield from self._commit_open_shards()
        return self._committed_bytes

    def give_up(self) -> None:
        self._tasks.give_up()
        for shard in self._shards.values():
            if not self._may_be_on_record:
                with suppress(OSError):
                    shard.file.give_back()
            shard.file.close()
        self._tools.open_shards.give_back(len(self._shards))
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
                self._tools.open_shards.take(len(self._shards))
                try:
                    shard.file.open()
                except BaseException:
                    self._tools.open_shards.give_back(1)
                    raise
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
        self._tasks.wait()
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
        """Let threads make and write the waiting chunks."""
        number, patches = shard.take()
        if not patches:
            return
        room = sum(patch.room_bytes for patch in patches)
        arrays = _in_place(patches) if shard.has_fixed_places else None
        tools = self._tools
        if arrays is not None:
            self._write_in_place(shard, number, arrays, room)
        elif room > BUFFER_BYTES and len(patches) == 1 and patches[0].is_exact:
            self._tasks.submit(tools.pieces, self._write_stream, shard, number, patches[0])
        else:
            self._tasks.submit(tools.encoders, self._encode, shard, number, patches, room)

    def _write_in_place(self, shard: _OpenShard, number: int, arrays: list[Block], size: int) -> None:
        """Write chunks to their fixed places from where they are, with several threads if they are large."""
        chunk_bytes, submit = shard.layout.chunk_bytes, self._tasks.submit
        offset = number * chunk_bytes
        for piece in _pieces(arrays):
            written = sum(map(size_of, piece))
            submit(self._tools.pieces, self._write_arrays, shard, offset, piece, written)
            offset += written
        shard.runs.append(_entries(number, offset - size, np.full(size // chunk_bytes, chunk_bytes, np.uint64)))

    def _write_arrays(self, shard: _OpenShard, offset: int, arrays: list[Block], size: int) -> None:
        with self._tools.clock.stage("write"):
            shard.file.reserve(offset, offset + size)
            write_all_at(shard.file.descriptor, [array.data.cast("B") for array in arrays], offset)

    def _write_stream(self, shard: _OpenShard, number: int, patch: Patch) -> None:
        """Write a large chunk piece by piece, so that it is never in memory as a whole beside the ring."""
        clock, size = self._tools.clock, patch.room_bytes
        with clock.stage("write"):
            start = offset = self._room_for(shard, number, size)
            for block, _ in clock.timed("encode", packed(patch.pieces(), self._tools.buffers)):
                write_at(shard.file.descriptor, block, offset)
                offset += len(block)
        shard.runs.append(_entries(number, start, np.array([size], np.uint64)))

    def _encode(self, shard: _OpenShard, number: int, patches: list[Patch], room: int) -> None:
        """Make chunks in a buffer, and let another thread write it."""
        tools = self._tools
        buffer = tools.encoded.take(aligned(room))
        try:
            with tools.clock.stage("encode"):
                size, sizes = 0, []
                for patch in patches:
                    sizes.append(patch.encode_into(buffer[size:]))
                    size += int(sizes[-1].sum())
                buffer[size : aligned(size)] = 0
                all_sizes = np.concatenate(sizes)
        except BaseException:
            tools.encoded.give_back(buffer)
            raise
        self._tasks.submit(tools.pieces, self._write_buffer, shard, number, buffer, all_sizes)

    def _write_buffer(self, shard: _OpenShard, number: int, buffer: Block, sizes: Sizes) -> None:
        size = int(sizes.sum())
        try:
            with self._tools.clock.stage("write"):
                offset = self._room_for(shard, number, size)
                write_at(shard.file.descriptor, buffer.data[: aligned(size)], offset)
        finally:
            self._tools.encoded.give_back(buffer)
        shard.runs.append(_entries(number, offset, sizes))

    @staticmethod
    def _room_for(shard: _OpenShard, number: int, size: int) -> int:
        """The offset of chunks from ``number`` on, of ``size`` bytes together, with room there."""
        if not shard.has_fixed_places:
            return shard.file.grant(size)
        offset = number * shard.layout.chunk_bytes
        shard.file.reserve(offset, offset + size)
        return offset


def _in_place(patches: list[Patch]) -> list[Block] | None:
    """The arrays that the disk can take the chunks from where they are; None if there are not for all."""
    found: list[Block] = []
    for patch in patches:
        arrays = patch.in_place()
        if arrays is None or not all(map(lies_aligned, arrays)):
            return None
        found += arrays
    return found


def _pieces(arrays: list[Block]) -> Iterator[list[Block]]:
    """Arrays in groups of at most a piece, with larger arrays cut."""
    group: list[Block] = []
    room = PIECE_BYTES
    for array in arrays:
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, PIECE_BYTES):
            part = flat[start : start + PIECE_BYTES]
            if part.size > room and group:
                yield group
                group, room = [], PIECE_BYTES
            group.append(part)
            room -= part.size
    if group:
        yield group


def _entries(number: int, offset: int, sizes: Sizes) -> tuple[int, Entries]:
    """Chunks from ``number`` on, which lie one behind the other from ``offset`` on."""
    starts = np.uint64(offset) + np.cumsum(sizes, dtype=np.uint64) - sizes
    return number, np.stack([starts, sizes], axis=1)
