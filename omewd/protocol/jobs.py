"""What the daemon asks of a writer, and what it answers: values that cross the process border as JSON.

Daemon to writer::

    {"do": "open", "stream": id, "spec": {…}, "backend": name, "dataset": path}  + the details of the spec, attached
    {"do": "ring", "stream": id, "source": n}  + the ring's descriptor
    {"do": "close", "stream": id}
    {"do": "job", "job": {…}}

Writer to daemon::

    {"ready": {backend: why it is unusable, or null}}
    {"done": id, "result": {…}}
    {"failed": id, "error": {"code", "message", "remedy"}}

The result of a ``write``: ``frames`` written, ``stored_bytes``, ``free_bytes`` of the drive, ``io`` (how bytes get
there: "O_DIRECT" or "page cache"), ``contrast`` (pairs of a channel and a sketch, see :mod:`omewd.model.contrast`),
``waits`` (packed histograms by stage, see :mod:`omewd.model.waits`) and ``done_ns``, the monotonic time of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from omewd.model.contrast import Window
from omewd.model.totals import Totals

# The stream of jobs that belong to none; streams count from 1.
NO_STREAM = 0

JobKind = Literal["check", "create", "undo", "sweep", "recover", "write", "seal", "grow", "annotate", "finalize"]


@dataclass(frozen=True)
class Job:
    """One piece of work for a writer; running it twice gives the same bytes.

    ``check``: see whether the dataset of ``spec`` could be made at ``dataset``; the only job for a stream that
    the writer has not been told of.
    ``create``: make the dataset's metadata; ``root`` is the data root it must lie under.
    ``undo``: take the dataset away again that was made for a stream of ``epoch`` which never started; its result says
    whether there are ``leftovers`` to sweep away then.
    ``recover``: finalize the dataset of ``spec`` and ``epoch`` to what its ledger has, as its ring is gone.
    ``sweep``: remove what was replaced by ``dataset``, as a stream of ``epoch`` made it; of no stream.
    ``write``: store ``units`` units of ``source`` from ``unit`` on, from the slots [``sequence``, ``sequence_end``);
    frame indexes below ``frontier`` that no slot holds are gaps, named by ``gap_kinds`` ((from frame index on, name)).
    With ``gap_frames``, (first, stop), the units are all that have these frame indexes, any number, and hold no frame.
    ``seal``: put the shards of ``source`` in place that only have frame indexes below its entry in ``frames``.
    ``grow``: let the metadata of unbounded arrays claim the first ``frames`` frames of each source.
    ``annotate``: put a value under ``namespace`` into the attributes of the dataset's root group or of those of a
    ``position`` or ``well``, if it is still the one that the stream of ``epoch`` has made; without a namespace, put the
    ``windows`` of its channels into its images.
    ``attachment``: what is large, and goes beside the message: of ``check`` and ``recover`` the details of the spec
    (see :mod:`omewd.model.spec.outline`), of ``annotate`` the value as JSON.
    ``finalize``: write the final metadata for the ``totals`` of each source, of a stream that has ``failed`` for what
    its ledger has, and the ``windows``; ``ended_by`` says what ended it. Its result has the ``totals`` as written.
    """

    id: int
    stream: int
    kind: JobKind
    source: int = 0
    unit: int = 0
    units: int = 1
    sequence: int = 0
    sequence_end: int = 0
    frontier: int = 0
    gap_kinds: tuple[tuple[int, str], ...] = ()
    gap_frames: tuple[int, int] | None = None
    frames: tuple[int, ...] = ()
    totals: tuple[Totals, ...] = ()
    namespace: str = ""
    position: int | str | None = None
    well: str | None = None
    windows: tuple[Window, ...] = ()
    ended_by: str = ""
    failed: bool = False
    root: str = ""
    dataset: str = ""
    epoch: int = 0
    spec: dict[str, Any] | None = None
    attachment: bytes = b""

    def to_dict(self) -> dict[str, Any]:
        # Not asdict: that copies a mapping value by value, and gives up on one that is nested deeply.
        shallow = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "attachment"}
        return {**shallow, "totals": [totals.to_dict() for totals in self.totals]}

    @classmethod
    def from_dict(cls, values: dict[str, Any], attachment: bytes = b"") -> Job:
        typed = {
            "gap_kinds": tuple((frame, kind) for frame, kind in values["gap_kinds"]),
            "gap_frames": tuple(values["gap_frames"]) if values["gap_frames"] else None,
            "frames": tuple(values["frames"]),
            "windows": tuple(tuple(window) for window in values["windows"]),
            "totals": tuple(Totals.from_dict(totals) for totals in values["totals"]),
        }
        return cls(**{**values, **typed, "attachment": attachment})
