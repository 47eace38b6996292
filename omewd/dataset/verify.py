"""Verifies a dataset: everything that the metadata and the ledger claim must be there, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import tensorstore
from yaozarrs import validate_zarr_store

from omewd.dataset import metadata
from omewd.dataset.checks.report import Report
from omewd.dataset.checks.units import UnitChecks
from omewd.dataset.copies.evictions import Evictions
from omewd.dataset.copies.manifest import is_manifest
from omewd.dataset.copies.places import is_of_parts
from omewd.dataset.keys import Keys, files_in, received_and_written, units_with_frames
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.account import Account, Ledger
from omewd.dataset.ledger.marks import Marks
from omewd.dataset.ledger.runs import RUNS_FILE
from omewd.dataset.made_by import MadeBy
from omewd.dataset.strays import is_aside
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.levels import Level, levels_of
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import ShardLayout
from omewd.model.spec.spec import StreamSpec

_OWN_FILES = {f"{ledger.FOLDER}/{name}" for name in ("zarr.json", ledger.FILE, RUNS_FILE)}
# More images take turns.
_MOST_OPEN_ARRAYS = 4096


def verify(dataset: Path, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read a whole dataset back. ``progress`` is called with (units read, units in total).

    It checks that the metadata are valid OME-Zarr 0.5, that the shapes match the received frames, that the ledger
    accounts for every frame index, that every shard or chunk with a written frame exists and decodes (which checks the
    shard index's CRC-32C), that gaps read as the fill value, that each lower resolution matches the one before it, and
    that there are no other files. What was evicted is only counted.
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
    levels, evictions = levels_of(spec), Evictions(dataset, spec)

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
        checks = UnitChecks(dataset, spec, layouts, written, evictions)
        for unit in units_with_frames(plan, accounts[source], report.received[source]):
            if written(frame_indexes(plan, unit)).any():
                images = [array(plan.image_of(unit), level) for level in levels]
                checks.check(unit, images, report)
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


def open_array(dataset: Path, path: str, document: dict[str, Any]) -> Any:
    """Open an array by the zarr.json that it should have, so that its pixels can be read whatever the file says."""
    store = {"driver": "file", "path": str(dataset / path)}
    array = {"driver": "zarr3", "kvstore": store, "metadata": document}
    return tensorstore.open(array, open=True, read=True, assume_metadata=True).result()


def _runs(runs: Iterable[tuple[int, int]], most: int = 10) -> str:
    """Format runs of numbers, (first, one past the last), as in "3, 7-9"."""
    told, count = [], 0
    for first, stop in runs:
        count += 1
        if count <= most:
            told.append(str(first) if stop == first + 1 else f"{first}-{stop - 1}")
    text = ", ".join(told)
    return f"{text}, … ({count} runs)" if count > most else text
