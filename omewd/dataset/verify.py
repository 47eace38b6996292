"""Verifies a dataset: everything that the metadata and the ledger claim must be there, and nothing else."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from yaozarrs import validate_zarr_store

from omewd.dataset import metadata
from omewd.dataset.copies.manifest import is_manifest
from omewd.dataset.copies.places import is_of_parts
from omewd.dataset.keys import Keys, files_in, keys_of, received_and_written, units_with_frames
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.account import Account, Ledger
from omewd.dataset.ledger.marks import Marks
from omewd.dataset.ledger.runs import RUNS_FILE
from omewd.dataset.made_by import FIELD, MadeBy
from omewd.dataset.resolutions import Region, made_of, present_in
from omewd.dataset.strays import is_aside
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.levels import Level, levels_of
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import ShardLayout, ShardPlace, Written
from omewd.model.spec.spec import StreamSpec
from omewd.store.format.shard_index import ABSENT, read_entries

_OWN_FILES = {f"{ledger.FOLDER}/{name}" for name in ("zarr.json", ledger.FILE, RUNS_FILE)}
# More images take turns.
_MOST_OPEN_ARRAYS = 4096
# How much is read at a time, or one chunk across the frame if that is more.
_READ_BYTES = 256 << 20


@dataclass
class Report:
    """What was read, and one line for each problem.

    ``dataset``: its folder, or the URL of a copy. ``received``: the frames of each source. ``notes``: harmless
    irregularities. ``bad_runs``: the ledger's record of runs does not match its lines. ``bad_units``: by source, the
    units of whole keys whose full-resolution files are missing, empty or can't be decoded. ``bad_levels``: (source,
    unit, level) of lower resolutions with wrong pixels. ``strays``: files that do not belong there. ``made_by``: what
    encoded the pixels.
    """

    dataset: Path | str
    received: list[int] = field(default_factory=list)
    written: int = 0
    gaps: int = 0
    keys: int = 0
    read_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bad_runs: bool = False
    bad_units: dict[int, list[int]] = field(default_factory=dict)
    bad_levels: list[tuple[int, int, int]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    made_by: MadeBy = field(default_factory=MadeBy)

    @property
    def frames(self) -> int:
        """The number of frames that were received, over all sources."""
        return sum(self.received)

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "dataset": str(self.dataset), "frames": self.frames, FIELD: self.made_by.to_dict()}


def verify(dataset: Path, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read a whole dataset back. ``progress`` is called with (units read, units in total).

    It checks that the metadata are valid OME-Zarr 0.5, that the shapes match the received frames, that the ledger
    accounts for every frame index, that every shard or chunk with a written frame exists and decodes (which checks the
    shard index's CRC-32C), that gaps read as the fill value, that each lower resolution matches the one before it, and
    that there are no other files.
    Raises OmewdError ``not_a_dataset`` if it is not one of omewd's.
    """
    totals, spec = ledger.totals_of(dataset)
    report = Report(dataset, [each.received for each in ledger.totals_in(totals)], made_by=MadeBy.of(totals))
    try:
        validate_zarr_store(str(dataset))
    except Exception as error:  # noqa: BLE001  whatever the validator dislikes is a finding
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        report.problems.append(f"metadata does not validate as OME-Zarr 0.5: {first_line}")
    check_metadata(dataset, spec, report)
    accounts = check_ledger(dataset, totals, report)
    _check_pixels(dataset, spec, accounts, report, progress)
    _find_strays(dataset, spec, accounts, report)
    return report


def check_metadata(dataset: Path, spec: StreamSpec, report: Report) -> None:
    """Check that each zarr.json is what the stream would write, except for display settings and users' attributes."""
    for path, document in metadata.documents(spec, report.received):
        expected = document.json
        try:
            text = (dataset / path).read_bytes()
            if text == document.text:
                continue
            found = json.loads(text)
            if not document.is_array:
                found, expected = _meaning(found), _meaning(expected)
        except FileNotFoundError:
            report.problems.append(f"{path} is missing")
        except ledger.UNREADABLE:
            report.problems.append(f"{path} can't be read")
        else:
            if found != expected:
                report.problems.append(f"{path} is not what the stream would write{_other_shape(found, expected)}")


def _other_shape(found: Any, expected: dict[str, Any]) -> str:
    if not isinstance(found, dict) or found.get("shape") == expected.get("shape"):
        return ""
    return f": its shape is {found.get('shape')}, but the frames make {expected['shape']}"


def _meaning(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group["attributes"].get("ome", {}).items() if name != "omero"}


def check_ledger(dataset: Path, totals: dict[str, Any], report: Report) -> Sequence[Account]:
    """Read the ledger, and compare its lines with the totals and with the record of runs."""
    if totals["state"] != "complete":
        ended = f" ({totals['ended_by']})" if totals["ended_by"] else ""
        report.problems.append(f"the dataset is not complete: its state is {totals['state']!r}{ended}")
    try:
        record = Ledger.read(dataset, len(report.received), checks=True)
    except OSError as error:
        report.problems.append(f"the ledger can't be read: {error.strerror}")
        return [Account(Marks()) for _ in report.received]
    if record.unreadable_lines:
        lines = "1 line" if record.unreadable_lines == 1 else f"{record.unreadable_lines} lines"
        report.notes.append(f"{lines} of the ledger can't be read; a killed writer leaves such a line")
    if record.misfits:
        report.bad_runs = True
        report.notes.append(f"{ledger.FOLDER}/{RUNS_FILE} does not match the lines of the ledger; the lines count")
    told = ledger.totals_in(totals)
    names = [source["name"] for source in totals.get("sources", [{"name": ""}])]
    for name, account, claimed in zip(names, record.accounts, told, strict=True):
        found = account.totals(claimed.received)
        of = f" of {name}" if name else ""
        report.written += found.written
        report.gaps += found.gaps
        if found.lost_frames:
            lost = account.marks.intervals({ledger.UNACCOUNTED}, claimed.received)
            report.problems.append(f"{found.lost_frames} received frames{of} are not in the ledger: {_runs(lost)}")
        for what in ("written", "gaps", "lost_frames"):
            if getattr(claimed, what) != getattr(found, what):
                report.problems.append(
                    f"the totals{of} have {what} {getattr(claimed, what)}, but the ledger has {getattr(found, what)}"
                )
    return record.accounts


