"""Converts pymmcore-plus' metadata of a run and its frames to JSON values that fit into a frame's slot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from enum import Enum
from numbers import Real
from typing import Any

# Recorded in another form, or of no use without the summary.
_OMITTED = {"format", "version", "runner_time_ms", "exposure_ms", "position", "mda_event"}
# Omitted one after the other if a frame's metadata are too large.
_LARGE_FIELDS = ("camera_metadata", "property_values", "extra")


def to_json_values(value: Any) -> Any:
    """Convert to JSON values: models to their fields, arrays to lists, NaN and infinity to null, the rest to text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json_values(item) for item in value]
    if isinstance(value, Enum):
        return to_json_values(value.value)
    if hasattr(value, "model_dump"):
        return to_json_values(value.model_dump(exclude_unset=True))
    if hasattr(value, "tolist"):
        return to_json_values(value.tolist())
    return str(value)


def frame_metadata(meta: Mapping[str, Any], event: Any) -> Iterator[dict[str, Any]]:
    """Versions of a frame's metadata, the fullest first, each no longer than the one before; always the same number.

    All have ``delta_t`` (s since the sequence started), ``exposure_time`` (s), and ``position_x``, ``_y``, ``_z`` (µm)
    if the engine gives them. ``event`` is the event without its default values.
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
    whole = {
        **least,
        "event": to_json_values(fields),
        **to_json_values({k: v for k, v in meta.items() if k not in _OMITTED}),
    }
    yield dict(whole)
    for key in _LARGE_FIELDS:
        whole.pop(key, None)
        yield dict(whole)
    yield {**least, "event": to_json_values(fields)}
    yield {**least, **index}
    yield least
