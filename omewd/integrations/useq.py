"""A useq-schema sequence (``useq.MDASequence``) as the fields of a stream: what an engine will acquire, declared.

``stream_fields`` describes it, ``event_grid`` says which frame index each event has::

    fields = stream_fields(sequence, (2048, 2048), pixel_size_um=0.1, chunks={"y": 256, "x": 256})
    grid = event_grid(sequence)
    for event in sequence:
        index = grid.frame_index(event.index)  # grows; the ones between hold no frame: producer.skip()
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
# More uneven times than these are not listed; each frame's time is in the ledger anyway.
_MAX_TIMES = 10_000


def load_sequence(sequence: Any) -> Any:
    """A ``useq.MDASequence`` out of itself, its fields, or its JSON; a file's name is none.

    Raises OmewdError ``bad_spec`` for what is none, ``missing`` without useq-schema.
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
        raise OmewdError("bad_spec", f"this is no useq sequence: {' '.join(str(error).split())[:1000]}") from error
    raise OmewdError("bad_spec", f"a useq sequence, its fields or its JSON are needed, not {sequence!r:.80}")


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
    """``dimensions``, ``dtype`` and ``plate`` of a stream for all that a sequence acquires.

    ``frame_shape``: (height, width). ``chunks`` (elements) and ``shards`` (chunks) by dimension: t, c, z, y, x.
    ``cameras``: images of each event, part of the channels. ``grid``: the sequence's :func:`event_grid`, if known.

    The positions are p and g (stage positions, tiles of a grid) together. With a pixel size, tiles are as far apart as
    frames of this size are: engines do the same. Raises OmewdError ``bad_spec``, as :func:`event_grid`.
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
    _cut(dimensions, chunks or {}, shards or {})
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
    """As :func:`stream_fields`, for events of which nobody knows how many come: times without end."""
    dimensions: list[dict[str, Any]] = [{"name": "t", "count": None}]
    if cameras > 1:
        dimensions.append({"name": "c", "coords": [{"name": f"camera {n + 1}"} for n in range(cameras)]})
    scale = {"scale": pixel_size_um} if pixel_size_um else {}
    dimensions += [{"name": n, "count": count, **scale} for n, count in zip("yx", frame_shape, strict=True)]
    _cut(dimensions, chunks or {}, shards or {})
    return {"dimensions": dimensions, "dtype": dtype}


def _cut(dimensions: list[dict[str, Any]], chunks: Mapping[str, int], shards: Mapping[str, int]) -> None:
    by_name = {d["name"]: d for d in dimensions if d["name"] != "p"}
    for field, sizes in (("chunk_size", chunks), ("shard_size_chunks", shards)):
        for name, size in sizes.items():
            if name == "p":
                raise OmewdError("bad_spec", "each position is an image of its own: no chunks or shards of 'p'")
            # Settings are made for a camera, and not each sequence has all dimensions.
            if name in by_name:
                by_name[name][field] = size
            elif name not in "tcz":
                raise OmewdError("bad_spec", f"chunks and shards are of t, c, z, y, x; there is no {name!r}")


def _channel_names(grid: EventGrid) -> list[str]:
    """The configs' names; with the group where two groups have one of that name; with the camera's number."""
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
    """A plan of the sequence and of its positions."""
    owners = [sequence, *(getattr(p, "sequence", None) for p in sequence.stage_positions)]
    return [plan for owner in owners if owner is not None and (plan := getattr(owner, name))]


def _time(sequence: Any, count: int | None) -> dict[str, Any]:
    """The dimension of time: the interval as its scale, the times themselves where they are uneven."""
    plan, *others = _plans(sequence, "time_plan")
    if any(other != plan for other in others):  # of positions that go at their own paces
        return {"count": count}
    phases = list(getattr(plan, "phases", None) or [plan])
    try:
        interval = max(phase.interval.total_seconds() for phase in phases[:1])
        even = all(phase.interval == phases[0].interval for phase in phases)
        times = None if even or count is None or count > _MAX_TIMES else [float(t) for t in plan]
    except ZeroDivisionError:  # one time point in some duration
        interval, times = 0.0, None
    dimension: dict[str, Any] = {"count": count}
    if times is not None and len(times) == count:
        dimension["coords"] = times
    return dimension if interval <= 0 else {**dimension, "scale": interval}


def _planes(sequence: Any, count: int | None) -> dict[str, Any]:
    """The dimension of planes: step and first plane of even ones that go up, else the list of them.

    Planes of a relative plan count from the position's own z. Positions with plans of their own may be elsewhere:
    then only the step is told, if it is one.
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
        if "scale" in dimension and not even_up:  # they go down, and a scale can't: at least the extent is right
            dimension["translation"] = min(planes)
    return dimension
