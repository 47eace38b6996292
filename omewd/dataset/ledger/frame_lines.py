"""The lines of written frames, made many at a time: a day of a fast camera has a billion."""

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

# From so many lines on it is cheaper to write numbers column by column: a thousand take 0.15 ms, else 0.4 ms.
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
        """A line for each frame index; ``metadata`` of each is JSON as the producer encoded it, or empty."""
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
    """``format % row`` of all rows of columns of whole numbers, and the bytes of each."""
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
    """The digits of each number, with zeros before the shorter ones, and how many it has; None if all have as many."""
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
    """Text in parts of so many bytes."""
    if len(set(lengths)) == 1:
        parts: list[bytes] = np.frombuffer(text, f"S{lengths[0]}").tolist()
        return parts
    ends = np.cumsum(lengths).tolist()
    return [text[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(parse_constant=_no_json)


def checked(metadata: bytes) -> bytes:
    """Metadata comes out of shared memory: one that is no JSON must not spoil the line."""
    if metadata.isascii() and b"\n" not in metadata and b"\r" not in metadata:
        try:
            from_json(metadata, allow_inf_nan=False)  # a quarter of what json takes
        except ValueError:  # json may still take it
            pass
        else:
            return metadata  # as it is: to encode it again costs more by far
    try:
        value = _decoder.decode(metadata.decode())
    except (ValueError, RecursionError):
        return json.dumps({"omewd_unreadable": metadata.decode(errors="replace")}).encode()
    # A line break in it would be one of the ledger's.
    return json.dumps(value, separators=(",", ":")).encode()
