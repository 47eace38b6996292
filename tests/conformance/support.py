"""Writing a dataset with one backend, without a daemon, and reading it with another library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from omewd.model.plan import Plan
from omewd.model.spec import StreamSpec
from omewd.ngff.metadata import ARRAY_PATH
from omewd.writer import dataset
from omewd.writer.backends import BACKENDS
from omewd.writer.backends.base import Sink, UnitArray
from omewd.writer.publish import SMALL_FILE_BYTES, SMALL_FILES_AT_ONCE, Folder, Publisher
from tests.support import Array, make_frame, read_tensorstore, read_zarr

# Who reads what a backend has written: never the library itself.
OTHER_READER: dict[str, Callable[[Path], Array]] = {
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


def unit_block(spec: StreamSpec, unit: int, frame: Frames) -> Array:
    """The pixels of a unit, (…, Y, X) in storage order; shorter than the unit at a ragged end."""
    first, shape, steps = Plan.of(spec).frame_grid(unit)
    block = np.empty((*shape, *spec.frame_shape), spec.dtype)
    for place in np.ndindex(shape):
        block[place] = frame(first + sum(p * s for p, s in zip(place, steps, strict=True)))
    return block


def usual_frames(spec: StreamSpec) -> Frames:
    return lambda index: make_frame(index, spec.frame_shape, spec.dtype)


def write_dataset(spec: StreamSpec, root: Path, frame: Frames, *, scratch: Path) -> Path:
    """Write a whole acquisition as a writer process does, the units' memory in a different layout each."""
    plan, array = Plan.of(spec), UnitArray.of(spec)
    folder = root / spec.output
    dataset.create(spec, folder, root, epoch=1)
    sink = BACKENDS[spec.backend].open(array, threads=2, scratch=scratch)
    pool = ThreadPoolExecutor(SMALL_FILES_AT_ONCE)
    publisher = Publisher(folder, folder / dataset.STAGING, durable=spec.durability == "fsync", pool=pool)
    small = array.key_bytes <= SMALL_FILE_BYTES and len(array.frame_keys) > 1
    assert plan.units_total is not None
    assert plan.frames_total is not None
    try:
        for unit in range(plan.units_total):
            block = LAYOUTS[unit % len(LAYOUTS)](unit_block(spec, unit, frame))
            place = "/".join([ARRAY_PATH, "c", *map(str, plan.block_on_disk(unit))])
            files = ((f"{e.place[0]}/{e.place[1]}", e.pieces) for e in sink.encode(block))
            publisher.publish_folders([Folder(place, f"unit{unit}", files)], small=small)
    finally:
        sink.close()
        pool.shutdown()
    frames = plan.frames_total
    dataset.finalize(
        spec, folder, frames=frames, written=frames, gaps=0, lost=(), lost_frames=0, ended_by="test", failed=False
    )
    return folder


def encode(sink: Sink, block: Array) -> dict[tuple[int, int], bytes]:
    """All keys of a unit, in memory."""
    keys: dict[tuple[int, int], bytes] = {}
    for encoded in sink.encode(block):
        assert encoded.place not in keys
        keys[encoded.place] = b"".join(bytes(piece) for piece in encoded.pieces)
    return keys


def decode(backend: str, array: UnitArray, keys: dict[tuple[int, int], bytes], folder: Path) -> Array:
    """A unit's array out of its keys, read by another library than ``backend``."""
    store = folder / ARRAY_PATH
    for place, value in keys.items():
        path = store / array.key(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)
    (store / "zarr.json").write_text(json.dumps(array.document))
    return OTHER_READER[backend](folder)


def files_under(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
