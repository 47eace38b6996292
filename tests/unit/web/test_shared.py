"""Things that several requests share: each is opened once, and closed once nobody has it."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack

import pytest

from omewd.web.shared import Shared


class Thing:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_it_is_opened_once_and_closed_when_it_is_pushed_out() -> None:
    shared: Shared[Thing] = Shared(2)
    with shared.use("a", Thing) as first:
        pass
    with shared.use("a", Thing) as again:
        assert again is first
    for key in "bc":
        with shared.use(key, Thing):
            pass
    assert first.closed == 1
    with shared.use("a", Thing) as another:
        assert another is not first
    shared.close()
    assert another.closed == 1


def test_it_is_not_closed_under_who_uses_it() -> None:
    shared: Shared[Thing] = Shared(1)
    with shared.use("a", Thing) as thing:
        with shared.use("b", Thing):
            pass
        shared.forget("a")
        shared.close()
        assert thing.closed == 0
    assert thing.closed == 1


def test_one_that_is_forgotten_is_opened_anew() -> None:
    shared: Shared[Thing] = Shared(4)
    with shared.use("a", Thing) as thing:
        pass
    shared.forget("a")
    shared.forget("a")
    assert thing.closed == 1
    with shared.use("a", Thing) as another:
        assert another is not thing
    shared.close()


def test_an_error_of_opening_is_passed_on() -> None:
    def fail() -> Thing:
        raise OSError("no")

    shared: Shared[Thing] = Shared(1)
    with pytest.raises(OSError, match="no"), shared.use("a", fail):
        pass
    shared.close()


def test_one_that_is_forgotten_just_as_its_last_user_leaves_is_closed_once() -> None:
    shared: Shared[Thing] = Shared(1)
    using = ExitStack()
    thing = using.enter_context(shared.use("a", Thing))
    lock = shared._lock

    class Lock:
        """Lets the last user leave as soon as anybody else gives the lock back."""

        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()
            using.pop_all().close()

    shared._lock = Lock()  # type: ignore[assignment]
    shared.forget("a")
    assert thing.closed == 1


def test_only_some_are_kept() -> None:
    shared: Shared[Thing] = Shared(4)
    things = {}
    for key in "abc":
        with shared.use(key, Thing) as things[key]:
            pass
    shared.keep_only({"b"})
    assert {key: thing.closed for key, thing in things.items()} == {"a": 1, "b": 0, "c": 1}
    shared.close()


def test_many_threads() -> None:
    shared: Shared[Thing] = Shared(3)
    made: list[Thing] = []

    def make() -> Thing:
        made.append(Thing())
        return made[-1]

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(500):
            key = rng.randrange(6)
            with shared.use(key, make) as thing:
                assert not thing.closed
                if rng.random() < 0.1:
                    shared.forget(key)
                assert not thing.closed

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared.close()
    assert {thing.closed for thing in made} == {1}
