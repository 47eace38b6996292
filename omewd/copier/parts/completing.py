"""Completes a copy of several parts, once all are complete: makes a dataset of it that programs can open.

Whoever has stored its part's manifest looks whether the others are there, so the last one sees all of them. Two that
are last at once make the same objects. If a process dies here, the next run of any part does it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

from omewd.copier.access.fetch import OBJECTS_AT_ONCE, each, fetch, same_as
from omewd.copier.access.store import Target
from omewd.copier.digest import digest_of
from omewd.copier.engine import Engine, LocalFile, etags_are_whole, local_file
from omewd.copier.order import phases
from omewd.copier.pace import Pace
from omewd.copier.parts.acquisition import common_of
from omewd.copier.parts.acquisition import difference as other_spec
from omewd.copier.parts.ledgers import join_ledgers
from omewd.copier.parts.merging import Told, documents, received_in, summary
from omewd.copier.parts.state import Part, Parts, own_objects, parts_of
from omewd.dataset import metadata
from omewd.dataset.copies import places
from omewd.dataset.copies.manifest import STORED, Copied, Header, line, lines_in, read
from omewd.dataset.ledger import ledger
from omewd.dataset.ledger.runs import RUNS_FILE
from omewd.errors import OmewdError
from omewd.process.faultpoints import point

_SUMMARY = f"{ledger.FOLDER}/zarr.json"
_LEDGER = f"{ledger.FOLDER}/{ledger.FILE}"
_RUNS = f"{ledger.FOLDER}/{RUNS_FILE}"
# Each time, another process may have stored the same again meanwhile; some stores then call it another version.
_TRIES = 5
# What another process still writes to a server's folder is younger.
_SILENT_S = 60


def complete(target: Target, scratch: Path, pace: Pace) -> tuple[str, ...]:
    """Complete a copy if all its parts are complete; returns the names of the sources that are missing.

    ``scratch``: a folder that is made, and removed. Raises OmewdError ``changed`` if a part is not what its manifest
    says, and the errors of :func:`omewd.copier.copy.copy`; OSError.
    """
    parts = parts_of(target)
    if parts is None:
        raise OmewdError(
            "changed",
            f"{target.url}: {places.ACQUISITION} is gone, which this part had put there",
            "If all of the copy was removed, remove omewd/copies in the dataset, too, and copy it again",
        )
    if parts.missing:
        return parts.missing_names
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        _Whole(target, parts, scratch, pace).complete()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ()


class _Whole:
    def __init__(self, target: Target, parts: Parts, scratch: Path, pace: Pace) -> None:
        self._target, self._parts, self._scratch = target, parts, scratch
        there = (copied for part in parts.complete for copied in part.copied.values())
        self._engine = Engine(target, pace, Event(), whole=etags_are_whole(there))
        self._folder = scratch / "whole"
        self._told: list[Told] = []

    def complete(self) -> None:
        with ThreadPoolExecutor(OBJECTS_AT_ONCE, "parts") as threads:
            self._told = [self._tell(part) for part in self._parts.complete]
            text = metadata.text_of(summary(self._parts.whole, self._told))
            digest = digest_of([text], len(text))[1]
            is_made = False
            own = {STORED, *self._paths()}.__contains__
            self._target.sweep(own, _SILENT_S)
            for _ in range(_TRIES):
                before = self._stored()
                if _SUMMARY in before and before[_SUMMARY].digest == digest and self._is_whole(before, threads):
                    self._target.abort_left(own)
                    return
                if not is_made:
                    self._make(text, threads)
                    is_made = True
                self._put(threads)
        raise OmewdError("changed", f"{self._target.url} was changed while it was completed", "Copy the dataset again")

    # -- what is there -------------------------------------------------------------------------

    def _stored(self) -> Mapping[str, Copied]:
        """The objects of the copy, as it was completed before."""
        got = self._target.get(STORED)
        found = read(lines_in(got[1])) if got is not None else None
        return found[1] if found is not None else {}

    def _is_whole(self, before: Mapping[str, Copied], threads: ThreadPoolExecutor) -> bool:
        """Whether a copy of the same parts is complete, and its manifest names the versions that are there.

        Where these are named by their bytes, they need no look.
        """
        of_parts = (copied for part in self._parts.complete for copied in part.copied.values())
        known = all(_is_same(before.get(copied.path), copied) for copied in of_parts)
        if not known or not all(
            _is_same(before.get(copied.path), copied) for copied in own_objects(self._target, self._parts)
        ):
            return False
        looked_at = [before[path] for path in self._paths() if path in before and before[path].by != "etag"]
        return all(path in before for path in self._paths()) and all(
            found is not None and found.etag == copied.etag
            for copied, found in each(threads, lambda one: self._target.head(one.path), looked_at)
        )

    def _paths(self) -> Iterator[str]:
        """The objects that are made of those of the parts."""
        yield from (_SUMMARY, _LEDGER, _RUNS)
        yield from (path for path, _ in metadata.documents(self._parts.whole, self._received))

    @property
    def _received(self) -> list[int]:
        return received_in(self._parts.whole, self._told)

    # -- what the parts say --------------------------------------------------------------------

    def _tell(self, part: Part) -> Told:
        folder = self._folder_of(part)
        self._fetch(part, _SUMMARY)
        try:
            totals, spec = ledger.totals_of(folder)
        except OmewdError as error:
            raise self._unfit(part, error.message) from error
        if spec.source_elements != part.elements:
            raise self._unfit(part, "it is of other sources than it claims")
        if text := other_spec(common_of(spec), common_of(self._parts.whole)):
            raise self._unfit(part, f"it is of another acquisition: {text}")
        return Told(part.epoch, part.elements, totals, part.manifest.digest, lambda path: metadata.read(folder / path))

    def _folder_of(self, part: Part) -> Path:
        return self._scratch / str(part.epoch)

    def _fetch_other(self, wanted: tuple[Part, str]) -> None:
        """Download a file, unless the part has none."""
        part, path = wanted
        if places.of_part(part.epoch, path) in part.copied:
            self._fetch(part, path)

    def _fetch(self, part: Part, path: str) -> None:
        """Download a file of a part, which is compared with the part's manifest."""
        copied = part.copied.get(places.of_part(part.epoch, path))
        if copied is None:
            raise self._unfit(part, f"{path} is not in its manifest")
        to = self._folder_of(part) / path
        if text := fetch(self._target, copied, to):
            raise self._unfit(part, text)
        if not to.exists():
            raise self._unfit(part, f"{copied.path} is missing")

    def _unfit(self, part: Part, text: str) -> OmewdError:
        names = ", ".join(self._parts.whole.source_names[element] for element in part.elements)
        return OmewdError(
            "changed",
            f"{self._target.url} can't be completed: the part of {names} (epoch {part.epoch}): {text}",
            "Copy that part again: omewd copy, on its machine",
        )

    # -- what is made --------------------------------------------------------------------------

    def _make(self, summary_text: bytes, threads: ThreadPoolExecutor) -> None:
        """Make the files of the whole in a folder."""
        whole, parts = self._parts.whole, self._parts.complete
        groups = [path for path, document in metadata.documents(whole, self._received) if not document.is_array]
        for part in parts:
            self._fetch(part, _LEDGER)
            self._fetch_other((part, _RUNS))
        for _ in each(threads, self._fetch_other, ((part, path) for part in parts for path in groups)):
            pass
        join_ledgers(((self._folder_of(part), part.elements) for part in parts), self._folder)
        texts = ((path, document.text) for path, document in documents(whole, self._told))
        for path, text in (*texts, (_SUMMARY, summary_text)):
            place = self._folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(text)

    def _put(self, threads: ThreadPoolExecutor) -> None:
        """Store what is not there yet, and the manifest last."""
        made = {}
        for phase in phases(local_file(self._folder, path) for path in self._paths()):
            for file, copied in each(threads, self._put_one, phase):
                made[file.path] = replace(copied, mtime_ns=0)
            point("copier: phase of the whole done")
        objects = {copied.path: copied for copied in own_objects(self._target, self._parts)} | made
        for part in self._parts.complete:
            objects.update(part.copied)
        manifest = self._folder / STORED
        manifest.parent.mkdir(exist_ok=True)
        with manifest.open("wb") as lines:
            lines.write(line(Header(url=self._target.url)))
            lines.writelines(line(objects[path]) for path in sorted(objects))
        self._engine.copy(self._folder, local_file(self._folder, STORED))

    def _put_one(self, file: LocalFile) -> Copied:
        """Store a file, unless the same bytes are there: others may complete the copy at the same time."""
        there = same_as(self._target, file.path, self._folder / file.path)
        return there or self._engine.copy(self._folder, file)


def _is_same(before: Copied | None, copied: Copied) -> bool:
    """Whether a manifest names this version of an object."""
    if before is None:
        return False
    return (before.bytes, before.digest, before.etag) == (copied.bytes, copied.digest, copied.etag)
