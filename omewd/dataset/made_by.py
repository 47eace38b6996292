"""What made a dataset: the version of omewd, and the backend, which may differ from the one in the spec."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from omewd.model.spec.backend import BACKENDS, first_choice

FIELD = "made_by"


@dataclass(frozen=True)
class MadeBy:
    """``backend``: the one that encoded the pixels. ``omewd``: the version that created the dataset. "" if unknown."""

    backend: str = ""
    omewd: str = ""

    @classmethod
    def of(cls, summary: dict[str, Any]) -> MadeBy:
        """Read it from a dataset's summary. An older omewd's summary does not have it."""
        found = summary.get(FIELD)
        texts = found if isinstance(found, dict) else {}
        return cls(**{name: text for name in ("backend", "omewd") if isinstance(text := texts.get(name), str)})

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    def leaves_zeros_out(self, asked: str) -> bool:
        """Whether chunks of zeros may be missing. ``asked``: the spec's backend, if none is recorded."""
        record = BACKENDS.get(self.backend) if self.backend else first_choice(asked)
        return record is None or record.leaves_zeros_out  # None: a newer omewd's backend
