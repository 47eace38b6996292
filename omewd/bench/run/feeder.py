"""The camera process of a benchmark: makes frames, hands them over as fast as they are taken, and times it.

A feeder of omewd is a producer process; a feeder of a library has the library in it. It takes these messages (see
:mod:`omewd.protocol.messages`) and answers each with ``{"ok": …}`` or ``{"error": …}``::

    {"do": "prepare", "shape", "dtype", "data", "frames"}                 make the frames
    {"do": "open", "kind", "spec", "folder", "socket"}                    open a dataset
    {"do": "feed", "frames", "fps", "sync", "appends"}                    hand the frames over, complete the dataset

Usage: python -m omewd.bench.run.feeder CHANNEL
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from omewd.bench.run.frames import Frames, make_pool
from omewd.bench.run.processes import own_bytes
from omewd.bench.run.targets import Target, open_target, sync_tree
from omewd.errors import OmewdError
from omewd.model.spec.spec import StreamSpec
from omewd.process.profiling import profiled
from omewd.protocol.messages import Message, receive, send

_COPIES = 500
_COPIES_BYTES = 256 << 20


class Feeder:
    """Serves one benchmark."""

    def __init__(self) -> None:
        self._pool: Frames = np.empty((0, 0, 0))
        self._target: Target | None = None
        self._folder = Path()

    def handle(self, message: Message) -> Any:
        match message["do"]:
            case "prepare":
                return self._prepare(message)
            case "open":
                return self._open(message)
            case "feed":
                return self._feed(message)

    def _prepare(self, message: Message) -> Any:
        """Make the frames; answers the time to copy one, and the memory of this process with nothing else in it."""
        shape = (message["shape"][0], message["shape"][1])
        self._pool = make_pool(shape, message["dtype"], message["data"], message["frames"])
        times = _copy_times(self._pool)
        return {"memcpy_ns": int(np.median(times)), "own_bytes": own_bytes(os.getpid())}

    def _open(self, message: Message) -> Any:
        spec = StreamSpec.model_validate(message["spec"])
        self._folder = Path(message["folder"])
        began = time.perf_counter()
        self._target = open_target(message["kind"], spec, self._folder, message["socket"])
        return {"create_s": time.perf_counter() - began}

    def _feed(self, message: Message) -> Any:
        """Hand over all frames, complete the dataset, and with ``sync`` fsync its files.

        Answers with times in seconds of CLOCK_MONOTONIC, which is the same in all processes.
        """
        target, self._target = self._target, None
        assert target is not None
        frames, pool = message["frames"], self._pool
        seconds_a_frame = 1 / message["fps"] if message["fps"] else 0.0
        appends_ns = np.ones(frames, np.int64)  # ones, so that its pages are touched beforehand
        with profiled("producer"):
            began = time.perf_counter()
            for index in range(frames):
                if seconds_a_frame:
                    time.sleep(max(0.0, began + index * seconds_a_frame - time.perf_counter()))
                before = time.perf_counter_ns()
                target.append(pool[index % len(pool)])
                appends_ns[index] = time.perf_counter_ns() - before
            target.close()
            closed = time.perf_counter()
            if message["sync"]:
                sync_tree(self._folder)
            done = time.perf_counter()
        np.save(message["appends"], appends_ns)
        return {"began_s": began, "closed_s": closed, "done_s": done}


def _copy_times(frames: Frames) -> list[int]:
    """The nanoseconds of copies of a frame, each to another place, so that like a ring the target is not cached."""
    places = np.ones((max(min(_COPIES_BYTES // frames[0].nbytes, _COPIES), 1), *frames[0].shape), frames.dtype)
    times = []
    for number in range(_COPIES):
        began = time.perf_counter_ns()
        places[number % len(places)] = frames[number % len(frames)]
        times.append(time.perf_counter_ns() - began)
    return times


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    feeder = Feeder()
    while (received := receive(channel)) is not None:
        try:
            reply = {"ok": feeder.handle(received[0])}
        except OmewdError as error:
            reply = {"error": error.to_dict()}
        except Exception as error:  # noqa: BLE001  libraries may raise anything, which is a result, too
            text = " ".join(str(error).split())[:2000]
            reply = {"error": OmewdError("backend_error", f"{type(error).__name__}: {text}").to_dict()}
        with contextlib.suppress(BrokenPipeError):
            send(channel, reply)
    os._exit(0)  # a library that failed may hang in its clean-up


if __name__ == "__main__":
    main()
