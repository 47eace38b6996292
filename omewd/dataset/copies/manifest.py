"""The manifest of a copy: which files of a dataset are at a URL, confirmed. It is readable without omewd.

Each URL has a file of its own in the dataset, ``omewd/copies/ID.jsonl``. Its lines are the CRC-32 (of zlib) of a JSON
object in 8 hexadecimal digits, a space, and the object:

    1f2e3d4c {"major":1,"minor":1,"url":"s3://bucket/run.ome.zarr","epoch":1234}                     the first line
    5a6b7c8d {"path":"0/c/0/0/0","bytes":1048576,"mtime_ns":17,"digest":"d41d…","etag":"d41d…","by":"etag"}
    9e8d7c6b {"path":"0/c/0/0/0", …, "by":"etag","evicted":true}

``digest``: see :mod:`omewd.copier.digest`. ``etag``: what the store calls this version of the object. ``by``: how the
store's content was confirmed, "etag" (the store has computed the digest) or "read" (it was read back). ``evicted``
(since 1.1): the file is then removed from the dataset, so that the copy alone may have it. If there is a file at the
path all the same, the file counts.

The last line about a path counts. Lines are only appended, and synced before they count. A killed process leaves a torn
line at the end, which the next one cuts off; a line with a wrong CRC is ignored, so that its file is copied again.

The copy itself has a manifest, too, which is stored last, as ``omewd/copies/this.jsonl``. Nothing is evicted there.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from omewd.dataset.ledger.ledger import FOLDER as OWN_FOLDER
from omewd.errors import OmewdError
from omewd.model.record import Record
from omewd.process.locks import try_lock
from omewd.process.names import sync_folder
from omewd.store.filesystem import reserve

FOLDER = f"{OWN_FOLDER}/copies"
# The manifest of a copy, in the copy.
STORED = f"{FOLDER}/this.jsonl"
MAJOR, MINOR = 1, 1
# A path has at most 4096 bytes; a longer line is damage.
MOST_LINE_BYTES = 64 << 10
_READ_BYTES = 1 << 20
# The records of some thousand files.
_RECENT_BYTES = 1 << 20
# The records of a thousand files have room in advance, so that copies go on while the disk is full.
_AHEAD_BYTES = 256 << 10
_COPYING_BYTE = 0


@dataclass(frozen=True, eq=False)
class Header(Record):
    """What a manifest is about: the dataset's ``epoch`` tells its stream from all others."""

    major: int = MAJOR
    minor: int = MINOR
    url: str = ""
    epoch: int = 0


@dataclass(frozen=True, eq=False)
class Copied(Record):
    """A file of which the store has been seen to hold every byte. ``bytes`` and ``mtime_ns`` are the local file's.

    ``evicted``: the local file was removed after that, or is about to be.
    """

    path: str = ""
    bytes: int = 0
    mtime_ns: int = 0
    digest: str = ""
    etag: str = ""
    by: str = ""
    evicted: bool = False


def is_path(path: str) -> bool:
    """Whether a file may be named so in a copy: stores take such names, and none leads out of the dataset."""
    return path.isprintable() and not {"", ".", ".."} & set(path.split("/"))


def is_manifest(path: str) -> bool:
    """Whether a path in a dataset is that of a manifest."""
    return path.startswith(f"{FOLDER}/")


