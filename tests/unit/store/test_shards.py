"""The direct backend's shards: every chunk at its place, whatever its size, and only whole shards in theirs."""

from __future__ import annotations

import errno
import math
import os
import random
import threading
import tracemalloc
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omewd.dataset import dataset
from omewd.model.plan import shards as plan_shards
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import ShardLayout, ShardPlace
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.spec import StreamSpec
from omewd.store import aligned
from omewd.store.buffers import Buffers
from omewd.store.encoders.base import Patch
from omewd.store.format.shard_index import read_entries
from omewd.store.format.shard_table import STAGING, in_staging
from omewd.store.scattered import ScatteredFrames
from omewd.store.sinks import publish, shard_batch, shard_file, shards
from omewd.store.sinks.base import committed
from omewd.store.sinks.publish import Publisher
from omewd.store.sinks.shard_batch import ShardBatch
from omewd.store.sinks.shard_file import ShardFile
from omewd.store.tools import Tools
from omewd.store.units import UnitStore
from tests.conformance.support import LAYOUTS
from tests.support.datasets import read_tensorstore, read_zarr
from tests.support.frames import Array, among, make_frame, make_spec
from tests.support.units import singly

COMPRESSIONS = ("none", "blosc-lz4", "blosc-zstd", "zstd")
# Stored as t, c, z, y, x, acquired in another order; ragged, and deep chunks.
MIXED = "z:5:2:2,c:3:1:2,t:4:3:1,y:7:3:2,x:5:2:3"


def spec_of(dims: str, **fields: Any) -> StreamSpec:
    return make_spec("cam", dims, **{"backend": "direct", "durability": "none", **fields})


@st.composite
def dims_texts(draw: st.DrawFn) -> str:
    """Up to three outer dimensions in any order, anything ragged."""
    names = draw(st.permutations(["t", "c", "z"]))[: draw(st.integers(0, 3))]
    parts = [f"{name}:{draw(st.integers(1, 5))}:{draw(st.integers(1, 3))}:{draw(st.integers(1, 3))}" for name in names]
    for name in ("y", "x"):
        count = draw(st.integers(2, 9))
        chunk = draw(st.integers(1, count))
        parts.append(f"{name}:{count}:{chunk}:{draw(st.integers(1, -(-count // chunk)))}")
    return ",".join(parts)


# -- where each chunk is ---------------------------------------------------------------------------


def frames_on_disk(spec: StreamSpec) -> Array:
    """The frame index at each outer place of the array on disk."""
    counts = [d.count or 1 for d in spec.dimensions[:-2]]
    return np.arange(math.prod(counts)).reshape(counts).transpose(spec.disk_order[:-2])


Where = tuple[str, int]
What = tuple[frozenset[int], slice, slice]


