"""Makes the lines of written frames, many at a time: a fast camera's day has a billion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from pydantic_core import from_json

from omewd.dataset.ledger.ledger import of_source, source_of
from omewd.model.plan.grid import places
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec

Array = np.ndarray[Any, Any]

# From this many lines on, it is faster to write numbers column by column: a thousand take 0.15 instead of 0.4 ms.
_MANY = 64
# The digits of 0 to 9999.
_FOUR_DIGITS = np.frombuffer(b"".join(b"%04d" % number for number in range(10_000)), "V4")
_POWERS = np.array([10**digits for digits in range(1, 20)], np.uint64)


@dataclass(frozen=True)
class FrameLines:
    """Makes the lines of written frames of one source."""

    plan: Plan
    format: str

    @classmethod
    def of(cls, spec: StreamSpec, source: int) -> FrameLines:
        index = ",".join(f'"{dim.name}":%d' for dim in spec.disk_dimensions[:-2])
        said = of_source(source_of(spec, source))
        line = f'{{"frame":%d{said},"image":%d,"index":{{{index}}},"wall_ns":%d,"monotonic_ns":%d'
        return cls(Plan.of(spec, source=source), line)

    def text(self, frames: Array, wall_ns: Array, monotonic_ns: Array, metadata: Sequence[bytes]) -> bytes:
        """A line for each frame index. ``metadata``: JSON from the producer, or empty, for each of them."""
        images, axes = places(self.plan, frames)
        columns = [frames, images, *axes, wall_ns, monotonic_ns]
        has_metadata = any(metadata)
        if len(frames) < _MANY:
            rows = zip(*(column.tolist() for column in columns), strict=True)
            starts: Sequence[bytes] = [(self.format % row).encode() for row in rows]
        else:
            whole, lengths = _rows(self.format + ("" if has_metadata else "}\n"), columns)
            if not has_metadata:
                return whole
            starts = _cut(whole, lengths)
        ends = (b',"metadata":%b}\n' % checked(text) if text else b"}\n" for text in metadata)
        return b"".join(chain.from_iterable(zip(starts, ends, strict=True)))


def _rows(format: str, columns: Sequence[Array]) -> tuple[bytes, list[int]]:
    """``format % row`` for all rows of columns of integers, and the size of each result."""
    literals = [text.encode() for text in format.split("%d")]
    numbers = [_digits(column.astype(np.uint64)) for column in columns]
    template = b"".join(
        chain.from_iterable(zip(literals, [b"0" * len(digits.T) for digits, _ in numbers] + [b""], strict=True))
    )
    rows = np.empty((len(columns[0]), len(template)), np.uint8)
    rows[:] = np.frombuffer(template, np.uint8)
    kept: Array | None = None
    start = 0
    for literal, (digits, lengths) in zip(literals, numbers, strict=False):
        start += len(literal)
        stop = start + digits.shape[1]
        rows[:, start:stop] = digits
        if lengths is not None:
            if kept is None:
                kept = np.ones(rows.shape, bool)
            kept[:, start:stop] = np.arange(digits.shape[1]) >= digits.shape[1] - lengths[:, None]
        start = stop
    if kept is None:
        return rows.tobytes(), [len(template)] * len(rows)
    return rows[kept].tobytes(), kept.sum(axis=1).tolist()


def _digits(numbers: Array) -> tuple[Array, Array | None]:
    """The digits of each number, padded with zeros in front, and its number of digits (None if all have the same)."""
    length = len(str(int(numbers.max())))
    alike = len(str(int(numbers.min()))) == length
    lengths = None if alike else np.searchsorted(_POWERS, numbers, side="right") + 1
    groups = -(-length // 4)
    found = np.empty((len(numbers), groups), "V4")
    for group in reversed(range(1, groups)):
        rest = numbers // np.uint64(10_000)
        found[:, group] = _FOUR_DIGITS[(numbers - rest * np.uint64(10_000)).astype(np.intp)]
        numbers = rest
    found[:, 0] = _FOUR_DIGITS[numbers.astype(np.intp)]
    return found.view(np.uint8)[:, 4 * groups - length :], lengths


def _cut(text: bytes, lengths: list[int]) -> list[bytes]:
    """Split text into parts of the given sizes."""
    if len(set(lengths)) == 1:
        parts: list[bytes] = np.frombuffer(text, f"S{lengths[0]}").tolist()
        return parts
    ends = np.cumsum(lengths).tolist()
    return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_no_json)
# As deep as the fast parser reads. Python's own reads deeper in a shallow stack than in a deep one, so a line that the
# writer could read might be no line to a reader.
_MOST_DEPTH = 200


def checked(metadata: bytes) -> bytes:
    """Check metadata from shared memory, so that invalid JSON does not damage the line.

    What is no JSON, is nested more than 200 deep, or holds a number beyond the range of floats where it has to be
    encoded again, is kept as text under the key ``omewd_unreadable``.
    """
    if metadata.isascii() and b"\n" not in metadata and b"\r" not in metadata:
        try:
            from_json(metadata, allow_inf_nan=False)  # takes a quarter of json's time
        except ValueError:  # json may still accept it
            pass
        else:
            return metadata  # unchanged, because encoding it again is much slower
    try:
        value = _decoder.decode(metadata.decode())
        _require_shallow(value)
        # A line break in the metadata would end the ledger's line.
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError):
        return json.dumps({"omewd_unreadable": metadata.decode(errors="replace")}).encode()


def _require_shallow(value: Any) -> None:
    """Raise ValueError for lists and dicts that are nested too deep to be read again."""
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(f"JSON is nested more than {_MOST_DEPTH} deep")
