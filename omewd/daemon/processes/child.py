"""One child process of the daemon, and how it is started: exec'd, with a socket to it and a lock that it holds."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from omewd.daemon.processes.fence import hold
from omewd.daemon.processes.roles import Role
from omewd.process.child import arguments_for


@dataclass(frozen=True)
class Place:
    """What the children of a daemon share. ``scratch``: a folder in memory, in which each gets one of its own.

    ``lock``: the file that each holds a lock on while it lives. ``start_timeout_s``: until when one must be ready.
    """

    scratch: Path
    lock: Path
    start_timeout_s: float


@dataclass(eq=False)
class Child:
    """``leaving``: there are no jobs for it any more, and it has been told to end.

    ``streams``: the ids of the streams it has been told of; ``rings``: whose rings it has.
    """

    id: int
    role: Role
    process: subprocess.Popen[bytes]
    pidfd: int
    channel: socket.socket
    scratch: Path
    started_ns: int
    leaving: bool = False
    ready: bool = False
    streams: set[int] = field(default_factory=set)
    rings: set[int] = field(default_factory=set)
    killed_for: str = ""

    @property
    def takes_jobs(self) -> bool:
        return self.ready and not self.killed_for and not self.leaving

    def learns_of(self, stream: int) -> bool:
        """Note that it is told of a stream now; returns whether it has not been before."""
        is_new = stream not in self.streams
        self.streams.add(stream)
        return is_new

    def takes_rings(self, stream: int) -> bool:
        """Note that it is given the rings of a stream now; returns whether it has not been before."""
        is_new = stream not in self.rings
        self.rings.add(stream)
        return is_new

    def forgets(self, stream: int) -> bool:
        """Note that a stream has ended; returns whether it has been told of it."""
        was_told = stream in self.streams
        self.streams.discard(stream)
        self.rings.discard(stream)
        return was_told

    def kill(self, reason: str) -> None:
        """End it now; its death is reported like any other."""
        self.killed_for = f"killed: {reason}"
        with contextlib.suppress(ProcessLookupError):  # it has just died
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def got_ready(self) -> None:
        """Note that it has said that it can work."""
        self.ready = True

    def leave(self) -> None:
        """Have it end, as there is nothing to do for it any more."""
        self.leaving = True
        self.end()

    def end(self) -> None:
        """Close the channel, at which it leaves when it is done with what it is at."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of what the daemon has of it, once it is dead."""
        os.close(self.pidfd)
        self.channel.close()


def start(role: Role, number: int, place: Place) -> Child:
    """Start a child; raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    scratch = place.scratch / f"{role.name}-{number}"
    command = [sys.executable, "-P", "-m", role.module]
    command += arguments_for(theirs.fileno(), os.getpid(), role.threads, scratch)
    caps = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "BLOSC_NTHREADS"), str(role.threads))
    environment = {**os.environ, **role.environment, **caps}
    environment.pop("NOTIFY_SOCKET", None)
    try:
        with theirs, _held(place.lock) as held:
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
    return Child(number, role, process, pidfd, ours, scratch, time.monotonic_ns())


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[int]:
    """A descriptor with the children's lock, to be passed on."""
    descriptor = hold(lock)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
