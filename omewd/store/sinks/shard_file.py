"""A shard in progress: a staging file into which chunks are written, and a table of the chunks in it.

:mod:`omewd.store.format.shard_table` draws both. Any number of writers may have a shard open at once. Chunks with a
fixed place go there. Other chunks get room of their own once their size is known, under a lock on the table, so that a
writer that dies leaves an unused gap at most. The sharding codec allows gaps ("Binary shard format").

A chunk counts once it is in the table, which its writer syncs after the chunk. Sealing writes the table as the index at
the shard's end, syncs, gives the shard its place as a second name, syncs that, and only then removes the table and the
name in staging. So at any moment, either the table or the shard in its place says where every chunk is, also after a
power cut. A chunk that comes later, for example after a failed stream is resumed, takes the shard back into staging.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from omewd.model.plan.shards import Flags
from omewd.process.faultpoints import point
from omewd.process.names import give_second_name, sync_folder
from omewd.store.aligned import ALIGNMENT, aligned, is_direct
from omewd.store.filesystem import extend, punch
from omewd.store.format.shard_index import ABSENT, ENTRY_BYTES, Entries, index_bytes, read_entries
from omewd.store.format.shard_table import HEADER, MAGIC, SUFFIX, read_header, table_entries

# Blocks are allocated this far ahead, because writes that need no allocation run side by side in one file (files of
# 128 MiB: 1.85 GB/s, and 1.5 without it). Not if this would fill the disk: others write there, too.
_AHEAD_BYTES = 256 << 20
_AHEAD_PART_OF_FREE = 8
# Unwritten parts of a sealed shard are freed from this size on.
_HOLE_BYTES = 64 << 10


class ShardFile:
    """One shard, open in one writer. ``path``: in staging, with ``table_path``. ``final``: its place in the dataset.

    ``chunks``: how many it can hold. ``room_bytes``: the size of all of them without compression. ``durable``: with
    fsync. Methods may be called from several threads. All errors are OSError.
    """

    def __init__(self, path: Path, final: Path, chunks: int, room_bytes: int, *, durable: bool = True) -> None:
        self.path = path
        self.table_path = self.path.with_suffix(SUFFIX)
        self.final = final
        self._chunks, self._room_bytes, self._durable = chunks, room_bytes, durable
        self._lock = threading.Lock()
        self._data = self._table = -1
        self._granted: list[tuple[int, int]] = []

    # -- writing ----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the shard for chunks. A new one is created, and a sealed one is taken back."""
        self._table = self._open_table(os.O_CREAT)
        try:
            with self._locked():
                if read_header(self._table)[0] != MAGIC:
                    self._format()
                if self._is_in_place():
                    self._take_back()
                self._data = self._open_data()
        except BaseException:
            self.close()
            raise

    @property
    def descriptor(self) -> int:
        return self._data

    @property
    def direct(self) -> bool:
        """Whether chunks bypass the page cache."""
        return is_direct(self._data)

    def grant(self, size: int) -> int:
        """Grant room for ``size`` bytes; returns its offset. Nobody else gets this room."""
        with self._locked():
            start = read_header(self._table)[1]
            end = start + aligned(size)
            self._allocate(start, end, min(_AHEAD_BYTES, self._room_bytes // 8))
            self._write_header(end)
            self._granted.append((start, end))
        return start

    def give_back(self) -> None:
        """Return the room that was granted here, because the job has failed and will get new room."""
        if not self._granted:
            return
        with self._locked():
            for start, end in sorted(self._granted, reverse=True):
                if read_header(self._table)[1] == end:
                    self._write_header(start)
                else:
                    punch(self._data, start, end)
            self._granted.clear()

    def reserve(self, start: int, end: int) -> None:
        """Allocate blocks for a part of the file."""
        if os.fstat(self._data).st_size < end:
            with self._locked():
                self._allocate(start, end, _AHEAD_BYTES)

    def note(self, number: int, entries: Entries) -> None:
        """Record chunks from ``number`` on, which are on disk, in the table."""
        _put(self._table, entries.astype("<u8").tobytes(), HEADER.size + number * ENTRY_BYTES)

    def sync(self) -> None:
        self._sync(self._data)

    def sync_table(self) -> None:
        self._sync(self._table)

    def close(self) -> None:
        for descriptor in (self._data, self._table):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._table = -1

    # -- sealing ----------------------------------------------------------------------------------

    def finish(self, wanted: Flags | None) -> Path | None:
        """Write the index and free unused room. Nobody may be writing to the shard.

        ``wanted``: which chunks count; None for all present ones. Returns the file to be put in its place; None if the
        shard is empty or in its place already.
        """
        try:
            self._table = self._open_table(0)
        except FileNotFoundError:
            return None
        try:
            with self._locked():
                entries = table_entries(self._table, self._chunks)
                present = entries[:, 1] > 0
                if wanted is not None and (present & ~wanted).any():
                    # Removed from the table before the index, or another chunk, takes their place.
                    present &= wanted
                    self.note(0, np.where(present[:, None], entries, 0))
                    self._sync(self._table)
                if not self.path.exists() or not present.any():
                    return None
                entries[~present] = ABSENT
                end = int(np.max(entries[present].sum(axis=1)))
                self._data = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
                os.ftruncate(self._data, end)
                for hole in _holes(entries[present]):
                    punch(self._data, *hole)
                _put(self._data, index_bytes(entries), end)
                self._sync(self._data)
                return self.path
        finally:
            self.close()

    def forget(self) -> None:
        """Remove the files of the shard in progress. A finished shard must be in its place.

        The table goes first, so that it never lists chunks whose file is gone.
        """
        for path in (self.table_path, self.path):
            path.unlink(missing_ok=True)

    # -- the files --------------------------------------------------------------------------------

    def _open_table(self, flags: int) -> int:
        return os.open(self.table_path, os.O_RDWR | os.O_CLOEXEC | flags, 0o666)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude all other threads and writers."""
        with self._lock:
            fcntl.flock(self._table, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._table, fcntl.LOCK_UN)

    def _write_header(self, end: int) -> None:
        _put(self._table, HEADER.pack(MAGIC, end), 0)

    def _format(self) -> None:
        """Create the table: empty, or with the sealed shard's chunks. The header comes last and makes it valid."""
        entries = None
        with suppress(FileNotFoundError):
            sealed = os.open(self.final, os.O_RDONLY | os.O_CLOEXEC)
            try:
                entries = read_entries(sealed, self._chunks)
            finally:
                os.close(sealed)
        end = 0
        os.ftruncate(self._table, HEADER.size + self._chunks * ENTRY_BYTES)
        if entries is not None:
            present = entries[:, 0] != ABSENT
            end = int(entries[present].sum(axis=1).max(initial=0))
            self.note(0, np.where(present[:, None], entries, 0))
        elif self.final.exists():
            self.path.touch()  # it is torn, so a new one takes its place
        self._sync(self._table)  # rows count only once they are on disk
        self._write_header(aligned(end))

    def _is_in_place(self) -> bool:
        """Whether the shard is sealed. A writer that was killed may have left its name in staging, too."""
        try:
            return not self.path.exists() or self.path.samefile(self.final)
        except FileNotFoundError:
            return False

    def _take_back(self) -> None:
        """Move the sealed shard, if there is one, back into staging."""
        if not self.final.exists():
            return
        self._sync(self._table)
        if not self.path.exists():
            give_second_name(self.final, self.path)
        if self._durable:
            sync_folder(self.path.parent)  # the table and both names, before the shard depends on them
        self.final.unlink(missing_ok=True)
        point("writer: shard taken back")
        if self._durable:
            sync_folder(self.final.parent)  # before the first write into it

    def _open_data(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(self.path, flags | os.O_DIRECT, 0o666)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return os.open(self.path, flags, 0o666)

    def _sync(self, descriptor: int) -> None:
        if self._durable:
            os.fdatasync(descriptor)

    def _allocate(self, start: int, end: int, ahead: int) -> None:
        """Extend the file to ``end``. Chunks far before ``start`` may never come, and get no blocks yet."""
        size = os.fstat(self._data).st_size
        if size >= end:
            return
        begin = size if start - size <= _AHEAD_BYTES else start
        wish = min(end + ahead, aligned(self._room_bytes))
        room = os.fstatvfs(self._data)
        if wish > end and (wish - begin) * _AHEAD_PART_OF_FREE < room.f_bavail * room.f_frsize:
            with suppress(OSError):  # a quota
                extend(self._data, begin, wish)
                return
        extend(self._data, begin, end)


def _put(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of a buffer: a disk that becomes full in the middle takes a part of it without an error."""
    left = memoryview(data)
    while left:
        count = os.pwrite(descriptor, left, offset)
        left, offset = left[count:], offset + count


def _holes(entries: Entries) -> Iterator[tuple[int, int]]:
    """The gaps between chunks, in whole blocks, that are worth freeing."""
    order = np.argsort(entries[:, 0])
    starts = entries[order, 0]
    ends = np.concatenate([np.zeros(1, np.uint64), (entries[order, 0] + entries[order, 1])[:-1]])
    for place in np.flatnonzero(starts - ends >= _HOLE_BYTES):
        start, end = aligned(int(ends[place])), int(starts[place]) // ALIGNMENT * ALIGNMENT
        yield start, end
