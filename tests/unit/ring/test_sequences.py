"""Which frame is in which slot, held against a plain list."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omewd.errors import OmewdError
from omewd.ring.sequences import SequenceMap


class Model:
    """Every slot ever published, in a list; slots that were given back may not be looked at."""

    def __init__(self) -> None:
        self.map = SequenceMap()
        self.frames: list[int] = []
        self.next_frame = 0
        self.released = 0
        self.forgotten_below = 0

    def index_of(self, sequence: int) -> int:
        assert self.released <= sequence < len(self.frames), "looked into a slot that holds no frame"
        return self.frames[sequence]

    def publish(self, count: int) -> None:
        self.frames += range(self.next_frame, self.next_frame + count)
        self.next_frame += count

    def skip(self, count: int) -> None:
        self.next_frame += count

    def update(self) -> None:
        self.map.update(len(self.frames), self.index_of)

    def release_below(self, frame: int) -> None:
        frame = max(frame, self.forgotten_below)
        self.released = self.map.released_below(frame)
        self.map.forget_below(self.released)
        self.forgotten_below = frame

    def check(self, start: int, length: int) -> None:
        taken = self.frames[: self.map.published]
        assert self.map.frontier == (taken[-1] + 1 if taken else 0)
        start, stop = max(start, self.forgotten_below), max(start, self.forgotten_below) + length
        assert self.map.released_below(start) == sum(frame < start for frame in taken)
        inside = [(frame, sequence) for sequence, frame in enumerate(taken) if start <= frame < stop]
        pieces = list(self.map.pieces(start, stop))
        assert all(piece.count > 0 for piece in pieces)
        assert [(p.frame + i, p.sequence + i) for p in pieces for i in range(p.count)] == inside
        gaps = list(self.map.gaps(start, stop))
        held = {frame for frame, _ in inside}
        assert [f + i for f, count in gaps for i in range(count)] == [f for f in range(start, stop) if f not in held]
        ends = [(first, first + count) for first, count in gaps]
        assert all(count > 0 for _, count in gaps)
        assert all(end < first for (_, end), (first, _) in itertools.pairwise(ends)), "gaps that touch are one"


steps = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 7)),
    st.tuples(st.just("skip"), st.integers(1, 4)),
    st.tuples(st.just("update"), st.just(0)),
    st.tuples(st.just("release"), st.integers(0, 60)),
)


@given(
    st.lists(steps, max_size=40), st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), min_size=1, max_size=5)
)
def test_the_map_knows_what_a_list_of_all_slots_knows(
    history: list[tuple[str, int]], ranges: list[tuple[int, int]]
) -> None:
    model = Model()
    for step, number in history:
        match step:
            case "publish":
                model.publish(number)
            case "skip":
                model.skip(number)
            case "update":
                model.update()
            case "release":
                model.release_below(min(number, model.map.frontier))
        for start, length in ranges:
            model.check(start, length)
    model.update()
    for start, length in ranges:
        model.check(start, length)


def test_without_gaps_one_look_is_enough_however_many_frames() -> None:
    looks: list[int] = []

    def index_of(sequence: int) -> int:
        looks.append(sequence)
        return sequence

    sequences = SequenceMap()
    sequences.update(10**9, index_of)
    assert len(looks) == 1
    assert sequences.frontier == 10**9


def test_a_gap_is_found_without_looking_at_every_slot() -> None:
    looks: list[int] = []

    def index_of(sequence: int) -> int:
        looks.append(sequence)
        return sequence + (5 if sequence >= 777_777 else 0)

    sequences = SequenceMap()
    sequences.update(10**6, index_of)
    assert len(looks) < 50
    assert list(sequences.gaps(0, sequences.frontier)) == [(777_777, 5)]


def test_what_is_forgotten_takes_no_memory() -> None:
    model = Model()
    for _ in range(100):
        model.publish(1)
        model.skip(1)
        model.update()
        model.release_below(model.next_frame - 1)
    assert len(list(model.map.pieces(0, model.next_frame))) <= 1


@pytest.mark.parametrize("indexes", [[0, 0], [5, 3], [0, 1, 1], [2, 3, 0], [7, 8, 9, 4]])
def test_indexes_that_do_not_grow_are_refused(indexes: list[int]) -> None:
    with pytest.raises(OmewdError, match="must grow") as error:
        SequenceMap().update(len(indexes), indexes.__getitem__)
    assert error.value.code == "bad_ring"


def test_an_index_that_falls_between_two_updates_is_refused() -> None:
    sequences = SequenceMap()
    sequences.update(3, [4, 5, 6].__getitem__)
    with pytest.raises(OmewdError, match="must grow"):
        sequences.update(4, [4, 5, 6, 6].__getitem__)
