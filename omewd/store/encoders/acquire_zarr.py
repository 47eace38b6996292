"""acquire-zarr: append-only, and to files; each unit is a stream of its own in a folder in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from omewd.errors import OmewdError
from omewd.model.dtypes import ITEM_BYTES
from omewd.model.spec.compression import SHUFFLES, Compression
from omewd.store.encoders.base import Block, Buffer, Encoded, Encoder, UnitArray
from omewd.store.encoders.files import in_order, inner_chunks, take, zero_key

_CODECS = ("blosc-lz4", "blosc-zstd", "zstd")
_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")


def compression_settings(compression: str | None, dtype: str) -> Any:
    """acquire-zarr's settings for a compression."""
    import acquire_zarr as aqz

    parsed = Compression.parse(compression)
    if parsed is None:
        return None
    if not parsed.codec.is_blosc:
        return aqz.CompressionSettings(
            compressor=getattr(aqz.Compressor, "ZSTD"),  # noqa: B009  not in its stubs
            codec=getattr(aqz.CompressionCodec, "ZSTD"),  # noqa: B009
            level=parsed.level,
            shuffle=0,
        )
    return aqz.CompressionSettings(
        compressor=aqz.Compressor.BLOSC1,
        codec=getattr(aqz.CompressionCodec, f"BLOSC_{parsed.codec.inner.upper()}"),
        level=parsed.level,
        shuffle=SHUFFLES.index(parsed.shuffle_of(ITEM_BYTES[dtype])),
    )


class AcquireZarrEncoder(Encoder):
    def __init__(self, array: UnitArray, *, threads: int, scratch: Path) -> None:
        import acquire_zarr

        acquire_zarr.set_log_level(acquire_zarr.LogLevel.ERROR)
        self._library: Any = acquire_zarr
        self._array = array
        self._threads = threads
        self._folder = scratch
        scratch.mkdir(parents=True)

    @staticmethod
    def incompatible(array: UnitArray) -> str | None:
        if array.dtype not in _DTYPES:
            return f"acquire-zarr does not write {array.dtype}"
        compression = Compression.parse(array.compression)
        if compression is not None and compression.codec.name not in _CODECS:
            return f"acquire-zarr has no {compression}"
        if compression is not None and compression.level < 0:
            return f"acquire-zarr has no levels below 0, and so no {compression}"
        return None

    def _stream(self) -> Any:
        aqz, array = self._library, self._array
        shards = [k // c for k, c in zip(array.key_shape, array.chunk_shape, strict=True)]
        names = [f"d{axis}" for axis in range(len(array.shape) - 2)] + ["y", "x"]
        sizes = list(zip(names, array.shape, array.chunk_shape, shards, strict=True))
        if len(sizes) == 2:  # it wants an axis to append along; one of size 1 leaves the bytes as they are
            sizes.insert(0, ("n", 1, 1, 1))
        dimensions = [
            aqz.Dimension(
                name=name,
                kind=aqz.DimensionType.SPACE if name in "yx" else aqz.DimensionType.OTHER,
                array_size_px=size,
                chunk_size_px=chunk,
                shard_size_chunks=shard,
            )
            for name, size, chunk, shard in sizes
        ]
        compression = compression_settings(array.compression, array.dtype)
        settings = aqz.StreamSettings(
            store_path=str(self._folder / "unit"),
            arrays=[
                aqz.ArraySettings(
                    output_key="0", dimensions=dimensions, data_type=np.dtype(array.dtype), compression=compression
                )
            ],
            max_threads=self._threads,  # its pool has two at least, and one thread more feeds that
            overwrite=True,
        )
        return aqz.ZarrStream(settings)

    def encode(self, block: Block) -> Iterator[Encoded]:
        array = self._array
        if block.shape != array.shape:  # ragged: only a full unit is sure to be closed the right way
            whole = np.zeros(array.shape, block.dtype)
            whole[array.region(block)] = block
            block = whole
        try:
            stream = self._stream()
            stream.append(np.ascontiguousarray(block).reshape(-1, *block.shape[-2:]), key="0")
            stream.close()
        except RuntimeError as error:
            raise OmewdError("backend_error", f"acquire-zarr could not encode a unit: {error}") from error
        folder = self._folder / "unit" / "0"
        if len(array.shape) == 2:
            folder /= "c"
        for place in array.frame_keys:
            key = array.key(place) if len(array.shape) > 2 else f"0/{place[0]}/{place[1]}"
            yield Encoded(place, self._pieces(folder / key))

    def _pieces(self, path: Path) -> Iterator[Buffer]:
        shard = take(path)
        if self._array.sharded:
            yield from in_order(shard, self._array.chunks_per_key)
        else:  # it always writes shards: a plain chunk is the one in it, or was all zero and left out
            [chunk] = inner_chunks(shard, 1)
            yield zero_key(self._array) if chunk is None else chunk

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
