"""The copy of a stream's dataset in the daemon: which job is due, and what follows from errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.datasets.copies import Copies
from omewd.daemon.datasets.copy import CopyPhase, DatasetCopy
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.tasks import Task
from omewd.daemon.processes.roles import roles
from omewd.errors import OmewdError
from omewd.protocol.jobs.copies import Confirmed, CopyDataset, CopyUnits
from omewd.protocol.jobs.job import COPIER
from omewd.protocol.status import CopyStatus

S = 10**9
URL = "s3://lab/cam.ome.zarr"


def copy_of(*, unit_bytes: int = 1 << 20, sources: int = 2) -> DatasetCopy:
    copy = DatasetCopy("cam", Path("/data/cam.ome.zarr"), 7, URL, limit=5.0)
    copy.follow(3, unit_bytes, [0] * sources)
    return copy


class Server:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def reply(self, _: Peer, message: dict[str, Any]) -> None:
        self.told.append(message["state"])

    def reply_error(self, _: Peer, error: OmewdError) -> None:
        self.told.append(error.code)


class Desk:
    """Copies with a real dispatcher; the jobs are taken by hand."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher(60, {role.name: role for role in roles(writers=1, cores=1)})
        self.server = Server()
        self.copies = Copies(self.dispatcher, cast(ControlServer, self.server))
        self.over: list[str] = []
        self.copies.listen(over=lambda copy: self.over.append(copy.phase.value))

    def take(self, now_ns: int) -> tuple[int, Task] | None:
        self.copies.step(now_ns)
        leases = self.dispatcher.assign({COPIER: [1]}, now_ns)
        return (leases[0].id, leases[0].task) if leases else None

    def end(self, taken: tuple[int, Task] | None, result: Confirmed | OmewdError, now_ns: int) -> None:
        assert taken is not None
        lease, task = taken
        assert self.dispatcher.finish(lease, now_ns) is task
        if isinstance(result, OmewdError):
            assert not self.dispatcher.put_back(task, result, now_ns)  # its owner decides what comes next
            task.owner.job_failed(task, result, now_ns)
        else:
            task.owner.job_done(task, result, now_ns)


def test_what_is_sealed_is_copied_and_the_rest_at_the_end() -> None:
    desk, copy = Desk(), copy_of()
    desk.copies.add(copy)
    assert desk.take(0) is None
    desk.copies.note_sealed(copy, 0, 3)
    desk.copies.note_sealed(copy, 1, 1)
    taken = desk.take(S)
    assert taken is not None
    assert taken[1].job == CopyUnits(3, "/data/cam.ome.zarr", 7, URL, ((0, 0, 3), (1, 0, 1)), 5.0)
    desk.copies.note_sealed(copy, 1, 2)
    assert desk.take(2 * S) is None  # one job at a time, because one process at a time has the manifest
    desk.end(taken, Confirmed(4, 400), 2 * S)
    assert (copy.copied, copy.files, copy.bytes) == ([3, 1], 4, 400)
    second = desk.take(3 * S)
    assert second is not None
    assert second[1].job == CopyUnits(3, "/data/cam.ome.zarr", 7, URL, ((1, 1, 2),), 5.0)
    desk.end(second, Confirmed(1, 100), 3 * S)
    desk.copies.end(copy)
    last = desk.take(4 * S)
    assert last is not None
    assert last[1].job == CopyDataset("/data/cam.ome.zarr", 7, URL, 5.0)
    assert desk.over == []
    desk.end(last, Confirmed(9, 90), 4 * S)
    assert desk.over == ["complete"]
    assert (copy.files, copy.bytes, desk.take(99 * S)) == (14, 590, None)


def test_a_part_is_complete_whatever_others_have_copied() -> None:
    """Its copy can't wait for other machines; it says whose sources were missing then."""
    desk, copy = Desk(), copy_of()
    desk.copies.add(copy)
    desk.copies.end(copy)
    desk.end(desk.take(S), Confirmed(9, 90, ("GFP", "RFP")), S)
    assert (copy.phase, desk.over) == (CopyPhase.COMPLETE, ["complete"])
    status = copy.status()
    assert (status.state, status.missing) == ("complete", ("GFP", "RFP"))
    assert CopyStatus.from_json(status.to_json()) == status


def test_small_files_are_copied_together() -> None:
    desk, copy = Desk(), copy_of()
    desk.copies.add(copy)
    desk.copies.note_sealed(copy, 0, 1)
    desk.end(desk.take(S), Confirmed(1, 1), S + 1000)
    desk.copies.note_sealed(copy, 0, 2)
    assert desk.take(S + 2000) is None
    assert desk.copies.next_ns is not None
    assert S < desk.copies.next_ns < 2 * S
    assert desk.take(desk.copies.next_ns) is not None


def test_a_job_is_bounded_however_much_there_is() -> None:
    copy = copy_of(unit_bytes=64 << 20)
    copy.note_sealed(0, 10**9)
    job = copy.due(0)
    assert isinstance(job, CopyUnits)
    assert job.parts == ((0, 0, 16),)
    huge = copy_of(unit_bytes=8 << 30)
    huge.note_sealed(1, 4)
    job = huge.due(0)
    assert isinstance(job, CopyUnits)
    assert job.parts == ((1, 0, 1),)


