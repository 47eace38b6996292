"""A producer's link to the daemon: the control connection and two doorbells; made anew when the daemon is."""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import Any

from omewd.control.connection import REPLY_TIMEOUT_S, Connection
from omewd.control.messages import close_all
from omewd.errors import OmewdError
from omewd.ring.layout import Geometry

# A daemon that died is there again within a second, if systemd starts it.
_RECONNECT_EVERY_NS = 100_000_000
_REATTACH_TIMEOUT_S = 0.5  # the camera waits meanwhile; it is tried again


class Link:
    """Open connection and doorbells of the one producer of a source. Doorbells rung while it is gone go nowhere."""

    def __init__(
        self,
        connection: Connection,
        to_daemon: int,
        to_producer: int,
        geometry: Geometry,
        *,
        stream_id: int,
        source: int,
    ) -> None:
        self._name, self._epoch, self._stream_id, self._source = geometry.name, geometry.epoch, stream_id, source
        self._next_reconnect_ns = 0
        self._take(connection, to_daemon, to_producer)

    def _take(self, connection: Connection, to_daemon: int, to_producer: int) -> None:
        self._connection, self._to_daemon, self._to_producer = connection, to_daemon, to_producer
        self._poll = select.poll()
        self._poll.register(to_producer, select.POLLIN)
        self._poll.register(connection.fileno(), select.POLLIN)

    @property
    def is_gone(self) -> bool:
        """Whether the daemon has closed its end, by dying as a rule."""
        return self._connection.is_gone

    def ring(self) -> None:
        """Wake the daemon."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._to_daemon, 1)

    def wait(self, timeout_ms: int) -> None:
        """Until the daemon rings, or goes; for ``timeout_ms`` at most."""
        for descriptor, _ in self._poll.poll(timeout_ms):
            if descriptor == self._to_producer:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._to_producer)

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
        close_all([self._to_daemon, self._to_producer])
        self._take(connection, *descriptors)
        self.ring()
        return True

    def close(self) -> None:
        self._connection.close()
        close_all([self._to_daemon, self._to_producer])
