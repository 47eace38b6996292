"""Starts writer processes, hears of their death, ends those that hang, and replaces them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from omewd.daemon.loop import Loop
from omewd.daemon.processes.fence import hold
from omewd.errors import OmewdError
from omewd.protocol.messages import Message, receive, send

log = structlog.get_logger("supervisor")

# Writers that die before they are ready this many times in a row are not started again. Each time there is
# a longer pause before the next, so that what stands in the way for a while does not end the streams.
MAX_FAILED_STARTS = 8
FAILED_START_PAUSE_NS = 250_000_000

# glibc gives large blocks back to the kernel at once, and a fresh page is dear on a virtual machine: encoding
# a 128 MiB shard with tensorstore took 0.15 s with the defaults, 0.03 s when the heap keeps its pages.
# Two arenas keep what is kept in bounds.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_ARENA_MAX": "2",
}


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[int]:
    """A descriptor with the writers' lock, to be passed on."""
    descriptor = hold(lock)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass
class Writer:
    """One writer process. ``streams``: the ids of the streams it has been told of; ``rings``: whose rings it has.

    ``aside``: it is one more, for long jobs; ``leaving``: there are none any more, and it has been told to end.
    """

    id: int
    process: subprocess.Popen[bytes]
    pidfd: int
    channel: socket.socket
    scratch: Path
    started_ns: int
    aside: bool = False
    leaving: bool = False
    ready: bool = False
    streams: set[int] = field(default_factory=set)
    rings: set[int] = field(default_factory=set)
    killed_for: str = ""

    def learns_of(self, stream: int) -> bool:
        """Note that it is told of a stream; False if it has been already."""
        is_new = stream not in self.streams
        self.streams.add(stream)
        return is_new

    def takes_rings(self, stream: int) -> bool:
        """Note that it is given a stream's rings; False if it has them already."""
        is_new = stream not in self.rings
        self.rings.add(stream)
        return is_new

    def forgets(self, stream: int) -> bool:
        """Note that it is told of a stream's end; False if it has never heard of it."""
        knew = stream in self.streams
        self.streams.discard(stream)
        self.rings.discard(stream)
        return knew