def test_a_copy_is_tried_again_later_and_later_and_for_ever() -> None:
    desk, copy = Desk(), copy_of()
    desk.copies.add(copy)
    desk.copies.note_sealed(copy, 0, 1)
    now_ns, waits = S, []
    for _ in range(5000):
        before = now_ns
        taken = desk.take(now_ns)
        desk.end(taken, OmewdError("store_error", "nobody answers"), now_ns)
        assert (copy.phase, desk.copies.going) == (CopyPhase.WAITING, 0)
        assert desk.copies.next_ns is not None
        desk.copies.step(now_ns)
        assert desk.take(now_ns) is None
        now_ns = desk.copies.next_ns
        waits.append((now_ns - before) // S)
    assert waits[:7] == [1, 2, 5, 10, 30, 60, 60]
    desk.end(desk.take(now_ns), Confirmed(1, 5), now_ns)
    assert (copy.phase, copy.error, copy.copied) == (CopyPhase.COPYING, None, [1, 0])


def test_a_store_that_refuses_for_a_day_has_failed_the_copy() -> None:
    desk, copy = Desk(), copy_of()
    desk.copies.add(copy)
    desk.copies.note_sealed(copy, 0, 1)
    now_ns = S
    peer = cast(Peer, object())
    desk.copies.when_over(peer, copy)
    while not copy.is_over:
        assert now_ns < 25 * 3600 * S
        desk.end(desk.take(now_ns), OmewdError("store_refused", "no"), now_ns)
        now_ns = max(copy.not_before_ns, now_ns)
    assert now_ns > 24 * 3600 * S
    assert (desk.over, desk.server.told) == (["failed"], ["store_refused"])
    assert f"omewd copy /data/cam.ome.zarr {URL}" in str(copy.failure)


@pytest.mark.parametrize("code", ["output_exists", "dataset_replaced", "not_installed", "bad_url"])
def test_what_no_time_mends_fails_the_copy_at_once(code: str) -> None:
    desk, copy = Desk(), copy_of()
    desk.copies.add(copy)
    desk.copies.end(copy)
    desk.end(desk.take(S), OmewdError(code, "no"), S)
    assert (copy.phase, desk.over, desk.take(10**15)) == (CopyPhase.FAILED, ["failed"], None)


def test_progress_shows_that_the_store_works_and_moves_the_deadline() -> None:
    desk, copy = Desk(), copy_of()
    desk.copies.add(copy)
    desk.copies.note_sealed(copy, 0, 1)
    desk.end(desk.take(S), OmewdError("store_error", "no"), S)
    taken = desk.take(10 * S)
    assert taken is not None
    assert taken[1].on_progress is not None
    taken[1].on_progress(Confirmed(0, 0))
    assert copy.error is not None
    taken[1].on_progress(Confirmed(2, 20))
    assert copy.status().error is None
    assert (copy.status().state, copy.files) == ("copying", 2)
    desk.dispatcher.goes_on(taken[0], 60 * S)
    assert desk.dispatcher.overdue(100 * S) == []
    desk.end(taken, Confirmed(3, 30), 100 * S)
    assert (copy.files, copy.bytes) == (3, 30)


def test_a_job_that_waits_when_the_stream_ends_is_not_run_any_more() -> None:
    desk, copy = Desk(), copy_of()
    desk.copies.add(copy)
    desk.copies.note_sealed(copy, 0, 1)
    desk.copies.step(S)
    desk.copies.end(copy)
    taken = desk.take(2 * S)
    assert taken is not None
    assert isinstance(taken[1].job, CopyDataset)


def test_what_a_dead_copier_had_copied_counts_once() -> None:
    desk, copy = Desk(), copy_of()
    desk.copies.add(copy)
    desk.copies.note_sealed(copy, 0, 4)
    taken = desk.take(S)
    assert taken is not None
    assert taken[1].on_progress is not None
    taken[1].on_progress(Confirmed(3, 30))
    [back], given_up = desk.dispatcher.child_lost(1)
    assert (back, given_up) == (taken[1], [])
    back.owner.job_put_back(back, OmewdError("writer_died", "gone"), S)
    again = desk.take(2 * S)
    desk.end(again, Confirmed(1, 10), 3 * S)  # the others were on record
    assert (copy.files, copy.bytes, copy.copied) == (4, 40, [4, 0])


def test_what_is_to_be_evicted_is_told_to_copiers_and_counted() -> None:
    desk, copy = Desk(), copy_of()
    copy.evict = True
    desk.copies.add(copy)
    desk.copies.note_sealed(copy, 0, 1)
    taken = desk.take(S)
    assert taken is not None
    assert isinstance(taken[1].job, CopyUnits)
    assert taken[1].job.evict
    assert taken[1].on_progress is not None
    taken[1].on_progress(Confirmed(1, 10, evicted_bytes=10))
    assert (copy.status().evicted_bytes, copy.status().frees_space) == (10, True)
    desk.end(taken, Confirmed(2, 20, evicted_bytes=15), S)
    desk.copies.end(copy)
    taken = desk.take(2 * S)
    assert taken is not None
    assert isinstance(taken[1].job, CopyDataset)
    assert taken[1].job.evict
    desk.end(taken, Confirmed(1, 5, evicted_bytes=25), 2 * S)
    assert copy.status().evicted_bytes == 40
    copy.error = OmewdError("store_error", "gone")
    assert not copy.status().frees_space


def test_who_waits_for_the_copy_of_a_stream_that_does_not_start_is_told() -> None:
    desk, copy = Desk(), copy_of()
    desk.copies.add(copy)
    desk.copies.when_over(cast(Peer, object()), copy)
    desk.copies.drop(copy)
    assert desk.server.told == ["no_copy"]
