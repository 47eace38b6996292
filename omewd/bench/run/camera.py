"""The benchmark's end of a feeder process."""

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
    """A process that makes frames and hands them over; see :mod:`omewd.bench.run.feeder`."""

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

    def fileno(self) -> int:
        """What is readable once there is an answer."""
        return self._channel.fileno()

    def tell(self, verb: str, **settings: Any) -> None:
        """Ask for something without waiting for the answer; if the process has ended, the answer says so."""
        with contextlib.suppress(ConnectionError):
            send(self._channel, {"do": verb, **settings})

    def answer(self, verb: str, timeout_s: float) -> dict[str, Any]:
        """Wait for the answer; raises OmewdError: the process's own, ``camera_died`` or ``timeout``."""
        self._channel.settimeout(timeout_s)
        try:
            received = receive(self._channel)
        except TimeoutError as error:
            raise self.hangs(verb, timeout_s) from error
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

    def hangs(self, verb: str, timeout_s: float) -> OmewdError:
        """End the process, which has not answered; the error to raise."""
        self._process.kill()
        return OmewdError("timeout", f"it hangs: no answer to {verb} in {timeout_s:.0f} s")

    def _ask(self, verb: str, timeout_s: float, **settings: Any) -> dict[str, Any]:
        self.tell(verb, **settings)
        return self.answer(verb, timeout_s)

    def close(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()


def feed(cameras: Sequence[Camera], appends: Sequence[str], timeout_s: float, **settings: Any) -> list[dict[str, Any]]:
    """Have all hand their frames over at once, each with its own file of ``appends``; wait until all are done.

    Raises the OmewdError of the first that fails; the others may still be at it then, and are for the caller to end.
    """
    deadline = time.monotonic() + timeout_s
    for camera, path in zip(cameras, appends, strict=True):
        camera.tell("feed", appends=path, **settings)
    answers: dict[Camera, dict[str, Any]] = {}
    while waiting := [camera for camera in cameras if camera not in answers]:
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise waiting[0].hangs("feed", timeout_s)
        answers |= {camera: camera.answer("feed", timeout_s) for camera in ready}
    return [answers[camera] for camera in cameras]
