"""All zarr.json files of a dataset: images of positions and of wells, resolutions, places; judged by yaozarrs."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from yaozarrs import validate_zarr_store

from omewd.dataset.metadata import documents
from omewd.errors import OmewdError
from omewd.model.plan.images import shape_on_disk
from omewd.model.plan.levels import levels_of
from omewd.model.plan.plan import Plan
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec

Fields = dict[str, Any]

Y: Fields = {"name": "y", "count": 8, "scale": 0.5}
X: Fields = {"name": "x", "count": 16, "scale": 0.25}


def spec_of(*outer: Fields, frame: Sequence[Fields] = (Y, X), **fields: Any) -> StreamSpec:
    return StreamSpec.parse({"name": "s", "dimensions": [*outer, *frame], **fields})


def all_frames(spec: StreamSpec) -> list[int]:
    return [Plan.of(spec, source=source).frames_total or 0 for source in range(spec.sources)]


def write(folder: Path, spec: StreamSpec, frames: Sequence[int] | None = None) -> Path:
    """A dataset of metadata only, which yaozarrs finds valid and zarr-python can read."""
    dataset = folder / "d.ome.zarr"
    for path, document in documents(spec, all_frames(spec) if frames is None else frames):
        (dataset / path).parent.mkdir(parents=True, exist_ok=True)
        (dataset / path).write_text(json.dumps(document.json, allow_nan=False))
        assert json.loads(document.text) == document.json
    validate_zarr_store(str(dataset))
    for path, level in itertools.product(spec.image_paths, levels_of(spec)):
        array = zarr.open_array(str(dataset / path / str(level.number)), mode="r")
        assert array.ndim == len(level.key_shape)
        assert (array.shards or array.chunks) == level.key_shape
        assert array.chunks == level.chunk_shape
    return dataset


def ome(dataset: Path, path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((dataset / path / "zarr.json").read_text())["attributes"]["ome"]
    assert found["version"] == "0.5"
    return found


def multiscale(dataset: Path, path: str = "") -> dict[str, Any]:
    [found] = ome(dataset, path)["multiscales"]
    assert isinstance(found, dict)
    return found


def places(dataset: Path, path: str = "") -> list[tuple[list[float], list[float] | None]]:
    """(scale, translation) of each resolution."""
    found: list[tuple[list[float], list[float] | None]] = []
    for number, level in enumerate(multiscale(dataset, path)["datasets"]):
        scale, *rest = level["coordinateTransformations"]
        assert (level["path"], scale["type"], len(rest) <= 1) == (str(number), "scale", True)
        assert all(transformation["type"] == "translation" for transformation in rest)
        found.append((scale["scale"], rest[0]["translation"] if rest else None))
    return found


def shape(dataset: Path, path: str) -> tuple[int, ...]:
    return zarr.open_array(str(dataset / path), mode="r").shape


def files(dataset: Path) -> set[str]:
    return {str(path.relative_to(dataset).parent) for path in dataset.rglob("zarr.json")}


# -- positions -------------------------------------------------------------------------------------


def test_one_image_is_the_dataset_itself(tmp_path: Path) -> None:
    dataset = write(tmp_path, spec_of({"name": "t", "count": 2}))
    assert files(dataset) == {".", "0"}
    assert multiscale(dataset)["name"] == "s"


def test_positions_are_a_collection_of_images(tmp_path: Path) -> None:
    spec = spec_of({"name": "p", "coords": ["here", "there", "away"]}, {"name": "t", "count": 2})
    dataset = write(tmp_path, spec)
    assert files(dataset) == {".", "OME", "0", "0/0", "1", "1/0", "2", "2/0"}
    root = ome(dataset)
    assert (root["bioformats2raw.layout"], "multiscales" in root) == (3, False)
    assert ome(dataset, "OME")["series"] == ["0", "1", "2"]
    assert [multiscale(dataset, str(number))["name"] for number in range(3)] == ["here", "there", "away"]
    assert all(shape(dataset, f"{number}/0") == (2, 8, 16) for number in range(3))
    axes = [axis["name"] for axis in multiscale(dataset, "1")["axes"]]
    assert axes == ["t", "y", "x"]


def test_a_collection_tells_the_folders_of_its_images(tmp_path: Path) -> None:
    positions = ["here", {"name": "there", "grid_row": 0, "grid_column": 1}]
    dataset = write(tmp_path, spec_of({"name": "p", "coords": positions}, position_folders="names"))
    assert files(dataset) == {".", "OME", "here", "here/0", "there_0_1", "there_0_1/0"}
    assert ome(dataset, "OME")["series"] == ["here", "there_0_1"]
    assert multiscale(dataset, "there_0_1")["name"] == "there"


def test_wells_tell_the_folders_of_their_fields(tmp_path: Path) -> None:
    positions = [well("B", "2", "f0"), well("A", "1", "g"), well("B", "2", "f1")]
    plate = {"row_names": ["A", "B"], "column_names": ["1", "2"]}
    dataset = write(tmp_path, spec_of({"name": "p", "coords": positions}, plate=plate, position_folders="names"))
    for path, names in (("B/2", ["f0", "f1"]), ("A/1", ["g"])):
        assert [image["path"] for image in ome(dataset, path)["well"]["images"]] == names
        assert all(shape(dataset, f"{path}/{name}/0") == (8, 16) for name in names)


def test_a_single_position_is_an_image_of_a_collection(tmp_path: Path) -> None:
    dataset = write(tmp_path, spec_of({"name": "p", "count": 1}))
    assert files(dataset) == {".", "OME", "0", "0/0"}
    assert multiscale(dataset, "0")["name"] == "0"


@pytest.mark.parametrize(
    ("frames", "shapes"),
    [
        (0, [(0, 2, 8, 16), (0, 2, 8, 16)]),
        (1, [(1, 1, 8, 16), (0, 2, 8, 16)]),
        (3, [(1, 2, 8, 16), (1, 1, 8, 16)]),
        (5, [(2, 2, 8, 16), (1, 2, 8, 16)]),
        (12, [(3, 2, 8, 16), (3, 2, 8, 16)]),
    ],
)
def test_each_image_claims_what_has_arrived_of_it(tmp_path: Path, frames: int, shapes: list[tuple[int, ...]]) -> None:
    spec = spec_of({"name": "t", "count": 3}, {"name": "p", "count": 2}, {"name": "c", "count": 2})
    dataset = write(tmp_path, spec, [frames])
    assert [shape(dataset, f"{number}/0") for number in range(2)] == shapes


def test_where_the_stage_was_is_where_the_image_is(tmp_path: Path) -> None:
    positions = [
        {"name": "a", "x_coord": 100.0, "y_coord": -20.0, "z_coord": 7.0},
        {"name": "b", "y_coord": 3.0},
        {"name": "c"},
    ]
    z = {"name": "z", "count": 3, "scale": 2.0, "translation": 1.0}
    dataset = write(tmp_path, spec_of({"name": "p", "coords": positions}, {"name": "c", "count": 2}, z))
    assert places(dataset, "0") == [([1.0, 2.0, 0.5, 0.25], [0.0, 8.0, -20.0, 100.0])]
    assert places(dataset, "1") == [([1.0, 2.0, 0.5, 0.25], [0.0, 1.0, 3.0, 0.0])]
    assert places(dataset, "2") == [([1.0, 2.0, 0.5, 0.25], [0.0, 1.0, 0.0, 0.0])]


def test_a_depth_of_the_stage_has_no_place_in_flat_images(tmp_path: Path) -> None:
    positions = [{"name": "a", "x_coord": 1.5, "z_coord": 7.0}]
    dataset = write(tmp_path, spec_of({"name": "p", "coords": positions}, {"name": "t", "count": 3}))
    assert places(dataset, "0") == [([1.0, 0.5, 0.25], [0.0, 0.0, 1.5])]


# -- plates ----------------------------------------------------------------------------------------


def well(row: str, column: str, name: str, **fields: Any) -> Fields:
    return {"name": name, "plate_row": row, "plate_column": column, **fields}


def test_a_plate_has_its_wells_and_wells_their_fields(tmp_path: Path) -> None:
    positions = [well("B", "2", "f0"), well("A", "10", "g"), well("B", "2", "f1", x_coord=9.0), well("B", "10", "h")]
    spec = spec_of(
        {"name": "t", "count": 2},
        {"name": "p", "coords": positions},
        plate={"row_names": ["A", "B", "C"], "column_names": ["1", "2", "10"], "name": "assay"},
    )
    dataset = write(tmp_path, spec)
    plate = ome(dataset)["plate"]
    assert plate["name"] == "assay"
    assert [row["name"] for row in plate["rows"]] == ["A", "B", "C"]
    assert [column["name"] for column in plate["columns"]] == ["1", "2", "10"]
    assert plate["field_count"] == 2
    wells = {(w["path"], w["rowIndex"], w["columnIndex"]) for w in plate["wells"]}
    assert wells == {("B/2", 1, 1), ("A/10", 0, 2), ("B/10", 1, 2)}
    for path, names in (("B/2", ["0", "1"]), ("A/10", ["0"]), ("B/10", ["0"])):
        assert [image["path"] for image in ome(dataset, path)["well"]["images"]] == names
    for row in ("A", "B"):
        document = json.loads((dataset / row / "zarr.json").read_text())
        assert document == {"zarr_format": 3, "node_type": "group", "attributes": {}}
    images = {"B/2/0": "f0", "A/10/0": "g", "B/2/1": "f1", "B/10/0": "h"}
    assert {path: multiscale(dataset, path)["name"] for path in images} == images
    assert places(dataset, "B/2/1")[0][1] == [0.0, 0.0, 9.0]
    groups = {".", "A", "B", "A/10", "B/2", "B/10"}
    assert files(dataset) == groups | set(images) | {f"{path}/0" for path in images}
    assert not (dataset / "OME").exists()


def test_a_plate_without_a_name_is_called_as_its_stream(tmp_path: Path) -> None:
    plate = {"row_names": ["A"], "column_names": ["1"]}
    dataset = write(tmp_path, spec_of({"name": "p", "coords": [well("A", "1", "f")]}, plate=plate))
    assert ome(dataset)["plate"]["name"] == "s"


def test_wells_without_a_plate_are_positions(tmp_path: Path) -> None:
    dataset = write(tmp_path, spec_of({"name": "p", "coords": [well("A", "1", "f"), well("A", "1", "g")]}))
    assert ome(dataset, "OME")["series"] == ["0", "1"]


# -- resolutions -----------------------------------------------------------------------------------


def test_each_pixel_of_a_mean_is_in_the_middle_of_those_it_stands_for(tmp_path: Path) -> None:
    dataset = write(tmp_path, spec_of({"name": "t", "count": 3, "scale": 30}, levels=4))
    assert places(dataset) == [
        ([30.0, 0.5, 0.25], None),
        ([30.0, 1.0, 0.5], [0.0, 0.25, 0.125]),
        ([30.0, 2.0, 1.0], [0.0, 0.75, 0.375]),
        ([30.0, 4.0, 2.0], [0.0, 1.75, 0.875]),
    ]
    assert [shape(dataset, str(n)) for n in range(4)] == [(3, 8, 16), (3, 4, 8), (3, 2, 4), (3, 1, 2)]
    assert multiscale(dataset)["type"] == "mean"


def test_a_pixel_that_was_picked_is_where_it_was(tmp_path: Path) -> None:
    spec = spec_of({"name": "t", "count": 3}, levels=3, downsample="nearest", dtype="uint8")
    dataset = write(tmp_path, spec)
    assert places(dataset) == [([1.0, 0.5 * f, 0.25 * f], None) for f in (1, 2, 4)]
    assert multiscale(dataset)["type"] == "nearest"


def test_one_resolution_was_made_by_no_method(tmp_path: Path) -> None:
    assert "type" not in multiscale(write(tmp_path, spec_of({"name": "t", "count": 3})))


def test_depth_that_is_halved_has_its_scale_and_place(tmp_path: Path) -> None:
    z = {"name": "z", "count": 6, "chunk_size": 2, "scale": 3.0, "translation": 10.0}
    y = {**Y, "translation": -1.0}
    dataset = write(tmp_path, spec_of({"name": "c", "count": 2}, z, frame=(y, X), levels=3))
    assert places(dataset) == [
        ([1.0, 3.0, 0.5, 0.25], [0.0, 10.0, -1.0, 0.0]),
        ([1.0, 6.0, 1.0, 0.5], [0.0, 11.5, -0.75, 0.125]),
        ([1.0, 6.0, 2.0, 1.0], [0.0, 11.5, -0.25, 0.375]),  # a chunk is one plane by now
    ]
    assert [shape(dataset, str(n)) for n in range(3)] == [(2, 6, 8, 16), (2, 3, 4, 8), (2, 3, 2, 4)]


def test_an_axis_with_one_pixel_left_is_not_halved_any_more(tmp_path: Path) -> None:
    frame = ({"name": "y", "count": 2, "scale": 1.0}, {"name": "x", "count": 16, "scale": 1.0})
    dataset = write(tmp_path, spec_of(frame=frame, levels=4))
    assert [scale for scale, _ in places(dataset)] == [[1.0, 1.0], [2.0, 2.0], [2.0, 4.0], [2.0, 8.0]]
    assert [moved for _, moved in places(dataset)] == [None, [0.5, 0.5], [0.5, 1.5], [0.5, 3.5]]


def test_ragged_ends_are_rounded_up(tmp_path: Path) -> None:
    frame = ({"name": "y", "count": 9, "chunk_size": 4}, {"name": "x", "count": 5})
    dataset = write(tmp_path, spec_of({"name": "t", "count": 2}, frame=frame, levels=4))
    assert [shape(dataset, str(n)) for n in range(4)] == [(2, 9, 5), (2, 5, 3), (2, 3, 2), (2, 2, 1)]


def test_the_images_of_all_positions_have_all_resolutions(tmp_path: Path) -> None:
    spec = spec_of({"name": "t", "count": 2}, {"name": "p", "coords": [{"name": "a", "x_coord": 5.0}, "b"]}, levels=2)
    dataset = write(tmp_path, spec, [1])
    assert files(dataset) == {".", "OME", *(f"{p}{level}" for p in "01" for level in ("", "/0", "/1"))}
    assert places(dataset, "0") == [([1.0, 0.5, 0.25], [0.0, 0.0, 5.0]), ([1.0, 1.0, 0.5], [0.0, 0.25, 5.125])]
    assert [shape(dataset, path) for path in ("0/0", "0/1", "1/0", "1/1")] == [
        (1, 8, 16),
        (1, 4, 8),
        (0, 8, 16),
        (0, 4, 8),
    ]


# -- what axes mean --------------------------------------------------------------------------------


def axes(dataset: Path) -> list[tuple[str, str | None, str | None]]:
    return [(axis["name"], axis.get("type"), axis.get("unit")) for axis in multiscale(dataset)["axes"]]


@pytest.mark.parametrize(
    ("dims", "order", "types"),
    [
        ("c:2,t:2", "acquisition", "c:channel t:None y:space x:space"),
        ("t:2,z:2,c:2", "acquisition", "t:time z:None c:channel y:space x:space"),
        ("z:2,c:2", ("z", "c"), "z:None c:channel y:space x:space"),
        ("t:2,z:2", ("z", "t"), None),  # two that are nothing
        ("z:2,t:2", "ome", "t:time z:space y:space x:space"),
        ("z:2,c:2,t:2", ("t", "c", "z"), "t:time c:channel z:space y:space x:space"),
        ("a:2,t:2", "acquisition", None),
        ("a:2,t:2", "ome", "t:time a:other y:space x:space"),
    ],
)
def test_an_axis_that_is_stored_where_its_type_has_no_place_goes_without_one(
    tmp_path: Path, dims: str, order: Any, types: str | None
) -> None:
    outer = [d.model_dump() for d in parse_dims(dims)]
    if types is None:
        with pytest.raises(OmewdError, match="storage_order"):
            spec_of(*outer, storage_order=order)
        return
    spec = spec_of(*outer, storage_order=order, levels=2)
    dataset = write(tmp_path, spec)
    found = axes(dataset)
    assert " ".join(f"{name}:{kind}" for name, kind, _ in found) == types
    units = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
    assert all(unit == units.get(name) for name, _, unit in found)
    array = json.loads((dataset / "0" / "zarr.json").read_text())
    assert array["dimension_names"] == [name for name, _, _ in found] == [d.name for d in spec.disk_dimensions]


@given(
    st.permutations(["t:2", "c:2", "z:2:2", "a:2", "p:2"]),
    st.integers(0, 4),
    st.sampled_from(["ome", "acquisition", "turned"]),
    st.integers(1, 3),
    st.sampled_from(["mean", "nearest", "min", "max"]),
    st.integers(0, 16),
)
def test_any_order_that_is_taken_makes_a_valid_dataset(
    dims: list[str], rank: int, order: str, levels: int, downsample: str, frames: int
) -> None:
    outer = [d.model_dump() for part in dims[:rank] for d in parse_dims(part)]
    names = tuple(d["name"] for d in outer if d["type"] != "position")
    stored = names[::-1] if order == "turned" else order
    try:
        spec = spec_of(*outer, storage_order=stored, levels=levels, downsample=downsample)
    except OmewdError as error:
        # OME's own order has a place for all axes that there may be.
        if "OME-Zarr 0.5" not in error.message or (order == "ome" and len(names) < 4):
            raise
        return
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(Path(folder), spec, [min(frames, *all_frames(spec))])
        for path, level in itertools.product(spec.image_paths, levels_of(spec)):
            full = shape(dataset, f"{path}/0".lstrip("/"))
            assert shape(dataset, f"{path}/{level.number}".lstrip("/")) == level.shape(full)


def test_coordinates_at_one_distance_are_scale_and_translation(tmp_path: Path) -> None:
    z = {"name": "z", "coords": [-3.0, -1.5, 0.0, 1.5]}
    t = {"name": "t", "count": 2, "scale": 0.1, "unit": "ms", "translation": 2.5}
    dataset = write(tmp_path, spec_of(t, z))
    assert places(dataset) == [([0.1, 1.5, 0.5, 0.25], [2.5, -3.0, 0.0, 0.0])]
    assert axes(dataset)[0] == ("t", "time", "millisecond")


def test_what_is_at_the_origin_has_no_translation(tmp_path: Path) -> None:
    spec = spec_of({"name": "p", "coords": [{"name": "a", "x_coord": 0.0, "y_coord": 0.0}]}, {"name": "t", "count": 2})
    assert places(write(tmp_path, spec), "0") == [([1.0, 0.5, 0.25], None)]


def test_the_optics_of_a_channel_are_told() -> None:
    coords: list[Any] = [
        {"name": "GFP", "color": "00FF00", "excitation_wavelength_nm": 488, "emission_wavelength_nm": 507.5},
        {"name": "DNA", "fluorophore": "DAPI", "excitation_wavelength_nm": 405.0},
        "plain",
    ]
    spec = spec_of({"name": "p", "count": 2}, {"name": "c", "coords": coords}, {"name": "z", "count": 2})
    with tempfile.TemporaryDirectory() as folder:
        dataset = write(Path(folder), spec)
        optics = ("emissionWave", "excitationWave", "fluorophore")
        for path in ("0", "1"):
            shown = ome(dataset, path)["omero"]["channels"]
            assert [(c["label"], c["color"]) for c in shown] == [
                ("GFP", "00FF00"),
                ("DNA", "FFFFFF"),
                ("plain", "FFFFFF"),
            ]
            assert [{name: c[name] for name in optics if name in c} for c in shown] == [
                {"emissionWave": 507.5, "excitationWave": 488.0},
                {"excitationWave": 405.0, "fluorophore": "DAPI"},
                {},
            ]


def test_channels_are_told_of_each_image_as_far_as_it_has_them(tmp_path: Path) -> None:
    spec = spec_of({"name": "p", "count": 2}, {"name": "c", "coords": ["a", "b", "c"]})
    dataset = write(tmp_path, spec, [5])
    shown = [[c["label"] for c in ome(dataset, path)["omero"]["channels"]] for path in ("0", "1")]
    assert shown == [["a", "b", "c"], ["a", "b"]]


# -- several sources -------------------------------------------------------------------------------


def test_sources_that_are_channels_make_one_image(tmp_path: Path) -> None:
    spec = spec_of({"name": "t", "count": None}, {"name": "c", "coords": ["left", "right"]}, source_dimension="c")
    assert shape(write(tmp_path, spec, [2, 5]), "0") == (5, 2, 8, 16)
    assert [c["label"] for c in ome(tmp_path / "d.ome.zarr")["omero"]["channels"]] == ["left", "right"]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        # A bug in shape_on_disk (model/plan/images.py): (0, 1, 8, 16) before the first frame. With names, "omero" has
        # only the first channel until then.
        ([0, 0], (0, 2, 8, 16)),
        ([0, 1], (1, 2, 8, 16)),
        ([3, 0], (3, 2, 8, 16)),
        ([4, 4], (4, 2, 8, 16)),
    ],
)
def test_an_image_is_as_long_as_the_source_that_is_ahead(
    tmp_path: Path, frames: list[int], expected: tuple[int, ...]
) -> None:
    spec = spec_of({"name": "t", "count": 4}, {"name": "c", "count": 2}, source_dimension="c")
    assert shape(write(tmp_path, spec, frames), "0") == expected


def test_sources_that_are_positions_have_an_image_each(tmp_path: Path) -> None:
    spec = spec_of(
        {"name": "p", "coords": [{"name": "left", "x_coord": -4.0}, "right"]},
        {"name": "t", "count": None},
        source_dimension="p",
        levels=2,
    )
    dataset = write(tmp_path, spec, [3, 1])
    assert [shape(dataset, path) for path in ("0/0", "1/0", "0/1", "1/1")] == [
        (3, 8, 16),
        (1, 8, 16),
        (3, 4, 8),
        (1, 4, 8),
    ]
    assert places(dataset, "0")[0][1] == [0.0, 0.0, -4.0]


@given(
    st.sampled_from(["t:3,p:2,c:2", "p:2,t:3:2,c:2", "c:2,t:3,p:3", "t:inf,c:2"]),
    st.sampled_from(["p", "c", None]),
    st.lists(st.integers(0, 9), min_size=3, max_size=3),
)
def test_the_shape_on_disk_is_that_of_all_frames_that_have_arrived(
    dims: str, of: str | None, counts: list[int]
) -> None:
    """By writing down where each frame of each source goes."""
    outer = [d.model_dump() for d in parse_dims(dims)]
    spec = spec_of(*outer, source_dimension=of if of in {d["name"] for d in outer} else None)
    plans = [Plan.of(spec, source=source) for source in range(spec.sources)]
    frames = [min(plan.frames_total or n, n) for plan, n in zip(plans, counts, strict=False)]
    for image in range(spec.images):
        held = [
            plan.place(frame)
            for plan, count in zip(plans, frames, strict=True)
            for frame in range(count)
            if plan.image(frame) == image
        ]
        found = shape_on_disk(spec, frames, image)
        assert found[-2:] == (8, 16)
        if not held:
            assert 0 in found
            continue
        expected = list(np.max(np.array(held), axis=0) + 1)
        names = [d.name for d in spec.disk_dimensions]
        if of in names:  # the array has all of them, whichever has begun
            expected[names.index(of)] = spec.sources
        assert list(found[:-2]) == expected
