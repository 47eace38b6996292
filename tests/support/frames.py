"""Specs, frames that carry their index, and the ledger's lines of such frames."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import omewd
from omewd.dataset.ledger.frame_lines import FrameLines
from omewd.model.plan.shards import Written
from omewd.model.spec.spec import StreamSpec

Array = np.ndarray[Any, Any]

DIGITS = 4  # pixels that hold the index, two decimal digits each


def make_frame(index: int, shape: tuple[int, int], dtype: str) -> Array:
    """A frame that carries its index in its first pixels and a pattern of its own everywhere else."""
    pixels = (np.arange(shape[0] * shape[1], dtype=np.int64) * 7 + index * 13) % 101
    pixels[:DIGITS] = [(index // 100**k) % 100 for k in range(DIGITS)]
    return pixels.astype(dtype).reshape(shape)


def frame_index(frame: Array) -> int:
    return sum(int(d) * 100**k for k, d in enumerate(np.asarray(frame).flat[:DIGITS]))


def make_spec(name: str, dims: str, **fields: Any) -> StreamSpec:
    fields = {"output": f"{name}.ome.zarr", **fields}
    return StreamSpec(name=name, dimensions=omewd.parse_dims(dims), **fields)


@functools.cache
def _frame_lines(source: int | None) -> FrameLines:
    v = omewd.Dimension.model_validate({"name": "v", "coords": [0, 1, 2]})
    t, *frame = omewd.parse_dims("t:inf:2,y:4,x:5")
    dims, own = ((t, *frame), None) if source is None else ((t, v, *frame), "v")
    return FrameLines.of(StreamSpec(name="s", dimensions=dims, source_dimension=own), source or 0)


def frame_line(frame: int, wall_ns: int, monotonic_ns: int, metadata: bytes, source: int | None = None) -> str:
    """The ledger's line of a frame along t, of a single camera, or of one of three."""
    index, wall, monotonic = (np.array([number]) for number in (frame, wall_ns, monotonic_ns))
    return _frame_lines(source).text(index, wall, monotonic, [metadata]).decode()


def among(flags: np.ndarray[Any, Any]) -> Written:
    """Frames are written as flags say, a flag each; those beyond are not."""

    def written(frames: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        known = frames < len(flags)
        found = np.zeros(frames.shape, bool)
        found[known] = flags[frames[known]]
        return found

    return written
