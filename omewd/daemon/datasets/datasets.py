"""The datasets that the daemon knows, and all work on them other than writing frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.datasets.copies import Copies
from omewd.daemon.datasets.copy import DatasetCopy
from omewd.daemon.datasets.dataset import Dataset, Phase
from omewd.daemon.datasets.user_metadata import Value, check
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.tasks import Task
from omewd.daemon.state.journal import COPY, RECOVER, SWEEP, UNDO, Journal
from omewd.daemon.streams.agenda import Agenda
from omewd.errors import OmewdError
from omewd.model.contrast import Window
from omewd.model.spec.outline import Fields
from omewd.protocol.jobs.datasets import Leftovers, RecoverDataset, Recovered, SweepLeftovers, UndoDataset
from omewd.protocol.jobs.job import Job, Result
from omewd.protocol.jobs.metadata import PutContrast, PutUserMetadata

log = structlog.get_logger("datasets")


class Datasets:
    """All datasets, by path and epoch. Clients get a reply once their metadata are on disk, or can't be written."""

    def __init__(
        self, dispatcher: Dispatcher, journal: Journal, server: ControlServer, agenda: Agenda, copies: Copies
    ) -> None:
        self._dispatcher, self._journal, self._server, self._agenda = dispatcher, journal, server, agenda
        self.copies = copies
        copies.listen(over=self._copy_is_over)
        self._known: dict[Path, dict[int, Dataset]] = {}
        self._copied: dict[int, Dataset] = {}

    # -- known datasets ------------------------------------------------------------------------

    def add(self, dataset: Dataset) -> None:
        self._known.setdefault(dataset.path, {})[dataset.epoch] = dataset

    def forget(self, dataset: Dataset) -> None:
        """Forget a dataset that can no longer be reached by its stream's name, once its clients have their replies."""
        dataset.forgotten()
        self._drop_forgotten(dataset)

    def _drop_forgotten(self, dataset: Dataset) -> None:
        if not dataset.is_forgotten or dataset.user_metadata.first is not None:
            return
        of_path = self._known.get(dataset.path, {})
        of_path.pop(dataset.epoch, None)
        if not of_path:
            self._known.pop(dataset.path, None)

    def _at(self, path: Path) -> Iterator[Dataset]:
        """The datasets that are, or were, at a path."""
        yield from self._known.get(path, {}).values()

    # -- users' metadata and contrast ----------------------------------------------------------

    def put_user_metadata(
        self, peer: Peer, dataset: Dataset, namespace: object, value: bytes, position: object, well: object
    ) -> None:
        """Store a client's metadata: a value as JSON, optionally for a position or a well.

        Raises OmewdError ``bad_metadata``, ``busy``.
        """
        envelope = check(namespace, value, position, well)
        self._put(dataset, Value(PutUserMetadata(str(dataset.path), dataset.epoch, *envelope, value), peer))

    def put_contrast(self, dataset: Dataset, windows: tuple[Window, ...]) -> None:
        """Set the windows of grey values in which viewers show the images."""
        self._put(dataset, Value(PutContrast(str(dataset.path), dataset.epoch, windows), None))

    def _put(self, dataset: Dataset, value: Value) -> None:
        dataset.user_metadata.add(value)
        self.step(dataset)

    def step(self, dataset: Dataset) -> None:
        """Submit the next waiting value of a dataset, if nobody else may be writing its metadata now."""
        value = dataset.user_metadata.first
        if value is None or value.task is not None:
            return
        others = [other for other in self._at(dataset.path) if other is not dataset]
        new = next((other for other in others if other.phase is not Phase.AT_REST), None)
        if new is not None and dataset.phase is Phase.AT_REST:
            error = OmewdError("unknown_stream", f"its dataset has been replaced by stream {new.name!r}")
            self.dealt_with(dataset, value, error)
        elif dataset.takes_user_metadata and not any(other.user_metadata.is_out for other in others):
            value.submitted(self._dispatcher.submit(value.job, _Put(self, dataset, value)))

    def dealt_with(self, dataset: Dataset, value: Value, error: OmewdError | None) -> None:
        """Reply to the client that gave a value, and continue with the next value."""
        if not dataset.user_metadata.remove(value):
            return
        value.withdrawn()
        self._answer(value, error)
        self._agenda.place(dataset.path)
        self.step(dataset)
        for other in list(self._at(dataset.path)):
            self.step(other)
        self._drop_forgotten(dataset)

    def _answer(self, value: Value, error: OmewdError | None) -> None:
        if value.peer is None:
            return  # the end of the stream writes the windows again
        if error is None:
            self._server.reply(value.peer, {})
        else:
            self._server.reply_error(value.peer, error)

    def is_busy(self, dataset: Dataset) -> bool:
        """Whether it is being removed, or its metadata or those of a dataset that it replaces are being written."""
        return dataset.is_being_undone or any(each.user_metadata.is_out for each in self._at(dataset.path))

    def withdraw(self, dataset: Dataset) -> None:
        """Withdraw a waiting job, because the stream has failed; it is submitted again once the dataset is at rest."""
        value = dataset.user_metadata.first
        if value is None or value.task is None:
            return
        owner = value.task.owner
        self._dispatcher.forget(owner)
        if not self._dispatcher.is_busy(owner):
            value.withdrawn()
            self._agenda.place(dataset.path)

    def never_made(self, dataset: Dataset) -> None:
        """Forget a dataset that was never created, because its stream did not start."""
        for value in dataset.user_metadata.take_all():
            self._answer(value, OmewdError("unknown_stream", "the stream did not start"))
        if dataset.copy is not None:
            self.copies.drop(dataset.copy)
        self.forget(dataset)

    # -- clean-up ------------------------------------------------------------------------------

    def undo(self, dataset: Dataset, *, waits_for_space: bool = False) -> None:
        """Remove a dataset whose stream did not start. Until then, its journal entry stays."""
        dataset.undo_begun()
        self._submit(UndoDataset(str(dataset.path), dataset.epoch), dataset, waits_for_space=waits_for_space)

    def sweep(self, dataset: Dataset) -> None:
        """Remove the dataset that it has replaced."""
        self._submit(SweepLeftovers(str(dataset.path), dataset.epoch), dataset)

    def recover(self, dataset: Dataset, outline: Fields, details: bytes) -> None:
        """Finalize a dataset by its ledger, because its rings are gone, then copy it, if there is to be a copy.

        On a full disk, that waits for space. ``outline``, ``details``: its stream's spec.
        """
        if dataset.copy is not None:
            self.copies.add(dataset.copy)
        job = RecoverDataset(str(dataset.path), dataset.epoch, outline, details)
        self._submit(job, dataset, waits_for_space=True)

    def _submit(self, job: Job, dataset: Dataset, *, waits_for_space: bool = False) -> None:
        self._dispatcher.submit(job, _CleanUp(self, dataset, waits_for_space))

    def undone(self, dataset: Dataset, there_are_leftovers: bool) -> None:
        """Note that a dataset was removed."""
        self._undo_ended(dataset, there_are_leftovers)
        if dataset.phase is Phase.AT_REST:  # the last daemon's, so nobody else continues with it
            self._journal.go_on_with(UNDO, SWEEP, dataset.epoch)
            self.sweep(dataset)

    def cannot_undo(self, dataset: Dataset) -> None:
        """Note that a dataset can't be removed."""
        self._undo_ended(dataset, dataset.has_leftovers)

    def _undo_ended(self, dataset: Dataset, there_are_leftovers: bool) -> None:
        dataset.undo_ended(there_are_leftovers)
        self._agenda.place(dataset.path)

    def not_recovered(self, dataset: Dataset, error: OmewdError, now_ns: int) -> None:
        """Note that a dataset can't be finalized by its ledger, or not yet. Its copy, if any, waits for that."""
        if (copy := dataset.copy) is not None and (copy.error is None or copy.error.code != error.code):
            text = f"its dataset is not finalized yet: {error.message}"
            self.copies.failed(copy, error.with_text(text, error.remedy), now_ns)

    def done_with(self, kind: str, dataset: Dataset) -> None:
        """Note that the clean-up of a dataset is done. Its copy may be left to do."""
        dataset.note_leftovers(False)
        if dataset.left_to_do == COPY:
            self._journal.go_on_with(kind, COPY, dataset.epoch)
        else:
            self._journal.done(kind, dataset.epoch)

    # -- copies --------------------------------------------------------------------------------

    def copy_rest(self, dataset: Dataset) -> None:
        """Copy what is not copied yet, if there is to be a copy, because the stream has ended."""
        if dataset.copy is not None and not dataset.copy.is_over:
            self._copied[dataset.epoch] = dataset
            self.copies.end(dataset.copy)

    def _copy_is_over(self, copy: DatasetCopy) -> None:
        dataset = self._copied.pop(copy.epoch, None)
        if dataset is not None and dataset.left_to_do is None:  # else the clean-up's end removes the entry
            self._journal.done(COPY, copy.epoch)


