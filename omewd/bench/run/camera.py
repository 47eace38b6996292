"""The benchmark's handle of a feeder process."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from omewd.bench.run.tied import command
from omewd.errors import OmewdError
from omewd.protocol.messages import receive, send

# Importing a library and making the frames takes seconds.
_SET_UP_TIMEOUT_S = 300.0


class Camera:
    """A process that makes frames and hands them over. See :mod:`omewd.bench.run.feeder`."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                command(os.getpid(), "omewd.bench.run.feeder", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self.prepared: dict[str, Any] = {}  # the settings of the frames, and the time to copy one

    @property
    def pid(self) -> int:
        return self._process.pid

    def prepare(self, **settings: Any) -> None:
        """Let the process make its frames."""
        self.prepared = {**self._ask("prepare", _SET_UP_TIMEOUT_S, **settings), "for": settings}

    def open(self, **settings: Any) -> dict[str, Any]:
        """Open a dataset."""
        return self._ask("open", _SET_UP_TIMEOUT_S, **settings)

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is an answer."""
        return self._channel.fileno()

    def tell(self, verb: str, **settings: Any) -> None:
        """Send a request without waiting for the answer. If the process has ended, :meth:`answer` reports it."""
        with contextlib.suppress(ConnectionError):
            send(self._channel, {"do": verb, **settings})

    def answer(self, verb: str, timeout_s: float) -> dict[str, Any]:
        """Wait for the answer; raises the OmewdError of the process, or ``camera_died`` or ``timeout``."""
        self._channel.settimeout(timeout_s)
        try:
            received = receive(self._channel)
        except TimeoutError as error:
            raise self.kill_hung(verb, timeout_s) from error
        except ConnectionError:
            received = None
        if received is None:
            status = self._process.wait()
            how = signal.Signals(-status).name if status < 0 else f"status {status}"
            raise OmewdError("camera_died", f"the camera process ended with {how}")
        reply, _ = received
        if "error" in reply:
            raise OmewdError.from_dict(reply["error"])
        result: dict[str, Any] = reply["ok"]
        return result

    def kill_hung(self, verb: str, timeout_s: float) -> OmewdError:
        """Kill the process because it has not answered; returns the error to raise."""
        self._process.kill()
        return OmewdError("timeout", f"the camera process hangs: no answer to {verb} within {timeout_s:.0f} s")

    def _ask(self, verb: str, timeout_s: float, **settings: Any) -> dict[str, Any]:
        self.tell(verb, **settings)
        return self.answer(verb, timeout_s)

    def close(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()


def feed(cameras: Sequence[Camera], appends: Sequence[str], timeout_s: float, **settings: Any) -> list[dict[str, Any]]:
    """Let all cameras hand their frames over at once, each with its file of ``appends``, and wait until all are done.

    Raises the OmewdError of the first camera that fails. The others may still be running; the caller ends them.
    """
    deadline = time.monotonic() + timeout_s
    for camera, path in zip(cameras, appends, strict=True):
        camera.tell("feed", appends=path, **settings)
    answers: dict[Camera, dict[str, Any]] = {}
    while waiting := [camera for camera in cameras if camera not in answers]:
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise waiting[0].kill_hung("feed", timeout_s)
        answers |= {camera: camera.answer("feed", timeout_s) for camera in ready}
    return [answers[camera] for camera in cameras]
