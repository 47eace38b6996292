"""The copies of datasets that are to be made: gives out their jobs, during the stream and after it, for as long as it
takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.datasets.copy import CopyPhase, DatasetCopy
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.tasks import Task
from omewd.errors import OmewdError
from omewd.protocol.jobs.copies import Confirmed, CopyDataset, CopyUnits
from omewd.protocol.jobs.job import Result

log = structlog.get_logger("copies")

_KEPT_ENDED = 64


class Copies:
    """All copies: those that are not over, and the last ones that are.

    Copies are made in the background: see :meth:`listen`.
    """

    def __init__(self, dispatcher: Dispatcher, server: ControlServer) -> None:
        self._dispatcher, self._server = dispatcher, server
        self._going: dict[int, DatasetCopy] = {}
        self._ended: dict[int, DatasetCopy] = {}
        self._waiting: dict[int, list[Peer]] = {}
        self._next_ns: int | None = None
        self._has_news = False
        self._changed: list[Callable[[DatasetCopy], None]] = []
        self._over: list[Callable[[DatasetCopy], None]] = []

    def listen(
        self,
        *,
        changed: Callable[[DatasetCopy], None] | None = None,
        over: Callable[[DatasetCopy], None] | None = None,
    ) -> None:
        """``changed``: called when more of a copy is confirmed, or an error comes or goes. ``over``: at its end."""
        self._changed += [changed] if changed is not None else []
        self._over += [over] if over is not None else []

    def note_change(self, copy: DatasetCopy) -> None:
        """Note that more of a copy is confirmed, or that an error has come or gone."""
        for tell in self._changed:
            tell(copy)

    # -- looking up ----------------------------------------------------------------------------

    @property
    def all(self) -> tuple[DatasetCopy, ...]:
        """Those that are not over, then the last ones that are, latest first."""
        return (*self._going.values(), *reversed(self._ended.values()))

    @property
    def going(self) -> int:
        """How many are being made, and do not wait after an error."""
        return sum(copy.phase is CopyPhase.COPYING for copy in self._going.values())

    def named(self, name: object) -> DatasetCopy | None:
        """The copy of the stream with this name; of several, the newest that is not over."""
        return next((copy for copy in reversed(self._going.values()) if copy.name == name), None) or next(
            (copy for copy in reversed(self._ended.values()) if copy.name == name), None
        )

    @property
    def next_ns(self) -> int | None:
        """When :meth:`step` has something to do; None while it has not."""
        return 0 if self._has_news else self._next_ns

    # -- the life of a copy --------------------------------------------------------------------

    def add(self, copy: DatasetCopy) -> None:
        """Make a copy, whose stream has begun or has ended."""
        if not copy.is_over:
            self._ended.pop(copy.epoch, None)
            self._going[copy.epoch] = copy
            self._has_news = True

    def note_sealed(self, copy: DatasetCopy, source: int, units: int) -> None:
        """Note that the files of a source's first ``units`` units are in their places."""
        self._has_news |= copy.note_sealed(source, units)

    def end(self, copy: DatasetCopy) -> None:
        """Copy the rest, because the stream has ended."""
        self.add(copy)
        copy.end()
        if copy.task is not None and isinstance(copy.task.job, CopyUnits):
            owner = copy.task.owner
            self._dispatcher.forget(owner)
            if not self._dispatcher.is_busy(owner):  # no child knows of the stream any more
                copy.withdrawn()

    def drop(self, copy: DatasetCopy) -> None:
        """Forget a copy, because its stream never started."""
        self._going.pop(copy.epoch, None)
        for peer in self._waiting.pop(copy.epoch, []):
            self._server.reply_error(peer, OmewdError("no_copy", f"stream {copy.name!r} did not start"))

    def step(self, now_ns: int) -> None:
        """Submit the jobs that are due."""
        if (next_ns := self.next_ns) is None or now_ns < next_ns:
            return
        for copy in self._going.values():
            if (job := copy.due(now_ns)) is not None:
                owner = _Owner(self, copy)
                copy.submitted(self._dispatcher.submit(job, owner, on_progress=owner.progress), now_ns)
        self._has_news = False
        self._next_ns = min((copy.not_before_ns for copy in self._going.values() if copy.has_work), default=None)

    def done(self, copy: DatasetCopy, job: CopyUnits | CopyDataset, result: Confirmed) -> None:
        was_waiting = copy.error is not None
        copy.done(job, result)
        if copy.phase is CopyPhase.COMPLETE:
            told = {"missing": list(copy.missing)} if copy.missing else {}
            log.info("copy complete", stream=copy.name, url=copy.url, files=copy.files, bytes=copy.bytes, **told)
            self._is_over(copy)
        elif was_waiting:
            log.info("the copy goes on", stream=copy.name, url=copy.url)
        self._has_news = True
        self.note_change(copy)

    def failed(self, copy: DatasetCopy, error: OmewdError, now_ns: int) -> None:
        was_waiting = copy.error is not None and copy.error.code == error.code
        copy.failed(error, now_ns)
        if copy.phase is CopyPhase.FAILED:
            log.error("copy failed", stream=copy.name, dataset=str(copy.path), url=copy.url, **error.to_dict())
            self._is_over(copy)
        elif not was_waiting:
            log.warning("a copy waits: it is tried again", stream=copy.name, url=copy.url, **error.to_dict())
        self._has_news = True
        self.note_change(copy)

    def _is_over(self, copy: DatasetCopy) -> None:
        self._going.pop(copy.epoch, None)
        self._ended[copy.epoch] = copy
        if len(self._ended) > _KEPT_ENDED:
            del self._ended[next(iter(self._ended))]
        for peer in self._waiting.pop(copy.epoch, []):
            self._answer(peer, copy)
        for tell in self._over:
            tell(copy)

    # -- clients -------------------------------------------------------------------------------

    def when_over(self, peer: Peer, copy: DatasetCopy) -> None:
        """Reply once a copy is complete or has failed."""
        if copy.is_over:
            self._answer(peer, copy)
        elif peer not in (waiting := self._waiting.setdefault(copy.epoch, [])):
            waiting.append(peer)

    def _answer(self, peer: Peer, copy: DatasetCopy) -> None:
        if (error := copy.failure) is not None:
            self._server.reply_error(peer, error)
        else:
            self._server.reply(peer, copy.status().to_json())

    def forget(self, peer: Peer) -> None:
        """Forget the pending replies of a client that is gone."""
        for epoch, waiting in self._waiting.items():
            self._waiting[epoch] = [each for each in waiting if each is not peer]


@dataclass(eq=False)
class _Owner:
    """The owner of a copy's job."""

    copies: Copies
    copy: DatasetCopy
    waits_for_space: bool = False

    def progress(self, progress: Result) -> None:
        assert isinstance(progress, Confirmed)
        if self.copy.goes(progress):
            self.copies.note_change(self.copy)

    def job_done(self, task: Task, result: Result, _now_ns: int) -> None:
        assert isinstance(task.job, CopyUnits | CopyDataset)
        assert isinstance(result, Confirmed)
        self.copies.done(self.copy, task.job, result)

    def job_put_back(self, _task: Task, _error: OmewdError, _now_ns: int) -> None:
        self.copy.put_back()

    def job_failed(self, _task: Task, error: OmewdError, now_ns: int) -> None:
        self.copies.failed(self.copy, error, now_ns)
