"""What verifying a dataset has found."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omewd.dataset.made_by import FIELD, MadeBy


@dataclass
class Report:
    """What was read, and one line for each problem.

    ``dataset``: its folder, or the URL of a copy. ``received``: the frames of each source. ``notes``: harmless
    irregularities. ``bad_runs``: the ledger's record of runs does not match its lines. ``bad_units``: by source, the
    units of whole keys whose full-resolution files are missing, empty or can't be decoded. ``bad_levels``: (source,
    unit, level) of lower resolutions with wrong pixels. ``strays``: files that do not belong there. ``evicted_to``: how
    many keys are not here, but in the copy at a URL, which can be verified there. ``made_by``: what encoded the pixels.
    """

    dataset: Path | str
    received: list[int] = field(default_factory=list)
    written: int = 0
    gaps: int = 0
    keys: int = 0
    read_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bad_runs: bool = False
    bad_units: dict[int, list[int]] = field(default_factory=dict)
    bad_levels: list[tuple[int, int, int]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    evicted_to: dict[str, int] = field(default_factory=dict)
    made_by: MadeBy = field(default_factory=MadeBy)

    @property
    def frames(self) -> int:
        """The number of frames that were received, over all sources."""
        return sum(self.received)

    @property
    def evicted(self) -> int:
        """How many keys are not here, but in a copy."""
        return sum(self.evicted_to.values())

    def add(self, part: Report) -> None:
        """Add what was found in a part of the dataset."""
        self.keys, self.read_bytes = self.keys + part.keys, self.read_bytes + part.read_bytes
        self.problems += part.problems
        self.bad_levels += part.bad_levels
        for source, units in part.bad_units.items():
            self.bad_units.setdefault(source, []).extend(units)
        for url, count in part.evicted_to.items():
            self.evicted_to[url] = self.evicted_to.get(url, 0) + count

    def to_dict(self) -> dict[str, Any]:
        more = {"dataset": str(self.dataset), "frames": self.frames, "evicted": self.evicted}
        return {**self.__dict__, **more, FIELD: self.made_by.to_dict()}
