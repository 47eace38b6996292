"""What pymmcore-plus tells about a run and its frames, as JSON that fits beside a frame."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from enum import Enum
from numbers import Real
from typing import Any

# Said otherwise, or of no use without the summary.
_LEFT_OUT = {"format", "version", "runner_time_ms", "exposure_ms", "position", "mda_event"}
# What is let go of where a frame's metadata is too large, step by step.
_LARGE = ("camera_metadata", "property_values", "extra")


def plain(value: Any) -> Any:
    """A value as JSON has it: models as their fields, arrays as lists, numbers that are none as null, else its text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(exclude_unset=True))
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def frame_metadata(meta: Mapping[str, Any], event: Any) -> Iterator[dict[str, Any]]:
    """A frame's metadata, the fullest first, none longer than the one before; always as many.

    In all: ``delta_t`` (s since the sequence began), ``exposure_time`` (s), ``position_x``, ``_y``, ``_z`` (µm), as
    far as the engine tells them. ``event``: what was asked for, without what is as usual.
    """
    stage = meta.get("position") or {}
    told = {
        "delta_t": (meta.get("runner_time_ms"), 1000),
        "exposure_time": (meta.get("exposure_ms"), 1000),
        **{f"position_{axis}": (stage.get(axis), 1) for axis in "xyz"},
    }
    least = {key: float(n) / unit for key, (n, unit) in told.items() if isinstance(n, Real) and math.isfinite(n)}
    index = {"event": {"index": dict(event.index)}}
    fields = event.model_dump(exclude={"sequence", "slm_image", "action"}, exclude_defaults=True)
    whole = {**least, "event": plain(fields), **plain({k: v for k, v in meta.items() if k not in _LEFT_OUT})}
    yield dict(whole)
    for key in _LARGE:
        whole.pop(key, None)
        yield dict(whole)
    yield {**least, "event": plain(fields)}
    yield {**least, **index}
    yield least
