"""The copy of a dataset: what is due, what is confirmed, and what follows from an error. Pure: time is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from omewd.daemon.jobs.tasks import Task
from omewd.errors import OmewdError
from omewd.model.spec.spec import StreamSpec
from omewd.protocol.jobs.copies import Confirmed, CopyDataset, CopyUnits
from omewd.protocol.status import CopyStatus, ErrorStatus

# Small files are copied together: a job is given out this often at most.
_EVERY_NS = 200_000_000
# A job has units of so many bytes, of each source, but at least one. Then the watermark moves, and a store that fails
# has not to be sent more than that again.
_JOB_BYTES = 1 << 30
_MOST_UNITS = 256
# After an error, a copy is tried again after one of these times, by how many errors came in a row.
_RETRY_S = (1, 2, 5, 10, 30, 60)
# Errors that no time mends.
_FINAL = frozenset(
    {
        "bad_url",
        "not_installed",
        "output_exists",
        "outside_roots",
        "other_version",
        "dataset_replaced",
        "evicted",
        "not_a_dataset",
    }
)
# A store that refuses, or has no such bucket, may be mended by somebody: keys are renewed, for example.
_OF_SOMEBODY = frozenset({"store_refused", "store_missing"})
_PATIENCE_NS = 24 * 3600 * 10**9


class CopyPhase(StrEnum):
    COPYING = "copying"
    WAITING = "waiting"  # after an error, for the next try
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(eq=False)
class DatasetCopy:
    """The copy of one stream's dataset to ``url``. ``stream``: the stream's id, 0 if it had ended with the last daemon.

    ``sealed``, ``copied``: for each source, how many of its units of keys, from the first one on, have their files in
    their places, and are confirmed. ``unit_bytes``: of the largest one. ``is_last_due``: the stream has ended, and what
    is left is to be copied, with the metadata. ``missing``: sources of other daemons that were not copied yet when this
    copy was complete. ``task``: the job that waits or runs. ``error``: of the last try.
    """

    name: str
    path: Path
    epoch: int
    url: str
    limit: float | None = None
    live: bool = False
    evict: bool = False
    stream: int = 0
    unit_bytes: int = 1
    sealed: list[int] = field(default_factory=list)
    copied: list[int] = field(default_factory=list)
    is_last_due: bool = False
    phase: CopyPhase = CopyPhase.COPYING
    task: Task | None = None
    error: OmewdError | None = None
    files: int = 0
    bytes: int = 0
    missing: tuple[str, ...] = ()
    evicted_bytes: int = 0
    not_before_ns: int = 0
    _errors: int = 0
    _failing_since_ns: int = 0
    _of_job: Confirmed = field(default_factory=lambda: Confirmed(0, 0))

    @classmethod
    def of(cls, spec: StreamSpec, path: Path, epoch: int) -> DatasetCopy | None:
        """The copy that a stream wants; None if it wants none."""
        if spec.copy_to is None:
            return None
        return cls(spec.name, path, epoch, spec.copy_to, spec.copy_limit, spec.copy_live, spec.copy_evict)

    # -- the stream ----------------------------------------------------------------------------

    def follow(self, stream: int, unit_bytes: int, copied: Sequence[int]) -> None:
        """Begin to follow a stream. ``copied``: the units of each source that are confirmed already."""
        self.stream, self.unit_bytes = stream, max(unit_bytes, 1)
        self.sealed, self.copied = list(copied), list(copied)
        self.is_last_due = False

    def note_sealed(self, source: int, units: int) -> bool:
        """Note that the files of a source's first ``units`` units are in their places; returns whether that is new."""
        if units <= self.sealed[source]:
            return False
        self.sealed[source] = units
        return True

    def end(self) -> None:
        """Note that the stream has ended, so that the rest is to be copied."""
        self.is_last_due = True

    # -- jobs ----------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        return self.phase in (CopyPhase.COMPLETE, CopyPhase.FAILED)

    @property
    def has_work(self) -> bool:
        """Whether a job is due, now or after a while."""
        is_behind = any(done < there for done, there in zip(self.copied, self.sealed, strict=True))
        return not self.is_over and self.task is None and (self.is_last_due or is_behind)

    def due(self, now_ns: int) -> CopyUnits | CopyDataset | None:
        """The job to submit now; None if there is none yet."""
        if not self.has_work or now_ns < self.not_before_ns:
            return None
        if self.is_last_due:
            return CopyDataset(str(self.path), self.epoch, self.url, self.limit, self.evict)
        most = min(max(_JOB_BYTES // self.unit_bytes, 1), _MOST_UNITS)
        units = tuple(
            (source, done, min(there, done + most))
            for source, (done, there) in enumerate(zip(self.copied, self.sealed, strict=True))
            if done < there
        )
        return CopyUnits(self.stream, str(self.path), self.epoch, self.url, units, self.limit, self.live, self.evict)

    def submitted(self, task: Task, now_ns: int) -> None:
        self.task, self.not_before_ns = task, now_ns + _EVERY_NS

    def put_back(self) -> None:
        """Note that its job is run again, because its copier has died. What that one had copied still counts."""
        self._of_job = Confirmed(0, 0)

    def withdrawn(self) -> None:
        """Note that its job will not run."""
        self.task = None

    def goes(self, progress: Confirmed) -> bool:
        """Count what its running job has copied, which shows that the store works; returns whether that is news."""
        self.files += progress.files - self._of_job.files
        self.bytes += progress.bytes - self._of_job.bytes
        self.evicted_bytes += progress.evicted_bytes - self._of_job.evicted_bytes
        is_news = progress.files > self._of_job.files
        self._of_job = progress
        if is_news:
            self._store_works()
        return is_news

    def _store_works(self) -> None:
        self.error, self._errors = None, 0
        self.phase = CopyPhase.COPYING

    def _job_ended(self) -> None:
        self.task, self._of_job = None, Confirmed(0, 0)

    def done(self, job: CopyUnits | CopyDataset, result: Confirmed) -> None:
        """Note that a job is done: what it was to copy is confirmed."""
        self.goes(result)
        self._job_ended()
        self._store_works()
        if isinstance(job, CopyDataset):
            self.phase, self.missing = CopyPhase.COMPLETE, result.missing
        for source, _, stop in job.parts if isinstance(job, CopyUnits) else ():
            self.copied[source] = stop

    def failed(self, error: OmewdError, now_ns: int) -> None:
        """Note that a job has failed: another one comes later, unless none would help."""
        self._job_ended()
        if not self._errors:
            self._failing_since_ns = now_ns
        self._errors += 1
        self.error = error.without_traceback()
        given_up = error.code in _OF_SOMEBODY and now_ns - self._failing_since_ns > _PATIENCE_NS
        self.phase = CopyPhase.FAILED if error.code in _FINAL or given_up else CopyPhase.WAITING
        self.not_before_ns = now_ns + _RETRY_S[min(self._errors, len(_RETRY_S)) - 1] * 10**9

    # -- what is told --------------------------------------------------------------------------

    @property
    def failure(self) -> OmewdError | None:
        """Why it has failed, with what to do, for who waits for it."""
        if self.phase is not CopyPhase.FAILED or self.error is None:
            return None
        text = f"the copy of {self.path} to {self.url} has failed: {self.error.message}"
        remedy = f"{self.error.remedy}. " if self.error.remedy else ""
        return self.error.with_text(text, f"{remedy}Then go on with `omewd copy {self.path} {self.url}`")

    def status(self) -> CopyStatus:
        return CopyStatus(
            name=self.name,
            path=str(self.path),
            url=self.url,
            state=self.phase.value,
            files=self.files,
            bytes=self.bytes,
            missing=self.missing,
            evicts=self.evict,
            evicted_bytes=self.evicted_bytes,
            error=ErrorStatus.of(self.failure or self.error) if self.error is not None else None,
        )
