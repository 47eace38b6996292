"""Judges what a power cut has left: recovers it as the next daemon does, or repairs it, and looks what is there then.

What clients had been told must be true. The rings are gone, so the entry of a stream in the journal leads to a job for
its dataset, as in :mod:`omewd.daemon.state.recovery`. The handlers of writers do these jobs here. Real daemons start on
a sample.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omewd.dataset.dataset import summary_of
from omewd.dataset.repair import repair
from omewd.dataset.verify import verify
from omewd.errors import OmewdError
from omewd.protocol.jobs.datasets import RecoverDataset, SweepLeftovers, UndoDataset
from omewd.writer.handlers import datasets as handlers
from tests.powercut.record import Mark
from tests.powercut.scenarios import NAMESPACE, Scenario, frame_of
from tests.powercut.trees import on_disk
from tests.support.acquisitions import axes_of, coordinates, folders_of, read_array
from tests.support.datasets import ledger_rows
from tests.support.frames import Array

LOST, WRITTEN, GAP = "lost", "written", "gap"


@dataclass
class Told:
    """What clients had been told by a moment. ``away``: a user has moved the dataset, and it is not judged."""

    started: bool = False
    durable: Sequence[int] = ()
    metadata: int | None = None
    ended: str | None = None
    away: bool = False

    @classmethod
    def by(cls, marks: Sequence[Mark], at: int) -> Told:
        told: dict[str, Any] = {}
        for mark in marks:
            if mark.at <= at:
                told |= json.loads(mark.text)
        return cls(**told)


@dataclass
class Judge:
    """Of one scenario, whose trees are laid out in ``folder``."""

    folder: Path
    scenario: Scenario
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._spec = self.scenario.spec
        self._dataset = self.folder / "data" / self._spec.output

    def judge(self, told: Told, way: str) -> list[str]:
        """What is wrong after the recovery of what is laid out, or after its repair; empty if nothing is."""
        self.faults = []
        if told.away:
            return []
        if self._says_it_is_fine():
            self.compare(told)
            if self.faults:
                return [f"verify finds no problem, but {fault}" for fault in self.faults]
        try:
            recover_all(self.folder) if way == "recovery" else self._repair(told)
        except Exception as error:  # noqa: BLE001  whatever it raises is a finding
            return [f"the {way} fails: {error!r}"]
        self.compare(told)
        if not self.faults:
            self._check_again(way)
        return self.faults

    def compare(self, told: Told) -> None:
        """Compare the dataset with what clients had been told, and what it says of itself with what it holds."""
        if not summary_of(self._dataset):
            if told.started:
                self.faults.append("the dataset is gone, or has no summary")
            return
        try:
            self._check_frames(told)
            self._check_metadata(told)
        except Exception as error:  # noqa: BLE001
            self.faults.append(f"it can't be read: {error!r}")

    def _says_it_is_fine(self) -> bool:
        """Whether verify finds no problem in what the power cut has left as it is."""
        try:
            return not verify(self._dataset).problems
        except OmewdError as error:
            if error.code != "not_a_dataset":
                raise
            return False

    def _repair(self, told: Told) -> None:
        try:
            repair(self._dataset)
        except OmewdError as error:
            if error.code != "not_a_dataset" or told.started:
                raise

    def _check_again(self, way: str) -> None:
        """Doing it again changes nothing, and neither does a repair that has nothing to mend after a recovery."""
        before = on_disk(self.folder)
        if way == "recovery":
            for left in (self.folder / "state").glob("streams/*.json"):
                self.faults.append(f"the journal still has {left.name}")
            recover_all(self.folder)
        for path in self._dataset.parent.glob(f".{self._dataset.name}.omewd-*"):
            if way == "recovery":
                self.faults.append(f"{path.name} is left")
        if summary_of(self._dataset) and (way == "repair" or not verify(self._dataset).notes):
            repair(self._dataset)
        after = on_disk(self.folder)
        changed = sorted(path for path in {*before, *after} if before.get(path, "-") != after.get(path, "-"))
        if changed:
            self.faults.append(f"doing it again changes {changed[:5]}")

    def _check_frames(self, told: Told) -> None:
        summary = summary_of(self._dataset)
        report = verify(self._dataset)
        received = report.received
        state = summary["state"]
        fates = [self._fates(source, count) for source, count in enumerate(received)]
        lost = sum(fate == LOST for fates_of_source in fates for fate in fates_of_source)
        expected = {f"state is {state!r}"} if state != "complete" else set()
        expected |= {"received frames"} if lost else set()
        for problem in report.problems:
            if not any(words in problem for words in expected):
                self.faults.append(f"verify: {problem}")
        for words in expected:
            if not any(words in problem for problem in report.problems):
                self.faults.append(f"verify does not say: {words}")
        if state == "writing":
            self.faults.append("its state is still 'writing'")
        if told.ended == "DONE" and state != "complete":
            self.faults.append(f"a client was told that it is complete, and its state is {state!r}")
        for source, durable in enumerate(told.durable):
            if received[source] < durable:
                self.faults.append(f"{durable} frames of source {source} were durable, {received[source]} are there")
            for index in range(min(durable, received[source])):
                wanted = GAP if index in self.scenario.gaps else WRITTEN
                if fates[source][index] != wanted:
                    self.faults.append(f"frame {index} of source {source} was {wanted}, is {fates[source][index]}")
        for source, index, pixels in self._pixels(received):
            if fates[source][index] != WRITTEN:
                if pixels.any():
                    self.faults.append(f"frame {index} of source {source} is not on record, and has pixels")
            elif not np.array_equal(pixels, frame_of(self._spec, source, index)):
                self.faults.append(f"frame {index} of source {source} has wrong pixels")

    def _fates(self, source: int, received: int) -> list[str]:
        """What became of each frame, by the last line of the ledger about it."""
        fates = [LOST] * received
        for row in ledger_rows(self._dataset):
            if row is None or row.get("source", 0) != source:
                continue
            kind = {None: WRITTEN, LOST: LOST}.get(row.get("gap"), GAP)
            for index in range(row["frame"], row["frame"] + row.get("count", 1)):
                if index < received:
                    fates[index] = kind
        return fates

    def _pixels(self, received: Sequence[int]) -> Iterator[tuple[int, int, Array]]:
        """(source, frame index, pixels) of all frames, read by zarr-python."""
        axes, folders = axes_of(self._spec), folders_of(self._spec)
        position = next((dim.name for dim in self._spec.dimensions if dim.type == "position"), None)
        arrays = [read_array(self._dataset / folder / "0", "zarr") for folder in folders]
        for source, count in enumerate(received):
            for index, at in enumerate(coordinates(self._spec, source, count)):
                image = at[position] if position else 0
                yield source, index, arrays[image][tuple(at[name] for name in axes)]

    def _check_metadata(self, told: Told) -> None:
        if told.metadata is None:
            return
        attributes = json.loads((self._dataset / "zarr.json").read_text())["attributes"]
        found = attributes.get(NAMESPACE, {}).get("value")
        if found is None or found < told.metadata:
            self.faults.append(f"the user's metadata {told.metadata} were on disk, and are {found}")


def recover_all(folder: Path) -> None:
    """Do for each entry of the journal what a daemon does whose machine was restarted."""
    entries = folder / "state" / "streams"
    for path in sorted(entries.glob("*.json")) if entries.exists() else ():
        entry = json.loads(path.read_text())
        kind = path.stem.partition("~")[0] if "~" in path.stem else None
        if kind is None:
            kind = "undo" if entry["phase"] == "starting" else "recover"
        dataset, epoch = entry["dataset"], entry["epoch"]
        if kind == "undo":
            handlers.undo(UndoDataset(dataset, epoch))
        if kind == "recover":
            handlers.recover(RecoverDataset(dataset, epoch, entry["spec"], entry.get("details", "").encode()))
        else:
            handlers.sweep(SweepLeftovers(dataset, epoch))
        path.unlink()