def line(record: Header | Copied) -> bytes:
    fields = {name: value for name, value in record.to_json().items() if value is not False}
    text = json.dumps(fields, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def lines_in(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines in a stream, with their newlines. No more than a line that may be is kept of one that is damaged."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest[: MOST_LINE_BYTES + 1] + chunk).split(b"\n")
        for text in whole:
            yield text + b"\n"
    yield rest


def parse(lines: Iterable[bytes]) -> Iterator[dict[str, object]]:
    """The objects of whole lines, without those that are torn or damaged."""
    for text in lines:
        crc, _, rest = text.partition(b" ")
        body = rest.removesuffix(b"\n")
        if len(text) > MOST_LINE_BYTES or body == rest or b"%08x" % zlib.crc32(body) != crc:
            continue
        try:
            found = json.loads(body)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def header_of(fields: dict[str, object]) -> Header | None:
    """The header, by the first line's object; None if it is none.

    Raises OmewdError ``other_version`` for a manifest of a later major version.
    """
    try:
        header = Header.from_json(fields) if "major" in fields else None
    except ValueError:
        return None
    if header is not None and header.major != MAJOR:
        raise OmewdError(
            "other_version",
            f"the manifest of the copy has version {header.major}.{header.minor}, and this omewd knows {MAJOR}.{MINOR}",
            "Use the omewd that has made the copy, or a later one",
        )
    return header


def copied_of(fields: dict[str, object]) -> Copied | None:
    """What is copied, by another line's object; None if it says nothing of that kind."""
    try:
        entry = Copied.from_json(fields)
    except ValueError:
        return None
    return entry if is_path(entry.path) else None


def read(lines: Iterable[bytes]) -> tuple[Header, dict[str, Copied]] | None:
    """The header and what is copied, by path; None without a header. Raises OmewdError ``other_version``."""
    objects = parse(lines)
    header = header_of(next(objects, {}))
    if header is None:
        return None
    entries = filter(None, map(copied_of, objects))
    return header, {entry.path: entry for entry in entries}


def read_file(path: Path) -> tuple[Header, dict[str, Copied]] | None:
    """What :func:`read` finds in a file. Raises OSError, OmewdError ``other_version``."""
    with path.open("rb") as file:
        return read(lines_in(iter(partial(file.read, _READ_BYTES), b"")))


def path_for(url: str) -> str:
    """The path in a dataset of the manifest of its copy at a URL."""
    return f"{FOLDER}/{hashlib.sha256(url.encode()).hexdigest()[:16]}.jsonl"


def reserve_lines(path: Path) -> None:
    """Take room for the lines of a manifest, so that copies go on, and evict files, once the disk is full."""
    with path.open("r+b") as file:
        _reserve(file.fileno())


def _reserve(descriptor: int) -> None:
    end = os.fstat(descriptor).st_size
    with suppress(OSError):  # the disk is full, and what was reserved before has to do
        reserve(descriptor, end, end + _AHEAD_BYTES)


class Manifest:
    """The manifest of a dataset's copy at a URL, open for appending. ``copied``: what is on record, by path.

    ``is_new``: nothing was ever copied to this URL. Only one process at a time has it. ``recent_only``: read the last
    records alone, however long the manifest is; a file that has none of these may be copied once more.

    Raises OmewdError ``busy``, ``other_version``; OSError.
    """

    def __init__(self, dataset: Path, url: str, epoch: int, *, recent_only: bool = False) -> None:
        folder = dataset / FOLDER
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
        self.path = dataset / path_for(url)
        self._header = Header(url=url, epoch=epoch)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            if not try_lock(self._descriptor, _COPYING_BYTE):
                raise OmewdError("busy", f"another process is copying {dataset} to {url}", "Wait until it has ended")
            found = self._read(_RECENT_BYTES if recent_only else None)
            self.is_new = found is None
            self.copied = found or {}
            self.reserve()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _read(self, most_bytes: int | None) -> dict[str, Copied] | None:
        """What is on record, or the last of it. A torn line at the end is cut off."""
        with self.path.open("rb") as file:
            first = file.readline(MOST_LINE_BYTES)
            if most_bytes is not None and os.fstat(file.fileno()).st_size - most_bytes > len(first):
                file.seek(-most_bytes, os.SEEK_END)
                file.readline(MOST_LINE_BYTES)  # a part of one
            found = read(chain([first], lines_in(iter(partial(file.read, _READ_BYTES), b""))))
            end = file.tell()
            file.seek(max(0, end - MOST_LINE_BYTES))
            tail = file.read()
            whole = end - (len(tail) - tail.rfind(b"\n") - 1)
        if found is None or (found[0].url, found[0].epoch) != (self._header.url, self._header.epoch):
            if end:  # else what is reserved would be given back
                os.ftruncate(self._descriptor, 0)
            return None
        if whole < end:
            os.ftruncate(self._descriptor, whole)
        return found[1]

    def reserve(self) -> None:
        """Take room on the disk for the next lines: see :func:`reserve_lines`."""
        _reserve(self._descriptor)

    def trim(self) -> None:
        """Give back the room for more records, because the copy is complete."""
        os.ftruncate(self._descriptor, os.lseek(self._descriptor, 0, os.SEEK_END))

    def begin(self) -> None:
        """Note that a copy is begun at the URL, before anything is put there."""
        if self.is_new:
            self._append(line(self._header))
            sync_folder(self.path.parent)
            self.is_new = False

    def add(self, copied: Iterable[Copied]) -> None:
        """Append what is confirmed, and sync it: it counts from here on."""
        copied = list(copied)
        if copied:
            self._append(b"".join(map(line, copied)))
            self.copied.update((entry.path, entry) for entry in copied)

    def _append(self, lines: bytes) -> None:
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fdatasync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise

    def lines(self, paths: Iterable[str], place: Callable[[str], str] = str) -> Iterator[bytes]:
        """The manifest as the copy has it: the header, and one line for each of its objects. ``place``: of a path."""
        yield line(self._header)
        for path in paths:
            yield line(replace(self.copied[path], path=place(path), evicted=False))

    def close(self) -> None:
        os.close(self._descriptor)
