"""A child process of the daemon, and its start: it is exec'd with a socket to the daemon, and holds a lock."""

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
    """What the children of a daemon share. ``scratch``: a folder in memory, in which each child gets its own folder.

    ``lock``: the file on which each child holds a lock while it lives. ``start_timeout_s``: the time to get ready.
    """

    scratch: Path
    lock: Path
    start_timeout_s: float


@dataclass(eq=False)
class Child:
    """One child process. ``leaving``: there are no more jobs for it, and it was told to end.

    ``streams``: the ids of the streams that it knows. ``rings``: of those whose rings it has.
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
        """Note that the child is told of a stream; returns False if it knew the stream already."""
        is_new = stream not in self.streams
        self.streams.add(stream)
        return is_new

    def takes_rings(self, stream: int) -> bool:
        """Note that the child gets a stream's rings; returns False if it had them already."""
        is_new = stream not in self.rings
        self.rings.add(stream)
        return is_new

    def forgets(self, stream: int) -> bool:
        """Note that a stream has ended; returns False if the child did not know the stream."""
        was_told = stream in self.streams
        self.streams.discard(stream)
        self.rings.discard(stream)
        return was_told

    def kill(self, reason: str) -> None:
        """Kill the child. Its death is reported like any other."""
        self.killed_for = f"killed: {reason}"
        with contextlib.suppress(ProcessLookupError):  # it has just died
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def got_ready(self) -> None:
        """Note that the child is ready for jobs."""
        self.ready = True

    def leave(self) -> None:
        """End the child, because there are no more jobs for it."""
        self.leaving = True
        self.end()

    def end(self) -> None:
        """Close the channel. The child then exits after its current job."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the daemon's descriptors of a dead child."""
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
    # Nothing here is linear algebra, whose threads spin when numpy is loaded.
    environment = {**os.environ, **role.environment, **caps, "OPENBLAS_NUM_THREADS": "1"}
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
    """A descriptor that holds the children's lock, to be passed to a child."""
    descriptor = hold(lock)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
