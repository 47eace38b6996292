"""Bringing jobs to writers, with the streams and the rings that a writer has to know of first."""

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
    """Does what the dispatcher has decided. Streams submit the jobs here that are no write units."""

    def __init__(self, dispatcher: Dispatcher, supervisor: Supervisor, streams: Streams) -> None:
        self._dispatcher, self._supervisor, self._streams = dispatcher, supervisor, streams

    @property
    def is_broken(self) -> bool:
        """No writer lives, and none can be started."""
        return self._supervisor.broken

    @property
    def backends(self) -> dict[str, str | None]:
        """Which backends the writers can use: None, or why not."""
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
        """Whether a writer is at a job of that stream, or one waits."""
        return self._dispatcher.is_busy(stream.owner)

    def drop(self, stream: Stream) -> None:
        """Take back the jobs of a stream that wait; stop the writer that makes its dataset.

        The writer is stopped where that is one aside: of many images, making the dataset takes long.
        """
        making = self._supervisor.writers.get(self._dispatcher.child_at(stream.owner, CreateDataset) or 0)
        if making is not None and making.aside and not making.killed_for:
            self._supervisor.kill(making, f"stream {stream.name} was given up while its dataset was made")
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
            except OmewdError as error:  # it does not fit in a message
                self._dispatcher.finish(lease.id, now_ns)
                task.owner.job_failed(task, error, now_ns)

    def introduce(self, stream: Stream) -> None:
        """Tell the writers that have nothing to do of a stream, so that its first job need not wait for that."""
        for writer in self._supervisor.writers.values():
            if writer.ready and not writer.aside and not self._dispatcher.jobs_of(writer.id):
                self._introduce(writer, stream, Opened.RINGS)

    def _introduce(self, writer: Writer, stream: Stream, opened: Opened) -> None:
        """Tell a writer of a stream, and give it the rings if it needs them; each once."""
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
