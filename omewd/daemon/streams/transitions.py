"""The states of a stream and its transitions, as one table. Pure.

    STARTING ──► ACTIVE ──► DRAINING ──► FINALIZING ──► DONE
        │           │           │             │
        └───────────┴───────────┴─────────────┴───────► FAILED (with the reason)

    FAILED ──► ACTIVE (resumed)

STARTING: the place on disk is checked, the dataset is created while memory is allocated, and the journal records it.
ACTIVE: a source takes frames.
DRAINING: no source takes frames, and the remaining units are written. FINALIZING: the final metadata are written.
A FAILED stream gets its final metadata, too, if it has a dataset. It can be resumed while its rings are kept. A daemon
that takes over a stream of the last one also resumes it, from STARTING.

:func:`decide` returns the state that follows an event, and the actions. Whoever reports the event performs them, in
order, once the stream is in its new state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from weakref import WeakMethod


class State(StrEnum):
    STARTING = "STARTING"
    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"
    FINALIZING = "FINALIZING"
    DONE = "DONE"
    FAILED = "FAILED"


class Event(StrEnum):
    RECORDED = "recorded"  # the journal says, durably, that it is starting
    PLACED = "placed"  # a writer has found the place for the dataset
    ALLOCATED = "allocated"  # the rings can be used
    MADE = "made"  # the dataset is on disk
    NOTED = "noted"  # the journal says, durably, that it takes frames; or it has failed while that was written
    NOT_MADE = "not made"  # the dataset could not be created, and all or a part of it may be there
    CLOSED = "closed"  # no source takes frames any more
    IDLE = "idle"  # it has no waiting or running jobs, and nothing is being allocated
    FINALIZED = "finalized"  # the last metadata is on disk
    NOT_FINALIZED = "not finalized"  # the last metadata can't be written
    FAILS = "fails"
    RESUMED = "resumed"  # its rings are in use again


class Action(StrEnum):
    MAKE_DATASET = "create the dataset"
    INTRODUCE = "give the rings to idle writers"
    NOTE_STARTING = "record that it never started, before its dataset is removed"
    NOTE_ACTIVE = "record that it takes frames"
    ANSWER_STARTER = "answer the client that started it"
    DROP_JOBS = "drop the waiting jobs, and stop the one that creates the dataset"
    WAKE_PRODUCERS = "ring its producers' doorbells"
    UNDO = "remove the dataset again"
    FINALIZE = "write the final metadata"
    FINISH_RINGS = "mark the dataset as complete in the rings"
    TELL_UNACCOUNTED = "fail because frames are neither on disk nor gaps, which is a bug"
    TELL_LOSS = "report which frames are lost"
    SETTLE = "answer the clients that wait for the end, and release its memory"


@dataclass(frozen=True)
class Facts:
    """Facts that choose between rows of the table.

    ``drained``: nothing is left to write. ``complete``: every frame is on disk or a gap. ``has_dataset``: the dataset
    was created, and the rings exist. ``is_ending``: the job for the final metadata was submitted.

    Of a start, beside each other: ``placed``: the place for the dataset is known. ``on_record``: the stream is in the
    journal. ``allocated``: the rings can be used. ``made``: the dataset is on disk. ``noting``: an entry that
    says that it takes frames is being written, or taken back.
    """

    drained: bool = False
    complete: bool = True
    has_dataset: bool = False
    is_ending: bool = False
    placed: bool = False
    on_record: bool = False
    allocated: bool = False
    made: bool = False
    noting: bool = False


@dataclass(frozen=True)
class Row:
    """One transition. ``guard``: the facts that the row requires; others don't matter."""

    state: State
    event: Event
    to: State
    actions: tuple[Action, ...] = ()
    guard: tuple[tuple[str, bool], ...] = ()

    def applies(self, facts: Facts) -> bool:
        return all(getattr(facts, fact) is wanted for fact, wanted in self.guard)


_S, _E, _A = State, Event, Action
_LIVE = (_S.STARTING, _S.ACTIVE, _S.DRAINING, _S.FINALIZING)

