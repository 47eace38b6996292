"""The metadata of datasets, judged by yaozarrs and zarr-python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from yaozarrs import v05, validate_zarr_store

from omewd.dataset.metadata import array_json
from omewd.model.dtypes import ITEM_BYTES
from omewd.model.plan.plan import Plan
from omewd.model.spec.dimensions import Dimension, parse_dims
from omewd.model.spec.spec import StreamSpec
from tests.support.datasets import image_group


def make(folder: Path, spec: StreamSpec, frames: int) -> zarr.Array[Any]:
    """A dataset of metadata only."""
    (folder / "0").mkdir(parents=True)
    (folder / "zarr.json").write_text(json.dumps(image_group(spec, [frames]), allow_nan=False))
    (folder / "0" / "zarr.json").write_text(json.dumps(array_json(spec, [frames]), allow_nan=False))
    return zarr.open_array(str(folder / "0"), mode="r")


def spec_of(dims: str, **fields: Any) -> StreamSpec:
    return StreamSpec(name="s", dimensions=parse_dims(dims), **fields)


def with_channels(dims: str, names: list[str], dtype: str = "uint16") -> StreamSpec:
    dimensions = tuple(
        Dimension.model_validate({"name": "c", "count": d.count, "coords": names}) if d.name == "c" else d
        for d in parse_dims(dims)
    )
    return StreamSpec(name="s", dimensions=dimensions, dtype=dtype)


def axes_of(spec: StreamSpec, frames: int = 1) -> list[tuple[str, str | None, str | None]]:
    document = image_group(spec, [frames])
    [multiscale] = document["attributes"]["ome"]["multiscales"]
    return [(axis["name"], axis.get("type"), axis.get("unit")) for axis in multiscale["axes"]]


@pytest.mark.parametrize(
    "dims",
    [
        "y:4,x:5",
        "t:3,y:4,x:5",
        "t:inf:2:2,y:4:2:2,x:5",
        "z:4,c:2,t:3,y:4,x:5",
        "c:2,t:3:3,y:4:2,x:5:3",
        "a:3,y:4,x:5",
    ],
)
@pytest.mark.parametrize("frames", [0, 1, 3])
def test_a_dataset_validates_and_opens_at_any_moment(tmp_path: Path, dims: str, frames: int) -> None:
    spec = spec_of(dims)
    frames = min(frames, Plan.of(spec).frames_total or frames)
    array = make(tmp_path / "d.ome.zarr", spec, frames)
    shape = Plan.of(spec).outer_shape(frames)
    expected = (*(shape[i] for i in Plan.of(spec).order), *spec.frame_shape)
    assert array.shape == (expected if frames or len(expected) > 2 else (0, expected[1]))
    names = json.loads((tmp_path / "d.ome.zarr" / "0" / "zarr.json").read_text())["dimension_names"]
    assert names == [d.name for d in spec.disk_dimensions]
    validate_zarr_store(str(tmp_path / "d.ome.zarr"))


@pytest.mark.parametrize("compression", [None, "blosc-lz4", "blosc-zstd", "zstd"])
@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_each_pixel_type_and_compression_opens(tmp_path: Path, dtype: str, compression: str | None) -> None:
    array = make(tmp_path / "d.ome.zarr", spec_of("t:3:2:2,y:4,x:5", dtype=dtype, compression=compression), 3)
    assert array.dtype == np.dtype(dtype)
    assert array.shards == (4, 4, 5)
    assert array.chunks == (2, 4, 5)
    assert not np.asarray(array[...]).any()


def test_without_shards_a_key_is_a_chunk(tmp_path: Path) -> None:
    array = make(tmp_path / "d.ome.zarr", spec_of("t:3:2,y:4,x:5:3"), 3)
    assert (array.shards, array.chunks) == (None, (2, 4, 3))


def test_axes_carry_their_meaning_in_storage_order() -> None:
    assert axes_of(spec_of("z:2,c:2,t:2,y:4,x:5")) == [
        ("t", "time", "second"),
        ("c", "channel", None),
        ("z", "space", "micrometer"),
        ("y", "space", "micrometer"),
        ("x", "space", "micrometer"),
    ]
    assert axes_of(spec_of("a:2,y:4,x:5"))[0] == ("a", "other", None)


def test_scales_are_in_storage_order() -> None:
    dimensions = (
        Dimension(name="z", count=2, scale=0.5),
        Dimension(name="t", count=2, scale=30),
        Dimension(name="y", count=4, scale=0.1),
        Dimension(name="x", count=5, scale=0.2),
    )
    document = image_group(StreamSpec(name="s", dimensions=dimensions), [4])
    [multiscale] = document["attributes"]["ome"]["multiscales"]
    [dataset] = multiscale["datasets"]
    assert dataset["path"] == "0"
    assert dataset["coordinateTransformations"] == [{"type": "scale", "scale": [30, 0.5, 0.1, 0.2]}]
    assert (multiscale["name"], document["attributes"]["ome"]["version"]) == ("s", "0.5")


def channels(spec: StreamSpec, frames: int) -> list[str] | None:
    omero = image_group(spec, [frames])["attributes"]["ome"].get("omero")
    return None if omero is None else [channel["label"] for channel in omero["channels"]]


@pytest.mark.parametrize(
    ("dims", "frames", "labels"),
    [
        ("t:4,c:3,y:4,x:5", 12, ["DAPI", "GFP", "Cy5"]),
        ("t:4,c:3,y:4,x:5", 4, ["DAPI", "GFP", "Cy5"]),
        ("t:4,c:3,y:4,x:5", 2, ["DAPI", "GFP"]),
        ("c:3,t:4,y:4,x:5", 5, ["DAPI", "GFP"]),
        ("c:3,t:4,y:4,x:5", 4, ["DAPI"]),
        ("c:3,t:4,y:4,x:5", 0, []),
    ],
)
def test_channels_are_cut_with_the_shape(tmp_path: Path, dims: str, frames: int, labels: list[str]) -> None:
    spec = with_channels(dims, ["DAPI", "GFP", "Cy5"])
    assert (channels(spec, frames) or []) == labels
    array = make(tmp_path / "d.ome.zarr", spec, frames)
    assert array.shape[[d.name for d in spec.disk_dimensions].index("c")] == len(labels)


def test_channels_without_names_are_shown_too() -> None:
    assert channels(spec_of("c:3,y:4,x:5"), 3) == ["0", "1", "2"]
    assert channels(spec_of("t:3,y:4,x:5"), 3) == ["s"]
    assert channels(spec_of("c:1000,y:4,x:5"), 1000) is None


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("uint8", 0, 255), ("uint16", 0, 65535), ("int16", -32768, 32767), ("int8", -128, 127), ("float32", 0, 1)],
)
def test_the_window_of_a_channel_is_what_its_pixels_can_be(dtype: str, low: float, high: float) -> None:
    document = image_group(with_channels("c:1,y:4,x:5", ["DAPI"], dtype), [1])
    [channel] = document["attributes"]["ome"]["omero"]["channels"]
    assert channel["window"] == {"start": low, "min": low, "end": high, "max": high}


names = st.text("abcXYZ_09", min_size=1, max_size=4).map(lambda text: f"d{text}")
scales = st.floats(1e-9, 1e9)


@st.composite
def specs(draw: st.DrawFn) -> StreamSpec:
    """Any dimensions, meanings, scales and cuts that a stream may have."""
    outer = draw(
        st.permutations([("time", "second"), (draw(st.sampled_from(["channel", "other"])), None), ("space", "meter")])
    )
    outer = outer[: draw(st.integers(0, 3))]
    meanings = [*outer, ("space", "micrometer"), ("space", "micrometer")]
    dimensions = []
    for number, (kind, unit) in enumerate(meanings):
        count = draw(st.integers(1, 4))
        chunk = draw(st.none() | st.integers(1, 3))
        shard = draw(st.none() | st.integers(1, 3))
        if number >= len(outer):  # what is cut out of a frame does not reach past it
            chunk = chunk and min(chunk, count)
            shard = shard and min(shard, -(-count // (chunk or count)))
        fields: dict[str, Any] = {
            "name": f"{draw(names)}{number}",
            "type": kind,
            "unit": unit,
            "scale": draw(scales),
            "count": None if number == 0 and outer and draw(st.booleans()) else count,
            "chunk_size": chunk,
            "shard_size_chunks": shard,
        }
        if kind == "channel" and fields["count"] and draw(st.booleans()):
            fields["coords"] = draw(st.lists(st.text(min_size=1, max_size=5), min_size=count, max_size=count))
        dimensions.append(fields)
    return StreamSpec.model_validate(
        {"name": "s", "dimensions": dimensions, "dtype": draw(st.sampled_from(sorted(ITEM_BYTES)))}
    )


@given(specs(), st.integers(0, 70))
def test_any_stream_has_metadata_that_validates(spec: StreamSpec, frames: int) -> None:
    frames = min(frames, Plan.of(spec).frames_total or frames)
    group = json.loads(json.dumps(image_group(spec, [frames]), allow_nan=False))
    v05.OMEZarrGroupJSON.model_validate(group)
    document = json.loads(json.dumps(array_json(spec, [frames]), allow_nan=False))
    metadata = zarr.core.metadata.ArrayV3Metadata.from_dict(document)
    assert len(metadata.shape) == len(spec.dimensions)
    assert metadata.shape[-2:] == spec.frame_shape if frames else 0 in metadata.shape
