"""Which frames are at an element of a dimension, such as a position or a channel. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from omewd.model.plan.plan import Plan, unravel


def element(plan: Plan, frame: int, name: str) -> int:
    """The element of a dimension that a frame is at."""
    axis = plan.names.index(name)
    return plan.element if axis == plan.source_axis else unravel(frame, plan.counts)[axis]


def frames_back(plan: Plan, frame: int, of: Mapping[str, int]) -> Iterator[int]:
    """The frame indexes from ``frame`` on downwards that are at these elements of dimensions, highest first."""
    fixed = {plan.names.index(name): element for name, element in of.items()}
    if plan.source_axis is not None and fixed.pop(plan.source_axis, plan.element) != plan.element:
        return
    found = _last(plan, frame, fixed)
    while found is not None:
        yield found
        found = _last(plan, found - 1, fixed)


def _last(plan: Plan, frame: int, fixed: Mapping[int, int]) -> int | None:
    """The highest frame index up to ``frame`` that is at an element along each of the ``fixed`` dimensions."""
    if frame < 0:
        return None
    at = unravel(frame, plan.counts)
    differs = [(axis, element) for axis, element in sorted(fixed.items()) if at[axis] != element]
    if not differs:
        return frame
    axis, element = differs[0]
    if element > at[axis]:  # it was passed before the slower dimensions came to where they are
        free = [slower for slower in range(axis) if slower not in fixed and at[slower]]
        if not free:
            return None
        axis, element = free[-1], at[free[-1]] - 1
    faster = [fixed.get(i, (plan.counts[i] or 1) - 1) for i in range(axis + 1, len(at))]
    return sum(n * stride for n, stride in zip((*at[:axis], element, *faster), plan.strides, strict=True))
