"""How much of anything a specification may ask for that is handled one by one. Pure."""

from __future__ import annotations

MAX_IMAGES = 10_000
# Making one and its folder takes 0.06 ms of a core, at the start and, if it has changed, at the end.
MAX_DOCUMENTS = 50_000
# A writer handles them one by one.
MAX_FRAME_CHUNKS = 2**16
# Reading one chunk means reading the shard's whole index first, at 16 bytes a chunk.
MAX_SHARD_CHUNKS = 2**24

_MADE_FIRST = "zarr.json files, each in a folder of its own, and all are made before the first frame"


def check_counts(*, images: int, levels: int, frame_chunks: int, shard_chunks: int) -> None:
    """Raise ValueError for too many images, resolutions, chunks across a frame, or chunks in a shard."""
    documents = images * (levels + 1)
    if images > MAX_IMAGES:
        raise ValueError(
            f"dimensions: {images} positions are over the limit of {MAX_IMAGES} in one dataset. They have "
            f"{documents} {_MADE_FIRST}: use several datasets"
        )
    if documents > MAX_DOCUMENTS:
        raise ValueError(
            f"levels: {images} images with {levels} levels are over the limit of {MAX_DOCUMENTS} files. They have "
            f"{documents} {_MADE_FIRST}: use fewer levels or positions"
        )
    if frame_chunks > MAX_FRAME_CHUNKS:
        raise ValueError(
            f"dimensions: {frame_chunks} chunks in a frame are over the limit of {MAX_FRAME_CHUNKS}: use larger chunks"
        )
    if shard_chunks > MAX_SHARD_CHUNKS:
        raise ValueError(f"dimensions: shards of {shard_chunks} chunks are over the limit of {MAX_SHARD_CHUNKS}")
