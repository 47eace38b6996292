"""The --dims grammar, and what a dimension means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from omewd.errors import OmewdError
from omewd.model.spec.dimensions import MAX_COUNT, Channel, Dimension, parse_dims


def fields(text: str) -> list[tuple[str, int | None, int | None, int | None]]:
    return [(d.name, d.count, d.chunk_size, d.shard_size_chunks) for d in parse_dims(text)]


def test_count_chunk_and_shard_are_read_and_the_rest_is_left_to_defaults() -> None:
    assert fields("t:64:1:16,y:2048:256:8,x:2048:256") == [
        ("t", 64, 1, 16),
        ("y", 2048, 256, 8),
        ("x", 2048, 256, None),
    ]
    assert fields("y:4,x:5") == [("y", 4, None, None), ("x", 5, None, None)]


def test_spaces_round_a_part_do_not_matter() -> None:
    assert fields(" t:3 , y:4,\tx:5\n") == fields("t:3,y:4,x:5")


def test_a_shard_may_follow_an_empty_chunk() -> None:
    assert fields("t:8::4,y:4,x:5")[0] == ("t", 8, None, 4)


def test_inf_is_unbounded() -> None:
    assert fields("t:inf:4,y:4,x:5")[0] == ("t", None, 4, None)


number = st.integers(1, MAX_COUNT)
part = st.tuples(
    st.from_regex(r"\A[A-Za-z][A-Za-z0-9_]{0,31}\Z"), number | st.none(), st.none() | number, st.none() | number
)


@given(st.lists(part, min_size=1, max_size=5))
def test_what_is_written_is_what_is_read(parts: list[tuple[str, int | None, int | None, int | None]]) -> None:
    texts = []
    for name, count, chunk, shard in parts:
        texts.append(f"{name}:{'inf' if count is None else count}:{chunk or ''}:{shard or ''}")
    assert fields(",".join(texts)) == parts


@given(st.text(alphabet="tcxy0159:,.- infNaN\0٣²é", max_size=30))
def test_any_text_is_dimensions_or_a_bad_spec(text: str) -> None:
    try:
        for dimension in parse_dims(text):
            assert dimension.count is None or 1 <= dimension.count <= MAX_COUNT
    except OmewdError as error:
        assert error.code == "bad_spec"  # noqa: PT017


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "t", "t:", ":4", "t:4:1:1:1", "4t:4", "t u:4", "t:4 4", "té:4", "t\0:4", "a" * 33 + ":4"),
        *("t:-1", "t:1.5", "t:1e3", "t:+4", "t:0x10", "t:4_0", "t:٣", "t:INF", "t:nan", "t:4:inf", "t:4:1:inf"),
    ],
)
def test_a_part_that_does_not_parse_is_named_with_the_grammar(wrong: str) -> None:
    with pytest.raises(OmewdError, match="does not parse") as error:
        parse_dims(f"z:2,{wrong},y:4,x:5")
    assert error.value.code == "bad_spec"
    assert repr(wrong) in error.value.message
    assert "name:count[:chunk[:shard]]" in error.value.remedy
    assert parse_dims(error.value.remedy.rsplit(" ", 1)[1])


@pytest.mark.parametrize("end", [",", ",,"])
def test_a_comma_too_many_is_refused(end: str) -> None:
    with pytest.raises(OmewdError, match="does not parse"):
        parse_dims(f"y:4,x:5{end}")


@pytest.mark.parametrize(
    "wrong", ["t:0", "t:4:0", "t:4:1:0", "t:00", f"t:{MAX_COUNT + 1}", f"t:4:{2**64}", "t:" + "9" * 5000]
)
def test_numbers_out_of_range_are_refused_with_the_range(wrong: str) -> None:
    with pytest.raises(OmewdError, match=f"from 1 to {MAX_COUNT}") as error:
        parse_dims(f"{wrong},y:4,x:5")
    assert error.value.code == "bad_spec"


@pytest.mark.parametrize(
    ("name", "kind", "unit"),
    [
        ("t", "time", "second"),
        ("c", "channel", None),
        ("z", "space", "micrometer"),
        ("y", "space", "micrometer"),
        ("x", "space", "micrometer"),
        ("p", "position", None),
        ("angle", "other", None),
        ("T", "other", None),
    ],
)
def test_usual_names_have_their_usual_meaning(name: str, kind: str, unit: str | None) -> None:
    dimension = Dimension(name=name, count=3)
    assert (dimension.type, dimension.unit) == (kind, unit)


def test_a_meaning_of_ones_own_is_kept() -> None:
    assert Dimension(name="t", count=3, unit="millisecond").unit == "millisecond"
    lag = Dimension(name="z", count=3, type="time")
    assert (lag.type, lag.unit) == ("time", None)


@pytest.mark.parametrize("count", ["inf", float("inf"), None])
def test_every_way_to_say_unbounded(count: Any) -> None:
    assert Dimension(name="t", count=count).count is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": []},
        {"name": {}},
        {"name": None},
        {"name": 5},
        {"name": ""},
        {"name": "a b"},
        {"name": "t\n"},
        {"name": "t\0"},
        {"count": 0},
        {"count": -3},
        {"count": 1.5},
        {"count": "many"},
        {"count": float("nan")},
        {"count": float("-inf")},
        {"count": MAX_COUNT + 1},
        {"chunk_size": 0},
        {"shard_size_chunks": 0},
        {"type": "spectrum"},
        {"type": []},
        {"scale": 0},
        {"scale": -1},
        {"scale": float("nan")},
        {"scale": float("inf")},
        {"unit": "x" * 65},
        {"colour": "red"},
    ],
)
def test_a_wrong_field_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Dimension.model_validate({"name": "t", "count": 4, **wrong})


def test_coords_name_the_channels() -> None:
    dimension = Dimension(name="c", count=2, coords=("DAPI", {"name": "GFP", "color": "00ff00"}))  # type: ignore[arg-type]
    assert dimension.coords == (Channel(name="DAPI"), Channel(name="GFP", color="00ff00"))


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"name": "c", "count": 3, "coords": ["a", "b"]}, "has 3 elements but 2 coords"),
        ({"name": "z", "count": 1, "coords": ["a"]}, "space dimension"),
        ({"name": "c", "count": 1, "coords": [{"name": "a", "color": "red"}]}, "color"),
        ({"name": "c", "count": 1, "coords": [{"name": "a", "color": "00ff00\n"}]}, "color"),
        ({"name": "c", "count": 1, "coords": [""]}, "name"),
        ({"name": "c", "count": "inf", "coords": ["a"]}, "coords"),
    ],
)
def test_coords_that_do_not_fit_are_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Dimension.model_validate(wrong)


def test_a_dimension_comes_back_out_of_json() -> None:
    for dimension in (*parse_dims("t:inf:4:2,c:2,y:4,x:5"), Dimension(name="c", count=1, coords=(Channel(name="µ"),))):
        assert Dimension.model_validate_json(dimension.model_dump_json()) == dimension
