"""Where a benchmark's frames can go: omewd, a Zarr library in the camera's own process, or ome-writers."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import omewd
from omewd.client.client import Client
from omewd.dataset.metadata import array_json
from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.compression import Compression
from omewd.model.spec.spec import StreamSpec
from omewd.store.encoders import unusable
from omewd.store.encoders.acquire_zarr import AcquireZarrEncoder, compression_settings
from omewd.store.encoders.base import UnitArray
from omewd.store.sinks.publish import SMALL_FILES_AT_ONCE

Frame = np.ndarray[Any, Any]


class Target(Protocol):
    """A dataset that is being written. ``connect_s``: how long it took to connect to it once it was there."""

    connect_s: float

    def append(self, frame: Frame) -> object:
        """Hand a frame over. The caller may change it afterwards, except with ome-writers' tensorstore."""

    def append_with(self, frame: Frame, metadata: dict[str, float]) -> object:
        """Hand a frame over together with metadata of its own."""

    def close(self) -> None:
        """Complete the dataset; returns when the library says that it is complete."""


class LibraryTarget:
    """What libraries in the camera's process have in common: nothing to connect to, and no metadata of a frame."""

    connect_s = 0.0

    def append_with(self, frame: Frame, metadata: dict[str, float]) -> object:
        """Never called: :func:`open_target` refuses it beforehand."""
        raise NotImplementedError


class OmewdTarget:
    """A stream of a running daemon. Complete means on disk."""

    def __init__(self, spec: StreamSpec, socket: str) -> None:
        Client(socket).start_stream(spec)
        began = time.perf_counter()
        self._producer = omewd.connect(spec.name, socket=socket)
        self.connect_s = time.perf_counter() - began
        self.append = self._producer.append

    def append_with(self, frame: Frame, metadata: dict[str, float]) -> object:
        return self._producer.append(frame, metadata=metadata)

    def close(self) -> None:
        self._producer.close()


class UnitTarget(LibraryTarget):
    """A library that stores arrays. Frames are collected, and the library gets each write unit as a whole.

    That is the fastest way to use such a library: frame by frame, it would write a shard many times.
    """

    def __init__(self, spec: StreamSpec, store: Callable[[tuple[slice, ...], Frame], object]) -> None:
        self._plan, self._store = Plan.of(spec), store
        self._units: dict[int, Frame] = {}
        self._free: list[Frame] = []
        self._count = 0

    def append(self, frame: Frame) -> None:
        unit = self._plan.unit_of(self._count)
        first, shape, _ = self._plan.frame_grid(unit)
        block = self._units.get(unit)
        if block is None:
            fitting = [b for b in self._free if b.shape[:-2] == shape]
            block = fitting[0] if fitting else np.empty((*shape, *frame.shape), frame.dtype)
            self._free = [b for b in self._free if b is not block]
            self._units[unit] = block
        origin = self._plan.place(first)
        place = self._plan.place(self._count)
        block[tuple(p - o for p, o in zip(place, origin, strict=True))] = frame
        if self._count == self._plan.last_frame(unit):
            region = tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))
            if self._store(region, block) is None:
                self._free.append(block)
            del self._units[unit]
        self._count += 1

    def close(self) -> None:
        for unit in list(self._units):
            raise OmewdError("error", f"write unit {unit} is incomplete")


def _make_array(spec: StreamSpec, folder: Path) -> None:
    frames = Plan.of(spec).frames_total
    assert frames is not None
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "zarr.json").write_text(json.dumps(array_json(spec, [frames])))


class TensorstoreTarget(UnitTarget):
    """tensorstore with its default settings, and up to two pending writes while the next unit is collected."""

    _MAX_PENDING = 2

    def __init__(self, spec: StreamSpec, folder: Path) -> None:
        import tensorstore

        _make_array(spec, folder)
        kvstore = {"driver": "file", "path": str(folder / "0"), "file_io_sync": spec.durability == "fsync"}
        options = {"driver": "zarr3", "kvstore": kvstore, "store_data_equal_to_fill_value": True}
        self._array: Any = tensorstore.open(options, open=True).result()
        self._futures: deque[tuple[Any, Frame]] = deque()
        super().__init__(spec, self._write)

    def _write(self, region: tuple[slice, ...], block: Frame) -> object:
        future = self._array[region].write(block, can_reference_source_data_indefinitely=True)
        self._futures.append((future, block))
        if len(self._futures) > self._MAX_PENDING:
            done, used = self._futures.popleft()
            done.result()
            self._free.append(used)
        return future

    def close(self) -> None:
        super().close()
        while self._futures:
            self._futures.popleft()[0].result()


