"""The memory budget: what rings and writers take of it, and how many slots a new ring gets."""

from __future__ import annotations

from omewd.daemon.config import RING_TARGET_BYTES, ServeConfig
from omewd.daemon.streams.stream import Stream
from omewd.daemon.streams.streams import Streams
from omewd.model.plan.memory import index_cause, writer_need_bytes
from omewd.model.plan.plan import Budget, Plan, choose_capacity
from omewd.model.spec.backend import BACKENDS
from omewd.model.spec.spec import StreamSpec
from omewd.protocol.status import MemoryStatus
from omewd.ring.layout import PAGE, slot_header_stride, slot_stride

# A ring's header pages, and the rounding to pages.
_FIXED_BYTES = 4 * PAGE


class MemoryBudget:
    """The memory budget, in bytes. Kept rings count like those of open streams."""

    def __init__(self, config: ServeConfig, streams: Streams) -> None:
        self._config, self._streams = config, streams
        self._needs: dict[tuple[int, str], int] = {}

    def status(self) -> MemoryStatus:
        return MemoryStatus(self._config.memory_bytes, self.ring_bytes(), self.writer_bytes())

    def ring_bytes(self, without: Stream | None = None) -> int:
        kept = sum(kept.ring_bytes for kept in self._streams.kept.values())
        return kept + sum(stream.ring_bytes for stream in self._streams.open.values() if stream is not without)

    def writer_bytes(self, of_one_more: int = 0, without: Stream | None = None) -> int:
        """What the writers may hold beside the rings: each holds one write unit at a time, in a few copies."""
        known = self._needs  # computed once for each stream, because there may be hundreds
        self._needs = {
            key: known[key] if key in known else writer_need_bytes(stream.spec, stream.backend)
            for stream in self._streams.open.values()
            if (key := (stream.id, stream.backend))
        }
        needs = (need for (number, _), need in self._needs.items() if without is None or number != without.id)
        return self._config.writers * max([of_one_more, *needs])

    def capacity(self, spec: StreamSpec, backend: str, without: Stream | None = None) -> int:
        """How many slots each ring of a stream gets; all its rings are alike.

        ``without``: the stream itself, if its memory is counted already. Raises OmewdError with the numbers and a
        remedy.
        """
        rings = spec.sources
        slot_bytes = rings * (slot_stride(spec.frame_bytes) + slot_header_stride(spec.frame_bytes))
        return choose_capacity(
            Plan.of(spec, BACKENDS[backend].encodes),
            slot_bytes,
            Budget(
                self._config.memory_bytes - self.ring_bytes(without) - rings * _FIXED_BYTES,
                self.writer_bytes(writer_need_bytes(spec, backend), without),
                rings,
                index_cause(spec, backend),
            ),
            target_bytes=min(RING_TARGET_BYTES, self._config.memory_bytes // 8),
            writers=self._config.writers,
            wanted_slots=spec.ring_slots,
            writer_bytes_of=lambda plan: self.writer_bytes(writer_need_bytes(spec, backend, plan), without),
        )
