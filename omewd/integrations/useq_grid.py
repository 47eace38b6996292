"""The place of a useq sequence's events in a grid of frames. Pure.

A stream is a grid: its frame indexes grow, and the last dimension outside the frame runs fastest. A sequence may be
ragged: some channels are not acquired at every time or in every plane, and positions may have plans of their own. The
grid then has the largest extents, and frame indexes without an event must be skipped. useq's axes p (stage positions)
and g (tiles of a grid) are one dimension here, the positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

from omewd.errors import OmewdError
from omewd.integrations.useq_order import index_text, no_grid, order_of_events, order_of_product


@dataclass(frozen=True)
class EventGrid:
    """The grid of a sequence's frames.

    ``axes``: some of t, p, c and z, slowest first. ``counts``: their lengths, None if unbounded. ``tiles``: (p, g) of
    each position. ``channels``: (group, config) of each channel. ``channel_numbers``: for each stage position, the
    channel of each c that its events have. ``cameras``: the number of images of an event, the fastest part of c.
    ``end``: the frame index after the last event's; later indexes hold no frames.
    """

    axes: str
    counts: tuple[int | None, ...]
    tiles: tuple[tuple[int, int], ...]
    channels: tuple[tuple[str, str], ...]
    channel_numbers: tuple[tuple[int, ...], ...]
    cameras: int
    end: int | None

    @property
    def frames(self) -> int | None:
        """The number of frame indexes in the grid; None if unbounded."""
        return None if None in self.counts else math.prod(n or 1 for n in self.counts)

    def frame_index(self, index: Mapping[str, int]) -> int:
        """The frame index of an event with this ``index``.

        Raises OmewdError ``bad_frame`` if it is not in the grid.
        """
        places = self._places(index)
        number = 0
        for place, count in zip(places, self.counts, strict=True):
            if place is None or place < 0 or (count is not None and place >= count):
                raise OmewdError(
                    "bad_frame",
                    f"the event at {index_text(index)} is not in the grid {self._text()} of the sequence",
                    "Run the sequence for which the stream was opened",
                )
            number = number * (count or 1) + place
        return number

    def _places(self, index: Mapping[str, int]) -> list[int | None]:
        p, tile = index.get("p", 0), (index.get("p", 0), index.get("g", 0))
        numbers = self.channel_numbers[p] if p < len(self.channel_numbers) else ()
        c = index.get("c", 0)
        channel = numbers[c] if c < len(numbers) else 0 if not numbers and c == 0 else None
        camera = index.get("cam", 0)
        places: dict[str, int | None] = {
            "t": index.get("t", 0),
            "z": index.get("z", 0),
            "p": self._tile_numbers.get(tile),
            "c": None if channel is None or camera >= self.cameras else channel * self.cameras + camera,
        }
        return [places[axis] for axis in self.axes]

    @cached_property
    def _tile_numbers(self) -> dict[tuple[int, int], int]:
        return {tile: number for number, tile in enumerate(self.tiles or ((0, 0),))}

    def _text(self) -> str:
        return ", ".join(f"{a}:{'inf' if n is None else n}" for a, n in zip(self.axes, self.counts, strict=True))


def event_grid(sequence: Any, *, cameras: int = 1) -> EventGrid:
    """The grid of a ``useq.MDASequence``. ``cameras``: how many images each event gives.

    The number of tiles in a grid between edges depends on the field of view: see :func:`with_field_of_view`.
    Raises OmewdError ``bad_spec`` if in no order of the dimensions do the events' frame indexes grow.
    """
    extents = _Extents(sequence)
    axes, endless = extents.axes, extents.times is None
    last: Mapping[str, int] | None = None
    if extents.ragged:
        times = _times_needed(sequence, extents)
        order, last = order_of_events(_events(sequence, times), axes, extents.channel_numbers, endless)
        if last is not None and times is not None and not endless:
            last = {**last, "t": last["t"] + (extents.times or 0) - times}
    else:
        order = order_of_product(axes, extents.outer_counts, endless)
    tiles = extents.tiles(grid_first="p" in order and "g" in order and order.index("g") < order.index("p"))
    merged = "".join(order).replace("pg", "p").replace("gp", "p").replace("g", "p")
    counts = {"t": extents.times, "p": len(tiles), "c": len(extents.channels), "z": extents.planes}
    if cameras > 1:
        if "c" not in merged:
            merged, counts["c"] = f"{merged}c", 1
        _check_cameras(merged, counts, "".join(map(str, sequence.axis_order)))
        counts["c"] = (counts["c"] or 1) * cameras
    grid = EventGrid(
        axes=merged,
        counts=tuple(counts[axis] for axis in merged),
        tiles=tuple(tiles),
        channels=tuple(extents.channels),
        channel_numbers=extents.channel_numbers,
        cameras=cameras,
        end=None,
    )
    if endless or last is None:
        return replace(grid, end=grid.frames)
    return replace(grid, end=grid.frame_index({**last, "cam": cameras - 1}) + 1)


def lacks_field_of_view(sequence: Any) -> bool:
    """Whether the sequence has grids without a field of view, whose tiles would be a micrometre apart."""
    inner = (getattr(stage, "sequence", None) for stage in sequence.stage_positions)
    plans = [sequence.grid_plan, *(own.grid_plan for own in inner if own is not None)]
    return any(plan is not None and None in (plan.fov_width, plan.fov_height) for plan in plans)


def with_field_of_view(sequence: Any, width_um: float, height_um: float) -> Any:
    """A copy of a sequence whose grids have this field of view, as an engine makes it before it starts."""
    size = {"fov_width": width_um, "fov_height": height_um}
    changes: dict[str, Any] = {}
    if sequence.grid_plan is not None:
        changes["grid_plan"] = sequence.grid_plan.model_copy(update=size)
    if any(getattr(stage, "sequence", None) is not None for stage in sequence.stage_positions):
        changes["stage_positions"] = tuple(
            stage
            if stage.sequence is None
            else stage.model_copy(update={"sequence": with_field_of_view(stage.sequence, width_um, height_um)})
            for stage in sequence.stage_positions
        )
    return sequence.model_copy(update=changes)


# -- extents of the plans ----------------------------------------------------------------------


def count_times(plan: Any) -> int | None:
    """The number of time points in a plan; None if unbounded (an interval of 0 within a duration)."""
    phases = getattr(plan, "phases", None)
    try:
        if phases is None:
            return int(plan.loops)
        return 1 + sum(int(phase.loops) - 1 for phase in phases)
    except ZeroDivisionError:
        return None


class _Extents:
    """The largest count along each axis, over all stage positions and their own plans."""

    def __init__(self, sequence: Any) -> None:
        outer = _counts(sequence)
        self.outer_counts = outer
        positions = list(sequence.stage_positions) if "p" in outer else []
        inner = [_counts(p.sequence) if getattr(p, "sequence", None) is not None else {} for p in positions]
        self.axes = [axis for axis in sequence.axis_order if axis in outer]
        for counts in inner:
            self.axes += [axis for axis in counts if axis not in self.axes]
        times = [counts.get("t", 0) for counts in (outer, *inner)]
        self.times = None if None in times else max(n or 0 for n in times)
        self.times_within = any("t" in counts for counts in inner)
        self.planes = max(counts.get("z") or 0 for counts in (outer, *inner))
        self._tiles_of = [c.get("g") or outer.get("g") or 1 for c in inner] or [outer.get("g") or 1]
        lists = [
            [(c.group, c.config) for c in (p.sequence if "c" in counts else sequence).channels]
            if "c" in counts or "c" in outer
            else []
            for p, counts in zip(positions, inner, strict=True)
        ] or [[(c.group, c.config) for c in sequence.channels] if "c" in outer else []]
        self.channels, self.channel_numbers = _joined(lists)
        self.ragged = (
            any(getattr(p, "sequence", None) is not None for p in positions)
            or ("t" in outer and "c" in outer and any(c.acquire_every > 1 for c in sequence.channels))
            or ("z" in outer and "c" in outer and not all(c.do_stack for c in sequence.channels))
        )

    def tiles(self, *, grid_first: bool) -> list[tuple[int, int]]:
        if "p" not in self.axes and "g" not in self.axes:
            return []
        tiles = [(p, g) for p, count in enumerate(self._tiles_of) for g in range(count)]
        return sorted(tiles, key=lambda tile: tile[::-1]) if grid_first else tiles


def _counts(sequence: Any) -> dict[str, int | None]:
    """The sequence's axes and their lengths."""
    grid = sequence.grid_plan
    counts: dict[str, int | None] = {
        "t": count_times(sequence.time_plan) if sequence.time_plan else 0,
        "p": len(sequence.stage_positions),
        "g": grid_points(grid) if grid is not None else 0,
        "c": len(sequence.channels),
        "z": len(list(sequence.z_plan)) if sequence.z_plan else 0,
    }
    return {axis: counts[axis] for axis in sequence.axis_order if counts[axis] != 0}


