"""Which keys of a dataset were evicted: their files are gone, and a copy has them, by the manifests.

Whoever finds no file at a key asks here. The record is on disk before a file is removed, so who asks then finds it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from omewd.dataset.copies.manifest import (
    FOLDER,
    STORED,
    Copied,
    copied_of,
    header_of,
    lines_in,
    parse,
    read_file,
)
from omewd.dataset.keys import KeyNumber, Keys
from omewd.dataset.ledger.marks import Marks
from omewd.errors import OmewdError
from omewd.model.address import Address
from omewd.model.plan.plan import Plan
from omewd.model.spec.spec import StreamSpec

_READ_BYTES = 1 << 20
_HERE, _EVICTED = 0, 1
_OPEN_PAGES = 8


def is_evicted(what: str, url: str) -> OmewdError:
    """The error for who wants what only the copy at a URL has."""
    return OmewdError(
        "evicted",
        f"{what} is not on this disk any more: it was evicted, and is in the copy {url}",
        f"Read it there, as in omewd.open_copy({url!r}), or download it to its path",
    )


class Evictions:
    """The evicted keys of a dataset, by its manifests, which are read on with each question. Threads may share it.

    It remembers a byte for each key at most, and less if neighbours are alike.
    """

    def __init__(self, dataset: Path, spec: StreamSpec) -> None:
        self._dataset, self._folder, self._keys = dataset, dataset / FOLDER, Keys(spec)
        self._manifests: dict[str, _ReadManifest] = {}
        self._lock = threading.Lock()

    def url_of(self, key: str) -> str | None:
        """The URL of the copy that has a key, which was evicted; None if it was not, by the record.

        ``key``: its path in the dataset, where there is no file.
        """
        with self._lock:
            self._read_on()
            number = self._keys.number_of(key)
            if number is None:
                return None
            return next((each.url for each in self._manifests.values() if each.has(number)), None)

    def require_here(self, key: str) -> None:
        """Raise OmewdError ``evicted`` if a key was evicted, at which there is no file."""
        if (url := self.url_of(key)) is not None:
            raise is_evicted(f"{key} of {self._dataset}", url)

    def among(self, keys: Iterable[str]) -> dict[str, str]:
        """Those of some keys that are evicted, with the URLs of copies that have them."""
        gone = (key for key in keys if not os.path.lexists(self._dataset / key))
        return {key: url for key in gone if (url := self.url_of(key)) is not None}

    def _read_on(self) -> None:
        found = {name: self._manifests.get(name) or _ReadManifest() for name in _names(self._folder)}
        for name, manifest in found.items():
            manifest.read_on(self._folder / name, self._keys)
        self._manifests = found


class _ReadManifest:
    """What one manifest says of the keys, as far as it was read. ``url``: "" until its first line was read."""

    def __init__(self) -> None:
        self._version: tuple[int, ...] = ()
        self._start_over()

    def _start_over(self) -> None:
        self.url, self._end, self._last = "", 0, b""
        self._marks: dict[tuple[int, int], Marks] = {}

    def has(self, number: KeyNumber) -> bool:
        source, level, place = number
        marks = self._marks.get((source, level))
        return marks is not None and marks.at(np.array([place]))[0] == _EVICTED

    def read_on(self, path: Path, keys: Keys) -> None:
        """Read the lines that were appended. Another file of the name, or one that was cut off, is read anew."""
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            version = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
            if version == self._version:
                return
            file.seek(self._end - len(self._last))
            if version[:2] != self._version[:2] or file.read(len(self._last)) != self._last:
                self._start_over()
                file.seek(0)
            for line in lines_in(iter(partial(file.read, _READ_BYTES), b"")):
                if line.endswith(b"\n"):  # else it is being written, or torn
                    self._take(line, keys)
                    self._end, self._last = self._end + len(line), line
        self._version = version

    def _take(self, line: bytes, keys: Keys) -> None:
        for fields in parse([line]):
            if not self.url:
                header = header_of(fields)
                self.url = Address.parse(header.url).url if header is not None else ""
            elif (copied := copied_of(fields)) is not None and (number := keys.number_of(copied.path)) is not None:
                source, level, place = number
                if copied.evicted and (source, level) not in self._marks:
                    self._marks[source, level] = Marks(_OPEN_PAGES)
                if (marks := self._marks.get((source, level))) is not None:
                    marks.put(place, 1, 1, _EVICTED if copied.evicted else _HERE)


def _names(folder: Path) -> Iterator[str]:
    """The names of a dataset's manifests in their folder."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if (
                entry.name.endswith(".jsonl")
                and entry.name != Path(STORED).name
                and entry.is_file(follow_symlinks=False)
            ):
                yield entry.name


def evicted(dataset: Path) -> dict[str, tuple[str, Copied]]:
    """All files of a dataset that are gone because they were evicted, by path: (URL of a copy that has it, record).

    Raises OSError, OmewdError ``other_version``.
    """
    found = {}
    for name in sorted(_names(dataset / FOLDER)):
        if (manifest := read_file(dataset / FOLDER / name)) is not None:
            header, copied = manifest
            found.update({path: (header.url, each) for path, each in copied.items() if each.evicted})
    return {path: each for path, each in found.items() if not os.path.lexists(dataset / path)}


def require_for_writing(spec: StreamSpec, dataset: Path, below: Sequence[int]) -> None:
    """Raise OmewdError ``evicted`` if a stream that goes on would write to a key that was evicted.

    A shard would begin anew then, without the chunks that it had. ``below``: for each source, the frame index below
    which all are in finished units; none for 0.
    """
    if not (gone := evicted(dataset)):
        return
    keys = Keys(spec)
    plans = [Plan.of(spec, source=source) for source in range(spec.sources)]
    for path, (url, _) in gone.items():
        for source, unit in keys.units_of(path):
            if plans[source].last_frame(unit) >= (below[source] if below else 0):
                raise is_evicted(f"{path} of {dataset}, into which the stream would go on to write,", url)
