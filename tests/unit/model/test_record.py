"""Records as JSON: what one version writes, the version before it and the one after it can read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from omewd.model.record import Record


@dataclass(frozen=True)
class Part(Record):
    name: str = ""
    size: float = 0.0


@dataclass(frozen=True)
class Whole(Record):
    number: int = 0
    on: bool = False
    maybe: int | None = None
    runs: tuple[tuple[int, int], ...] = ()
    first: Part = Part()
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = field(default_factory=dict)
    perhaps: Part | None = None
    reasons: dict[str, str | None] = field(default_factory=dict)


WHOLE = Whole(
    number=3,
    on=True,
    maybe=4,
    runs=((1, 2), (5, 6)),
    first=Part("a", 1.5),
    parts=(Part("b"), Part("c")),
    by_name={"d": Part("d", 2.0)},
    perhaps=Part("e"),
    reasons={"x": None, "y": "why"},
)


def test_what_is_written_is_read() -> None:
    assert Whole.from_json(json.loads(json.dumps(WHOLE.to_json()))) == WHOLE


def test_a_field_of_a_newer_version_is_ignored() -> None:
    value = WHOLE.to_json()
    newer = {**value, "new": [1], "first": {**value["first"], "new": {"deep": 1}}}
    assert Whole.from_json(newer) == WHOLE


def test_a_field_that_an_older_version_did_not_have_has_its_default() -> None:
    assert Whole.from_json({}) == Whole()
    assert Whole.from_json({"first": {}, "parts": [{"name": "b"}]}) == Whole(parts=(Part("b"),))


def test_a_whole_number_is_a_float_too() -> None:
    assert Part.from_json({"size": 2}) == Part(size=2.0)


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        {"number": "3"},
        {"number": True},
        {"number": None},
        {"number": 1.5},
        {"on": 1},
        {"runs": [[1]]},
        {"runs": [[1, 2, 3]]},
        {"runs": {}},
        {"first": None},
        {"first": 3},
        {"by_name": []},
        {"reasons": {"x": 1}},
    ],
    ids=str,
)
def test_another_shape_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"must be|is not a|is (shorter|longer)"):
        Whole.from_json(value)
