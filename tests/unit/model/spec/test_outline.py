"""Specs in two parts: what the daemon looks at, and what only those read who need it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.outline import MAX_OUTLINE_VALUES, MAX_SOURCES, join, require_small, split
from omewd.model.spec.spec import StreamSpec

YX: list[dict[str, Any]] = [{"name": "y", "count": 4}, {"name": "x", "count": 5}]
WELLS = [{"name": f"f{i}", "plate_row": "A", "plate_column": str(i + 1), "x_coord": i * 1.5} for i in range(3)]
PLATE = {"row_names": ["A"], "column_names": ["1", "2", "3"]}

SPECS: list[dict[str, Any]] = [
    {"name": "a", "dimensions": "t:5,y:4,x:5"},
    {"name": "a", "dims": "t:5,y:4,x:5"},
    {"name": "a", "dimensions": [{"name": "t", "count": 5}, *YX]},
    {"name": "a", "dimensions": [{"name": "c", "coords": ["DAPI", {"name": "GFP", "color": "00FF00"}]}, *YX]},
    {"name": "a", "dimensions": [{"name": "z", "coords": [1.0, 1.5, 2.0]}, *YX]},
    {"name": "a", "dimensions": [{"name": "z", "count": 2, "coords": [1, 4], "scale": 7}, *YX]},
    {"name": "a", "dimensions": [{"name": "p", "coords": WELLS}, *YX], "plate": PLATE},
    {"name": "a", "source_dimension": "c", "dimensions": [{"name": "c", "coords": ["l", "r"]}, *YX]},
    {
        "name": "a",
        "source_dimension": "c",
        "dimensions": [{"name": "p", "coords": ["u", "v"]}, {"name": "c", "coords": ["l", "r"]}, *YX],
    },
]


@pytest.mark.parametrize("fields", SPECS)
def test_the_two_parts_make_the_spec(fields: dict[str, Any]) -> None:
    before = json.dumps(fields)
    outline, details = split(fields)
    assert json.dumps(fields) == before
    whole, seen = StreamSpec.parse(join(outline, details)), StreamSpec.parse(outline)
    assert whole == StreamSpec.parse(fields)
    assert split(whole.model_dump(mode="json"))[1] == b"" or details
    # All that the daemon works with is in the outline.
    assert (seen.images, seen.sources, seen.source_names) == (whole.images, whole.sources, whole.source_names)
    assert Plan.of(seen, "chunk") == Plan.of(whole, "chunk")
    assert (seen.disk_order, seen.frame_bytes, seen.output) == (whole.disk_order, whole.frame_bytes, whole.output)


@pytest.mark.parametrize("fields", SPECS)
def test_what_is_split_once_is_not_split_again(fields: dict[str, Any]) -> None:
    outline, _ = split(fields)
    assert split(outline) == (outline, b"")


def test_an_outline_does_not_grow_with_what_is_acquired() -> None:
    sizes = []
    for count in (10, 10_000):
        coords = [{"name": f"p{i}", "x_coord": i, "y_coord": i, "z_coord": i} for i in range(count)]
        outline, details = split({"name": "a", "dimensions": [{"name": "p", "coords": coords}, *YX]})
        sizes.append(len(json.dumps(outline)))
        assert len(details) > 10 * count
        require_small(outline)
    assert sizes[1] - sizes[0] < 10


def test_names_of_sources_stay_in_the_outline_unless_there_are_too_many() -> None:
    fields = {"name": "a", "source_dimension": "c"}
    few = {**fields, "dimensions": [{"name": "c", "coords": [str(i) for i in range(MAX_SOURCES)]}, *YX]}
    assert split(few) == (few, b"")
    many = {**fields, "dimensions": [{"name": "c", "coords": [str(i) for i in range(100_000)]}, *YX]}
    outline, _ = split(many)
    with pytest.raises(OmewdError, match=f"1 to {MAX_SOURCES} elements"):
        StreamSpec.parse(outline)


@pytest.mark.parametrize("dims", [5, None, [5], [[]], [{}], {"a": 1}, ["t"]])
def test_what_makes_no_sense_is_left_to_validation(dims: Any) -> None:
    outline, details = split({"name": "a", "dimensions": dims})
    assert details == b""
    with pytest.raises(OmewdError):
        StreamSpec.parse(outline)


@pytest.mark.parametrize(
    "details",
    [
        b"{",
        b"[]",
        b"5",
        b'{"coords":5}',
        b'{"coords":{"9":[1]}}',
        b'{"coords":{"a":[1]}}',
        b'{"coords":{"0":7}}',
        b"\xff",
    ],
)
def test_details_of_something_else_are_refused(details: bytes) -> None:
    outline = {"name": "a", "dimensions": [d.model_dump(mode="json") for d in parse_dims("t:5,y:4,x:5")]}
    with pytest.raises(OmewdError) as error:
        StreamSpec.parse(join(outline, details))
    assert error.value.code == "bad_spec"


@pytest.mark.parametrize(
    "heap",
    [
        {"dimensions": [{}] * (MAX_OUTLINE_VALUES + 1)},
        {f"field{i}": 0 for i in range(MAX_OUTLINE_VALUES + 1)},
        {"a": [[[[0] * 300] * 2] * 2]},
    ],
)
def test_an_outline_that_is_no_outline_is_refused(heap: dict[str, Any]) -> None:
    with pytest.raises(OmewdError) as error:
        require_small(heap)
    assert error.value.code == "bad_spec"
