"""Keys that are in place and on no record: a unit was renamed into place, and its line in the ledger never written."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np

from omewd.dataset.ledger.ledger import UNACCOUNTED, WRITTEN
from omewd.dataset.ledger.marks import Marks
from omewd.dataset.ledger.reading import LedgerReader
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.images import image_paths
from omewd.model.plan.levels import Level, levels_of
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import ShardLayout
from omewd.model.spec.spec import StreamSpec
from omewd.store.filesystem import sync_folder

# A place in a grid, as the "default" chunk key encoding writes it.
_PLACE = re.compile(r"0|[1-9]\d{0,17}")
# A writer that dies in an append leaves one, a power cut hardly more.
_MOST_TORN = 16


def remove_strays(spec: StreamSpec, dataset: Path) -> list[str]:
    """Remove the keys of a dataset's own arrays of which the ledger says nothing; returns their paths in the dataset.

    A key with a frame that is written stays, and so does one with a frame that was put on record as lost: something of
    it may still be read. Folders that are empty go, foreign files stay. Nothing goes if much of the ledger can't be
    read. Nobody may be writing into the dataset. Raises OSError.
    """
    plans = [Plan.of(spec, source=source) for source in range(spec.sources)]
    recorded = _recorded(dataset, spec.sources)
    if recorded is None:
        return []
    removed: list[Path] = []
    for (image, path), level in product(enumerate(image_paths(spec)), levels_of(spec)):
        removed += _remove_from(dataset / path / str(level.number) / "c", image, level, spec, plans, recorded)
    for folder in {next(parent for parent in key.parents if parent.exists()) for key in removed}:
        sync_folder(folder)
    return sorted(str(key.relative_to(dataset)) for key in removed)


def _remove_from(
    grid: Path, image: int, level: Level, spec: StreamSpec, plans: Sequence[Plan], recorded: Sequence[Marks]
) -> list[Path]:
    """Remove the strays among an array's keys, which are below the folder ``grid``; returns what was removed."""
    rows, columns = ShardLayout(spec, level).shards_across
    removed: list[Path] = []
    for folder, _, names in os.walk(grid, topdown=False):
        above = Path(folder).relative_to(grid).parts
        if len(above) >= len(spec.disk_order) or not all(_PLACE.fullmatch(part) for part in above):
            continue
        for name in names if len(above) == len(spec.disk_order) - 1 else ():
            key = Path(folder, name)
            if not _PLACE.fullmatch(name) or key.is_symlink() or not key.is_file():
                continue
            *outer, row, column = map(int, (*above, name))
            units = [plan.unit_at(image, outer) for plan in plans]
            if row >= rows or column >= columns or all(unit is None for unit in units):
                continue  # it is none of this array's
            own = [(plan, u, known) for plan, u, known in zip(plans, units, recorded, strict=True) if u is not None]
            if not any(_has_any(known, plan, unit) for plan, unit, known in own):
                key.unlink()
                removed.append(key)
        with suppress(OSError):  # it is not empty
            os.rmdir(folder)  # noqa: PTH106
    return removed


def _has_any(marks: Marks, plan: Plan, unit: int) -> bool:
    return bool(marks.at(frame_indexes(plan, unit)).any())


def _recorded(dataset: Path, sources: int) -> list[Marks] | None:
    """For each source 1 for frames of which any line says that they are written or lost; None if too much is torn."""
    recorded = [Marks() for _ in range(sources)]
    reader = LedgerReader(dataset)
    foreign = 0
    for runs in reader.read(last_line=True):
        foreign += int((runs["source"] >= sources).sum())
        told = runs[(runs["kind"] == WRITTEN) | (runs["kind"] == UNACCOUNTED)]
        for source, marks in enumerate(recorded):
            own = told[told["source"] == source]
            marks.put_runs(own, np.ones(len(own), np.uint8))
    return recorded if reader.unreadable_lines + foreign <= _MOST_TORN else None
