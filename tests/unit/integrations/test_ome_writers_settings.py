"""The settings of ome-writers become streams that mean the same."""

from __future__ import annotations

import json
from typing import Any

import ome_writers
import pytest
from ome_writers import AcquisitionSettings, Channel, Dimension, Plate, Position

from omewd.errors import OmewdError
from omewd.integrations.ome_writers import hex_color, stream_fields
from omewd.model.spec.spec import StreamSpec

FRAME = [
    Dimension(name="y", count=64, chunk_size=32, shard_size_chunks=2, type="space", unit="um", scale=0.5),
    Dimension(name="x", count=48, chunk_size=16, type="space", unit="micrometer", scale=0.5, translation=-3.0),
]
POSITIONS = [
    Position(name="a", x_coord=1.5, y_coord=-2.0, z_coord=10.0, grid_row=0, grid_column=0),
    Position(name="b", x_coord=2.5, y_coord=-2.0, grid_row=0, grid_column=1),
]
WELLS = [
    Position(name=f"field{n}", plate_row=row, plate_column=column)
    for row, column in (("A", "1"), ("B", "3"))
    for n in range(2)
]
CHANNELS = [
    Channel(name="DAPI", color="blue", excitation_wavelength_nm=405, emission_wavelength_nm=450, fluorophore="DAPI"),
    Channel(name="GFP", color="#0f0"),
    Channel(name="Cy5", color=(255, 0, 128, 0.5)),
]
T = Dimension(name="t", count=None, chunk_size=4, type="time", unit="ms", scale=50)
C = Dimension(name="c", coords=CHANNELS)
Z = Dimension(
    name="z", count=5, chunk_size=5, shard_size_chunks=1, type="space", unit="nm", scale=250, translation=-500
)

SETTINGS: dict[str, dict[str, Any]] = {
    "frame": {"dimensions": FRAME},
    "tczyx": {"dimensions": [T, C, Z, *FRAME], "compression": "blosc-zstd", "overwrite": True},
    "ctz": {"dimensions": [C, Dimension(name="t", count=3, type="time"), Z, *FRAME], "storage_order": "acquisition"},
    "order": {
        "dimensions": [Dimension(name="t", count=3, type="time"), C, Z, *FRAME],
        "storage_order": ["t", "z", "c", "y", "x"],
    },
    "positions": {"dimensions": [Dimension(name="p", coords=POSITIONS), C, *FRAME]},
    "numbered": {"dimensions": [Dimension(name="t", count=2), Dimension(name="p", type="position", count=3), *FRAME]},
    "plate": {
        "dimensions": [Dimension(name="p", coords=WELLS), *FRAME],
        "plate": Plate(row_names=["A", "B"], column_names=["1", "2", "3"], name="plate 1"),
    },
    "angles": {"dimensions": [Dimension(name="angle", coords=["left", "right"], type="other"), *FRAME]},
    "uneven": {"dimensions": [Dimension(name="z", coords=[0.0, 1.0, 5.0], type="space", unit="µm"), *FRAME]},
    "standard": {"dimensions": ome_writers.dims_from_standard_axes({"t": 4, "c": ["a", "b"], "y": 32, "x": 32})},
}


def parsed(document: dict[str, Any]) -> StreamSpec:
    return StreamSpec.parse({"name": "unnamed", **stream_fields(document)})


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("backend", ["auto", "tensorstore", "acquire-zarr", "zarr-python"])
@pytest.mark.parametrize("which", SETTINGS)
def test_what_ome_writers_dumps(which: str, backend: str) -> None:
    settings = AcquisitionSettings(
        root_path="data/run 7.b.ome.zarr",
        dtype="uint8",
        format={"name": "ome-zarr", "backend": backend},
        **SETTINGS[which],
    )
    for document in (settings.model_dump(mode="json"), json.loads(settings.model_dump_json(exclude_unset=True))):
        spec = parsed(document)
        assert (spec.name, spec.output, spec.dtype) == ("run-7-b", settings.output_path, "uint8")
        assert spec.backend == backend
        levels = {"blosc-zstd": "blosc-zstd:3", "zstd": "zstd:3"}  # as its backends have them
        assert spec.compression == levels.get(settings.compression, settings.compression)
        assert spec.overwrite is settings.overwrite
        assert len(spec.dimensions) == len(settings.dimensions)
        for mine, theirs in zip(spec.dimensions, settings.dimensions, strict=True):
            check_dimension(mine, theirs)
        assert [p.model_dump() for p in spec.positions] == (
            [p.model_dump() for p in settings.positions] if settings.position_dimension_index is not None else []
        )
        assert [d.name for d in spec.disk_dimensions] == [d.name for d in settings.array_storage_dimensions]
        if settings.plate is None:
            assert spec.plate is None
        else:
            assert spec.plate is not None
            assert list(spec.plate.row_names) == settings.plate.row_names
            assert list(spec.plate.column_names) == settings.plate.column_names
            assert spec.plate.name == settings.plate.name