class ZarrTarget(UnitTarget):
    """zarr-python, with its own codec pipeline or with that of zarrs."""

    def __init__(self, spec: StreamSpec, folder: Path, *, with_zarrs: bool) -> None:
        import zarr

        _make_array(spec, folder)
        settings: dict[str, Any] = {"array.write_empty_chunks": True}
        if with_zarrs:
            import zarrs  # noqa: F401  registers the pipeline

            settings |= {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}
        with zarr.config.set(settings):
            self._array: Any = zarr.open_array(str(folder / "0"), mode="r+", zarr_format=3)
        super().__init__(spec, self._write)

    def _write(self, region: tuple[slice, ...], block: Frame) -> None:
        self._array[region] = block


class AcquireZarrTarget(LibraryTarget):
    """acquire-zarr, which takes single frames and stores them in acquisition order."""

    def __init__(self, spec: StreamSpec, folder: Path) -> None:
        import acquire_zarr as aqz

        if spec.disk_order != tuple(range(len(spec.dimensions))):
            raise OmewdError("backend_unusable", "acquire-zarr in process can only be timed in acquisition order")
        kinds = {
            "time": aqz.DimensionType.TIME,
            "channel": aqz.DimensionType.CHANNEL,
            "space": aqz.DimensionType.SPACE,
            "other": aqz.DimensionType.OTHER,
        }
        dimensions = [
            aqz.Dimension(
                name=d.name,
                kind=kinds[d.type],
                array_size_px=0 if axis == 0 else d.count,
                chunk_size_px=chunk,
                shard_size_chunks=d.shard_size_chunks or 1,
            )
            for axis, (d, chunk) in enumerate(zip(spec.dimensions, spec.chunk_shape, strict=True))
        ]
        if (reason := AcquireZarrEncoder.incompatible(UnitArray.of(spec))) is not None:
            raise OmewdError("backend_unusable", reason)
        compression = compression_settings(spec.compression, spec.dtype)
        array = aqz.ArraySettings(
            output_key="0", dimensions=dimensions, data_type=np.dtype(spec.dtype), compression=compression
        )
        self._stream: Any = aqz.ZarrStream(aqz.StreamSettings(store_path=str(folder), arrays=[array]))

    def append(self, frame: Frame) -> None:
        self._stream.append(frame, key="0")

    def close(self) -> None:
        self._stream.close()


class OmeWritersTarget:
    """ome-writers, with the backend of the same name."""

    connect_s = 0.0

    def __init__(self, spec: StreamSpec, folder: Path) -> None:
        try:
            import ome_writers
        except ModuleNotFoundError as error:
            raise OmewdError("backend_unusable", "ome-writers is not installed", "pip install ome-writers") from error
        compression = Compression.parse(spec.compression)
        if compression is not None and str(compression) != compression.codec.name:
            raise OmewdError(
                "backend_unusable", f"ome-writers has no compression {compression}: it takes no levels and shuffles"
            )
        dimensions = [
            ome_writers.Dimension(
                name=d.name,
                count=d.count,
                chunk_size=chunk,
                shard_size_chunks=(d.shard_size_chunks or 1) if spec.sharded else None,
                type=d.type,
            )
            for d, chunk in zip(spec.dimensions, spec.chunk_shape, strict=True)
        ]
        settings = ome_writers.AcquisitionSettings(
            root_path=str(folder),
            dimensions=dimensions,
            dtype=spec.dtype,
            compression=spec.compression,
            format={"name": "ome-zarr", "backend": spec.backend},
        )
        self._stream: Any = ome_writers.create_stream(settings)

    def append(self, frame: Frame) -> None:
        self._stream.append(frame)

    def append_with(self, frame: Frame, metadata: dict[str, float]) -> None:
        self._stream.append(frame, frame_metadata=metadata)

    def close(self) -> None:
        self._stream.close()


def open_target(kind: str, spec: StreamSpec, folder: Path, socket: str, *, with_metadata: bool = False) -> Target:
    """Open a dataset at ``folder``; ``kind``: "omewd", "in-process" or "ome-writers". Raises whatever they raise.

    ``with_metadata``: for frames with metadata of their own.
    """
    if kind == "omewd":
        return OmewdTarget(spec, socket)
    if kind == "ome-writers":
        return OmeWritersTarget(spec, folder)
    if (reason := unusable(BACKENDS[spec.backend])) is not None:
        raise OmewdError("backend_unusable", reason)
    if with_metadata:
        raise OmewdError("backend_unusable", f"{spec.backend} in process takes no metadata with a frame")
    match spec.backend:
        case "tensorstore":
            return TensorstoreTarget(spec, folder)
        case "acquire-zarr":
            return AcquireZarrTarget(spec, folder)
        case backend:
            return ZarrTarget(spec, folder, with_zarrs=backend == "zarrs-python")


def sync_tree(folder: Path) -> None:
    """fsync every file and folder of a dataset, which its writer may not have done; as many at once as omewd does."""

    def sync(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    with ThreadPoolExecutor(SMALL_FILES_AT_ONCE) as pool:
        list(pool.map(sync, [folder, *folder.rglob("*")]))
