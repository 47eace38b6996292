"""What a stream leaves behind is seen to: taken away, swept, recovered, and put on record until that is done."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from omewd.daemon.control.server import ControlServer
from omewd.daemon.datasets.copies import Copies
from omewd.daemon.datasets.dataset import Dataset, Phase
from omewd.daemon.datasets.datasets import Datasets
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.tasks import Lease
from omewd.daemon.loop import Loop
from omewd.daemon.processes.roles import roles
from omewd.daemon.state.journal import RECOVER, SWEEP, UNDO, Journal
from omewd.daemon.streams.agenda import Agenda
from omewd.errors import OmewdError
from omewd.protocol.jobs.datasets import Leftovers, RecoverDataset, Recovered, SweepLeftovers, UndoDataset
from omewd.protocol.jobs.job import CLEANER, WRITER, Result

EPOCH = 0xAB


class Desk:
    """Datasets with a real dispatcher and a real journal; jobs are taken by hand."""

    def __init__(self, folder: Path) -> None:
        self.journal, self.dispatcher = (
            Journal(folder, Loop()),
            Dispatcher(60, {role.name: role for role in roles(writers=1, cores=1)}),
        )
        server = cast(ControlServer, None)
        self.copies = Copies(self.dispatcher, server)
        self.datasets = Datasets(self.dispatcher, self.journal, server, Agenda(), self.copies)

    def dataset(self, phase: Phase) -> Dataset:
        dataset = Dataset("s", Path("s.ome.zarr"), Path(), EPOCH, phase, has_leftovers=True)
        self.datasets.add(dataset)
        return dataset

    def job(self) -> Lease:
        [lease] = self.dispatcher.assign({WRITER: [1], CLEANER: [2]}, 0)
        return lease

    def end(self, lease: Lease, result: Result | OmewdError) -> None:
        task = self.dispatcher.finish(lease.id, 0)
        assert task is not None
        if isinstance(result, OmewdError):
            task.owner.job_failed(task, result, 0)
        else:
            task.owner.job_done(task, result, 0)

    def left_to_do(self, kind: str) -> None:
        """The entry of a stream says that this is left to do."""
        self.journal.write("s", {"epoch": EPOCH}, lambda _: None)
        self.journal.set_apart("s", kind, EPOCH)

    @property
    def entries(self) -> list[str]:
        self.journal.finish()
        return [name for name, _ in self.journal.entries()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_what_a_dataset_has_replaced_is_swept_away(desk: Desk) -> None:
    dataset = desk.dataset(Phase.AT_REST)
    desk.left_to_do(SWEEP)
    desk.datasets.sweep(dataset)
    lease = desk.job()
    assert lease.task.job == SweepLeftovers("s.ome.zarr", EPOCH)
    assert desk.entries == [f"{SWEEP}~ab"]
    desk.end(lease, Result())
    assert (desk.entries, dataset.has_leftovers) == ([], False)


def test_a_sweep_that_fails_is_left_to_the_next_daemon(desk: Desk) -> None:
    dataset = desk.dataset(Phase.AT_REST)
    desk.left_to_do(SWEEP)
    desk.datasets.sweep(dataset)
    desk.end(desk.job(), OmewdError("disk_error", "it hangs"))
    assert (desk.entries, dataset.has_leftovers) == ([f"{SWEEP}~ab"], True)


def test_a_dataset_is_recovered_and_its_entry_goes(desk: Desk) -> None:
    desk.left_to_do(RECOVER)
    desk.datasets.recover(desk.dataset(Phase.AT_REST), {"name": "s"}, b"{}")
    lease = desk.job()
    assert lease.task.job == RecoverDataset("s.ome.zarr", EPOCH, {"name": "s"}, b"{}")
    desk.end(lease, Recovered(found=True))
    assert desk.entries == []


def test_what_the_last_daemon_began_is_taken_away_and_then_swept(desk: Desk) -> None:
    desk.left_to_do(UNDO)
    desk.datasets.undo(desk.dataset(Phase.AT_REST))
    lease = desk.job()
    assert lease.task.job == UndoDataset("s.ome.zarr", EPOCH)
    desk.end(lease, Leftovers(leftovers=False))
    assert desk.entries == [f"{SWEEP}~ab"]
    sweep = desk.job()
    assert isinstance(sweep.task.job, SweepLeftovers)
    desk.end(sweep, Result())
    assert desk.entries == []


@pytest.mark.parametrize("there_are", [False, True])
def test_a_stream_waits_until_its_dataset_is_taken_away(desk: Desk, there_are: bool) -> None:
    dataset = desk.dataset(Phase.ENDING)
    desk.datasets.undo(dataset)
    assert desk.datasets.is_busy(dataset)
    desk.end(desk.job(), Leftovers(there_are))
    assert (desk.datasets.is_busy(dataset), dataset.has_leftovers) == (False, there_are)
    assert desk.dispatcher.assign({WRITER: [1], CLEANER: [2]}, 0) == []  # its stream has it swept, when it is settled


def test_a_dataset_that_can_not_be_taken_away_does_not_keep_its_stream(desk: Desk) -> None:
    dataset = desk.dataset(Phase.ENDING)
    desk.datasets.undo(dataset)
    desk.end(desk.job(), OmewdError("disk_error", "it hangs"))
    assert not desk.datasets.is_busy(dataset)
