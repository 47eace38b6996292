"""What all jobs share, and the messages that carry jobs to a child and results back.

Daemon to child::

    {"do": "open", "stream": {fields of StreamToOpen}}  + the details of its spec, attached
    {"do": "ring", "stream": id, "source": n}  + the ring's descriptor
    {"do": "close", "stream": id}
    {"do": "job", "lease": number, "kind": name, "job": {fields of the kind}}  + its attachment

Child to daemon::

    {"ready": {backend: why it is unusable, or null}, "version": that of these messages}
    {"done": lease, "result": {fields of the kind's result}}
    {"failed": lease, "error": {"code", "message", "remedy"}}
    {"going": lease, "progress": {fields of the kind's progress}}  while it works at a job that takes long

The fields are those of the job's class, in the JSON form of :mod:`omewd.protocol.jobs.values`. A lease is the grant of
a job to one child; if another child gets the job, it has another lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from omewd.errors import OmewdError
from omewd.model.spec.outline import Fields
from omewd.protocol.jobs.values import Wire
from omewd.protocol.messages import Message
from omewd.protocol.versions import JOBS

# Roles of children.
WRITER = "writer"
MAINTAINER = "maintainer"
CLEANER = "cleaner"
COPIER = "copier"

# Errors for which another try does not help.
FINAL_ERRORS = frozenset({"bad_message", "bad_metadata", "bad_spec", "dataset_replaced", "evicted"})


class Opened(Enum):
    """What a child must know about a stream before it gets a job."""

    NOTHING = "nothing"
    STREAM = "its spec and its dataset"
    RINGS = "its rings, too"


@dataclass(frozen=True)
class Needs:
    """What a kind of job needs.

    ``role``: the role of the child that runs it. ``long_role``: the role if it takes long, so that frames do not wait
    behind it. ``opened``: what the child must know about the stream. ``documents``: it may write the zarr.json files of
    all images, and gets more time for each. ``tries``: how often it may fail. ``waits_for_space``: on a full disk, it
    waits for space if its stream does.
    """

    role: str
    long_role: str | None = None
    opened: Opened = Opened.NOTHING
    documents: bool = False
    tries: int = 3
    waits_for_space: bool = False


@dataclass(frozen=True)
class Result(Wire):
    """A child's answer when a job is done. Most kinds have nothing to report."""


@dataclass(frozen=True)
class Job(Wire):
    """A piece of work for a child. Running it twice writes the same bytes.

    ``kind``: its name in messages and logs. ``result``: the type of its result. ``progress``: of what a child tells
    meanwhile, which moves the deadline; None if it tells nothing.
    """

    kind: ClassVar[str]
    needs: ClassVar[Needs]
    result: ClassVar[type[Result]] = Result
    progress: ClassVar[type[Result] | None] = None

    @property
    def reads_ledger(self) -> bool:
        """Whether the job reads the whole ledger, which takes long after a long stream."""
        return False

    @property
    def what(self) -> str:
        """A description of the job for people."""
        return self.kind


@dataclass(frozen=True)
class StreamJob(Job):
    """A job for a stream that the child has opened."""

    stream: int


@dataclass(frozen=True)
class StreamToOpen(Wire):
    """What a child is told about a stream before it gets its jobs.

    ``outline`` and ``details``: its spec (see :mod:`omewd.model.spec.outline`). ``backend``: the chosen one.
    ``below``: for each source, the frame index below which all were in finished units when this was told.
    """

    stream: int
    epoch: int
    dataset: str
    backend: str
    outline: Fields
    details: bytes = b""
    below: tuple[int, ...] = ()


def job_message(lease: int, job: Job) -> Message:
    """The message that gives a job to a child. The job's attachment travels beside it."""
    return {"do": "job", "lease": lease, "kind": job.kind, "job": job.to_json()}


def job_of(message: Message, kinds: Mapping[str, type[Job]]) -> Job:
    """The job in a message. ``kinds``: the kinds that this child knows. Raises OmewdError ``bad_message``."""
    kind = kinds.get(str(message.get("kind")))
    if kind is None:
        known = ", ".join(kinds)
        raise OmewdError(
            "bad_message", f"{str(message.get('kind'))[:40]!r} is not a known kind of job; the kinds are {known}"
        )
    return kind.from_json(message.get("job"), message.get("attachment", b""))


def ready_message(facts: dict[str, Any]) -> Message:
    """The message of a child that is ready for jobs. ``facts``: about it, for the daemon."""
    return {"ready": facts, "version": str(JOBS)}


def done_message(lease: int, result: Result) -> Message:
    return {"done": lease, "result": result.to_json()}


def failed_message(lease: int, error: OmewdError) -> Message:
    return {"failed": lease, "error": error.to_dict()}


def going_message(lease: int, progress: Result) -> Message:
    return {"going": lease, "progress": progress.to_json()}


def progress_of(job: Job, message: dict[str, Any]) -> Result:
    """What a child tells of a job that it is working at; raises OmewdError ``bad_message``."""
    if job.progress is None:
        raise OmewdError("bad_message", f"a job of the kind {job.kind} has no progress")
    return job.progress.from_json(message.get("progress"))


def result_of(job: Job, message: dict[str, Any]) -> Result:
    """The result of a job in a child's answer; raises OmewdError ``bad_message``."""
    return job.result.from_json(message.get("result"))