TABLE: tuple[Row, ...] = (
    # The dataset is made while the rings are being allocated. A restart must know that there may be one.
    Row(_S.STARTING, _E.RECORDED, _S.STARTING, (_A.MAKE_DATASET,), guard=(("placed", True),)),
    Row(_S.STARTING, _E.PLACED, _S.STARTING, (_A.MAKE_DATASET,), guard=(("on_record", True),)),
    Row(_S.STARTING, _E.ALLOCATED, _S.STARTING, (_A.INTRODUCE,), guard=(("made", False),)),
    Row(_S.STARTING, _E.ALLOCATED, _S.STARTING, (_A.INTRODUCE, _A.NOTE_ACTIVE), guard=(("made", True),)),
    Row(_S.STARTING, _E.MADE, _S.STARTING, (_A.NOTE_ACTIVE,), guard=(("allocated", True),)),
    Row(_S.STARTING, _E.NOTED, _S.ACTIVE, (_A.ANSWER_STARTER,)),
    Row(_S.STARTING, _E.RESUMED, _S.ACTIVE),
    Row(_S.ACTIVE, _E.CLOSED, _S.DRAINING),
    Row(_S.DRAINING, _E.IDLE, _S.FINALIZING, (_A.FINALIZE,), guard=(("drained", True),)),
    Row(_S.FINALIZING, _E.FINALIZED, _S.DONE, (_A.FINISH_RINGS, _A.SETTLE), guard=(("complete", True),)),
    Row(_S.FINALIZING, _E.FINALIZED, _S.FAILED, (_A.TELL_UNACCOUNTED, _A.SETTLE), guard=(("complete", False),)),
    Row(_S.STARTING, _E.FAILS, _S.FAILED, (_A.DROP_JOBS, _A.WAKE_PRODUCERS), guard=(("made", False),)),
    Row(
        _S.STARTING,
        _E.FAILS,
        _S.FAILED,
        (_A.DROP_JOBS, _A.WAKE_PRODUCERS, _A.UNDO),
        guard=(("made", True), ("noting", False)),
    ),
    Row(
        _S.STARTING,
        _E.FAILS,
        _S.FAILED,
        (_A.DROP_JOBS, _A.WAKE_PRODUCERS),
        guard=(("made", True), ("noting", True)),
    ),
    *(Row(state, _E.FAILS, _S.FAILED, (_A.DROP_JOBS, _A.WAKE_PRODUCERS)) for state in _LIVE[1:]),
    Row(_S.FAILED, _E.MADE, _S.FAILED, (_A.UNDO,)),
    Row(_S.FAILED, _E.NOTED, _S.FAILED, (_A.NOTE_STARTING,)),
    Row(_S.FAILED, _E.RECORDED, _S.FAILED, (_A.UNDO,), guard=(("noting", True),)),
    Row(_S.FAILED, _E.NOT_MADE, _S.FAILED, (_A.DROP_JOBS, _A.UNDO)),
    Row(_S.FAILED, _E.IDLE, _S.FAILED, (_A.SETTLE,), guard=(("has_dataset", False),)),
    Row(_S.FAILED, _E.IDLE, _S.FAILED, (_A.FINALIZE,), guard=(("has_dataset", True), ("is_ending", False))),
    # The job for the final metadata has failed itself.
    Row(_S.FAILED, _E.IDLE, _S.FAILED, (_A.SETTLE,), guard=(("has_dataset", True), ("is_ending", True))),
    Row(_S.DONE, _E.IDLE, _S.DONE, (_A.SETTLE,)),
    Row(_S.FAILED, _E.FINALIZED, _S.FAILED, (_A.TELL_LOSS, _A.SETTLE)),
    Row(_S.FAILED, _E.NOT_FINALIZED, _S.FAILED, (_A.TELL_LOSS, _A.SETTLE)),
    Row(_S.FAILED, _E.RESUMED, _S.ACTIVE),
)

_ROWS: dict[tuple[State, Event], tuple[Row, ...]] = {
    (state, event): tuple(row for row in TABLE if (row.state, row.event) == (state, event))
    for state in State
    for event in Event
}


def decide(state: State, event: Event, facts: Facts) -> tuple[State, tuple[Action, ...]]:
    """The next state and the actions that follow an event. An event without a row changes nothing."""
    for row in _ROWS[state, event]:
        if row.applies(facts):
            return row.to, row.actions
    return state, ()


Take = Callable[[Event], tuple[Action, ...]]


def weakly(take: Take) -> Take:
    """A method of a stream, without a hold on it."""
    held = WeakMethod(take)

    def taken(event: Event) -> tuple[Action, ...]:
        return () if (method := held()) is None else method(event)

    return taken


@dataclass
class Start:
    """The steps of a stream's start that are done. Several go on at a time.

    ``take``: tells the stream of an event, and returns the actions that follow.

    ``is_placed``: a writer has found the place. ``is_on_record``: the journal says, durably, that it is starting.
    ``is_made``: the dataset is on disk. ``is_noting``: an entry which says that it takes frames is being written, or
    taken back. ``is_over``: the stream has taken frames.
    """

    take: Take
    is_placed: bool = False
    is_on_record: bool = False
    is_made: bool = False
    is_noting: bool = False
    is_over: bool = False

    @property
    def facts(self) -> dict[str, bool]:
        """The :class:`Facts` that are known here."""
        return {
            "placed": self.is_placed,
            "on_record": self.is_on_record,
            "made": self.is_made,
            "noting": self.is_noting,
        }

    def placed(self) -> tuple[Action, ...]:
        """Note that a writer has found the place for the dataset."""
        self.is_placed = True
        return self.take(Event.PLACED)

    def recorded(self) -> tuple[Action, ...]:
        """Note that the journal says, durably, that the stream is starting, also after it said something else."""
        self.is_on_record = True
        actions = self.take(Event.RECORDED)
        self.is_noting = False
        return actions

    def made(self) -> tuple[Action, ...]:
        """Note that the dataset is created."""
        self.is_made = True
        return self.take(Event.MADE)

    def noting(self) -> None:
        """Note that an entry is being written which says that the stream takes frames, or which takes that back."""
        self.is_noting = True

    def noted(self) -> tuple[Action, ...]:
        """Note that the journal says, durably, that the stream takes frames, or that it could not be written."""
        self.is_noting = False
        actions = self.take(Event.NOTED)
        self.is_over = Action.ANSWER_STARTER in actions
        return actions

    def taken_over(self) -> None:
        """Note that the last daemon's stream goes on."""
        self.is_over = True
