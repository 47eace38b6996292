"""Watches streams, so that what happens to them is told at once and not with the next status."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from omewd.client.client import Client
from omewd.errors import OmewdError
from omewd.protocol.status import DaemonStatus, StreamStatus

# Each takes a thread and one of the daemon's connections. What happens to others is seen with the next status.
_MOST = 32


class Watching:
    """Calls ``wake``, in any thread, when an open stream of a daemon is paused, goes on, fails or is done.

    Frames wake nobody: they come with the next status, so a faster camera makes no more work. ``socket``: None for the
    default one.
    """

    def __init__(self, socket: Path | None, wake: Callable[[], object]) -> None:
        self._socket, self._wake = socket, wake
        self._watched: set[int] = set()

    def follow(self, status: DaemonStatus | None) -> None:
        """Watch the open streams of a status. Each is left when it ends, or its daemon does."""
        for stream in status.streams if status else ():
            if not stream.settled and stream.id not in self._watched and len(self._watched) < _MOST:
                self._watched.add(stream.id)
                threading.Thread(target=self._watch, args=(stream,), name="watch", daemon=True).start()

    def _watch(self, stream: StreamStatus) -> None:
        try:
            # A RuntimeError: the loop that is to be woken has ended.
            with suppress(OmewdError, OSError, RuntimeError):
                for _ in Client(self._socket).watch(stream.name, frames=False):
                    self._wake()
        finally:
            self._watched.discard(stream.id)
