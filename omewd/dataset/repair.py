"""Repairs a dataset: correct shape and metadata, a correct ledger, no leftovers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from omewd.dataset import dataset as datasets
from omewd.dataset.checks.report import Report
from omewd.dataset.copies.evictions import Evictions
from omewd.dataset.keys import keys_of
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.account import Account, Ledger
from omewd.dataset.ledger.appending import append_to, mend
from omewd.dataset.ledger.reading import make_runs_again
from omewd.dataset.metadata import array_json
from omewd.dataset.resolutions import made_of, present_in
from omewd.dataset.strays import remove_strays
from omewd.dataset.verify import open_array, verify
from omewd.errors import OmewdError
from omewd.model.plan.grid import frame_indexes
from omewd.model.plan.images import shape_on_disk
from omewd.model.plan.levels import levels_of
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import ShardLayout
from omewd.model.spec.spec import StreamSpec
from omewd.store.encoders.base import Block, UnitArray
from omewd.store.encoders.tensorstore import TensorStoreEncoder
from omewd.store.format.shard_table import STAGING
from omewd.store.sinks.base import committed
from omewd.store.sinks.keys import KeySink
from omewd.store.sinks.publish import Publisher
from omewd.store.tools import Tools

_READ_BYTES = 16 << 20
# Writers let go of a dataset after its stream has ended, so that nobody waits for them to be done.
_LET_GO_SECONDS = 30.0
_LOOK_AGAIN_SECONDS = 0.02
# There is no such file, or something else is in its place.
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass
class Repair:
    """The result of a repair. ``before`` and ``after``: the reports of verify. ``mended``: one line for each repair."""

    before: Report
    after: Report
    mended: list[str]


def repair(dataset: Path, progress: Callable[[int, int], None] | None = None) -> Repair:
    """Repair a dataset that nobody is writing, as far as possible. Pixels of frames on record are never changed.

    This seals shards in progress, and removes leftovers of writers, torn lines of the ledger, and chunks that are not
    in the ledger. It puts frames whose files are gone or torn on record as lost, computes lower resolutions again, and
    makes metadata, shape and totals match the ledger. Foreign files stay. Raises OmewdError ``busy`` if the dataset is
    being written, ``not_a_dataset``, ``disk_error``.
    """
    try:
        return _repair(dataset, progress)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise OmewdError(
            "disk_error",
            f"{dataset} can't be repaired: {error.strerror or error}{where}",
            "Remove the cause, and try again",
        ) from error


def _repair(dataset: Path, progress: Callable[[int, int], None] | None) -> Repair:
    totals, spec = ledger.totals_of(dataset)
    mended: list[str] = []
    with _alone(dataset, lets_go=totals["state"] != "writing"):
        if datasets.remove_leftovers(spec, dataset):
            mended.append("removed leftovers of writers")
        before = verify(dataset, progress)
        torn = mend(dataset) if before.notes else 0
        if torn:
            mended.append(f"removed {torn} torn line{'s' * (torn > 1)} from the ledger")
        if torn or before.bad_runs:  # a removed line moves the start of the next one
            make_runs_again(dataset, by_lines=True)
            if not torn:  # otherwise the torn lines are the cause
                mended.append("rebuilt the ledger's record of runs from its lines")
        if before.strays and (removed := remove_strays(spec, dataset)):
            mended.append(f"removed {len(removed)} files of frames that are not on record, such as {removed[0]}")
        if before.bad_units:
            accounts = Ledger.read(dataset, spec.sources).accounts
            for source, units in before.bad_units.items():
                _require_readable(dataset, [ShardLayout(spec, source=source)], units)
            for source, units in before.bad_units.items():
                number = ledger.source_of(spec, source)
                lines = list(_lost_lines(Plan.of(spec, source=source), units, accounts[source], number))
                batch = ledger.batch(lines, before.received[source])
                append_to(dataset, batch)
            count = sum(map(len, before.bad_units.values()))
            mended.append(f"put the frames of {count} write units on record as lost")
        if before.bad_levels and (count := _make_levels_again(dataset, spec, before)):
            mended.append(f"made {count} write units of lower resolutions again")
        if before.problems:
            ended_by = str(totals["ended_by"] or "the daemon was lost")
            known = [each.received for each in ledger.totals_in(totals)]
            found = datasets.finalize_by_ledger(spec, dataset, ended_by, known)
            mended.append(f"wrote the shape and the totals for {sum(each.received for each in found)} frames")
    return Repair(before, verify(dataset, progress), mended)


def _make_levels_again(dataset: Path, spec: StreamSpec, report: Report) -> int:
    """Compute the bad units of lower resolutions again, each from the resolution before; returns how many.

    Units of which the resolution before is gone, or was evicted, can't be computed.
    """
    levels, paths = levels_of(spec), spec.image_paths
    accounts = Ledger.read(dataset, spec.sources).accounts
    evictions, staging = Evictions(dataset, spec), dataset / STAGING
    staging.mkdir(exist_ok=True)
    made = 0
    for source, unit, number in sorted(report.bad_levels, key=lambda bad: bad[2]):
        if unit in report.bad_units.get(source, ()):
            continue
        layouts = [ShardLayout(spec, level, source) for level in levels]
        if evictions.among(keys_of(layouts[number - 1], unit)):
            continue
        frames = frame_indexes(layouts[0].keys, unit)
        present = accounts[source].written(frames) & (frames < report.received[source])
        for level in levels[1:number]:
            present = present_in(level, spec.downsample, present)
        image = layouts[0].keys.image_of(unit)
        path = f"{paths[image]}/{number - 1}" if paths[image] else str(number - 1)
        before = open_array(dataset, path, array_json(spec, report.received, image, levels[number - 1]))
        level, layout = levels[number], layouts[number]
        shape = shape_on_disk(spec, report.received, image, level)
        part = [(start, min(stop, length)) for (start, stop), length in zip(layout.region(unit), shape, strict=False)]
        block = made_of(before, part, level, spec.downsample, present, layouts[number - 1].region(unit))
        _put(dataset, spec, layout, unit, block)
        made += 1
    return made


def _put(dataset: Path, spec: StreamSpec, layout: ShardLayout, unit: int, block: Block) -> None:
    """Write a unit of whole keys at one resolution."""
    publisher, array = Publisher(dataset, dataset / STAGING, durable=True), UnitArray.of(spec, layout.level)
    with closing(Tools()) as tools, closing(TensorStoreEncoder(array, threads=1, scratch=tools.scratch)) as encoder:
        sink = KeySink(publisher, tools)
        sink.put(layout, unit, encoder.encode(block))
        committed(sink.fence(), tools.syncs)


def _require_readable(dataset: Path, layouts: list[ShardLayout], units: list[int]) -> None:
    """Raise OSError if existing files can't be read: a disk that fails for a while does not lose frames."""
    for layout, unit in product(layouts, units):
        for key in keys_of(layout, unit):
            with suppress(*_GONE), (dataset / key).open("rb", buffering=0) as file:
                while file.read(_READ_BYTES):
                    pass


def _lost_lines(plan: Plan, units: list[int], account: Account, source: int | None) -> Iterator[str]:
    for unit in units:
        frames = np.sort(frame_indexes(plan, unit), axis=None)
        for frame in frames[account.written(frames)].tolist():
            yield ledger.gap_line(frame, 1, "lost", source)


@contextmanager
def _alone(dataset: Path, *, lets_go: bool) -> Iterator[None]:
    """Raise OmewdError ``busy`` if a writer holds the dataset. ``lets_go``: its stream has ended, so wait for it."""
    until = time.monotonic() + (_LET_GO_SECONDS if lets_go else 0)
    while (descriptor := ledger.hold_alone(dataset)) is None and time.monotonic() < until:
        time.sleep(_LOOK_AGAIN_SECONDS)
    if descriptor is None:
        raise OmewdError("busy", f"{dataset} is being written", "Stop its stream first")
    try:
        yield
    finally:
        os.close(descriptor)
