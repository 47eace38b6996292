"""Signals as events of the loop."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

from omewd.daemon.loop import Loop

# SIGUSR1: drain at the next stop, whatever --on-stop says.
DRAIN = signal.SIGUSR1
RELOAD = signal.SIGHUP
STOP = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Catches signals, and calls ``handle`` in the loop with each signal's number."""

    def __init__(self, loop: Loop, handle: Callable[[int], None]) -> None:
        self._loop, self._handle = loop, handle
        self._caught, self._sink = socket.socketpair()
        self._caught.setblocking(False)
        self._sink.setblocking(False)
        signal.set_wakeup_fd(self._sink.fileno(), warn_on_full_buffer=False)
        for number in (*STOP, RELOAD, DRAIN):
            signal.signal(number, lambda *_: None)
        loop.watch(self._caught.fileno(), self._woken)

    def _woken(self) -> None:
        # The kernel may deliver signals that were sent one after the other in any order.
        for number in sorted(self._caught.recv(64), key=lambda number: number != DRAIN):
            self._handle(number)

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._loop.forget(self._caught.fileno())
        self._caught.close()
        self._sink.close()
