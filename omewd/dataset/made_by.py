"""What made a dataset: the backend that served, which may be another than the one that was asked for, and the omewd."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from omewd.model.spec.backend import BACKENDS, first_choice

FIELD = "made_by"


@dataclass(frozen=True)
class MadeBy:
    """``backend``: the one that encoded the pixels; ``omewd``: the version that began the dataset; "" if not known."""

    backend: str = ""
    omewd: str = ""

    @classmethod
    def of(cls, summary: dict[str, Any]) -> MadeBy:
        """What the summary of a dataset says; of one that an older omewd began, nothing."""
        found = summary.get(FIELD)
        texts = found if isinstance(found, dict) else {}
        return cls(**{name: text for name in ("backend", "omewd") if isinstance(text := texts.get(name), str)})

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    def leaves_zeros_out(self, asked: str) -> bool:
        """Whether chunks of zeros may be missing; ``asked``: the backend of the spec, for want of a better."""
        record = BACKENDS.get(self.backend) if self.backend else first_choice(asked)
        return record is None or record.leaves_zeros_out  # what a newer omewd may have used does as it likes
