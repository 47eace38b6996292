"""The images of a dataset: how they are named, and their shapes so far. Pure.

Without positions, the dataset itself is the one image. With positions, each one is an image in a folder of its own
(the bioformats2raw layout of OME-Zarr 0.5), which with a plate is ROW/COLUMN/FIELD.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from omewd.errors import OmewdError
from omewd.model.plan.levels import Level
from omewd.model.plan.plan import Plan, unravel
from omewd.model.spec.spec import StreamSpec


def group_of(spec: StreamSpec, position: object, well: object, *, images: bool) -> str | None:
    """The folder of the group that a position (name or number) and a well ("B/3" or "B3") select; "" without both.

    With ``images`` only images can be selected, and None stands for all of them. Raises OmewdError ``bad_metadata``.
    """
    if position is None and well is None:
        return None if images else ""
    paths = spec.image_paths
    chosen = list(range(len(paths))) if spec.position_dimensions else []
    if not chosen:
        raise OmewdError("bad_metadata", "the stream has no positions", "Leave `position` and `well` out")
    folder = ""
    if well is not None:
        match = re.fullmatch(r"([A-Za-z]+)/?([0-9]+)", well) if isinstance(well, str) else None
        names = {well, f"{match[1]}/{match[2]}"} if match else {well}
        chosen = [n for n in chosen if paths[n].rpartition("/")[0] in names]
        if spec.plate is None or not chosen:
            raise OmewdError("bad_metadata", f"no image is in a well {well!r:.80}", "Name a well as in `well='B/3'`")
        folder = paths[chosen[0]].rpartition("/")[0]
    if position is None:
        if images:
            raise OmewdError("bad_metadata", "a well is not an image", "Name one of its positions with `position`")
        return folder
    called = [n for n in chosen if spec.positions[n].name == position] if isinstance(position, str) else []
    number = int(position) if isinstance(position, str) and re.fullmatch(r"[0-9]{1,9}", position) else position
    if not called and isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(chosen):
        called = [chosen[number]]
    if len(called) != 1:
        what = f"{len(called)} positions are" if called else "no position is"
        remedy = f"Give the name of one of the {len(chosen)} positions, or its number from 0"
        raise OmewdError("bad_metadata", f"{what} called {position!r:.80}", "Add its `well`" if called else remedy)
    return paths[called[0]]


def shape_on_disk(
    spec: StreamSpec, frames: Sequence[int], image: int = 0, level: Level | None = None
) -> tuple[int, ...]:
    """The shape of an image's array once it holds the first ``frames[source]`` frames of each source.

    ``level``: the resolution; None for the full one. Before the first frame, the first axis is empty.
    """
    plans = [Plan.of(spec, source=source) for source in range(spec.sources)]
    arrived = list(zip(plans, frames, strict=True))
    held = [plan.outer_shape(n, image) for plan, n in arrived if plan.holds(n, image)]
    boxes = held or [plan.outer_shape(0, image) for plan in plans]
    # Each source has one element of the source dimension; the array has all of them.
    own = None if spec.source_axis is None else spec.dimensions[spec.source_axis].count
    outer = tuple(
        own if own is not None and i == plans[0].source_axis else max(box[i] for box in boxes) for i in plans[0].order
    )
    shape = (*outer, *spec.frame_shape)
    if not held and 0 not in shape:
        shape = (0, *shape[1:])
    return shape if level is None else level.shape(shape)


def whole_shape(spec: StreamSpec, frames: Sequence[int], image: int = 0, level: Level | None = None) -> tuple[int, ...]:
    """A shape of an image's array that is filled by the first ``frames[source]`` frames of each source.

    It leaves out the frames of an element that is not whole yet along the slower dimensions, such as those of a stack
    in progress after the first one. ``level``: the resolution; None for the full one.
    """
    plans = [Plan.of(spec, source=source) for source in range(spec.sources)]
    order, own = plans[0].order, plans[0].source_axis
    if own is not None and own == plans[0].image_axis:
        arrived = [(n, plan) for n, plan in zip(frames, plans, strict=True) if plan.element == image]
        if not arrived:
            return shape_on_disk(spec, frames, image, level)
        frames, plans, own = [n for n, _ in arrived], [plan for _, plan in arrived], None
    count = None if spec.source_axis is None else spec.dimensions[spec.source_axis].count
    held = [_held(plan, n, image) for plan, n in zip(plans, frames, strict=True)]
    boxes = [_filled(plan, n) for plan, n in zip(plans, held, strict=True)]
    shape = (*((count or 1) if i == own else min(box[i] for box in boxes) for i in order), *spec.frame_shape)
    if level is not None:
        # A pixel of a lower resolution is made of several, and of fewer at the end of the array only.
        counts = (dim.count for dim in spec.disk_dimensions)
        shape = tuple(
            -(-n // factor) if n == count else n // factor
            for n, count, factor in zip(shape, counts, level.factors, strict=True)
        )
    return shape if all(held) else (0, *shape[1:])


def _held(plan: Plan, frames: int, image: int) -> int:
    """How many of the first ``frames`` frames are in an image."""
    frames = frames if plan.frames_total is None else min(frames, plan.frames_total)
    if plan.image_axis is None or plan.image_axis == plan.source_axis:
        return frames
    inside, images = plan.strides[plan.image_axis], plan.counts[plan.image_axis] or 1
    rounds, rest = divmod(frames, inside * images)
    return rounds * inside + min(max(rest - image * inside, 0), inside)


def _filled(plan: Plan, held: int) -> list[int]:
    """A box in acquisition order that is filled by the first ``held`` frames of an image."""
    axes = [axis for axis in range(len(plan.counts)) if axis != plan.image_axis or axis == plan.source_axis]
    box = [count or 1 for count in plan.counts]
    for number, axis in enumerate(axes, 1):
        inside = math.prod(plan.counts[faster] or 1 for faster in axes[number:])
        if held >= inside:
            box[axis] = held // inside
            break
        box[axis] = 1
    return box


def shapes_on_disk(spec: StreamSpec, frames: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The shape of each image's array at the full resolution: see :func:`shape_on_disk`.

    Neighbours that are alike share one computation, so it takes the same time for any number of images.
    """
    for first, stop in pairwise(_images_alike(spec, frames)):
        shape = shape_on_disk(spec, frames, first)
        for _ in range(first, stop):
            yield shape


def _images_alike(spec: StreamSpec, frames: Sequence[int]) -> list[int]:
    """The images at which shapes may change, from 0 to the number of images.

    An image's shape depends on whether it comes before or after the image of a source's last frame, or is that image.
    """
    plans = [Plan.of(spec, source=source) for source in range(spec.sources)]
    axis = plans[0].image_axis
    if axis is None:
        return [0, 1]
    if axis == plans[0].source_axis:
        return list(range(spec.images + 1))
    last = {unravel(n - 1, plan.counts)[axis] for plan, n in zip(plans, frames, strict=True) if n}
    return sorted({0, spec.images, *last, *(image + 1 for image in last)})
