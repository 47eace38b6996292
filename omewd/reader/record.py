"""What the ledger of a dataset says of its frames, for a reader that several threads share."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from omewd.dataset.ledger.index import FRAME, GAP, LedgerIndex
from omewd.model.plan.plan import Plan
from omewd.model.plan.shards import Flags
from omewd.model.spec.backend import Backend, Cell
from omewd.model.spec.spec import StreamSpec
from omewd.reader.summary import not_stored


class Record:
    """A dataset's ledger, read on with each question. Raises OmewdError ``not_stored`` if it can't be read."""

    def __init__(self, dataset: Path, spec: StreamSpec, backend: Backend) -> None:
        self._dataset, self._backend = dataset, backend
        cell: Cell = "chunk" if backend.fills_shards(sharded=spec.sharded) else "key"
        self._plans = [Plan.of(spec, cell, source) for source in range(spec.sources)]
        self._index = LedgerIndex(dataset, spec)
        self._lock = threading.Lock()

    def finished(self) -> list[int]:
        """For each source, the frame index below which all are in finished units by the ledger."""
        with self._lock:
            self._read_on()
            return [self._finished(*pair) for pair in zip(self._plans, self._index.marks, strict=True)]

    @staticmethod
    def _finished(plan: Plan, marks: Any) -> int:
        known = next((first for first, _ in marks.intervals({0})), 0)
        total = plan.frames_total
        # A unit's lines may be on their way, so only whole units count.
        return total if total is not None and known >= total else plan.first_frame(plan.units_complete(known))

    def misses(self, source: int, frames: np.ndarray[Any, np.dtype[np.int64]]) -> Flags:
        """Which frame indexes should have pixels on disk that are not there, if their chunk is not stored.

        A gap should have none. A lost frame should, and so should a frame, unless its backend leaves zeros out.
        """
        with self._lock:
            self._read_on()
            marks = self._index.marks[source].at(frames)
        missed: Flags = marks != GAP
        if self._backend.leaves_zeros_out:
            missed &= marks != FRAME
        return missed

    def _read_on(self) -> None:
        try:
            self._index.read_on()
        except OSError as error:
            raise not_stored(self._dataset, f"its ledger can't be opened: {error.strerror}") from error
