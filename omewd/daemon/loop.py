"""The daemon's event loop: descriptors, each with a callback."""

from __future__ import annotations

import select
from collections.abc import Callable

import structlog

log = structlog.get_logger("loop")


class Loop:
    """epoll with callbacks. It is level-triggered, so no event is missed. ``turn``: the number of the current turn."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self.turn = 0

    def watch(self, descriptor: int, callback: Callable[[], object]) -> None:
        """Call ``callback`` whenever the descriptor is readable or hung up."""
        self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, select.EPOLLIN)

    def forget(self, descriptor: int) -> None:
        """Stop watching; call this before the descriptor is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def wait(self, timeout_s: float) -> None:
        """Wait for at most ``timeout_s`` and run the callbacks that are due."""
        self.turn += 1
        for descriptor, _ in self._epoll.poll(timeout_s):
            callback = self._callbacks.get(descriptor)
            if callback is None:  # an earlier callback has removed it
                continue
            try:
                callback()
            except Exception:
                log.exception("an event could not be handled: this is a bug")

    def close(self) -> None:
        self._epoll.close()
