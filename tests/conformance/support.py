"""Writing a dataset with one backend, without a daemon, and reading it with another library."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from omewd.dataset import dataset
from omewd.dataset.made_by import MadeBy
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import BACKENDS, Backend
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.store.encoders import ENCODERS
from omewd.store.encoders.base import Encoded, Encoder, UnitArray, by_unit
from omewd.store.format.shard_table import STAGING
from omewd.store.sinks.base import committed
from omewd.store.sinks.publish import Publisher
from omewd.store.tools import Tools
from omewd.store.units import UnitStore
from tests.support.datasets import read_tensorstore, read_zarr
from tests.support.frames import Array, make_frame
from tests.support.units import in_runs, singly


class ToyEncoder(Encoder):
    """The least that an encoder has to be."""

    def __init__(self, array: UnitArray, *, threads: int, scratch: Path) -> None:  # noqa: ARG002
        self._array = array

    @staticmethod
    def incompatible(array: UnitArray) -> str | None:
        return f"toy has no compression {array.compression}" if array.compression else None

    def encode(self, block: Array) -> Iterator[Encoded]:
        for place in self._array.frame_keys:
            pixels = self._array.pixels(block, place)
            cell = np.zeros(self._array.key_shape, block.dtype)
            cell[self._array.region(pixels)] = pixels
            yield Encoded(place, (cell.tobytes(),))


TOY = Backend("toy", "of this test", encodes="chunk", copies=2, needs=())

# All that the suite of encoders runs on. A new backend is in it by its record; what is not omewd's own has a line here.
IMPLEMENTATIONS: tuple[tuple[Backend, type[Encoder]], ...] = (
    *((backend, ENCODERS[backend.name]) for backend in BACKENDS.values()),
    # Any library can make single chunks, for shards that omewd fills.
    (replace(BACKENDS["tensorstore"], name="tensorstore-by-chunks", encodes="chunk"), ENCODERS["tensorstore"]),
    (replace(BACKENDS["zarrs-python"], name="zarrs-by-chunks", encodes="chunk"), ENCODERS["zarrs-python"]),
    (TOY, ToyEncoder),
)


def other_reader(backend: str) -> Callable[[Path], Array]:
    """Who reads what a backend has written: never the library itself."""
    return read_zarr if ENCODERS[backend] is ENCODERS["tensorstore"] else read_tensorstore


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
    backend = BACKENDS[spec.backend]
    plan, folder = Plan.of(spec, backend.encodes), root / spec.output
    dataset.create(spec, folder, root, epoch=1, made_by=MadeBy(backend.name, "1.2"))
    assert plan.frames_total is not None
    with closing(Tools(2, scratch)) as tools:
        publisher = Publisher(folder, folder / STAGING, durable=spec.durability == "fsync", pool=tools.syncs)
        with closing(UnitStore(spec, backend, publisher, tools, "test")) as units:
            for turn, some in enumerate(batched(blocks_of(spec, plan, frame), 3)):
                committed(units.put(0, in_runs(some) if turn % 2 else singly(some)), tools.syncs)
    totals = Totals(received=plan.frames_total, written=plan.frames_total)
    dataset.finalize(spec, folder, totals=[totals], ended_by="test", failed=False)
    return folder


def batched(items: Iterable[tuple[int, Array]], size: int) -> Iterator[list[tuple[int, Array]]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def blocks_of(spec: StreamSpec, plan: Plan, frame: Frames) -> Iterator[tuple[int, Array]]:
    """Every unit with its pixels."""
    assert plan.units_total is not None
    for unit in range(plan.units_total):
        yield unit, LAYOUTS[unit % len(LAYOUTS)](unit_block(spec, plan, unit, frame))


def cells_of(encoder: Encoder, block: Array) -> Iterator[Encoded]:
    """The cells of a unit."""
    [(_, cells)] = by_unit(0, encoder.encode(block))
    return cells


def encode(encoder: Encoder, block: Array) -> dict[tuple[int, int], bytes]:
    """All cells of a unit, in memory."""
    keys: dict[tuple[int, int], bytes] = {}
    for encoded in cells_of(encoder, block):
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
    return other_reader(backend)(folder)


def files_under(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
