"""A producer's link to the daemon: the control connection and a doorbell; made anew when the daemon is."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Any

from omewd.client.connection import REPLY_TIMEOUT_S, Connection
from omewd.errors import OmewdError
from omewd.ring.layout import Geometry

# A daemon that died is there again within a second, if systemd starts it.
_RECONNECT_EVERY_NS = 100_000_000
_RINGS_AT_ONCE = 4096
_REATTACH_TIMEOUT_S = 0.5  # the camera waits meanwhile; it is tried again


class Link:
    """Open connection and doorbell of the one producer of a source. Rings while the daemon is gone go nowhere.

    The doorbell is a pair of sockets: this end rings the daemon's, and hears it.
    """

    def __init__(
        self,
        connection: Connection,
        bell: int,
        geometry: Geometry,
        *,
        stream_id: int,
        source: int,
    ) -> None:
        self._name, self._epoch, self._stream_id, self._source = geometry.name, geometry.epoch, stream_id, source
        self._next_reconnect_ns = 0
        self._take(connection, bell)

    def _take(self, connection: Connection, bell: int) -> None:
        self._connection, self._bell = connection, socket.socket(fileno=bell)
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        self._poll.register(connection.fileno(), select.POLLIN)

    @property
    def is_gone(self) -> bool:
        """Whether the daemon has closed its end, by dying as a rule."""
        return self._connection.is_gone

    def ring(self) -> None:
        """Wake the daemon."""
        with contextlib.suppress(BlockingIOError, ConnectionError):  # it rings already; the daemon is gone
            self._bell.send(b"!", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def wait(self, timeout_ms: int) -> None:
        """Until the daemon rings, or goes; for ``timeout_ms`` at most."""
        for descriptor, _ in self._poll.poll(timeout_ms):
            if descriptor == self._bell.fileno():
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    if not self._bell.recv(_RINGS_AT_ONCE, socket.MSG_DONTWAIT):  # the daemon is gone
                        self._poll.unregister(self._bell)

    def request(self, op: str, *, timeout: float | None = REPLY_TIMEOUT_S) -> dict[str, Any]:
        """Ask the daemon something about this stream; errors as :meth:`Connection.request`."""
        if self.is_gone:
            raise OmewdError("unreachable", "the daemon is gone")
        return self._connection.request(op, name=self._name, id=self._stream_id, source=self._source, timeout=timeout)[
            0
        ]

    def reconnect(self) -> bool:
        """Whether the daemon is there again, and goes on with this producer; looks for it now and then.

        Raises OmewdError ``daemon_gone`` if there is a daemon that does not.
        """
        if self._connection.fileno() >= 0:  # a closed one would wake wait() at once, again and again
            self._poll.unregister(self._connection.fileno())
            self._connection.close()
        now_ns = time.monotonic_ns()
        if now_ns < self._next_reconnect_ns:
            return False
        self._next_reconnect_ns = now_ns + _RECONNECT_EVERY_NS
        try:
            connection = Connection(self._connection.path)
        except OmewdError:
            return False
        try:
            _, descriptors = connection.request(
                "reattach",
                name=self._name,
                id=self._stream_id,
                source=self._source,
                epoch=self._epoch,
                timeout=_REATTACH_TIMEOUT_S,
            )
        except TimeoutError:
            return False
        except OmewdError as error:
            connection.close()
            if error.code in ("unreachable", "no_daemon"):
                return False
            raise OmewdError(
                "daemon_gone",
                f"the daemon was started again and does not go on with stream {self._name!r}: {error.message}",
                "Look at its log",
            ) from error
        self._bell.close()
        self._take(connection, *descriptors)
        self.ring()
        return True

    def close(self) -> None:
        self._connection.close()
        self._bell.close()
