"""TCP connections whose last close waits for a peer that reads nothing (socket(7), SO_LINGER)."""

from __future__ import annotations

import collections
import contextlib
import socket
import struct

_SMALLEST_BUFFER_BYTES = 4096
_LINGER_S = 600


class LingeringSockets:
    """Makes such connections; ``most`` of them linger at once. Once this is closed, none does."""

    def __init__(self, most: int = 50) -> None:
        self._receivers: collections.deque[socket.socket] = collections.deque()
        self._most = most

    def make(self) -> int:
        """A descriptor of a new one, which the caller has to close, but not last."""
        with socket.socket() as listener, socket.socket() as sender:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALLEST_BUFFER_BYTES)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALLEST_BUFFER_BYTES)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            sender.connect(listener.getsockname())
            self._receivers.append(listener.accept()[0])
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.send(bytes(_SMALLEST_BUFFER_BYTES))
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, _LINGER_S))
            descriptor = sender.detach()
        if len(self._receivers) > self._most:
            self._receivers.popleft().close()
        return descriptor

    def close(self) -> None:
        for receiver in self._receivers:
            receiver.close()
