"""The benchmark's handle of a feeder process."""

from __future__ import annotations

import select
import time
from collections.abc import Mapping, Sequence
from typing import Any

from omewd.bench.run.child import Child


class Camera(Child):
    """A process that makes frames and hands them over. See :mod:`omewd.bench.run.feeder`."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        super().__init__("omewd.bench.run.feeder", "camera", environment)
        self.prepared: dict[str, Any] = {}  # the settings of the frames, and the process's own memory with them

    def prepare(self, **settings: Any) -> None:
        """Let the process make its frames."""
        self.prepared = {**self.ask("prepare", **settings), "for": settings}

    def open(self, **settings: Any) -> dict[str, Any]:
        """Open a dataset; answers how many seconds it took to create it and to connect to it."""
        return self.ask("open", **settings)


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
