"""Opens the keys that hold pixels: shards, sealed or in progress, and single chunks."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from omewd.dataset.copies.evictions import Evictions
from omewd.errors import OmewdError
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.shards import Flags, ShardLayout, ShardPlace
from omewd.reader.contents import Chunks, Content, FileContent, ShardContent, end_of
from omewd.reader.record import Record
from omewd.reader.shard_in_place import TRIES, find_shard, opened
from omewd.reader.summary import not_stored
from omewd.store.format.shard_index import ABSENT, Entries, read_entries
from omewd.store.format.shard_table import read_header, table_entries

_SHARDS_REMEMBERED = 10_000


@dataclass(frozen=True)
class Durable:
    """For each source, the frame index below which all are in finished units. ``ended``: no more will come."""

    frames: tuple[int, ...]
    ended: bool

    def has_all(self, layout: ShardLayout, place: ShardPlace) -> bool:
        """Whether a key has all frames that it will ever have."""
        return self.ended or layout.keys.last_frame(place.unit) < self.frames[layout.source]


class PixelKeys:
    """The keys of a dataset's arrays, at their places. Raises OmewdError ``not_stored``, ``evicted``, OSError."""

    def __init__(self, dataset: Path, record: Record, evictions: Evictions, *, sharded: bool) -> None:
        self._dataset, self._record, self._evictions = dataset, record, evictions
        self._open = self._open_shard if sharded else self._open_chunk
        # Sealed shards that lack nothing; their index need not be read again.
        self._sound: set[str] = set()
        self._lock = threading.Lock()

    def open(self, layout: ShardLayout, place: ShardPlace, durable: Durable) -> Content | None:
        """Open a key; returns None if it has no durable frame, or only gaps."""
        # All frames below the watermark are in finished units, and the key's first one is in its first unit.
        if layout.keys.first_frame(place.unit) >= durable.frames[layout.source]:
            return None
        with ExitStack() as files:
            content = self._open(layout, place, durable, files)
            return None if content is None else content.owning(files)

    def _open_chunk(self, layout: ShardLayout, place: ShardPlace, durable: Durable, files: ExitStack) -> Content | None:
        descriptor = opened(self._dataset / layout.key(place), files)
        if descriptor is None:
            self._evictions.require_here(layout.key(place))
            if self._lost(layout, place, durable, np.ones(1, bool)).any():
                raise self._loss(layout, place, 0)
            return None
        content = FileContent(descriptor, is_final=durable.has_all(layout, place))
        if content.size != layout.chunk_bytes if layout.is_raw else content.size == 0:
            raise not_stored(self._dataset, f"{layout.key(place)} is torn: it has {content.size} bytes")
        return content

    def _open_shard(
        self, layout: ShardLayout, place: ShardPlace, durable: Durable, files: ExitStack, tries: int = TRIES
    ) -> Content | None:
        found = next(filter(None, (find_shard(self._dataset, layout, place, files) for _ in range(TRIES))), None)
        count, is_final = layout.chunks_per_shard, durable.has_all(layout, place)
        if found is not None and found.table is not None:
            table = found.table
            find_chunks = partial(self._in_progress, table, layout, place, durable)
            return ShardContent(layout, found.data, read_header(table)[1], find_chunks, is_final=False)
        if found is None:
            self._evictions.require_here(layout.key(place))
            chunks = self._chunks(np.full((count, 2), ABSENT, np.uint64), layout, place, durable)
            if not chunks.lost.any():
                return None
            return ShardContent(layout, None, 0, lambda: chunks, is_final=durable.ended)
        sealed = FileContent(found.data, is_final=is_final)
        if sealed.etag in self._sound:
            return sealed
        entries = read_entries(found.data, count)
        if entries is None and tries > 1:  # a writer may have taken it back just now, and write where the index was
            return self._open_shard(layout, place, durable, files, tries - 1)
        if entries is None:
            raise not_stored(self._dataset, f"{layout.key(place)} has a torn index")
        chunks = self._chunks(entries, layout, place, durable)
        if not chunks.lost.any():
            self._remember(sealed)
            return sealed
        return ShardContent(layout, found.data, end_of(entries), lambda: chunks, is_final=durable.ended)

    def _in_progress(self, table: int, layout: ShardLayout, place: ShardPlace, durable: Durable) -> Chunks:
        """The durable chunks of a shard in progress, by its open table."""
        below, entries = durable.frames[layout.source], table_entries(table, layout.chunks_per_shard)
        is_durable = layout.with_frames(place, lambda frames: frames < below)
        entries[~(is_durable & (entries[:, 1] > 0))] = ABSENT
        return self._chunks(entries, layout, place, durable)

    def _chunks(self, entries: Entries, layout: ShardLayout, place: ShardPlace, durable: Durable) -> Chunks:
        lost = self._lost(layout, place, durable, entries[:, 0] == ABSENT)
        return Chunks(entries, lost, partial(self._loss, layout, place))

    def _lost(self, layout: ShardLayout, place: ShardPlace, durable: Durable, absent: Flags) -> Flags:
        """Which of the absent chunks of a key should be there."""
        below = durable.frames[layout.source]
        due = absent & layout.with_frames(place, lambda frames: frames < below)
        if due.any():
            misses = self._record.misses
            due &= layout.with_frames(place, lambda frames: (frames < below) & misses(layout.source, frames))
        return due

    def _loss(self, layout: ShardLayout, place: ShardPlace, number: int) -> OmewdError:
        frames = frame_indexes(layout.keys, place.unit)
        what = (
            f"chunk {number} of {layout.key(place)}, with some of the frames {frames.min()} to {frames.max()}, is lost"
        )
        return not_stored(self._dataset, what)

    def _remember(self, sealed: FileContent) -> None:
        """Remember a sealed shard that lacks nothing, once no more of its frames can become durable."""
        if not sealed.is_final:
            return
        with self._lock:
            if len(self._sound) >= _SHARDS_REMEMBERED:
                self._sound.clear()
            self._sound.add(sealed.etag)
