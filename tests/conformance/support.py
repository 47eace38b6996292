"""Writing a dataset with one backend, without a daemon, and reading it with another library."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from omewd.dataset import dataset
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.store.encoders import BACKENDS
from omewd.store.encoders.base import Encoded, Sink, UnitArray
from omewd.store.format.shard_table import STAGING
from omewd.store.sinks.batch import Batch
from omewd.store.sinks.publish import SMALL_FILE_BYTES, SMALL_FILES_AT_ONCE, Folder, Publisher
from omewd.store.sinks.shards import ShardPool, Shards
from omewd.store.stopwatch import Stopwatch
from tests.support.datasets import read_tensorstore, read_zarr
from tests.support.frames import Array, make_frame, make_spec

# Who reads what a backend has written: never the library itself.
OTHER_READER: dict[str, Callable[[Path], Array]] = {
    "direct": read_tensorstore,
    "tensorstore": read_zarr,
    "acquire-zarr": read_zarr,
    "zarrs-python": read_tensorstore,
    "zarr-python": read_tensorstore,
}


def read_zarrs(folder: Path) -> Array:
    """The image array, whole, read through the zarrs pipeline."""
    import zarr
    import zarrs  # noqa: F401  registers the pipeline

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True}):
        return read_zarr(folder)


def ring_like(block: Array) -> Array:
    """The same block as a view of slots: other outer order in memory, gaps between frames, not writeable."""
    outer = block.ndim - 2
    height, width = block.shape[-2:]
    slots = np.full((*reversed(block.shape[:-2]), height + 1, width), 77, block.dtype)
    view = slots[..., :height, :].transpose(*reversed(range(outer)), outer, outer + 1)
    view[...] = block
    view.flags.writeable = False
    return view


def columns_first(block: Array) -> Array:
    """The same block with every axis in the opposite order in memory."""
    return np.asfortranarray(block)


LAYOUTS: tuple[Callable[[Array], Array], ...] = (np.ascontiguousarray, ring_like, columns_first)

Frames = Callable[[int], Array]


def unit_block(spec: StreamSpec, plan: Plan, unit: int, frame: Frames) -> Array:
    """The pixels of a unit, (…, Y, X) in storage order; shorter than the unit at a ragged end."""
    first, shape, steps = plan.frame_grid(unit)
    block = np.empty((*shape, *spec.frame_shape), spec.dtype)
    for place in np.ndindex(shape):
        block[place] = frame(first + sum(p * s for p, s in zip(place, steps, strict=True)))
    return block


def usual_frames(spec: StreamSpec) -> Frames:
    return lambda index: make_frame(index, spec.frame_shape, spec.dtype)


def write_dataset(spec: StreamSpec, root: Path, frame: Frames, *, scratch: Path) -> Path:
    """Write a whole acquisition as a writer process does, the units' memory in a different layout each."""
    plan, array = Plan.of(spec, spec.backend), UnitArray.of(spec)
    folder = root / spec.output
    dataset.create(spec, folder, root, epoch=1)
    assert plan.frames_total is not None
    blocks = _blocks(spec, plan, frame)
    if spec.backend == "direct" and spec.sharded:
        publisher = Publisher(folder, folder / STAGING, durable=spec.durability == "fsync")
        with closing(ShardPool(2)) as shard_pool:
            shards = Shards(spec, publisher, Stopwatch(), shard_pool)
            for some in batched(blocks, 3):
                store(publisher, shard_pool, shards, some)
    else:
        _publish(spec, plan, array, folder, blocks, scratch)
    totals = Totals(received=plan.frames_total, written=plan.frames_total)
    dataset.finalize(spec, folder, totals=[totals], ended_by="test", failed=False)
    return folder


def store(publisher: Publisher, pool: ShardPool, shards: Shards, blocks: Iterable[tuple[int, Array]]) -> int:
    """Write units of chunks as one job; returns the bytes that they take."""
    with Batch(publisher, Stopwatch(), pool) as batch:
        batch.add(shards, blocks)
        return batch.finish()


