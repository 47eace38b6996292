"""Positions, sources and resolutions of a dataset, held against every frame written out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from omewd.errors import OmewdError
from omewd.model.plan.elements import element, frames_back
from omewd.model.plan.images import shape_on_disk, shapes_on_disk, whole_shape
from omewd.model.plan.levels import levels_of
from omewd.model.plan.plan import Budget, Plan, choose_capacity
from omewd.model.spec.backend import Cell
from omewd.model.spec.dimensions import Dimension, Plate, Position, parse_dims
from omewd.model.spec.spec import StreamSpec

CELLS: tuple[Cell, ...] = ("key", "chunk")


def spec_of(dims: str, **fields: Any) -> StreamSpec:
    return StreamSpec.parse({"name": "s", "dimensions": parse_dims(dims), **fields})


def coordinates(spec: StreamSpec, source: int) -> Iterator[dict[str, int]]:
    """The outer coordinate of each frame of a source, by the name of the dimension, in the order of arrival."""
    outer = spec.dimensions[:-2]
    element = spec.source_elements[source]
    ranges = [[element] if d.name == spec.source_dimension else range(d.count or 5) for d in outer]
    for coordinate in product(*ranges):
        yield dict(zip((d.name for d in outer), coordinate, strict=True))


@st.composite
def specs(draw: st.DrawFn) -> StreamSpec:
    names = draw(st.permutations(["t", "c", "z", "p"]).map(lambda order: order[: len(order)]))
    names = names[: draw(st.integers(1, 4))]
    own = draw(st.sampled_from([None, *names]))
    first = next((n for n in names if n != own), None)
    parts = []
    for name in names:
        count = draw(st.integers(1, 4))
        unbounded = name == first and name != "p" and draw(st.booleans())
        chunk, shard = draw(st.integers(1, 3)), draw(st.sampled_from(["", ":1", ":2"]))
        cut = "" if name in ("p", own) else f":{chunk}{shard}"
        parts.append(f"{name}:{'inf' if unbounded else count}{cut}")
    order = draw(st.sampled_from(["ome", "acquisition", "list"]))
    fields: dict[str, Any] = {"source_dimension": own}
    if own is not None and draw(st.booleans()):
        size = int(next(part for part in parts if part.startswith(f"{own}:")).split(":")[1])
        fields["own_sources"] = draw(st.sets(st.integers(0, size - 1), min_size=1).map(lambda some: [*map(str, some)]))
    if order == "list":
        fields["storage_order"] = draw(st.permutations([n for n in names if n != "p"]))
    else:
        fields["storage_order"] = order
    try:
        return spec_of(",".join([*parts, "y:6,x:4"]), **fields)
    except OmewdError as error:
        if not error.message.startswith("storage_order: OME-Zarr 0.5 puts time first"):
            raise
        return reject()


@given(specs(), st.sampled_from(CELLS))
def test_each_frame_is_where_its_coordinate_says(spec: StreamSpec, cell: Cell) -> None:
    names = [d.name for d in spec.disk_dimensions[:-2]]
    size = spec.stored(spec.chunk_shape if cell == "chunk" else spec.key_shape)
    for source in range(spec.sources):
        plan = Plan.of(spec, cell, source)
        for frame, at in enumerate(coordinates(spec, source)):
            place = tuple(at[name] for name in names)
            assert plan.place(frame) == place
            assert plan.image(frame) == at.get("p", 0)
            unit = plan.unit_of(frame)
            assert plan.image_of(unit) == at.get("p", 0)
            assert plan.block_on_disk(unit) == tuple(p // n for p, n in zip(place, size[:-2], strict=True))


@given(specs(), st.data())
def test_the_frames_at_some_elements_backwards(spec: StreamSpec, data: st.DataObject) -> None:
    source = data.draw(st.integers(0, spec.sources - 1))
    plan = Plan.of(spec, source=source)
    places = list(coordinates(spec, source))
    newest = data.draw(st.integers(0, len(places) - 1))
    there = data.draw(st.sampled_from(places))
    of = {name: there[name] for name in data.draw(st.sets(st.sampled_from(plan.names)))} if plan.names else {}
    found = [frame for frame in range(newest, -1, -1) if of.items() <= places[frame].items()]
    assert list(frames_back(plan, newest, of)) == found
    assert all(element(plan, frame, name) == n for frame in found for name, n in of.items())
    if plan.source_axis is not None:
        assert not list(frames_back(plan, newest, {plan.names[plan.source_axis]: plan.element + 1}))


@given(specs(), st.data())
def test_the_shape_of_an_image_is_the_bounding_box_of_its_frames(spec: StreamSpec, data: st.DataObject) -> None:
    arrivals = [list(coordinates(spec, source)) for source in range(spec.sources)]
    frames = [data.draw(st.integers(0, len(known))) for known in arrivals]
    names = [d.name for d in spec.disk_dimensions[:-2]]
    for image in range(spec.images):
        there = [at for known, n in zip(arrivals, frames, strict=True) for at in known[:n] if at.get("p", 0) == image]
        shape = shape_on_disk(spec, frames, image)
        if not there:
            assert 0 in shape
            continue
        for name, size in zip(names, shape, strict=False):
            dim = next(d for d in spec.dimensions if d.name == name)
            own = dim.name == spec.source_dimension
            assert size == (dim.count if own else max(at[name] for at in there) + 1)
        assert shape[-2:] == (6, 4)
    assert list(shapes_on_disk(spec, frames)) == [shape_on_disk(spec, frames, image) for image in range(spec.images)]


@given(specs(), st.data())
def test_a_whole_shape_has_frames_only_that_have_arrived(spec: StreamSpec, data: st.DataObject) -> None:
    """It grows with them, can't have one more element along any dimension, and is full in the end.

    Sources that are with other daemons leave their elements empty.
    """
    elements = spec.source_elements

    def ours(outer: Iterable[int]) -> set[tuple[int, ...]]:
        axis = next((i for i, d in enumerate(spec.disk_dimensions) if d.name == spec.source_dimension), None)
        return {at for at in product(*map(range, outer)) if axis is None or at[axis] in elements}

    arrivals = [list(coordinates(spec, source)) for source in range(spec.sources)]
    lengths = sorted(data.draw(st.lists(st.integers(0, max(map(len, arrivals))), min_size=2, max_size=2)))
    names = [d.name for d in spec.disk_dimensions[:-2]]
    for image in range(spec.images):
        before: tuple[int, ...] = ()
        for frames in ([min(n, len(known)) for known in arrivals] for n in lengths):
            there = {
                tuple(at[name] for name in names)
                for known, n in zip(arrivals, frames, strict=True)
                for at in known[:n]
                if at.get("p", 0) == image
            }
            shape = whole_shape(spec, frames, image)
            assert all(a <= b for a, b in zip(before, shape, strict=False)) or 0 in before
            before = shape
            outer = shape[:-2]
            of_image = [known[:n] for known, n in zip(arrivals, frames, strict=True)]
            if spec.source_dimension == "p":
                of_image = [
                    of for element, of in zip(spec.source_elements, of_image, strict=True) if element == image
                ] or [[]]
            assert (0 in shape) == any(all(at.get("p", 0) != image for at in known) for known in of_image)
            assert 0 in shape or ours(outer) <= there
            for axis, dim in enumerate(spec.disk_dimensions[:-2]):
                if 0 not in shape and outer[axis] < (dim.count or 5):
                    more = [n + (i == axis) for i, n in enumerate(outer)]
                    assert not ours(more) <= there
        total = [len(known) for known in arrivals]
        assert whole_shape(spec, total, image) == shape_on_disk(spec, total, image)


@given(specs(), st.integers(1, 8), st.sampled_from(CELLS))
def test_units_hold_the_planes_that_all_levels_need(spec: StreamSpec, levels: int, cell: Cell) -> None:
    spec = spec.model_copy(update={"levels": min(levels, 4)})
    full, *smaller = levels_of(spec)
    assert (full.chunk_shape, full.key_shape) == (spec.stored(spec.chunk_shape), spec.stored(spec.key_shape))
    plan = Plan.of(spec, cell)
    frames = sum(1 for _ in coordinates(spec, 0))
    whole = shape_on_disk(spec, [frames] * spec.sources)
    before = full
    for level in smaller:
        assert level.frame_shape == tuple(-(-n // 2) for n in before.frame_shape)
        units = zip(full.chunk_shape if cell == "chunk" else full.key_shape, level.factors, strict=True)
        outer = [(size, factor) for size, factor in units][:-2]
        of_level = (level.chunk_shape if cell == "chunk" else level.key_shape)[:-2]
        for unit in range(plan.units_with(frames)):
            block = plan.block_on_disk(unit)
            for (size, factor), mine, at, length in zip(outer, of_level, block, whole, strict=False):
                start, stop = at * size, min((at + 1) * size, length)
                assert start % factor == 0
                assert (stop % factor == 0) or stop == length
                assert start // factor == at * mine
        for axis, dim in enumerate(spec.disk_dimensions):
            assert level.factors[axis] == 1 or dim.type == "space"
        before = level


def test_z_is_halved_where_a_chunk_has_the_planes_for_it() -> None:
    def z_factors(dims: str) -> list[int]:
        return [level.factors[0] for level in levels_of(spec_of(dims, levels=4))]

    assert z_factors("z:16:4,y:64,x:64") == [1, 2, 4, 4]
    assert z_factors("z:16,y:64,x:64") == [1, 1, 1, 1]
    assert z_factors("z:5:5,y:64,x:64") == [1, 2, 4, 8]
    assert z_factors("z:10:6,y:64,x:64") == [1, 2, 2, 2]


def test_chunks_of_smaller_levels_are_no_larger_than_the_frame() -> None:
    levels = levels_of(spec_of("t:8:1:4,y:100:32:4,x:50:32:2", levels=4))
    assert [level.frame_shape for level in levels] == [(100, 50), (50, 25), (25, 13), (13, 7)]
    assert [level.chunk_shape for level in levels] == [(1, 32, 32), (1, 32, 25), (1, 25, 13), (1, 13, 7)]
    assert [level.grid for level in levels] == [(4, 4, 2), (4, 2, 1), (4, 1, 1), (4, 1, 1)]


def test_more_levels_than_a_frame_has_are_refused() -> None:
    assert levels_of(spec_of("y:9,x:3", levels=5))[-1].frame_shape == (1, 1)
    with pytest.raises(OmewdError, match="ask for at most 5 levels"):
        spec_of("y:9,x:3", levels=6)


def wells(*names: str) -> tuple[Position, ...]:
    return tuple(Position(name=f"{n}-{i}", plate_row=n[0], plate_column=n[1:]) for i, n in enumerate(names))


def test_positions_are_in_numbered_folders_and_fields_in_those_of_their_wells() -> None:
    assert spec_of("t:2,y:4,x:4").image_paths == ("",)
    assert spec_of("p:1,y:4,x:4").image_paths == ("0",)
    assert spec_of("t:2,p:3,y:4,x:4").image_paths == ("0", "1", "2")
    p = Dimension(name="p", count=4, coords=wells("A1", "B2", "A1", "A2"))
    spec = StreamSpec(name="s", dimensions=(p, *parse_dims("y:4,x:4")), plate=Plate.of_size(2, 3))
    assert spec.image_paths == ("A/1/0", "B/2/0", "A/1/1", "A/2/0")


def named(*positions: dict[str, Any], **fields: Any) -> StreamSpec:
    dimensions = [{"name": "p", "coords": positions}, *parse_dims("y:4,x:4")]
    return StreamSpec.parse({"name": "s", "dimensions": dimensions, "position_folders": "names", **fields})


PLATE = {"row_names": ["A", "B"], "column_names": ["1"]}


def test_positions_may_be_in_folders_of_their_names() -> None:
    assert spec_of("t:2,y:4,x:4", position_folders="names").image_paths == ("",)
    assert spec_of("p:2,y:4,x:4", position_folders="names").image_paths == ("0", "1")
    tiles = [{"name": "a b", "grid_row": row, "grid_column": 2} for row in (-1, 0)]
    assert named(*tiles, {"name": "Zelle 1 (µ)"}).image_paths == ("a b_-1_2", "a b_0_2", "Zelle 1 (µ)")
    fields = [{"name": "fov0", "plate_row": row, "plate_column": "1", "grid_row": 0, "grid_column": 0} for row in "AB"]
    assert named(*fields, plate=PLATE).image_paths == ("A/1/fov0", "B/1/fov0")
    assert named(fields[0]).image_paths == ("fov0_0_0",)


@pytest.mark.parametrize(
    ("names", "in_wells", "complaint"),
    [
        (["a/b"], False, "'a/b' can't be the name of a folder"),
        ([".."], False, "can't be the name of a folder"),
        ([".a"], False, "can't be the name of a folder"),
        (["a\nb"], False, "can't be the name of a folder"),
        (["a\0"], False, "can't be the name of a folder"),
        (["__a"], False, "can't be the name of a folder"),
        (["OME"], False, "can't be the name of a folder"),
        (["omewd"], False, "can't be the name of a folder"),
        (["zarr.json"], False, "can't be the name of a folder"),
        (["µ" * 65], False, "longer than 128 bytes"),
        (["fov_0"], True, "letters and digits only"),
        (["é"], True, "letters and digits only"),
    ],
)
def test_names_that_can_not_be_folders_are_refused(names: list[str], in_wells: bool, complaint: str) -> None:
    positions = [{"name": name, **({"plate_row": "A", "plate_column": "1"} if in_wells else {})} for name in names]
    fields = {"plate": PLATE} if in_wells else {}
    with pytest.raises(OmewdError, match=complaint) as refusal:
        named(*positions, **fields)
    assert "`position_folders='numbers'`" in str(refusal.value)
    named(*positions, **fields, position_folders="numbers")


def test_two_positions_are_not_in_one_folder() -> None:
    tile = {"name": "a", "grid_row": 0, "grid_column": 1}
    with pytest.raises(OmewdError, match="share the folder 'a_0_1'"):
        named(tile, {"name": "a_0_1"})
    fields = [{"name": "f", "plate_row": "A", "plate_column": "1", "grid_row": n, "grid_column": 0} for n in range(2)]
    with pytest.raises(OmewdError, match="share the folder 'A/1/f'"):
        named(*fields, plate=PLATE)


@pytest.mark.parametrize(
    ("dims", "fields", "complaint"),
    [
        ("p:3:2,y:4,x:4", {}, "'p' takes no chunks or shards"),
        ("p:inf,y:4,x:4", {}, "'p' can't be unbounded"),
        ("t:2,c:3:2,y:4,x:4", {"source_dimension": "c"}, "each producer has chunks of its own"),
        ("t:2,y:4,x:4", {"source_dimension": "c"}, "is not one of the dimensions outside the frame"),
        ("t:2,y:4,x:4", {"source_dimension": "y"}, "is not one of the dimensions outside the frame"),
        ("c:65,y:4,x:4", {"source_dimension": "c"}, "1 to 64 elements"),
        ("c:inf,y:4,x:4", {"source_dimension": "c"}, "unbounded"),
        ("t:2,c:3,y:4,x:4", {"own_sources": ["1"]}, "has no source_dimension"),
        ("t:2,c:3,y:4,x:4", {"source_dimension": "c", "own_sources": "1,GFP"}, "'GFP' is not one of the sources: 0, 1"),
        ("t:2,c:3,y:4,x:4", {"source_dimension": "c", "own_sources": "1,1"}, "each one once"),
        ("t:2,c:3,y:4,x:4", {"source_dimension": "c", "own_sources": []}, "at least one"),
        ("t:2,z:3,y:4,x:4", {"storage_order": ["t", "y", "x"]}, "must name t, z once each"),
        ("t:2,z:3,y:4,x:4", {"storage_order": ["t", "z", "x", "y"]}, "stay last"),
        ("p:2,y:4,x:4", {"plate": {"row_names": ["A"], "column_names": ["1"]}}, "every position must name its well"),
        ("t:2,y:4,x:4", {"plate": {"row_names": ["A"], "column_names": ["1"]}}, "every position must name its well"),
        ("p:2,q:3,y:4,x:4", {"levels": 0}, "levels"),
    ],
)
def test_what_can_not_be_is_refused(dims: str, fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OmewdError, match=complaint) as refusal:
        spec_of(dims, **fields)
    assert refusal.value.code == "bad_spec"


def test_a_plate_has_the_wells_that_its_positions_are_in() -> None:
    for names, complaint in (
        (("A1", "C1"), "in row 'C', which the plate lacks"),
        (("A1", "A9"), "in column '9', which the plate lacks"),
    ):
        with pytest.raises(OmewdError, match=complaint):
            p = Dimension(name="p", count=2, coords=wells(*names))
            StreamSpec.parse(
                {"name": "s", "dimensions": (p, *parse_dims("y:4,x:4")), "plate": Plate.of_size(2, 3).model_dump()}
            )


def test_the_dimension_beside_the_sources_may_be_unbounded() -> None:
    assert spec_of("c:2,t:inf,y:4,x:4", source_dimension="c").source_names == ("0", "1")
    with pytest.raises(OmewdError, match="only the first dimension outside the frame can be"):
        spec_of("c:2,t:inf,y:4,x:4")


@given(specs(), st.integers(0, 60))
def test_the_chunks_that_a_refusal_asks_for_fit(spec: StreamSpec, slots: int) -> None:
    plan = Plan.of(spec)
    try:
        choose_capacity(plan, 1, Budget(slots, 0), target_bytes=100, writers=2)
    except OmewdError as refusal:
        if "write units" not in refusal.remedy:
            assert slots == 0
            return
        most = dict(
            part.rsplit(" along ", 1)[::-1]
            for part in refusal.remedy.split("at most ")[1].split(", or")[0].split(" and ")
        )
        dims = [
            d.model_copy(update={"chunk_size": int(most[d.name]), "shard_size_chunks": None}) if d.name in most else d
            for d in spec.dimensions
        ]
        smaller = Plan.of(spec.model_copy(update={"dimensions": tuple(dims)}))
        assert choose_capacity(smaller, 1, Budget(slots, 0), target_bytes=100, writers=2) <= slots
