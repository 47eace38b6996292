"""The benchmark's end of a feeder process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from typing import Any

from omewd.bench.tied import command
from omewd.control.messages import receive, send
from omewd.errors import OmewdError

# Importing a library and making the frames takes seconds.
_SET_UP_TIMEOUT_S = 300.0


class Camera:
    """A process that makes frames and hands them over; see :mod:`omewd.bench.feeder`."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                command(os.getpid(), "omewd.bench.feeder", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self.prepared: dict[str, Any] = {}  # what the frames are, and what copying one costs

    @property
    def pid(self) -> int:
        return self._process.pid

    def prepare(self, **settings: Any) -> None:
        """Have the frames made."""
        self.prepared = {**self._ask("prepare", _SET_UP_TIMEOUT_S, **settings), "for": settings}

    def open(self, **settings: Any) -> dict[str, Any]:
        """Open a dataset."""
        return self._ask("open", _SET_UP_TIMEOUT_S, **settings)

    def feed(self, *, timeout_s: float, **settings: Any) -> dict[str, Any]:
        """Hand the frames over, and wait until the dataset is complete."""
        return self._ask("feed", timeout_s, **settings)

    def _ask(self, verb: str, timeout_s: float, **settings: Any) -> dict[str, Any]:
        self._channel.settimeout(timeout_s)
        try:
            send(self._channel, {"do": verb, **settings})
            received = receive(self._channel)
        except TimeoutError as error:
            self._process.kill()
            raise OmewdError("timeout", f"it hangs: no answer to {verb} in {timeout_s:.0f} s") from error
        except ConnectionError:
            received = None
        if received is None:
            status = self._process.wait()
            how = signal.Signals(-status).name if status < 0 else f"status {status}"
            raise OmewdError("camera_died", f"the process that handed frames over ended with {how}")
        reply, _ = received
        if "error" in reply:
            raise OmewdError.from_dict(reply["error"])
        result: dict[str, Any] = reply["ok"]
        return result

    def close(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()
