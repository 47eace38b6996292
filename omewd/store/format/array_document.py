"""Array documents: a Zarr v3 array's zarr.json, with omewd's codecs."""

from __future__ import annotations

from typing import Any

from omewd.model.dtypes import ITEM_BYTES
from omewd.model.spec.compression import Compression

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def compressor(compression: str | None, dtype: str) -> list[dict[str, Any]]:
    """The bytes-to-bytes codecs of a compression (Zarr v3 "blosc" codec, or one with a level and settings)."""
    parsed = Compression.parse(compression)
    if parsed is None:
        return []
    codec = parsed.codec
    if not codec.is_blosc:
        return [{"name": codec.zarr, "configuration": {"level": parsed.level, **dict(codec.settings)}}]
    item_bytes = ITEM_BYTES[dtype]
    configuration = {
        "cname": codec.inner,
        "clevel": parsed.level,
        "shuffle": parsed.shuffle_of(item_bytes),
        "typesize": item_bytes,
        "blocksize": 0,
    }
    return [{"name": codec.zarr, "configuration": configuration}]


def array_document(
    *,
    shape: tuple[int, ...],
    key_shape: tuple[int, ...],
    chunk_shape: tuple[int, ...],
    dtype: str,
    compression: str | None,
    sharded: bool,
    dimension_names: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """An array's zarr.json. Shapes in elements, storage order; ``key_shape`` is the shard's, or the chunk's."""
    codecs = [_BYTES, *compressor(compression, dtype)]
    if sharded:
        sharding = {
            "chunk_shape": list(chunk_shape),
            "codecs": codecs,
            "index_codecs": [_BYTES, {"name": "crc32c"}],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    document: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(key_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0 if not dtype.startswith("float") else 0.0,
        "codecs": codecs,
        "attributes": {},
        "storage_transformers": [],
    }
    if dimension_names is not None:
        document["dimension_names"] = list(dimension_names)
    return document
