"""How far the frames of a dataset that is being written are durable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from omewd.reader.record import Record
from omewd.reader.view import View


class Watermarks(Protocol):
    """Says how far each source is; asked for each key, so it must be cheap."""

    def frames(self) -> Sequence[int]:
        """For each source, the frame index below which all are in finished units."""

    def close(self) -> None: ...


class OfRings:
    """By the rings of a stream, of which the daemon moves the watermarks: a word of memory for each."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views

    def frames(self) -> list[int]:
        return [view.stored for view in self._views]

    def close(self) -> None:
        for view in self._views:
            view.close()


class OfLedger:
    """By the ledger, for a dataset of which only the path is known.

    Its lines are written once their pixels are durable, and are durable themselves a moment later.
    """

    def __init__(self, record: Record) -> None:
        self._record = record

    def frames(self) -> list[int]:
        return self._record.finished()

    def close(self) -> None:
        pass
