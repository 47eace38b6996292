"""The daemon's streams: opening them within the memory budget, and letting go of what they hold."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from omewd.daemon.config import RING_TARGET_BYTES, ServeConfig
from omewd.daemon.control.server import Peer
from omewd.daemon.processes import shared_memory
from omewd.daemon.state.journal import ACTIVE, STARTING, SWEEP, Journal, boot_id
from omewd.daemon.state.kept import KeptRing
from omewd.daemon.streams.rings import HeldRing, Holding
from omewd.daemon.streams.stream import Stream
from omewd.errors import OmewdError
from omewd.model.plan.memory import index_cause, writer_need_bytes
from omewd.model.plan.plan import Budget, Plan, choose_capacity
from omewd.model.spec.outline import MAX_SPEC_BYTES, require_small, split
from omewd.model.spec.spec import DIRECT, StreamSpec
from omewd.process.faultpoints import point
from omewd.process.locks import try_lock
from omewd.protocol.status import MemoryStatus
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import PAGE, Geometry, slot_header_stride, slot_stride
from omewd.ring.segment import PRODUCER_BYTE, Segment

log = structlog.get_logger("streams")

MAX_OPEN_STREAMS = 256
KEPT_ENDED_STREAMS = 64
# Header pages of a ring, and what rounding to pages adds.
_FIXED_BYTES = 4 * PAGE


class Streams:
    """``open``: streams that still do something, by id; ``ended``: the last ones that ended, by name.

    ``kept``: what could not be taken over of the last daemon's streams, by name. It counts in the memory budget, and
    no other stream may replace its dataset.
    """

    def __init__(self, config: ServeConfig, journal: Journal, instance: str) -> None:
        self._config = config
        self._journal = journal
        self._instance = instance
        self._last_id = 0
        self.open: dict[int, Holding] = {}
        self.kept: dict[str, KeptRing] = {}
        self.ended: dict[str, Stream] = {}

    # -- looking up ----------------------------------------------------------------------------

    def named(self, name: object, number: object = None) -> Stream:
        """The open stream of that name, else the last ended one; with ``number`` the one of that id.

        Raises OmewdError ``unknown_stream``.
        """
        for candidate in (*(h.stream for h in self.open.values()), *self.ended.values()):
            if number is not None and candidate.id == number:
                return candidate
        holding = self.holding(name) if number is None else None
        stream = holding.stream if holding else self.ended.get(str(name)) if number is None else None
        if stream is None:
            names = ", ".join(sorted(h.stream.spec.name for h in self.open.values())) or "none"
            raise OmewdError(
                "unknown_stream", f"there is no stream {str(name)[:80]!r} (open: {names})", "See omewd status"
            )
        return stream

    def holding(self, name: object) -> Holding | None:
        return next((h for h in self.open.values() if h.stream.spec.name == name), None)

    def free_name(self, after: int = 0) -> tuple[str, int]:
        """The first of stream1, stream2, … with a number above ``after`` that is not in use, and its number."""
        taken = {h.stream.spec.name for h in self.open.values()} | set(self.ended) | set(self.kept)
        number = after + 1
        while f"stream{number}" in taken:
            number += 1
        return f"stream{number}", number

    # -- memory --------------------------------------------------------------------------------

    def ring_bytes(self, without: Holding | None = None) -> int:
        kept = sum(kept.ring_bytes for kept in self.kept.values())
        return kept + sum(h.stream.ring_bytes for h in self.open.values() if h is not without)

    def writer_bytes(self, of_one_more: int = 0, without: Holding | None = None) -> int:
        """What the writers may hold beside the rings: each one unit at a time, in a few copies."""
        needs = (writer_need_bytes(h.stream.spec, h.stream.backend) for h in self.open.values() if h is not without)
        return self._config.writers * max([of_one_more, *needs])

    def memory(self) -> MemoryStatus:
        return MemoryStatus(self._config.memory_bytes, self.ring_bytes(), self.writer_bytes())

    # -- opening and closing -------------------------------------------------------------------

    def admit(self, fields: Any, details: bytes, now_ns: int, after: int = 0) -> Holding:
        """Check a request for a stream and make its (still empty) ring; the writers look at the details of its spec.

        Without a name it gets the first free of stream1, stream2, … with a number above ``after``.
        Raises OmewdError with the numbers and a remedy; nothing is left behind then.
        """
        if not isinstance(fields, dict):
            raise OmewdError("bad_spec", f"a stream's specification is a JSON object, not a {type(fields).__name__}")
        auto_name = 0
        if not fields.get("name"):
            name, auto_name = self.free_name(after)
            fields = {**fields, "name": name}
        fields, found = split(fields)
        if found and details:
            raise OmewdError("bad_spec", "the details of a stream are either attached or in its specification")
        details = found or details
        if len(details) > MAX_SPEC_BYTES:
            raise OmewdError(
                "bad_spec",
                f"{len(details)} bytes of coords and plate are over the limit of {MAX_SPEC_BYTES}",
                "Say less of each element, or use several datasets",
            )
        require_small(fields)
        spec = StreamSpec.parse(fields)
        if self.holding(spec.name):
            raise OmewdError(
                "stream_exists", f"a stream {spec.name!r} is open", "Choose another name, or stop it first"
            )
        if spec.name in self.kept:
            raise OmewdError(
                "stream_exists",
                f"a stream {spec.name!r} of the last daemon could not be taken over, and its ring is kept",
                "Choose another name, or see omewd status for what to do with it",
            )
        if len(self.open) >= MAX_OPEN_STREAMS:
            raise OmewdError("busy", f"{MAX_OPEN_STREAMS} streams are open already", "Stop some")
        dataset, root = self._place(spec)
        backend = DIRECT if spec.backend == "auto" else spec.backend
        geometry = Geometry.plan(
            name=spec.name,
            epoch=secrets.randbits(63),
            capacity=self._capacity(spec, backend),
            frame_shape=spec.frame_shape,
            dtype=spec.dtype,
            backpressure=spec.backpressure,
            frames_total=Plan.of(spec).frames_total,
        )
        self._last_id += 1
        stream = Stream.of(
            self._last_id,
            spec,
            backend,
            geometry,
            dataset,
            root,
            started_ns=now_ns,
            fields=fields,
            details=details,
        )
        holding = self._hold(stream)
        holding.request, holding.auto_name = fields, auto_name
        self.open[stream.id] = holding
        return holding

    def _hold(self, stream: Stream) -> Holding:
        """Make what an open stream holds, all of it or nothing."""
        holding = Holding(stream, [])
        with contextlib.ExitStack() as undo:
            try:
                for source in stream.sources:
                    name = f"/{self._instance}-{stream.id}-{source.number}-{stream.spec.name}"
                    descriptor = shared_memory.create(name, source.geometry)
                    undo.callback(shared_memory.unlink, name)
                    holding.rings.append(HeldRing(name, descriptor))
                    undo.callback(holding.rings[-1].close)
                point("daemon: ring made")
                self._write_journal(holding, STARTING)
                point("daemon: journal written")
            except OSError as error:
                raise OmewdError(
                    "no_resources",
                    f"the stream can't be opened: {error.strerror or error}",
                    "See the limit of open files and the state directory of the daemon",
                ) from error
            undo.pop_all()
        return holding

    def note_active(self, holding: Holding) -> None:
        """Put on record that a stream takes frames; raises OmewdError ``no_resources`` if that can't be."""
        try:
            self._write_journal(holding, ACTIVE)
        except OSError as error:
            raise OmewdError(
                "no_resources",
                f"the journal can't be written: {error.strerror or error}",
                "See the state directory of the daemon",
            ) from error

    def _write_journal(self, holding: Holding, phase: str) -> None:
        stream = holding.stream
        entry = {
            "phase": phase,
            "boot": boot_id(),
            "id": stream.id,
            "epoch": stream.epoch,
            "spec": stream.fields,
            "details": stream.details.decode(errors="replace"),
            "dataset": str(stream.dataset),
            "root": str(stream.root),
            "place": str(holding.place) if holding.place else None,
            "backend": stream.backend,
            "leftovers": holding.leftovers,
            "shared_memory": [ring.shared_memory for ring in holding.rings],
        }
        self._journal.write(stream.spec.name, entry)

    def adopt(self, holding: Holding) -> None:
        """Add a stream that another daemon had open."""
        self.open[holding.stream.id] = holding

    def count_from(self, number: int) -> None:
        """Give no id again up to a number: a new ring must not get the name of an old one."""
        self._last_id = max(self._last_id, number)

    def write_with(self, holding: Holding, backend: str) -> None:
        """Note which backend it is that serves; its write units may be others, and want another ring.

        The ring has no memory yet. Raises OmewdError with the numbers and a remedy.
        """
        stream = holding.stream
        if backend == stream.backend:
            return
        capacity = self._capacity(stream.spec, backend, without=holding)
        geometry = replace(stream.sources[0].geometry, capacity=capacity)
        for ring in holding.rings:
            os.ftruncate(ring.descriptor, geometry.total_bytes)
        stream.write_with(backend, geometry)

    def _capacity(self, spec: StreamSpec, backend: str, without: Holding | None = None) -> int:
        """How many slots each ring of a stream gets: all of them are alike."""
        rings = spec.sources
        slot_bytes = rings * (slot_stride(spec.frame_bytes) + slot_header_stride(spec.frame_bytes))
        budget = self._config.memory_bytes
        return choose_capacity(
            Plan.of(spec, backend),
            slot_bytes,
            Budget(
                budget - self.ring_bytes(without) - rings * _FIXED_BYTES,
                self.writer_bytes(writer_need_bytes(spec, backend), without),
                rings,
                index_cause(spec, backend),
            ),
            target_bytes=min(RING_TARGET_BYTES, budget // 8),
            writers=self._config.writers,
            wanted_slots=spec.ring_slots,
            writer_bytes_of=lambda plan: self.writer_bytes(writer_need_bytes(spec, backend, plan), without),
        )

    def _place(self, spec: StreamSpec) -> tuple[Path, Path]:
        """Where a stream's dataset goes, and the data root it is under.

        Only the path itself is judged here; the writer that makes it follows symbolic links.
        """
        roots = self._config.data_roots
        dataset = Path(os.path.normpath(roots[0] / spec.output))
        root = next((r for r in roots if dataset != r and dataset.is_relative_to(r)), None)
        if root is None:
            raise OmewdError(
                "outside_roots",
                f"the output {spec.output!r} is outside the data roots: {', '.join(map(str, roots))}",
                "Choose an output inside one of them, or start the daemon with another one: omewd serve --data-root",
            )
        for holding in self.open.values():
            _refuse_overlap(
                dataset, holding.stream.dataset, f"which the open stream {holding.stream.spec.name!r} writes"
            )
        for kept in self.kept.values():
            _refuse_overlap(dataset, kept.dataset, f"of stream {kept.name!r}, whose ring is kept (see omewd status)")
        return dataset, root

    def settle_on(self, holding: Holding, place: Path) -> None:
        """Note where a stream's dataset really is; raises OmewdError ``output_exists`` if another is there."""
        for other in self.open.values():
            if other.place is not None and other is not holding:
                _refuse_overlap(place, other.place, f"which the open stream {other.stream.spec.name!r} writes")
        for kept in self.kept.values():
            _refuse_overlap(place, kept.place, f"of stream {kept.name!r}, whose ring is kept (see omewd status)")
        holding.place = place

    def allocate(self, holding: Holding) -> bool:
        """Allocate a step of a stream's memory; True once its rings can be used."""
        sources = list(zip(holding.stream.sources, holding.rings, strict=True))
        if not holding.rings[0].allocated_bytes:
            shared_memory.check_room(holding.stream.ring_bytes)
        source, ring = next(pair for pair in sources if pair[0].ring is None)
        ring.allocated_bytes = shared_memory.allocate(ring.descriptor, source.geometry, ring.allocated_bytes)
        if ring.allocated_bytes < source.geometry.total_bytes:
            return False
        ring.segment = Segment(os.dup(ring.descriptor), source.geometry, writable=True, guarded=True)
        source.ring = DaemonRing(ring.segment)
        source.ring.format()
        if not holding.stream.has_rings:
            return False
        holding.wants_memory = False
        point("daemon: ring formatted")
        return True

    def attach(self, holding: Holding, number: int, peer: Peer) -> int:
        """A descriptor of a source's ring for its one producer; it carries the lock that says the producer lives.

        Raises OmewdError ``producer_exists``.
        """
        ring, source = holding.rings[number], holding.stream.sources[number]
        descriptor = shared_memory.reopen(ring.shared_memory)
        if not try_lock(descriptor, PRODUCER_BYTE):
            os.close(descriptor)
            of_source = f" for source {source.name!r}" if source.name else ""
            raise OmewdError(
                "producer_exists",
                f"stream {source.spec.name!r} has a producer already{of_source} (process {source.producer_pid})",
                "A source takes one camera; connect to another source, or start another stream for another camera",
            )
        self._note_producer(holding, number, peer)
        return descriptor

    def reattach(self, holding: Holding, number: int, peer: Peer) -> None:
        """A producer that has been there before the daemon was started again; raises OmewdError ``producer_exists``."""
        ring, held = holding.stream.sources[number].ring, holding.rings[number]
        if ring is None or ring.producer != peer.pid:
            raise OmewdError("producer_exists", f"process {peer.pid} is not the producer of this stream")
        if held.producer is not None:  # it has hung up, and its new connection is heard before the end of the old one
            held.producer.attached = None
        self._note_producer(holding, number, peer)

    @staticmethod
    def _note_producer(holding: Holding, number: int, peer: Peer) -> None:
        source = holding.stream.sources[number]
        holding.rings[number].producer = peer
        source.producer_pid = peer.pid
        if source.ring is not None:
            source.ring.producer = peer.pid
        peer.attached = holding.stream.id, number

    def leave(self, holding: Holding) -> None:
        """Let go of an open stream, but leave its ring and its journal to the next daemon."""
        del self.open[holding.stream.id]
        for source, ring in zip(holding.stream.sources, holding.rings, strict=True):
            source.ring = None
            ring.close()

    def discard(self, holding: Holding) -> None:
        """Let go of all that an open stream holds, and forget it."""
        stream = holding.stream
        self.leave(holding)
        for ring in holding.rings:
            shared_memory.unlink(ring.shared_memory)
        point("daemon: ring removed")
        try:
            if holding.leftovers:  # until they are swept away
                self._journal.set_apart(stream.spec.name, SWEEP, stream.epoch)
            else:
                self._journal.remove(stream.spec.name, stream.epoch)
        except OSError as error:
            log.error("the journal keeps a stream that has ended", stream=stream.spec.name, error=str(error))

    def swept(self, epoch: int) -> None:
        """What the dataset of the stream of an epoch had replaced is gone."""
        for holding in self.open.values():  # one that has failed, and whose ring is kept
            holding.leftovers = holding.leftovers and holding.stream.epoch != epoch
        try:
            self._journal.done(SWEEP, epoch)
        except OSError as error:
            log.error("the journal keeps what is done", epoch=epoch, error=str(error))

    def release(self, holding: Holding) -> None:
        """Let go of an ended stream's ring, and keep the stream for status."""
        self.discard(holding)
        stream = holding.stream
        stream.settled = True
        self.ended.pop(stream.spec.name, None)
        self.ended[stream.spec.name] = stream
        while len(self.ended) > KEPT_ENDED_STREAMS:
            del self.ended[next(iter(self.ended))]


def _refuse_overlap(dataset: Path, other: Path | None, whose: str) -> None:
    if other is not None and (dataset.is_relative_to(other) or other.is_relative_to(dataset)):
        raise OmewdError("output_exists", f"{dataset} overlaps {other}, {whose}", "Choose another output")
