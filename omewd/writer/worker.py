"""The writer's loop: it takes a job, runs it and answers, one job at a time."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from omewd.errors import OmewdError
from omewd.process.faultpoints import point
from omewd.process.profiling import profiled
from omewd.protocol.jobs.job import done_message, failed_message, job_of, ready_message
from omewd.protocol.jobs.values import prepare
from omewd.protocol.messages import Message, close_all, receive, send
from omewd.store import encoders as backends
from omewd.writer.handlers.table import HANDLERS, KINDS
from omewd.writer.open_streams import OpenStreams


class Worker:
    """Serves the daemon at the other end of ``channel`` until the daemon closes it."""

    def __init__(self, channel: socket.socket, *, threads: int, scratch: Path) -> None:
        self._channel = channel
        self._streams = OpenStreams(threads, scratch)

    def run(self) -> None:
        send(self._channel, ready_message(backends.availability()))
        backends.preload()
        prepare()
        with profiled("writer", threads=True):
            while (received := receive(self._channel)) is not None:
                message, descriptors = received
                self._handle(message, descriptors)

    def _handle(self, message: Message, descriptors: list[int]) -> None:
        match message["do"]:
            case "job":
                self._run(message)
            case "open":
                self._streams.open(message["stream"], message.get("attachment", b""))
            case "ring":
                self._streams.add_ring(message["stream"], message["source"], descriptors[0])
            case "close":
                self._streams.close(message["stream"])
            case other:
                close_all(descriptors)
                raise OmewdError("bad_message", f"a writer has no request {other!r}")

    def _run(self, message: Message) -> None:
        lease = message["lease"]
        try:
            job = job_of(message, KINDS)
            result = HANDLERS[type(job)](job, self._streams)
        except OmewdError as error:
            send(self._channel, failed_message(lease, error))
        except OSError as error:
            send(self._channel, failed_message(lease, _disk_error(error)))
        except Exception as error:  # noqa: BLE001  libraries may raise anything; the daemon decides what follows
            wrapped = OmewdError("backend_error", f"{type(error).__name__}: {error}"[:2000])
            send(self._channel, failed_message(lease, wrapped))
        else:
            send(self._channel, done_message(lease, result))
            point("writer: reported")

    def close(self) -> None:
        self._streams.close_all()


def _disk_error(error: OSError) -> OmewdError:
    where = f" ({error.filename})" if error.filename else ""
    text = f"{error.strerror or error}{where}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OmewdError("disk_full", f"the disk is full: {text}", "Free space on the drive of the dataset")
    return OmewdError("disk_error", f"writing failed: {text} [{errno.errorcode.get(error.errno or 0, '?')}]")


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
