"""Converts a useq-schema sequence (``useq.MDASequence``), which an engine will acquire, to the fields of a stream.

``stream_fields`` returns the fields; ``event_grid`` says which frame index each event has::

    fields = stream_fields(sequence, (2048, 2048), pixel_size_um=0.1, chunks={"y": 256, "x": 256})
    grid = event_grid(sequence)
    for event in sequence:
        index = grid.frame_index(event.index)  # always grows; producer.skip() the indexes in between
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from omewd.errors import OmewdError
from omewd.integrations.useq_grid import EventGrid, event_grid, with_field_of_view
from omewd.integrations.useq_positions import plate_of, positions_of

__all__ = ["EventGrid", "endless_fields", "event_grid", "load_sequence", "stream_fields", "with_field_of_view"]

FIELDS = {
    "metadata",
    "axis_order",
    "stage_positions",
    "grid_plan",
    "channels",
    "time_plan",
    "z_plan",
    "autofocus_plan",
    "setup",
    "keep_shutter_open_across",
    "uid",
}
# More uneven times than this are not listed; the ledger has each frame's time anyway.
_MAX_TIMES = 10_000


def load_sequence(sequence: Any) -> Any:
    """Return a ``useq.MDASequence``, given itself, its fields or its JSON (not a file name).

    Raises OmewdError ``bad_spec`` for anything else, ``missing`` without useq-schema.
    """
    if hasattr(sequence, "stage_positions") and hasattr(sequence, "axis_order"):
        return sequence
    try:
        from useq import MDASequence
    except ImportError as error:
        raise OmewdError(
            "not_installed",
            f"a useq sequence needs useq-schema, which can't be imported: {error}",
            "pip install useq-schema",
        ) from error
    try:
        if isinstance(sequence, str | bytes):
            return MDASequence.model_validate_json(sequence)
        if isinstance(sequence, Mapping):
            return MDASequence.model_validate({k: v for k, v in sequence.items() if k != "uid"})
    except (ValueError, TypeError) as error:
        raise OmewdError("bad_spec", f"not a useq sequence: {' '.join(str(error).split())[:1000]}") from error
    raise OmewdError("bad_spec", f"not a useq sequence: {sequence!r:.80}", "Pass a sequence, its fields or its JSON")


def stream_fields(
    sequence: Any,
    frame_shape: tuple[int, int],
    *,
    dtype: str = "uint16",
    pixel_size_um: float | None = None,
    chunks: Mapping[str, int] | None = None,
    shards: Mapping[str, int] | None = None,
    cameras: int = 1,
    grid: EventGrid | None = None,
) -> dict[str, Any]:
    """The fields ``dimensions``, ``dtype`` and ``plate`` of a stream that holds all frames of a sequence.

    ``frame_shape``: (height, width). ``chunks`` (in elements) and ``shards`` (in chunks): by dimension (t, c, z, y, x).
    ``cameras``: the number of images of each event, which become channels. ``grid``: the sequence's
    :func:`event_grid`, if it is known.

    Stage positions (p) and the tiles of grids (g) together are the positions. With a pixel size, tiles are spaced by
    the frame's size, as engines do. Raises the errors of :func:`event_grid`, and OmewdError ``bad_spec``.
    """
    sequence = load_sequence(sequence)
    height, width = frame_shape
    pixel = pixel_size_um if pixel_size_um and pixel_size_um > 0 else None
    if pixel is not None:
        sequence = with_field_of_view(sequence, width * pixel, height * pixel)
    grid = grid or event_grid(sequence, cameras=cameras)
    dimensions: list[dict[str, Any]] = []
    for axis, count in zip(grid.axes, grid.counts, strict=True):
        match axis:
            case "t":
                dimension = _time(sequence, count)
            case "z":
                dimension = _planes(sequence, count)
            case "c":
                dimension = {"count": count, "coords": [{"name": n} for n in _channel_names(grid)]}
            case _:
                dimension = {"count": count, "coords": positions_of(sequence, grid.tiles)}
        dimensions.append({"name": axis, **dimension})
    scale = {} if pixel is None else {"scale": pixel}
    dimensions += [{"name": "y", "count": height, **scale}, {"name": "x", "count": width, **scale}]
    _set_sizes(dimensions, chunks or {}, shards or {})
    fields = {"dimensions": dimensions, "dtype": dtype}
    plate = plate_of(sequence) if "p" in grid.axes else None
    return fields if plate is None else {**fields, "plate": plate}


def endless_fields(
    frame_shape: tuple[int, int],
    *,
    dtype: str = "uint16",
    pixel_size_um: float | None = None,
    chunks: Mapping[str, int] | None = None,
    shards: Mapping[str, int] | None = None,
    cameras: int = 1,
) -> dict[str, Any]:
    """Like :func:`stream_fields`, for an unknown number of events: the dimension t is unbounded."""
    dimensions: list[dict[str, Any]] = [{"name": "t", "count": None}]
    if cameras > 1:
        dimensions.append({"name": "c", "coords": [{"name": f"camera {n + 1}"} for n in range(cameras)]})
    scale = {"scale": pixel_size_um} if pixel_size_um else {}
    dimensions += [{"name": n, "count": count, **scale} for n, count in zip("yx", frame_shape, strict=True)]
    _set_sizes(dimensions, chunks or {}, shards or {})
    return {"dimensions": dimensions, "dtype": dtype}


def _set_sizes(dimensions: list[dict[str, Any]], chunks: Mapping[str, int], shards: Mapping[str, int]) -> None:
    by_name = {d["name"]: d for d in dimensions if d["name"] != "p"}
    for field, sizes in (("chunk_size", chunks), ("shard_size_chunks", shards)):
        for name, size in sizes.items():
            if name == "p":
                raise OmewdError("bad_spec", "each position is an image of its own, so 'p' takes no chunks or shards")
            # Settings are made for a camera; not every sequence has all dimensions.
            if name in by_name:
                by_name[name][field] = size
            elif name not in "tcz":
                raise OmewdError("bad_spec", f"chunks and shards are for t, c, z, y and x, not {name!r}")


def _channel_names(grid: EventGrid) -> list[str]:
    """The configs' names, with the group if two groups have the same config, and with the camera's number."""
    channels = grid.channels or (("", ""),)
    configs = [config for _, config in channels]
    names: list[str] = []
    for group, config in channels:
        name = config if configs.count(config) == 1 or not group else f"{group} {config}"
        known = sum(n == name or n.startswith(f"{name} #") for n in names)
        names.append(f"{name} #{known + 1}" if known and name else name)
    if grid.cameras == 1:
        return names
    return [f"{name} camera {number + 1}".strip() for name in names for number in range(grid.cameras)]


def _plans(sequence: Any, name: str) -> list[Any]:
    """The plans with this name of the sequence and of its positions."""
    owners = [sequence, *(getattr(p, "sequence", None) for p in sequence.stage_positions)]
    return [plan for owner in owners if owner is not None and (plan := getattr(owner, name))]


def _time(sequence: Any, count: int | None) -> dict[str, Any]:
    """The time dimension: its scale is the interval; uneven times are listed."""
    plan, *others = _plans(sequence, "time_plan")
    if any(other != plan for other in others):  # positions have intervals of their own
        return {"count": count}
    phases = list(getattr(plan, "phases", None) or [plan])
    try:
        interval = max(phase.interval.total_seconds() for phase in phases[:1])
        even = all(phase.interval == phases[0].interval for phase in phases)
        times = None if even or count is None or count > _MAX_TIMES else [float(t) for t in plan]
    except ZeroDivisionError:  # a single time point within a duration
        interval, times = 0.0, None
    dimension: dict[str, Any] = {"count": count}
    if times is not None and len(times) == count:
        dimension["coords"] = times
    return dimension if interval <= 0 else {**dimension, "scale": interval}


def _planes(sequence: Any, count: int | None) -> dict[str, Any]:
    """The plane dimension: step and first plane if the planes are evenly spaced and go up, else a list of planes.

    Planes of a relative plan count from the position's own z. If positions have plans of their own, only a common step
    is given.
    """
    plans = [[float(z) for z in plan] for plan in _plans(sequence, "z_plan")]
    steps = {round(abs(b - a), 6) for planes in plans for a, b in pairwise(planes)}
    dimension: dict[str, Any] = {"count": count}
    if len(steps) == 1 and (step := steps.pop()) > 0:
        dimension["scale"] = step
    if all(planes == plans[0] for planes in plans):
        planes = plans[0]
        even_up = "scale" in dimension and planes[-1] > planes[0]
        dimension |= {"translation": planes[0]} if even_up or len(planes) == 1 else {"coords": planes}
        if "scale" in dimension and not even_up:  # planes go down, but a scale can't; at least the extent is right
            dimension["translation"] = min(planes)
    return dimension
