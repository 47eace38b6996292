"""Delivers jobs to children, after the streams and rings that a child needs first."""

from __future__ import annotations

from collections.abc import Iterable

from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.of_stream import documents_of, stream_to_open
from omewd.daemon.processes.child import Child
from omewd.daemon.processes.pools import Pools
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.protocol.jobs.datasets import CreateDataset
from omewd.protocol.jobs.frames import WriteUnits
from omewd.protocol.jobs.job import CLEANER, COPIER, MAINTAINER, WRITER, Job, Opened, StreamJob, job_message
from omewd.protocol.status import WriterStatus


class Delivery:
    """Carries out what the dispatcher decides. Streams submit their jobs other than write units here."""

    def __init__(self, dispatcher: Dispatcher, pools: Pools, streams: Streams) -> None:
        self._dispatcher, self._pools, self._streams = dispatcher, pools, streams

    @property
    def is_broken(self) -> bool:
        """Whether no writer lives and none can be started."""
        return self._pools.broken is not None

    @property
    def backends(self) -> dict[str, str | None]:
        """For each backend, why the writers can't use it, or None if they can."""
        return self._pools.of(WRITER).facts

    def writers_status(self) -> tuple[WriterStatus, ...]:
        return self._status_of(WRITER, MAINTAINER, CLEANER)

    def copiers_status(self) -> tuple[WriterStatus, ...]:
        return self._status_of(COPIER)

    def _status_of(self, *roles: str) -> tuple[WriterStatus, ...]:
        return tuple(
            WriterStatus(c.id, c.process.pid, c.ready, self._dispatcher.jobs_of(c.id), c.role.on_demand)
            for c in self._pools
            if c.role.name in roles
        )

    # -- jobs of a stream ----------------------------------------------------------------------

    def submit(self, stream: Stream, job: Job) -> None:
        self._dispatcher.submit(job, stream.owner, documents_of(stream))

    def is_busy(self, stream: Stream) -> bool:
        """Whether the stream has waiting or running jobs."""
        return self._dispatcher.is_busy(stream.owner)

    def offer(self, stream: Stream, sources: Iterable[int]) -> None:
        """Offer the write units of some of a stream's sources, if they have any and may be written now."""
        if stream.gives_jobs:
            for number in sources:
                if (source := stream.sources[number]).has_units:
                    self._dispatcher.offer(stream.owner, source)

    def withdraw(self, stream: Stream) -> None:
        """Offer no more write units of a stream."""
        self._dispatcher.withdraw(stream.owner)

    def drop(self, stream: Stream) -> None:
        """Drop the waiting jobs of a stream, and stop the child that is creating its dataset if that is a long job."""
        making = self._pools.child(self._dispatcher.child_at(stream.owner, CreateDataset))
        if making is not None and making.role.on_demand and not making.killed_for:
            making.kill(f"stream {stream.name} was given up while its dataset was being created")
        self._dispatcher.forget(stream.owner)

    # -- giving them to children ---------------------------------------------------------------

    def give_jobs(self, now_ns: int) -> None:
        """Hand out the jobs that can be done now."""
        for lease in self._dispatcher.assign(self._pools.ready(), now_ns):
            child, task = self._pools.child(lease.child), lease.task
            assert child is not None
            if isinstance(task.job, WriteUnits):
                self._streams.agenda.listen(task.job.stream, task.job.source)
            try:
                if isinstance(task.job, StreamJob) and (stream := self._streams.open.get(task.job.stream)):
                    self._introduce(child, stream, task.job.needs.opened)
                self._pools.tell(child, job_message(lease.id, task.job), attachment=task.job.attachment)
            except OmewdError as error:  # too large for a message
                self._dispatcher.finish(lease.id, now_ns)
                task.owner.job_failed(task, error, now_ns)

    def introduce(self, stream: Stream) -> None:
        """Tell idle writers of a stream early, so that its first job does not have to wait for that."""
        for child in self._pools.of(WRITER).children.values():
            if child.ready and not self._dispatcher.jobs_of(child.id):
                self._introduce(child, stream, Opened.RINGS)

    def _introduce(self, child: Child, stream: Stream, opened: Opened) -> None:
        """Tell a child of a stream, and give it the rings if it needs them, each once."""
        if opened is not Opened.NOTHING and child.learns_of(stream.id):
            to_open = stream_to_open(stream)
            self._pools.tell(child, {"do": "open", "stream": to_open.to_json()}, attachment=to_open.attachment)
        if opened is Opened.RINGS and child.takes_rings(stream.id):
            for number, ring in enumerate(stream.rings):
                message = {"do": "ring", "stream": stream.id, "source": number}
                self._pools.tell(child, message, (ring.descriptor,))

    def close(self, stream: Stream) -> None:
        """Tell the children that a stream has ended."""
        for child in self._pools:
            if child.forgets(stream.id):
                self._pools.tell(child, {"do": "close", "stream": stream.id})
