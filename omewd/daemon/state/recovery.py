"""Going on after a daemon that was killed: its streams, by the journal and their rings; and what belongs to none."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import structlog

from omewd.daemon.jobs.dispatcher import Dispatcher
from omewd.daemon.jobs.results import Outcomes
from omewd.daemon.loop import Loop
from omewd.daemon.processes import shared_memory
from omewd.daemon.state.journal import RECOVER, STARTING, SWEEP, UNDO, Journal, boot_id
from omewd.daemon.state.kept import KeptRing
from omewd.daemon.streams.rings import HeldRing, Holding
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.model.spec.outline import split
from omewd.model.spec.spec import StreamSpec
from omewd.process.faultpoints import point
from omewd.protocol.jobs import NO_STREAM, Job, JobKind
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import STATE_DONE
from omewd.ring.segment import Segment

log = structlog.get_logger("recovery")

# What an entry of the journal has; see Streams.
_ENTRY = {"phase", "boot", "id", "epoch", "spec", "dataset", "root", "place", "backend", "leftovers", "shared_memory"}
_KINDS: dict[str, JobKind] = {UNDO: "undo", RECOVER: "recover", SWEEP: "sweep"}


class Recovery:
    """Runs once, before anything else does; the writers of the last daemon are fenced off by then."""

    def __init__(
        self,
        loop: Loop,
        streams: Streams,
        dispatcher: Dispatcher,
        outcomes: Outcomes,
        journal: Journal,
        instance: str,
        scratch: Path,
    ) -> None:
        self._loop, self._streams, self._dispatcher = loop, streams, dispatcher
        self._outcomes, self._journal = outcomes, journal
        self._instance, self._scratch = instance, scratch

    def run(self) -> None:
        """Take over every stream in the journal, and remove what the last daemon has left of none in memory.

        A ring that can't be taken over is kept, with its entry, unless it is certain that there is nothing in it.
        """
        for name, entry in list(self._journal.entries()):
            try:
                self._take_over(name, entry)
            except Exception as error:  # noqa: BLE001  whatever is wrong with one must not keep the others from going on
                self._keep(name, entry, error)
        kept = {name for ring in self._streams.kept.values() for name in ring.shared_memory}
        rings = {ring.shared_memory for holding in self._streams.open.values() for ring in holding.rings}
        for path in Path("/dev/shm").glob(f"{self._instance}-*"):
            number = path.name.removeprefix(f"{self._instance}-").partition("-")[0]
            if number.isdecimal():
                self._streams.count_from(int(number))
            if path.lstat().st_uid != os.geteuid() or f"/{path.name}" in rings or path == self._scratch:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif f"/{path.name}" not in kept:
                shared_memory.unlink(f"/{path.name}")

    def _keep(self, name: str, entry: dict[str, Any], error: Exception) -> None:
        if self._journal.kind_of(name):  # no ring is left of it
            log.error("what a stream of the last daemon has left can't be seen to", entry=name, reason=repr(error))
            return
        kept = KeptRing.of(name, entry, error, self._instance)
        self._streams.kept[name] = kept
        log.error(
            "a stream of the last daemon can't be taken over; its ring and its journal are kept",
            stream=name,
            reason=str(kept.error),
            rings=list(kept.paths),
            dataset=str(kept.dataset),
        )

    def take_over_again(self, name: str) -> None:
        """Try a kept ring again; raises OmewdError if it can't be taken over this time either."""
        entry = self._journal.read(name)
        try:
            self._take_over(name, entry)
        except Exception as error:
            self._keep(name, entry, error)
            kept = self._streams.kept[name]
            raise OmewdError(
                kept.error.code,
                f"the ring of stream {name!r} still can't be taken over: {kept.error.message}",
                kept.error.remedy or "omewd stop-stream lets it go, with the frames that are in it",
            ) from error
        kept = self._streams.kept.pop(name)
        if self._streams.holding(name) is None:  # only its dataset has to be seen to
            for segment in kept.shared_memory:
                shared_memory.unlink(segment)

    def let_go(self, kept: KeptRing) -> None:
        """Remove a kept ring, and have its dataset finalized to what its ledger has, if it is known which one that is.

        Raises OmewdError ``no_resources`` if the journal can't be written.
        """
        apart: str | None = None
        try:
            if kept.has_dataset:
                apart = self._journal.set_apart(kept.name, RECOVER, kept.entry["epoch"])
            else:
                self._journal.remove(kept.name, None)
        except OSError as error:
            raise OmewdError(
                "no_resources",
                f"the journal can't be written: {error.strerror or error}",
                "See the state directory of the daemon",
            ) from error
        point("daemon: kept ring let go")
        del self._streams.kept[kept.name]
        for name in kept.shared_memory:
            shared_memory.unlink(name)
        log.warning("a ring that could not be taken over is let go", stream=kept.name, rings=list(kept.paths))
        if apart is not None:
            self._submit(apart, kept.entry, RECOVER)

    def _take_over(self, name: str, entry: dict[str, Any]) -> None:
        if kind := self._journal.kind_of(name):
            self._submit(name, entry, kind)
            return
        if not isinstance(entry, dict) or not set(entry) >= _ENTRY:
            raise OmewdError("bad_journal", "its entry in the journal can't be read, or is not whole")
        self._streams.count_from(entry["id"])
        if entry["phase"] == STARTING:  # nobody has been told of it
            self._have_cleaned_up(name, entry, UNDO)
            return
        holding = None
        if entry["boot"] == boot_id():
            try:
                holding = self._holding(entry, time.monotonic_ns())
            except FileNotFoundError:
                log.error("a ring of a stream is gone", stream=name, rings=entry["shared_memory"])
            else:
                if holding is None:  # it was complete
                    self._have_cleaned_up(name, entry, SWEEP)
                    return
        else:
            log.error("the machine was restarted, and the rings of a stream are gone", stream=name)
        if holding is None:
            self._have_cleaned_up(name, entry, RECOVER)
            return
        self._streams.adopt(holding)
        stream = holding.stream
        log.warning(
            "stream taken over",
            stream=name,
            state=stream.state.value,
            received=stream.received,
            written=stream.written,
            in_flight=stream.in_flight,
        )

    @staticmethod
    def _holding(entry: dict[str, Any], now_ns: int) -> Holding | None:
        """What an open stream holds, made from its rings; None if the stream was complete.

        Raises FileNotFoundError if a ring is gone, OmewdError ``bad_ring`` if one is damaged; they stay as they are.
        """
        fields, details = details_of(entry)
        spec = StreamSpec.parse(fields)
        with contextlib.ExitStack() as undo:
            held: list[tuple[str, int, Segment]] = []
            rings: list[DaemonRing] = []
            names = entry["shared_memory"]
            for name in [names] if isinstance(names, str) else names:  # as omewd 0.1 had it before there were sources
                try:
                    descriptor = shared_memory.reopen(name)
                except FileNotFoundError as error:
                    if held:  # what is in the others must not go with it
                        raise OmewdError("bad_ring", f"its ring {name} is gone, others are there") from error
                    raise
                undo.callback(os.close, descriptor)
                segment = Segment.open(os.dup(descriptor), owner=os.geteuid(), writable=True, guarded=True)
                undo.callback(segment.close)
                if segment.geometry.epoch != entry["epoch"]:
                    raise OmewdError("bad_ring", f"its ring {name} is of another stream")
                rings.append(DaemonRing(segment))
                held.append((name, descriptor, segment))
            if not rings or len(rings) != spec.sources:
                raise OmewdError("bad_journal", f"it has {len(rings)} rings for {spec.sources} sources")
            if any(ring.state == STATE_DONE for ring in rings):
                for ring in rings:  # the last daemon may have died before it had told all of them
                    ring.finish()
                return None
            dataset, root = Path(entry["dataset"]), Path(entry["root"])
            number, backend, geometry = entry["id"], entry["backend"], held[0][2].geometry
            stream = Stream.of(
                number, spec, backend, geometry, dataset, root, started_ns=now_ns, fields=fields, details=details
            )
            for ring in rings:
                ring.resume()
            stream.resume(rings, now_ns)
            undo.pop_all()
        rings_held = [
            HeldRing(name, descriptor, allocated_bytes=segment.geometry.total_bytes, segment=segment)
            for name, descriptor, segment in held
        ]
        holding = Holding(stream, rings_held)
        holding.place = Path(entry["place"]) if entry["place"] else None
        holding.leftovers = entry["leftovers"]
        return holding

    def _have_cleaned_up(self, name: str, entry: dict[str, Any], kind: str) -> None:
        """Have a writer see to the dataset of a stream whose ring is no more; its entry goes when that is done.

        ``kind``: take it away ("undo"), finalize it ("recover"), or remove what it has replaced ("sweep").
        """
        self._submit(self._journal.set_apart(name, kind, entry["epoch"]), entry, kind)

    def _submit(self, name: str, entry: dict[str, Any], kind: str) -> None:
        fields, details = details_of(entry) if kind == RECOVER else (None, b"")
        job = Job(
            id=self._dispatcher.number(),
            stream=NO_STREAM,
            kind=_KINDS[kind],
            dataset=entry["dataset"],
            epoch=entry["epoch"],
            spec=fields,
            attachment=details,
        )
        self._dispatcher.submit(job)
        if kind == UNDO:  # what is left of it is removed next
            self._outcomes.on_done[job.id] = lambda: self._have_cleaned_up(name, entry, SWEEP)
        else:
            self._outcomes.on_done[job.id] = lambda: self._journal.remove(name, entry["epoch"])


def details_of(entry: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The outline and the details of a stream's spec in its entry in the journal."""
    fields, inside = split(entry["spec"])  # an entry of an earlier omewd has all in one
    return fields, inside or entry.get("details", "").encode()


def resume_failed(holding: Holding, now_ns: int) -> None:
    """The cause of a failure is mended: write what is still in the stream's rings."""
    rings = []
    for held in holding.rings:
        assert held.segment is not None
        rings.append(DaemonRing(held.segment))
        rings[-1].resume()
    for ring in rings:  # only now that all of them are sound
        ring.revive()
    holding.stream.resume(rings, now_ns)
    log.info("stream resumed", stream=holding.stream.spec.name, in_flight=holding.stream.in_flight)
