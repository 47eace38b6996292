"""Jobs that change the attributes of a dataset's groups, during its stream or later.

``epoch`` identifies the dataset's stream: a job does not touch the dataset of any other stream.
"""

from __future__ import annotations

from dataclasses import dataclass

from omewd.model.contrast import Window
from omewd.protocol.jobs.job import WRITER, Job, Needs
from omewd.protocol.jobs.values import AnyInt


@dataclass(frozen=True)
class PutUserMetadata(Job):
    """Put a user's value under ``namespace`` into the dataset's root group, or that of a ``position`` or ``well``.

    ``value``: JSON text that has not been checked yet.
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
    """Set the ``windows`` of grey values in which viewers show the images. The final metadata have them, too."""

    kind = "put_contrast"
    needs = Needs(WRITER, tries=1)

    dataset: str
    epoch: int
    windows: tuple[Window, ...]