@dataclass(eq=False)
class _Put:
    """The owner of a job that puts a value into a dataset's metadata."""

    datasets: Datasets
    dataset: Dataset
    value: Value
    waits_for_space: bool = False

    def job_done(self, _task: Task, _result: Result, _now_ns: int) -> None:
        self.datasets.dealt_with(self.dataset, self.value, None)

    def job_put_back(self, _task: Task, _error: OmewdError, _now_ns: int) -> None:
        self.dataset.note_retry()

    def job_failed(self, _task: Task, error: OmewdError, _now_ns: int) -> None:
        self.datasets.dealt_with(self.dataset, self.value, error)


@dataclass(eq=False)
class _CleanUp:
    """The owner of a clean-up job. If the job fails, the journal keeps it for the next daemon."""

    datasets: Datasets
    dataset: Dataset
    waits_for_space: bool

    def job_done(self, task: Task, result: Result, _now_ns: int) -> None:
        match task.job, result:
            case UndoDataset(), Leftovers():
                self.datasets.undone(self.dataset, result.leftovers)
            case SweepLeftovers(), _:
                self.datasets.done_with(SWEEP, self.dataset)
            case RecoverDataset(), Recovered():
                log.error(
                    "finalized a dataset whose rings were gone",
                    dataset=str(self.dataset.path),
                    found=result.found,
                    received=sum(totals.received for totals in result.totals),
                    written=sum(totals.written for totals in result.totals),
                    gaps=sum(totals.gaps for totals in result.totals),
                    lost=[list(totals.lost) for totals in result.totals],
                )
                self.datasets.copy_rest(self.dataset)
                self.datasets.done_with(RECOVER, self.dataset)

    def job_put_back(self, task: Task, error: OmewdError, now_ns: int) -> None:
        self.dataset.note_retry()
        if isinstance(task.job, RecoverDataset) and task.was_postponed:
            self.datasets.not_recovered(self.dataset, error, now_ns)

    def job_failed(self, task: Task, error: OmewdError, now_ns: int) -> None:
        log.error("job failed", job=task.job.what, dataset=str(self.dataset.path), **error.to_dict())
        if isinstance(task.job, UndoDataset):
            self.datasets.cannot_undo(self.dataset)
        elif isinstance(task.job, RecoverDataset):
            self.datasets.not_recovered(self.dataset, error, now_ns)
