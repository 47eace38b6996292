"""The back of a writer: the thread that ends jobs, in the order in which they came, and answers.

It makes the units durable that the front has put, as many jobs together as are written by then. It does all other jobs
whole, so they come after the write jobs before them, while the front goes on with the next ones.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from omewd.errors import OmewdError
from omewd.process.faultpoints import point
from omewd.process.outcome import error_of, text_of
from omewd.protocol.jobs.job import Result, done_message, failed_message
from omewd.protocol.messages import send
from omewd.store.tools import Tools
from omewd.writer.write_units import UnitsInFlight, commit_units


@dataclass(frozen=True)
class _Job:
    """``work``: what is left to do of it."""

    lease: int
    work: UnitsInFlight | Callable[[], Result]


class Back:
    """The thread, and the queue of what it has to do. The front calls the methods."""

    def __init__(self, channel: socket.socket, tools: Tools) -> None:
        self._channel, self._tools = channel, tools
        self._queue: deque[_Job | Callable[[], None] | None] = deque()
        self._added = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="back")
        self._thread.start()

    def take(self, lease: int, work: UnitsInFlight | Callable[[], Result]) -> None:
        """End a job after those before it, and answer. An error that ``work`` raises is the answer, too."""
        self._add(_Job(lease, work))

    def call(self, do: Callable[[], None]) -> None:
        """Do something after the jobs before it."""
        self._add(do)

    def end(self) -> None:
        """Wait until all is done. Raises what has ended the thread early, such as the error of a closed channel."""
        self._add(None)
        self._thread.join()
        for item in self._queue:  # what it has left
            if item is not None and not isinstance(item, _Job):
                item()
        if self._error is not None:
            raise self._error

    def _add(self, item: _Job | Callable[[], None] | None) -> None:
        with self._added:
            self._queue.append(item)
            self._added.notify()

    # -- in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except BaseException as error:  # noqa: BLE001  the front raises it
            self._error = error
            with contextlib.suppress(OSError):  # so that the front hears of it
                self._channel.shutdown(socket.SHUT_RDWR)

    def _step(self) -> bool:
        """Do the next thing in the queue, or several jobs together; returns False at the end."""
        with self._added:
            self._added.wait_for(lambda: self._queue)
            item = self._queue.popleft()
        if item is None:
            return False
        if not isinstance(item, _Job):
            item()
        elif isinstance(item.work, UnitsInFlight):
            self._commit(item.lease, item.work)
        else:
            self._answer(item.lease, _outcome(item.work))
        return True

    def _commit(self, lease: int, first: UnitsInFlight) -> None:
        """Commit a job's units together with those of the next jobs that are written already."""
        first.settle()
        leases, jobs = [lease], [first]
        with self._added:
            while self._queue:
                item = self._queue[0]
                if not isinstance(item, _Job) or not isinstance(item.work, UnitsInFlight) or not item.work.is_written:
                    break
                self._queue.popleft()
                leases.append(item.lease)
                jobs.append(item.work)
        for lease, outcome in zip(leases, commit_units(jobs, self._tools), strict=True):
            self._answer(lease, outcome)

    def _answer(self, lease: int, outcome: Result | Exception) -> None:
        if isinstance(outcome, Exception):
            error = error_of(outcome) or OmewdError("backend_error", text_of(outcome))
            send(self._channel, failed_message(lease, error))
        else:
            send(self._channel, done_message(lease, outcome))
            point("writer: reported")


def _outcome(work: Callable[[], Result]) -> Result | Exception:
    try:
        return work()
    except Exception as error:  # noqa: BLE001  libraries may raise anything; the daemon decides what follows
        return error
