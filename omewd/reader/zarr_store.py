"""The store of zarr-python over the keys of a dataset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from omewd.reader.keyed import KeyedReader

_READ_ONLY = "a live store is read-only: omewd writes the dataset"


class LiveStore(Store):
    """A read-only store. A copy in another process, such as a worker of dask, reads the dataset by its path."""

    def __init__(self, reader: KeyedReader) -> None:
        super().__init__(read_only=True)
        self._reader = reader
        self._is_open = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._reader.dataset, self._reader.epoch)

    def __eq__(self, other: object) -> bool:
        mine = self._reader
        return isinstance(other, LiveStore) and (other._reader.dataset, other._reader.epoch) == (
            mine.dataset,
            mine.epoch,
        )

    def __hash__(self) -> int:
        return hash((self._reader.dataset, self._reader.epoch))

    def __str__(self) -> str:
        return f"omewd://{self._reader.dataset}"

    def __repr__(self) -> str:
        return f"LiveStore({str(self._reader.dataset)!r})"

    @property
    def path(self) -> Path:
        """The dataset's folder."""
        return self._reader.dataset

    def with_read_only(self, read_only: bool = False) -> LiveStore:
        if not read_only:
            raise ValueError(_READ_ONLY)
        return self

    def close(self) -> None:
        """Do nothing: zarr closes stores that others still use. See :meth:`release`."""

    def release(self) -> None:
        """Let go of the rings by which a stream's store knows what is durable; it reads nothing new afterwards."""
        self._reader.close()

    # -- reading ----------------------------------------------------------------------------------

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        content = self._reader.open(key)
        if content is None:
            return None
        with content:
            match byte_range:
                case None:
                    return content.read_all()
                case RangeByteRequest(start, end):
                    return content.read(start, end)
                case OffsetByteRequest(offset):
                    return content.read(offset, max(content.size, offset))
                case SuffixByteRequest(suffix):
                    return content.suffix(suffix)
                case _:
                    raise TypeError(f"unknown byte range {byte_range!r}")

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await asyncio.to_thread(self._read, key, byte_range)
        return None if found is None else prototype.buffer.from_bytes(found)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    def _size(self, key: str) -> int | None:
        content = self._reader.open(key)
        if content is None:
            return None
        with content:
            return content.size

    async def exists(self, key: str) -> bool:
        return await asyncio.to_thread(self._size, key) is not None

    async def getsize(self, key: str) -> int:
        size = await asyncio.to_thread(self._size, key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    # -- listing ----------------------------------------------------------------------------------

    @property
    def supports_listing(self) -> bool:
        return True

    async def list(self) -> AsyncIterator[str]:
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        folders = [prefix.rpartition("/")[0]]
        while folders:
            folder = folders.pop()
            for name, is_folder in await asyncio.to_thread(self._listed, folder):
                key = f"{folder}/{name}" if folder else name
                if is_folder and f"{key}/".startswith(prefix[: len(key) + 1]):
                    folders.append(key)
                elif not is_folder and key.startswith(prefix):
                    yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name, _ in await asyncio.to_thread(self._listed, prefix.rstrip("/")):
            yield name

    def _listed(self, folder: str) -> Any:
        return list(self._reader.list_folder(folder))

    # -- not for writing --------------------------------------------------------------------------

    @property
    def supports_writes(self) -> bool:
        return False

    @property
    def supports_deletes(self) -> bool:
        return False

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002
        raise ValueError(_READ_ONLY)

    async def delete(self, key: str) -> None:  # noqa: ARG002
        raise ValueError(_READ_ONLY)


def _reopened(dataset: Path, epoch: int) -> LiveStore:
    return LiveStore(KeyedReader.of_dataset(dataset, epoch))
