"""Jobs that change the attributes of a dataset's groups, while it is written or later.

``epoch`` says of which stream the dataset is: a job leaves the dataset of any other stream alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from omewd.model.contrast import Window
from omewd.protocol.jobs.job import WRITER, Job, Needs
from omewd.protocol.jobs.values import AnyInt


@dataclass(frozen=True)
class PutUserMetadata(Job):
    """Put what a user gives under ``namespace`` into the dataset's root group, or those of a ``position`` or ``well``.

    ``value``: as JSON text, which nobody has looked at yet.
    """

    kind = "put_user_metadata"
    needs = Needs(WRITER)

    dataset: str
    epoch: int
    namespace: str
    position: AnyInt | str | None = None
    well: str | None = None
    value: bytes = b""


@dataclass(frozen=True)
class PutContrast(Job):
    """Let the images of a dataset be shown in ``windows`` of grey values; the last metadata make up for a failure."""

    kind = "put_contrast"
    needs = Needs(WRITER, tries=1)

    dataset: str
    epoch: int
    windows: tuple[Window, ...]
