"""Frames of a dataset with their time stamps and metadata, in order: the ledger, read back for those who analyse it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from omewd.dataset.ledger.columns import Column
from omewd.dataset.ledger.index import LedgerIndex, Row
from omewd.dataset.ledger.ledger import totals_of
from omewd.errors import OmewdError
from omewd.model.plan.grid import places
from omewd.model.plan.images import image_paths
from omewd.model.plan.plan import Plan

if TYPE_CHECKING:
    from pandas import DataFrame

Array = np.ndarray[Any, Any]

# Rows that are read at a time.
_BLOCK = 1 << 14


def open_ledger(dataset: str | os.PathLike[str]) -> FrameLedger:
    """The frames of a dataset, complete or still being written, as far as they are on record now.

    ``dataset``: its folder. Raises OmewdError ``not_a_dataset``; ``no_memory`` if gaps make the rows too many.
    """
    try:
        path = Path(dataset)
    except TypeError as error:
        raise OmewdError("not_a_dataset", f"{dataset!r:.80} is no path of a dataset") from error
    return FrameLedger(path)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """What became of one frame index.

    ``frame``: its number in acquisition order (of its source), from 0; ``source``: the producer's number. It is stored
    in the image of number ``image``, at ``index`` along each outer dimension. ``wall_ns`` and ``monotonic_ns`` tell
    when it was handed over; ``metadata``: what its producer said of it, None if nothing. ``gap``: "" for a frame, else
    "skipped", "dropped" or "lost", without time stamps.
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

    Gaps have rows too; an index whose write unit is not on disk yet has none. It shows what was there when it was
    opened, and keeps 16 bytes a frame in memory. Raises OmewdError ``changed`` for rows of a ledger that is not the
    same any more.
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
        known = [index.lines(source) for source in range(self.spec.sources)]
        self._frames, self._lines = [frames for frames, _ in known], [lines for _, lines in known]
        self._starts = np.cumsum([0, *map(len, self._frames)])
        self._file = index.file

    @property
    def images(self) -> tuple[str, ...]:
        """The folder of each image by its number; "" for the dataset itself where there are no positions."""
        return image_paths(self.spec)

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
        """(source, some of its rows), all of them in order."""
        for source, frames in enumerate(self._frames):
            for start in range(0, len(frames), _BLOCK):
                yield source, slice(start, min(start + _BLOCK, len(frames)))

    def _said(self, source: int, part: slice) -> Iterator[Row]:
        """What the ledger says of some rows."""
        frames, lines = self._frames[source][part].tolist(), self._lines[source][part].tolist()
        last, row = 0, {}
        try:
            with self._file.opened() as descriptor:
                for frame, line in zip(frames, lines, strict=True):
                    if line != last:  # else it is one about a run of gaps
                        last, row = line, self._file.row(descriptor, source, frame, line)
                    yield row
        except OSError as error:
            message = f"the ledger of {self.dataset} can't be read any more: {error.strerror}"
            raise OmewdError("changed", message, "Open it again") from error

    def _rows(self, source: int, part: slice) -> Iterator[LedgerRow]:
        frames = self._frames[source][part]
        images, axes = places(self._plans[source], frames)
        indexes = zip(*(axis.tolist() for axis in axes), strict=True) if axes else ((),) * len(frames)
        said = self._said(source, part)
        for frame, image, index, row in zip(frames.tolist(), images.tolist(), indexes, said, strict=True):
            where = dict(zip(self._names, index, strict=True))
            gap, wall_ns, monotonic_ns = row.get("gap", ""), row.get("wall_ns"), row.get("monotonic_ns")
            yield LedgerRow(frame, source, image, where, wall_ns, monotonic_ns, row.get("metadata"), gap)

    def columns(self) -> dict[str, Array]:
        """The rows as arrays by name.

        They are ``frame``, ``source`` if there are several, ``image``, one for each outer dimension (in storage order),
        ``wall_ns``, ``monotonic_ns``, ``gap``, and one for each key of the metadata. Where a name is taken already,
        that of a dimension comes after ``index.``, that of a key after ``metadata.``. Where a row has no value,
        integers and truth values are masked (numpy.ma), floats NaN, others None. Texts, lists and mappings are
        Python's, in arrays of objects.
        """
        stored = [places(plan, frames) for plan, frames in zip(self._plans, self._frames, strict=True)]
        found = {"frame": np.concatenate(self._frames)}
        if len(self._frames) > 1:
            found["source"] = np.repeat(np.arange(len(self._frames)), np.diff(self._starts))
        found["image"] = np.concatenate([images for images, _ in stored])
        fixed = {"wall_ns": Column(np.int64), "monotonic_ns": Column(np.int64), "gap": Column()}
        for axis, name in enumerate(self._names):
            taken = found.keys() | fixed.keys() | {"source"}
            found[_free_name("index", name, taken)] = np.concatenate([axes[axis] for _, axes in stored])
        metadata: dict[str, Column] = {}
        start = 0
        for source, part in self._parts():
            _gather(start, self._said(source, part), fixed, metadata)
            start += part.stop - part.start
        found |= {name: column.array(start) for name, column in fixed.items()}
        for key, column in metadata.items():
            found[_free_name("metadata", key, found.keys())] = column.array(start)
        return found

    def to_pandas(self) -> DataFrame:
        """The columns as a pandas DataFrame; integers and truth values that can be missing are of its nullable types.

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


def _gather(start: int, said: Iterator[Row], fixed: dict[str, Column], metadata: dict[str, Column]) -> None:
    """Take the values of rows from number ``start`` on into columns."""
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
