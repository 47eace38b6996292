"""Converts the stage positions, grids and well plates of a useq sequence to positions and a plate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from omewd.model.spec.dimensions import row_name

_MAX_NAME = 256


def positions_of(sequence: Any, tiles: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """The position of each (p, g): its name, stage coordinates in µm, place in a grid, and well."""
    stages = list(sequence.stage_positions) or [None]
    points = [_tiles(sequence, stage) for stage in stages]
    within_well = _points_of_wells(sequence)
    positions: list[dict[str, Any]] = []
    names: set[str] = set()
    for p, g in tiles:
        stage, of_stage = stages[p], points[p]
        tile = of_stage[g] if g < len(of_stage) else None
        position = _place(stage, tile)
        if _has_absolute_planes(sequence, stage):
            position.pop("z_coord", None)  # absolute planes don't count from it
        if within_well and tile is None:
            position |= within_well[p % len(within_well)]
        position["name"] = _new_name(_name(stage, p, g if of_stage else None), names)
        positions.append({key: value for key, value in position.items() if value is not None})
    return positions


def plate_of(sequence: Any) -> dict[str, Any] | None:
    """The plate of a WellPlatePlan, or the smallest with the wells that the positions name; None without wells."""
    stages = sequence.stage_positions
    plate = getattr(stages, "plate", None)
    if plate is not None and len(stages):
        return _plate(plate.rows, plate.columns, plate.name or None)
    wells = [(stage.plate_row, stage.plate_col) for stage in stages]
    if not wells or any(None in well for well in wells):
        return None
    return _plate(max(row for row, _ in wells) + 1, max(column for _, column in wells) + 1, None)


def _plate(rows: int, columns: int, name: str | None) -> dict[str, Any]:
    return {
        "row_names": [row_name(i) for i in range(rows)],
        "column_names": [str(i + 1) for i in range(columns)],
        "name": name,
    }


def _tiles(sequence: Any, stage: Any) -> list[Any]:
    """The tiles of a stage position, from its own grid or else the sequence's."""
    own = getattr(stage, "sequence", None)
    plan = (own.grid_plan if own is not None else None) or sequence.grid_plan
    if plan is None:
        return []
    if hasattr(plan, "random_seed") and plan.random_seed is None:
        # Every iteration draws new random points, which would not be those of the run.
        return [None] * int(plan.num_points)
    return [(point, plan.is_relative) for point in plan]


def _has_absolute_planes(sequence: Any, stage: Any) -> bool:
    own = getattr(stage, "sequence", None)
    plan = (own.z_plan if own is not None else None) or sequence.z_plan
    return plan is not None and not plan.is_relative


def _points_of_wells(sequence: Any) -> list[dict[str, int | None]]:
    """The place of each field in its well's grid, which useq keeps in the plan, not in the positions."""
    plan = getattr(sequence.stage_positions, "well_points_plan", None)
    if plan is None or not hasattr(plan, "rows"):
        return []
    return [{"grid_row": point.grid_row, "grid_column": point.grid_col} for point in plan]


def _place(stage: Any, tile: tuple[Any, bool] | None) -> dict[str, Any]:
    place: dict[str, Any] = {}
    if stage is not None:
        place = {"x_coord": stage.x, "y_coord": stage.y, "z_coord": stage.z}
        place |= {"grid_row": stage.grid_row, "grid_column": stage.grid_col}
        if stage.plate_row is not None and stage.plate_col is not None:
            place |= {"plate_row": row_name(stage.plate_row), "plate_column": str(stage.plate_col + 1)}
    if tile is not None:
        point, relative = tile
        x, y = (place.get("x_coord") or 0.0, place.get("y_coord") or 0.0) if relative else (0.0, 0.0)
        place |= {"x_coord": x + point.x, "y_coord": y + point.y}
        place |= {"grid_row": point.grid_row, "grid_column": point.grid_col}
    return place


def _name(stage: Any, p: int, g: int | None) -> str:
    name = "" if stage is None else stage.name or str(p)
    if g is None:
        return name or str(p)
    return f"{name}_{g:04d}" if name else f"{g:04d}"


def _new_name(name: str, names: set[str]) -> str:
    """The name, or the first of name_1, name_2, … that is not taken."""
    name = re.sub(r"[\0/]", "_", name)[: _MAX_NAME - 8]
    number, new = 0, name
    while new in names:
        number += 1
        new = f"{name}_{number}"
    names.add(new)
    return new
