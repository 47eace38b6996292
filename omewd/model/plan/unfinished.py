"""Which frames are in unfinished write units. Pure.

Units complete in the order of their numbers, but writers may finish them in another one. The work here grows with the
number of runs that are asked for and with the units whose frames interleave, not with the number of frames.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from omewd.model.plan.plan import Plan, unravel

# (first, one past the last)
Range = tuple[int, int]


def frames_before(plan: Plan, unit: int, frame: int) -> int:
    """How many frames of a unit have an index below ``frame``."""
    size = plan.size(unit)
    inside, found = math.prod(size), 0
    if plan.frames_total is not None and frame >= plan.frames_total:
        return inside
    for at, origin, length in zip(unravel(frame, plan.counts), plan.origin(unit), size, strict=True):
        inside //= length
        found += min(max(at - origin, 0), length) * inside
        if not origin <= at < origin + length:
            break
    return found


def runs_of_unfinished(plan: Plan, frames: Iterable[Range], finished: Iterable[Range]) -> Iterator[tuple[int, int]]:
    """The runs of consecutive frame indexes in unfinished units, each as (first, count), in ascending order.

    ``frames``: ranges of the frames that there are, ascending. ``finished``: ranges of the finished units.
    """
    done = _Finished(plan, finished)
    first = end = 0
    for start, stop in frames:
        at = start
        while at < stop:
            is_finished, upto = done.at(at)
            upto = stop if upto is None else min(upto, stop)
            if not is_finished:
                if at != end and end > first:
                    yield first, end - first
                first, end = (first if at == end else at), upto
            at = upto
    if end > first:
        yield first, end - first


class _Finished:
    """The finished units, and how far along the frames it stays the same whether units are finished."""

    def __init__(self, plan: Plan, finished: Iterable[Range]) -> None:
        self._plan = plan
        self._starts, self._ends = [0], [0]
        for start, end in sorted(finished):
            if start <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def at(self, frame: int) -> tuple[bool, int | None]:
        """Whether a frame's unit is finished, and the frame index up to which the same holds; None: for all others."""
        plan, group_units = self._plan, self._plan.group_units
        unit = plan.unit_of(frame)
        place = bisect_right(self._starts, unit) - 1
        is_finished = unit < self._ends[place]
        end: int | None
        if is_finished:
            start, end = self._starts[place], self._ends[place]
        else:
            start = self._ends[place]
            end = self._starts[place + 1] if place + 1 < len(self._starts) else None
        group = unit - unit % group_units
        if start <= group:  # no unit whose frames are among these differs, up to the group of the next that does
            if end is None or (plan.units_total is not None and end >= plan.units_total):
                return is_finished, None
            next_group = end - end % group_units
            if next_group > group:
                return is_finished, plan.first_frame(next_group)
        return is_finished, self._end_in_unit(frame)

    def _end_in_unit(self, frame: int) -> int:
        """The index up to which the frames that follow a frame are all in its unit."""
        plan = self._plan
        end = frame + 1
        sides = list(zip(unravel(frame, plan.counts), plan.extents, plan.counts, plan.strides, strict=True))
        for at, extent, count, stride in reversed(sides):
            last = (at // extent + 1) * extent - 1
            end += ((last if count is None else min(last, count - 1)) - at) * stride
            if count is None or extent < count:
                break
        return end
