"""The files of a dataset that are keys of its own arrays: which units each of them holds, and which hold frames."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.account import Account
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.levels import levels_of
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import ShardLayout, ShardPlace
from omewd.model.spec.spec import StreamSpec

# A place in a grid, in the "default" chunk key encoding.
_PLACE = re.compile(r"0|[1-9]\d{0,17}")
GRID = "c"
# A key's source, its level, and its number among the keys of both.
KeyNumber = tuple[int, int, int]
_MOST_KEYS = 1 << 62


@dataclass(frozen=True)
class InArray:
    """A path in an array: the array's image and level, and the names of what follows in the array's folder."""

    image: int
    level: int
    rest: tuple[str, ...]


class Keys:
    """The keys of a stream's arrays."""

    def __init__(self, spec: StreamSpec) -> None:
        self._plans = [Plan.of(spec, source=source) for source in range(spec.sources)]
        self._across = [ShardLayout(spec, level).shards_across for level in levels_of(spec)]
        self._images = {path: number for number, path in enumerate(spec.image_paths)}
        self._depth = next(iter(self._images)).count("/") + 1 if spec.position_dimensions else 0
        self.axes = len(spec.disk_order)

    def units(self, image: int, level: int, place: Sequence[str]) -> list[tuple[int, int]]:
        """The units, as (source, unit), that share a key; none if there is no such key.

        ``place``: the names of the folders and of the file in the array's grid.
        """
        if len(place) != self.axes or not all(map(_PLACE.fullmatch, place)):
            return []
        *outer, row, column = map(int, place)
        rows, columns = self._across[level]
        if row >= rows or column >= columns:
            return []
        units = ((plan.source, plan.unit_at(image, outer)) for plan in self._plans)
        return [(source, unit) for source, unit in units if unit is not None]

    def units_of(self, path: str) -> list[tuple[int, int]]:
        """The units that share the key at a path in the dataset; none if it is not one of the keys."""
        found = self.array_of(path)
        if found is None or found.rest[:1] != (GRID,):
            return []
        return self.units(found.image, found.level, found.rest[1:])

    def array_of(self, path: str) -> InArray | None:
        """Where a path in the dataset lies in an array; None if it lies in none."""
        parts = path.split("/")
        image = self._images.get("/".join(parts[: self._depth]))
        level, *rest = parts[self._depth :] or [""]
        if image is None or not _PLACE.fullmatch(level) or int(level) >= len(self._across):
            return None
        return InArray(image, int(level), tuple(rest))

    def find(self, found: InArray) -> tuple[int, ShardPlace] | None:
        """The (source, place) of a key, whose path starts with the grid's folder; None if there is no such key.

        Each source has keys of its own.
        """
        if found.rest[:1] != (GRID,):
            return None
        for source, unit in self.units(found.image, found.level, found.rest[1:]):
            return source, ShardPlace(unit, int(found.rest[-2]), int(found.rest[-1]))
        return None

    def number_of(self, path: str) -> KeyNumber | None:
        """The number of the key at a path in the dataset; None if it is not one of the keys."""
        found = self.array_of(path)
        if found is None or (key := self.find(found)) is None:
            return None
        source, place = key
        rows, columns = self._across[found.level]
        number = (place.unit * rows + place.row) * columns + place.column
        return (source, found.level, number) if number < _MOST_KEYS else None


def files_in(folder: str, inside: str = "") -> Iterator[str]:
    """The files in a folder and in those below it, as paths in the folder. Nothing is held but the open folders.

    Those below may be removed meanwhile.
    """
    try:
        entries = os.scandir(f"{folder}/{inside}")
    except FileNotFoundError:
        if not inside:
            raise
        return
    with entries:
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from files_in(folder, path)
            elif entry.is_file():
                yield path


def keys_with_frames(spec: StreamSpec, accounts: Sequence[Account], received: Sequence[int]) -> Iterator[str]:
    """The keys that hold written frames, at every resolution, as paths in the dataset."""
    for source, (account, frames) in enumerate(zip(accounts, received, strict=True)):
        plan = Plan.of(spec, source=source)
        layouts = [ShardLayout(spec, level, source) for level in levels_of(spec)]
        for unit in units_with_frames(plan, account, frames):
            if received_and_written(account, frames, frame_indexes(plan, unit)).any():
                for layout in layouts:
                    yield from keys_of(layout, unit)


def units_with_frames(plan: Plan, account: Account, received: int) -> Iterator[int]:
    """The units that may hold written frames, that is, all except those in long gaps."""
    unit = 0
    while unit < plan.units_with(received):
        first = plan.first_frame(unit)
        written = next(account.marks.intervals({ledger.WRITTEN}, received, first), None)
        if written is None:
            return
        first_unit = max(unit, plan.units_complete(written[0]))
        unit = max(plan.units_with(written[1]), first_unit + 1)
        yield from range(first_unit, unit)


def received_and_written(account: Account, received: int, frames: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return account.written(frames) & (frames < received)


def keys_of(layout: ShardLayout, unit: int) -> dict[str, ShardPlace]:
    """The files of a unit of keys."""
    return {layout.key(place): place for place in layout.shards_in(unit)}
