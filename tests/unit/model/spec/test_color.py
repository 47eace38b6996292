"""Colour cameras: the dimension of colours, and the pattern of a Bayer sensor on record."""

from __future__ import annotations

from typing import Any

import pytest

from omewd.errors import OmewdError
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec
from tests.support.datasets import image_group


def spec_of(dims: str, **fields: Any) -> StreamSpec:
    return StreamSpec.parse({"name": "cam", "dimensions": parse_dims(dims), **fields})


@pytest.mark.parametrize(("color", "count"), [("rgb", 3), ("rgba", 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_dimension_of_colours_is_made(color: str, count: int, dtype: str) -> None:
    spec = spec_of("t:5,y:8,x:8", color=color, dtype=dtype)
    assert [d.name for d in spec.dimensions] == ["t", "c", "y", "x"]
    assert spec.dimensions[1].labels == ("Red", "Green", "Blue", "Alpha")[:count]
    assert spec.samples == count
    assert StreamSpec.parse(spec.model_dump(mode="json")) == spec
    shown = image_group(spec, [5 * count])["attributes"]["ome"]["omero"]["channels"]
    assert [c["color"] for c in shown[:3]] == ["FF0000", "00FF00", "0000FF"]
    assert {c["window"]["end"] for c in shown} == {255 if dtype == "uint8" else 65535}


def test_channels_that_fit_are_taken_as_they_are() -> None:
    assert [d.name for d in spec_of("t:5,c:3,y:8,x:8", color="rgb").dimensions] == ["t", "c", "y", "x"]


@pytest.mark.parametrize(
    ("dims", "fields", "says"),
    [
        ("t:5,c:2,y:8,x:8", {"color": "rgb"}, "channel dimension of 3 just before y and x; it is 'c'"),
        ("c:3,t:5,y:8,x:8", {"color": "rgb"}, "it is 't'"),
        ("t:5,c:3,y:8,x:8", {"color": "rgba"}, "channel dimension of 4"),
        ("t:5,c:3,y:8,x:8", {"color": "rgb", "source_dimension": "c"}, "come from one camera"),
        ("t:5,y:8,x:8", {"color": "cmyk"}, "color"),
        ("t:5,y:8,x:8", {"color": ["rgb"]}, "color"),
    ],
)
def test_what_does_not_fit_is_refused(dims: str, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(OmewdError, match=says) as caught:
        spec_of(dims, **fields)
    assert caught.value.code == "bad_spec"


@pytest.mark.parametrize("pattern", ["rggb", "grbg", "gbrg", "bggr"])
def test_the_pattern_of_a_bayer_sensor_is_on_record(pattern: str) -> None:
    spec = spec_of("t:5,y:8,x:8", color=f"bayer-{pattern}", dtype="uint8")
    assert (spec.samples, len(spec.dimensions)) == (1, 3)
    assert image_group(spec, [5])["attributes"]["omewd"] == {"bayer": pattern}
    assert "omewd" not in image_group(spec_of("t:5,y:8,x:8"), [5])["attributes"]
