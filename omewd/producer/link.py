"""A producer's link to the daemon: the control connection and the doorbell, renewed when there is a new daemon."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import Any

from omewd.client.connection import REPLY_TIMEOUT_S, Connection
from omewd.errors import OmewdError
from omewd.ring.layout import Geometry

# systemd restarts a daemon that died within a second.
_RECONNECT_EVERY_NS = 100_000_000
_RINGS_AT_ONCE = 4096
_REATTACH_TIMEOUT_S = 0.5  # the camera waits meanwhile; the next try comes soon


class Link:
    """The open connection and the doorbell of a source's producer. Rings get lost while the daemon is gone.

    The doorbell is a pair of connected sockets: each end rings the other.
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
        """Whether the daemon has closed its end, usually because it died."""
        return self._connection.is_gone

    def ring_doorbell(self) -> None:
        """Wake the daemon."""
        with contextlib.suppress(BlockingIOError, ConnectionError):  # enough rings are pending; the daemon is gone
            self._bell.send(b"!", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def wait(self, timeout_ms: int) -> None:
        """Wait until the daemon rings or goes, for ``timeout_ms`` at most."""
        for descriptor, _ in self._poll.poll(timeout_ms):
            if descriptor == self._bell.fileno():
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    if not self._bell.recv(_RINGS_AT_ONCE, socket.MSG_DONTWAIT):  # the daemon is gone
                        self._poll.unregister(self._bell)

    def request(self, op: str, *, brief: bool, timeout: float | None = REPLY_TIMEOUT_S) -> dict[str, Any]:
        """Send the daemon a request about this stream; raises the errors of :meth:`Connection.request`.

        ``brief``: the reply need not have the status of other sources.
        """
        if self.is_gone:
            raise OmewdError("unreachable", "the daemon is gone")
        which: dict[str, Any] = {"name": self._name, "id": self._stream_id, "source": self._source}
        return self._connection.request(op, timeout=timeout, brief=brief, **which)[0]

    def reconnect(self) -> bool:
        """Look for a new daemon, at intervals; returns whether there is one and it has taken this producer over.

        Raises OmewdError ``daemon_gone`` if there is one but it refuses.
        """
        if self._connection.fileno() >= 0:  # left open, it would wake every wait() at once
            self._poll.unregister(self._connection.fileno())
            self._connection.close()
        now_ns = time.monotonic_ns()
        if now_ns < self._next_reconnect_ns:
            return False
        self._next_reconnect_ns = now_ns + _RECONNECT_EVERY_NS
        try:
            connection = Connection(self._connection.path, kind="producer")
        except OmewdError:
            return False
        try:
            _, descriptors = connection.request(
                "reattach",
                name=self._name,
                id=self._stream_id,
                source=self._source,
                epoch=self._epoch,
                brief=True,
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
                f"the daemon was restarted and does not go on with stream {self._name!r}: {error.message}",
                "See the daemon's log",
            ) from error
        self._bell.close()
        self._take(connection, *descriptors)
        self.ring_doorbell()
        return True

    def close(self) -> None:
        self._connection.close()
        self._bell.close()
