"""Opening a stream: its request is checked, its place on disk and its share of the memory are found, its rings made."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from omewd.daemon.config import ServeConfig
from omewd.daemon.datasets.dataset import Dataset
from omewd.daemon.processes import shared_memory
from omewd.daemon.state.journal import ACTIVE, STARTING, Journal, boot_id
from omewd.daemon.streams.memory import MemoryBudget
from omewd.daemon.streams.source_ring import SourceRing
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import first_choice
from omewd.model.spec.outline import MAX_SPEC_BYTES, require_small, split
from omewd.model.spec.spec import StreamSpec
from omewd.process.faultpoints import point
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.layout import Geometry

MAX_OPEN_STREAMS = 256


class Admission:
    """``instance``: what the names of this daemon's shared memory begin with."""

    def __init__(
        self, config: ServeConfig, streams: Streams, memory: MemoryBudget, journal: Journal, instance: str
    ) -> None:
        self._config, self._streams, self._memory = config, streams, memory
        self._journal, self._instance = journal, instance

    def admit(self, fields: Any, details: bytes, now_ns: int, after: int = 0) -> Stream:
        """Check a request for a stream and make its (still empty) rings; the writers look at the details of its spec.

        Without a name it gets the first free of stream1, stream2, … with a number above ``after``.
        Raises OmewdError with the numbers and a remedy; nothing is left behind then.
        """
        if not isinstance(fields, dict):
            raise OmewdError("bad_spec", f"a stream's specification is a JSON object, not a {type(fields).__name__}")
        auto_name = 0
        if not fields.get("name"):
            name, auto_name = self._streams.free_name(after)
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
        self._require_free(spec.name)
        path, root = self._place(spec)
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
                    Dataset(spec.name, path, root, epoch),
                    started_ns=now_ns,
                    fields=fields,
                    details=details,
                    auto_name=auto_name,
                    rings=self._make_rings(number, spec, geometry, undo),
                )
                point("daemon: ring made")
                self._note(stream, STARTING)
                point("daemon: journal written")
            except OSError as error:
                raise OmewdError(
                    "no_resources",
                    f"the stream can't be opened: {error.strerror or error}",
                    "See the limit of open files and the state directory of the daemon",
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
                "Choose another name, or see omewd status for what to do with it",
            )
        if len(self._streams.open) >= MAX_OPEN_STREAMS:
            raise OmewdError("busy", f"{MAX_OPEN_STREAMS} streams are open already", "Stop some")

    def _make_rings(
        self, number: int, spec: StreamSpec, geometry: Geometry, undo: contextlib.ExitStack
    ) -> list[SourceRing]:
        """The segments of all sources of a stream; ``undo`` removes them."""
        rings = []
        for source in range(spec.sources):
            rings.append(SourceRing.create(f"/{self._instance}-{number}-{source}-{spec.name}", geometry))
            undo.callback(rings[-1].unlink)
            undo.callback(rings[-1].close)
        return rings

    def note_active(self, stream: Stream) -> None:
        """Put on record that a stream takes frames; raises OmewdError ``no_resources`` if that can't be."""
        try:
            self._note(stream, ACTIVE)
        except OSError as error:
            raise OmewdError(
                "no_resources",
                f"the journal can't be written: {error.strerror or error}",
                "See the state directory of the daemon",
            ) from error

    def _note(self, stream: Stream, phase: str) -> None:
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
        self._journal.write(stream.name, entry)

    # -- its place -----------------------------------------------------------------------------

    def _place(self, spec: StreamSpec) -> tuple[Path, Path]:
        """Where a stream's dataset goes, and the data root it is under.

        Only the path itself is judged here; the writer that makes it follows symbolic links.
        """
        roots = self._config.data_roots
        path = Path(os.path.normpath(roots[0] / spec.output))
        root = next((r for r in roots if path != r and path.is_relative_to(r)), None)
        if root is None:
            raise OmewdError(
                "outside_roots",
                f"the output {spec.output!r} is outside the data roots: {', '.join(map(str, roots))}",
                "Choose an output inside one of them, or start the daemon with another one: omewd serve --data-root",
            )
        for stream in self._streams.open.values():
            _refuse_overlap(path, stream.dataset.path, f"which the open stream {stream.name!r} writes")
        for kept in self._streams.kept.values():
            _refuse_overlap(path, kept.dataset, f"of stream {kept.name!r}, whose ring is kept (see omewd status)")
        return path, root

    def placed(self, stream: Stream, place: Path, backend: str, reason: str) -> None:
        """A writer has looked: the dataset can be made at ``place``, with ``backend``.

        ``reason``: why not with the one that was hoped for. Write units of another backend may want another ring.
        Raises OmewdError ``output_exists`` if another stream writes there, and as :meth:`MemoryBudget.capacity` does.
        """
        for other in self._streams.open.values():
            if other.dataset.place is not None and other is not stream:
                _refuse_overlap(place, other.dataset.place, f"which the open stream {other.name!r} writes")
        for kept in self._streams.kept.values():
            _refuse_overlap(place, kept.place, f"of stream {kept.name!r}, whose ring is kept (see omewd status)")
        stream.dataset.placed(place)
        geometry = stream.sources[0].geometry
        if backend != stream.backend:
            geometry = replace(geometry, capacity=self._memory.capacity(stream.spec, backend, without=stream))
            for ring in stream.rings:
                ring.resize(geometry)
        stream.placed(backend, reason, geometry)

    # -- its memory ----------------------------------------------------------------------------

    @staticmethod
    def allocate(stream: Stream) -> bool:
        """Allocate a step of a stream's memory; True once its rings can be used."""
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
    if other is not None and (path.is_relative_to(other) or other.is_relative_to(path)):
        raise OmewdError("output_exists", f"{path} overlaps {other}, {whose}", "Choose another output")
