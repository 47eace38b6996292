"""Streams that start: what is done if that fails, or if the daemon ends meanwhile."""

from __future__ import annotations

from typing import Any, cast

import pytest

from omewd.daemon.control.server import Peer
from omewd.daemon.state.journal import ACTIVE, STARTING
from omewd.daemon.streams import producers
from omewd.daemon.streams.transitions import Action, State
from omewd.errors import OmewdError
from omewd.protocol.jobs.datasets import CreateDataset, UndoDataset
from tests.unit.daemon.streams.desk import Notes, desk, starting


@pytest.mark.parametrize("what", ["the journal fails", "it is stopped"])
def test_a_dataset_is_removed_once_the_journal_says_that_its_stream_never_started(what: str) -> None:
    """The entry that says that it takes frames may be there already. Nothing follows before it is taken back."""
    with desk(1, 1000) as it:
        it.lifecycle._admission = cast(Any, notes := Notes())
        stream = starting(it, 2)
        stream.allocated()
        stream.start.recorded()
        it.lifecycle.do(stream, (Action.NOTE_ACTIVE,), 0)
        assert (notes.phases, stream.state) == ([ACTIVE], State.STARTING)
        if what == "it is stopped":
            it.lifecycle.fail(stream, OmewdError("stream_stopped", "it was stopped while it started"), 0)
            it.turn()
            assert (notes.phases, stream.settled) == ([ACTIVE], False)
            notes.end(None)
        else:
            notes.end(OmewdError("no_resources", "the journal can't be written"))
        assert notes.phases == [ACTIVE, STARTING]
        assert stream.state is State.FAILED
        it.turn()
        assert not [task for task in it.dispatcher.tasks() if isinstance(task.job, UndoDataset)]
        notes.end(OmewdError("no_resources", "the journal can't be written"))  # whether it can or not
        assert [task.job for task in it.dispatcher.tasks()] == [UndoDataset("2.ome.zarr", stream.epoch)]
        assert not stream.settled


def test_what_the_journal_tells_of_a_stream_that_is_gone_is_nothing() -> None:
    with desk(1, 1000) as it:
        it.lifecycle._admission = cast(Any, notes := Notes())
        stream = starting(it, 2)
        it.lifecycle.do(stream, (Action.NOTE_ACTIVE,), 0)
        del it.streams.open[2]
        notes.end(OmewdError("no_resources", "the journal can't be written"))
        assert (notes.phases, stream.state, stream.error) == ([ACTIVE], State.STARTING, None)


@pytest.mark.parametrize("state", [State.STARTING, State.FAILED])
@pytest.mark.parametrize("code", ["disk_error", "writer_died"])
def test_a_dataset_that_could_not_be_made_is_removed(state: State, code: str) -> None:
    """Even if only its last sync has failed: it is in its place then, and what was there is aside."""
    with desk(1, 1000) as it:
        stream = starting(it, 2)
        it.lifecycle.do(stream, (Action.MAKE_DATASET,), 0)
        [lease] = it.writer.jobs
        task = it.dispatcher.finish(lease, 0)
        assert task is not None
        assert isinstance(task.job, CreateDataset)
        if state is State.FAILED:
            it.lifecycle.fail(stream, OmewdError("stream_stopped", "it was stopped while it started"), 0)
        stream.owner.job_failed(task, OmewdError(code, "the folder can't be synced"), 0)
        assert [task.job for task in it.dispatcher.tasks()] == [UndoDataset("2.ome.zarr", stream.epoch)]
        it.turn()
        assert (stream.state, stream.settled) == (State.FAILED, False)


@pytest.mark.parametrize("at", ["starting", "noting", "failed while noting"])
def test_no_stream_starts_under_the_next_daemon(at: str) -> None:
    """Its client hears that this one is stopping, and would not know of it."""
    with desk(1, 1000) as it:
        it.lifecycle._admission = cast(Any, notes := Notes())
        stream = starting(it, 2)
        it.replies.when_started(cast(Peer, "client"), stream)
        if at != "starting":
            it.lifecycle.do(stream, (Action.NOTE_ACTIVE,), 0)
        if at == "failed while noting":
            it.lifecycle.fail(stream, OmewdError("disk_error", "it does not spin"), 0)
        it.lifecycle.take_back_starts()
        assert notes.phases == ([] if at == "starting" else [ACTIVE, STARTING])
        assert it.answers.codes == ["disk_error" if at == "failed while noting" else "stopping"]
        it.lifecycle.take_back_starts()
        assert len(it.answers.codes) == 1


def test_streams_that_are_given_up_are_left_to_the_next_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """With their entries and rings: it removes the dataset of the one that was starting, and finalizes the other one.

    There is no journal here that could forget them.
    """
    monkeypatch.setattr(producers, "let_go", lambda _: None)
    with desk(1, 1000) as it:
        new = starting(it, 2)
        it.replies.when_started(cast(Peer, "client"), new)
        it.lifecycle.give_up_all(OmewdError("no_writers", "no more can be started"), 0)
        assert it.answers.codes == ["no_writers"]
        assert set(it.streams.open) == {1, 2}
        for stream in (it.stream, new):
            assert (stream.state, stream.settled) == (State.FAILED, True)
        assert it.stream.loss is not None