@pytest.mark.parametrize(
    ("which", "paths"),
    [
        ("frame", ("",)),
        ("positions", ("a_0_0", "b_0_1")),
        ("numbered", ("0", "1", "2")),
        ("plate", ("A/1/field0", "A/1/field1", "B/3/field0", "B/3/field1")),
    ],
)
def test_images_are_where_ome_writers_puts_them(which: str, paths: tuple[str, ...]) -> None:
    settings = AcquisitionSettings(root_path="run.ome.zarr", dtype="uint8", format="ome-zarr", **SETTINGS[which])
    for document in (settings.model_dump(mode="json"), json.loads(settings.model_dump_json(exclude_unset=True))):
        assert parsed(document).image_paths == paths


@pytest.mark.parametrize("name", ["a/b", "..", "OME"])
def test_positions_whose_names_can_not_be_folders_are_numbered(name: str) -> None:
    dimensions = [{"name": "p", "type": "position", "coords": [name, "b"]}, {"name": "y", "count": 4}]
    document = {"root_path": "run.zarr", "dimensions": [*dimensions, {"name": "x", "count": 4}]}
    assert parsed(document).image_paths == ("0", "1")


def check_dimension(mine: Any, theirs: Any) -> None:
    assert (mine.name, mine.count) == (theirs.name, theirs.count)
    assert mine.type == (theirs.type or {"t": "time", "z": "space"}.get(theirs.name, "other"))
    if theirs.unit is not None:
        assert mine.unit == theirs.unit
    if theirs.scale is not None:
        assert mine.scale == theirs.scale
    if theirs.translation is not None:
        assert mine.translation == theirs.translation
    if theirs.type != "position":
        assert (mine.chunk_size, mine.shard_size_chunks) == (theirs.chunk_size, theirs.shard_size_chunks)
    if theirs.type == "channel":
        for channel, given in zip(mine.coords, theirs.coords, strict=True):
            assert channel.name == given.name
            assert channel.excitation_wavelength_nm == given.excitation_wavelength_nm
            assert channel.fluorophore == given.fluorophore
            rgb = (255, 255, 255) if given.color is None else given.color.as_rgb_tuple(alpha=False)
            assert channel.color == "{:02X}{:02X}{:02X}".format(*rgb)
    elif theirs.type != "position" and theirs.coords is not None:
        assert list(mine.coords) == theirs.coords


def test_what_people_write() -> None:
    spec = parsed(
        {
            "root_path": "a/run.zarr",
            "format": "tensorstore",
            "compression": "none",
            "dimensions": [
                {"name": "time-lapse", "count": 10, "type": "time", "unit": "sec", "scale": 2},
                {"name": "p", "coords": ["left", "right"]},
                {"name": "c", "coords": ["DAPI", {"name": "GFP", "color": "rgb(0, 255, 0)"}]},
                {"name": "z", "coords": ["0", "0.5", "1"], "unit": "µm"},
                {"name": "row", "count": 32, "scale": 0},
                {"name": "col", "count": 32, "chunk_size": 16},
            ],
            "storage_order": ["time-lapse", "c", "z", "row", "col"],
            "dtype": ">u2",
        }
    )
    assert (spec.name, spec.output, spec.backend) == ("run", "a/run.zarr", "tensorstore")
    assert [d.name for d in spec.dimensions] == ["time_lapse", "p", "c", "z", "row", "col"]
    assert [d.type for d in spec.dimensions] == ["time", "position", "channel", "space", "space", "space"]
    assert [d.unit for d in spec.dimensions[:4]] == ["second", None, None, "micrometer"]
    assert [p.name for p in spec.positions] == ["left", "right"]
    assert [c.color for c in spec.dimensions[2].coords or ()] == ["FFFFFF", "00FF00"]  # type: ignore[union-attr]
    assert (spec.dimensions[3].scale, spec.dimensions[3].translation) == (0.5, 0.0)
    assert (spec.dtype, spec.compression) == ("uint16", None)


