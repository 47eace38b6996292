"""A copier process: it takes the daemon's messages, does one job at a time, and tells that it goes on meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock

from omewd.copier.copy import copy
from omewd.copier.units import Streams, copy_units
from omewd.errors import OmewdError
from omewd.model.address import Address
from omewd.process.outcome import error_of, text_of
from omewd.process.profiling import profiled
from omewd.protocol.descriptors import close_all
from omewd.protocol.jobs.copies import Confirmed, CopyDataset, CopyUnits
from omewd.protocol.jobs.job import (
    Job,
    StreamToOpen,
    done_message,
    failed_message,
    going_message,
    job_of,
    ready_message,
)
from omewd.protocol.messages import Message, receive, send

# A child of which the daemon hears nothing for --job-timeout, usually a minute, is killed.
_TELL_EVERY_S = 0.3
KINDS: dict[str, type[Job]] = {kind.kind: kind for kind in (CopyUnits, CopyDataset)}


class _Count:
    """What a job has confirmed and evicted so far. Threads share it."""

    def __init__(self) -> None:
        self._files = self._bytes = self._evicted_bytes = 0
        self._missing: tuple[str, ...] = ()
        self._lock = Lock()

    def add(self, files: int, count_bytes: int) -> None:
        with self._lock:
            self._files, self._bytes = self._files + files, self._bytes + count_bytes

    def add_evicted(self, _files: int, count_bytes: int) -> None:
        with self._lock:
            self._evicted_bytes += count_bytes

    def note_missing(self, sources: tuple[str, ...]) -> None:
        with self._lock:
            self._missing = sources

    @property
    def confirmed(self) -> Confirmed:
        with self._lock:
            return Confirmed(self._files, self._bytes, self._missing, self._evicted_bytes)


class Worker:
    """Serves the daemon at the other end of ``channel`` until the daemon closes it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel, self._streams = channel, Streams()

    def run(self) -> None:
        try:
            send(self._channel, ready_message({}))
            with profiled("copier", threads=True), ThreadPoolExecutor(1, "job") as thread:
                while (received := receive(self._channel)) is not None:
                    message, descriptors = received
                    close_all(descriptors)
                    self._handle(message, thread)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon is gone; the next one runs the jobs again

    def _handle(self, message: Message, thread: ThreadPoolExecutor) -> None:
        match message["do"]:
            case "job":
                count = _Count()
                self._do(message["lease"], count, thread.submit(self._job(message, count)))
            case "open":
                self._streams.open(StreamToOpen.from_json(message["stream"], message.get("attachment", b"")))
            case "close":
                self._streams.close(message["stream"])
            case other:
                raise OmewdError("bad_message", f"a copier has no request {other!r}")

    def _do(self, lease: int, count: _Count, job: Future[None]) -> None:
        """Wait for a job, and answer. The store may be away for long, and that is no reason to be killed."""
        while not wait([job], _TELL_EVERY_S).done:
            send(self._channel, going_message(lease, count.confirmed))
        error = job.exception()
        if error is None:
            send(self._channel, done_message(lease, count.confirmed))
        elif isinstance(error, Exception):
            send(self._channel, failed_message(lease, error_of(error) or OmewdError("internal", text_of(error))))
        else:
            raise error

    def _job(self, message: Message, count: _Count) -> Callable[[], None]:
        def run() -> None:
            match job_of(message, KINDS):
                case CopyUnits() as job:
                    _require_plain(Address.parse(job.url))
                    copy_units(job, self._streams.get(job.stream), count.add, count.add_evicted)
                case CopyDataset() as job:
                    _require_plain(Address.parse(job.url))
                    done = copy(
                        Path(job.dataset),
                        job.url,
                        job.limit,
                        epoch=job.epoch,
                        evict=job.evict,
                        tell=count.add,
                        tell_evicted=count.add_evicted,
                    )
                    count.note_missing(done.missing)

        return run


def _require_plain(address: Address) -> None:
    """Raise OmewdError ``outside_roots`` if a symbolic link leads elsewhere: the daemon's clients choose the folder."""
    path = Path(f"/{address.path}")
    if address.scheme == "file" and (real := path.resolve()) != path:
        raise OmewdError(
            "outside_roots",
            f"a symbolic link leads from {address.url} to {real}",
            "Give the URL without symbolic links",
        )
