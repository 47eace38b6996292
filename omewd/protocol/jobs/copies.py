"""Jobs that copy a dataset to a URL: during its stream the files that are in their places, and in the end all of it."""

from __future__ import annotations

from dataclasses import dataclass

from omewd.protocol.jobs.job import COPIER, Job, Needs, Opened, Result, StreamJob

# A unit of keys of a source, and the one after the last: (source, first, stop).
KeyUnits = tuple[int, int, int]


@dataclass(frozen=True)
class Confirmed(Result):
    """``files``, ``bytes``: what this job has copied so far, all of it confirmed and on record in the manifest.

    ``missing``: in the end, the sources of other daemons whose parts of the copy were not complete yet.
    ``evicted_bytes``: what it has evicted.
    """

    files: int
    bytes: int
    missing: tuple[str, ...] = ()
    evicted_bytes: int = 0


@dataclass(frozen=True)
class CopyUnits(StreamJob):
    """Copy the files of the units in ``parts``, which are in their places, to ``url``.

    A file that is not there holds only gaps, or was evicted. ``limit``: the most bytes a second that are sent.
    ``live``: copy the metadata first. ``evict``: remove the files once they are confirmed. Nobody writes to them.
    """

    kind = "copy_units"
    needs = Needs(COPIER, opened=Opened.STREAM, tries=1)
    result = Confirmed
    progress = Confirmed

    dataset: str
    epoch: int
    url: str
    parts: tuple[KeyUnits, ...]
    limit: float | None = None
    live: bool = False
    evict: bool = False


@dataclass(frozen=True)
class CopyDataset(Job):
    """Copy all of a finished dataset that is not on record as copied to ``url``, so that the copy is complete.

    ``evict``: remove the files of keys once they are confirmed.
    """

    kind = "copy_dataset"
    needs = Needs(COPIER, tries=1)
    result = Confirmed
    progress = Confirmed

    dataset: str
    epoch: int
    url: str
    limit: float | None = None
    evict: bool = False
