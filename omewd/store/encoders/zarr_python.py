"""zarr-python: encodes into a store in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omewd.store.encoders.base import Block, Encoded, Encoder, UnitArray


class ZarrPythonEncoder(Encoder):
    def __init__(self, array: UnitArray, *, threads: int, scratch: Path) -> None:  # noqa: ARG002
        import zarr
        from zarr.core.buffer import default_buffer_prototype
        from zarr.storage import MemoryStore

        self._array = array
        document = json.dumps(array.document).encode()
        self._values: dict[str, Any] = {"zarr.json": default_buffer_prototype().buffer.from_bytes(document)}
        settings = {
            "array.write_empty_chunks": True,
            "threading.max_workers": threads,
            "async.concurrency": threads,
        }
        with zarr.config.set(settings):
            self._store: Any = zarr.open_array(MemoryStore(self._values), mode="r+", zarr_format=3)

    def encode(self, block: Block) -> Iterator[Encoded]:
        for left in set(self._values) - {"zarr.json"}:  # by a unit that failed
            del self._values[left]
        self._store[self._array.region(block)] = block
        for place in self._array.frame_keys:
            value = self._values.pop(self._array.key(place))
            yield Encoded(place, (memoryview(value.as_numpy_array()).cast("B"),))

    def close(self) -> None:
        self._values.clear()
