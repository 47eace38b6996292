"""Reading a dataset back: is everything there that metadata and ledger say, and nothing else?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore
from yaozarrs import validate_zarr_store

from omewd.errors import OmewdError
from omewd.model.grid import frame_indexes
from omewd.model.plan import Plan
from omewd.model.shards import Flags, ShardLayout, ShardPlace
from omewd.model.spec import StreamSpec
from omewd.ngff import ledger, metadata
from omewd.ngff.shard_index import ABSENT, read_entries

_EXPECTED_FILES = {
    "zarr.json",
    f"{metadata.ARRAY_PATH}/zarr.json",
    f"{ledger.FOLDER}/zarr.json",
    f"{ledger.FOLDER}/{ledger.FILE}",
}


# These do not store chunks that only hold the fill value.
_LEAVE_ZEROS_OUT = ("zarrs-python", "acquire-zarr")
# What is read back at a time, or a chunk across the frame if that is more.
_READ_BYTES = 256 << 20


@dataclass
class Report:
    """What was read, and what is wrong with it: one line for each problem.

    ``bad_units``: write units with files that are missing, empty or can't be decoded; ``strays``: files that do not
    belong there.
    """

    dataset: Path
    frames: int = 0
    written: int = 0
    gaps: int = 0
    keys: int = 0
    read_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    bad_units: list[int] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "dataset": str(self.dataset)}


def verify(dataset: Path, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read everything of a dataset back; ``progress(units read, units in all)`` is told how far it is.

    Checks that the metadata validates as OME-Zarr 0.5, the shape is what was received, every frame index is
    accounted for in the ledger, every shard or chunk with a written frame is there and decodes (which checks
    the shard index's CRC-32C), gaps read as the fill value, and no other file is there.
    Raises OmewdError ``not_a_dataset`` if it is none of omewd's.
    """
    totals, spec = totals_of(dataset)
    report = Report(dataset, frames=totals["received"])
    try:
        validate_zarr_store(str(dataset))
    except Exception as error:  # noqa: BLE001  whatever the validator dislikes is a finding
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        report.problems.append(f"metadata does not validate as OME-Zarr 0.5: {first_line}")
    status = _check_ledger(dataset, totals, report)
    _check_pixels(dataset, spec, status, report, progress)
    return report


def totals_of(dataset: Path) -> tuple[dict[str, Any], StreamSpec]:
    path = dataset / ledger.FOLDER / "zarr.json"
    try:
        totals = json.loads(path.read_text())["attributes"]["omewd"]
        return totals, StreamSpec.parse(totals["stream"])
    except (OSError, ValueError, KeyError, TypeError, OmewdError) as error:
        raise OmewdError(
            "not_a_dataset", f"{dataset} is no dataset of omewd: {path.name} of its ledger can't be read ({error})"
        ) from error


def _check_ledger(dataset: Path, totals: dict[str, Any], report: Report) -> bytearray:
    """What the ledger says of each frame index, after comparing it with the totals."""
    frames = totals["received"]
    if totals["state"] != "complete":
        ended = f" ({totals['ended_by']})" if totals["ended_by"] else ""
        report.problems.append(f"the dataset is not complete: its state is {totals['state']!r}{ended}")
    try:
        record = ledger.Ledger.read(dataset, frames)
    except OSError as error:
        report.problems.append(f"the ledger can't be read: {error.strerror}")
        return bytearray(frames)
    if record.unreadable_lines:
        report.problems.append(f"{record.unreadable_lines} lines of the ledger can't be read")
    status = record.status
    report.written = status.count(ledger.WRITTEN)
    report.gaps = status.count(ledger.SKIPPED) + status.count(ledger.DROPPED)
    missing = np.flatnonzero(np.frombuffer(status, np.uint8) == ledger.UNACCOUNTED).tolist()
    if missing:
        report.problems.append(f"{len(missing)} received frames are not in the ledger: {_runs(missing)}")
    for name, found in (("written", report.written), ("gaps", report.gaps), ("lost_frames", len(missing))):
        if totals[name] != found:
            report.problems.append(f"the totals say {name}: {totals[name]}, the ledger has {found}")
    return status


