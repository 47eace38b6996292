"""Frames of a dataset that is complete or still being written, including those in shards in progress."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from omewd.dataset.copies.evictions import Evictions
from omewd.dataset.ledger.index import FRAME, LedgerIndex, Row
from omewd.errors import OmewdError
from omewd.model.plan.shards import ShardLayout, ShardPlace
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.compression import Compression
from omewd.model.spec.spec import StreamSpec
from omewd.reader.shard_in_place import TRIES, find_shard, opened
from omewd.reader.summary import Summary, not_stored
from omewd.store.format.libraries import required
from omewd.store.format.shard_index import ABSENT, Entries, read_entries
from omewd.store.format.shard_table import table_entry

Frame = np.ndarray[Any, Any]
# What is on record of a frame: its metadata, and its wall-clock time in ns.
Recorded = tuple[dict[str, Any] | None, int | None]


class StoredFrames:
    """The frames of one source of a dataset that are on disk, by index. Reads files and does nothing else.

    ``backend``: the one that writes the dataset. ``epoch``: tells the dataset from another one at the same path.
    """

    def __init__(self, spec: StreamSpec, dataset: Path, source: int, *, backend: str, epoch: int) -> None:
        self._spec, self._dataset, self._source = spec, dataset, source
        self._leaves_zeros_out = BACKENDS[backend].leaves_zeros_out
        self._layout = ShardLayout(spec, source=source)
        self._dtype = np.dtype(spec.dtype)
        self._index = LedgerIndex(dataset, spec)
        self._summary = Summary(dataset, epoch)
        self._evictions = Evictions(dataset, spec)
        self._last_index: tuple[tuple[int, ...], Entries] | None = None

    def read(self, index: int) -> Frame:
        """The frame of an index that is on disk: shape (Y, X), read-only. A gap reads as zeros.

        A frame that is one chunk is not copied, and without compression it is a view of the file. Other frames are put
        together from their chunks.
        Raises OmewdError ``not_stored`` if the frame is lost or can't be read, ``evicted`` if a copy alone has it;
        OSError.
        """
        self._summary.read()
        layout = self._layout
        unit = layout.chunks.unit_of(index)
        starts = [start for start, _ in layout.chunks.region(unit)]
        inner = tuple(at - start for at, start in zip(layout.chunks.place(index), starts, strict=True))
        frame = np.zeros(self._spec.frame_shape, self._dtype)
        missing = False
        for place, first in layout.shards_of(unit):
            for number, pixels in layout.chunks_of(place):
                chunk = self._chunk(place, first + number)
                if chunk is None:
                    missing = True
                elif layout.chunk_shape[-2:] == self._spec.frame_shape:
                    whole: Frame = chunk[inner]
                    return whole
                else:
                    part = frame[pixels]
                    part[:] = chunk[inner][: part.shape[0], : part.shape[1]]
        if missing and not self._leaves_zeros_out and not self._is_gap(index):
            raise self._unreadable(f"it lacks frame {index}")
        frame.flags.writeable = False
        return frame

    def last_written(self, below: int) -> int | None:
        """The highest frame index below ``below`` that holds a frame; None if there is none."""
        self._summary.read()
        self._read_on()
        return self._index.marks[self._source].last(FRAME, below)

    def recorded(self, index: int) -> Recorded:
        """The metadata and the wall-clock time (ns) of a frame, each None if the ledger has none.

        The first call reads the ledger's record of runs. Raises OmewdError ``not_stored`` if the ledger can't be read.
        """
        self._summary.read()
        row = self._row(index) or {}
        return row.get("metadata"), row.get("wall_ns")

    def _is_gap(self, index: int) -> bool:
        row = self._row(index)
        return row is not None and row.get("gap", "lost") != "lost"

    def _row(self, index: int) -> Row | None:
        """The ledger's row of a frame index; None if there is none."""
        self._read_on()
        return self._index.row(self._source, index)

    def _read_on(self) -> None:
        try:
            self._index.read_on()
        except OSError as error:
            raise self._unreadable(f"its ledger can't be opened: {error.strerror}") from error

    def _unreadable(self, why: str) -> OmewdError:
        return not_stored(self._dataset, why)

    def _chunk(self, place: ShardPlace, number: int) -> Frame | None:
        """A chunk, with the layout's chunk shape; None if it is not stored."""
        for _ in range(TRIES):
            with ExitStack() as files:
                found = self._open(place, number, files)
                if found is None:
                    continue
                descriptor, offset, length = found
                try:
                    return self._decoded(descriptor, offset, length) if length else None
                except (ValueError, RuntimeError) as error:
                    raise self._unreadable(f"chunk {number} of {self._layout.key(place)} does not decode") from error
        self._evictions.require_here(self._layout.key(place))
        return None

    def _open(self, place: ShardPlace, number: int, files: ExitStack) -> tuple[int, int, int] | None:
        """Where a chunk is: (descriptor, offset, length), with length 0 if it is absent; None if there is no file."""
        if not self._spec.sharded:
            descriptor = opened(self._dataset / self._layout.key(place), files)
            return None if descriptor is None else (descriptor, 0, os.fstat(descriptor).st_size)
        shard = find_shard(self._dataset, self._layout, place, files)
        if shard is None:
            return None
        if shard.table is not None:
            return shard.data, *table_entry(shard.table, number)
        offset, length = map(int, self._entries(shard.data, place)[number])
        return shard.data, offset, 0 if offset == ABSENT else length

    def _entries(self, shard: int, place: ShardPlace) -> Entries:
        """The entries of an open shard. The last index is kept, because frames are mostly read in order."""
        found = os.fstat(shard)
        version = found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
        if self._last_index is None or self._last_index[0] != version:
            entries = read_entries(shard, self._layout.chunks_per_shard)
            if entries is None:
                raise self._unreadable(f"{self._layout.key(place)} has a torn index")
            self._last_index = version, entries
        return self._last_index[1]

    def _decoded(self, descriptor: int, offset: int, length: int) -> Frame:
        shape = self._layout.chunk_shape
        compression = Compression.parse(self._spec.compression)
        if compression is None:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                return np.memmap(file, self._dtype, "r", offset, shape)
        numcodecs = required("numcodecs", "read compressed chunks")
        codec: Any = getattr(numcodecs, compression.codec.numcodecs)()
        decoded: Frame = np.frombuffer(codec.decode(os.pread(descriptor, length, offset)), self._dtype).reshape(shape)
        return decoded