def grid_points(plan: Any) -> int:
    """The number of points in a grid plan; for random points the number requested, though not all may fit."""
    return int(plan.num_points) if hasattr(plan, "num_points") else sum(1 for _ in plan)


def _joined(lists: list[list[tuple[str, str]]]) -> tuple[list[tuple[str, str]], tuple[tuple[int, ...], ...]]:
    """Merge lists of channels, keeping the order of each; returns the channels, and each list's numbers among them.

    A channel that is twice in a list is twice in the result. Lists with contradicting orders are merged as they come.
    """
    counted = [[(channel, channels[:n].count(channel)) for n, channel in enumerate(channels)] for channels in lists]
    before: dict[tuple[tuple[str, str], int], set[tuple[tuple[str, str], int]]] = {}
    for channels in counted:
        for number, channel in enumerate(channels):
            before.setdefault(channel, set()).update(channels[max(number - 1, 0) : number])
    try:
        joined = list(TopologicalSorter(before).static_order())
    except CycleError:
        joined = list(before)
    return [channel for channel, _ in joined], tuple(tuple(joined.index(c) for c in channels) for channels in counted)


def _times_needed(sequence: Any, extents: _Extents) -> int | None:
    """How many time points show the order of all events; None for all of them.

    The channels of the time points repeat in rounds. So a long sequence is like its first two rounds, and still ends
    the same way if whole rounds are left out.
    """
    if extents.times_within or "t" not in extents.outer_counts:
        return None
    period = math.lcm(*(channel.acquire_every for channel in sequence.channels))
    if extents.times is None:
        return 2 * period + 1
    rounds = max((extents.times - 2 * period - 1) // period, 0)
    return extents.times - rounds * period if rounds else None


def _events(sequence: Any, times: int | None) -> Iterator[Mapping[str, int]]:
    """The indexes of a sequence's events that acquire images, of the first ``times`` time points if given.

    Iterates a copy: useq caches the events of a sequence, and the engine still has to set the field of view.
    """
    fields = sequence.model_dump(exclude={"metadata", "setup"})
    if times is not None:
        fields["time_plan"] = {"interval": 0, "loops": times}
    for event in type(sequence).model_validate(fields):
        kind = getattr(event.action, "type", None)
        if kind in (None, "acquire_image"):
            yield event.index


def _check_cameras(axes: str, counts: Mapping[str, int | None], order: str) -> None:
    behind = [axis for axis in axes[axes.index("c") + 1 :] if counts[axis] != 1]
    if behind:
        raise no_grid(
            f"several cameras are part of the channels, but {behind[0]} comes after the channels in {axes}",
            f'Put the channels last, as in axis_order "{order.replace("c", "")}c"',
        )
