"""zarrs: the Rust codec pipeline for zarr-python. It only writes to files, so it gets a folder in memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omewd.store.encoders.base import Block, Buffer, Encoded, Encoder, UnitArray
from omewd.store.encoders.files import in_order, take, zero_key


class ZarrsPythonEncoder(Encoder):
    def __init__(self, array: UnitArray, *, threads: int, scratch: Path) -> None:
        import zarr
        import zarrs  # noqa: F401  registers the pipeline

        self._array = array
        self._folder = scratch
        scratch.mkdir(parents=True)
        (scratch / "zarr.json").write_text(json.dumps(array.document))
        settings = {
            "array.write_empty_chunks": True,
            "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
            "codec_pipeline.strict": True,  # an error rather than zarr-python's own pipeline
            "threading.max_workers": threads,
            "async.concurrency": threads,
        }
        with zarr.config.set(settings):
            self._store: Any = zarr.open_array(zarr.storage.LocalStore(scratch), mode="r+", zarr_format=3)

    def encode(self, block: Block) -> Iterator[Encoded]:
        shutil.rmtree(self._folder / "c", ignore_errors=True)  # what a unit that failed has left
        self._store[self._array.region(block)] = block
        for place in self._array.frame_keys:
            yield Encoded(place, self._pieces(place, block))

    def _pieces(self, place: tuple[int, int], block: Block) -> Iterator[Buffer]:
        array, path = self._array, self._folder / self._array.key(place)
        if not path.exists() and not array.pixels(block, place).any():  # zarrs stores no key for the fill value
            yield zero_key(array)
        elif array.sharded:
            yield from in_order(take(path), array.chunks_per_key)
        else:
            yield take(path)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
