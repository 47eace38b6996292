"""One stream as the daemon sees it: its sources, its rings, its state. No I/O but the rings'.

What leads from one state to the next is in :mod:`omewd.daemon.streams.transitions`. Where that says that something is
to be done, a method here returns it, and its caller does it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from omewd.daemon.datasets.dataset import Dataset, Phase
from omewd.daemon.jobs.tasks import Owner
from omewd.daemon.streams.source import Source
from omewd.daemon.streams.source_ring import SourceRing
from omewd.daemon.streams.transitions import Action, Event, Facts, State, decide
from omewd.errors import Loss, OmewdError, StreamFailedError
from omewd.model.contrast import MOST_CHANNELS, Contrast, Window
from omewd.model.spec.spec import StreamSpec
from omewd.model.totals import Totals
from omewd.model.waits import Histogram, RecentWaits
from omewd.protocol.jobs.frames import GrowShape, SealShards, WriteUnits, Written
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import STATE_FAILED, Geometry

# Which frames are lost follows from the ledger too; an error tells this many runs of each source.
_LOST_RUNS = 1000
_SHOW_CONTRAST_NS = 1_000_000_000
# Each takes a file that is synced; of more images the end is early enough.
_MOST_IMAGES_SHOWN = 64
_PHASES = {
    State.STARTING: Phase.MAKING,
    State.ACTIVE: Phase.WRITING,
    State.DRAINING: Phase.WRITING,
    State.FINALIZING: Phase.ENDING,
    State.DONE: Phase.ENDING,
    State.FAILED: Phase.ENDING,
}


@dataclass
class Stream:
    """``spec`` is an outline; ``fields`` are what it was made of, and ``details`` are its details (see
    :mod:`omewd.model.spec.outline`). ``auto_name``: the number in a name that the daemon chose, 0 if it did not.

    ``rings``: what each source's ring is in, in the order of the sources. ``wants_memory``: they are being allocated.
    ``owner``: whoever is told what becomes of its jobs.

    ``settled``: nothing more will happen to it, the last metadata is written (or could not be).

    ``backend``: of spec "auto" the one that is hoped for, until a writer has looked at the disk; ``backend_reason``:
    why not that one. ``disk_io``: how bytes get to the disk. ``was_active``: its dataset was made. ``error``: why
    it has failed; ``loss``: what is lost by that, None as long as that is not known. ``paused``: why no
    new jobs are given out, until one that waits has succeeded. ``contrast``: of what was written since the daemon is
    there; ``contrast_shown``: whether it has been put into the dataset while frames come.
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
    owner: Owner = field(init=False)
    wants_memory: bool = False
    state: State = State.STARTING
    settled: bool = False
    was_active: bool = False
    backend_reason: str = ""
    error: OmewdError | None = None
    loss: Loss | None = None
    ended_by: str = ""
    ended_ns: int | None = None
    _retries: int = 0
    paused: OmewdError | None = None
    disk_free_bytes: int | None = None
    disk_io: str | None = None
    waits: RecentWaits = field(default_factory=RecentWaits)
    contrast: Contrast = field(default_factory=Contrast)
    contrast_shown: bool = False

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
        """A stream with its sources; all of them have a ring of the same ``geometry``."""
        sources = [Source(number, source, spec, backend, geometry) for source in range(spec.sources)]
        return cls(number, spec, backend, dataset, started_ns, sources, fields or {}, details, auto_name, rings)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def may_change_name(self) -> bool:
        """Whether the daemon chose its name, and nobody knows of it yet."""
        return self.state is State.STARTING and bool(self.auto_name) and not self.fields.get("output")

    @property
    def epoch(self) -> int:
        return self.sources[0].geometry.epoch

    @property
    def ring_bytes(self) -> int:
        """Bytes of all its rings."""
        return sum(source.geometry.total_bytes for source in self.sources)

    @property
    def has_rings(self) -> bool:
        return all(source.ring is not None for source in self.sources)

    # -- from state to state -------------------------------------------------------------------

    def _take(self, event: Event) -> tuple[Action, ...]:
        """Go to the state that follows an event; returns what is to be done."""
        facts = Facts(
            drained=self.drained,
            complete=self.in_flight == 0,
            has_dataset=self.was_active and self.has_rings,
            is_ending=self.ended_ns is not None,
        )
        self.state, actions = decide(self.state, event, facts)
        if not self.settled:
            self.dataset.enter(_PHASES[self.state])
        return actions

    def owned_by(self, owner: Owner) -> None:
        """Whoever is told of its jobs' ends."""
        self.owner = owner

    def placed(self, backend: str, reason: str, geometry: Geometry) -> None:
        """A writer has looked at the disk: this backend serves. Its write units may want a ring of another geometry."""
        self.backend, self.backend_reason = backend, reason
        for source in self.sources:
            source.write_with(backend, geometry)
        self.wants_memory = True

    def allocated(self) -> tuple[Action, ...]:
        """Its rings can be used."""
        self.wants_memory = False
        return self._take(Event.ALLOCATED)

    def made(self, leftovers: bool) -> tuple[Action, ...]:
        """Its dataset is on disk; ``leftovers``: it has replaced another one."""
        if self.state is State.STARTING:
            self.was_active = True
            self.dataset.note_leftovers(leftovers)
        return self._take(Event.MADE)

    def making_lost(self) -> tuple[Action, ...]:
        """The writer that made its dataset has died with that half done."""
        return self._take(Event.MAKING_LOST)

    def idle(self, now_ns: int) -> tuple[Action, ...]:
        """No job of it waits or is out."""
        actions = self._take(Event.IDLE)
        if self.state is State.FAILED and self.ended_ns is None:
            self.ended_ns = now_ns
        return actions

    def finalized(self, by_ledger: Sequence[Totals], now_ns: int) -> tuple[Action, ...]:
        """The last metadata is on disk; ``by_ledger``: what became of each source's frames, by the ledger."""
        self.dataset.finalized(by_ledger)
        if self.state is State.FINALIZING:
            self.ended_ns = now_ns
        return self._take(Event.FINALIZED)

    def not_finalized(self) -> tuple[Action, ...]:
        """The last metadata of a failed stream can't be written."""
        return self._take(Event.NOT_FINALIZED)

    def fail(self, error: OmewdError, now_ns: int) -> tuple[Action, ...]:
        """End in failure; the reason is left where the producers find it at their next call."""
        if self.state not in (State.DONE, State.FAILED):
            self.wants_memory = False
            self._leave_reason(error, now_ns)
        return self._take(Event.FAILS)

    def _leave_reason(self, error: OmewdError, now_ns: int) -> None:
        for source in self.sources:
            source.fail(error, now_ns)
        self.error = error
        self.ended_by = self.ended_by or "failure"

    def tell_unaccounted(self, now_ns: int) -> None:
        """All jobs are done, and not all frames are accounted for."""
        error = OmewdError(
            "frames_unaccounted",
            f"{self.in_flight} of {self.received} frames are unaccounted for after writing all units",
        )
        self._leave_reason(error, now_ns)

    def finish_rings(self) -> None:
        """The dataset is complete: the producers see it in their rings."""
        for source in self.sources:
            source.finish()

    def settle(self) -> None:
        """Nothing more will happen to it."""
        self.settled = True
        self.dataset.enter(Phase.AT_REST)

    def name_taken(self, error: OmewdError) -> None:
        """The name that the daemon chose is taken on disk: it never was a stream."""
        self.error = error
        self.settle()

    def resume(self, rings: list[DaemonRing], now_ns: int) -> None:
        """Go on where another daemon was, or after a failure; ``rings`` have been resumed."""
        for source, ring in zip(self.sources, rings, strict=True):
            source.resume(ring, now_ns)
        self.settled, self.error, self.loss, self.ended_ns, self.paused = False, None, None, None, None
        self.dataset.reopened()
        self.was_active = True
        self._take(Event.RESUMED)
        self._drain_if_ended()
        failed = next((ring for ring in rings if ring.state == STATE_FAILED), None)
        if failed is not None:
            failure = failed.failure
            lost = OmewdError("reason_lost", "it failed, and the reason was lost with the last daemon")
            self.error, self.loss = (failure.reason, failure.loss) if failure else (lost, None)
            self.ended_by = "failure"
            for source in self.sources:  # the last daemon may have died before it had told all of them
                if source.is_open:
                    source.fail(self.error, now_ns)
            self._take(Event.FAILS)

    def close_rings(self) -> None:
        """Let go of its rings; the segments stay."""
        for source, ring in zip(self.sources, self.rings, strict=True):
            source.leave_ring()
            ring.close()

    def ring_producers(self) -> None:
        """Wake the producers that wait for room, or for the end."""
        for ring in self.rings:
            ring.ring_producer()

    @property
    def failure(self) -> StreamFailedError | None:
        """Why it has failed and what is lost by that, as producers and waiting clients get it."""
        return StreamFailedError.of(self.error, self.loss) if self.error is not None else None

    @property
    def has_kept_frames(self) -> bool:
        """It has failed, and what is in its rings may still be wanted: frames that are not on disk.

        Or all are, in a dataset that is not in its place, and has no last metadata yet.
        """
        if self.state is not State.FAILED or not self.has_rings:
            return False
        unfinished = self.error is not None and self.error.code == "dataset_replaced"
        return unfinished or any(source.lost_frames for source in self.sources)

    # -- frames in ------------------------------------------------------------------------------

    @property
    def takes_frames(self) -> bool:
        return self.state is State.ACTIVE

    def poll(self, now_ns: int) -> None:
        """Take note of new frames; with the last declared ones the stream drains. Raises OmewdError ``bad_ring``."""
        if self.takes_frames:
            for source in self.sources:
                source.poll(now_ns)
            self._drain_if_ended()

    def stop(self, why: str, now_ns: int, source: Source | None = None) -> None:
        """Take no more frames, or none of one source; what has been published by now is written."""
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
        return self.state in (State.ACTIVE, State.DRAINING) and self.paused is None

    def pause(self, error: OmewdError) -> None:
        """Give out no new jobs: there is no space for them."""
        self.paused = error

    def go_on(self) -> None:
        """There is space again."""
        self.paused = None

    def note_retry(self) -> None:
        """A job of it is done once more."""
        self._retries += 1

    @property
    def retries(self) -> int:
        """How many jobs had to be done once more, those for the dataset's metadata among them."""
        return self._retries + self.dataset.retries

    @property
    def waits_for_space(self) -> bool:
        """Whether its jobs wait while the disk is full."""
        return self.spec.on_disk_full == "wait"

    def written_to_disk(self, job: WriteUnits, result: Written, now_ns: int) -> bool:
        """A job's units are on disk; returns whether a producer waits for the slots that were given back."""
        source = self.sources[job.source]
        released = source.written_to_disk(job, result.frames, result.stored_bytes)
        report = Histogram()
        report.add(now_ns - result.done_ns, result.frames)
        self.waits.add({**result.waits, "report": report}, now_ns)
        self.contrast.add(result.contrast)
        self.disk_free_bytes, self.disk_io = result.free_bytes, result.io
        return released and source.ring is not None and source.ring.producer_waits

    def maintenance_due(self, now_ns: int) -> Iterable[GrowShape | SealShards]:
        """The jobs that its dataset needs now beside its write units."""
        if self.state is not State.ACTIVE or self.paused is not None:
            return ()
        return self.dataset.maintenance.due(self.id, self.sources, now_ns)

    def take_contrast(self, now_ns: int) -> tuple[Window, ...] | None:
        """The windows to put into the dataset, once frames of all channels have come; None before, and afterwards.

        Not in the first second: a short stream has them in its last metadata, and no sync more for it.
        """
        if self.contrast_shown or not self.contrast or now_ns - self.started_ns < _SHOW_CONTRAST_NS:
            return None
        channels = next((d.count or 1 for d in self.spec.dimensions[:-2] if d.type == "channel"), 1)
        every = len(self.contrast) >= min(channels, MOST_CHANNELS)
        self.contrast_shown = self.state is State.ACTIVE and self.spec.images <= _MOST_IMAGES_SHOWN and every
        return self.contrast.windows if self.contrast_shown else None

    @property
    def drained(self) -> bool:
        """Nothing is left to write of a stream that takes no more frames."""
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
        """Frames that were handed over and are neither on disk nor given up."""
        return sum(source.in_flight for source in self.sources)

    @property
    def safe_below(self) -> tuple[int, ...]:
        """For each source: all frame indexes below are in units that are done."""
        return tuple(source.safe_below for source in self.sources)

    def tell_loss(self) -> None:
        """Find what is lost of a failed stream, and say so, also to the producers.

        That is what its ledger says of each source, if that is known, else what no writer has reported.
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
