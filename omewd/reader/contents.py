"""What a key of a dataset holds, and any range of its bytes."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Self

import numpy as np

from omewd.errors import OmewdError
from omewd.model.plan.shards import Flags, ShardLayout
from omewd.store.aligned import aligned
from omewd.store.format.shard_index import ABSENT, Entries, index_bytes, index_size
from omewd.store.format.shard_table import has_fixed_places

# In an index, chunks that are lost are at this offset plus their number. Reading there is an error.
LOST_AT = 1 << 62


class Content(ABC):
    """The bytes of a key. Close it, or use it as a context manager.

    ``size``: in bytes. ``etag``: a strong validator, without quotes: other bytes at the same offsets, or another size,
    have another one. ``is_final``: whether it stays as it is, unless the dataset is repaired or replaced.
    """

    size: int
    etag: str
    is_final: bool

    def __init__(self) -> None:
        self._files = ExitStack()

    def owning(self, files: ExitStack) -> Self:
        """Let the content close these files."""
        self._files = files.pop_all()
        return self

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes:
        """The bytes in [start, stop), fewer at the end; ``0 <= start <= stop``. All of them are in memory.

        Raises OmewdError ``not_stored`` for what is lost, OSError.
        """

    def read_all(self) -> bytes:
        """All bytes. A shard in progress may leave unused room out: its size is that of what is returned."""
        return self.read(0, self.size)

    def suffix(self, length: int) -> bytes:
        """The last ``length`` bytes, or all if there are fewer."""
        return self.read(max(self.size - length, 0), self.size)

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TextContent(Content):
    """Bytes that were made up."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data, self.size, self.is_final = data, len(data), False
        self.etag = hashlib.blake2b(data, digest_size=12).hexdigest()

    def read(self, start: int, stop: int) -> bytes:
        return self._data[start:stop]


class FileContent(Content):
    """A file as it is."""

    def __init__(self, descriptor: int, *, is_final: bool) -> None:
        super().__init__()
        found = os.fstat(descriptor)
        self.size, self.is_final = found.st_size, is_final
        self.etag = f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"
        self._descriptor = descriptor

    def read(self, start: int, stop: int) -> bytes:
        return pread(self._descriptor, start, min(stop, self.size))


@dataclass(frozen=True)
class Chunks:
    """The chunks of a shard. ``entries``: of those that may be read; ABSENT for the others. ``lost``: which of these
    should be there. ``loss_of``: the error for a lost chunk, by its number.
    """

    entries: Entries
    lost: Flags
    loss_of: Callable[[int], OmewdError]


class ShardContent(Content):
    """A shard in progress, or one that has lost chunks: its file, and an index that is made up.

    The index has a place of its own, at the end of more room than the chunks will take. So while chunks come, neither
    the offsets of chunks nor the place of the index nor the size change, but what the index says. Sealing leaves the
    chunks where they are. For a client, the unused room reads as zeros.

    ``descriptor``: the file of the chunks, None if there is none. ``granted``: the end of the room for chunks that is
    in use. ``find_chunks`` is called for the index, which who reads a chunk does not need.
    """

    def __init__(
        self,
        layout: ShardLayout,
        descriptor: int | None,
        granted: int,
        find_chunks: Callable[[], Chunks],
        *,
        is_final: bool,
    ) -> None:
        super().__init__()
        self._room = _room(layout, granted)
        self.size = self._room + index_size(layout.chunks_per_shard)
        self.is_final = is_final
        self._descriptor, self._find_chunks = descriptor, find_chunks

    @cached_property
    def _found(self) -> Chunks:
        return self._find_chunks()

    @cached_property
    def _index(self) -> bytes:
        numbers = np.flatnonzero(self._found.lost).astype(np.uint64)
        entries = self._found.entries.copy()
        entries[self._found.lost] = np.stack([numbers + np.uint64(LOST_AT), np.ones_like(numbers)], axis=1)
        return index_bytes(entries)

    @cached_property
    def etag(self) -> str:  # type: ignore[override]
        inode = 0 if self._descriptor is None else os.fstat(self._descriptor).st_ino
        return f"{inode:x}-{self.size:x}-{hashlib.blake2b(self._index, digest_size=12).hexdigest()}"

    def read(self, start: int, stop: int) -> bytes:
        if start >= LOST_AT:
            raise self._found.loss_of(start - LOST_AT)
        stop = min(stop, self.size)
        if start >= self._room:
            return self._index[start - self._room : max(stop - self._room, 0)]
        if stop <= self._room:
            return self._pixels(start, stop)
        self._require_whole()
        return b"".join([self._pixels(start, self._room), self._index[: stop - self._room]])

    def read_all(self) -> bytes:
        self._require_whole()
        return b"".join([self._pixels(0, end_of(self._found.entries)), self._index])

    def _require_whole(self) -> None:
        """Raise the loss for who takes the index with the chunks, and would not ask for a lost chunk again."""
        if self._found.lost.any():
            raise self._found.loss_of(int(np.argmax(self._found.lost)))

    def _pixels(self, start: int, stop: int) -> bytes:
        found = b"" if self._descriptor is None else pread(self._descriptor, start, stop)
        end = start + len(found)
        if end < stop and end < end_of(self._found.entries):
            self._require_no_chunk_from(end)
        return found.ljust(stop - start, b"\0")

    def _require_no_chunk_from(self, end: int) -> None:
        """Raise the loss of a chunk that is to be beyond the end of the file, which was cut off."""
        entries = self._found.entries
        cut_off = (entries[:, 0] != ABSENT) & (entries.sum(axis=1) > end)
        if cut_off.any():
            raise self._found.loss_of(int(np.argmax(cut_off)))


def end_of(entries: Entries) -> int:
    """The end of the last chunk."""
    present = entries[entries[:, 0] != ABSENT]
    return int(present.sum(axis=1).max(initial=0))


def _room(layout: ShardLayout, granted: int) -> int:
    """The room for the chunks of a shard: as much as they have once it is complete, or more than they will take.

    Compressed chunks may be a little larger than their pixels, and writers that die leave gaps. Room that is not enough
    is doubled, so its end moves once in a shard with much bad luck.
    """
    chunk = layout.chunk_bytes
    room = layout.chunks_per_shard * (chunk if has_fixed_places(layout) else aligned(chunk + chunk // 128 + 256))
    while room < granted:
        room *= 2
    return room


def pread(descriptor: int, start: int, stop: int) -> bytes:
    """The bytes of a file in [start, stop), fewer at its end."""
    parts = []
    while start < stop and (part := os.pread(descriptor, stop - start, start)):
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
