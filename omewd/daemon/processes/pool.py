"""Starts the children of one role, reads their messages, kills those that hang, and replaces dead ones."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import structlog

from omewd.daemon.loop import Loop
from omewd.daemon.processes.child import Child, Place, start
from omewd.daemon.processes.roles import Role
from omewd.errors import OmewdError
from omewd.protocol.messages import Message, receive, send
from omewd.protocol.versions import JOBS

log = structlog.get_logger("processes")

# After this many children in a row died before they were ready, no more are started. The pause before the next start
# grows each time, so that a passing obstacle does not end the streams.
MAX_FAILED_STARTS = 8
FAILED_START_PAUSE_NS = 250_000_000

OnMessage = Callable[[Child, Message], None]
OnDeath = Callable[[Child], None]


class Pool:
    """The children of one role. ``numbers``: new ids. ``children``: the children by id.

    ``failed_starts``: how many in a row died before they were ready. ``facts``: from the last one's ready message.
    """

    def __init__(self, loop: Loop, role: Role, place: Place, numbers: Iterator[int]) -> None:
        self._loop, self.role, self._place, self._numbers = loop, role, place, numbers
        self.children: dict[int, Child] = {}
        self.facts: dict[str, Any] = {}
        self.failed_starts = 0
        self._next_start_ns = 0
        self._closing = False
        self._outdated = False
        self._wanted = 0 if role.on_demand else role.children

    def start(self, on_message: OnMessage, on_death: OnDeath) -> None:
        """Start the children. ``on_message`` and ``on_death`` are called for their messages and deaths."""
        self._on_message, self._on_death = on_message, on_death
        self.fill()

    # -- the number of children -------------------------------------------------------------------

    @property
    def any_ready(self) -> bool:
        return any(child.ready for child in self.children.values())

    @property
    def broken(self) -> bool:
        """Whether no child lives and none can be started, in a role that the daemon needs."""
        return not self.role.on_demand and self.failed_starts >= MAX_FAILED_STARTS and not self.any_ready

    @property
    def is_outdated(self) -> bool:
        """Whether no child is left, and none can be started because omewd was upgraded on disk."""
        return self._outdated and not self.any_ready

    @property
    def is_wanted(self) -> bool:
        """Whether there should be children."""
        return self._wanted > 0

    @property
    def ready(self) -> list[int]:
        """The ids of the children that take jobs."""
        return [child.id for child in self.children.values() if child.takes_jobs]

    def want(self, jobs: int) -> None:
        """Set how many jobs there are: a role on demand only has children while there are some."""
        if not self.role.on_demand:
            return
        # A child that has become idle stays while there are others' jobs: it may be asked for again at once.
        self._wanted = min(max(jobs, self._wanted if jobs else 0), self.role.children)
        for child in () if jobs else self.children.values():
            if not child.leaving:
                self._loop.forget(child.channel.fileno())
                child.leave()

    def fill(self) -> None:
        """Start children until there are enough."""
        while not (self._closing or self._outdated or self.broken):
            if self._lacking <= 0 or time.monotonic_ns() < self._next_start_ns:
                return
            try:
                child = start(self.role, next(self._numbers), self._place)
            except OSError as error:
                log.error(f"a {self.role.name} can't be started", error=str(error))
                self._start_failed()
            else:
                self._watch(child)

    def _watch(self, child: Child) -> None:
        self.children[child.id] = child
        self._loop.watch(child.pidfd, lambda: self._reap(child))
        self._loop.watch(child.channel.fileno(), lambda: self._read(child))
        log.debug(f"{self.role.name} started", child=child.id, pid=child.process.pid, threads=self.role.threads)

    def _start_failed(self) -> None:
        self.failed_starts += 1
        pause_ns = FAILED_START_PAUSE_NS * 2 ** min(self.failed_starts, MAX_FAILED_STARTS)
        self._next_start_ns = time.monotonic_ns() + pause_ns

    @property
    def next_start_ns(self) -> int | None:
        """When the next child may be started after one that has failed; None if none is lacking."""
        lacks = self.failed_starts and not (self._closing or self._outdated or self.broken) and self._lacking > 0
        return self._next_start_ns if lacks else None

    @property
    def _lacking(self) -> int:
        return self._wanted - sum(not child.leaving for child in self.children.values())

    def end_late_starters(self, now_ns: int) -> None:
        """Kill children that hang before they are ready."""
        timeout_ns = int(self._place.start_timeout_s * 1e9)
        for child in self.children.values():
            if not child.ready and not child.killed_for and now_ns - child.started_ns > timeout_ns:
                child.kill("it was not ready in time")

    # -- their messages and deaths ---------------------------------------------------------------

    def tell(
        self, child: Child, message: Message, descriptors: tuple[int, ...] = (), *, attachment: bytes = b""
    ) -> None:
        """Send a message. A child that does not read is killed, so that the daemon never waits for it.

        Raises OmewdError ``too_large`` or ``bad_message`` for an invalid message.
        """
        try:
            send(child.channel, message, descriptors, attachment=attachment)
        except BlockingIOError:
            child.kill("it does not read its messages")
        except ConnectionError:
            return  # it has just died; its pidfd reports that
        except OSError as error:  # otherwise the child would wait for ever for a lost message
            child.kill(f"it can't be reached: {error.strerror}")

    def _read(self, child: Child) -> bool:
        """Read one message; returns whether there was one."""
        try:
            received = receive(child.channel)
        except BlockingIOError:
            return False
        except OSError:  # it has died with unread messages
            received = None
        except OmewdError as error:
            child.kill(f"it sent an unreadable message ({error})")
            received = None
        if received is None:  # its pidfd reports its death
            self._loop.forget(child.channel.fileno())
            return False
        message, _ = received
        if "ready" in message and message.get("version") != str(JOBS):
            self._outdated_by(child, str(message.get("version")))
            return True
        if "ready" in message:
            child.got_ready()
            self.failed_starts = 0
            self.facts = message["ready"]
        self._on_message(child, message)
        return True

    def _outdated_by(self, child: Child, version: str) -> None:
        """Note that another version of omewd is on disk now: its children can't be given jobs."""
        if not self._outdated:
            log.error(
                "omewd was upgraded on disk, and its children don't match this daemon: restart the daemon",
                role=self.role.name,
                children=version,
                daemon=str(JOBS),
            )
        self._outdated = True
        child.kill(f"it speaks version {version} of the job messages, and the daemon version {JOBS}")

    def _reap(self, child: Child) -> None:
        status = child.process.poll()
        if status is None:  # an old event of a descriptor number that was reused
            return
        while not child.leaving and self._read(child):  # messages that it sent before it died still count
            pass
        self._forget(child)
        if child.leaving:
            log.debug(f"{self.role.name} ended", child=child.id, pid=child.process.pid)
            return
        if not child.ready:
            self._start_failed()
        if not self._closing:
            reason = child.killed_for or (f"signal {signal.Signals(-status).name}" if status < 0 else f"exit {status}")
            log.warning(f"{self.role.name} died", child=child.id, pid=child.process.pid, reason=reason)
            self._on_death(child)
            self.fill()

    def _forget(self, child: Child) -> None:
        del self.children[child.id]
        self._loop.forget(child.pidfd)
        self._loop.forget(child.channel.fileno())
        child.close()
        shutil.rmtree(child.scratch, ignore_errors=True)

    # -- the end ---------------------------------------------------------------------------------

    def end(self) -> None:
        """Tell all children to exit, which they do after their current jobs."""
        self._closing = True
        for child in self.children.values():
            self._loop.forget(child.channel.fileno())
            child.end()
            if self.role.on_demand:  # its job takes long, and can be run again
                child.process.kill()

    def wait(self, deadline_s: float) -> None:
        """Wait until all have exited. Those that have not by ``deadline_s`` (monotonic) are killed."""
        for child in list(self.children.values()):
            try:
                child.process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            self._forget(child)
