"""Checks a write unit at every resolution: its files, its shards' indexes, and its pixels."""

from __future__ import annotations

import math
import stat
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from omewd.dataset.checks.report import Report
from omewd.dataset.copies.evictions import Evictions
from omewd.dataset.keys import keys_of
from omewd.dataset.resolutions import Region, made_of, present_in
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.shards import ShardLayout, ShardPlace, Written
from omewd.model.spec.spec import StreamSpec
from omewd.store.format.shard_index import ABSENT, read_entries

# How much is read at a time, or one chunk across the frame if that is more.
_READ_BYTES = 256 << 20


@dataclass(frozen=True)
class UnitChecks:
    """Checks the units of one source. ``layouts``: its shards at each resolution."""

    dataset: Path
    spec: StreamSpec
    layouts: list[ShardLayout]
    written: Written
    evictions: Evictions

    def check(self, unit: int, arrays: list[Any], report: Report) -> None:
        """Check that a unit exists, decodes, and has the right pixels, as far as it was not evicted.

        ``arrays``: of its image, at each resolution.
        """
        keys = [key for layout in self.layouts for key in keys_of(layout, unit)]
        evicted = self.evictions.among(keys)
        while True:
            found = Report(self.dataset, made_by=report.made_by)
            self._check_here(unit, arrays, evicted, found)
            before, evicted = evicted, self.evictions.among(keys)
            if not found.problems or evicted == before:  # else they may come of files that were evicted meanwhile
                break
        found.evicted_to.update(Counter(evicted.values()))
        report.add(found)

    def _check_here(self, unit: int, arrays: list[Any], evicted: Container[str], report: Report) -> None:
        """Check a unit, without the keys that are evicted."""
        source = self.layouts[0].source
        present = self.written(frame_indexes(self.layouts[0].keys, unit))
        whole_before = False
        for number, (layout, array) in enumerate(zip(self.layouts, arrays, strict=True)):
            check: Check = partial(_only_where_written, present)
            if number:
                origin = self.layouts[number - 1].region(unit)
                before, level = arrays[number - 1], layout.level
                make = partial(
                    made_of, before, level=level, method=self.spec.downsample, present=present, origin=origin
                )
                check = partial(_is_made_of, make) if whole_before else _anything
                present = present_in(level, self.spec.downsample, present)
            keys = keys_of(layout, unit)
            here = {key: place for key, place in keys.items() if key not in evicted}
            fine = _check_keys(self.dataset, self.spec, layout, here, self.written, report)
            whole_before = fine and len(here) == len(keys) and _check_pixels(array, layout, unit, check, report)
            if whole_before or (fine and len(here) < len(keys)):
                continue
            if number:
                report.bad_levels.append((source, unit, number))
            else:
                report.bad_units.setdefault(source, []).append(unit)


def _check_keys(
    dataset: Path,
    spec: StreamSpec,
    layout: ShardLayout,
    keys: Mapping[str, ShardPlace],
    written: Written,
    report: Report,
) -> bool:
    """Whether keys of a unit exist, with all the chunks that they should have."""
    if not _check_files(dataset, list(keys), report):
        return False
    if not spec.sharded or report.made_by.leaves_zeros_out(spec.backend):
        return True
    whole = [_check_index(dataset / key, layout, place, written, report) for key, place in keys.items()]
    return all(whole)


def _check_files(dataset: Path, keys: list[str], report: Report) -> bool:
    """Whether files exist and are not empty."""
    complete = True
    for key in keys:
        try:
            found = (dataset / key).stat()
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            report.problems.append(f"{key} is missing" if gone else f"{key} can't be read: {error.strerror}")
            complete = False
            continue
        if not stat.S_ISREG(found.st_mode):
            report.problems.append(f"{key} is not a file")
            complete = False
            continue
        size = found.st_size
        if not size:
            report.problems.append(f"{key} is empty")
            complete = False
        report.keys += 1
        report.read_bytes += size
    return complete


def _check_index(path: Path, layout: ShardLayout, place: ShardPlace, written: Written, report: Report) -> bool:
    """Whether a shard has every chunk with a written frame; an absent chunk would read as the fill value."""
    wanted = layout.with_frames(place, written)
    try:
        with path.open("rb") as file:
            entries = read_entries(file.fileno(), len(wanted))
    except OSError as error:
        report.problems.append(f"{layout.key(place)} can't be read: {error.strerror}")
        return False
    if entries is None:
        report.problems.append(f"{layout.key(place)} has a torn index")
        return False
    missing = int((wanted & (entries[:, 0] == ABSENT)).sum())
    if missing:
        report.problems.append(f"{layout.key(place)} lacks {missing} of {int(wanted.sum())} chunks")
    return not missing


# Checks the pixels of a part of a unit: (part, the unit's region, pixels) → one text for each problem.
Check = Callable[[Region, Region, np.ndarray[Any, Any]], list[str]]


def _check_pixels(array: Any, layout: ShardLayout, unit: int, check: Check, report: Report) -> bool:
    """Check that a unit decodes and that its pixels are right, with only a part of it in memory at a time."""
    spans = zip(layout.region(unit), array.shape, strict=False)
    region = [(start, min(stop, length)) for (start, stop), length in spans]
    frame_bytes = array.dtype.numpy_dtype.itemsize * math.prod(array.shape[len(region) :])
    fine = True
    for part in _parts(region, array.chunk_layout.read_chunk.shape, _READ_BYTES // frame_bytes):
        try:
            view = array[tuple(slice(a, b) for a, b in part)] if part else array
            wrong = check(part, region, np.asarray(view.read().result()))
        except (ValueError, OSError, NotImplementedError, IndexError) as error:
            report.problems.append(f"{layout.folder(unit)} does not decode: {str(error).splitlines()[0][:300]}")
            return False
        report.problems.extend(f"{layout.folder(unit)} {text}" for text in wrong)
        if wrong and layout.level.number:  # extra pixels at the full resolution are not a loss
            fine = False
    return fine


def _only_where_written(
    written: np.ndarray[Any, Any], part: Region, region: Region, pixels: np.ndarray[Any, Any]
) -> list[str]:
    inner = tuple(slice(a - first, b - first) for (a, b), (first, _) in zip(part, region, strict=True))
    strange = [place for place in np.argwhere(~written[inner]) if pixels[tuple(place)].any()]
    places = (tuple(int(i) + a for i, (a, _) in zip(place, part, strict=True)) for place in strange)
    return [f"holds pixels at {at}, where no frame was written" for at in places]


def _is_made_of(
    make: Callable[[Region], np.ndarray[Any, Any]], part: Region, _: Region, pixels: np.ndarray[Any, Any]
) -> list[str]:
    expected = make(part)
    if expected.dtype.kind == "f":
        same = np.allclose(pixels, expected, rtol=1e-3, equal_nan=True)
    else:
        same = np.array_equal(pixels, expected)
    return [] if same else ["does not match the resolution before it"]


def _anything(_: Region, __: Region, ___: np.ndarray[Any, Any]) -> list[str]:
    return []


def _parts(region: Region, chunk: Sequence[int], frames: int) -> Iterator[Region]:
    """Split a region, (start, stop) along each outer axis, into parts of at most ``frames`` frames or one chunk."""
    for axis, (start, stop) in enumerate(region):
        if math.prod(b - a for a, b in region) > frames and stop - start > chunk[axis]:
            middle = start + max((stop - start) // 2 // chunk[axis], 1) * chunk[axis]
            for cut in ((start, middle), (middle, stop)):
                yield from _parts([*region[:axis], cut, *region[axis + 1 :]], chunk, frames)
            return
    yield region
