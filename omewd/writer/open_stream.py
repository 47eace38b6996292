"""What a writer holds for one stream: the mapped rings, the dataset, and the store of its units.

Both threads of a writer use it: the *front*, which puts units, and the *back*, which makes them durable and does all
other jobs. They share it so:

- The front alone uses the rings, the makers of lines and the encoders. The back opens the encoders in the job that
  creates the dataset, before the front gets any units.
- The back alone commits and seals, so it alone puts files in their places and knows which folders are on disk.
- Both check before they write that the dataset is still in its place. A lock keeps them from opening it twice.
- The back closes the stream, after its last job.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from omewd.dataset import dataset
from omewd.dataset.ledger.appending import HeldLedger
from omewd.dataset.ledger.frame_lines import FrameLines
from omewd.errors import OmewdError
from omewd.model.plan.plan import Plan
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.outline import join
from omewd.model.spec.stored import stored_spec
from omewd.protocol.jobs.job import StreamToOpen
from omewd.ring.segment import Segment
from omewd.store.encoders.base import Pixels
from omewd.store.format.shard_table import STAGING
from omewd.store.sinks.base import Fence
from omewd.store.sinks.publish import Publisher
from omewd.store.tools import Tools
from omewd.store.units import Units, UnitStore
from omewd.writer.ring_reader import RingReader, UnitFrames


class OpenStream:
    """One stream, open in a writer. ``rings`` and ``lines`` (which makes the ledger's lines) are by source."""

    def __init__(self, told: StreamToOpen, tools: Tools) -> None:
        self.epoch, self.backend, self.folder = told.epoch, BACKENDS[told.backend], Path(told.dataset)
        self._below = told.below
        self.spec = spec = stored_spec(join(told.outline, told.details))
        self._clock = tools.clock
        self.rings: dict[int, RingReader] = {}
        self.lines: dict[int, FrameLines] = {}
        self.publisher = Publisher(
            self.folder,
            self.folder / STAGING,
            durable=spec.durability == "fsync",
            pool=tools.syncs,
            clock=tools.clock,
            buffers=tools.buffers,
        )
        self._units = UnitStore(spec, self.backend, self.publisher, tools, str(told.stream))
        self._ledger: HeldLedger | None = None
        self._holding = threading.Lock()

    def add_ring(self, source: int, segment: Segment) -> None:
        self.rings[source] = RingReader(segment, Plan.of(self.spec, self.backend.encodes, source))
        self.lines[source] = FrameLines.of(self.spec, source)

    def hold_dataset(self) -> HeldLedger:
        """Hold the dataset against ``omewd repair`` while this writer has it, and check that it is open for writing.

        To be called before anything is written into it; returns its ledger. Raises OmewdError ``dataset_replaced`` if
        another is in its place, or none; ``evicted``.
        """
        with self._holding:
            if self._ledger is not None and self._ledger.is_in_place:
                return self._ledger
            dataset.require_own(self.folder, self.epoch)
            if self._ledger is not None:
                raise dataset.replaced(f"a copy of the dataset of this stream has replaced {self.folder}")
            held = HeldLedger(self.folder)
            try:
                dataset.reopen(self.spec, self.folder, self.epoch, self._below)
            except (OSError, OmewdError):
                held.close()
                raise
            self._ledger = held
            return held

    def open_encoders(self) -> None:
        """Let the backend open what it needs; raises whatever the backend raises."""
        self._units.open_encoders()

    def put(self, source: int, units: Sequence[UnitFrames]) -> Fence:
        """Put units, each with at least one frame, at all resolutions; returns the fence to be committed."""
        with self._clock.stage("read"):
            runs = [run for frames in units for run in self.rings[source].blocks(frames)]
        return self._units.put(source, [_units(frames, pixels) for frames, pixels in runs])

    def seal(self, source: int, below: int, since: int) -> None:
        """See :meth:`UnitStore.seal`."""
        self._units.seal(source, below, since)

    def close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
        self._units.close()
        for ring in self.rings.values():
            ring.close()


def _units(frames: UnitFrames, pixels: Pixels) -> Units:
    is_there = frames.sequences >= 0
    return Units(frames.units, pixels, None if np.all(is_there) else is_there)
