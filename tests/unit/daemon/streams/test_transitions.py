"""The table of a stream's states: every state with every event, whatever the facts are."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields

import pytest

from omewd.daemon.streams import transitions
from omewd.daemon.streams.transitions import TABLE, Action, Event, Facts, Start, State, decide

ALL_FACTS = [
    Facts(**dict(zip((field.name for field in fields(Facts)), values, strict=True)))
    for values in itertools.product([False, True], repeat=len(fields(Facts)))
]
PAIRS = list(itertools.product(State, Event))
LIVE = [State.STARTING, State.ACTIVE, State.DRAINING, State.FINALIZING]
# What may happen in a state and change nothing, with the reason. Every other pair has a row.
IGNORED: dict[tuple[State, Event], str] = {
    **{(state, Event.RECORDED): "that was for the start" for state in [*LIVE[1:], State.DONE]},
    **{(state, Event.PLACED): "a place is found once" for state in State if state is not State.STARTING},
    **{(state, Event.NOTED): "a stream starts once" for state in [*LIVE[1:], State.DONE]},
    **{(state, Event.ALLOCATED): "rings are allocated once" for state in State if state is not State.STARTING},
    **{(state, Event.MADE): "a dataset is made once" for state in LIVE[1:]},
    (State.DONE, Event.MADE): "a dataset is made once",
    **{(state, Event.NOT_MADE): "the job is done by another writer" for state in [*LIVE, State.DONE]},
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
        (Event.RECORDED, Facts(on_record=True), State.STARTING),
        (Event.PLACED, Facts(on_record=True, placed=True), State.STARTING),
        (Event.ALLOCATED, Facts(allocated=True), State.STARTING),
        (Event.MADE, Facts(allocated=True, made=True), State.STARTING),
        (Event.NOTED, Facts(allocated=True, made=True), State.ACTIVE),
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
        Action.INTRODUCE,
        Action.NOTE_ACTIVE,
        Action.ANSWER_STARTER,
        Action.FINALIZE,
        Action.FINISH_RINGS,
        Action.SETTLE,
    ]


class Starting:
    """A stream that starts: it does what follows from its steps, of which each ends when ``end`` says so."""

    def __init__(self) -> None:
        self.state, self.has_memory = State.STARTING, False
        self.start = Start(self.take)
        self.done: list[Action] = []
        self.running = ["recorded", "placed"]

    def take(self, event: Event) -> tuple[Action, ...]:
        facts = Facts(allocated=self.has_memory, **self.start.facts)
        self.state, actions = decide(self.state, event, facts)
        self.done += actions
        return actions

    def end(self, step: str) -> None:
        self.running.remove(step)
        if step == "allocated":
            self.has_memory = True
            actions = self.take(Event.ALLOCATED)
        else:
            actions = getattr(self.start, step)()
        if step == "placed":
            self.running.append("allocated")
        follows = {Action.MAKE_DATASET: "made", Action.NOTE_ACTIVE: "noted", Action.NOTE_STARTING: "recorded"}
        for action in actions:
            if action in (Action.NOTE_ACTIVE, Action.NOTE_STARTING):
                self.start.noting()
            if action in follows:
                self.running.append(follows[action])

    def fail(self) -> None:
        """An error, or somebody stops it. No more memory is allocated then."""
        self.take(Event.FAILS)
        self.running = [step for step in self.running if step != "allocated"]


def orders(ended: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All orders in which the steps of a start may end."""
    stream = after(ended)
    if not stream.running:
        yield ended
    for step in stream.running:
        yield from orders((*ended, step))


def after(steps: Sequence[str]) -> Starting:
    stream = Starting()
    for step in steps:
        stream.end(step)
    return stream


ORDERS = list(orders())


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_a_start_makes_the_dataset_beside_the_rings_and_takes_frames_once_that_is_on_record(
    order: tuple[str, ...],
) -> None:
    stream = Starting()
    for place, step in enumerate(order):
        assert (Action.MAKE_DATASET in stream.done) == ({"recorded", "placed"} <= set(order[:place]))
        assert (Action.NOTE_ACTIVE in stream.done) == ({"allocated", "made"} <= set(order[:place]))
        assert stream.state is State.STARTING
        stream.end(step)
    assert stream.state is State.ACTIVE
    assert stream.start.is_over
    assert Counter(stream.done) == Counter(
        [Action.MAKE_DATASET, Action.INTRODUCE, Action.NOTE_ACTIVE, Action.ANSWER_STARTER]
    )
    assert any("made" in order[: order.index("allocated")] for order in ORDERS)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_a_start_that_fails_anywhere_removes_its_dataset_once_and_only_then_ends(order: tuple[str, ...]) -> None:
    for length in range(len(order)):
        stream = after(order[:length])
        stream.fail()
        while stream.running:
            assert Action.ANSWER_STARTER not in stream.done
            stream.end(stream.running[0])
        assert (stream.state, stream.start.is_over) == (State.FAILED, False)
        assert stream.done.count(Action.UNDO) == (Action.MAKE_DATASET in stream.done)
        if Action.NOTE_ACTIVE in stream.done:  # otherwise the next daemon would go on with it
            assert stream.done.index(Action.NOTE_STARTING) < stream.done.index(Action.UNDO)
        assert not stream.start.is_noting
        assert stream.take(Event.IDLE) == (Action.SETTLE,)


def test_frames_that_are_unaccounted_for_are_no_success() -> None:
    state, actions = decide(State.FINALIZING, Event.FINALIZED, Facts(complete=False, has_dataset=True))
    assert (state, actions) == (State.FAILED, (Action.TELL_UNACCOUNTED, Action.SETTLE))
