"""The states of a stream and what leads from one to the next: one table. Pure.

    STARTING ──► ACTIVE ──► DRAINING ──► FINALIZING ──► DONE
        │           │           │             │
        └───────────┴───────────┴─────────────┴───────► FAILED (with the reason)

    FAILED ──► ACTIVE (resumed)

STARTING: the place on disk is checked, memory is allocated, the dataset is made. ACTIVE: a source takes frames.
DRAINING: none does any more, and the units that are there get written. FINALIZING: the last metadata is written.
A stream that has FAILED gets its last metadata too, if it has a dataset. It can be resumed while its rings are kept. A
daemon that takes over a stream of the last one resumes it, too, from STARTING.

:func:`decide` says which state follows an event and which actions are to be done. Whoever reports the event does
them, in their order, once the stream is in its new state.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    STARTING = "STARTING"
    ACTIVE = "ACTIVE"
    DRAINING = "DRAINING"
    FINALIZING = "FINALIZING"
    DONE = "DONE"
    FAILED = "FAILED"


class Event(StrEnum):
    ALLOCATED = "allocated"  # the rings can be used
    MADE = "made"  # the dataset is on disk
    MAKING_LOST = "making lost"  # the writer that made it has died, and may have left a part
    CLOSED = "closed"  # no source takes frames any more
    IDLE = "idle"  # no job of it waits or is out, nothing is being allocated
    FINALIZED = "finalized"  # the last metadata is on disk
    NOT_FINALIZED = "not finalized"  # the last metadata can't be written
    FAILS = "fails"
    RESUMED = "resumed"  # its rings have been taken up again


class Action(StrEnum):
    MAKE_DATASET = "have the dataset made"
    NOTE_ACTIVE = "put on record that it takes frames"
    ANSWER_STARTER = "answer whoever started it"
    DROP_JOBS = "drop the jobs that wait, and stop the one that makes the dataset"
    WAKE_PRODUCERS = "ring the doorbells of its producers"
    UNDO = "have the dataset taken away again"
    FINALIZE = "have the last metadata written"
    FINISH_RINGS = "say in the rings that the dataset is complete"
    TELL_UNACCOUNTED = "fail for frames that are neither on disk nor gaps, which is a bug"
    TELL_LOSS = "say which frames are lost"
    SETTLE = "answer those who wait for the end, and let go of its memory"


@dataclass(frozen=True)
class Facts:
    """What decides between rows of the table.

    ``drained``: nothing is left to write. ``complete``: every frame is on disk or a gap. ``has_dataset``: the dataset
    was made, and the rings are there. ``is_ending``: its last metadata has been asked for.
    """

    drained: bool = False
    complete: bool = True
    has_dataset: bool = False
    is_ending: bool = False


@dataclass(frozen=True)
class Row:
    """``guard``: the facts that must be so for the row to apply; the others don't matter."""

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
    Row(_S.STARTING, _E.ALLOCATED, _S.STARTING, (_A.MAKE_DATASET,)),
    Row(_S.STARTING, _E.MADE, _S.ACTIVE, (_A.NOTE_ACTIVE, _A.ANSWER_STARTER)),
    Row(_S.STARTING, _E.RESUMED, _S.ACTIVE),
    Row(_S.ACTIVE, _E.CLOSED, _S.DRAINING),
    Row(_S.DRAINING, _E.IDLE, _S.FINALIZING, (_A.FINALIZE,), guard=(("drained", True),)),
    Row(_S.FINALIZING, _E.FINALIZED, _S.DONE, (_A.FINISH_RINGS, _A.SETTLE), guard=(("complete", True),)),
    Row(_S.FINALIZING, _E.FINALIZED, _S.FAILED, (_A.TELL_UNACCOUNTED, _A.SETTLE), guard=(("complete", False),)),
    *(Row(state, _E.FAILS, _S.FAILED, (_A.DROP_JOBS, _A.WAKE_PRODUCERS)) for state in _LIVE),
    Row(_S.FAILED, _E.MADE, _S.FAILED, (_A.UNDO,)),
    Row(_S.FAILED, _E.MAKING_LOST, _S.FAILED, (_A.DROP_JOBS, _A.UNDO)),
    Row(_S.FAILED, _E.IDLE, _S.FAILED, (_A.SETTLE,), guard=(("has_dataset", False),)),
    Row(_S.FAILED, _E.IDLE, _S.FAILED, (_A.FINALIZE,), guard=(("has_dataset", True), ("is_ending", False))),
    # What was to settle it has failed itself.
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
    """The state that follows, and what is to be done then. An event without a row changes nothing."""
    for row in _ROWS[state, event]:
        if row.applies(facts):
            return row.to, row.actions
    return state, ()
