"""The producers that the suite runs on. A new one, in any language, is a class like these and a line at the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import omewd
from tests.conformance.producer.by_the_page import ProducerByThePage
from tests.support.frames import Array


class ConformingProducer(Protocol):
    """A producer of one source. Errors have a ``code``, that of the daemon or of docs/internals/ring.md."""

    def append(self, frame: Array, metadata: dict[str, Any] | None = None) -> int | None:
        """Publish a frame; returns its frame index, None if a full ring dropped it. Waits by the stream's policy."""

    def skip(self, frames: int) -> None:
        """Leave out frame indexes."""

    @property
    def durable(self) -> int:
        """Frame indexes below are on disk."""

    def close(self) -> None:
        """End the stream, and wait until the dataset is complete."""

    def vanish(self) -> None:
        """Let go of everything at once, as a process that is killed does."""


class OmewdProducer:
    """The one that omewd ships."""

    def __init__(self, socket: Path, name: str) -> None:
        self._producer = omewd.connect(name, socket=socket)

    def append(self, frame: Array, metadata: dict[str, Any] | None = None) -> int | None:
        index = self._producer.append(frame, metadata=metadata)
        assert not isinstance(index, list)
        return index

    def skip(self, frames: int) -> None:
        self._producer.skip(frames)

    @property
    def durable(self) -> int:
        return self._producer.durable

    def close(self) -> None:
        self._producer.close()

    def vanish(self) -> None:
        self._producer._let_go()
        self._producer._closed = True


IMPLEMENTATIONS: dict[str, Callable[[Path, str], ConformingProducer]] = {
    "omewd.Producer": OmewdProducer,
    "by the page": ProducerByThePage,
}
