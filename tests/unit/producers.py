"""A producer on a ring in anonymous memory: its daemon is this process, its link notes what goes over it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

from omewd.errors import OmewdError
from omewd.producer.link import Link
from omewd.producer.producer import Producer
from omewd.ring import pixels
from omewd.ring.daemon_ring import DaemonRing
from omewd.ring.segment import Segment
from tests.unit.rings import make_geometry, open_segment

Array = np.ndarray[Any, Any]


class NotedLink:
    """Stands for the link to a daemon that answers at once."""

    is_gone = False

    def __init__(self) -> None:
        self.rings = 0
        self.when_waiting: Callable[[], object] = lambda: None
        self.requests: list[str] = []

    def ring_doorbell(self) -> None:
        self.rings += 1

    def wait(self, _timeout_ms: int) -> None:
        self.when_waiting()

    def request(self, op: str, **_fields: Any) -> dict[str, Any]:
        self.requests.append(op)
        return {"name": "cam0", "state": "DONE"}

    def close(self) -> None:
        pass


class Both:
    """A producer and the daemon's end of its ring."""

    def __init__(self, segment: Segment, producer: Producer, daemon: DaemonRing, link: NotedLink) -> None:
        self.producer, self.daemon, self.link = producer, daemon, link
        self.segment = segment
        self._slots = pixels.slots(segment)

    def seen(self) -> list[Array]:
        """The pixels of all frames that are visible and not released, oldest first."""
        self.daemon.poll()
        capacity = self.segment.geometry.capacity
        return [
            self._slots[sequence % capacity].copy()
            for sequence in range(self.daemon.released, self.daemon.map.published)
        ]

    def headers(self) -> list[tuple[int, bytes]]:
        """Frame index and metadata of the same."""
        self.daemon.poll()
        rows = (pixels.header(self.segment, s) for s in range(self.daemon.released, self.daemon.map.published))
        return [(index, metadata) for index, _, _, metadata in rows]

    def gaps(self) -> list[tuple[int, int, str]]:
        self.daemon.poll()
        return list(self.daemon.gaps(0, self.daemon.frontier))

    def release(self) -> None:
        """As if all that is visible were on disk."""
        self.daemon.poll()
        self.daemon.release_below(self.daemon.frontier, durable=True)


@contextlib.contextmanager
def producer_on(capacity: int = 4, *, samples: int = 1, **fields: Any) -> Iterator[Both]:
    with open_segment(make_geometry(capacity, **fields)) as segment:
        link = NotedLink()
        mapping = Segment(os.dup(segment.fd), segment.geometry, writable=True)
        producer = Producer(mapping, cast(Link, link), samples=samples)
        try:
            yield Both(segment, producer, DaemonRing(segment), link)
        finally:
            with contextlib.suppress(OmewdError):
                producer.close()
