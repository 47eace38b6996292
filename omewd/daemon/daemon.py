"""The daemon: one loop over descriptors, which connects all parts.

Each turn of the loop handles what clients, writers and producers have done, and then steps the streams to which
something has happened: new frames, complete write units, finished work. The loop only waits for descriptors and a
timer.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog

from omewd.daemon.checks import require_memory
from omewd.daemon.config import ServeConfig
from omewd.daemon.control.dataset_requests import DatasetRequests
from omewd.daemon.control.pending_replies import PendingReplies
from omewd.daemon.control.requests import Requests
from omewd.daemon.control.ring_requests import RingRequests
from omewd.daemon.control.server import ControlServer, Peer
from omewd.daemon.control.status_requests import StatusRequests
from omewd.daemon.control.stream_requests import StreamRequests
from omewd.daemon.datasets.copies import Copies
from omewd.daemon.datasets.copy import DatasetCopy
from omewd.daemon.datasets.datasets import Datasets
from omewd.daemon.jobs.delivery import Delivery
from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.routing import Router
from omewd.daemon.logs import configure
from omewd.daemon.loop import Loop
from omewd.daemon.notify import Notifier
from omewd.daemon.processes.child import Place
from omewd.daemon.processes.fence import children_lock, fence
from omewd.daemon.processes.memory_return import MemoryReturn
from omewd.daemon.processes.pools import Pools
from omewd.daemon.processes.roles import roles
from omewd.daemon.signals import DRAIN, RELOAD, Signals
from omewd.daemon.state.journal import InstanceLock, Journal, instance_name
from omewd.daemon.state.recovery import Recovery
from omewd.daemon.streams.admission import Admission
from omewd.daemon.streams.agenda import Agenda
from omewd.daemon.streams.lifecycle import Lifecycle
from omewd.daemon.streams.memory import MemoryBudget
from omewd.daemon.streams.producers import Producers
from omewd.daemon.streams.rounds import Rounds
from omewd.daemon.streams.streams import Streams
from omewd.error_codes import EXIT_ERROR, EXIT_INCOMPLETE
from omewd.errors import OmewdError
from omewd.process.profiling import profiled
from omewd.protocol.jobs.copies import CopyDataset, CopyUnits
from omewd.protocol.jobs.datasets import SweepLeftovers
from omewd.protocol.jobs.job import COPIER, Job
from omewd.protocol.jobs.values import prepare
from omewd.ring.layout import require_x86_64

log = structlog.get_logger("daemon")

# The longest that the loop sleeps, and while it is to stop.
_TICK_S = 1.0
_STOPPING_TICK_S = 0.05
# Writers that all fail at the start are not due to a passing shortage.
_FAILED_FIRST_STARTS = 3
_NOTIFY_EVERY_NS = 500_000_000
# Adding up the frames of hundreds of sources takes a while.
_STATUS_EVERY_NS = 5_000_000_000
# Do not wait longer for the removal of replaced datasets, and for copies: the journal keeps them for the next daemon.
_SWEEP_NS = 2_000_000_000
_FOR_LATER: set[type[Job]] = {SweepLeftovers, CopyUnits, CopyDataset}
_DRAIN_EXTENSION_US = 10_000_000


class Daemon:
    """The process of ``omewd serve``. :meth:`run` returns its exit status."""

    def __init__(self, config: ServeConfig, read_again: Callable[[], ServeConfig]) -> None:
        """``read_again``: reads the configuration again; raises OmewdError."""
        require_x86_64()
        require_memory(config.memory_bytes)
        self._config, self._read_again = config, read_again
        self._lock = InstanceLock(config.state_dir)
        self._instance = instance_name(config.state_dir)
        fence(config.state_dir, self._instance)
        self._scratch = Path(tempfile.mkdtemp(prefix=f"{self._instance}-scratch-", dir="/dev/shm"))
        _allow_many_descriptors()
        self._loop = Loop()
        self._journal = Journal(config.state_dir, self._loop)
        self._memory = MemoryReturn(self._loop)
        self._notifier = Notifier()
        place = Place(self._scratch, children_lock(config.state_dir), config.start_timeout_s)
        self._pools = Pools(self._loop, roles(config.writers, len(os.sched_getaffinity(0))), place)
        self._dispatcher = Dispatcher(config.job_timeout_s, self._pools.roles)
        self._server = ControlServer(self._loop)
        self._agenda = agenda = Agenda()
        self._copies = copies = Copies(self._dispatcher, self._server)
        datasets = Datasets(self._dispatcher, self._journal, self._server, agenda, copies)
        self._streams = Streams(self._journal, datasets, agenda, self._memory)
        memory = MemoryBudget(config, self._streams)
        self._delivery = delivery = Delivery(self._dispatcher, self._pools, self._streams)
        self._replies = PendingReplies(self._server)
        copies.listen(changed=self._copy_changed)
        self._lifecycle = Lifecycle(
            self._streams,
            Admission(config, self._streams, memory, self._journal, self._instance),
            delivery,
            self._replies,
            datasets,
        )
        self._router = Router(self._dispatcher, delivery.give_jobs)
        self._recovery = Recovery(
            self._streams,
            datasets,
            self._lifecycle,
            self._journal,
            self._memory,
            instance=self._instance,
            scratch=self._scratch,
        )
        self._rounds = Rounds(self._streams, self._lifecycle.producer_lost)
        producers = Producers(self._loop, agenda)
        self._ring_requests = RingRequests(self._streams, producers, self._lifecycle, self._server, self._rounds)
        self._requests = Requests(
            [
                StatusRequests(config, self._streams, memory, delivery, self._replies),
                StreamRequests(self._streams, self._lifecycle, self._replies, self._recovery),
                self._ring_requests,
                DatasetRequests(self._streams, datasets),
            ]
        )
        self._signals = Signals(self._loop, self._signalled)
        self._serves = False  # between READY=1 and STOPPING=1
        self._keeps = False
        self._must_drain = False
        self._drain_deadline_ns = 0
        self._sweep_deadline_ns = 0
        self._next_notify_ns = self._next_status_ns = 0
        self._exit_status = 0

    # -- life ------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until a signal asks to stop, then drain. Raises OmewdError if the daemon can't start."""
        try:
            self._recovery.run()
            self._pools.start(self._router.child_said, self._router.child_died)
            prepare()  # while the children start
            self._await_first_children()
            config = self._config
            self._server.start(config.socket, config.group, self._requests.handle, self._peer_gone)
            log.info(
                "ready",
                socket=str(config.socket),
                data_roots=[str(root) for root in config.data_roots],
                writers=config.writers,
                memory_mib=config.memory_bytes >> 20,
            )
            self._notifier.send(READY=1, STATUS="Ready; no streams")
            spare_collections()
            self._serves = True
            with profiled("daemon"):
                while not self._finished():
                    self._loop.wait(self._timeout_s(time.monotonic_ns()))
                    self._step(time.monotonic_ns())
            return self._exit_status
        except BaseException as error:
            self._exit_status = error.exit_status if isinstance(error, OmewdError) else EXIT_ERROR
            raise
        finally:
            self._close()

    def _copy_changed(self, copy: DatasetCopy) -> None:
        self._agenda.stream(copy.stream)
        self._replies.watches.note_id(copy.stream)

    def _peer_gone(self, peer: Peer) -> None:
        self._replies.forget(peer)
        self._copies.forget(peer)
        self._ring_requests.peer_gone(peer)

    def _await_first_children(self) -> None:
        deadline = time.monotonic() + self._config.start_timeout_s
        while (pool := self._pools.awaited) is not None and not (self._streams.is_closed or self._keeps):
            if pool.failed_starts >= _FAILED_FIRST_STARTS or time.monotonic() > deadline:
                raise OmewdError(
                    "start_failed",
                    f"no {pool.role.name} process could be started",
                    f"Run python -m {pool.role.module} --help to see why",
                )
            self._loop.wait(0.1)
            pool.fill()

    def _signalled(self, number: int) -> None:
        if number == RELOAD:
            self._reload()
        elif number == DRAIN:
            self._must_drain = True
        elif not self._streams.is_closed:
            self._stop(signal.Signals(number).name)
        elif number == signal.SIGINT:
            log.warning("second interrupt: leaving what is not on disk to the next daemon")
            self._drain_deadline_ns = time.monotonic_ns()

    def _stop(self, number: str) -> None:
        now, count = time.monotonic_ns(), len(self._streams.open)
        self._serves = False
        self._notifier.send(STOPPING=1, EXTEND_TIMEOUT_USEC=_DRAIN_EXTENSION_US)
        if self._config.on_stop == "keep" and not self._must_drain:
            log.info("stopping: rings are kept, and the next daemon continues with them", signal=number, open=count)
            self._keeps = True
            return
        log.info("stopping: draining the open streams", signal=number, open=count)
        self._drain_deadline_ns = now + int(self._config.drain_timeout_s * 1e9)
        self._sweep_deadline_ns = now + _SWEEP_NS
        self._next_notify_ns = 0
        self._lifecycle.stop_all(now)

    def _reload(self) -> None:
        """Read the configuration again, and take over what may change. An error changes nothing."""
        if self._serves:
            self._notifier.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        try:
            new = self._read_again()
            require_memory(new.memory_bytes)
        except (OmewdError, OSError) as error:
            log.error("the configuration can't be reloaded: nothing is changed", error=str(error))
        else:
            done = self._config.take(new)
            self._dispatcher.set_timeout(self._config.job_timeout_s)
            configure(self._config.log_format, self._config.log_level)
            log.info("reloaded the configuration", taken={name: str(value) for name, value in done.taken.items()})
            if done.left:
                log.warning("some changed options are only taken by a restart", options=done.left)
        if self._serves:
            self._notifier.send(READY=1)

    def _finished(self) -> bool:
        if self._keeps:
            return True
        now = time.monotonic_ns()
        if (outdated := self._pools.outdated) and self._must_restart(outdated):
            log.error(
                "stopping because omewd was upgraded on disk: rings are kept, and the next daemon continues with them"
            )
            self._exit_status = EXIT_ERROR
            return True
        if (role := self._pools.broken) is not None:
            log.error(f"no more {role} processes can be started: giving up")
            self._lifecycle.give_up_all(OmewdError("no_writers", f"no more {role} processes can be started"), now)
            self._exit_status = EXIT_ERROR
            return True
        if not self._streams.is_closed:
            return False
        at_work = any(not stream.settled for stream in self._streams.open.values())
        left = {type(task.job) for task in self._dispatcher.tasks()}
        if not at_work and not left:
            return True
        if not at_work and left <= _FOR_LATER and not self._config.ephemeral and now >= self._sweep_deadline_ns:
            log.info(
                "not all replaced datasets are removed, or not all is copied: the next daemon continues with that",
                jobs=sorted(kind.kind for kind in left),
            )
            return True
        if now < self._drain_deadline_ns:
            return False
        for stream in self._streams.open.values():
            if stream.settled:
                continue
            what = "given up" if self._config.ephemeral else "its ring is kept, and the next daemon continues with it"
            log.error(f"not drained in time: {what}", stream=stream.spec.name, in_flight=stream.in_flight)
            if self._config.ephemeral:
                error = OmewdError(
                    "stopping", f"the daemon was stopped while {stream.in_flight} frames were not on disk", ""
                )
                stream.fail(error, now)
            self._exit_status = EXIT_INCOMPLETE
        return True

    def _must_restart(self, outdated: set[str]) -> bool:
        """Whether only the next daemon can go on. ``outdated``: the roles of which this one can start no children."""
        self._dispatcher.do_without(outdated)
        return self._pools.must_restart(at_work=any(not stream.settled for stream in self._streams.open.values()))

    def _close(self) -> None:
        self._notifier.send(STOPPING=1, STATUS="Ending the writers", EXTEND_TIMEOUT_USEC=_DRAIN_EXTENSION_US)
        self._lifecycle.take_back_starts()
        self._server.close()
        self._pools.close()
        for stream in list(self._streams.open.values()):
            if self._config.ephemeral:
                self._streams.release(stream)
            else:
                self._streams.leave(stream)
        self._journal.close()
        self._memory.close()
        self._signals.close()
        self._loop.close()
        self._lock.release()
        log.info("stopped", exit_status=self._exit_status)

    # -- the turn of the loop --------------------------------------------------------------------

    def _timeout_s(self, now_ns: int) -> float:
        if self._agenda.has_more:
            return 0.0
        tick_s = _STOPPING_TICK_S if self._streams.is_closed else _TICK_S
        of_clients = self._replies.watches.next_ns
        of_jobs = self._dispatcher.next_event_ns()
        of_others = self._pools.next_ns, self._copies.next_ns
        events = (self._agenda.next_ns, self._rounds.next_ns, of_jobs, of_clients, *of_others)
        event_ns = min(event for event in events if event is not None)
        return min(tick_s, max(0.0, (event_ns - now_ns) / 1e9))

    def _step(self, now_ns: int) -> None:
        self._rounds.go(now_ns)
        self._lifecycle.step(now_ns)
        self._copies.step(now_ns)
        self._replies.turned()
        self._replies.watches.turned(now_ns)
        for lease in self._dispatcher.overdue(now_ns):
            child = self._pools.child(lease.child)
            if child is not None and not child.killed_for:
                child.kill(f"its job ({lease.task.job.what}) exceeded its deadline")
        # A copier stays between two jobs of a stream: its start takes longer than most of them.
        self._pools.tend(self._dispatcher.wanted() | Counter({COPIER: self._copies.going}), now_ns)
        self._server.listen_again(now_ns)
        self._delivery.give_jobs(now_ns)
        self._lifecycle.listen(now_ns)
        self._tell_systemd(now_ns)

    def _tell_systemd(self, now_ns: int) -> None:
        if not self._notifier.is_heard or now_ns < self._next_notify_ns:
            return
        self._next_notify_ns = now_ns + _NOTIFY_EVERY_NS
        fields: dict[str, str | int] = {}
        if self._streams.is_closed or now_ns >= self._next_status_ns:
            self._next_status_ns = now_ns + _STATUS_EVERY_NS
            fields["STATUS"] = self._status_text()
        if self._notifier.watchdog_s is not None:
            fields["WATCHDOG"] = 1
        if self._streams.is_closed:
            fields["EXTEND_TIMEOUT_USEC"] = _DRAIN_EXTENSION_US
        if fields:
            self._notifier.send(**fields)

    def _status_text(self) -> str:
        streams = list(self._streams.open.values())
        received, in_flight = sum(s.received for s in streams), sum(s.in_flight for s in streams)
        text = f"{len(streams)} streams, {received} frames received, {in_flight} in flight"
        return f"Draining: {text}" if self._streams.is_closed else text


def spare_collections() -> None:
    """Leave what is there after the start out of garbage collections, which stop the loop.

    A full one, through all modules, took 35 ms of the processor.
    """
    gc.collect()
    gc.freeze()


def _allow_many_descriptors() -> None:
    """Raise the soft limit of descriptors: a stream takes several, and the usual 1024 is only meant for select(2)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