def chunks_by_zarr(spec: StreamSpec) -> dict[Where, What]:
    """(shard's path, number in it): (frames, pixels) of each chunk; C order over a shard's chunks, as in ZEP 2."""
    frames = frames_on_disk(spec)
    shape = (*frames.shape, *spec.frame_shape)
    chunk, key = spec.stored(spec.chunk_shape), spec.stored(spec.key_shape)
    per_key = tuple(k // c for k, c in zip(key, chunk, strict=True))
    found: dict[Where, What] = {}
    for place in np.ndindex(*(-(-n // c) for n, c in zip(shape, chunk, strict=True))):
        region = tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, chunk, strict=True))
        path = "/".join(["0", "c", *(str(p // k) for p, k in zip(place, per_key, strict=True))])
        number = np.ravel_multi_index(tuple(p % k for p, k in zip(place, per_key, strict=True)), per_key)
        here = frozenset[int](frames[region[:-2]].ravel().tolist())
        found[path, int(number)] = (here, region[-2], region[-1])
    return found


@given(dims_texts())
@example(MIXED)
def test_every_chunk_is_where_zarr_looks_for_it(dims: str) -> None:
    spec = spec_of(dims)
    layout = ShardLayout(spec)
    found: dict[Where, What] = {}
    assert layout.chunks.units_total is not None
    for unit in range(layout.chunks.units_total):
        frames = frozenset[int](frame_indexes(layout.chunks, unit).ravel().tolist())
        for place, first in layout.shards_of(unit):
            for number, pixels in layout.chunks_of(place):
                where = layout.key(place), first + number
                assert where not in found
                assert first + number < layout.chunks_per_shard
                found[where] = (frames, *pixels)
    assert found == chunks_by_zarr(spec)


@given(st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_an_unbounded_acquisition_is_laid_out_like_a_long_one(chunk: int, per_shard: int, channels: bool) -> None:
    inner = ("c:3:2:1," if channels else "") + "y:7:3:2,x:5"
    endless, long = (ShardLayout(spec_of(f"t:{count}:{chunk}:{per_shard},{inner}")) for count in ("inf", "100"))
    for unit in range(12):
        assert list(endless.shards_of(unit)) == list(long.shards_of(unit))
        for place, _ in endless.shards_of(unit):
            assert endless.key(place) == long.key(place)


@given(dims_texts(), st.integers(0, 2**32), st.floats(0, 1))
@example(MIXED, 0, 0.1)
@example("y:7:3:2,x:5:2:3", 0, 1)
def test_the_chunks_with_a_written_frame(dims: str, seed: int, known: float) -> None:
    """Also at a ragged end: what would lie past it is no chunk."""
    spec = spec_of(dims)
    layout, rng = ShardLayout(spec), np.random.default_rng(seed)
    flags = rng.random(int(frames_on_disk(spec).size * known)) < 0.3
    written = set(np.flatnonzero(flags).tolist())
    expected = {where for where, (frames, *_) in chunks_by_zarr(spec).items() if frames & written}
    found: set[Where] = set()
    for unit in range(layout.keys.units_total or 0):
        for place in layout.shards_in(unit):
            wanted = layout.with_frames(place, among(flags))
            assert wanted.shape == (layout.chunks_per_shard,)
            found.update((layout.key(place), number) for number in np.flatnonzero(wanted).tolist())
    assert found == expected


# -- storing and sealing ---------------------------------------------------------------------------


def block_of(spec: StreamSpec, unit: int, layout: int = 0) -> Array:
    """A unit's pixels; ``layout``: how they lie in memory."""
    frames = frame_indexes(Plan.of(spec, "chunk"), unit)
    block = np.empty((*frames.shape, *spec.frame_shape), spec.dtype)
    for place, frame in np.ndenumerate(frames):
        block[place] = make_frame(int(frame), spec.frame_shape, spec.dtype)
    return LAYOUTS[layout % len(LAYOUTS)](block)


class Writer:
    """A dataset in a folder, and a writer's end of it. A new one for the same folder is another writer."""

    def __init__(self, folder: Path, spec: StreamSpec, tools: Tools) -> None:
        self.folder, self.spec = folder / "cam.ome.zarr", spec
        dataset.create(spec, self.folder, folder, epoch=1)
        self.staging = self.folder / STAGING
        self.publisher = Publisher(self.folder, self.staging, durable=spec.durability == "fsync")
        self.layout = ShardLayout(spec)
        self.syncs = tools.syncs
        self.store_of = UnitStore(spec, BACKENDS["direct"], self.publisher, tools, "test")

    @property
    def units(self) -> range:
        return range(self.layout.chunks.units_total or 0)

    def store(self, *units: int) -> int:
        return self.put((unit, block_of(self.spec, unit, unit)) for unit in units)

    def put(self, blocks: Iterable[tuple[int, Any]]) -> int:
        return committed(self.store_of.put(0, singly(blocks)), self.syncs)

    def seal(self, below: int | None = None, written: Any = None) -> None:
        if below is None:
            self.store_of.sink.seal_all([self.layout], None if written is None else [written])
        else:
            self.store_of.sink.seal(self.layout, below)

    def in_progress(self) -> list[ShardPlace]:
        return in_staging(self.staging).get((0, 0), [])

    def frames_of(self, units: Iterable[int]) -> set[int]:
        plan = self.layout.chunks
        return {int(frame) for unit in units for frame in frame_indexes(plan, unit).flat}

    def check(self, frames: set[int]) -> None:
        """Those frames can be read back, and nothing else."""
        plan = Plan.of(self.spec)
        for array in (read_zarr(self.folder), read_tensorstore(self.folder)):
            for frame in range(plan.frames_total or 0):
                expected = make_frame(frame, self.spec.frame_shape, self.spec.dtype)
                assert np.array_equal(array[plan.place(frame)], expected if frame in frames else 0 * expected), frame
        assert not list(self.staging.glob("shard-*"))

    def sealed(self) -> set[str]:
        keys = (path.relative_to(self.folder) for path in (self.folder / "0").glob("c/**/*") if path.is_file())
        return {str(key) for key in keys}


@pytest.fixture
def tools() -> Iterator[Tools]:
    with closing(Tools(2)) as tools:
        yield tools


@settings(max_examples=40)
@given(dims_texts(), st.sampled_from(COMPRESSIONS), st.sampled_from(["uint8", "uint16", "float32"]), st.randoms())
@example(MIXED, "none", "uint16", random.Random(1))
@example(MIXED, "zstd", "uint16", random.Random(2))
def test_units_in_any_order_some_twice_some_never(dims: str, compression: str, dtype: str, rng: random.Random) -> None:
    with TemporaryDirectory() as folder, closing(Tools(2)) as tools:
        writer = Writer(Path(folder), spec_of(dims, compression=compression, dtype=dtype), tools)
        stored = [unit for unit in writer.units if rng.random() < 0.8]
        order = stored + [unit for unit in stored if rng.random() < 0.2]
        rng.shuffle(order)
        while order:
            job = [order.pop() for _ in range(min(rng.randint(1, 4), len(order)))]
            writer.store(*job)
        writer.seal()
        writer.check(writer.frames_of(stored))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    "dims",
    [
        "t:5:1:3,y:64,x:64",  # a chunk is two pieces
        "t:4:2:2,y:64:32:2,x:64:32:1",  # a piece
        "t:3:1:2,y:64:16:4,x:64:16:2",  # an eighth of one
        "t:4:2:2,y:100,x:90",  # many pieces, and no whole blocks
        "t:3:1:2,y:50:20:2,x:50:20:3",  # part of one
    ],
)
def test_chunks_of_all_sizes(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, dims: str, compression: str
) -> None:
    for module in (aligned, shard_batch):
        monkeypatch.setattr(module, "PIECE_BYTES", 4096)
    monkeypatch.setattr(aligned, "_BUFFER_BYTES", 8192)
    writer = Writer(tmp_path, spec_of(dims, compression=compression, durability="fsync"), tools)
    units = list(writer.units)
    writer.store(*units[::2])
    writer.store(*units[1::2])
    writer.seal()
    writer.check(writer.frames_of(units))


@pytest.mark.parametrize("dims", ["t:4:1:4,y:64,x:64", "t:4:2:2,y:64,x:64", "t:4:1:4,y:64:32:2,x:64"])
def test_what_lies_aligned_is_written_from_where_it_is(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, dims: str
) -> None:
    def refuse(*_: Any) -> Iterator[Any]:
        raise AssertionError("it was copied")

    monkeypatch.setattr(shard_batch, "packed", refuse)
    monkeypatch.setattr(tools.encoded, "take", refuse)
    writer = Writer(tmp_path, spec_of(dims), tools)
    for unit in writer.units:
        block = block_of(writer.spec, unit)
        slots = Buffers().get(block.nbytes).view(block.dtype)[: block.size].reshape(block.shape)
        slots[...] = block
        slots.flags.writeable = False
        writer.put([(unit, slots)])
    with pytest.raises(AssertionError, match="copied"):
        writer.put([(0, slots[..., ::-1])])
    monkeypatch.undo()
    writer.seal()
    writer.check(writer.frames_of(writer.units))


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_no_more_than_a_piece_is_taken_at_once(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    monkeypatch.setattr(shard_batch, "PIECE_BYTES", 3 * 4096)
    taken: list[int] = []
    real_encode = ShardBatch._encode

    def encode(batch: ShardBatch, shard: Any, number: int, patches: list[Patch], room: int) -> None:
        taken.append(sum(patch.count for patch in patches))
        real_encode(batch, shard, number, patches, room)

    monkeypatch.setattr(ShardBatch, "_encode", encode)
    monkeypatch.setattr(shard_batch, "lies_aligned", lambda _: False)  # by chance it may
    writer = Writer(tmp_path, spec_of("t:7:1:7,y:64,x:32", compression=compression), tools)
    writer.store(*writer.units)
    assert sorted(taken) == [1, 3, 3]


def test_chunks_with_fixed_places_are_written_where_there_is_room(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(descriptor: int, block: memoryview, offset: int) -> None:
        assert os.fstat(descriptor).st_size >= offset + len(block)
        aligned.write_at(descriptor, block, offset)

    monkeypatch.setattr(shard_batch, "write_at", write)
    writer = Writer(tmp_path, spec_of("t:4:1:4,y:64,x:64"), tools)
    writer.store(2, 0)
    writer.store(3)
    writer.seal()
    writer.check({0, 2, 3})


@pytest.mark.parametrize(
    ("dims", "fields", "fixed"),
    [
        ("t:4:1:4,y:64,x:64", {"dtype": "uint8"}, True),
        ("t:8:3:3,y:64,x:64", {"dtype": "float32"}, True),
        ("t:4:1:4,y:64,x:63", {"dtype": "uint8"}, False),
        ("t:4:1:4,y:64,x:64", {"dtype": "uint8", "compression": "zstd"}, False),
    ],
)
def test_whole_blocks_have_fixed_places(
    tmp_path: Path, tools: Tools, dims: str, fields: dict[str, Any], fixed: bool
) -> None:
    writer = Writer(tmp_path, spec_of(dims, **fields), tools)
    last = writer.units[-1]
    writer.store(last)
    writer.seal()
    with (writer.folder / "0/c/0/0/0").open("rb") as shard:
        entries = read_entries(shard.fileno(), writer.layout.chunks_per_shard)
    assert entries is not None
    assert entries[last, 0] == (last * writer.layout.chunk_bytes if fixed else 0)


def in_pages(block: Array) -> Array:
    """The same block from page-aligned memory, as in a ring."""
    memory = Buffers().get(block.nbytes).view(block.dtype)[: block.size].reshape(block.shape)
    memory[...] = block
    return memory


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(offset, bytes) of each write; all have to be as O_DIRECT wants them. Pieces are of two blocks."""
    seen: list[tuple[int, int]] = []
    real_write = os.pwritev

    def write(descriptor: int, blocks: list[memoryview], offset: int) -> int:
        assert offset % 4096 == 0
        assert all(aligned.lies_aligned(np.frombuffer(block, np.uint8)) for block in blocks)
        seen.append((offset, sum(map(len, blocks))))
        return real_write(descriptor, blocks, offset)

    monkeypatch.setattr(os, "pwritev", write)
    for module in (aligned, shard_batch, plan_shards):
        monkeypatch.setattr(module, "PIECE_BYTES", 8192)
    monkeypatch.setattr(shard_batch, "BUFFER_BYTES", 8192)
    monkeypatch.setattr(aligned, "_BUFFER_BYTES", 8192 + 4096)
    return seen


# Six blocks, as 128 rows of 192 bytes: like 2304 × 2304 pixels, whose rows are 4608 bytes, with pieces of 8 MiB.
LARGE = ["t:4:1:2,y:128,x:96", "t:4:1:2,y:256:128:2,x:96", "t:8:2:2,y:64,x:96"]


@pytest.mark.parametrize("dims", LARGE)
def test_a_large_chunk_is_cut_into_whole_blocks_not_rows(
    tmp_path: Path, tools: Tools, writes: list[tuple[int, int]], dims: str
) -> None:
    writer = Writer(tmp_path, spec_of(dims), tools)
    layout = writer.layout
    writes.clear()
    for unit in writer.units:
        writer.put([(unit, in_pages(block_of(writer.spec, unit)))])
    shards_total = len(list(layout.shards_in(0))) * (layout.keys.units_total or 0)
    pieces = [(offset, 8192) for offset in range(0, layout.chunks_per_shard * layout.chunk_bytes, 8192)]
    assert sorted(writes) == sorted(pieces * shards_total)
    writer.seal()
    writer.check(writer.frames_of(writer.units))


@pytest.mark.parametrize("memory", [1, 2, 3])
@pytest.mark.parametrize("dims", LARGE)
def test_a_large_chunk_that_lies_in_strides_is_packed(
    tmp_path: Path,
    tools: Tools,
    monkeypatch: pytest.MonkeyPatch,
    writes: list[tuple[int, int]],
    dims: str,
    memory: int,
) -> None:
    calls: list[list[int]] = []

    def packed(parts: Iterable[Any], buffers: Buffers) -> Iterator[tuple[memoryview, int]]:
        parts = list(parts)
        calls.append([part.nbytes for part in parts])
        return aligned.packed(parts, buffers)

    monkeypatch.setattr(shard_batch, "packed", packed)
    monkeypatch.setattr(shard_batch, "lies_aligned", lambda _: False)  # by chance it may
    writer = Writer(tmp_path, spec_of(dims), tools)
    writes.clear()
    for unit in writer.units:
        block = block_of(writer.spec, unit, memory)
        if memory == 3:  # contiguous, and not from the start of a page
            block = np.frombuffer(bytearray(block.nbytes + 16), block.dtype)[8:].reshape(block.shape)
            block[...] = block_of(writer.spec, unit)
        writer.put([(unit, block)])
    # A deep chunk that lies in strides is taken plane by plane; the disk can't have a contiguous one in parts.
    taken = [3 * 4096] * 2 if dims.startswith("t:8:2") and memory < 3 else [6 * 4096]
    assert calls == [taken] * (sum(size for _, size in writes) // sum(taken))
    writer.seal()
    writer.check(writer.frames_of(writer.units))


@pytest.mark.parametrize("dims", ["t:2:3:1,y:64,x:32", "t:2:3:1,y:63,x:33"])
def test_a_chunk_is_zero_past_a_ragged_end(tmp_path: Path, tools: Tools, dims: str) -> None:
    writer = Writer(tmp_path, spec_of(dims), tools)
    writer.store(0)
    writer.seal()
    frames, rest = 2 * writer.spec.frame_bytes, writer.spec.frame_bytes
    shard = (writer.folder / "0/c/0/0/0").read_bytes()
    assert len(shard) == frames + rest + 16 + 4
    assert shard[:frames] == block_of(writer.spec, 0).tobytes()
    assert shard[frames : frames + rest] == bytes(rest)


def test_a_store_tells_how_much_it_has_written(tmp_path: Path, tools: Tools) -> None:
    writer = Writer(tmp_path, spec_of("t:4:1:4,y:64,x:64", dtype="uint8"), tools)
    assert writer.store(0, 1) == 2 * 64 * 64
    (tmp_path / "small").mkdir()
    compressed = Writer(tmp_path / "small", spec_of("t:4:1:4,y:64,x:64", compression="zstd"), tools)
    stored = compressed.put([(0, np.zeros((1, 64, 64), np.uint16))])
    assert 0 < stored < 100


def test_writers_share_shards(tmp_path: Path, tools: Tools) -> None:
    spec = spec_of("t:40:1:20,y:20:7:2,x:20:7:3", compression="blosc-lz4")
    with closing(Tools(2)) as other_tools:
        writers = [Writer(tmp_path, spec, tools), Writer(tmp_path, spec, other_tools)]

        def write(number: int) -> None:
            for unit in writers[number].units[number::2]:
                writers[number].store(unit)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    writers[0].seal()
    writers[0].check(set(range(40)))


# -- sealing ---------------------------------------------------------------------------------------


def test_only_shards_that_get_no_more_frames_are_sealed(tmp_path: Path, tools: Tools) -> None:
    writer = Writer(tmp_path, spec_of("t:7:1:2,y:8,x:8"), tools)
    writer.store(*range(6))
    writer.seal(below=1)
    assert writer.sealed() == set()
    writer.seal(below=3)
    assert writer.sealed() == {"0/c/0/0/0"}
    writer.seal(below=5)
    assert writer.sealed() == {"0/c/0/0/0", "0/c/1/0/0"}
    writer.store(6)
    writer.seal(below=6)
    assert writer.sealed() == {f"0/c/{key}/0/0" for key in range(3)}
    assert writer.in_progress() == [ShardPlace(3, 0, 0)]
    writer.seal(below=7)
    assert writer.sealed() == {f"0/c/{key}/0/0" for key in range(4)}
    writer.check(set(range(7)))


def test_shards_whose_frames_interleave_are_sealed_by_their_last(tmp_path: Path, tools: Tools) -> None:
    writer = Writer(tmp_path, spec_of("z:4:1:2,c:2,y:8:4:1,x:8"), tools)
    writer.store(*writer.units)
    writer.seal(below=3)  # z 0 c 0, z 0 c 1, z 1 c 0
    assert writer.sealed() == {"0/c/0/0/0/0", "0/c/0/0/1/0"}
    writer.seal()
    writer.check(set(range(8)))


def test_chunks_that_the_ledger_does_not_have_are_left_out(tmp_path: Path, tools: Tools) -> None:
    writer = Writer(tmp_path, spec_of("t:9:2:2,y:8:4:2,x:8:4:1"), tools)
    writer.store(*writer.units)
    writer.seal(written=among(np.array([True, True, False, False, False, True])))
    writer.check({0, 1, 4, 5})
    assert writer.sealed() == {f"0/c/{t}/0/{x}" for t in (0, 1) for x in (0, 1)}


def test_chunks_that_come_after_the_seal_are_added(tmp_path: Path, tools: Tools) -> None:
    spec = spec_of("t:8:1:4,y:20:7:2,x:20", compression="zstd", durability="fsync")
    writer = Writer(tmp_path, spec, tools)
    writer.store(0, 2, 5)
    writer.seal()
    writer.check({0, 2, 5})
    other = Writer(tmp_path, spec, tools)
    other.store(1)
    other.store(3, 0)
    writer.store(6)
    other.seal()
    other.check({0, 1, 2, 3, 5, 6})


def test_many_shards_are_sealed_in_batches(tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut off has at least the first in place."""
    monkeypatch.setattr(shards, "_SEALED_AT_ONCE", 2)
    writer = Writer(tmp_path, spec_of("t:7:1:1,y:8,x:8"), tools)
    writer.store(*writer.units)
    batches: list[tuple[int, int]] = []

    def point(name: str) -> None:
        if name == "writer: shards in place":
            batches.append((len(writer.sealed()), len(writer.in_progress())))

    monkeypatch.setattr(shards, "point", point)
    writer.seal()
    assert batches == [(2, 7), (4, 5), (6, 3), (7, 1)]
    writer.check(set(range(7)))


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders of shards in progress that were read."""
    found: list[Path] = []
    real_scandir = os.scandir

    def scandir(folder: Any) -> Any:
        if str(folder).endswith(STAGING):
            found.append(folder)
        return real_scandir(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    return found


def test_the_folder_of_shards_in_progress_is_not_read_for_a_few_of_them(
    tmp_path: Path, tools: Tools, listed: list[Path]
) -> None:
    writer = Writer(tmp_path, spec_of("t:60000000:1:2,y:8,x:8"), tools)
    writer.store(*range(8))
    for number in range(100, 10_100):
        (writer.staging / f"shard-0-0-{number}-0-0.table").touch()
    writer.store_of.seal(0, below=4)
    writer.store_of.seal(0, below=7, since=5)
    assert (len(writer.sealed()), listed) == (3, [])
    writer.store_of.seal(0, below=30_000_000, since=20_200)  # a long gap
    assert (len(writer.sealed()), listed) == (3, [writer.staging])
    writer.store_of.seal(0, below=200)
    assert (len(writer.sealed()), listed) == (4, [writer.staging])


def test_the_folder_of_shards_in_progress_is_read_once_at_the_end(
    tmp_path: Path, tools: Tools, listed: list[Path]
) -> None:
    writer = Writer(tmp_path, spec_of("t:4:1:2,c:64,y:8,x:8", source_dimension="c", levels=3), tools)
    writer.store(*writer.units)
    dataset.seal_by_ledger(writer.spec, writer.folder)
    assert listed == [writer.staging]


class Cut(BaseException):
    """The writer is killed here."""


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (shards, "writer: shards finished"),
        (publish, "writer: file renamed"),
        (shards, "writer: shards in place"),
    ],
)
def test_sealing_that_was_cut_off_is_done_by_the_next(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    writer = Writer(tmp_path, spec_of(MIXED, compression="blosc-lz4"), tools)
    units = writer.units[:-3]
    writer.store(*units)

    def point(here: str) -> None:
        if here == name:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(owner, "point", point)
        with pytest.raises(Cut):
            writer.seal()
    other = Writer(tmp_path, writer.spec, tools)
    other.seal()
    other.check(other.frames_of(units))


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (shard_batch, "writer: chunks written"),
        (shard_batch, "writer: chunks synced"),
        (shard_batch, "writer: chunks on record"),
        (shard_file, "writer: shard taken back"),
    ],
)
def test_a_store_that_was_cut_off_is_run_again(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    writer = Writer(tmp_path, spec_of("t:6:1:3,y:20:7:2,x:20", compression="zstd"), tools)
    writer.store(0, 3, 4)
    writer.seal(below=3)

    def point(here: str) -> None:
        if here == name:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(owner, "point", point)
        with pytest.raises(Cut):
            writer.store(1, 5)
    other = Writer(tmp_path, writer.spec, tools)
    other.store(5, 1)
    other.seal()
    other.check({0, 1, 3, 4, 5})


# -- errors and syncs ------------------------------------------------------------------------------


def fail(*_: Any) -> Any:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize(("owner", "call"), [(os, "pwritev"), (ShardFile, "sync"), (ShardFile, "open")])
def test_what_failed_is_not_on_record(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, owner: Any, call: str, compression: str
) -> None:
    writer = Writer(tmp_path, spec_of("t:3:1:3,y:64,x:64", durability="fsync", compression=compression), tools)
    writer.store(0)
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, fail)
        with pytest.raises(OSError, match="Input/output error"):
            writer.store(1, 2)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
    writer.store(2)
    writer.seal()
    writer.check({0, 2})


def test_room_that_is_on_record_is_nobody_elses(tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path, spec_of("t:3:1:3,y:64,x:64", durability="fsync", compression="zstd"), tools)
    writer.store(0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(ShardFile, "sync_table", fail)
        with pytest.raises(OSError, match="Input/output error"):
            writer.store(1)
    writer.store(2)
    writer.seal()
    writer.check({0, 1, 2})


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_store_that_fails_again_and_again_takes_no_more_room(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sizes = []
    for name, failures in (("once", 0), ("often", 3)):
        (tmp_path / name).mkdir()
        writer = Writer(tmp_path / name, spec_of("t:3:1:3,y:63,x:64", compression=compression), tools)
        writer.store(0)
        for number in range(failures):
            with monkeypatch.context() as patch:
                patch.setattr(*((os, "pwritev") if number % 2 else (shard_file, "extend")), full)
                patch.setattr(os, "fstat", lambda _: SimpleNamespace(st_size=0))
                with pytest.raises(OSError, match="No space left"):
                    writer.store(1)
        writer.store(1)
        writer.store(2)
        writer.seal()
        writer.check({0, 1, 2})
        sizes.append((writer.folder / "0/c/0/0/0").stat().st_size)
    assert sizes[0] == sizes[1]


def test_a_disk_that_takes_no_direct_write(tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.pwritev

    def write(descriptor: int, blocks: list[memoryview], offset: int) -> int:
        if aligned.is_direct(descriptor):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real_write(descriptor, blocks, offset)

    monkeypatch.setattr(os, "pwritev", write)
    writer = Writer(tmp_path, spec_of("t:4:1:4,y:64,x:64"), tools)
    for unit in writer.units:
        writer.put([(unit, in_pages(block_of(writer.spec, unit)))])
    writer.seal()
    writer.check(set(range(4)))


def test_nobody_still_writes_after_a_failure(tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring's slots are let go then, and the job is given to another writer."""
    may_go_on, done = threading.Event(), threading.Event()
    first = threading.Lock()

    def write(*_: Any) -> None:
        if first.acquire(blocking=False):
            threading.Timer(0.1, may_go_on.set).start()
            fail()
        assert may_go_on.wait(60)
        done.set()

    monkeypatch.setattr(shard_batch, "write_at", write)
    writer = Writer(tmp_path, spec_of("t:6:1:3,y:20,x:20", compression="zstd"), tools)
    with pytest.raises(OSError, match="Input/output error"):
        writer.store(0, 5)
    assert done.is_set()


def path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every sync and rename, and every entry in a table, in order."""
    seen: list[tuple[str, str]] = []
    real_note, real_rename, real_link, real_unlink = ShardFile.note, os.rename, os.link, Path.unlink

    def note(file: ShardFile, number: int, entries: Any) -> None:
        seen.append(("note", path_of(file._table)))
        real_note(file, number, entries)

    def rename(source: Any, target: Any) -> None:
        real_rename(source, target)
        seen.append(("rename", str(target)))

    def link(source: Any, name: Any) -> None:
        real_link(source, name)
        seen.append(("link", str(name)))

    def unlink(path: Path, *, missing_ok: bool = False) -> None:
        real_unlink(path, missing_ok=missing_ok)
        seen.append(("unlink", str(path)))

    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(("sync", path_of(descriptor))))
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: seen.append(("sync", path_of(descriptor))))
    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(ShardFile, "note", note)
    return seen


def test_chunks_are_on_disk_before_they_are_on_record(
    tmp_path: Path, tools: Tools, events: list[tuple[str, str]]
) -> None:
    writer = Writer(tmp_path, spec_of("t:6:1:3,y:8,x:8", durability="fsync"), tools)
    events.clear()
    writer.store(0, 3)
    for number in range(2):
        shard = f"{writer.staging}/shard-0-0-{number}-0-0"
        data, noted = events.index(("sync", shard)), events.index(("note", f"{shard}.table"))
        assert data < noted < events.index(("sync", f"{shard}.table"), noted)
        assert events.index(("sync", str(writer.staging))) < noted
    events.clear()
    writer.store(1)
    assert events == [
        ("sync", f"{writer.staging}/shard-0-0-0-0-0"),
        ("note", f"{writer.staging}/shard-0-0-0-0-0.table"),
        ("sync", f"{writer.staging}/shard-0-0-0-0-0.table"),
    ]


def test_a_sealed_shard_is_on_disk_before_it_has_its_name(
    tmp_path: Path, tools: Tools, events: list[tuple[str, str]]
) -> None:
    writer = Writer(tmp_path, spec_of("t:3:1:3,y:8,x:8", durability="fsync"), tools)
    writer.store(0)
    events.clear()
    writer.seal()
    key, aside = writer.folder / "0/c/0/0/0", f"{writer.staging}/shard-0-0-0-0-0"
    data, name = events.index(("sync", aside)), events.index(("link", str(key)))
    synced = [events.index(("sync", str(folder))) for folder in key.parents if folder.is_relative_to(writer.folder)]
    assert data < name < synced[0]
    assert max(synced) < events.index(("unlink", f"{aside}.table")) < events.index(("unlink", aside))


def test_a_shard_is_sealed_where_there_are_no_hard_links(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: Any) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", link)
    writer = Writer(tmp_path, spec_of("t:3:1:3,y:8,x:8", durability="fsync"), tools)
    writer.store(0)
    writer.seal()
    writer.store(1)
    writer.seal()
    writer.check({0, 1})


def test_a_torn_shard_that_is_in_the_way_is_replaced(tmp_path: Path, tools: Tools) -> None:
    writer = Writer(tmp_path, spec_of("t:3:1:3,y:8,x:8", durability="fsync"), tools)
    writer.store(0)
    key = writer.folder / "0/c/0/0/0"
    key.parent.mkdir(parents=True)
    key.write_bytes(b"torn")
    writer.seal()
    writer.check({0})


def test_names_of_a_seal_that_was_cut_off_are_synced_by_the_next(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, events: list[tuple[str, str]]
) -> None:
    writer = Writer(tmp_path, spec_of("t:3:1:3,y:8,x:8", durability="fsync"), tools)
    writer.store(0)

    def point(here: str) -> None:
        if here == "writer: file renamed":
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(publish, "point", point)
        with pytest.raises(Cut):
            writer.seal()
    assert writer.sealed() == {"0/c/0/0/0"}
    events.clear()
    other = Writer(tmp_path, writer.spec, tools)
    other.seal()
    assert {("sync", str(other.folder / folder)) for folder in ("0", "0/c", "0/c/0", "0/c/0/0")} <= set(events)
    other.check({0})


def test_a_shard_that_is_taken_back_is_so_on_disk_before_it_changes(
    tmp_path: Path, tools: Tools, events: list[tuple[str, str]]
) -> None:
    writer = Writer(tmp_path, spec_of("t:3:1:3,y:8,x:8", durability="fsync"), tools)
    writer.store(0)
    writer.seal()
    events.clear()
    writer.store(1)
    shard, place = f"{writer.staging}/shard-0-0-0-0-0", writer.folder / "0/c/0/0/0"
    back = events.index(("link", shard))
    assert ("sync", f"{shard}.table") in events[:back]
    order = [
        ("sync", str(writer.staging)),
        ("unlink", str(place)),
        ("sync", str(place.parent)),
    ]
    assert events[back + 1 : back + 1 + len(order)] == order


def test_without_durability_no_pixels_are_synced(tmp_path: Path, tools: Tools, events: list[tuple[str, str]]) -> None:
    writer = Writer(tmp_path, spec_of("t:6:1:3,y:8,x:8"), tools)
    writer.store(*writer.units)
    writer.seal()
    assert {path for name, path in events if name == "sync"} == set()
    writer.check(set(range(6)))


# -- frames that are not gathered ------------------------------------------------------------------


def scattered(block: Array, absent: Collection[int] = ()) -> ScatteredFrames:
    """The same pixels, each frame in memory of its own."""
    planes = [None if i in absent else plane.copy() for i, plane in enumerate(block.reshape(-1, *block.shape[-2:]))]
    return ScatteredFrames(planes, block.shape[:-2], np.empty(block.shape[-2:], block.dtype))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    "dims",
    [
        "t:8:4:2,y:64,x:64",  # whole blocks, large
        "t:7:4:2,y:64,x:64",  # ragged
        "t:8:4:2,y:64:32:2,x:64:32:1",
        "t:4:2:2,y:100,x:90",  # no whole blocks
        "t:3:2:1,y:50:20:2,x:50:20:3",
        "t:4:2:1,z:3:3:1,y:64,x:96",
    ],
)
def test_scattered_frames_make_the_same_shards(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, dims: str, compression: str
) -> None:
    for module in (aligned, shard_batch, plan_shards):
        monkeypatch.setattr(module, "PIECE_BYTES", 8192)
    monkeypatch.setattr(shard_batch, "BUFFER_BYTES", 8192)
    monkeypatch.setattr(aligned, "_BUFFER_BYTES", 8192 + 4096)
    writer = Writer(tmp_path, spec_of(dims, compression=compression, durability="fsync"), tools)
    for unit in writer.units:
        writer.put([(unit, scattered(block_of(writer.spec, unit)))])
    writer.seal()
    writer.check(writer.frames_of(writer.units))


def test_of_scattered_frames_no_more_than_a_piece_is_copied(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However deep a chunk is: 64 frames of 16 KiB, in pieces of 64 KiB."""
    monkeypatch.setattr(shard_batch, "PIECE_BYTES", 64 << 10)
    monkeypatch.setattr(ScatteredFrames, "gather", lambda _: pytest.fail("all of it was copied"))
    writer = Writer(tmp_path, spec_of("t:128:64:2,y:64,x:128"), tools)
    tracemalloc.start()
    try:
        for unit in writer.units:
            frames = scattered(block_of(writer.spec, unit), absent={3})
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            writer.put([(unit, frames)])
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < 512 << 10
    finally:
        tracemalloc.stop()
    writer.seal()
    written = writer.frames_of(writer.units)
    array = read_tensorstore(writer.folder)
    for frame in written:
        expected = block_of(writer.spec, frame // 64)[frame % 64]
        assert not array[frame].any() if frame % 64 == 3 else (array[frame] == expected).all()
