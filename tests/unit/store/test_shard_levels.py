"""Shards of every resolution, image and source: each chunk where zarr looks for it, and nobody in another's way."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omewd.dataset import dataset
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.images import shape_on_disk
from omewd.model.plan.levels import Level, levels_of
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import ShardLayout, ShardPlace
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.dimensions import Position
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.store.aligned import write_at
from omewd.store.format.shard_table import MAGIC, STAGING, SUFFIX, in_staging, name_of, read_header, table_entries
from omewd.store.pyramid import halve
from omewd.store.sinks import shard_batch
from omewd.store.sinks.base import committed
from omewd.store.sinks.publish import Publisher
from omewd.store.tools import Tools
from omewd.store.units import UnitStore
from tests.support.frames import Array, among, make_frame, make_spec
from tests.support.units import in_runs

Chunk = tuple[str, int]
Frame = tuple[int, int]  # (source, frame index)
Holds = tuple[frozenset[Frame], slice, slice]


def spec_of(dims: str, **fields: Any) -> StreamSpec:
    return make_spec("cam", dims, **{"backend": "direct", "durability": "none", **fields})


@st.composite
def specs(draw: st.DrawFn) -> StreamSpec:
    """Any dimensions with shards, positions, sources and resolutions."""
    names = draw(st.permutations(["t", "c", "z", "p"]))[: draw(st.integers(0, 4))]
    own = draw(st.sampled_from([None, *names]))
    parts = []
    for name in names:
        cut = "1:1" if name in ("p", own) else f"{draw(st.integers(1, 4))}:{draw(st.integers(1, 3))}"
        parts.append(f"{name}:{draw(st.integers(1, 4))}:{cut}")
    sizes = [draw(st.integers(2, 12)) for _ in range(2)]
    for name, count in zip("yx", sizes, strict=True):
        chunk = draw(st.integers(1, count))
        parts.append(f"{name}:{count}:{chunk}:{draw(st.integers(1, -(-count // chunk)))}")
    levels = draw(st.integers(1, max(sizes).bit_length()))
    return spec_of(",".join(parts), source_dimension=own, levels=levels)


def all_frames(spec: StreamSpec) -> list[int]:
    return [Plan.of(spec, source=source).frames_total or 0 for source in range(spec.sources)]


def frames_of_image(spec: StreamSpec, image: int) -> dict[tuple[int, ...], Frame]:
    """Which frame is at each place along the outer axes on disk."""
    found: dict[tuple[int, ...], Frame] = {}
    for source, count in enumerate(all_frames(spec)):
        plan = Plan.of(spec, source=source)
        for frame in range(count):
            if plan.image(frame) == image:
                assert plan.place(frame) not in found
                found[plan.place(frame)] = source, frame
    return found


def chunks_by_zarr(spec: StreamSpec, level: Level) -> dict[Chunk, Holds]:
    """(shard's path, number in it): what each chunk of a resolution holds; C order over a shard's chunks (ZEP 2)."""
    found: dict[Chunk, Holds] = {}
    for image, path in enumerate(spec.image_paths):
        frames = frames_of_image(spec, image)
        shape = shape_on_disk(spec, all_frames(spec), image, level)
        per_key = tuple(k // c for k, c in zip(level.key_shape, level.chunk_shape, strict=True))
        for place in np.ndindex(*(-(-n // c) for n, c in zip(shape, level.chunk_shape, strict=True))):
            region = [slice(p * c, (p + 1) * c) for p, c in zip(place, level.chunk_shape, strict=True)]
            # A pixel of this resolution is made of so many of the full one along each axis.
            spans = [range(s.start * f, s.stop * f) for s, f in zip(region[:-2], level.factors, strict=False)]
            held = {frames[at] for at in itertools.product(*spans) if at in frames}
            key = "/".join([path, str(level.number), "c", *(str(p // k) for p, k in zip(place, per_key, strict=True))])
            number = np.ravel_multi_index(tuple(p % k for p, k in zip(place, per_key, strict=True)), per_key)
            found[key.lstrip("/"), int(number)] = (frozenset(held), region[-2], region[-1])
    return found


DEEP = spec_of("p:2,z:6:2:2,c:3,y:9:4:2,x:5", source_dimension="c", levels=3)


@given(specs())
@example(DEEP)
def test_every_chunk_of_every_resolution_is_where_zarr_looks_for_it(spec: StreamSpec) -> None:
    for level in levels_of(spec):
        found: dict[Chunk, Holds] = {}
        for source in range(spec.sources):
            layout = ShardLayout(spec, level, source)
            for unit in range(layout.chunks.units_total or 0):
                frames = frozenset((source, int(frame)) for frame in frame_indexes(layout.chunks, unit).flat)
                for place, first in layout.shards_of(unit):
                    for number, pixels in layout.chunks_of(place):
                        where = layout.key(place), first + number
                        assert where not in found
                        assert first + number < layout.chunks_per_shard
                        found[where] = (frames, *pixels)
        assert found == chunks_by_zarr(spec, level)


@given(specs(), st.integers(0, 2**32), st.floats(0, 1))
@example(DEEP, 0, 0.5)
def test_the_chunks_of_every_resolution_with_a_written_frame(spec: StreamSpec, seed: int, known: float) -> None:
    rng = np.random.default_rng(seed)
    flags = [rng.random(int(count * known)) < 0.3 for count in all_frames(spec)]
    written = {(source, int(frame)) for source, mine in enumerate(flags) for frame in np.flatnonzero(mine)}
    for level in levels_of(spec):
        expected = {where for where, (frames, *_) in chunks_by_zarr(spec, level).items() if frames & written}
        found: set[Chunk] = set()
        for source, mine in enumerate(flags):
            layout = ShardLayout(spec, level, source)
            for unit in range(layout.keys.units_total or 0):
                for place in layout.shards_in(unit):
                    wanted = layout.with_frames(place, among(mine))
                    assert wanted.shape == (layout.chunks_per_shard,)
                    found.update((layout.key(place), number) for number in np.flatnonzero(wanted).tolist())
        assert found == expected


@given(specs())
def test_no_two_resolutions_or_sources_share_a_key_or_a_name(spec: StreamSpec) -> None:
    keys: set[str] = set()
    names: set[str] = set()
    count = 0
    for level, source in itertools.product(levels_of(spec), range(spec.sources)):
        layout = ShardLayout(spec, level, source)
        for unit in range(layout.keys.units_total or 0):
            for place in layout.shards_in(unit):
                keys.add(layout.key(place))
                names.add(name_of(layout, place))
                assert layout.key(place).startswith(f"{layout.folder(unit)}/")
                count += 1
    assert len(keys) == len(names) == count


def test_keys_of_wells_are_in_their_fields() -> None:
    positions = [Position(name=n, plate_row=n[0], plate_column=n[1:]) for n in ("A1", "B12", "A1")]
    fields = [
        {"name": "p", "coords": [p.model_dump() | {"name": f"{p.name}-{n}"} for n, p in enumerate(positions)]},
        {"name": "t", "count": 4, "shard_size_chunks": 2},
        {"name": "y", "count": 8},
        {"name": "x", "count": 8},
    ]
    plate = {"row_names": ["A", "B"], "column_names": ["1", "12"]}
    spec = StreamSpec.parse({"name": "s", "dimensions": fields, "plate": plate, "levels": 2})
    layout = ShardLayout(spec, levels_of(spec)[1])
    keys = [layout.key(place) for unit in range(layout.keys.units_total or 0) for place in layout.shards_in(unit)]
    assert keys == [f"{image}/1/c/{t}/0/0" for image in ("A/1/0", "B/12/0", "A/1/1") for t in (0, 1)]


# -- storing and sealing ---------------------------------------------------------------------------


@pytest.fixture
def tools() -> Iterator[Tools]:
    with closing(Tools(2)) as tools:
        yield tools


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def make(folder: Path, spec: StreamSpec) -> Publisher:
    place = folder / spec.output
    dataset.create(spec, place, folder, epoch=1)
    return Publisher(place, place / STAGING, durable=False)


def pixels(spec: StreamSpec, source: int, frame: int) -> Array:
    return make_frame(frame + 1000 * source, spec.frame_shape, spec.dtype)


def store(spec: StreamSpec, publisher: Publisher, tools: Tools, source: int, units: Sequence[int]) -> UnitStore:
    """Store units of a source at all resolutions, as a writer does."""
    plan = Plan.of(spec, "chunk", source)
    blocks = []
    for unit in units:
        frames = frame_indexes(plan, unit)
        block = np.empty((*frames.shape, *spec.frame_shape), spec.dtype)
        for place, frame in np.ndenumerate(frames):
            block[place] = pixels(spec, source, int(frame))
        blocks.append(block)
    stored = UnitStore(spec, BACKENDS["direct"], publisher, tools, "test")
    taken = committed(stored.put(source, in_runs(zip(units, blocks, strict=True))), tools.syncs)
    assert (taken > 0) == bool(units)
    return stored


def read(folder: Path) -> Array:
    import zarr

    return np.asarray(zarr.open_array(str(folder), mode="r")[...])


def expected(spec: StreamSpec, image: int) -> list[Array]:
    """What is to be read of an image at each resolution, if all frames were written."""
    full = np.zeros(shape_on_disk(spec, all_frames(spec), image), spec.dtype)
    for place, (source, frame) in frames_of_image(spec, image).items():
        full[place] = pixels(spec, source, frame)
    found = [full]
    for level in levels_of(spec)[1:]:
        found.append(halve(found[-1], level.halved, spec.downsample, None)[0])
    return found


@settings(max_examples=25, deadline=None)
@given(
    specs(), st.sampled_from(["none", "blosc-lz4"]), st.sampled_from(["mean", "nearest", "min", "max"]), st.randoms()
)
@example(DEEP, "none", "mean", None)
def test_what_was_stored_of_any_source_is_read_at_every_resolution(
    tmp_path_factory: pytest.TempPathFactory, spec: StreamSpec, compression: str, downsample: str, rng: Any
) -> None:
    fields = {**spec.model_dump(), "compression": compression, "downsample": downsample}
    spec = StreamSpec.parse(fields)
    folder = tmp_path_factory.mktemp("shards")
    with closing(Tools(2)) as tools:
        publisher = make(folder, spec)
        for source in range(spec.sources):
            units = list(range(Plan.of(spec, "chunk", source).units_total or 0))
            if rng is not None:
                rng.shuffle(units)
            half = len(units) // 2
            for some in (units[:half], units[half:]):
                store(spec, publisher, tools, source, some)
    totals = [Totals(received=count, written=count) for count in all_frames(spec)]
    dataset.finalize(spec, publisher.root, totals=totals, ended_by="test", failed=False)
    for image, path in enumerate(spec.image_paths):
        for level, whole in zip(levels_of(spec), expected(spec, image), strict=True):
            np.testing.assert_array_equal(read(publisher.root / path / str(level.number)), whole)


def test_each_source_and_resolution_has_its_own_shards_in_progress(tmp_path: Path, tools: Tools) -> None:
    spec = spec_of("t:4:1:4,c:12,y:8:4:2,x:8", source_dimension="c", levels=2)
    publisher = make(tmp_path, spec)
    store(spec, publisher, tools, 1, [0, 2])
    store(spec, publisher, tools, 11, [1])
    one = [ShardPlace(0, 0, 0)]
    assert in_staging(publisher.staging) == {(level, source): one for level in (0, 1) for source in (1, 11)}
    tables = {path.name for path in publisher.staging.glob("*.table")}
    assert tables == {f"shard-{level}-{source}-0-0-0.table" for level in (0, 1) for source in (1, 11)}


def test_a_source_is_sealed_without_the_others(tmp_path: Path, tools: Tools) -> None:
    spec = spec_of("t:4:1:2,c:2,y:8,x:8", source_dimension="c", levels=2)
    publisher = make(tmp_path, spec)
    left = store(spec, publisher, tools, 0, [0, 1, 2])
    right = store(spec, publisher, tools, 1, [0, 1, 2, 3])

    def sealed() -> set[str]:
        return {str(path.relative_to(publisher.root)) for path in publisher.root.glob("*/c/**/*") if path.is_file()}

    right.seal(1, below=2)
    assert sealed() == {"0/c/0/1/0/0", "1/c/0/1/0/0"}
    right.seal(1, below=4)
    left.seal(0, below=3)
    assert sealed() == {f"{level}/c/{t}/{c}/0/0" for level in (0, 1) for t, c in ((0, 1), (1, 1), (0, 0))}
    store(spec, publisher, tools, 0, [3])
    totals = [Totals(received=4, written=4)] * 2
    dataset.finalize(spec, publisher.root, totals=totals, ended_by="test", failed=False)
    for level, whole in enumerate(expected(spec, 0)):
        np.testing.assert_array_equal(read(publisher.root / str(level)), whole)


def test_what_the_ledger_does_not_have_of_a_source_is_left_out_at_every_resolution(
    tmp_path: Path, tools: Tools
) -> None:
    spec = spec_of("t:4:1:4,c:2,y:8,x:8", source_dimension="c", levels=2)
    publisher = make(tmp_path, spec)
    for source in (0, 1):
        store(spec, publisher, tools, source, range(4))
    written = [among(np.array([True, False, True, True])), among(np.array([False, True]))]
    totals = [Totals(received=4, written=3, lost=((1, 1),), lost_frames=1), Totals(4, 1, 0, ((0, 1), (2, 2)), 3)]
    dataset.finalize(spec, publisher.root, totals=totals, ended_by="test", failed=True, written=written)
    for level, whole in enumerate(expected(spec, 0)):
        for t, c in ((1, 0), (0, 1), (2, 1), (3, 1)):
            whole[t, c] = 0
        np.testing.assert_array_equal(read(publisher.root / str(level)), whole)


def test_a_shard_of_a_small_resolution_that_was_sealed_takes_more_chunks(tmp_path: Path, tools: Tools) -> None:
    spec = spec_of("t:4:1:4,y:8:4:2,x:8", levels=3, compression="zstd")
    publisher = make(tmp_path, spec)
    for units in ([0, 3], [2], [1]):
        store(spec, publisher, tools, 0, units).seal(0, below=4)
    for level, whole in enumerate(expected(spec, 0)):
        np.testing.assert_array_equal(read(publisher.root / str(level)), whole)


def test_a_job_that_fails_at_one_resolution_is_on_record_at_none(
    tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("t:3:1:3,y:8,x:8", levels=3, compression="zstd")
    publisher = make(tmp_path, spec)
    store(spec, publisher, tools, 0, [0])

    def write(descriptor: int, block: memoryview, offset: int) -> None:
        if "shard-2-" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        write_at(descriptor, block, offset)

    descriptors = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(shard_batch, "write_at", write)
        with pytest.raises(OSError, match="Input/output error"):
            store(spec, publisher, tools, 0, [1])
    assert open_files() == descriptors
    for level in levels_of(spec):
        name = name_of(ShardLayout(spec, level), ShardPlace(0, 0, 0))
        with (publisher.staging / f"{name}{SUFFIX}").open("rb") as table:
            assert [bool(length) for _, length in table_entries(table.fileno(), 3)] == [True, False, False]
            # Room that a job was given and has not used is there for the next one.
            assert read_header(table.fileno()) == (MAGIC, 4096)
    store(spec, publisher, tools, 0, [2, 1])
    dataset.finalize(spec, publisher.root, totals=[Totals(3, 3)], ended_by="test", failed=False)
    for level, whole in zip(levels_of(spec), expected(spec, 0), strict=True):
        np.testing.assert_array_equal(read(publisher.root / str(level.number)), whole)
