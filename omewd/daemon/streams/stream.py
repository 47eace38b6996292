"""One stream in the daemon: its sources, its rings, its state. Its only I/O is the rings'.

:mod:`omewd.daemon.streams.transitions` decides the states. Methods that change the state return the actions that
follow, and the caller performs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from omewd.daemon.datasets.dataset import PHASES, Dataset, Phase
from omewd.daemon.datasets.drive import Drive
from omewd.daemon.datasets.shown_contrast import ShownContrast
from omewd.daemon.jobs.tasks import Owner
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.source_ring import SourceRing
from omewd.daemon.streams.transitions import Action, Event, Facts, Start, State, decide, weakly
from omewd.errors import Loss, OmewdError, StreamFailedError
from omewd.model.contrast import Window
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.model.waits import Histogram, RecentWaits
from omewd.protocol.jobs.frames import GrowShape, SealShards, WriteUnits, Written
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import STATE_FAILED, Geometry

# The most runs of lost frames of each source in an error; the ledger shows all of them.
_LOST_RUNS = 1000


@dataclass
class Stream:
    """One stream.

    ``spec``: the outline of the specification. ``fields``: the fields that it was made from. ``details``: the
    specification's details (see :mod:`omewd.model.spec.outline`). ``auto_name``: the number in a name that the daemon
    chose, else 0.

    ``rings``: the sources' rings, in their order. ``wants_memory``: the rings are being allocated. ``owner``: told of
    the ends of its jobs. ``settled``: nothing more will happen; the final metadata are written, or could not be.

    ``backend``: for "auto", the first choice until a writer has looked at the disk. ``backend_reason``: why it is not
    the first choice. ``start``: how far its start is. ``error``: why it has failed. ``loss``: what is lost, None until
    that is known. ``acknowledged``: somebody knows that it has failed.
    """

    id: int
    spec: StreamSpec
    backend: str
    dataset: Dataset
    started_ns: int
    sources: list[Source]
    fields: dict[str, Any] = field(default_factory=dict)
    details: bytes = b""
    auto_name: int = 0
    rings: Sequence[SourceRing] = ()
    owner: Owner = field(init=False, repr=False)
    wants_memory: bool = False
    state: State = State.STARTING
    settled: bool = False
    start: Start = field(init=False)
    backend_reason: str = ""
    error: OmewdError | None = None
    loss: Loss | None = None
    ended_by: str = ""
    ended_ns: int | None = None
    acknowledged: bool = False
    _retries: int = 0
    drive: Drive = field(init=False)
    waits: RecentWaits = field(default_factory=RecentWaits)
    contrast: ShownContrast = field(init=False)

    def __post_init__(self) -> None:
        self.contrast = ShownContrast(self.started_ns)
        self.drive = Drive.of(self.spec)
        self.start = Start(weakly(self._take))  # a stream that is forgotten is gone at once, with its specification

    @classmethod
    def of(
        cls,
        number: int,
        spec: StreamSpec,
        backend: str,
        geometry: Geometry,
        dataset: Dataset,
        *,
        started_ns: int,
        fields: dict[str, Any] | None = None,
        details: bytes = b"",
        auto_name: int = 0,
        rings: Sequence[SourceRing] = (),
    ) -> Stream:
        """A stream with its sources, whose rings all have the same ``geometry``."""
        sources = [Source(number, source, spec, backend, geometry) for source in range(spec.sources)]
        return cls(number, spec, backend, dataset, started_ns, sources, fields or {}, details, auto_name, rings)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def may_change_name(self) -> bool:
        """Whether the daemon chose the name and nobody knows it yet."""
        return self.state is State.STARTING and bool(self.auto_name) and not self.fields.get("output")

    @property
    def was_active(self) -> bool:
        """Whether it has taken frames, so that its dataset is to be kept."""
        return self.start.is_over

    @property
    def epoch(self) -> int:
        return self.sources[0].geometry.epoch

    @property
    def ring_bytes(self) -> int:
        """The bytes of all rings together."""
        return sum(source.geometry.total_bytes for source in self.sources)

    @property
    def has_rings(self) -> bool:
        return all(source.ring is not None for source in self.sources)

    # -- transitions ---------------------------------------------------------------------------

    def _take(self, event: Event) -> tuple[Action, ...]:
        """Go to the state that follows an event; returns the actions to perform."""
        facts = Facts(
            drained=self.drained,
            complete=self.in_flight == 0,
            has_dataset=self.was_active and self.has_rings,
            is_ending=self.ended_ns is not None,
            allocated=self.has_rings,
            **self.start.facts,
        )
        self.state, actions = decide(self.state, event, facts)
        if not self.settled:
            self.dataset.enter(PHASES[self.state])
        return actions

    def owned_by(self, owner: Owner) -> None:
        """Set the owner, which is told of the ends of its jobs."""
        self.owner = owner

    def disowned(self) -> None:
        """Forget the owner, because there are no more jobs."""
        del self.owner

    def placed(self, backend: str, reason: str, geometry: Geometry) -> tuple[Action, ...]:
        """Accept a writer's choice of backend, whose write units may need another geometry of the rings."""
        self.backend, self.backend_reason = backend, reason
        for source in self.sources:
            source.write_with(backend, geometry)
        self.wants_memory = True
        return self.start.placed()

    def allocated(self) -> tuple[Action, ...]:
        """Note that the rings can be used."""
        self.wants_memory = False
        return self._take(Event.ALLOCATED)

    def not_made(self) -> tuple[Action, ...]:
        """Note that the job that was creating the dataset has failed, or that its writer has died."""
        return self._take(Event.NOT_MADE)

    def idle(self, now_ns: int) -> tuple[Action, ...]:
        """Note that the stream has no waiting or running jobs."""
        actions = self._take(Event.IDLE)
        if self.state is State.FAILED and self.ended_ns is None:
            self.ended_ns = now_ns
        return actions

    def finalized(self, by_ledger: Sequence[Totals], now_ns: int) -> tuple[Action, ...]:
        """Note that the final metadata are on disk. ``by_ledger``: each source's totals, counted by the ledger."""
        self.dataset.finalized(by_ledger)
        if self.state is State.FINALIZING:
            self.ended_ns = now_ns
        return self._take(Event.FINALIZED)

    def not_finalized(self) -> tuple[Action, ...]:
        """Note that a failed stream's final metadata can't be written."""
        return self._take(Event.NOT_FINALIZED)

    def fail(self, error: OmewdError, now_ns: int) -> tuple[Action, ...]:
        """Fail the stream, and leave the error for the producers' next calls."""
        if self.state not in (State.DONE, State.FAILED):
            self.wants_memory = False
            self._leave_reason(error, now_ns)
        return self._take(Event.FAILS)

    def _leave_reason(self, error: OmewdError, now_ns: int) -> None:
        for source in self.sources:
            source.fail(error, now_ns)
        self.error = error.without_traceback()
        self.ended_by = self.ended_by or "failure"

    def tell_unaccounted(self, now_ns: int) -> None:
        """Record the error that all jobs are done but some frames are unaccounted for."""
        lost = f"{self.in_flight} of {self.received} frames are unaccounted for after writing all units"
        self._leave_reason(OmewdError("frames_unaccounted", lost), now_ns)

    def finish_rings(self) -> None:
        """Mark the dataset as complete in the rings, where the producers see it."""
        for source in self.sources:
            source.finish()

    def settle(self) -> None:
        """Note that nothing more will happen to the stream."""
        self.settled = True
        self.dataset.enter(Phase.AT_REST)

    def acknowledge(self) -> None:
        """Note that somebody has stopped the stream after it had failed."""
        self.acknowledged = True

    def name_taken(self, error: OmewdError) -> None:
        """End a stream that never started, because a dataset has the name that the daemon chose."""
        self.error = error.without_traceback()
        self.settle()

    def resume(self, rings: list[DaemonRing], now_ns: int) -> None:
        """Continue from another daemon, or after a failure. ``rings`` must have been resumed, and be sound."""
        for source, ring in zip(self.sources, rings, strict=True):
            source.resume(ring, now_ns)
        self.settled = self.acknowledged = False
        self.error, self.loss, self.ended_ns = None, None, None
        self.drive.go_on()
        self.dataset.reopened()
        self.start.taken_over()
        self._take(Event.RESUMED)
        self._drain_if_ended()
        failed = next((ring for ring in rings if ring.state == STATE_FAILED), None)
        if failed is not None:
            failure = failed.failure
            lost = OmewdError("reason_lost", "it failed, and the reason was lost with the last daemon")
            self.error, self.loss = (failure.reason, failure.loss) if failure else (lost, None)
            self.ended_by = "failure"
            for source in self.sources:  # the last daemon may have died before it told all of them
                if source.is_open:
                    source.fail(self.error, now_ns)
            self._take(Event.FAILS)

    def close_rings(self) -> None:
        """Close the rings. The segments stay."""
        for source, ring in zip(self.sources, self.rings, strict=True):
            source.leave_ring()
            ring.close()

    def remove_rings(self) -> list[int]:
        """Remove the rings; returns their last descriptors (see :meth:`SourceRing.remove`)."""
        for source in self.sources:
            source.leave_ring()
        return [ring.remove() for ring in self.rings]

    def ring_producers(self) -> None:
        """Wake the producers that wait for free slots or for the end."""
        for ring in self.rings:
            ring.ring_producer()

    @property
    def failure(self) -> StreamFailedError | None:
        """The error for producers and waiting clients: why the stream has failed, and what is lost."""
        return StreamFailedError.of(self.error, self.loss) if self.error is not None else None

    @property
    def has_kept_frames(self) -> bool:
        """Whether the stream has failed and its rings may still be needed.

        They may hold frames that are not on disk. Or the dataset was moved, and its final metadata are missing.
        """
        if self.state is not State.FAILED or not self.has_rings:
            return False
        unfinished = self.error is not None and self.error.code == "dataset_replaced"
        return unfinished or any(source.lost_frames for source in self.sources)

    # -- frames in ------------------------------------------------------------------------------

    @property
    def takes_frames(self) -> bool:
        return self.state is State.ACTIVE

    def poll(self, now_ns: int, numbers: Iterable[int] | None = None) -> list[Source]:
        """Take in new frames of all sources, or of those with ``numbers``; returns the sources that have ended by it.

        After the last declared frames the stream drains. Raises OmewdError ``bad_ring``.
        """
        looked_at = self.sources if numbers is None else [self.sources[n] for n in numbers]
        were_open = [source for source in looked_at if source.is_open and self.takes_frames]
        for source in were_open:
            source.poll(now_ns)
        ended = [source for source in were_open if not source.is_open]
        if ended:
            self._drain_if_ended()
        return ended

    def stop(self, why: str, now_ns: int, source: Source | None = None) -> None:
        """Take no more frames, or none from one source. Those published by now are written."""
        if not self.takes_frames:
            return
        for each in self.sources if source is None else [source]:
            each.stop(why, now_ns)
        self._drain_if_ended()

    def _drain_if_ended(self) -> None:
        if not any(source.is_open for source in self.sources):
            self._take(Event.CLOSED)
            reasons = dict.fromkeys(source.ended_by for source in self.sources)
            self.ended_by = ", ".join(reasons)

    # -- units out ------------------------------------------------------------------------------

    @property
    def gives_jobs(self) -> bool:
        """Whether write units may be given to writers."""
        return self.state in (State.ACTIVE, State.DRAINING) and self.drive.paused is None

    def note_retry(self) -> None:
        """Count a job that is run again."""
        self._retries += 1

    @property
    def retries(self) -> int:
        """How many jobs had to be run again, including those for the dataset's metadata."""
        return self._retries + self.dataset.retries

    @property
    def waits_for_space(self) -> bool:
        """Whether jobs wait while the disk is full, instead of failing the stream."""
        return self.spec.on_disk_full != "fail"

    def written_to_disk(self, job: WriteUnits, result: Written, now_ns: int) -> bool:
        """Note that a job's units are on disk; returns whether a producer waits for the released slots."""
        source = self.sources[job.source]
        released = source.written_to_disk(job, result.frames, result.stored_bytes)
        report = Histogram()
        report.add(now_ns - result.done_ns, result.frames)
        self.waits.add({**result.waits, "report": report}, now_ns)
        self.contrast.found.add(result.contrast)
        self.drive.report(result.drive, result.free_bytes, result.io)
        return released and source.ring is not None and source.ring.producer_waits

    def maintenance_due(self, now_ns: int, changed: Iterable[int]) -> Iterable[GrowShape | SealShards]:
        """The jobs that the dataset needs now, for example as frames of the ``changed`` sources were written."""
        if self.state not in (State.ACTIVE, State.DRAINING) or self.drive.paused is not None:
            return ()
        sources, is_ending = [self.sources[n] for n in changed], self.state is State.DRAINING
        return self.dataset.maintenance.due(self.id, self.sources, sources, now_ns, is_ending=is_ending)

    def take_contrast(self, now_ns: int) -> tuple[Window, ...] | None:
        """The windows to put into the dataset now: see :meth:`ShownContrast.take`."""
        return self.contrast.take(self.spec, now_ns) if self.state is State.ACTIVE else None

    @property
    def drained(self) -> bool:
        """Whether the stream takes no more frames and everything is written."""
        return self.state is State.DRAINING and all(source.drained for source in self.sources)

    @property
    def received(self) -> int:
        return sum(source.received for source in self.sources)

    @property
    def written(self) -> int:
        return sum(source.written for source in self.sources)

    @property
    def gaps(self) -> int:
        return sum(sum(source.gaps.values()) for source in self.sources)

    @property
    def in_flight(self) -> int:
        """Frames that were received and are neither on disk nor lost."""
        return sum(source.in_flight for source in self.sources)

    @property
    def safe_below(self) -> tuple[int, ...]:
        """For each source, all frame indexes below this one are in finished units."""
        return tuple(source.safe_below for source in self.sources)

    def tell_loss(self) -> None:
        """Find the loss of a failed stream and report it, also in the rings.

        The ledger's totals decide, if they are known; otherwise frames count as lost that no writer has reported.
        """
        assert self.error is not None
        for source in self.sources:
            if self.dataset.by_ledger is None:
                source.find_lost()
            else:
                source.count_by(self.dataset.by_ledger[source.number])
        self.loss = Loss(
            received=self.received,
            frames=sum(source.lost_frames for source in self.sources),
            by_source=tuple((source.name, source.lost[:_LOST_RUNS]) for source in self.sources),
        )
        for source in self.sources:
            source.tell(self.error, self.loss)
