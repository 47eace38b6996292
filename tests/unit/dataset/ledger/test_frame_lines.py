"""Lines of many frames are those of each, to the byte."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.dataset.ledger import frame_lines
from omewd.dataset.ledger.frame_lines import FrameLines, checked
from omewd.dataset.ledger.ledger import parse_object
from omewd.model.spec.dimensions import parse_dims
from omewd.model.spec.spec import StreamSpec

SPEC = StreamSpec(name="s", dimensions=parse_dims("t:inf,c:12,y:4,x:5"))
stamps = st.integers(0, 2**64 - 1) | st.integers(0, 300) | st.just(1_790_000_000_000_000_000)
said = st.sampled_from([b"", b'{"a":1}', b'{"b":"a longer text, with {}"}'])


@given(
    st.lists(st.tuples(st.integers(0, 2000) | st.integers(0, 2**50), stamps, stamps, said), min_size=1, max_size=12),
    st.booleans(),
)
def test_many_lines_are_those_of_each(rows: list[tuple[int, int, int, bytes]], has_metadata: bool) -> None:
    if not has_metadata:
        rows = [(*numbers, b"") for *numbers, _ in rows]  # type: ignore[misc]
    frames, wall, monotonic, metadata = zip(*rows, strict=True)
    columns = np.array(frames, np.int64), np.array(wall, np.uint64), np.array(monotonic, np.uint64)
    lines = FrameLines.of(SPEC, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_lines, "_MANY", 1)
        made = lines.text(*columns, metadata)
        patch.setattr(frame_lines, "_MANY", 100)
        assert made == lines.text(*columns, metadata)
    assert [json.loads(line) for line in made.splitlines()] == [
        {
            "frame": frame,
            "image": 0,
            "index": {"t": frame // 12, "c": frame % 12},
            "wall_ns": wall_ns,
            "monotonic_ns": monotonic_ns,
            **({"metadata": json.loads(text)} if text else {}),
        }
        for frame, wall_ns, monotonic_ns, text in rows
    ]


@pytest.mark.parametrize("count", [1, 63, 64, 1000])
def test_any_number_of_lines(count: int) -> None:
    frames = np.arange(count)
    made = FrameLines.of(SPEC, 0).text(frames, frames + 10**18, frames + 7, [b""] * count)
    assert [json.loads(line)["frame"] for line in made.splitlines()] == frames.tolist()


@pytest.mark.parametrize("byte", [*range(32), 127, 128, 255])
def test_no_byte_breaks_a_line(byte: int) -> None:
    for text in (b'{"a":"%c"}', b'{"a":%c1}', b"%c{}", b"{}%c"):
        line = checked(text % byte)
        assert b"\n" not in line
        assert b"\r" not in line
        json.loads(line)


@pytest.mark.parametrize("number", ["1e400", "-1e999"])
@pytest.mark.parametrize("more", ['"b":"é"', '"b":\n1', '"b":1'])
def test_a_number_beyond_floats_does_not_become_infinity(number: str, more: str) -> None:
    """To most parsers of JSON, a line with Infinity is no line."""
    line = checked(f'{{"a":{number},{more}}}'.encode())
    assert b"Infinity" not in line.replace(b"omewd_unreadable", b"")
    json.loads(line, parse_constant=pytest.fail)


@pytest.mark.parametrize("text", ['[{}"é"]', "[{}1]", '{{"é":{}1}}', '{{"a":{}1}}'])
def test_metadata_that_are_nested_deep_are_a_line_to_every_reader(text: str) -> None:
    """Also to one that calls from deep in its own program: a line that it can't read is a frame that is missing."""
    opened, closed = text.split("{}1" if "{}1" in text else '{}"é"')
    opened, closed = opened.replace("{{", "{"), closed.replace("}}", "}")
    core = '"é"' if "é" in text else "1"

    def in_a_deep_stack(line: bytes, left: int = 400) -> object:
        return in_a_deep_stack(line, left - 1) if left else parse_object(line)

    for depth in (1, 100, 199, 201, 500, 900, 990, 993, 994, 995, 996, 1000):
        line = b'{"frame":1,"metadata":%b}' % checked((opened * depth + core + closed * depth).encode())
        assert in_a_deep_stack(line) is not None, depth


@given(st.binary(max_size=30) | st.text('{}[]":,\\ue019.-+NaInfty \t\n', max_size=20).map(str.encode))
def test_what_is_taken_as_it_is_is_json(metadata: bytes) -> None:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    line = checked(metadata)
    value = json.loads(line, parse_constant=refuse)
    if line == metadata:
        assert value == json.loads(metadata)
