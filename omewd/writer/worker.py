"""The front of a writer: it takes the daemon's messages, and begins jobs. The back ends them and answers.

For write units, the front finds the frames and puts their units into the sink, whose threads encode and write them.
Then it takes the next job, which the daemon has queued in the socket, while the back makes those units durable.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from omewd.errors import OmewdError
from omewd.process.profiling import profiled
from omewd.protocol.descriptors import close_all
from omewd.protocol.jobs.frames import WriteUnits
from omewd.protocol.jobs.job import Result, StreamJob, job_of, ready_message
from omewd.protocol.jobs.values import prepare
from omewd.protocol.messages import Message, receive, send
from omewd.store import encoders as backends
from omewd.store.tools import Tools
from omewd.writer.back import Back
from omewd.writer.handlers.table import HANDLERS, KINDS, STREAM_HANDLERS
from omewd.writer.open_stream import OpenStream
from omewd.writer.open_streams import OpenStreams
from omewd.writer.prefault import Prefault
from omewd.writer.write_units import UnitsInFlight, put_units


class Worker:
    """Serves the daemon at the other end of ``channel`` until the daemon closes it."""

    def __init__(self, channel: socket.socket, *, threads: int, scratch: Path) -> None:
        self._channel = channel
        self._tools = Tools(threads, scratch)
        self._prefault = Prefault()
        self._streams = OpenStreams(self._tools, self._prefault, self._retire)

    def run(self) -> None:
        send(self._channel, ready_message(backends.availability()))
        backends.preload()
        prepare()
        with profiled("writer", threads=True):
            self._back = Back(self._channel, self._tools)
            try:
                while (received := receive(self._channel)) is not None:
                    message, descriptors = received
                    self._handle(message, descriptors)
            finally:
                self._streams.close_all()
                self._back.end()

    def _handle(self, message: Message, descriptors: list[int]) -> None:
        match message["do"]:
            case "job":
                self._back.take(message["lease"], self._begin(message))
            case "open":
                self._streams.open(message["stream"], message.get("attachment", b""))
            case "ring":
                self._streams.add_ring(message["stream"], message["source"], descriptors[0])
            case "close":
                self._streams.close(message["stream"])
            case other:
                close_all(descriptors)
                raise OmewdError("bad_message", f"a writer has no request {other!r}")

    def _begin(self, message: Message) -> UnitsInFlight | Callable[[], Result]:
        """Begin a job; returns what is left of it. An error is raised there, so that answers keep their order."""
        try:
            job = job_of(message, KINDS)
            if not isinstance(job, StreamJob):
                return partial(HANDLERS[type(job)], job)
            stream = self._streams.get(job.stream)
            if isinstance(job, WriteUnits):
                return put_units(job, stream, self._tools)
            return partial(STREAM_HANDLERS[type(job)], job, stream)
        except Exception as error:  # noqa: BLE001  libraries may raise anything; the daemon decides what follows
            return partial(_fail, error)

    def _retire(self, stream: OpenStream) -> None:
        self._back.call(stream.close)

    def close(self) -> None:
        self._prefault.end()
        self._tools.close()


def _fail(error: Exception) -> Result:
    raise error


def serve(channel: socket.socket, *, threads: int, scratch: Path) -> None:
    """Run a worker until the daemon closes the channel, then remove the scratch folder."""
    worker = Worker(channel, threads=threads, scratch=scratch)
    try:
        worker.run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the daemon is gone; the next one runs the jobs again
    finally:
        worker.close()
        if scratch.exists():
            os.rmdir(scratch)  # noqa: PTH106
