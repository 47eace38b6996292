"""Recovers from a killed daemon: takes over its streams by the journal and their rings, and removes strays."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from omewd.daemon.datasets.copy import DatasetCopy
from omewd.daemon.datasets.dataset import Dataset, Phase
from omewd.daemon.datasets.datasets import Datasets
from omewd.daemon.processes import shared_memory
from omewd.daemon.processes.memory_return import MemoryReturn
from omewd.daemon.state.journal import (
    COPY,
    RECOVER,
    STARTING,
    SWEEP,
    UNDO,
    Journal,
    boot_id,
    require_readable,
    unwritten,
)
from omewd.daemon.state.kept import KeptRing
from omewd.daemon.streams.lifecycle import Lifecycle
from omewd.daemon.streams.source_ring import SourceRing
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.errors import OmewdError
from omewd.model.spec.stored import stored_spec
from omewd.process.faultpoints import point
from omewd.ring.daemon_ring import DaemonRing

log = structlog.get_logger("recovery")

# The fields of a journal entry.
_ENTRY = {"phase", "boot", "id", "epoch", "spec", "dataset", "root", "place", "backend", "leftovers", "shared_memory"}


class Recovery:
    """Runs once, before everything else. The last daemon's writers must have been fenced off.

    ``instance``: the prefix of the names of this daemon's shared memory. ``scratch``: its folder there.
    """

    def __init__(
        self,
        streams: Streams,
        datasets: Datasets,
        lifecycle: Lifecycle,
        journal: Journal,
        memory: MemoryReturn,
        *,
        instance: str,
        scratch: Path,
    ) -> None:
        self._streams, self._datasets, self._lifecycle = streams, datasets, lifecycle
        self._journal, self._memory, self._instance, self._scratch = journal, memory, instance, scratch
        self._being_let_go: set[str] = set()

    def run(self) -> None:
        """Take over every stream in the journal, and remove shared memory of the last daemon that belongs to none.

        A ring that can't be taken over is kept, with its entry, unless it certainly holds nothing.
        """
        for name, entry in self.entries():
            try:
                self._take_over(name, entry)
            except Exception as error:  # noqa: BLE001  an error in one stream must not stop the others
                self._keep(name, entry, error)
        kept = {name for ring in self._streams.kept.values() for name in ring.shared_memory}
        rings = {ring.shared_memory for stream in self._streams.open.values() for ring in stream.rings}
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

    def entries(self) -> list[tuple[str, dict[str, Any]]]:
        """The entries of the journal, one for each stream.

        An entry that is given another name has both for a moment. The new one is durable first, so it decides. Of two
        jobs that are left to do, the first one comes first, and then goes on with the other.
        """
        entries = list(self._journal.entries())
        deciding: dict[int, tuple[str, dict[str, Any]]] = {}
        for kind in (UNDO, RECOVER, SWEEP, COPY):
            for name, entry in entries:
                if self._journal.kind_of(name) == kind and isinstance(entry.get("epoch"), int):
                    deciding.setdefault(entry["epoch"], (name, entry))
        found = []
        for name, entry in entries:
            epoch = entry.get("epoch")
            decides, same = deciding.get(epoch, (name, entry)) if isinstance(epoch, int) else (name, entry)
            if name == decides or entry != same:
                found.append((name, entry))
            elif self._journal.kind_of(name) is None:
                if isinstance(entry.get("id"), int):
                    self._streams.count_from(entry["id"])
                self._journal.remove(name, epoch)
        return found

    def _keep(self, name: str, entry: dict[str, Any], error: Exception) -> None:
        if self._journal.kind_of(name):  # it has no ring
            log.error(
                "what is left to do for a stream of the last daemon can't be done; its journal entry is kept",
                entry=name,
                reason=str(error) if isinstance(error, OmewdError) else repr(error),
            )
            return
        kept = KeptRing.of(name, entry, error, self._instance)
        self._streams.keep(kept)
        log.error(
            "a stream of the last daemon can't be taken over; its ring and its journal entry are kept",
            stream=name,
            reason=str(kept.error),
            rings=list(kept.paths),
            dataset=str(kept.dataset),
        )

    def take_over_again(self, name: str) -> None:
        """Try to take over a kept ring again; raises OmewdError if that fails."""
        self._require_kept(name)
        entry = self._journal.read(name)
        try:
            self._take_over(name, entry)
        except Exception as error:
            self._keep(name, entry, error)
            kept = self._streams.kept[name]
            raise kept.error.with_text(
                f"the ring of stream {name!r} still can't be taken over: {kept.error.message}",
                kept.error.remedy or "omewd stop-stream discards it with its frames",
            ) from error
        kept = self._streams.forget_kept(name)
        if self._streams.open_named(name) is None:  # only its dataset needs work
            self._discard(kept)

    def let_go(self, kept: KeptRing, then: Callable[[OmewdError | None], object]) -> None:
        """Discard a kept ring, and finalize its dataset by the ledger, if the dataset is known.

        The loop calls ``then`` once that is recorded. With ``no_resources``, because the journal can't be written, the
        ring is still kept. Until then, no other stream gets its name. Raises OmewdError ``busy``.
        """
        self._require_kept(kept.name)
        self._being_let_go.add(kept.name)

        def noted(error: Exception | None) -> None:
            self._being_let_go.discard(kept.name)
            if error is not None:
                then(unwritten(error))
                return
            self._streams.forget_kept(kept.name)
            point("daemon: kept ring let go")
            log.warning("discarding a ring that could not be taken over", stream=kept.name, rings=list(kept.paths))
            self._discard(kept)
            if kept.has_dataset:
                self._see_to(kept.entry, RECOVER)
            then(None)

        if kept.has_dataset:
            self._journal.set_apart(kept.name, RECOVER, kept.entry["epoch"], noted)
        else:
            self._journal.remove(kept.name, None, noted)

    def _require_kept(self, name: str) -> None:
        """Raise OmewdError ``busy`` for a kept ring that is being let go."""
        if name in self._being_let_go:
            raise OmewdError("busy", f"the ring of stream {name[:80]!r} is just being discarded", "See omewd status")

    def _discard(self, kept: KeptRing) -> None:
        self._memory.remove(kept.shared_memory)
        self._lifecycle.memory_comes_back(time.monotonic_ns())

    def _take_over(self, name: str, entry: dict[str, Any]) -> None:
        require_readable(entry)
        if not isinstance(entry, dict) or not set(entry) >= _ENTRY:
            raise OmewdError("bad_journal", "its entry in the journal can't be read or is incomplete")
        if kind := self._journal.kind_of(name):
            self._see_to(entry, kind)
            return
        self._streams.count_from(entry["id"])
        if entry["phase"] == STARTING:  # no client knows of it
            self._have_seen_to(name, entry, UNDO)
            return
        stream = None
        if entry["boot"] == boot_id():
            try:
                stream = self._stream(entry, time.monotonic_ns())
            except FileNotFoundError:
                log.error("a stream's ring is gone", stream=name, rings=entry["shared_memory"])
            else:
                if stream is None:  # it was complete
                    self._have_seen_to(name, entry, SWEEP)
                    return
        else:
            log.error("the machine was restarted, so a stream's rings are gone", stream=name)
        if stream is None:
            self._have_seen_to(name, entry, RECOVER)
            return
        self._lifecycle.add(stream)
        log.warning(
            "stream taken over",
            stream=name,
            state=stream.state.value,
            received=stream.received,
            written=stream.written,
            in_flight=stream.in_flight,
        )

    @staticmethod
    def _stream(entry: dict[str, Any], now_ns: int) -> Stream | None:
        """The stream of a journal entry, with its rings; None if it was complete.

        Raises FileNotFoundError if a ring is gone, OmewdError ``bad_ring`` if one is damaged. The rings then stay
        unchanged.
        """
        fields, details = details_of(entry)
        spec = stored_spec(fields)
        with contextlib.ExitStack() as undo:
            source_rings = _reopen(entry, undo)
            rings = [DaemonRing(segment) for each in source_rings if (segment := each.segment) is not None]
            if not rings or len(rings) != spec.sources:
                raise OmewdError("bad_journal", f"it has {len(rings)} rings for {spec.sources} sources")
            complete = [ring.is_complete for ring in rings]
            if any(complete):
                for ring in rings:  # the last daemon may have died before it told all of them
                    ring.finish()
                return None
            stream = Stream.of(
                entry["id"],
                spec,
                entry["backend"],
                rings[0].geometry,
                dataset_of(entry),
                started_ns=now_ns,
                fields=fields,
                details=details,
                rings=source_rings,
            )
            _resume(stream, rings)
            stream.resume(rings, now_ns)
            undo.pop_all()
        return stream

    def _have_seen_to(self, name: str, entry: dict[str, Any], kind: str) -> None:
        """Submit a job for the dataset of a stream without rings. Its entry is removed when the job is done.

        ``kind``: remove the dataset ("undo"), finalize it ("recover"), remove the one that it replaced ("sweep"), or
        copy it ("copy"). The last two are done beside each other.
        """
        self._journal.set_apart(name, kind, entry["epoch"])
        self._see_to(entry, kind)

    def _see_to(self, entry: dict[str, Any], kind: str) -> None:
        dataset = dataset_of(entry)
        dataset.enter(Phase.AT_REST)
        if kind == UNDO:
            self._datasets.undo(dataset)
        elif kind == RECOVER:
            self._datasets.recover(dataset, *details_of(entry))
        else:
            if kind == COPY:
                dataset.note_leftovers(False)
            self._datasets.copy_rest(dataset)
            if kind == SWEEP:
                self._datasets.sweep(dataset)


def _reopen(entry: dict[str, Any], undo: contextlib.ExitStack) -> list[SourceRing]:
    """The rings of a journal entry; ``undo`` closes them and leaves them unchanged.

    Raises FileNotFoundError if the first one is gone, OmewdError ``bad_ring``.
    """
    rings: list[SourceRing] = []
    for name in entry["shared_memory"]:
        try:
            ring = SourceRing.reopen(name)
        except FileNotFoundError as error:
            if rings:  # the frames in the other rings must not get lost
                raise OmewdError("bad_ring", f"its ring {name} is gone, but others exist") from error
            raise
        undo.callback(ring.close)
        if ring.epoch != entry["epoch"]:
            raise OmewdError("bad_ring", f"its ring {name} belongs to another stream")
        rings.append(ring)
    return rings


def dataset_of(entry: dict[str, Any]) -> Dataset:
    """The dataset of a journal entry."""
    name = str(entry["spec"].get("name"))
    dataset = Dataset(name, Path(entry["dataset"]), Path(entry["root"]), entry["epoch"])
    dataset.note_leftovers(bool(entry.get("leftovers")))
    if entry["spec"].get("copy_to") and entry.get("phase") != STARTING:
        dataset.wants_copy(DatasetCopy.of(stored_spec(entry["spec"]), dataset.path, dataset.epoch))
    if entry.get("place"):
        dataset.placed(Path(entry["place"]))
    return dataset


def details_of(entry: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The outline and the details of the spec in a journal entry."""
    return entry["spec"], entry.get("details", "").encode()


def _resume(stream: Stream, rings: list[DaemonRing]) -> None:
    """Take over the rings of a stream's sources; raises OmewdError ``bad_ring`` if one is damaged."""
    for source, ring in zip(stream.sources, rings, strict=True):
        ring.resume()
        source.require_sound(ring)


def resume_failed(stream: Stream, now_ns: int) -> None:
    """Resume a failed stream, to write the frames that are still in its rings."""
    rings = [DaemonRing(segment) for ring in stream.rings if (segment := ring.segment) is not None]
    _resume(stream, rings)
    for ring in rings:  # only now, because all of them are sound
        ring.revive()
    stream.resume(rings, now_ns)
    log.info("stream resumed", stream=stream.name, in_flight=stream.in_flight)
