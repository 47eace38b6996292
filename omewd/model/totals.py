"""How many frames of a source were received, written and lost. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Totals:
    """received = written + gaps + lost_frames.

    ``lost``: the first few runs (first frame index, count) of frames that were published but are not in the dataset.
    """

    received: int = 0
    written: int = 0
    gaps: int = 0
    lost: tuple[tuple[int, int], ...] = ()
    lost_frames: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Totals:
        """Build totals from a dict with the keys of :meth:`to_dict`; other keys are ignored."""
        numbers = {name: int(fields[name]) for name in ("received", "written", "gaps", "lost_frames")}
        return cls(lost=tuple((int(a), int(b)) for a, b in fields["lost"]), **numbers)
