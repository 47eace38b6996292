"""Strays: keys that are in place but not in the ledger, because a writer died between the rename and the lines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np

from omewd.dataset.keys import GRID, Keys
from omewd.dataset.ledger.ledger import FOLDER, UNACCOUNTED, WRITTEN
from omewd.dataset.ledger.marks import Marks
from omewd.dataset.ledger.reading import LedgerReader
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec
from omewd.process.names import sync_folder

# The name aside of users' metadata. A complete dataset has no staging, so they are written beside the ledger.
USER_METADATA = "user-metadata"
# A writer that dies while it appends leaves one torn line, and a power cut hardly more.
_MOST_TORN = 16


def is_aside(path: str) -> bool:
    """Whether a path in the dataset is that of users' metadata that are being written, or were when a writer died."""
    return path.startswith(f"{FOLDER}/{USER_METADATA}-")


def remove_asides(dataset: Path) -> bool:
    """Remove users' metadata that a writer has left half-written; returns whether there were any. Raises OSError."""
    left = list((dataset / FOLDER).glob(f"{USER_METADATA}-*"))
    for path in left:
        path.unlink(missing_ok=True)
    return bool(left)


def remove_strays(spec: StreamSpec, dataset: Path) -> list[str]:
    """Remove the keys of a dataset's own arrays that are not in the ledger; returns their paths in the dataset.

    A key with a written frame stays, and so does one with a frame on record as lost, because a part of it may still be
    readable. Empty folders are removed; foreign files stay. Nothing is removed if much of the ledger can't be read.
    Nobody may be writing to the dataset. Raises OSError.
    """
    recorded = _recorded(dataset, spec.sources)
    if recorded is None:
        return []
    finder = _Finder(Keys(spec), [Plan.of(spec, source=source) for source in range(spec.sources)], recorded)
    for (image, path), level in product(enumerate(spec.image_paths), range(spec.levels)):
        finder.remove_from(dataset / path / str(level) / GRID, image, level)
    for folder in {next(parent for parent in key.parents if parent.exists()) for key in finder.removed}:
        sync_folder(folder)
    return sorted(str(key.relative_to(dataset)) for key in finder.removed)


class _Finder:
    """Removes strays. ``removed``: their paths."""

    def __init__(self, keys: Keys, plans: Sequence[Plan], recorded: Sequence[Marks]) -> None:
        self._keys, self._plans, self._recorded = keys, plans, recorded
        self.removed: list[Path] = []

    def remove_from(self, folder: Path, image: int, level: int, place: tuple[str, ...] = ()) -> None:
        """Remove the strays in an array's grid of keys, or in a folder of it, which is at ``place``."""
        if len(place) == self._keys.axes or not all(map(str.isdecimal, place)):
            return
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                inside = (*place, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    self.remove_from(folder / entry.name, image, level, inside)
                elif entry.is_file(follow_symlinks=False) and self._is_stray(image, level, inside):
                    (folder / entry.name).unlink()
                    self.removed.append(folder / entry.name)
        with suppress(OSError):  # it is not empty
            folder.rmdir()

    def _is_stray(self, image: int, level: int, place: tuple[str, ...]) -> bool:
        units = self._keys.units(image, level, place)
        return bool(units) and not any(
            self._recorded[source].at(frame_indexes(self._plans[source], unit)).any() for source, unit in units
        )


def _recorded(dataset: Path, sources: int) -> list[Marks] | None:
    """For each source, 1 for frames that any line lists as written or lost; None if too many lines are torn."""
    recorded = Marks.of_sources(sources)
    reader = LedgerReader(dataset)
    foreign = 0
    for runs in reader.read(last_line=True):
        foreign += int((runs["source"] >= sources).sum())
        told = runs[(runs["kind"] == WRITTEN) | (runs["kind"] == UNACCOUNTED)]
        for source, marks in enumerate(recorded):
            own = told[told["source"] == source]
            marks.put_runs(own, np.ones(len(own), np.uint8))
    return recorded if reader.unreadable_lines + foreign <= _MOST_TORN else None
