"""Copies the files of a stream's units while the stream goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from omewd.copier.access.store import Target
from omewd.copier.batch import Batch, Tell
from omewd.copier.copy import begin, check_apart
from omewd.copier.engine import LocalFile, local_file
from omewd.copier.order import belongs, left_and_done, still_in
from omewd.copier.pace import Pace
from omewd.dataset import metadata
from omewd.dataset.copies.evicting import Evictor, TellEvicted
from omewd.dataset.copies.manifest import Manifest, is_path
from omewd.dataset.dataset import require_own
from omewd.dataset.keys import keys_of
from omewd.dataset.ledger import ledger
from omewd.errors import OmewdError
from omewd.model.address import Address
from omewd.model.plan.levels import levels_of
from omewd.model.plan.shards import ShardLayout
from omewd.model.spec.outline import join
from omewd.model.spec.spec import StreamSpec
from omewd.model.spec.stored import stored_spec
from omewd.protocol.jobs.copies import CopyUnits
from omewd.protocol.jobs.job import StreamToOpen


class OpenStream:
    """What a copier knows of a stream. ``documents``: those that are in the copy already, as they were then.

    ``is_swept``: this copier has aborted the uploads that another one has left.
    """

    def __init__(self, told: StreamToOpen) -> None:
        self.spec: StreamSpec = stored_spec(join(told.outline, told.details))
        self.documents: dict[str, LocalFile] = {}
        self.is_swept = False
        self._pace: Pace | None = None

    def pace(self, bytes_per_s: float | None) -> Pace:
        """The pace of all jobs of the stream together."""
        if self._pace is None:
            self._pace = Pace(bytes_per_s)
        return self._pace


class Streams:
    """The streams that a copier knows. One that can't be read only fails its own jobs."""

    def __init__(self) -> None:
        self._streams: dict[int, OpenStream | OmewdError] = {}

    def open(self, told: StreamToOpen) -> None:
        try:
            self._streams[told.stream] = OpenStream(told)
        except OmewdError as error:
            self._streams[told.stream] = error

    def close(self, number: int) -> None:
        self._streams.pop(number, None)

    def get(self, number: int) -> OpenStream:
        """The stream with this id; raises the OmewdError of one that can't be read."""
        stream = self._streams.get(number)
        if stream is None:
            raise OmewdError("bad_message", f"this copier does not know stream {number}")
        if isinstance(stream, OmewdError):
            raise stream
        return stream


def copy_units(job: CopyUnits, stream: OpenStream, tell: Tell, tell_evicted: TellEvicted) -> None:
    """Copy the files of units that are in their places, and confirm them; then evict them, if they are to be.

    Raises what :func:`omewd.copier.copy.copy` raises.
    """
    dataset, address = Path(job.dataset), Address.parse(job.url)
    require_own(dataset, job.epoch)
    check_apart(dataset, address)
    target = Target(address, create=True)
    with ledger.held(dataset), closing(Manifest(dataset, address.url, job.epoch, recent_only=True)) as manifest:
        was_new = manifest.is_new
        begin(target, manifest, stream.spec, job.epoch)
        if not was_new and not stream.is_swept:
            target.abort_left(lambda path: is_path(path) and belongs(path) and (dataset / path).is_file())
        stream.is_swept = True
        with ExitStack() as files:
            evictor = None
            if job.evict:
                evictor = files.enter_context(Evictor(dataset, stream.spec, manifest, tell_evicted))
            batch = files.enter_context(Batch(dataset, target, manifest, stream.pace(job.limit), tell, evictor))
            if job.live:
                _copy_documents(dataset, stream, batch)
            units = list(_files(job, stream, dataset))
            left, done = left_and_done(units, manifest.copied)
            if evictor is not None and done:  # by a copier that was killed, and the object may be gone since
                left, done = left_and_done(units, still_in(target.listed(), manifest.copied))
                evictor.add(done)
            batch.copy(left)
            if evictor is not None:
                evictor.finish()


def _copy_documents(dataset: Path, stream: OpenStream, batch: Batch) -> None:
    """Copy the metadata that have changed, so that the copy can be opened before it is complete."""
    paths = (path for path, _ in metadata.documents(stream.spec, [0] * stream.spec.sources))
    files = [local_file(dataset, path) for path in paths]
    batch.copy(file for file in files if stream.documents.get(file.path) != file)
    stream.documents.update((file.path, file) for file in files)


def _files(job: CopyUnits, stream: OpenStream, dataset: Path) -> Iterator[LocalFile]:
    for source, first, stop in job.parts:
        layouts = [ShardLayout(stream.spec, level, source) for level in levels_of(stream.spec)]
        for unit in range(first, stop):
            for layout in layouts:
                for path in keys_of(layout, unit):
                    with suppress(FileNotFoundError):  # it holds only gaps
                        yield local_file(dataset, path)
