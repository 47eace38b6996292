"""The images of a dataset: where each one is, and how large it is so far. Pure.

One image is the dataset itself. With positions, each is an image of its own in a folder of its own (the
bioformats2raw layout of OME-Zarr 0.5), or, with a plate, in ROW/COLUMN/FIELD.
"""

from __future__ import annotations

from collections.abc import Sequence

from omewd.model.folders import named, numbered
from omewd.model.levels import Level
from omewd.model.plan import Plan
from omewd.model.spec import StreamSpec


def image_paths(spec: StreamSpec) -> tuple[str, ...]:
    """The folder of each image in the dataset, "" for the dataset itself."""
    if not spec.position_dimensions:
        return ("",)
    folders = named if spec.position_folders == "names" else numbered
    return folders(spec.positions, in_wells=spec.plate is not None)


def shape_on_disk(
    spec: StreamSpec, frames: Sequence[int], image: int = 0, level: Level | None = None
) -> tuple[int, ...]:
    """The shape of an image's array when it holds the first so many frames of each source.

    ``level``: of which resolution, the full one without it. Without any frame its first axis is empty.
    """
    plans = [Plan.of(spec, source=source) for source in range(spec.sources)]
    arrived = list(zip(plans, frames, strict=True))
    held = [plan.outer_shape(n, image) for plan, n in arrived if plan.holds(n, image)]
    boxes = held or [plan.outer_shape(0, image) for plan in plans]
    # Each source has one element of their own dimension; the array has all of them.
    own = None if spec.source_axis is None else spec.dimensions[spec.source_axis].count
    outer = tuple(
        own if own is not None and i == plans[0].source_axis else max(box[i] for box in boxes) for i in plans[0].order
    )
    shape = (*outer, *spec.frame_shape)
    if not held and 0 not in shape:
        shape = (0, *shape[1:])
    return shape if level is None else level.shape(shape)