def _check_pixels(
    dataset: Path, spec: StreamSpec, status: bytearray, report: Report, progress: Callable[[int, int], None] | None
) -> None:
    layout = ShardLayout(spec)
    plan = layout.keys
    expected = metadata.shape_on_disk(spec, report.frames)
    store = {"driver": "file", "path": str(dataset / metadata.ARRAY_PATH)}
    try:
        array: Any = tensorstore.open({"driver": "zarr3", "kvstore": store}, open=True, read=True).result()
    except (ValueError, OSError) as error:
        report.problems.append(f"the array can't be opened: {str(error).splitlines()[0]}")
        return
    if array.shape != expected:
        report.problems.append(f"the array's shape is {array.shape}, {report.frames} frames make {expected}")
    total = plan.units_with(report.frames)
    expected_keys: set[str] = set()
    end = plan.last_frame(total - 1) + 1 if total else 0
    written = np.zeros(max(end, len(status)), bool)
    written[: len(status)] = np.frombuffer(status, np.uint8) == ledger.WRITTEN
    for unit in range(total):
        is_written = written[frame_indexes(plan, unit)]
        if is_written.any():
            keys = keys_of(layout, unit)
            expected_keys.update(keys)
            whole = _check_files(dataset, list(keys), report)
            if whole and spec.sharded and spec.backend not in _LEAVE_ZEROS_OUT:
                checked = [_check_index(dataset / key, layout, place, written, report) for key, place in keys.items()]
                whole = all(checked)
            if not whole or not _check_unit(array, plan, unit, is_written, report):
                report.bad_units.append(unit)
        if progress is not None:
            progress(unit + 1, total)
    found = {str(path.relative_to(dataset)) for path in dataset.rglob("*") if path.is_file()}
    for stray in sorted(found - expected_keys - _EXPECTED_FILES):
        report.strays.append(stray)
        report.problems.append(f"{stray} does not belong there")


def keys_of(layout: ShardLayout, unit: int) -> dict[str, ShardPlace]:
    """The files of a unit of keys."""
    return {metadata.key_of(layout.keys, place): place for place in layout.shards_in(unit)}


def _check_files(dataset: Path, keys: list[str], report: Report) -> bool:
    """Whether all files of a unit are there with something in them."""
    complete = True
    for key in keys:
        try:
            size = (dataset / key).stat().st_size
        except FileNotFoundError:
            report.problems.append(f"{key} is missing")
            complete = False
            continue
        if not size:
            report.problems.append(f"{key} is empty")
            complete = False
        report.keys += 1
        report.read_bytes += size
    return complete


def _check_index(path: Path, layout: ShardLayout, place: ShardPlace, written: Flags, report: Report) -> bool:
    """Whether a shard has every chunk that a written frame is in: one that is not there reads as the fill value."""
    wanted = layout.with_frames(place, written)
    with path.open("rb") as file:
        entries = read_entries(file.fileno(), len(wanted))
    if entries is None:
        report.problems.append(f"{metadata.key_of(layout.keys, place)} has a torn index")
        return False
    missing = int((wanted & (entries[:, 0] == ABSENT)).sum())
    if missing:
        report.problems.append(f"{metadata.key_of(layout.keys, place)} lacks {missing} of {int(wanted.sum())} chunks")
    return not missing


def _check_unit(array: Any, plan: Plan, unit: int, is_written: np.ndarray[Any, Any], report: Report) -> bool:
    """Whether a unit decodes; a part of it is in memory at a time."""
    origin, size = plan.origin(unit), plan.size(unit)
    region = [(origin[i], min(origin[i] + size[i], array.shape[axis])) for axis, i in enumerate(plan.order)]
    frame_bytes = array.dtype.numpy_dtype.itemsize * math.prod(array.shape[len(region) :])
    for part in _parts(region, array.chunk_layout.read_chunk.shape, _READ_BYTES // frame_bytes):
        try:
            view = array[tuple(slice(a, b) for a, b in part)] if part else array
            pixels = np.asarray(view.read().result())
        except (ValueError, OSError) as error:
            report.problems.append(f"write unit {unit} does not decode: {str(error).splitlines()[0][:300]}")
            return False
        inner = tuple(slice(a - first, b - first) for (a, b), (first, _) in zip(part, region, strict=True))
        for place in np.argwhere(~is_written[inner]):
            if pixels[tuple(place)].any():
                at = tuple(int(i) + s.start for i, s in zip(place, inner, strict=True))
                report.problems.append(f"write unit {unit} holds pixels at {at}, where no frame was written")
    return True


Region = list[tuple[int, int]]


def _parts(region: Region, chunk: Sequence[int], frames: int) -> Iterator[Region]:
    """A region, (start, stop) of each outer axis, cut into parts of ``frames`` frames or a chunk at most."""
    for axis, (start, stop) in enumerate(region):
        if math.prod(b - a for a, b in region) > frames and stop - start > chunk[axis]:
            middle = start + max((stop - start) // 2 // chunk[axis], 1) * chunk[axis]
            for cut in ((start, middle), (middle, stop)):
                yield from _parts([*region[:axis], cut, *region[axis + 1 :]], chunk, frames)
            return
    yield region


def _runs(numbers: list[int], most: int = 10) -> str:
    """Ascending numbers as runs, such as "3, 7-9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:most])
    return f"{text}, … ({len(runs)} runs)" if len(runs) > most else text
