"""The client end of one connection to the daemon."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from pathlib import Path
from typing import Any

from omewd import __version__
from omewd.errors import OmewdError
from omewd.protocol.address import client_socket
from omewd.protocol.descriptors import close_all
from omewd.protocol.hello import Hello, Welcome, require_same_major
from omewd.protocol.messages import Message, receive, send
from omewd.protocol.versions import CONTROL

# The daemon's loop answers within milliseconds; this only ends the wait for a daemon that hangs.
REPLY_TIMEOUT_S = 60.0
_UCRED = struct.Struct("3i")


class Connection:
    """A connection for one request at a time. When a producer's connection closes, the daemon knows that it is gone.

    ``kind``: what this is, for the daemon: "client", "producer" or "viewer". ``welcome``: the daemon's answer to the
    hello, None before the first request.
    """

    def __init__(self, socket_path: str | os.PathLike[str] | None = None, *, kind: str = "client") -> None:
        self.path = client_socket(socket_path)
        self._kind = kind
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(str(self.path))
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise _unreachable(self.path, error) from error
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self.welcome: Welcome | None = None

    def request(
        self, op: str, *, timeout: float | None = REPLY_TIMEOUT_S, attachment: bytes = b"", **fields: Any
    ) -> tuple[Message, list[int]]:
        """Send a request and wait for its reply: (result, descriptors). An attachment is under the key "attachment".

        The first request is sent along with the hello, so that it takes no longer than others.

        Raises the daemon's error as OmewdError, ``unreachable`` if the daemon goes away, ``other_version`` if it speaks
        another protocol, and TimeoutError after ``timeout`` seconds (None waits for ever). The connection is closed
        after a time-out.
        """
        self._socket.settimeout(timeout)
        hello = self.welcome is None
        try:
            with contextlib.suppress(BrokenPipeError):  # its last reply, if any, is read below
                if hello:
                    told = Hello(str(CONTROL), self._kind, __version__)
                    send(self._socket, {"op": "hello", **told.to_json()})
                send(self._socket, {"op": op, **fields}, attachment=attachment)
            if hello:
                self._greeted(receive(self._socket))
            reply = receive(self._socket)
        except TimeoutError:
            self.close()
            raise
        except OSError as error:
            raise _unreachable(self.path, error) from error
        finally:
            if self._socket.fileno() >= 0:
                self._socket.setblocking(False)  # for is_gone
        return self._result_of(reply)

    def _greeted(self, reply: tuple[Message, list[int]] | None) -> None:
        """Take the answer to the hello in; a connection that is refused is closed."""
        try:
            result, descriptors = self._result_of(reply)
            close_all(descriptors)
            welcome = Welcome.from_json(result)
            require_same_major(welcome.version, f"the daemon at {self.path}", welcome.omewd)
        except ValueError as error:
            self.close()
            raise OmewdError("bad_message", f"the daemon's answer to the hello can't be read: {error}") from error
        except OmewdError as error:
            self.close()
            if error.code != "bad_message":
                raise
            raise OmewdError(
                "other_version", f"the daemon at {self.path} is of an older omewd, which has no hello"
            ) from error
        self.welcome = welcome

    def _result_of(self, reply: tuple[Message, list[int]] | None) -> tuple[Message, list[int]]:
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