def _check_pixels(
    dataset: Path,
    spec: StreamSpec,
    accounts: Sequence[Account],
    report: Report,
    progress: Callable[[int, int], None] | None,
) -> None:
    levels = levels_of(spec)

    @lru_cache(_MOST_OPEN_ARRAYS)
    def array(image: int, level: Level) -> Any:
        path = f"{spec.image_paths[image]}/{level.number}".lstrip("/")
        return open_array(dataset, path, metadata.array_json(spec, report.received, image, level))

    plans = [Plan.of(spec, source=source) for source in range(spec.sources)]
    units = [plan.units_with(frames) for plan, frames in zip(plans, report.received, strict=True)]
    done = 0
    for source, plan in enumerate(plans):
        layouts = [ShardLayout(spec, level, source) for level in levels]
        written = partial(received_and_written, accounts[source], report.received[source])
        for unit in units_with_frames(plan, accounts[source], report.received[source]):
            if written(frame_indexes(plan, unit)).any():
                images = [array(plan.image_of(unit), level) for level in levels]
                _check_levels(dataset, spec, layouts, images, unit, written, report)
            if progress is not None:
                progress(done + unit + 1, sum(units))
        done += units[source]
        if progress is not None:
            progress(done, sum(units))


def _find_strays(dataset: Path, spec: StreamSpec, accounts: Sequence[Account], report: Report) -> None:
    """Find the files that are neither keys with written frames nor metadata."""
    plans = [Plan.of(spec, source=source) for source in range(spec.sources)]

    def has_frames(source: int, unit: int) -> bool:
        frames = frame_indexes(plans[source], unit)
        return bool(received_and_written(accounts[source], report.received[source], frames).any())

    keys = Keys(spec)
    expected = _OWN_FILES | {path for path, _ in metadata.documents(spec, report.received)}
    for path in files_in(str(dataset)):
        if is_aside(path):
            report.notes.append(f"{path} was left by a killed writer; omewd repair removes it")
        elif (
            path not in expected
            and not is_manifest(path)
            and not is_of_parts(path)
            and not any(has_frames(source, unit) for source, unit in keys.units_of(path))
        ):
            report.strays.append(path)
    report.strays.sort()
    report.problems.extend(f"{stray} does not belong there" for stray in report.strays)


def _check_levels(
    dataset: Path,
    spec: StreamSpec,
    layouts: list[ShardLayout],
    arrays: list[Any],
    unit: int,
    written: Written,
    report: Report,
) -> None:
    """Check that a unit exists, decodes, and has the right pixels at every resolution."""
    source = layouts[0].source
    present = written(frame_indexes(layouts[0].keys, unit))
    whole_before = False
    for number, (layout, array) in enumerate(zip(layouts, arrays, strict=True)):
        check: Check = partial(_only_where_written, present)
        if number:
            origin = layouts[number - 1].region(unit)
            before, level = arrays[number - 1], layout.level
            make = partial(made_of, before, level=level, method=spec.downsample, present=present, origin=origin)
            check = partial(_is_made_of, make) if whole_before else _anything
            present = present_in(level, spec.downsample, present)
        whole_before = _check_keys(dataset, spec, layout, unit, written, report) and _check_unit(
            array, layout, unit, check, report
        )
        if not whole_before and number:
            report.bad_levels.append((source, unit, number))
        elif not whole_before:
            report.bad_units.setdefault(source, []).append(unit)


def open_array(dataset: Path, path: str, document: dict[str, Any]) -> Any:
    """Open an array by the zarr.json that it should have, so that its pixels can be read whatever the file says."""
    store = {"driver": "file", "path": str(dataset / path)}
    array = {"driver": "zarr3", "kvstore": store, "metadata": document}
    return tensorstore.open(array, open=True, read=True, assume_metadata=True).result()


def _check_keys(
    dataset: Path, spec: StreamSpec, layout: ShardLayout, unit: int, written: Written, report: Report
) -> bool:
    """Whether all keys of a unit exist, with all the chunks that they should have."""
    keys = keys_of(layout, unit)
    if not _check_files(dataset, list(keys), report):
        return False
    if not spec.sharded or report.made_by.leaves_zeros_out(spec.backend):
        return True
    whole = [_check_index(dataset / key, layout, place, written, report) for key, place in keys.items()]
    return all(whole)


def _check_files(dataset: Path, keys: list[str], report: Report) -> bool:
    """Whether all files of a unit exist and are not empty."""
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


def _check_unit(array: Any, layout: ShardLayout, unit: int, check: Check, report: Report) -> bool:
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


def _runs(runs: Iterable[tuple[int, int]], most: int = 10) -> str:
    """Format runs of numbers, (first, one past the last), as in "3, 7-9"."""
    told, count = [], 0
    for first, stop in runs:
        count += 1
        if count <= most:
            told.append(str(first) if stop == first + 1 else f"{first}-{stop - 1}")
    text = ", ".join(told)
    return f"{text}, … ({count} runs)" if count > most else text
