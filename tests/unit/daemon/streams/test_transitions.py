"""The table of a stream's states: every state with every event, whatever the facts are."""

from __future__ import annotations

import itertools
import re
from dataclasses import fields

import pytest

from omewd.daemon.streams import transitions
from omewd.daemon.streams.transitions import TABLE, Action, Event, Facts, State, decide

ALL_FACTS = [
    Facts(**dict(zip((field.name for field in fields(Facts)), values, strict=True)))
    for values in itertools.product([False, True], repeat=len(fields(Facts)))
]
PAIRS = list(itertools.product(State, Event))
LIVE = [State.STARTING, State.ACTIVE, State.DRAINING, State.FINALIZING]
# What may happen in a state and change nothing, with the reason. Every other pair has a row.
IGNORED: dict[tuple[State, Event], str] = {
    **{(state, Event.ALLOCATED): "rings are allocated once" for state in State if state is not State.STARTING},
    **{(state, Event.MADE): "a dataset is made once" for state in LIVE[1:]},
    (State.DONE, Event.MADE): "a dataset is made once",
    **{(state, Event.MAKING_LOST): "the job is done by another writer" for state in [*LIVE, State.DONE]},
    **{(state, Event.CLOSED): "no frames were taken" for state in State if state is not State.ACTIVE},
    **{(state, Event.IDLE): "something else is to happen first" for state in (State.STARTING, State.ACTIVE)},
    (State.FINALIZING, Event.IDLE): "the last metadata has failed, and the stream fails next",
    **{(state, Event.FINALIZED): "nothing was asked for" for state in [*LIVE[:3], State.DONE]},
    **{(state, Event.NOT_FINALIZED): "it fails with the reason instead" for state in [*LIVE, State.DONE]},
    **{(state, Event.FAILS): "it has ended" for state in (State.DONE, State.FAILED)},
    **{(state, Event.RESUMED): "its rings are in use, or gone" for state in [*LIVE[1:], State.DONE]},
}


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=[f"{s.value}-{e.value}" for s, e in PAIRS])
def test_each_event_in_each_state_has_a_row_or_a_reason_to_be_ignored(state: State, event: Event) -> None:
    rows = [row for row in TABLE if (row.state, row.event) == (state, event)]
    assert bool(rows) != ((state, event) in IGNORED)
    for facts in ALL_FACTS:
        applying = [row for row in rows if row.applies(facts)]
        assert len(applying) <= 1, "two rows apply at once"
        if applying:
            assert decide(state, event, facts) == (applying[0].to, applying[0].actions)
        else:
            assert decide(state, event, facts) == (state, ())


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=[f"{s.value}-{e.value}" for s, e in PAIRS])
def test_states_only_follow_each_other_as_they_may(state: State, event: Event) -> None:
    for facts in ALL_FACTS:
        to, actions = decide(state, event, facts)
        if to is not state:
            assert (state, to) in arrows()
        assert len(set(actions)) == len(actions)
        if Action.SETTLE in actions:  # nothing may be done with what is let go
            assert actions[-1] is Action.SETTLE
            assert to in (State.DONE, State.FAILED)
        if event is Event.FAILS and state in LIVE:
            assert to is State.FAILED
        if Action.FINALIZE in actions:
            assert facts.drained or facts.has_dataset
        if to is State.DONE and state is not State.DONE:
            assert facts.complete


def arrows() -> set[tuple[State, State]]:
    """Which state may follow which, as the picture in the module's docstring has it."""
    picture = transitions.__doc__ or ""
    [line] = [line for line in picture.splitlines() if "STARTING ──►" in line]
    chain = [State(name) for name in re.findall(r"[A-Z]+", line)]
    [lower] = [line for line in picture.splitlines() if "└" in line]
    stems = [match.start() for match in re.finditer("[└┴]", lower)]
    failing = {state for state in chain for stem in stems if line.index(state) <= stem < line.index(state) + len(state)}
    assert re.search(r"► FAILED", lower)
    [back] = re.findall(r"FAILED ──► ([A-Z]+)", picture)
    return {
        *itertools.pairwise(chain),
        *((state, State.FAILED) for state in failing),
        (State.FAILED, State(back)),
    }


def test_the_picture_and_the_table_agree() -> None:
    assert {(row.state, row.to) for row in TABLE if row.state is not row.to} == arrows()


def test_every_fact_event_and_action_is_used() -> None:
    assert {row.event for row in TABLE} == set(Event)
    assert {action for row in TABLE for action in row.actions} == set(Action)
    assert {fact for row in TABLE for fact, _ in row.guard} == {field.name for field in fields(Facts)}


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize("has_dataset", [False, True])
def test_whatever_fails_is_settled_in_the_end(state: State, has_dataset: bool) -> None:
    """With last metadata first, if there is a dataset; also if they can't be written."""
    for last in (Event.FINALIZED, Event.NOT_FINALIZED):
        at, actions = decide(state, Event.FAILS, Facts(has_dataset=has_dataset))
        assert (at, actions[0]) == (State.FAILED, Action.DROP_JOBS)
        at, actions = decide(at, Event.IDLE, Facts(has_dataset=has_dataset))
        if has_dataset:
            assert actions == (Action.FINALIZE,)
            at, actions = decide(at, last, Facts(has_dataset=True, is_ending=True))
            assert actions[0] is Action.TELL_LOSS
        assert (at, actions[-1]) == (State.FAILED, Action.SETTLE)


def test_a_stream_that_goes_well_comes_to_its_end() -> None:
    steps = [
        (Event.ALLOCATED, Facts(), State.STARTING),
        (Event.MADE, Facts(), State.ACTIVE),
        (Event.IDLE, Facts(has_dataset=True), State.ACTIVE),
        (Event.CLOSED, Facts(has_dataset=True), State.DRAINING),
        (Event.IDLE, Facts(has_dataset=True), State.DRAINING),
        (Event.IDLE, Facts(has_dataset=True, drained=True), State.FINALIZING),
        (Event.FINALIZED, Facts(has_dataset=True, is_ending=True), State.DONE),
    ]
    state = State.STARTING
    done: list[Action] = []
    for event, facts, then in steps:
        state, actions = decide(state, event, facts)
        assert state is then
        done += actions
    assert done == [
        Action.MAKE_DATASET,
        Action.NOTE_ACTIVE,
        Action.ANSWER_STARTER,
        Action.FINALIZE,
        Action.FINISH_RINGS,
        Action.SETTLE,
    ]


def test_frames_that_are_unaccounted_for_are_no_success() -> None:
    state, actions = decide(State.FINALIZING, Event.FINALIZED, Facts(complete=False, has_dataset=True))
    assert (state, actions) == (State.FAILED, (Action.TELL_UNACCOUNTED, Action.SETTLE))
