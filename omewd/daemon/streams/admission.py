"""Admits streams: checks the request, finds a place on disk and memory, and creates the rings."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from omewd.daemon.config import ServeConfig
from omewd.daemon.datasets.copy import DatasetCopy
from omewd.daemon.datasets.dataset import Dataset
from omewd.daemon.datasets.drive import Demand, check_space
from omewd.daemon.processes import shared_memory
from omewd.daemon.state.journal import Journal, boot_id, unwritten
from omewd.daemon.streams.memory import MemoryBudget
from omewd.daemon.streams.source_ring import SourceRing
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.daemon.streams.transitions import Action
from omewd.errors import OmewdError
from omewd.model.address import Address
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import first_choice
from omewd.model.spec.outline import MAX_SPEC_BYTES, require_small, split
from omewd.model.spec.spec import StreamSpec
from omewd.process.faultpoints import point
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import Geometry

MAX_OPEN_STREAMS = 256


class Admission:
    """Admits streams. ``instance``: the prefix of the names of this daemon's shared memory."""

    def __init__(
        self, config: ServeConfig, streams: Streams, memory: MemoryBudget, journal: Journal, instance: str
    ) -> None:
        self._config, self._streams, self._memory = config, streams, memory
        self._journal, self._instance = journal, instance

    def admit(self, fields: Any, details: bytes, now_ns: int, after: int = 0) -> Stream:
        """Check a request for a stream and create its rings, which have no memory yet. Writers check the details.

        A stream without a name gets the first free one of stream1, stream2, … with a number above ``after``.
        Raises OmewdError with the numbers and a remedy, and leaves nothing behind then.
        """
        if not isinstance(fields, dict):
            raise OmewdError(
                "bad_spec", f"a stream's specification must be a JSON object, not a {type(fields).__name__}"
            )
        auto_name = 0
        if not fields.get("name"):
            name, auto_name = self._streams.free_name(after)
            fields = {**fields, "name": name}
        fields, found = split(fields)
        if found and details:
            raise OmewdError("bad_spec", "a stream's details must be either attached or in its specification, not both")
        details = found or details
        if len(details) > MAX_SPEC_BYTES:
            raise OmewdError(
                "bad_spec",
                f"{len(details)} bytes of coords and plate are over the limit of {MAX_SPEC_BYTES}",
                "Give fewer fields for each element, or use several datasets",
            )
        require_small(fields)
        spec = StreamSpec.parse(fields)
        self._require_free(spec.name)
        path, root = self._place(spec)
        self._check_copy(spec)
        backend = first_choice(spec.backend).name
        epoch = secrets.randbits(63)
        geometry = Geometry.plan(
            name=spec.name,
            epoch=epoch,
            capacity=self._memory.capacity(spec, backend),
            frame_shape=spec.frame_shape,
            dtype=spec.dtype,
            backpressure=spec.backpressure,
            frames_total=Plan.of(spec).frames_total,
        )
        number = self._streams.new_id()
        with contextlib.ExitStack() as undo:
            try:
                stream = Stream.of(
                    number,
                    spec,
                    backend,
                    geometry,
                    Dataset(spec.name, path, root, epoch, copy=DatasetCopy.of(spec, path, epoch)),
                    started_ns=now_ns,
                    fields=fields,
                    details=details,
                    auto_name=auto_name,
                    rings=self._make_rings(number, spec, geometry, undo),
                )
                point("daemon: ring made")
            except OSError as error:
                raise OmewdError(
                    "no_resources",
                    f"the stream can't be opened: {error.strerror or error}",
                    "Check the limit of open files",
                ) from error
            undo.pop_all()
        return stream

    def _require_free(self, name: str) -> None:
        if self._streams.open_named(name):
            raise OmewdError("stream_exists", f"a stream {name!r} is open", "Choose another name, or stop it first")
        if name in self._streams.kept:
            raise OmewdError(
                "stream_exists",
                f"a stream {name!r} of the last daemon could not be taken over, and its ring is kept",
                "Choose another name, or see omewd status for what to do with the ring",
            )
        if len(self._streams.open) >= MAX_OPEN_STREAMS:
            raise OmewdError("busy", f"{MAX_OPEN_STREAMS} streams are open already", "Stop some of them")

    def _make_rings(
        self, number: int, spec: StreamSpec, geometry: Geometry, undo: contextlib.ExitStack
    ) -> list[SourceRing]:
        """Create the rings of all sources of a stream; ``undo`` removes them."""
        rings = []
        for source in range(spec.sources):
            rings.append(SourceRing.create(f"/{self._instance}-{number}-{source}-{spec.name}", geometry))
            undo.callback(shared_memory.unlink, rings[-1].shared_memory)
            undo.callback(rings[-1].close)
        return rings

    def note(self, stream: Stream, phase: str, then: Callable[[OmewdError | None], object]) -> None:
        """Record a stream in the journal. The loop calls ``then`` once that is durable, or with ``no_resources``."""
        dataset = stream.dataset
        entry = {
            "phase": phase,
            "boot": boot_id(),
            "id": stream.id,
            "epoch": stream.epoch,
            "spec": stream.fields,
            "details": stream.details.decode(errors="replace"),
            "dataset": str(dataset.path),
            "root": str(dataset.root),
            "place": str(dataset.place) if dataset.place else None,
            "backend": stream.backend,
            "leftovers": dataset.has_leftovers,
            "shared_memory": [ring.shared_memory for ring in stream.rings],
        }
        self._journal.write(stream.name, entry, lambda error: then(None if error is None else unwritten(error)))

    # -- place on disk -------------------------------------------------------------------------

    def _place(self, spec: StreamSpec) -> tuple[Path, Path]:
        """The path of a stream's dataset, and its data root.

        This only checks the path itself. The writer that creates the dataset follows symbolic links.
        """
        roots = self._config.data_roots
        path = Path(os.path.normpath(roots[0] / spec.output))
        root = next((r for r in roots if path != r and path.is_relative_to(r)), None)
        if root is None:
            raise OmewdError(
                "outside_roots",
                f"the output {spec.output!r} is outside the data roots: {', '.join(map(str, roots))}",
                "Choose an output inside one of them, or add a data root: omewd serve --data-root",
            )
        for stream in self._streams.open.values():
            _refuse_overlap(path, stream.dataset.path, f"which the open stream {stream.name!r} writes")
        for kept in self._streams.kept.values():
            _refuse_overlap(path, kept.dataset, f"of stream {kept.name!r}, whose ring is kept (see omewd status)")
        return path, root

    def _check_copy(self, spec: StreamSpec) -> None:
        """Raise OmewdError ``outside_roots`` for a copy to a folder of this machine where clients may not write.

        This only checks the path itself. The copier refuses symbolic links in it.
        """
        address = Address.parse(spec.copy_to) if spec.copy_to is not None else None
        if address is None or address.scheme != "file":
            return
        path, roots = Path(f"/{address.path}"), (*self._config.copy_roots, *self._config.data_roots)
        if not any(path != root and path.is_relative_to(root) for root in roots):
            raise OmewdError(
                "outside_roots",
                f"the copy {address.url} is outside the copy roots and the data roots: {', '.join(map(str, roots))}",
                "Choose a folder inside one of them, or add a copy root: omewd serve --copy-root",
            )

    def placed(self, stream: Stream, place: Path, backend: str, reason: str) -> tuple[Action, ...]:
        """Accept a writer's answer: the dataset can be created at ``place``, with ``backend``.

        ``reason``: why it is not the first choice of backend. Write units of another backend may need another ring.
        Raises OmewdError ``output_exists`` if another stream writes there, ``no_disk_space``, and the errors of
        :meth:`MemoryBudget.capacity`.
        """
        for other in self._streams.open.values():
            if other.dataset.place is not None and other is not stream:
                _refuse_overlap(place, other.dataset.place, f"which the open stream {other.name!r} writes")
        for kept in self._streams.kept.values():
            _refuse_overlap(place, kept.place, f"of stream {kept.name!r}, whose ring is kept (see omewd status)")
        stream.drive.warn(check_space(stream, self._demand_beside(stream)))
        stream.dataset.placed(place)
        geometry = stream.sources[0].geometry
        if backend != stream.backend:
            geometry = replace(geometry, capacity=self._memory.capacity(stream.spec, backend, without=stream))
            for ring in stream.rings:
                ring.resize(geometry)
        return stream.placed(backend, reason, geometry)

    def _demand_beside(self, stream: Stream) -> Demand:
        """What the other open streams on a stream's drive are still to write."""
        others = (each for each in self._streams.open.values() if each is not stream)
        return Demand.together(Demand.of(each) for each in others if each.drive.number == stream.drive.number)

    # -- memory --------------------------------------------------------------------------------

    @staticmethod
    def allocate(stream: Stream) -> bool:
        """Allocate a step of a stream's memory; returns True once all its rings can be used."""
        if not stream.rings[0].allocated_bytes:
            shared_memory.check_room(stream.ring_bytes)
        source = next(source for source in stream.sources if source.ring is None)
        segment = stream.rings[source.number].allocate(source.geometry)
        if segment is None:
            return False
        ring = DaemonRing(segment)
        ring.format()
        source.use_ring(ring)
        if not stream.has_rings:
            return False
        point("daemon: ring formatted")
        return True


def _refuse_overlap(path: Path, other: Path | None, whose: str) -> None:
    if path == other:
        raise OmewdError("output_exists", f"{path} is the dataset {whose}", "Choose another output")
    if other is not None and (path.is_relative_to(other) or other.is_relative_to(path)):
        raise OmewdError("output_exists", f"{path} overlaps {other}, {whose}", "Choose another output")