@pytest.mark.parametrize(
    ("root", "given", "output"),
    [
        ("run", "ome-zarr", "run.ome.zarr"),
        ("run", "zarr-python", "run.ome.zarr"),
        ("run.zarr", "auto", "run.zarr"),
        ("run.ome.zarr", None, "run.ome.zarr"),
        ("/data/run.ome.zarr/", {"name": "ome-zarr"}, "/data/run.ome.zarr"),
        ("run.zarr", {"name": "ome-zarr", "suffix": ".ome.zarr"}, "run.ome.zarr"),
    ],
)
def test_where_the_dataset_goes(root: str, given: Any, output: str) -> None:
    fields = stream_fields({"root_path": root, "format": given, "dimensions": []})
    assert (fields["name"], fields["output"]) == ("run", output)


def test_settings_without_a_path_leave_the_name_to_others() -> None:
    fields = stream_fields({"format": "ome-zarr"})
    assert "name" not in fields
    assert "output" not in fields


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"root_path": "run.ome.tiff"}, "ome-tiff.*root_path that ends in .ome.zarr"),
        ({"root_path": "run.zarr", "format": "tifffile"}, "ome-tiff"),
        ({"root_path": "run.zarr", "format": {"name": "ome-tiff"}}, "ome-tiff"),
        ({"root_path": ""}, "scratch.*a root_path that ends in"),
        ({"root_path": "run.zarr", "format": "memory"}, "scratch"),
        ({"root_path": "run.zarr", "format": "hdf5"}, "'hdf5'.*unknown"),
        ({"root_path": "run.zarr", "format": 3}, "name or an object"),
        ({"root_path": "s3://bucket/run.zarr"}, "only writes to local paths"),
        ({"root_path": "/.zarr"}, "no name"),
        ({"root_path": "run.zarr", "backend": "tensorstore"}, "'format'"),
        ({"root_path": "run.zarr", "compression": "lzw"}, "TIFF"),
        ({"root_path": "run.zarr", "colour": 1}, "'colour'.*compression"),
        ({"root_path": "run.zarr", "dimensions": "tyx"}, "must be a list"),
        ({"root_path": "run.zarr", "dimensions": ["t"]}, "must be an object"),
        ({"root_path": "run.zarr", "dimensions": [{"name": "t", "size": 3}]}, "'size'"),
        ({"root_path": "run.zarr", "dimensions": [{"name": "t", "coords": "abc"}]}, "coords.*list"),
        (
            {"root_path": "r.zarr", "dimensions": [{"name": "c", "coords": [{"name": "a", "color": "bleu"}]}, 1, 2]},
            "bleu",
        ),
    ],
)
def test_what_can_not_be_a_stream_is_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(OmewdError, match=message) as caught:
        stream_fields(document)
    assert caught.value.code == "bad_spec"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("red", "FF0000"),
        ("#0f0", "00FF00"),
        ("#0f08", "00FF00"),
        ("0000ff", "0000FF"),
        ("#11223344", "112233"),
        ("rgb(1, 2, 3)", "010203"),
        ("hsl(0, 100%, 50%)", "FF0000"),
        ([255, 128, 0], "FF8000"),
        ([1, 2, 3, 0.5], "010203"),
    ],
)
def test_colours(given: Any, expected: str) -> None:
    assert hex_color(given) == expected


@pytest.mark.parametrize("given", ["", "reddish", [1, 2], [300, 0, 0], None, True])
def test_no_colours(given: Any) -> None:
    with pytest.raises(OmewdError, match="not a colour"):
        hex_color(given)