def batched(items: Iterable[tuple[int, Array]], size: int) -> Iterator[list[tuple[int, Array]]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def _blocks(spec: StreamSpec, plan: Plan, frame: Frames) -> Iterator[tuple[int, Array]]:
    assert plan.units_total is not None
    for unit in range(plan.units_total):
        yield unit, LAYOUTS[unit % len(LAYOUTS)](unit_block(spec, plan, unit, frame))


def _publish(
    spec: StreamSpec, plan: Plan, array: UnitArray, folder: Path, blocks: Iterable[tuple[int, Array]], scratch: Path
) -> None:
    sink = BACKENDS[spec.backend].open(array, threads=2, scratch=scratch)
    pool = ThreadPoolExecutor(SMALL_FILES_AT_ONCE)
    publisher = Publisher(folder, folder / STAGING, durable=spec.durability == "fsync", pool=pool)
    small = array.key_bytes <= SMALL_FILE_BYTES and len(array.frame_keys) > 1
    try:
        for unit, block in blocks:
            place = "/".join(["0", "c", *map(str, plan.block_on_disk(unit))])
            files = ((f"{e.place[0]}/{e.place[1]}", e.pieces) for e in sink.encode(block))
            publisher.publish_folders([Folder(place, f"unit{unit}", files)], publisher.pool if small else None)
    finally:
        sink.close()
        pool.shutdown()


class ShardSink:
    """The direct backend's shards as a sink: a unit of whole shards is stored chunk by chunk, and read from disk."""

    lasting = False

    def __init__(self, array: UnitArray, threads: int) -> None:
        self.array, self._threads = array, threads
        outer = ("t", "c", "z")[-(len(array.shape) - 2) :] if len(array.shape) > 2 else ()
        axes = zip((*outer, "y", "x"), array.shape, array.chunk_shape, array.key_shape, strict=True)
        dims = ",".join(f"{name}:{n}:{chunk}:{key // chunk}" for name, n, chunk, key in axes)
        self._spec = make_spec("unit", dims, dtype=array.dtype, compression=array.compression, durability="none")
        self._chunks = Plan.of(self._spec, "direct")
        self._pool = ShardPool(threads)

    def encode(self, block: Array) -> Iterator[Encoded]:
        with tempfile.TemporaryDirectory() as folder:
            publisher = Publisher(Path(folder), Path(folder) / "staging", durable=False)
            publisher.staging.mkdir()
            shards = Shards(self._spec, publisher, Stopwatch(), self._pool)
            store(publisher, self._pool, shards, self._units(block))
            shards.seal()
            for place in self.array.frame_keys:
                yield Encoded(place, [(Path(folder) / "0" / self.array.key(place)).read_bytes()])

    def _units(self, block: Array) -> Iterator[tuple[int, Array]]:
        assert self._chunks.units_total is not None
        for unit in range(self._chunks.units_total):
            first = [b * n for b, n in zip(self._chunks.block_on_disk(unit), self.array.chunk_shape, strict=False)]
            part = block[tuple(slice(a, a + n) for a, n in zip(first, self.array.chunk_shape, strict=False))]
            if part.size:
                yield unit, part

    def close(self) -> None:
        self._pool.close()


def open_sink(backend: str, array: UnitArray, threads: int, scratch: Path) -> Sink:
    if backend == "direct" and array.sharded:
        return ShardSink(array, threads)
    return BACKENDS[backend].open(array, threads=threads, scratch=scratch)


def encode(sink: Sink, block: Array) -> dict[tuple[int, int], bytes]:
    """All keys of a unit, in memory."""
    keys: dict[tuple[int, int], bytes] = {}
    for encoded in sink.encode(block):
        assert encoded.place not in keys
        keys[encoded.place] = b"".join(bytes(piece) for piece in encoded.pieces)
    return keys


def decode(backend: str, array: UnitArray, keys: dict[tuple[int, int], bytes], folder: Path) -> Array:
    """A unit's array out of its keys, read by another library than ``backend``."""
    store = folder / "0"
    for place, value in keys.items():
        path = store / array.key(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)
    (store / "zarr.json").write_text(json.dumps(array.document))
    return OTHER_READER[backend](folder)


def files_under(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
