"""Copies a finished dataset to a URL, and goes on where an earlier copy was."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from omewd.copier.address import Address
from omewd.copier.engine import Engine, LocalFile, local_file
from omewd.copier.order import belongs, is_done, phases
from omewd.copier.pace import Pace
from omewd.copier.store import Target
from omewd.dataset.copies.manifest import STORED, Copied, Manifest
from omewd.dataset.keys import files_in
from omewd.dataset.ledger import ledger
from omewd.errors import OmewdError
from omewd.process.faultpoints import point

_SUMMARY = f"{ledger.FOLDER}/zarr.json"
# Small files wait for answers rather than for bytes.
_FILES_AT_ONCE = 16
_MEMORY_BYTES = 256 << 20
_MOST_SUMMARY_BYTES = 64 << 20

# Called with (bytes confirmed, bytes in all).
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """A finished copy. ``files``, ``bytes``: of the dataset; ``copied_…``: of these, what this run has copied."""

    url: str
    files: int
    bytes: int
    copied_files: int
    copied_bytes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def copy(dataset: Path, url: str, bytes_per_s: float | None = None, progress: Progress | None = None) -> Outcome:
    """Copy a finished dataset to a URL, and confirm each file.

    What is confirmed is on record in the dataset, so another call goes on where this one was. The dataset is only read
    but for that record. ``bytes_per_s``: the most that is sent.

    Raises OmewdError ``bad_url``, ``not_installed``, ``not_a_dataset``, ``not_finished``, ``output_exists``, ``busy``,
    ``other_version``, ``store_error``, ``store_refused``, ``store_missing``, ``copy_differs``, ``changed``; OSError for
    a dataset that can't be read, or has no room for the record.
    """
    address = Address.parse(url)
    target = Target(address)
    summary, _ = ledger.totals_of(dataset)
    if summary["state"] not in ("complete", "failed"):
        raise OmewdError(
            "not_finished",
            f"{dataset} is not finished: its state is {summary['state']!r}",
            "Copy it once its stream has ended, or repair it with omewd repair",
        )
    epoch = summary.get("epoch", 0)
    with ledger.held(dataset), closing(Manifest(dataset, address.url, epoch)) as manifest:
        if manifest.is_new:
            _check_free(target, epoch)
        manifest.begin()
        return _Copy(dataset, target, manifest, Pace(bytes_per_s), progress).run()


def _check_free(target: Target, epoch: int) -> None:
    """Raise OmewdError ``output_exists`` if there is something at the URL that is not of the same stream."""
    if next(target.listed(), None) is None:
        return
    got = target.get(_SUMMARY)
    text = b"".join(got[1]) if got is not None and got[0].size <= _MOST_SUMMARY_BYTES else b""
    with suppress(*ledger.UNREADABLE):
        if epoch and ledger.summary_in(text).get("epoch") == epoch:
            return
    raise OmewdError("output_exists", f"there is something else at {target.url}", "Choose another URL, or remove it")


class _Copy:
    def __init__(
        self, dataset: Path, target: Target, manifest: Manifest, pace: Pace, progress: Progress | None
    ) -> None:
        self._dataset, self._target, self._manifest = dataset, target, manifest
        self._stopping = Event()
        self._engine = Engine(target, pace, self._stopping)
        self._progress = progress
        self._done_bytes = self._total_bytes = 0

    def run(self) -> Outcome:
        start = time.monotonic()
        files = [local_file(self._dataset, path) for path in files_in(str(self._dataset)) if belongs(path)]
        left = [file for file in files if not is_done(file, self._manifest.copied)]
        self._total_bytes = sum(file.size for file in files)
        left_bytes = sum(file.size for file in left)
        self._tell(self._total_bytes - left_bytes)
        self._target.sweep()
        with ThreadPoolExecutor(_FILES_AT_ONCE, "copier") as threads:
            try:
                for phase in phases(left):
                    self._copy_all(threads, phase)
                    point("copier: phase done")
                self._store_manifest([file.path for file in files])
            except BaseException:
                self._stopping.set()
                raise
        seconds = time.monotonic() - start
        return Outcome(self._target.url, len(files), self._total_bytes, len(left), left_bytes, seconds)

    def _copy_all(self, threads: ThreadPoolExecutor, files: Iterable[LocalFile]) -> None:
        """Copy files, as many at once as memory allows. After an error no more are begun, and it is raised in the end.

        What ends meanwhile goes on record together, with one sync.
        """
        waiting = deque(files)
        running: dict[Future[Copied], LocalFile] = {}
        failed: BaseException | None = None
        memory = 0
        while running or (waiting and failed is None):
            while waiting and failed is None and len(running) < _FILES_AT_ONCE:
                need = waiting[0].memory_bytes
                if running and memory + need > _MEMORY_BYTES:
                    break
                file = waiting.popleft()
                memory += need
                running[threads.submit(self._engine.copy, self._dataset, file)] = file
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            memory -= sum(running.pop(each).memory_bytes for each in ended)
            confirmed = [each.result() for each in ended if each.exception() is None]
            failed = failed or next((each.exception() for each in ended if each.exception() is not None), None)
            self._manifest.add(confirmed)
            point("copier: on record")
            self._tell(sum(each.bytes for each in confirmed))
        if failed is not None:
            raise failed

    def _store_manifest(self, paths: list[str]) -> None:
        """Put the manifest into the copy, whose last object it is."""
        aside = self._manifest.path.with_suffix(".stored")
        try:
            with aside.open("wb") as file:
                file.writelines(self._manifest.lines(sorted(paths)))
            path = os.fspath(aside.relative_to(self._dataset))
            self._engine.copy(self._dataset, local_file(self._dataset, path), STORED)
        finally:
            aside.unlink(missing_ok=True)

    def _tell(self, more_bytes: int) -> None:
        self._done_bytes += more_bytes
        if self._progress is not None:
            self._progress(self._done_bytes, self._total_bytes)
