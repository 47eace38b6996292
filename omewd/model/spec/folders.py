"""The folder of each position in a dataset, called by the position's name or number. Pure.

Names follow Zarr v3, "Node names". Fields in a well have alphanumeric names (OME-Zarr 0.5, "well").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from omewd.model.spec.dimensions import Position

_MAX_NAME_BYTES = 128
# Other entries of a dataset's folder.
_TAKEN = ("OME", "omewd", "zarr.json")


def numbered(positions: Sequence[Position], *, in_wells: bool) -> tuple[str, ...]:
    """0, 1, …; in wells ROW/COLUMN/0, ROW/COLUMN/1, …, counted in each well."""
    if not in_wells:
        return tuple(map(str, range(len(positions))))
    fields: Counter[str] = Counter()
    paths = []
    for position in positions:
        well = _well(position)
        paths.append(f"{well}/{fields[well]}")
        fields[well] += 1
    return tuple(paths)


def named(positions: Sequence[Position], *, in_wells: bool) -> tuple[str, ...]:
    """NAME, or NAME_ROW_COLUMN for a tile in a grid; in wells ROW/COLUMN/NAME."""
    if in_wells:
        return tuple(f"{_well(position)}/{position.name}" for position in positions)
    return tuple(_tile(position) for position in positions)


def _well(position: Position) -> str:
    return f"{position.plate_row}/{position.plate_column}"


def _tile(position: Position) -> str:
    if position.grid_row is None or position.grid_column is None:
        return position.name
    return f"{position.name}_{position.grid_row}_{position.grid_column}"


def folder_problem(positions: Sequence[Position], *, in_wells: bool) -> str | None:
    """Why the positions' names can't be folder names; None if they can."""
    for position in positions:
        name = position.name if in_wells else _tile(position)
        if in_wells and not (name.isascii() and name.isalnum()):
            return f"folder names of fields in a well have letters and digits only, unlike {name!r:.80}"
        if not name.isprintable() or "/" in name or name.startswith((".", "__")) or name in _TAKEN:
            return f"{name!r:.80} can't be the name of a folder in a dataset"
        if len(name.encode()) > _MAX_NAME_BYTES:
            return f"{name!r:.80} is longer than {_MAX_NAME_BYTES} bytes"
    paths = Counter(named(positions, in_wells=in_wells))
    doubled = [path for path, times in paths.items() if times > 1]
    return f"two positions would share the folder {doubled[0]!r:.80}" if doubled else None
