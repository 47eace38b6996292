"""What the daemon asks of a writer, and what it answers: values that cross the process border as JSON.

Daemon to writer::

    {"do": "open", "stream": id, "spec": {…}, "backend": name, "dataset": path}  + the ring's descriptor
    {"do": "close", "stream": id}
    {"do": "job", "job": {…}}

Writer to daemon::

    {"ready": {backend: why it is unusable, or null}}
    {"done": id, "result": {…}}
    {"failed": id, "error": {"code", "message", "remedy"}}

The result of a ``write``: ``frames`` written, ``stored_bytes``, ``free_bytes`` of the drive, ``io`` (how bytes get
there: "O_DIRECT" or "page cache"), ``waits`` (packed histograms by stage, see :mod:`omewd.model.waits`) and
``done_ns``, the monotonic time of the answer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

JobKind = Literal["check", "create", "undo", "sweep", "recover", "write", "seal", "grow", "finalize"]


@dataclass(frozen=True)
class Job:
    """One piece of work for a writer; running it twice gives the same bytes.

    ``check``: see whether the dataset of ``spec`` could be made at ``dataset``; the only job for a stream that
    the writer has not been told of.
    ``create``: make the dataset's metadata; ``root`` is the data root it must lie under.
    ``undo``: take the dataset away again that was made for a stream of ``epoch`` which never started.
    ``recover``: finalize the dataset of ``spec`` and ``epoch`` to what its ledger has, as its ring is gone.
    ``sweep``: remove what was replaced by ``dataset``; of no stream.
    ``write``: store ``units`` units from ``unit`` on, from the slots [``sequence``, ``sequence_end``); frame
    indexes below ``frontier`` that no slot holds are gaps, named by ``gap_kinds`` ((from frame index on, name)).
    ``seal``: put the shards in place that only have frame indexes below ``frames``.
    ``grow``: let an unbounded array's metadata claim the first ``frames`` frames.
    ``finalize``: write the final metadata for ``frames`` frames, of which ``written`` are on disk, ``gaps``
    hold none, and ``lost_frames`` were handed over and could not be written; ``lost`` lists the first runs
    (first, count) of those, ``ended_by`` says what ended the stream, ``failed`` whether it failed.
    """

    id: int
    stream: int
    kind: JobKind
    unit: int = 0
    units: int = 1
    sequence: int = 0
    sequence_end: int = 0
    frontier: int = 0
    gap_kinds: tuple[tuple[int, str], ...] = ()
    frames: int = 0
    written: int = 0
    gaps: int = 0
    lost: tuple[tuple[int, int], ...] = ()
    lost_frames: int = 0
    ended_by: str = ""
    failed: bool = False
    root: str = ""
    dataset: str = ""
    epoch: int = 0
    spec: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Job:
        pairs = {name: tuple((a, b) for a, b in fields[name]) for name in ("gap_kinds", "lost")}
        return cls(**{**fields, **pairs})
