"""Metadata that clients give: who is answered when, and what may be written at the same time."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.datasets.copies import Copies
from omewd.daemon.datasets.dataset import Dataset, Phase
from omewd.daemon.datasets.datasets import Datasets
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.tasks import Lease
from omewd.daemon.processes.roles import roles
from omewd.daemon.state.journal import Journal
from omewd.daemon.streams.agenda import Agenda
from omewd.dataset.user_value import parsed
from omewd.errors import OmewdError
from omewd.protocol.jobs.job import WRITER, Result
from omewd.protocol.jobs.metadata import PutContrast, PutUserMetadata


class Server:
    """A control server that only notes down what it answers."""

    def __init__(self) -> None:
        self.answers: list[tuple[Any, Any]] = []

    def reply(self, peer: Any, result: Any) -> None:
        self.answers.append((peer.name, result))

    def reply_error(self, peer: Any, error: OmewdError) -> None:
        self.answers.append((peer.name, error.code))


class Desk:
    """Datasets with a real dispatcher, whose jobs are taken by hand."""

    def __init__(self) -> None:
        self.dispatcher, self.server = Dispatcher(60, {role.name: role for role in roles(writers=1, cores=1)}), Server()
        server = cast(ControlServer, self.server)
        copies = Copies(self.dispatcher, server)
        self.datasets = Datasets(self.dispatcher, cast(Journal, None), server, Agenda(), copies)
        self._writers = iter(range(1, 1000))

    def dataset(self, phase: Phase, epoch: int = 1, path: str = "s.ome.zarr") -> Dataset:
        dataset = Dataset("s", Path(path), Path(), epoch, phase)
        self.datasets.add(dataset)
        return dataset

    def add(self, who: str, dataset: Dataset, namespace: Any = "mine", mapping: Any = None) -> None:
        peer = cast(Peer, SimpleNamespace(name=who))
        text = json.dumps({"by": who} if mapping is None else mapping).encode()
        self.datasets.put_user_metadata(peer, dataset, namespace, text, None, None)

    def jobs(self) -> list[Lease]:
        """What has been submitted since."""
        found: list[Lease] = []
        while leases := self.dispatcher.assign({WRITER: [next(self._writers)]}, 0):
            found += leases
        return found

    def end(self, lease: Lease, error: OmewdError | None = None) -> None:
        self.dispatcher.finish(lease.id, 0)
        task = lease.task
        if error is None:
            task.owner.job_done(task, Result(), 0)
        else:
            task.owner.job_failed(task, error, 0)

    @property
    def answers(self) -> list[tuple[Any, Any]]:
        found, self.server.answers = self.server.answers, []
        return found


@pytest.fixture
def desk() -> Desk:
    return Desk()


def given(lease: Lease) -> PutUserMetadata:
    assert isinstance(lease.task.job, PutUserMetadata)
    return lease.task.job


def by(lease: Lease) -> object:
    assert given(lease).namespace == "mine"
    return parsed(given(lease).value)["by"]


@pytest.mark.parametrize(
    "namespace", ["", "a b", "a/b", "a\tb", "a\n", "ome", "omewd", "x" * 129, None, 5, ["mine"], {"a": 1}, True]
)
def test_namespaces_that_are_refused(desk: Desk, namespace: Any) -> None:
    dataset = desk.dataset(Phase.WRITING)
    with pytest.raises(OmewdError) as caught:
        desk.add("a", dataset, namespace, {})
    assert caught.value.code == "bad_metadata"
    assert len(str(caught.value)) < 400
    assert (desk.jobs(), desk.answers) == ([], [])
    desk.add("a", dataset)
    assert [by(job) for job in desk.jobs()] == ["a"]


def test_a_reserved_namespace_is_told_which_are(desk: Desk) -> None:
    with pytest.raises(OmewdError, match=r"and can't be 'ome' or 'omewd' or '\.' or '\.\.'\."):
        desk.add("a", desk.dataset(Phase.WRITING), "omewd")


@pytest.mark.parametrize("namespace", ["m", "x" * 128, "org.example.scope-2", "Ome", "omewd2", "µManager"])
def test_namespaces_that_are_taken(desk: Desk, namespace: str) -> None:
    desk.add("a", desk.dataset(Phase.WRITING), namespace, {"deep": [{"er": None}]})
    [job] = desk.jobs()
    assert (given(job).namespace, given(job).dataset) == (namespace, "s.ome.zarr")
    assert parsed(given(job).value) == {"deep": [{"er": None}]}


@pytest.mark.parametrize("value", [[], [1], "text", 5, 0.5, True, None])
def test_a_value_may_be_any_json(value: Any) -> None:
    assert parsed(json.dumps(value).encode()) == value


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 70 + b"1" + b"}" * 70, b"NaN"])
def test_what_can_not_be_read_is_refused(text: bytes) -> None:
    with pytest.raises(OmewdError) as caught:
        parsed(text)
    assert caught.value.code == "bad_metadata"


def test_metadata_without_an_attachment_is_refused(desk: Desk) -> None:
    with pytest.raises(OmewdError, match="attached"):
        peer = cast(Peer, SimpleNamespace(name="a"))
        desk.datasets.put_user_metadata(peer, desk.dataset(Phase.WRITING), "mine", b"", None, None)
    assert desk.jobs() == []


@pytest.mark.parametrize(("position", "well"), [(True, None), (1.0, None), ([0], None), (None, 3), (0, True)])
def test_a_place_that_is_none_is_refused(desk: Desk, position: object, well: object) -> None:
    peer, dataset = cast(Peer, SimpleNamespace(name="a")), desk.dataset(Phase.WRITING)
    with pytest.raises(OmewdError, match="a position must be a name or a number") as caught:
        desk.datasets.put_user_metadata(peer, dataset, "mine", b"1", position, well)
    assert caught.value.code == "bad_metadata"
    assert desk.jobs() == []


def test_windows_are_put_in_between_what_clients_give(desk: Desk) -> None:
    dataset = desk.dataset(Phase.WRITING)
    windows = ((0, 5.0, 5.0, 5.0, 5.0),)
    desk.add("ada", dataset)
    desk.datasets.put_contrast(dataset, windows)
    [first] = desk.jobs()
    desk.end(first)
    [second] = desk.jobs()
    assert second.task.job == PutContrast("s.ome.zarr", dataset.epoch, windows)
    desk.end(second, OmewdError("disk_error", "once"))
    assert desk.answers == [("ada", {})]
    assert not desk.datasets.is_busy(dataset)


def test_an_empty_mapping_is_one(desk: Desk) -> None:
    desk.add("a", desk.dataset(Phase.WRITING), "mine", {})
    [job] = desk.jobs()
    assert parsed(given(job).value) == {}


def test_who_gives_metadata_is_answered_when_it_is_on_disk(desk: Desk) -> None:
    desk.add("a", desk.dataset(Phase.WRITING, epoch=7))
    [job] = desk.jobs()
    assert desk.answers == []
    desk.end(job)
    assert desk.answers == [("a", {})]
    desk.end(job)
    assert desk.answers == []


def test_one_job_at_a_time_writes_a_datasets_metadata_in_the_order_of_its_clients(desk: Desk) -> None:
    dataset = desk.dataset(Phase.WRITING)
    for who in "abc":
        desk.add(who, dataset)
    for who in "abc":
        [job] = desk.jobs()
        assert by(job) == who
        desk.datasets.step(dataset)
        assert desk.jobs() == []
        desk.end(job)
        assert desk.answers == [(who, {})]
    assert desk.jobs() == []


def test_datasets_do_not_wait_for_each_other(desk: Desk) -> None:
    one, other = desk.dataset(Phase.WRITING, 1, "one.zarr"), desk.dataset(Phase.WRITING, 2, "other.zarr")
    desk.add("a", one)
    desk.add("b", other)
    jobs = desk.jobs()
    assert [(by(job), given(job).dataset) for job in jobs] == [("a", "one.zarr"), ("b", "other.zarr")]
    desk.end(jobs[1])
    assert desk.answers == [("b", {})]
    desk.add("c", one)
    assert desk.jobs() == []


def test_who_can_not_be_served_is_told_and_the_next_one_is_served(desk: Desk) -> None:
    dataset = desk.dataset(Phase.WRITING)
    desk.add("a", dataset)
    desk.add("b", dataset)
    [job] = desk.jobs()
    desk.end(job, OmewdError("disk_full", "no space"))
    assert desk.answers == [("a", "disk_full")]
    [job] = desk.jobs()
    desk.end(job)
    assert desk.answers == [("b", {})]


@pytest.mark.parametrize("phase", [Phase.MAKING, Phase.ENDING])
def test_metadata_waits_while_the_daemon_writes_that_of_the_dataset(desk: Desk, phase: Phase) -> None:
    dataset = desk.dataset(phase)
    desk.add("a", dataset)
    desk.datasets.step(dataset)
    assert desk.jobs() == []
    dataset.phase = Phase.WRITING if phase is Phase.MAKING else Phase.AT_REST
    desk.datasets.step(dataset)
    [job] = desk.jobs()
    desk.end(job)
    assert desk.answers == [("a", {})]


def test_the_dataset_of_a_stream_that_has_ended_takes_metadata_too(desk: Desk) -> None:
    desk.add("a", desk.dataset(Phase.AT_REST))
    [job] = desk.jobs()
    assert given(job).dataset == "s.ome.zarr"
    desk.end(job)
    assert desk.answers == [("a", {})]


def test_a_dataset_has_room_for_so_many_who_wait(desk: Desk) -> None:
    dataset = desk.dataset(Phase.WRITING)
    for number in range(64):
        desk.add(f"{number}", dataset)
    with pytest.raises(OmewdError) as caught:
        desk.add("late", dataset)
    assert caught.value.code == "busy"
    desk.datasets.put_contrast(dataset, ())  # the stream must not fail for that
    desk.add("other", desk.dataset(Phase.WRITING, 2, "other.zarr"))
    first, other = desk.jobs()
    assert (by(first), by(other)) == ("0", "other")
    desk.end(first)
    [second] = desk.jobs()
    desk.end(second)
    desk.add("late", dataset)
    served = 0
    while jobs := desk.jobs():
        for job in jobs:
            desk.end(job)
            served += 1
    assert served == 64
    assert desk.answers[-1] == ("late", {})


def test_a_job_that_a_failure_took_back_is_asked_for_again(desk: Desk) -> None:
    dataset = desk.dataset(Phase.WRITING)
    desk.add("a", dataset)
    desk.add("b", dataset)
    dataset.phase = Phase.ENDING
    desk.datasets.withdraw(dataset)
    desk.datasets.step(dataset)
    assert (desk.jobs(), desk.answers) == ([], [])  # the last metadata is being written
    dataset.phase = Phase.AT_REST
    desk.datasets.step(dataset)
    for who in "ab":
        [job] = desk.jobs()
        assert by(job) == who
        desk.end(job)
        assert desk.answers == [(who, {})]


def test_a_job_that_is_out_when_its_stream_fails_still_answers(desk: Desk) -> None:
    dataset = desk.dataset(Phase.WRITING)
    desk.add("a", dataset)
    desk.add("b", dataset)
    [job] = desk.jobs()
    dataset.phase = Phase.ENDING
    desk.datasets.withdraw(dataset)
    desk.end(job)
    assert desk.answers == [("a", {})]
    assert desk.jobs() == []
    dataset.phase = Phase.AT_REST
    desk.datasets.step(dataset)
    assert [by(job) for job in desk.jobs()] == ["b"]


def test_jobs_of_others_are_none_of_its_business(desk: Desk) -> None:
    dataset = desk.dataset(Phase.WRITING)
    desk.add("a", dataset)
    [job] = desk.jobs()
    desk.datasets.withdraw(desk.dataset(Phase.WRITING, 2))
    desk.datasets.step(desk.dataset(Phase.WRITING, 2, "elsewhere.zarr"))
    desk.datasets.never_made(desk.dataset(Phase.WRITING, 2, "elsewhere.zarr"))
    assert (desk.jobs(), desk.answers) == ([], [])
    desk.end(job)
    assert desk.answers == [("a", {})]


def test_of_a_stream_that_never_started_all_are_told(desk: Desk) -> None:
    dataset = desk.dataset(Phase.MAKING)
    desk.add("a", dataset)
    desk.add("b", dataset)
    dataset.phase = Phase.ENDING
    desk.datasets.never_made(dataset)
    assert desk.answers == [("a", "unknown_stream"), ("b", "unknown_stream")]
    dataset.phase = Phase.AT_REST
    desk.datasets.step(dataset)
    assert desk.jobs() == []


def test_a_stream_that_never_started_leaves_the_clients_of_the_one_before_alone(desk: Desk) -> None:
    before = desk.dataset(Phase.AT_REST, 1)
    desk.add("a", before)
    [job] = desk.jobs()
    new = desk.dataset(Phase.MAKING, 2)
    desk.add("b", new)
    desk.datasets.never_made(new)
    assert desk.answers == [("b", "unknown_stream")]
    desk.end(job)
    assert desk.answers == [("a", {})]


def test_what_is_still_written_to_a_dataset_that_was_replaced_is_waited_for(desk: Desk) -> None:
    before = desk.dataset(Phase.AT_REST, 1)
    desk.add("a", before)
    [old] = desk.jobs()
    new = desk.dataset(Phase.WRITING, 2)
    desk.add("b", new)
    assert desk.jobs() == []
    assert desk.datasets.is_busy(new)
    desk.end(old)
    [job] = desk.jobs()
    assert by(job) == "b"
    desk.end(job)
    assert desk.answers == [("a", {}), ("b", {})]


def test_metadata_for_an_ended_stream_whose_dataset_is_being_replaced_is_refused(desk: Desk) -> None:
    before = desk.dataset(Phase.AT_REST, 1)
    desk.dataset(Phase.WRITING, 2)
    desk.add("a", before)
    assert desk.jobs() == []
    assert desk.answers == [("a", "unknown_stream")]


def test_the_clients_of_a_dataset_that_is_forgotten_are_still_answered(desk: Desk) -> None:
    before, later = desk.dataset(Phase.AT_REST, 1), desk.dataset(Phase.AT_REST, 2)
    desk.add("a", before)
    [first] = desk.jobs()
    desk.add("b", later)
    desk.datasets.forget(later)
    desk.end(first)
    [second] = desk.jobs()
    desk.end(second)
    assert desk.answers == [("a", {}), ("b", {})]


def test_two_jobs_never_write_the_metadata_at_one_path_even_if_one_dataset_is_forgotten(desk: Desk) -> None:
    before, later = desk.dataset(Phase.AT_REST, 1), desk.dataset(Phase.AT_REST, 2)
    desk.add("a", before)
    [first] = desk.jobs()
    desk.datasets.forget(before)
    desk.add("b", later)
    assert desk.jobs() == []
    assert desk.datasets.is_busy(later)
    desk.end(first)
    assert [by(job) for job in desk.jobs()] == ["b"]
