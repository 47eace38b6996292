"""Specs that were stored, by this omewd or a newer one."""

from __future__ import annotations

from typing import Any

import pytest

import omewd
from omewd.errors import OmewdError
from omewd.model.spec.spec import StreamSpec
from omewd.model.spec.stored import stored_spec

COORDS: dict[str, tuple[Any, ...]] = {
    "c": (omewd.Channel(name="DAPI", window=(1, 2)), omewd.Channel(name="GFP")),
    "p": (omewd.Position(name="a", plate_row="A", plate_column="1"), omewd.Position(name="b", x_coord=1.5)),
    "z": (0.0, 0.5),
}
DIMS = [
    dim.model_copy(update={"coords": COORDS[dim.name]}) if dim.name in COORDS else dim
    for dim in omewd.parse_dims("p:2,t:3,c:2,z:2,y:8,x:8")
]
SPEC = StreamSpec(name="s", dimensions=tuple(DIMS))


def with_unknown(value: Any) -> Any:
    """Every object in a spec with a field that no omewd has yet."""
    if isinstance(value, dict):
        return {**{name: with_unknown(inner) for name, inner in value.items()}, "of_tomorrow": {"deep": [1]}}
    return [with_unknown(inner) for inner in value] if isinstance(value, list) else value


def test_dims_may_be_text_as_a_client_has_given_it() -> None:
    stored = stored_spec({"name": "cam", "dims": "t:inf,y:4,x:4"})
    assert [(dim.name, dim.count) for dim in stored.dimensions] == [("t", None), ("y", 4), ("x", 4)]


def test_what_was_stored_is_read() -> None:
    assert stored_spec(SPEC.model_dump(mode="json")) == SPEC


def test_fields_of_a_newer_omewd_are_left_out_wherever_they_are() -> None:
    newer = with_unknown(SPEC.model_dump(mode="json"))
    with pytest.raises(OmewdError):
        StreamSpec.parse(newer)
    assert stored_spec(newer) == SPEC


def test_of_coords_only_what_no_kind_of_them_has_is_left_out() -> None:
    """A position's fields are none of a channel's."""
    fields = SPEC.model_dump(mode="json")
    fields["dimensions"][0]["coords"][0]["of_tomorrow"] = 1
    assert stored_spec(fields) == SPEC


@pytest.mark.parametrize("fields", [None, [], "spec", {}, {"name": "s"}, {"name": "s", "dimensions": [{}, 3]}], ids=str)
def test_what_is_no_spec_is_refused(fields: Any) -> None:
    with pytest.raises(OmewdError) as refusal:
        stored_spec(fields)
    assert refusal.value.code == "bad_spec"


def test_a_value_that_is_not_known_is_refused() -> None:
    with pytest.raises(OmewdError, match="compression"):
        stored_spec({**SPEC.model_dump(mode="json"), "compression": "of_tomorrow"})
