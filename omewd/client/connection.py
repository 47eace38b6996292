"""The client end of one connection to the daemon."""

from __future__ import annotations

import os
import select
import socket
import struct
from pathlib import Path
from typing import Any

from omewd.errors import OmewdError
from omewd.protocol.address import client_socket
from omewd.protocol.messages import Message, close_all, receive, send

# The daemon's loop answers within milliseconds; this only ends the wait for a daemon that hangs.
REPLY_TIMEOUT_S = 60.0
_UCRED = struct.Struct("3i")


class Connection:
    """A connection for one request at a time. When a producer's connection closes, the daemon knows that it is gone."""

    def __init__(self, socket_path: str | os.PathLike[str] | None = None) -> None:
        self.path = client_socket(socket_path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(str(self.path))
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise _unreachable(self.path, error) from error
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def request(
        self, op: str, *, timeout: float | None = REPLY_TIMEOUT_S, attachment: bytes = b"", **fields: Any
    ) -> tuple[Message, list[int]]:
        """Send a request and wait for its reply: (result, descriptors). An attachment is under the key "attachment".

        Raises the daemon's error as OmewdError, ``unreachable`` if the daemon goes away, and TimeoutError after
        ``timeout`` seconds (None waits for ever). The connection is closed after a time-out.
        """
        self._socket.settimeout(timeout)
        try:
            send(self._socket, {"op": op, **fields}, attachment=attachment)
            reply = receive(self._socket)
        except TimeoutError:
            self.close()
            raise
        except OSError as error:
            raise _unreachable(self.path, error) from error
        finally:
            if self._socket.fileno() >= 0:
                self._socket.setblocking(False)  # for is_gone
        if reply is None:
            raise OmewdError(
                "unreachable",
                f"the daemon at {self.path} closed the connection",
                "It may have been stopped: see its log",
            )
        message, descriptors = reply
        if "error" in message:
            close_all(descriptors)
            raise OmewdError.from_dict(message["error"])
        result: Message = message["ok"]
        if "attachment" in message:
            result["attachment"] = message["attachment"]
        return result, descriptors

    @property
    def daemon_user(self) -> int:
        """The user id of the daemon."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(credentials)
        return int(uid)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_gone(self) -> bool:
        """Whether the daemon has closed its end. Only for use between requests."""
        if self._socket.fileno() < 0:
            return True
        if not self._poll.poll(0):  # nothing to read; this is cheaper than a read's exception, and runs for each frame
            return False
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._socket.close()


def _unreachable(path: Path, error: OSError) -> OmewdError:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return OmewdError(
            "no_daemon",
            f"no omewd daemon at {path}",
            "Start one with omewd serve, or name its socket: `socket=…` or $OMEWD_SOCKET",
        )
    if isinstance(error, PermissionError):
        return OmewdError(
            "no_permission",
            f"no permission to use the omewd daemon at {path}",
            "Ask to be added to the group that owns the socket, then log in again",
        )
    return OmewdError("unreachable", f"can't reach the omewd daemon at {path}: {error.strerror or error}")
