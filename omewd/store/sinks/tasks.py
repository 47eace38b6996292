"""Tasks in thread pools, which belong together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec

from omewd.store.stopwatch import Stopwatch

P = ParamSpec("P")


class Tasks:
    """Tasks that may submit further ones, and are waited for together. ``clock``: gets the times of their stages."""

    def __init__(self, clock: Stopwatch) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._left = 0
        self._error: BaseException | None = None

    def submit(self, pool: ThreadPoolExecutor, do: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Let a thread of a pool do something."""
        with self._changed:
            self._left += 1
        # If this raises, for want of a thread, the task is in the pool's queue all the same, and counts.
        pool.submit(self._run, self._clock.carried(partial(do, *args, **kwargs)))

    def _run(self, do: Callable[[], object]) -> None:
        try:
            do()
        except BaseException as error:  # noqa: BLE001  it is raised where the tasks are waited for
            with self._changed:
                self._error = self._error or error
        finally:
            with self._changed:
                self._left -= 1
                if not self._left:
                    self._changed.notify_all()

    @property
    def are_done(self) -> bool:
        return not self._left

    def settle(self) -> None:
        """Wait until no task is left, whether they failed or not."""
        with self._changed:
            self._changed.wait_for(lambda: not self._left)

    def give_up(self) -> None:
        """Wait until no task is left, and drop their errors, whose tracebacks hold what the tasks worked on."""
        self.settle()
        self._error = None

    def wait(self) -> None:
        """Wait until no task is left; raises the first error, once."""
        self.settle()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                error = None  # breaks a cycle: its traceback holds this frame