class Supervisor:
    """The pool of writers. ``scratch``: a folder in memory, in which each writer gets a folder of its own.

    ``lock``: the file that each holds a lock on while it lives.
    """

    def __init__(self, loop: Loop, *, writers: int, scratch: Path, lock: Path, start_timeout_s: float) -> None:
        self._lock = lock
        self._loop = loop
        self._wanted = writers
        self._threads = max(1, len(os.sched_getaffinity(0)) // writers)
        self._scratch = scratch
        self._start_timeout_ns = int(start_timeout_s * 1e9)
        self._last_id = 0
        self._failed_starts = 0
        self._next_start_ns = 0
        self._closing = False
        self._wants_aside = False
        self.writers: dict[int, Writer] = {}
        self.backends: dict[str, str | None] = {}

    @property
    def failed_starts(self) -> int:
        """How many writers in a row have died before they were ready."""
        return self._failed_starts

    @property
    def broken(self) -> bool:
        """No writer lives, and none can be started."""
        return self._failed_starts >= MAX_FAILED_STARTS and not self.any_ready

    @property
    def any_ready(self) -> bool:
        return any(writer.ready for writer in self.writers.values())

    def start(self, on_message: Callable[[Writer, Message], None], on_death: Callable[[Writer], None]) -> None:
        """Start the writers; ``on_message`` and ``on_death`` are told what happens from now on."""
        self._on_message = on_message
        self._on_death = on_death
        self.fill()

    def fill(self) -> None:
        """Start writers until there are as many as wanted."""
        while not self.broken and not self._closing and (aside := self._lacks()) is not None:
            if time.monotonic_ns() < self._next_start_ns:
                return
            try:
                self._spawn(aside=aside)
            except OSError as error:
                log.error("a writer can't be started", error=str(error))
                self._start_failed()

    def _lacks(self) -> bool | None:
        """Whether the next writer to start is the one aside; None if none is lacking."""
        if sum(not writer.aside for writer in self.writers.values()) < self._wanted:
            return False
        return True if self._wants_aside and self.aside is None else None

    @property
    def aside(self) -> Writer | None:
        """The writer for long jobs, if there is one now."""
        return next((w for w in self.writers.values() if w.aside and not w.leaving), None)

    def want_aside(self, wanted: bool) -> None:
        """Say whether there are long jobs: the writer for those is there only as long as there are."""
        self._wants_aside = wanted
        if not wanted and (writer := self.aside) is not None:
            writer.leaving = True
            self._loop.forget(writer.channel.fileno())
            with contextlib.suppress(OSError):
                writer.channel.shutdown(socket.SHUT_RDWR)

    def _start_failed(self) -> None:
        self._failed_starts += 1
        self._next_start_ns = time.monotonic_ns() + FAILED_START_PAUSE_NS * 2**self._failed_starts

    def _spawn(self, *, aside: bool) -> None:
        self._last_id += 1
        threads = 1 if aside else self._threads  # it encodes nothing
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        scratch = self._scratch / f"writer-{self._last_id}"
        command = [sys.executable, "-P", "-m", "omewd.writer"]
        command += ["--channel", str(theirs.fileno()), "--daemon", str(os.getpid())]
        command += ["--threads", str(threads), "--scratch", str(scratch)]
        caps = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "BLOSC_NTHREADS"), str(threads))
        environment = {**os.environ, **_ALLOCATOR, **caps}
        environment.pop("NOTIFY_SOCKET", None)
        try:
            with theirs, _held(self._lock) as held:
                process = subprocess.Popen(
                    command,
                    pass_fds=[theirs.fileno(), held],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            ours.close()
            process.kill()
            process.wait()
            raise
        writer = Writer(self._last_id, process, pidfd, ours, scratch, time.monotonic_ns(), aside=aside)
        self.writers[writer.id] = writer
        self._loop.watch(writer.pidfd, lambda: self._reap(writer))
        self._loop.watch(ours.fileno(), lambda: self._read(writer))
        log.debug("writer started", writer=writer.id, pid=process.pid, threads=threads, aside=aside)

    def _read(self, writer: Writer) -> bool:
        """Take one message in; returns whether there was one."""
        try:
            received = receive(writer.channel)
        except BlockingIOError:
            return False
        except OSError:  # it has died with something unread
            received = None
        except OmewdError as error:
            self.kill(writer, f"it sent something unreadable ({error})")
            received = None
        if received is None:  # its pidfd tells the rest
            self._loop.forget(writer.channel.fileno())
            return False
        message, _ = received
        if "ready" in message:
            writer.ready = True
            self._failed_starts = 0
            self.backends = message["ready"]
        self._on_message(writer, message)
        return True

    def _reap(self, writer: Writer) -> None:
        status = writer.process.poll()
        if status is None:  # an event of a descriptor number that has been used again
            return
        while not writer.leaving and self._read(writer):  # what it said before it died still counts
            pass
        self._forget(writer)
        if writer.leaving:
            log.debug("writer ended", writer=writer.id, pid=writer.process.pid)
            return
        if not writer.ready:
            self._start_failed()
        if not self._closing:
            reason = writer.killed_for or (f"signal {signal.Signals(-status).name}" if status < 0 else f"exit {status}")
            log.warning("writer died", writer=writer.id, pid=writer.process.pid, reason=reason)
            self._on_death(writer)
            self.fill()

    def _forget(self, writer: Writer) -> None:
        del self.writers[writer.id]
        self._loop.forget(writer.pidfd)
        self._loop.forget(writer.channel.fileno())
        os.close(writer.pidfd)
        writer.channel.close()
        shutil.rmtree(writer.scratch, ignore_errors=True)

    def kill(self, writer: Writer, reason: str) -> None:
        """End a writer now; its death is reported like any other."""
        writer.killed_for = f"killed: {reason}"
        signal.pidfd_send_signal(writer.pidfd, signal.SIGKILL)

    def end_late_starters(self, now_ns: int) -> None:
        """Kill writers that have hung before they were ready."""
        for writer in self.writers.values():
            if not writer.ready and not writer.killed_for and now_ns - writer.started_ns > self._start_timeout_ns:
                self.kill(writer, "it did not get ready")

    def tell(
        self, writer: Writer, message: dict[str, Any], descriptors: tuple[int, ...] = (), *, attachment: bytes = b""
    ) -> None:
        """Send a message; a writer that does not read is killed, so that the daemon never waits for one."""
        try:
            send(writer.channel, message, descriptors, attachment=attachment)
        except BlockingIOError:
            self.kill(writer, "it does not read its messages")
        except ConnectionError:
            return  # it has just died; its pidfd tells
        except OSError as error:  # else it would wait for ever for what was lost
            with contextlib.suppress(ProcessLookupError):
                self.kill(writer, f"it can't be told anything: {error.strerror}")

    def close(self, timeout_s: float = 5.0) -> None:
        """End all writers: they leave when their channel closes; one that does not is killed."""
        self._closing = True
        for writer in self.writers.values():
            self._loop.forget(writer.channel.fileno())
            with contextlib.suppress(OSError):
                writer.channel.shutdown(socket.SHUT_RDWR)
            if writer.aside:  # what it is at takes long, and can be done again
                writer.process.kill()
        deadline = time.monotonic() + timeout_s
        for writer in list(self.writers.values()):
            try:
                writer.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                writer.process.kill()
                writer.process.wait()
            self._forget(writer)
        shutil.rmtree(self._scratch, ignore_errors=True)
