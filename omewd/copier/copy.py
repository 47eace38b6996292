"""Copies a finished dataset to a URL, and goes on where an earlier copy was."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omewd.copier.access.fetch import same_as
from omewd.copier.access.store import Target
from omewd.copier.batch import Batch, Tell
from omewd.copier.engine import local_file
from omewd.copier.order import belongs, left_and_done, not_in_copy, phases, still_in
from omewd.copier.pace import Pace
from omewd.copier.parts.completing import complete
from omewd.copier.parts.joining import join
from omewd.dataset.copies.evicting import Evictor, TellEvicted
from omewd.dataset.copies.evictions import evicted
from omewd.dataset.copies.manifest import STORED, Copied, Manifest, is_path
from omewd.dataset.copies.places import Places
from omewd.dataset.dataset import require_own
from omewd.dataset.keys import files_in
from omewd.dataset.ledger import ledger
from omewd.errors import OmewdError
from omewd.model.address import Address
from omewd.model.spec.spec import StreamSpec
from omewd.process.faultpoints import point

_SUMMARY = f"{ledger.FOLDER}/zarr.json"
_MOST_SUMMARY_BYTES = 64 << 20

# Called with (bytes confirmed, bytes in all).
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """A finished copy. ``files``, ``bytes``: in the copy; ``copied_…``: of these, what this run has copied.

    ``evicted_…``: of these, what was evicted from the dataset, by this run or before. ``missing``: if others copy parts
    of the same acquisition to the same place, the sources whose parts were not complete yet. Until they are, programs
    can't open the copy.
    """

    url: str
    files: int
    bytes: int
    copied_files: int
    copied_bytes: int
    evicted_files: int
    evicted_bytes: int
    seconds: float
    missing: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def copy(
    dataset: Path,
    url: str,
    bytes_per_s: float | None = None,
    progress: Progress | None = None,
    *,
    epoch: int | None = None,
    evict: bool = False,
    tell: Tell = lambda _files, _bytes: None,
    tell_evicted: TellEvicted = lambda _files, _bytes: None,
) -> Outcome:
    """Copy a finished dataset to a URL, and confirm each file.

    What is confirmed is on record in the dataset, so another call goes on where this one was. The dataset is only read
    but for that record. ``bytes_per_s``: the most that is sent. ``epoch``: of the stream whose dataset it must be.
    ``evict``: remove the files of keys from the dataset once they are confirmed. ``tell``, ``tell_evicted``: called
    with the files and bytes that were confirmed, or evicted, since the last call.

    Raises OmewdError ``dataset_replaced``, ``bad_url``, ``not_installed``, ``not_a_dataset``, ``not_finished``,
    ``output_exists``, ``busy``, ``other_version``, ``store_error``, ``store_refused``, ``store_missing``,
    ``copy_differs``, ``changed``, ``evicted``; OSError for a dataset that can't be read, or has no room for the record.
    """
    address = Address.parse(url)
    summary, spec = ledger.totals_of(dataset)
    check_apart(dataset, address)
    if summary["state"] not in ("complete", "failed"):
        raise OmewdError(
            "not_finished",
            f"{dataset} is not finished: its state is {summary['state']!r}",
            "Copy it once its stream has ended, or repair it with omewd repair",
        )
    if epoch is not None:
        require_own(dataset, epoch)
    epoch = summary.get("epoch", 0)
    target = Target(address, create=True)
    with ledger.held(dataset, writable=evict) as hold, closing(Manifest(dataset, address.url, epoch)) as manifest:
        elsewhere = evicted(dataset)
        check_here(dataset, address, elsewhere, manifest)
        begin(target, manifest, spec, epoch)
        pace, places = Pace(bytes_per_s), Places(spec, epoch)
        with ExitStack() as files:
            evictor = files.enter_context(Evictor(dataset, spec, manifest, tell_evicted, hold=hold)) if evict else None
            outcome = _Copy(dataset, target, manifest, places, pace, progress, tell, evictor).run(elsewhere)
        if not spec.is_part:
            return outcome
        return replace(outcome, missing=complete(target, manifest.path.with_suffix(".whole"), pace))


def begin(target: Target, manifest: Manifest, spec: StreamSpec, epoch: int) -> None:
    """Begin a copy, unless that was done: see that it may be there, and note it.

    Raises OmewdError ``output_exists``, and for a part those of :func:`omewd.copier.parts.joining.join`.
    """
    if manifest.is_new and spec.is_part:
        join(target, spec, epoch)
    elif manifest.is_new:
        check_free(target, epoch)
    manifest.begin()


def check_apart(dataset: Path, address: Address) -> None:
    """Raise OmewdError ``bad_url`` if the copy would lie in the dataset, or around it."""
    if address.scheme != "file":
        return
    ours, copies = dataset.resolve(), Path(f"/{address.path}").resolve()
    if ours.is_relative_to(copies) or copies.is_relative_to(ours):
        raise OmewdError("bad_url", f"{address.url} overlaps with the dataset {ours}", "Choose another folder")


def check_free(target: Target, epoch: int) -> None:
    """Raise OmewdError ``output_exists`` if there is something at the URL that is not of the same stream."""
    if next(target.listed(), None) is None:
        return
    got = target.get(_SUMMARY)
    text = b"".join(got[1]) if got is not None and got[0].size <= _MOST_SUMMARY_BYTES else b""
    with suppress(*ledger.UNREADABLE):
        if epoch and ledger.summary_in(text).get("epoch") == epoch:
            return
    raise OmewdError("output_exists", f"there is something else at {target.url}", "Choose another URL, or remove it")


def check_here(dataset: Path, address: Address, gone: Mapping[str, tuple[str, Copied]], manifest: Manifest) -> None:
    """Raise OmewdError ``evicted`` if files of a dataset are gone that the copy does not have."""
    missing = not_in_copy(gone, manifest.copied)
    if not missing:
        return
    urls = sorted(set(missing.values()))
    raise OmewdError(
        "evicted",
        f"{len(missing)} files of {dataset} can't be copied to {address.url}: they were evicted, and are in the copy "
        f"{', '.join(urls)}",
        "Copy that one with the tools of the store, or download the files to their paths first",
    )


class _Copy:
    def __init__(
        self,
        dataset: Path,
        target: Target,
        manifest: Manifest,
        places: Places,
        pace: Pace,
        progress: Progress | None,
        tell: Tell,
        evictor: Evictor | None,
    ) -> None:
        self._dataset, self._target, self._manifest, self._places = dataset, target, manifest, places
        self._progress, self._tell, self._evictor = progress, tell, evictor
        self._batch = Batch(dataset, target, manifest, pace, self._confirmed, evictor, places.of)
        self._done_bytes = self._total_bytes = 0

    def run(self, elsewhere: Iterable[str]) -> Outcome:
        """Copy what is not copied yet. ``elsewhere``: the paths of files that are in the copy, and not here."""
        start = time.monotonic()
        paths = [path for path in files_in(str(self._dataset)) if belongs(path)]
        if unfit := next((path for path in paths if not is_path(path)), None):
            raise OmewdError("bad_url", f"{unfit!r:.200} can't be the name of an object", "Rename or remove that file")
        files = [local_file(self._dataset, path) for path in paths]
        gone = set(elsewhere).difference(paths)
        copied: Mapping[str, Copied] = self._manifest.copied
        if self._evictor is not None:  # a record of long ago does not tell what became of the object
            copied = still_in(self._target.listed(), copied, self._places.of)
            self._require(sorted(gone.difference(copied)))
        left, done = left_and_done(files, copied)
        gone_bytes = sum(self._manifest.copied[path].bytes for path in gone)
        self._total_bytes = sum(file.size for file in files) + gone_bytes
        left_bytes = sum(file.size for file in left)
        self._show(self._total_bytes - left_bytes)
        own = {self._places.manifest, *map(self._places.of, [*paths, *gone])}.__contains__
        self._target.sweep(own)
        self._target.abort_left(own)
        with self._batch:
            if self._evictor is not None:
                self._evictor.add(done)
            for phase in phases(left):
                self._batch.copy(phase)
                point("copier: phase done")
            self._store_manifest([*paths, *gone])
            if self._evictor is not None:
                self._evictor.finish()
        self._target.abort_left(own)  # whose beginning was answered, and the answer lost
        self._manifest.trim()
        now_files, now_bytes = (self._evictor.files, self._evictor.bytes) if self._evictor is not None else (0, 0)
        return Outcome(
            self._target.url,
            files=len(files) + len(gone),
            bytes=self._total_bytes,
            copied_files=len(left),
            copied_bytes=left_bytes,
            evicted_files=len(gone) + now_files,
            evicted_bytes=gone_bytes + now_bytes,
            seconds=time.monotonic() - start,
        )

    def _require(self, lost: list[str]) -> None:
        if lost:
            raise OmewdError(
                "copy_differs",
                f"{len(lost)} files of {self._dataset} were evicted, and are no longer in {self._target.url} as "
                f"they were confirmed, such as {lost[0]}",
                "Bring them back from a version or a backup of the store. Until then, no more is evicted",
            )

    def _store_manifest(self, paths: list[str]) -> None:
        """Put the manifest into the copy, whose last object it is."""
        aside = self._manifest.path.with_suffix(".stored")
        try:
            with aside.open("wb") as file:
                file.writelines(self._manifest.lines(sorted(paths), self._places.of))
            path, place = os.fspath(aside.relative_to(self._dataset)), self._places.manifest
            if place == STORED or same_as(self._target, place, aside) is None:  # a part's is named in the whole's
                self._batch.engine.copy(self._dataset, local_file(self._dataset, path), place)
            point("copier: manifest stored")
        finally:
            aside.unlink(missing_ok=True)

    def _confirmed(self, files: int, more_bytes: int) -> None:
        self._tell(files, more_bytes)
        self._show(more_bytes)

    def _show(self, more_bytes: int) -> None:
        self._done_bytes += more_bytes
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes)
