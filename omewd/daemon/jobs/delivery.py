"""Delivers jobs to writers, after the streams and rings that a writer needs first."""

from __future__ import annotations

from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.of_stream import documents_of, stream_to_open
from omewd.daemon.processes.supervisor import Supervisor, Writer
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.protocol.jobs.datasets import CreateDataset
from omewd.protocol.jobs.job import Job, Opened, StreamJob, job_message
from omewd.protocol.status import WriterStatus


class Delivery:
    """Carries out what the dispatcher decides. Streams submit their jobs other than write units here."""

    def __init__(self, dispatcher: Dispatcher, supervisor: Supervisor, streams: Streams) -> None:
        self._dispatcher, self._supervisor, self._streams = dispatcher, supervisor, streams

    @property
    def is_broken(self) -> bool:
        """Whether no writer lives and none can be started."""
        return self._supervisor.broken

    @property
    def backends(self) -> dict[str, str | None]:
        """For each backend, why the writers can't use it, or None if they can."""
        return self._supervisor.backends

    def writers_status(self) -> tuple[WriterStatus, ...]:
        return tuple(
            WriterStatus(w.id, w.process.pid, w.ready, self._dispatcher.jobs_of(w.id), w.aside)
            for w in self._supervisor.writers.values()
            if not w.leaving
        )

    # -- jobs of a stream ----------------------------------------------------------------------

    def submit(self, stream: Stream, job: Job) -> None:
        self._dispatcher.submit(job, stream.owner, documents_of(stream))

    def is_busy(self, stream: Stream) -> bool:
        """Whether the stream has waiting or running jobs."""
        return self._dispatcher.is_busy(stream.owner)

    def drop(self, stream: Stream) -> None:
        """Drop the waiting jobs of a stream, and stop the writer that is creating its dataset.

        The writer is only stopped if it is the one for long jobs: creating many images takes long.
        """
        making = self._supervisor.writers.get(self._dispatcher.child_at(stream.owner, CreateDataset) or 0)
        if making is not None and making.aside and not making.killed_for:
            self._supervisor.kill(making, f"stream {stream.name} was given up while its dataset was being created")
        self._dispatcher.forget(stream.owner)

    # -- giving them to writers ----------------------------------------------------------------

    def give_jobs(self, now_ns: int) -> None:
        """Hand out the jobs that can be done now."""
        writers = self._supervisor.writers.values()
        ready = [w.id for w in writers if w.ready and not w.killed_for and not w.aside]
        aside = self._supervisor.aside
        long = aside.id if aside is not None and aside.ready and not aside.killed_for else None
        giving = [stream for stream in self._streams.open.values() if stream.gives_jobs]
        offers = [(stream.owner, source) for stream in giving for source in stream.sources]
        for lease in self._dispatcher.assign(ready, offers, now_ns, long):
            writer, task = self._supervisor.writers[lease.child], lease.task
            try:
                if isinstance(task.job, StreamJob) and (stream := self._streams.open.get(task.job.stream)):
                    self._introduce(writer, stream, task.job.needs.opened)
                self._supervisor.tell(writer, job_message(lease.id, task.job), attachment=task.job.attachment)
            except OmewdError as error:  # too large for a message
                self._dispatcher.finish(lease.id, now_ns)
                task.owner.job_failed(task, error, now_ns)

    def introduce(self, stream: Stream) -> None:
        """Tell idle writers of a stream early, so that its first job does not have to wait for that."""
        for writer in self._supervisor.writers.values():
            if writer.ready and not writer.aside and not self._dispatcher.jobs_of(writer.id):
                self._introduce(writer, stream, Opened.RINGS)

    def _introduce(self, writer: Writer, stream: Stream, opened: Opened) -> None:
        """Tell a writer of a stream, and give it the rings if it needs them, each once."""
        if opened is not Opened.NOTHING and writer.learns_of(stream.id):
            to_open = stream_to_open(stream)
            self._supervisor.tell(writer, {"do": "open", "stream": to_open.to_json()}, attachment=to_open.attachment)
        if opened is Opened.RINGS and writer.takes_rings(stream.id):
            for number, ring in enumerate(stream.rings):
                message = {"do": "ring", "stream": stream.id, "source": number}
                self._supervisor.tell(writer, message, (ring.descriptor,))

    def close(self, stream: Stream) -> None:
        """Tell the writers that a stream has ended."""
        for writer in self._supervisor.writers.values():
            if writer.forgets(stream.id):
                self._supervisor.tell(writer, {"do": "close", "stream": stream.id})
