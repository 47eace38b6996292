"""Ranges and preconditions, as RFC 9110 has them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.web.ranges import RangeError, asked_for, matches, parse_range


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=5-", (5, 100)),
        ("bytes=-7", (93, 100)),
        ("bytes=-700", (0, 100)),
        ("bytes=90-1000000000000000000", (90, 100)),
        ("bytes= 1 - 2 ", (1, 3)),
        ("bytes=9-3", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("frames=0-1", None),
        ("bytes=0-" + "9" * 400, None),
        ("bytes=٣-٤", None),
        ("bytes=--5", None),
    ],
)
def test_a_range_is_taken_or_ignored(header: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == part


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_beyond_the_end_is_an_error(header: str) -> None:
    with pytest.raises(RangeError):
        parse_range(header, 100)


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-1", "bytes=0-0"])
def test_of_nothing_no_range_is_there(header: str) -> None:
    with pytest.raises(RangeError):
        parse_range(header, 0)


@given(st.binary(max_size=40), st.integers(0, 50), st.integers(0, 50))
def test_a_range_gives_the_bytes_that_python_gives(data: bytes, start: int, count: int) -> None:
    if start < len(data) and count:
        part = parse_range(f"bytes={start}-{start + count - 1}", len(data))
        assert part is not None
        assert data[slice(*part)] == data[start : start + count]
    if count and data:
        part = parse_range(f"bytes=-{count}", len(data))
        assert part is not None
        assert data[slice(*part)] == data[-count:]


def test_entity_tags() -> None:
    assert matches('"a"', "a")
    assert matches('"b", W/"a"', "a")
    assert matches("*", "a")
    assert not matches(None, "a")
    assert not matches("a", "a")
    assert not matches('"ab"', "a")
    assert not matches('W/"a"', "a", weakly=False)


@pytest.mark.parametrize(
    ("method", "headers", "answer"),
    [
        ("GET", {}, (200, (0, 100))),
        ("GET", {"range": "bytes=1-2"}, (206, (1, 3))),
        ("GET", {"range": "bytes=100-"}, (416, None)),
        ("HEAD", {"range": "bytes=1-2"}, (200, (0, 100))),
        ("HEAD", {"range": "bytes=100-"}, (200, (0, 100))),
        ("GET", {"range": "bytes=1-2", "if-range": '"a"'}, (206, (1, 3))),
        ("GET", {"range": "bytes=1-2", "if-range": 'W/"a"'}, (200, (0, 100))),
        ("GET", {"range": "bytes=1-2", "if-range": "Sat, 28 Nov 2026 12:00:00 GMT"}, (200, (0, 100))),
        ("GET", {"range": "bytes=100-", "if-none-match": '"a"'}, (304, None)),
        ("GET", {"if-match": '"b"', "if-none-match": '"a"'}, (412, None)),
        ("GET", {"if-match": 'W/"a"'}, (412, None)),
        ("GET", {"if-match": "*"}, (200, (0, 100))),
    ],
)
def test_preconditions_come_in_order_and_only_get_has_ranges(
    method: str, headers: dict[str, str], answer: tuple[int, tuple[int, int] | None]
) -> None:
    assert asked_for(method, headers, 100, "a") == answer
