"""The frames of a dataset in order, with their time stamps and metadata, read from the ledger for analysis."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from omewd.dataset.ledger.columns import Column
from omewd.dataset.ledger.index import FRAME, GAP, LOST, LedgerIndex, Row
from omewd.dataset.ledger.ledger import totals_of
from omewd.dataset.ledger.marks import PAGE, Indexes, Marks
from omewd.errors import OmewdError
from omewd.model.plan.grid import places
from omewd.model.plan.plan import Plan

if TYPE_CHECKING:
    from pandas import DataFrame

Array = np.ndarray[Any, Any]

# Rows that are read at a time.
_BLOCK = 1 << 14
# Rows for more gaps than this do not fit into memory.
_MOST_GAPS = 1 << 26


def open_ledger(dataset: str | os.PathLike[str]) -> FrameLedger:
    """Open the ledger of a dataset that is complete or still being written. It shows the frames on record now.

    ``dataset``: the dataset's folder. Raises OmewdError ``not_a_dataset``; ``no_memory`` if gaps make too many rows.
    """
    try:
        path = Path(dataset)
    except TypeError as error:
        raise OmewdError("not_a_dataset", f"{dataset!r:.80} is no path of a dataset") from error
    return FrameLedger(path)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One frame index.

    ``frame``: its number in acquisition order, from 0, within its source. ``source``: the source's number. ``image``
    and ``index``: the image that stores it, and its index along each outer dimension. ``wall_ns`` and ``monotonic_ns``:
    when it was published. ``metadata``: from its producer, None if it gave none. ``gap``: "" for a frame, else
    "skipped", "dropped" or "lost"; gaps have no time stamps.
    """

    frame: int
    source: int
    image: int
    index: dict[str, int]
    wall_ns: int | None
    monotonic_ns: int | None
    metadata: dict[str, Any] | None
    gap: str


class FrameLedger(Sequence[LedgerRow]):
    """A row for each frame index on record: of the first source in order, then of the next.

    Gaps have rows, too. Frame indexes whose write unit is not on disk yet have none. It shows the ledger as it was when
    it was opened, and keeps next to nothing in memory. Raises OmewdError ``changed`` for rows of a ledger that has
    changed since.
    """

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset
        self.totals, self.spec = totals_of(dataset)
        self._names = tuple(dim.name for dim in self.spec.disk_dimensions[:-2])
        self._plans = [Plan.of(self.spec, source=source) for source in range(self.spec.sources)]
        index = LedgerIndex(dataset, self.spec)
        try:
            index.read_on()
        except OSError as error:
            raise OmewdError("not_a_dataset", f"the ledger of {dataset} can't be read: {error.strerror}") from error
        self._index = index
        self._known = [_Known.of(marks) for marks in index.marks]
        gaps = sum(known.long_gaps for known in self._known)
        if gaps > _MOST_GAPS:
            message = f"the ledger of {dataset} has {gaps} frame indexes in long gaps: too many to have a row each"
            raise OmewdError("no_memory", message, "Read the file itself: each gap is one line of it")
        self._starts = np.cumsum([0, *map(len, self._known)])

    @property
    def images(self) -> tuple[str, ...]:
        """The folder of each image, by its number; "" is the dataset itself, if there are no positions."""
        return self.spec.image_paths

    def __repr__(self) -> str:
        return f"<FrameLedger of {self.dataset}: {len(self)} rows>"

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, row: int) -> LedgerRow: ...
    @overload
    def __getitem__(self, row: slice) -> list[LedgerRow]: ...
    def __getitem__(self, row: int | slice) -> LedgerRow | list[LedgerRow]:
        """A row by its number, or a list of rows."""
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        number = range(len(self))[row]
        source = int(np.searchsorted(self._starts, number, side="right")) - 1
        first = number - int(self._starts[source])
        return next(self._rows(source, slice(first, first + 1)))

    def __iter__(self) -> Iterator[LedgerRow]:
        for source, part in self._parts():
            yield from self._rows(source, part)

    def _parts(self) -> Iterator[tuple[int, slice]]:
        """All rows in order, in batches of (source, rows)."""
        for source, known in enumerate(self._known):
            for start in range(0, len(known), _BLOCK):
                yield source, slice(start, min(start + _BLOCK, len(known)))

    def _said(self, source: int, frames: Indexes) -> list[Row]:
        """The rows of frame indexes that are in the ledger."""
        try:
            return [row or {} for row in self._index.rows(source, frames)]
        except OSError as error:
            message = f"the ledger of {self.dataset} can't be read any more: {error.strerror}"
            raise OmewdError("changed", message, "Open it again") from error

    def _rows(self, source: int, part: slice) -> Iterator[LedgerRow]:
        frames = self._known[source].frames(part.start, part.stop)
        images, axes = places(self._plans[source], frames)
        indexes = zip(*(axis.tolist() for axis in axes), strict=True) if axes else ((),) * len(frames)
        said = self._said(source, frames)
        for frame, image, index, row in zip(frames.tolist(), images.tolist(), indexes, said, strict=True):
            where = dict(zip(self._names, index, strict=True))
            gap, wall_ns, monotonic_ns = row.get("gap", ""), row.get("wall_ns"), row.get("monotonic_ns")
            yield LedgerRow(frame, source, image, where, wall_ns, monotonic_ns, row.get("metadata"), gap)

    def columns(self) -> dict[str, Array]:
        """The rows as arrays by name.

        They are ``frame``, ``source`` if there are several, ``image``, one for each outer dimension (in storage order),
        ``wall_ns``, ``monotonic_ns``, ``gap``, and one for each key of the metadata. If a name is taken already, a
        dimension gets the prefix ``index.`` and a key the prefix ``metadata.``. Missing integers and booleans are
        masked (numpy.ma), missing floats NaN, other missing values None. Strings, lists and mappings are Python
        objects, in arrays of objects.
        """
        frames = [known.frames(0, len(known)) for known in self._known]
        stored = [places(plan, some) for plan, some in zip(self._plans, frames, strict=True)]
        found: dict[str, Array] = {"frame": np.concatenate(frames)}
        if len(frames) > 1:
            found["source"] = np.repeat(np.arange(len(frames)), np.diff(self._starts))
        found["image"] = np.concatenate([images for images, _ in stored])
        fixed = {"wall_ns": Column(np.int64), "monotonic_ns": Column(np.int64), "gap": Column()}
        for axis, name in enumerate(self._names):
            taken = found.keys() | fixed.keys() | {"source"}
            found[_free_name("index", name, taken)] = np.concatenate([axes[axis] for _, axes in stored])
        metadata: dict[str, Column] = {}
        start = 0
        for source, part in self._parts():
            _gather(start, self._said(source, frames[source][part]), fixed, metadata)
            start += part.stop - part.start
        found |= {name: column.array(start) for name, column in fixed.items()}
        for key, column in metadata.items():
            found[_free_name("metadata", key, found.keys())] = column.array(start)
        return found

    def to_pandas(self) -> DataFrame:
        """The columns as a pandas DataFrame. Integers and booleans that may be missing have pandas' nullable types.

        Raises OmewdError ``not_installed`` without pandas.
        """
        try:
            import pandas as pd
        except ImportError as error:
            message = "to_pandas() needs pandas, which is not installed"
            raise OmewdError("not_installed", message, "pip install pandas") from error
        nullable = {"i": pd.arrays.IntegerArray, "b": pd.arrays.BooleanArray}
        return pd.DataFrame(
            {
                name: nullable[column.dtype.kind](column.data, np.ma.getmaskarray(column))
                if isinstance(column, np.ma.MaskedArray)
                else column
                for name, column in self.columns().items()
            }
        )


@dataclass(frozen=True)
class _Known:
    """The frame indexes of a source that have a row, as ascending runs.

    ``firsts``: the first index of each run. ``starts``: the rows before each run, and at the end all rows.
    ``long_gaps``: the number of indexes in long gaps.
    """

    firsts: Indexes
    starts: Indexes
    long_gaps: int

    @classmethod
    def of(cls, marks: Marks) -> _Known:
        runs = np.array([*marks.intervals({FRAME, GAP, LOST})], np.int64).reshape(-1, 2)
        gaps = sum(stop - first for first, stop in marks.intervals({GAP, LOST}) if stop - first > PAGE)
        return cls(runs[:, 0], np.append(0, np.cumsum(runs[:, 1] - runs[:, 0])), gaps)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def frames(self, start: int, stop: int) -> Indexes:
        """The frame indexes of these rows."""
        rows = np.arange(start, min(stop, len(self)))
        run = np.searchsorted(self.starts, rows, side="right") - 1
        frames: Indexes = self.firsts[run] + rows - self.starts[run]
        return frames


def _gather(start: int, said: Iterable[Row], fixed: dict[str, Column], metadata: dict[str, Column]) -> None:
    """Put the values of rows, from row ``start`` on, into columns."""
    of_fixed: dict[str, dict[int, Any]] = {name: {} for name in fixed}
    of_key: dict[str, dict[int, Any]] = {}
    for number, row in enumerate(said, start):
        of_fixed["gap"][number] = sys.intern(row.get("gap", ""))
        for name in ("wall_ns", "monotonic_ns"):
            if isinstance(row.get(name), int):
                of_fixed[name][number] = row[name]
        known = row.get("metadata")
        for key, value in known.items() if isinstance(known, dict) else [("metadata", known)]:
            if value is not None:
                of_key.setdefault(key, {})[number] = value
    for name, values in of_fixed.items():
        fixed[name].add(list(values), list(values.values()))
    for key, values in of_key.items():
        metadata.setdefault(key, Column()).add(list(values), list(values.values()))


def _free_name(prefix: str, name: str, taken: Set[str]) -> str:
    while name in taken:
        name = f"{prefix}.{name}"
    return name
